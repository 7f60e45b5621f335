"""Files of recorded events, by the ending of their name: numpy's own, and two formats that tonic reads."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from d2e.ir import D2EError, MissingError, UsageError
from d2e.ir.nodes import Array

Reader = Callable[[str], Any]
"""Path of a file -> its events: a structured array, or arrays by name."""


def read(path: Path, reader: Reader | None = None) -> Array | Mapping[str, Array]:
    """The events of a file, unchecked.

    Args:
        path: ``.npy`` or ``.npz`` with a structured array or an array per column (t, x, y, p), ``.bin`` (N-MNIST,
            N-Caltech101), ``.aedat4`` (iniVation DV); anything with a reader of its own.
        reader: reads the file in place of what its ending says.

    Raises:
        UsageError: D2E-EVT-004 for a file that cannot be read, or of an unknown ending.
        MissingError: D2E-EVT-009 where tonic, or what it needs for a format, is not installed.
    """
    chosen = reader or READERS.get(path.suffix)
    if chosen is None:
        raise UsageError("D2E-EVT-004", f"events {path}: d2e knows no files {path.suffix or 'without an ending'}",
                         hint=f"It reads {', '.join(READERS)}; give a reader for others.")
    try:
        with path.open("rb"):
            found: Array | Mapping[str, Array] = chosen(os.fspath(path))
        return found
    except D2EError:
        raise
    except OSError as error:
        raise UsageError("D2E-EVT-004", f"events {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise UsageError("D2E-EVT-004", f"events {path} cannot be read: {str(error) or type(error).__name__}") from error


def _numpy(path: str) -> Array | Mapping[str, Array]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    if not arrays:
        raise ValueError("it holds no array")
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _mnist(path: str) -> Array:
    size = Path(path).stat().st_size
    if size % 5:
        raise ValueError(f"it has {size} bytes, not 5 per event")
    found: Array = tonic("io").read_mnist_file(path, dtype=np.dtype([(name, "<i8") for name in "xytp"]))
    return found


def _aedat4(path: str) -> Array:
    if find_spec("aedat") is None:
        raise MissingError("D2E-EVT-009", "aedat, with which tonic reads .aedat4, is not installed",
                           hint="pip install 'd2e[events]'.")
    found: Array = tonic("io").read_aedat4(path)
    return found


def tonic(module: str) -> types.ModuleType:
    """A module of tonic.

    Raises:
        MissingError: D2E-EVT-009.
    """
    try:
        return import_module(f"tonic.{module}")
    except ImportError as error:
        raise MissingError("D2E-EVT-009", f"tonic cannot be imported: {error}", hint="pip install 'd2e[events]'.") from None


READERS: dict[str, Reader] = {".npy": _numpy, ".npz": _numpy, ".bin": _mnist, ".aedat4": _aedat4}

"""Opening ``.pt`` files without running what is in them.

A ``.pt`` is a pickle, and a pickle can call anything. So only layers of torch.nn and d2e.nn are rebuilt, by
torch's restricted unpickler; the first other class is named and refused, unless the user allows the file.
"""

from __future__ import annotations

import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from d2e.compiler.nn import Recurrent, Residual, SelfAttention, Sequential, SumPool2d, TimeFolded
from d2e.compiler.nn.neurons import NEURONS
from d2e.ir.errors import UsageError

_FILES = (
    "activation", "batchnorm", "container", "conv", "dropout", "flatten", "instancenorm", "linear",
    "normalization", "padding", "pooling", "transformer", "upsampling",
)
_PARTS = (nn.modules.linear.NonDynamicallyQuantizableLinear, functional.relu, functional.gelu, functional.silu)
"""What layers of torch.nn hold: attention its last layer, a transformer's layer its activation."""
_HEAD = {"zip": b"PK\x03\x04", "pickle": b"\x80"}


def allowed_classes() -> list[Any]:
    """Classes a ``.pt`` may hold: layers of torch.nn (what cannot compile is then named) and d2e.nn."""
    layers = [
        cls for cls in vars(nn).values()
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ in _paths()
    ]
    return [*layers, *_PARTS, *NEURONS, Recurrent, Residual, SelfAttention, Sequential, SumPool2d, TimeFolded]


def _paths() -> set[str]:
    return {f"torch.nn.modules.{name}" for name in _FILES}


def checked_path(path: Path) -> Path:
    """The path, if it is a file with something in it.

    Raises:
        UsageError: D2E-LOAD-001 missing, -002 a folder, -003 empty; D2E-FILE-002 where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except IsADirectoryError:
        folder = f"{path} is a folder, not a model file"
        raise UsageError("D2E-LOAD-002", folder, hint="Name the file in it.") from None
    except FileNotFoundError:
        raise UsageError("D2E-LOAD-001", f"there is no file {path}", hint="Check the path.") from None
    except OSError as error:
        raise UsageError("D2E-FILE-002", f"cannot read {path}: {error.strerror}", hint="Check the path.") from None
    if empty:
        raise UsageError("D2E-LOAD-003", f"{path} is empty", hint="Save the model again.")
    return path


def load_pickle(path: Path, allow_pickle: bool) -> Any:
    """What ``torch.save`` wrote.

    Raises:
        UsageError: D2E-LOAD-004 not a torch file, -005 damaged or cut short, -006 a class that is not
            allowed, -009 TorchScript, -015 a class that cannot be imported.
    """
    _check_format(path)
    if allow_pickle:
        return _load_anything(path)
    try:
        with torch.serialization.safe_globals(allowed_classes()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except Exception as error:
        raise _damaged(path, error) from None


def _check_format(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4)
    if head == _HEAD["zip"]:
        if not zipfile.is_zipfile(path):
            raise UsageError("D2E-LOAD-005", f"{path} is cut short", hint="Copy or save the file again.")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
            raise UsageError(
                "D2E-LOAD-009", f"{path} is a TorchScript archive, which hides the layers",
                hint="Save the module itself (d2e.nn.save), or a .pt2 file (torch.export.save).",
            )
    elif not head.startswith(_HEAD["pickle"]):
        raise UsageError(
            "D2E-LOAD-004", f"{path} is not a file that torch.save wrote",
            hint="Save the model with d2e.nn.save or torch.save.",
        )


def _load_anything(path: Path) -> Any:
    try:
        with importable_folder(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            "D2E-LOAD-015", f"{path} needs a class that cannot be imported here: {error}",
            hint="Run in the folder of its source, or name a factory: pkg.module:factory.",
        ) from None
    except Exception as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        "D2E-LOAD-005", f"{path} is damaged or cut short ({type(error).__name__})",
        hint="Copy or save the file again.",
    )


def _refused(path: Path, message: str) -> UsageError:
    found = re.search(r"GLOBAL (\S+) (?:was not|whose module)", message)
    what = f"the class or function {found[1]}" if found else "a pickle that does more than rebuild layers"
    return UsageError(
        "D2E-LOAD-006", f"{path} holds {what}, which was not loaded: a pickle can run any code",
        hint="If you trust its maker, add --allow-pickle; safer is a factory in source (pkg.module:factory).",
    )


@contextmanager
def importable_folder() -> Iterator[None]:
    """Make the current folder importable for a while."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")

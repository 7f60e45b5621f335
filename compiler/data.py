"""Data sets as files: frames and labels for calibration and evaluation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from d2e.ir import Network, UsageError, reference
from d2e.ir.encoding import REAL
from d2e.ir.frames import is_image, spread
from d2e.ir.nodes import Array


@dataclass(frozen=True)
class Data:
    """Samples.

    Attributes:
        frames: [n, time, *input shape], or images [n, *input shape] for a network that takes real values.
        labels: [n] class indices, or None.
    """

    frames: Array
    labels: Array | None = None

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def head(self, count: int | None) -> Data:
        """The first samples."""
        if count is None or count >= len(self):
            return self
        return Data(self.frames[:count], None if self.labels is None else self.labels[:count])

    @property
    def fingerprint(self) -> str:
        """Tells whether two data sets are the same, images shown at every step being the images."""
        frames = self.frames[:, 0] if self.frames.ndim > 1 and self.frames.strides[1] == 0 else self.frames
        found = hashlib.sha256(np.ascontiguousarray(frames, np.float32).tobytes())
        if self.labels is not None:
            found.update(self.labels.astype(np.int64).tobytes())
        return found.hexdigest()


Source: TypeAlias = "str | os.PathLike[str] | Data | tuple[Any, Any] | Array"


def load(source: Source, what: str = "data") -> Data:
    """Frames and labels of a file or of arrays.

    Args:
        source: a ``.npz`` with ``x`` (frames) and, for accuracy, ``y`` (labels); a ``.npy`` of frames; or (x, y) or x
            as arrays.
        what: names it in messages.

    Raises:
        UsageError: D2E-DATA-001 for a file that cannot be read, -002 for missing arrays, -003 for labels that do
            not fit.
    """
    if isinstance(source, Data):
        return source
    if isinstance(source, tuple):
        if len(source) != 2:
            raise UsageError("D2E-DATA-002", f"{what} is a tuple of {len(source)}, not of frames and labels",
                             hint="Give (x, y), or x alone.")
        return _checked(np.asarray(source[0]), np.asarray(source[1]), what)
    if not isinstance(source, (str, os.PathLike)):
        return _checked(np.asarray(source), None, what)
    path = Path(source)
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except OSError as error:
        raise UsageError("D2E-DATA-001", f"{what} {path} cannot be read: {error.strerror or error}") from None
    except Exception:
        raise UsageError("D2E-DATA-001", f"{what} {path} is no whole .npz or .npy file",
                         hint="Save it with numpy.savez(x=frames, y=labels).") from None
    if "x" not in arrays:
        raise UsageError("D2E-DATA-002", f"{what} {path} has no array 'x' (it has {_listed(arrays)})",
                         hint="Save it with numpy.savez(x=frames, y=labels).")
    return _checked(arrays["x"], arrays.get("y"), f"{what} {path}")


def _listed(names: Iterable[str]) -> str:
    """A few names as text."""
    first = list(names)
    return (", ".join(first[:4]) + (", …" if len(first) > 4 else "")) or "none"


def _checked(frames: Array, labels: Array | None, what: str) -> Data:
    if frames.dtype.kind not in "iubf":
        raise UsageError("D2E-DATA-002", f"the frames of {what} are {frames.dtype}, not numbers")
    if frames.ndim == 0 or not len(frames):
        raise UsageError("D2E-DATA-002", f"{what} holds no samples")
    if labels is not None and (labels.shape != frames.shape[:1] or labels.dtype.kind not in "iu"):
        raise UsageError("D2E-DATA-003", f"the labels of {what} are {labels.dtype}{list(labels.shape)}, "
                         f"one integer for each of {len(frames)} samples is needed")
    return Data(frames, labels)


def fit(data: Data, network: Network, what: str = "data") -> Data:
    """The data, checked against a network's input (and its number of steps, where it states one).

    Images get their time axis. Values that an encoder turns into payloads stay real, as every network takes them: a data
    set holds what the model was trained on, so where it takes real values integers are such values too.

    Raises:
        UsageError: D2E-INPUT-001..003, D2E-ENC-001, -003 and -010, D2E-DATA-003 for labels beyond the outputs, D2E-DATA-004
            for other steps.
    """
    real = _real(network, data.frames)
    if real is None and network.input.encoder is not None and network.input.encoder.latch:
        raise UsageError("D2E-ENC-010", f"{what} holds integers over time, which may be latched already or not",
                         hint="Give the real values, which the encoder latches.")
    frames = spread(network, real if real is not None else data.frames)
    checked = reference.check_frames(network, frames)
    frames = checked if real is None else frames
    steps = network.input.time_steps
    if steps is not None and frames.shape[1] != steps:
        raise UsageError("D2E-DATA-004", f"{what} has {frames.shape[1]} steps per sample, the model {steps}",
                         hint="Give --time-steps.")
    classes = int(np.prod(network.output.shape))
    if data.labels is not None and (data.labels.min() < 0 or data.labels.max() >= classes):
        raise UsageError("D2E-DATA-003", f"the labels of {what} reach from {data.labels.min()} to {data.labels.max()}, "
                         f"the network has {classes} outputs", hint="Labels are class indices from 0.")
    return Data(frames, data.labels)


def _real(network: Network, frames: Array) -> Array | None:
    """The frames as real values; None where the network takes them as payloads."""
    source = network.input
    encoder = source.encoder
    by_value = source.coding == "direct" or (encoder is not None and encoder.kind in REAL)
    if not by_value and not is_image(source, frames) and (encoder is None or frames.dtype.kind != "f"):
        return None
    return frames if frames.dtype.kind == "f" else frames.astype(np.result_type(frames, np.float32))

"""Recordings of event cameras as data sets of frames: from files, folders, arrays and tonic's data sets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler.data import Data
from d2e.compiler.events import files
from d2e.compiler.events.address import Shape, check_options, frames_of, whole
from d2e.compiler.files import write_whole
from d2e.ir import UsageError
from d2e.ir.nodes import Array

Label: TypeAlias = "int | str | None"
Item: TypeAlias = tuple[str, Any, Label]
"""How messages call a recording, its events, its label."""


@dataclass(frozen=True)
class _Source:
    """``count`` recordings, of which ``get`` reads one; ``classes`` are the names of all of them, where they are known."""

    count: int
    get: Callable[[int], Item]
    classes: Sequence[str] | None = None


@dataclass(frozen=True)
class Recordings(Data):
    """Samples made of recordings.

    Attributes:
        frames: counts [n, time, *shape], uint8 where they fit, else uint16.
        labels: [n] class indices, or None.
        classes: their names, where the source has names.
        events: in all recordings that were read.
        left_out: share of the events outside all time steps.
        clipped: share of the events beyond max_payload.
    """

    classes: tuple[str, ...] = ()
    events: int = 0
    left_out: float = 0.0
    clipped: float = 0.0

    def text(self) -> str:
        """One line for a screen."""
        kinds = f" of {len(self.classes)} classes" if self.classes else ""
        return (f"{len(self):,} recordings{kinds}, {self.events:,} events, {100 * self.left_out:.2g} % outside the "
                f"time steps, {100 * self.clipped:.2g} % beyond the largest payload")


def load(
    source: Any, *, shape: Shape, time_steps: int, step_us: int | None = None, start: int | None = None,
    downsample: int = 1, max_payload: int = 255, samples: int | None = None, classes: Sequence[str] | None = None,
    reader: files.Reader | None = None,
) -> Recordings:
    """Frames of recorded events.

    Args:
        source: a file (see `d2e.compiler.events.files.read`); a folder of files; a folder with a sub-folder of files per
            class; events as a structured array or as arrays by name; or a data set: any object with ``len`` and indices
            that gives events or (events, label), such as those of tonic and lists. Its ``sensor_size`` (width, height,
            polarities), where it has one and no transform, must be ``shape`` times ``downsample``.
        shape: (polarities, height, width) of the network's input: 2 polarities, OFF (0) then ON (1), or 1, both of them.
        time_steps: of the network.
        step_us, start, downsample: how time and pixels are cut, see `d2e.compiler.events.frames_of`.
        max_payload: largest count of the network's input, 1 to 65535; more events of a pixel in a step are lost.
        samples: at most so many recordings, evenly spread over the source.
        classes: names of the classes in the order of their labels, those of the training data for instance. Unless
            stated they are the names there are, sorted, as numbers where all are.
        reader: path -> events, for files of other formats.

    Raises:
        UsageError: D2E-EVT-003 for a source that is none of these, or labels of different kinds; -004 for a file that
            cannot be read; -005 to -007 for its events; -008 for an option out of range; -010 where there is nothing.
        MissingError: D2E-EVT-009 for a format that needs tonic, which is not installed.
    """
    check_options(shape, time_steps, step_us, start, downsample)
    for name, value, most in (("max_payload", max_payload, 65535), ("samples", 1 if samples is None else samples, math.inf)):
        if not whole(value) or value > most:
            raise UsageError("D2E-EVT-008", f"{name} is {value!r}, not a whole number from 1 to {most}")
    found = _source(source, shape, downsample, reader)
    if not found.count:
        raise UsageError("D2E-EVT-010", f"there are no recordings in {source}")
    chosen = min(samples or found.count, found.count)
    frames, labels = [], []
    total = within = kept = 0
    for i in range(chosen):
        what, events, label = found.get(i * found.count // chosen)
        counts = frames_of(events, shape, time_steps, step_us=step_us, start=start, downsample=downsample, what=what)
        clipped = np.minimum(counts, max_payload).astype(np.uint8 if max_payload <= 255 else np.uint16)
        total, within, kept = total + _length(events), within + int(counts.sum()), kept + int(clipped.sum(dtype=np.int64))
        frames.append(clipped)
        labels.append(label)
    if not within:
        raise UsageError("D2E-EVT-006", f"none of {total} events is in the time steps, from {start} on",
                         hint="Leave start out to begin each recording with its first event.")
    numbers, names = _numbered(labels, classes or found.classes, complete=chosen == found.count)
    made = data_sets.load(np.stack(frames) if numbers is None else (np.stack(frames), numbers), "recordings")
    return Recordings(made.frames, made.labels, names, total, 1 - within / total, (within - kept) / total)


def save(path: str | os.PathLike[str], data: Data | tuple[Array, Array] | Array) -> None:
    """A data set of frames as ``.npz`` with x and, where there are labels, y, as ``--calibration`` and ``--eval`` take it.

    Raises:
        UsageError: D2E-FILE-011 where the file cannot be written, D2E-DATA-002 and -003 for what is no data set.
    """
    checked = data_sets.load(data, "data")
    write_whole(Path(path), {"x": checked.frames} | ({} if checked.labels is None else {"y": checked.labels}))


def _length(events: Any) -> int:
    return len(next(iter(events.values()))) if isinstance(events, Mapping) else len(events)


# --------------------------------------------------------------------------- sources


def _source(source: Any, shape: Shape, downsample: int, reader: files.Reader | None) -> _Source:
    if isinstance(source, str | os.PathLike):
        return _files(Path(source), reader)
    if _are_events(source):
        return _Source(1, lambda _: ("the events", source, None))
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        _check_sensor(source, shape, downsample)
        return _Source(len(source), lambda i: _sample(source, i))
    raise UsageError("D2E-EVT-003", f"a {type(source).__name__} is no source of recordings",
                     hint="Give a file, a folder, arrays t, x, y and p, or a data set with len and indices.")


def _files(path: Path, reader: files.Reader | None) -> _Source:
    def within(folder: Path, folders: bool) -> list[Path]:
        return sorted(p for p in folder.iterdir() if p.is_dir() == folders and not p.name.startswith("."))

    classes = _in_order({p.name for p in within(path, True)}) if path.is_dir() else []
    folders = [path / name for name in classes] or [path]
    found = [file for folder in folders for file in within(folder, False)] if path.is_dir() else [path]

    def get(i: int) -> Item:
        return f"the events of {found[i]}", files.read(found[i], reader), found[i].parent.name if classes else None

    return _Source(len(found), get, classes)


def _are_events(source: Any) -> bool:
    return isinstance(source, Mapping) or (isinstance(source, np.ndarray) and source.dtype.names is not None)


def _sample(source: Any, index: int) -> Item:
    """One of a data set's samples."""
    item = source[index]
    pair = isinstance(item, tuple) and len(item) == 2
    events, label = item if pair else (item, None)
    if isinstance(label, np.ndarray | np.generic) and np.ndim(label) == 0:
        label = label.item()
    if not _are_events(events) or not isinstance(label, int | str | None):
        raise UsageError("D2E-EVT-003", f"sample {index} of the data set is {_kind(events)} with label {_kind(label)}, not "
                         "events with columns t, x, y and p, and an integer or a name",
                         hint="Leave transforms to frames out.")
    return f"the events of sample {index}", events, label


def _kind(found: Any) -> str:
    return f"{found.dtype}{list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__


def _check_sensor(source: Any, shape: Shape, downsample: int) -> None:
    size = getattr(source, "sensor_size", None)
    if size is None or any(getattr(source, name, None) is not None for name in ("transform", "transforms")):
        return
    width, height, _ = size
    rows, columns = -(-height // downsample), -(-width // downsample)
    if (rows, columns) != tuple(shape[1:]):
        raise UsageError("D2E-EVT-008", f"the sensor has {height} rows and {width} columns, which a factor of {downsample} "
                         f"makes {rows} x {columns}, not {shape[1]} x {shape[2]}",
                         hint="Give another shape, or another downsample.")


# --------------------------------------------------------------------------- labels


def _numbered(labels: list[Label], classes: Sequence[str] | None, complete: bool) -> tuple[Array | None, tuple[str, ...]]:
    """Class indices of labels, and the names they stand for.

    Raises:
        UsageError: D2E-EVT-003 for labels of several kinds, for names of which not all are known.
    """
    kinds = {type(label) for label in labels}
    if kinds == {type(None)}:
        return None, ()
    if kinds == {int}:
        return np.asarray(labels, np.int64), tuple(classes or ())
    if kinds != {str}:
        mixed = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError("D2E-EVT-003", f"the labels are of the kinds {mixed}, not all numbers or all names")
    found = {str(label) for label in labels}
    if not classes and not complete:
        raise UsageError("D2E-EVT-003", "a part of the recordings does not tell all classes",
                         hint="Give their names: classes.")
    names = tuple(classes or _in_order(found))
    others = sorted(found - set(names))
    if others:
        raise UsageError("D2E-EVT-003", f"the classes {', '.join(others)} are not among {', '.join(names)}")
    return np.asarray([names.index(str(label)) for label in labels], np.int64), names


def _in_order(names: set[str]) -> list[str]:
    """Sorted, as numbers where all are."""
    return sorted(names, key=lambda name: (int(name), name) if all(map(str.isdecimal, names)) else (0, name))

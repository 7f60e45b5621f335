"""Address events of recordings: arrays and files with t, x, y, p columns, read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from d2e.backends.speck.events import Events
from d2e.backends.speck.layer import Space
from d2e.ir import UsageError
from d2e.ir.nodes import Array

COLUMNS = {"timestamp": ("t", "timestamp", "ts"), "y": ("y",), "x": ("x",), "feature": ("p", "polarity", "feature")}
"""What each column may be called."""


def read(path: str | os.PathLike[str], space: Space) -> Events:
    """The events of a file: ``.npy`` with a structured array, or ``.npz`` with one, or with an array per column.

    Args:
        path: of the file.
        space: (features, height, width) of the input.

    Raises:
        UsageError: D2E-DATA-001 for a file that cannot be read, and as `from_array`.
    """
    try:
        with Path(path).open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise UsageError("D2E-DATA-001", f"events {path} cannot be read: {error.strerror or error}") from None
    except Exception:
        raise UsageError("D2E-DATA-001", f"events {path} are no whole .npz or .npy file",
                         hint="Save a structured array with numpy.save.") from None
    return from_array(next(iter(arrays.values())) if len(arrays) == 1 else arrays, space)


def from_array(array: Array | Mapping[str, Array], space: Space) -> Events:
    """Events from named columns, as tonic and most recordings have them.

    Args:
        array: a structured array, or arrays by name, in any order: ``t`` (microseconds), ``x``, ``y``, and ``p``, the
            feature (of a camera: 0 or 1, or -1 or 1). For an input of one feature ``p`` is not looked at.
        space: (features, height, width) of the input.

    Raises:
        UsageError: D2E-SPECK-062 for columns that are missing or no integers, and as `check`.
    """
    columns = dict(array) if isinstance(array, Mapping) else {name: array[name] for name in array.dtype.names or ()}
    if space[0] == 1 and "timestamp" in _named(columns):
        columns = {**columns, "p": np.zeros(len(_named(columns)["timestamp"]), np.int64)}
    found = _named(columns)
    missing = [names[0] for column, names in COLUMNS.items() if column not in found]
    if missing:
        raise UsageError("D2E-SPECK-062", f"the events have no column {', '.join(missing)} (they have "
                         f"{', '.join(columns) or 'none'})", hint="Name the columns t, x, y and p.")
    for name, column in found.items():
        if column.dtype.kind not in "iub" or column.ndim != 1 or len(column) != len(found["timestamp"]):
            raise UsageError("D2E-SPECK-062", f"the column {name} of the events is not one integer per event",
                             hint="Timestamps are whole microseconds.")
    feature = found["feature"].astype(np.int64)
    if space[0] == 2 and len(feature) and feature.min() == -1:
        feature = np.where(feature == -1, 0, feature)
    events = Events(found["timestamp"].astype(np.int64), *(a.astype(np.int32) for a in (feature, found["y"], found["x"])))
    check(events, space)
    return events


def _named(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Our name of a column -> its values."""
    return {
        column: np.asarray(columns[name]) for column, names in COLUMNS.items() for name in names[::-1] if name in columns
    }


def check(events: Events, space: Space) -> None:
    """Raise what keeps events from being sent.

    Args:
        events: to be sent.
        space: (features, height, width) of the input.

    Raises:
        UsageError: D2E-SPECK-063 for timestamps that fall or are negative, -064 for an event outside the input.
    """
    if not len(events):
        return
    falls = np.flatnonzero(np.diff(events.timestamp) < 0)
    if len(falls) or events.timestamp[0] < 0:
        where = f"fall after event {falls[0]}" if len(falls) else f"begin at {events.timestamp[0]}"
        raise UsageError("D2E-SPECK-063", f"the timestamps of the events {where}",
                         hint="Sort the events by time, and count microseconds from their start.")
    for name, values, size in zip(("feature", "y", "x"), (events.feature, events.y, events.x), space, strict=True):
        outside = np.flatnonzero((values < 0) | (values >= size))
        if len(outside):
            raise UsageError(
                "D2E-SPECK-064", f"{len(outside)} of {len(events)} events are outside the input: the first is event "
                f"{outside[0]} with {name} {values[outside[0]]}, which goes from 0 to {size - 1}",
                hint="Crop or scale the recording to the network's input.")

"""Address events, one row (t, x, y, p) each, and frames that count them per time step, polarity and pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from d2e.ir import UsageError
from d2e.ir.nodes import Array

DTYPE = np.dtype([("t", "<i8"), ("x", "<i4"), ("y", "<i4"), ("p", "<i4")])
"""Events as d2e writes them: microseconds, column, row, polarity (0 OFF, 1 ON: also the channel of a frame)."""
NAMES = {"t": ("t", "timestamp", "ts"), "x": ("x",), "y": ("y",), "p": ("p", "polarity", "on")}
"""What each column may be called."""
Shape: TypeAlias = tuple[int, int, int]


def checked(events: Array | Mapping[str, Array], shape: Shape, what: str = "the events") -> Array:
    """Events from named columns as `DTYPE`.

    Args:
        events: a structured array, or arrays by name: t (microseconds), x, y, and p (0 or 1, or -1 or 1).
        shape: (polarities, height, width) of the sensor; with one polarity p is not looked at, and becomes 0.
        what: names them in messages.

    Raises:
        UsageError: D2E-EVT-005 for columns that are missing or no integers, -006 for timestamps that fall, -007 for an
            event outside the sensor or of another polarity.
    """
    given = dict(events) if isinstance(events, Mapping) else {name: events[name] for name in events.dtype.names or ()}
    columns = {name: np.asarray(given[n]) for name, known in NAMES.items() for n in known[::-1] if n in given}
    if shape[0] == 1 and "t" in columns:
        columns["p"] = np.zeros(columns["t"].shape, np.int32)
    missing = [name for name in NAMES if name not in columns]
    if missing:
        raise UsageError("D2E-EVT-005", f"{what} have no column {', '.join(missing)} (they have "
                         f"{', '.join(given) or 'none'})", hint="Name the columns t, x, y and p.")
    for name, column in columns.items():
        if column.dtype.kind not in "iub" or column.ndim != 1 or len(column) != len(columns["t"]):
            raise UsageError("D2E-EVT-005", f"the column {name} of {what} is {column.dtype}{list(column.shape)}, not one "
                             "integer per event", hint="Timestamps are whole microseconds.")
    found = {name: column.astype(np.int64) for name, column in columns.items()}
    if (found["p"] == -1).any():
        found["p"] = np.where(found["p"] == -1, 0, found["p"])
    _check_times(found["t"], what)
    for name, size in zip("pyx", shape, strict=True):
        outside = np.flatnonzero((found[name] < 0) | (found[name] >= size))
        if len(outside):
            raise UsageError("D2E-EVT-007", f"{len(outside)} of {len(found[name])} of {what} are outside {list(shape)}: the "
                             f"first is number {outside[0]} with {name} {found[name][outside[0]]}",
                             hint="Give the sensor's size, or an integer factor to scale it down to the network's.")
    made = np.empty(len(found["t"]), DTYPE)
    for name, column in found.items():
        made[name] = column
    return made


def _check_times(t: Array, what: str) -> None:
    falls = np.flatnonzero(np.diff(t) < 0)
    if len(falls) or (len(t) and t[0] < 0):
        where = f"fall after number {falls[0]}" if len(falls) else f"begin at {t[0]}"
        raise UsageError("D2E-EVT-006", f"the timestamps of {what} {where}", hint="Sort the events by time.")


def frames_of(
    events: Array | Mapping[str, Array], shape: Shape, time_steps: int, *, step_us: int | None = None,
    start: int | None = None, downsample: int = 1, what: str = "the events",
) -> Array:
    """Counts of events per time step, polarity and pixel.

    Step i holds the events with start + i * step_us <= t < start + (i + 1) * step_us. Unless stated, start is the first
    event's t, and step_us is (last t - first t) // time_steps, so that the recording is cut into equal windows: the rule of
    tonic's ToFrame (n_time_bins), which leaves out the last event and fewer than time_steps microseconds before it. With
    step_us what is outside the steps is left out, and steps after the last event are empty.

    Args:
        events: as `checked` takes them.
        shape: (polarities, height, width) of the frames: 2 polarities, OFF then ON, or 1, both of them.
        time_steps: of the frames.
        step_us: microseconds per step.
        start: microseconds at which step 0 begins.
        downsample: each pixel of a frame counts a square of so many by so many pixels of the sensor.
        what: names the events in messages.

    Returns:
        int64 [time_steps, *shape].

    Raises:
        UsageError: D2E-EVT-005 and -007 as `checked`; -006 for timestamps that fall, for a recording without events, or one
            that is too short to be cut; -008 for an option out of range.
    """
    check_options(shape, time_steps, step_us, start, downsample)
    polarities, height, width = shape
    found = checked(events, (polarities, height * downsample, width * downsample), what)
    t = found["t"]
    if not len(t):
        raise UsageError("D2E-EVT-006", f"there is none of {what}")
    window = step_us if step_us is not None else int(t[-1] - t[0]) // time_steps
    if not window:
        raise UsageError("D2E-EVT-006", f"{what} last {t[-1] - t[0]} us, too short to be cut into {time_steps} steps",
                         hint="Timestamps are microseconds; a length of a step may be stated.")
    step = (t - (t[0] if start is None else start)) // window
    within = (step >= 0) & (step < time_steps)
    at = (step, found["p"], found["y"] // downsample, found["x"] // downsample)
    place = np.ravel_multi_index([column[within] for column in at], (time_steps, *shape))
    counts: Array = np.bincount(place, minlength=time_steps * polarities * height * width)
    return counts.reshape(time_steps, *shape)


def check_options(shape: Any, time_steps: Any, step_us: Any, start: Any, downsample: Any) -> None:
    """Raise for what `frames_of` cannot do.

    Raises:
        UsageError: D2E-EVT-008.
    """
    if not isinstance(shape, tuple | list) or len(shape) != 3 or not all(map(whole, shape)) or shape[0] > 2:
        raise UsageError("D2E-EVT-008", f"shape {shape!r} is not (polarities, height, width) with 1 or 2 polarities")
    for name, value in (("time_steps", time_steps), ("step_us", step_us), ("downsample", downsample)):
        if not whole(value) and (name != "step_us" or value is not None):
            raise UsageError("D2E-EVT-008", f"{name} is {value!r}, not a whole number from 1")
    if start is not None and (step_us is None or isinstance(start, bool) or not isinstance(start, int | np.integer)):
        raise UsageError("D2E-EVT-008", f"start is {start!r}: whole microseconds, together with step_us")


def whole(value: object) -> bool:
    """Whether a value is an integer from 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def events_of(frames: Array, step_us: int = 1000) -> Array:
    """The events of one sample's counts, evenly spread over their step, through polarities, rows and columns.

    `frames_of` with the same step_us and start 0 gives the counts back. ``numpy.save`` writes the events for
    ``d2e run --events``. (How a Speck program orders the events of frames that it is given is its own option.)

    Args:
        frames: integers >= 0 [time, polarities, height, width].
        step_us: microseconds per step.

    Returns:
        Structured array `DTYPE`, timestamps from ``i * step_us`` up to below ``(i + 1) * step_us`` in step i.

    Raises:
        UsageError: D2E-EVT-008 for frames that are no counts.
    """
    counts = np.asarray(frames)
    if counts.ndim != 4 or counts.dtype.kind not in "iu" or not counts.size or counts.min() < 0 or not whole(step_us):
        raise UsageError("D2E-EVT-008", f"frames {counts.dtype}{list(counts.shape)} at {step_us!r} us per step are no "
                         "counts [time, polarities, height, width]", hint="Give one sample, and whole microseconds.")
    at = np.nonzero(counts)
    step, p, y, x = (np.repeat(axis, counts[at].astype(np.int64)) for axis in at)
    per_step = np.bincount(step, minlength=len(counts))
    within = np.arange(len(step)) - (np.cumsum(per_step) - per_step)[step]
    made = np.empty(len(step), DTYPE)
    made["t"] = step * step_us + within * step_us // np.maximum(per_step, 1)[step]
    made["x"], made["y"], made["p"] = x, y, p
    return made

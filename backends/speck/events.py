"""Address events: what a camera or a host sends, and frames of counts as such events.

This file imports numpy alone, because the emitted program holds a copy of it: both make the same events of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
STEP_US = 1000
"""Length of a time step in microseconds where the network states none."""


@dataclass(frozen=True, eq=False)
class Events:
    """Events in the order of their arrival, in the coordinates of the network's input.

    Attributes:
        timestamp: int64 [n], microseconds, not falling.
        feature, y, x: int32 [n]; the feature of a camera's event is its polarity.
    """

    timestamp: Array
    feature: Array
    y: Array
    x: Array

    def __len__(self) -> int:
        return len(self.timestamp)


def from_frames(frames: Array, *, step_us: float = STEP_US, order: str = "mixed") -> Events:
    """The events of one sample of counts.

    A count n sends n events within its step. The order inside a step is ours to choose: "mixed" shuffles all events of a
    step by one fixed permutation rule, which is the same for every step and sample; "raster" goes through features, rows and
    columns, an element's events one after the other, as sinabs does. Events are spread evenly over the step.

    Args:
        frames: integers >= 0 [time, features, height, width].
        step_us: microseconds per step, at least 1.
        order: "mixed" or "raster".

    Returns:
        Events with timestamps from ``t * step_us`` up to below ``(t + 1) * step_us``.
    """
    step, feature, y, x = np.unravel_index(np.flatnonzero(frames != 0), frames.shape)  # quicker than np.nonzero
    repeats = frames[step, feature, y, x].astype(np.int64)
    ordinal = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)  # of an element's events
    step, feature, y, x = (np.repeat(a, repeats) for a in (step, feature, y, x))
    if order == "mixed":
        element = np.ravel_multi_index((feature, y, x), frames.shape[1:]).astype(np.uint64)
        sorting = np.argsort(_mixed(element * np.uint64(1 << 20) + ordinal.astype(np.uint64)))
        sorting = sorting[np.argsort(step[sorting], kind="stable")]  # as np.lexsort, in half the time
        step, feature, y, x = (a[sorting] for a in (step, feature, y, x))
    counts = np.bincount(step, minlength=len(frames))
    within = np.arange(len(step)) - np.repeat(np.cumsum(counts) - counts, counts)
    spaced = np.floor(step * step_us + within * (step_us / np.maximum(counts, 1)[step]))
    inside = np.clip(spaced, np.ceil(step * step_us), np.ceil((step + 1) * step_us) - 1)  # whole microseconds of the step
    return Events(inside.astype(np.int64), *(a.astype(np.int32) for a in (feature, y, x)))


def _mixed(z: Array) -> Array:
    """SplitMix64's output function (Steele, Lea, Flood 2014), modulo 2**64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))

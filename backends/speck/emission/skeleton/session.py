"""Samples through a board, and its spikes as arrays of the network: deploy.py and d2e run boards by this one file.

It imports numpy alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Place(NamedTuple):
    """A population on cores.

    Attributes:
        shape: in the network.
        size: (height, width) of a core's map.
        parts: (core, first feature, count, spread): feature ``first + i`` is the core's feature ``i * spread``.
    """

    shape: tuple[int, ...]
    size: tuple[int, int]
    parts: tuple[tuple[int, int, int, int], ...]


def places(config: Mapping[str, Any]) -> dict[str, Place]:
    """The populations of a speck_config.json, as read."""
    layers = config["configuration"]["cnn_layers"]
    found = {}
    for name, raw in config["network"]["populations"].items():
        parts = tuple((p["layer"], p["first"], p["count"], p["spread"]) for p in raw["parts"])
        size = layers[parts[0][0]]["dimensions"]["output_shape"]["size"]
        found[name] = Place(tuple(raw["shape"]), (size["y"], size["x"]), parts)
    return found


def run_samples(
    stream: Callable[[Any], Mapping[int, Any]], populations: Mapping[str, Place], output: str,
    samples: Iterable[tuple[Any, int]], step_us: float, record: str = "counts",
) -> dict[str, Any]:
    """Every sample through an open, configured board.

    A spike counts for the step in which it is seen; what comes after the last step counts for the last one.

    Args:
        stream: of the board: one sample, from rest; monitored core -> its spikes: timestamp (microseconds), feature, y, x.
        populations: those whose cores are monitored, the output among them.
        output: name of the population that is read.
        samples: (what `stream` takes, number of steps), equally many steps each.
        step_us: microseconds per step.
        record: "counts", or "spikes" for every step of every population.

    Returns:
        ``output`` [batch, time, *shape], ``counts/NAME`` [batch, *shape], with record="spikes" ``spikes/NAME``
        [batch, time, *shape]; ``wall_s`` [batch], seconds that the host waited for a sample, its return to rest included;
        ``last_spike_us`` [batch], when the last spike of the output was seen after the sample's start, NaN without one.
    """
    found: dict[str, list[Any]] = {}
    for events, steps in samples:
        begun = time.perf_counter()
        spikes = stream(events)
        found.setdefault("wall_s", []).append(time.perf_counter() - begun)
        last = [spikes[core].timestamp.max() for core, *_ in populations[output].parts if len(spikes[core].timestamp)]
        found.setdefault("last_spike_us", []).append(float(max(last)) if last else np.nan)
        for name, place in populations.items():
            stepped = by_step(place, spikes, step_us, steps)
            found.setdefault(f"counts/{name}", []).append(stepped.sum(axis=0))
            if name == output:
                found.setdefault("output", []).append(stepped)
            if record == "spikes":
                found.setdefault(f"spikes/{name}", []).append(stepped)
    return {key: np.stack(values) for key, values in found.items()}


def by_step(place: Place, spikes: Mapping[int, Any], step_us: float, steps: int) -> Ints:
    """Spikes per step of a population, [steps, *shape]."""
    starts = np.ceil(np.arange(1, steps) * step_us)
    features = sum(count for _, _, count, _ in place.parts)
    counts = np.zeros((steps, features, *place.size), np.int64)
    for core, first, count, spread in place.parts:
        seen = spikes[core]
        feature, between = np.divmod(seen.feature, spread)
        own = (between == 0) & (feature < count)
        step = np.searchsorted(starts, seen.timestamp[own], side="right")
        np.add.at(counts, (step, first + feature[own], seen.y[own], seen.x[own]), 1)
    return counts.reshape(steps, *place.shape)

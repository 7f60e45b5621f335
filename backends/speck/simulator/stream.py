"""Timed events through a configuration: what every core did, and how much of it at most in a moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2e.backends.speck import aer
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.events import Events
from d2e.backends.speck.simulator import kernels
from d2e.backends.speck.simulator.cores import population
from d2e.backends.speck.simulator.plan import Planned
from d2e.ir.nodes import Array


@dataclass(frozen=True, eq=False)
class CoreRun:
    """What one core did.

    Attributes:
        spikes: of every neuron, int32 [features, height, width].
        synops: synaptic operations.
        peak_synops_per_s: the most within a window of input time, per second; which rate a core bears in real time is not
            published, beyond it the chip stalls.
        saturated: updates of a state cut off at 32767.
        dropped: events whose feature or coordinates are outside the core's input.
        events: its spikes in their order, in its own coordinates, with the timestamps of the input events that caused
            them; None where the core is not monitored.
    """

    spikes: Array
    synops: int
    peak_synops_per_s: float
    saturated: int
    dropped: int
    events: Events | None


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a stream of events did.

    Attributes:
        duration_us: of the input.
        cores: core -> what it did.
        counts: population -> spikes per neuron [*shape].
        states: population -> v at the end [*shape].
        synops: population -> synaptic operations.
        output: spikes of the population that is read, in its own features, timed as `CoreRun.events`.
    """

    duration_us: int
    cores: dict[int, CoreRun]
    counts: dict[str, Array]
    states: dict[str, Array]
    synops: dict[str, int]
    output: Events


def stream(
    configuration: Configuration, planned: Planned, events: Events, *, breadth: bool, window_us: int, duration_us: int | None
) -> Streamed:
    """Send timed events, from rest; see `run.Simulator.stream`."""
    aer.check(events, configuration.source.space)
    duration = max(duration_us or 0, int(events.timestamp[-1]) if len(events) else 0)
    outputs = {part.layer for part in configuration.populations[configuration.output].parts}
    heard = outputs | {core for core, layer in configuration.cnn_layers.items() if layer.monitor_enable}
    hz = configuration.slow_clock_hz
    ends = np.array([[len(events)]], np.int64) if hz is None else _segments(events, hz, duration)
    kept = kernels.Record(
        np.empty((1, planned.neurons), np.int32), np.empty((1, 0, 0), np.int32), np.empty((1, 0, 0), np.int16),
        events.timestamp, window_us, np.zeros(len(planned.cores), np.int64),
    )
    work = planned.work(log=4 * len(events))
    inputs = (events.feature, events.y, events.x)
    kernels.run(planned.heard(heard), work, kept, *inputs, ends, hz is not None, breadth)
    spikes = int(work.log_size[kernels.LOGGED])
    if spikes > work.log.shape[1]:
        work = planned.work(log=spikes)
        kernels.run(planned.heard(heard), work, kept, *inputs, ends, hz is not None, breadth)
    cores = _cores(planned, work, kept, {core: _heard(planned, work, core, events) for core in heard}, window_us)
    counts, states = ({core: run.spikes for core, run in cores.items()}, planned.of_cores(work.state))
    names = configuration.populations
    return Streamed(
        duration, cores, {name: population(configuration, name, counts) for name in names},
        {name: population(configuration, name, states) for name in names},
        {name: sum(cores[part.layer].synops for part in placed.parts) for name, placed in names.items()},
        _output(configuration, planned, work, events, outputs),
    )


def _segments(events: Events, hz: float, duration: int) -> Array:
    """Ends of the segments that the edges of the slow clock begin, one at 0 and at every period up to the duration."""
    edges = np.arange(int(duration * hz / 1e6) + 1) * (1e6 / hz)
    return np.append(np.searchsorted(events.timestamp, edges[1:], side="left"), len(events))[None].astype(np.int64)


def _cores(
    planned: Planned, work: kernels.Work, kept: kernels.Record, heard: dict[int, Events], window_us: int
) -> dict[int, CoreRun]:
    spikes = planned.of_cores(kept.counts[0])
    return {
        core: CoreRun(
            np.ascontiguousarray(spikes[core]), int(work.totals[kernels.SYNOPS, i]), float(kept.peaks[i]) * 1e6 / window_us,
            int(work.totals[kernels.SATURATED, i]), int(work.totals[kernels.DROPPED, i]), heard.get(core),
        )
        for i, core in enumerate(planned.cores)
    }


def _heard(planned: Planned, work: kernels.Work, core: int, events: Events) -> Events:
    """The spikes of a core that was heard."""
    return _spikes(planned, work, events, {core})[0]


def _spikes(planned: Planned, work: kernels.Work, events: Events, cores: set[int]) -> tuple[Events, Array]:
    """The logged spikes of some cores in their order, and which of ``planned.cores`` each is of."""
    cause, neuron = work.log[:, : work.log_size[kernels.LOGGED]]
    of = np.searchsorted(planned.starts, neuron, side="right") - 1
    chosen = np.isin(of, [i for i, core in enumerate(planned.cores) if core in cores])
    cause, neuron, of = cause[chosen], neuron[chosen], of[chosen]
    sizes, starts = np.array(planned.spaces), np.array(planned.starts)
    place, feature = np.divmod(neuron - starts[of], sizes[of, 0])
    y, x = np.divmod(place, sizes[of, 2])
    return Events(events.timestamp[cause], *(a.astype(np.int32) for a in (feature, y, x))), of


def _output(
    configuration: Configuration, planned: Planned, work: kernels.Work, events: Events, outputs: set[int]
) -> Events:
    """The spikes of the output's cores, with features of the population."""
    found, of = _spikes(planned, work, events, outputs)
    feature = np.zeros_like(found.feature)
    for part in configuration.populations[configuration.output].parts:
        own = of == planned.cores.index(part.layer)
        feature[own] = part.first + found.feature[own] // part.spread
    return Events(found.timestamp, feature, found.y, found.x)

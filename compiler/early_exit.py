"""Runs in which a sample ends at the step that its network's rule says (`d2e.ir.exit`): what is left of a trace, and how
much needs to run at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from d2e.compiler.notes import warn
from d2e.compiler.target import EventDriven, Target
from d2e.ir import EarlyExit, Network
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

Run = Callable[[Array, Record], Trace]
_AT_ONCE = 1 << 24
"""Spikes recorded at once: only what every step sent says what was sent until a sample exits."""
_FIRST = 32
"""Samples that run to the end first: where they exit says which windows are worth a run for the others."""


def for_target(network: Network, target: Target) -> Network:
    """The network without an early exit, and with a warning, where the target has no steps to exit at."""
    if network.output.exit is None or not isinstance(target, EventDriven):
        return network
    name = network.outputs[0]
    network = network.with_nodes({name: replace(network.output, exit=None)})
    return warn(network, "D2E-EXIT-002", f"{target.name} lives by events, not in steps: the early exit is left out", name)


def at_once(network: Network, steps: int) -> int:
    """How many samples may be run with every spike recorded, for their memory."""
    neurons = sum(math.prod(network.neuron(n).shape) for n in network.populations)
    return max(1, _AT_ONCE // max(1, neurons * steps))


# --------------------------------------------------------------------------- traces


def stop(trace: Trace, steps: Array, readout: str) -> None:
    """Change a trace as if every sample had stopped after so many steps: counts up to there, zeros in what comes after.

    Args:
        trace: of all steps, with spikes.
        steps: [batch], 1 or more.
        readout: of the output, which with "last" stays as it was at the exit.
    """
    for sample in np.flatnonzero(steps < trace.output.shape[1]):
        end = int(steps[sample])
        trace.output[sample, end:] = trace.output[sample, end - 1] if readout == "last" else 0
        for name, n in trace.spikes.items():
            trace.counts[name][sample] -= np.abs(n[sample, end:]).sum(axis=0, dtype=trace.counts[name].dtype)
        for table in (trace.spikes, trace.u, trace.v):
            for array in table.values():
                array[sample, end:] = 0


def _room(part: Trace, batch: int, record: Record) -> Trace:
    """A trace of zeros for so many samples, of the shapes and types of another one."""
    def room(table: dict[str, Array]) -> dict[str, Array]:
        return {name: np.zeros((batch, *array.shape[1:]), array.dtype) for name, array in table.items()}

    spikes = {} if record == "counts" else room(part.spikes)
    return Trace(room({"": part.output})[""], room(part.counts), spikes, room(part.u), room(part.v))


def _put(part: Trace, which: Array, whole: Trace, where: Array, readout: str) -> None:
    """Write some samples of a shorter trace into a longer one."""
    end = part.output.shape[1]
    whole.output[where, :end] = part.output[which]
    if readout == "last":
        whole.output[where, end:] = part.output[which, -1:]
    for name, counts in whole.counts.items():
        counts[where] = part.counts[name][which]
    for table, source in ((whole.spikes, part.spikes), (whole.u, part.u), (whole.v, part.v)):
        for name, array in table.items():
            array[where, :end] = source[name][which]


# --------------------------------------------------------------------------- runs


def to_the_end(rule: EarlyExit, readout: str, run: Run, frames: Array, record: Record) -> tuple[Trace, Array]:
    """One run of all steps, cut where each sample exits: for engines whose every run costs a start.

    Returns:
        The trace, and how many steps each sample ran [batch].
    """
    whole = run(frames, "spikes" if record == "counts" else record)
    steps = rule.steps(whole.output, readout)
    stop(whole, steps, readout)
    return (replace(whole, spikes={}) if record == "counts" else whole), steps


def in_windows(network: Network, run: Run, frames: Array, record: Record) -> tuple[Trace, Array]:
    """The same with less to run: windows that grow, each from rest and of the samples that have not exited before.

    Args:
        network: with a rule.
        run: runs frames [batch, time, *shape] from rest.
        frames: encoded already, for what an encoder sends may hang on the number of steps.
        record: as in the reference.
    """
    rule, readout = network.output.exit, network.output.readout
    assert rule is not None
    batch, steps = frames.shape[:2]
    ran = np.full(batch, steps, np.int64)
    whole: Trace | None = None
    for part in _parts(batch, at_once(network, steps)):
        left = np.arange(part.start, part.stop)
        for end in windows(ran[: part.start], steps):
            trace = run(frames[left, :end], "spikes" if record == "counts" else record)
            exits = rule.certain(trace.output, readout).any(axis=1) | (end == steps)
            ran[left] = rule.steps(trace.output, readout)
            whole = whole or _room(trace, batch, record)
            stop(trace, ran[left], readout)
            _put(trace, exits, whole, left[exits], readout)
            left = left[~exits]
            if not left.size:
                break
    assert whole is not None
    return whole, ran


def _parts(batch: int, most: int) -> Iterator[slice]:
    """Samples that run together: a few first."""
    first = min(batch, most, _FIRST)
    yield slice(0, first)
    for start in range(first, batch, most):
        yield slice(start, min(batch, start + most))


def windows(seen: Array, steps: int) -> list[int]:
    """The ends of windows, the last all ``steps``, that took the fewest steps for the samples seen; none seen: one window.

    A window that ends at w costs w steps for every sample still running after the window before it.
    """
    if not seen.size:
        return [steps]
    running = [float((seen > t).mean()) for t in range(steps + 1)]
    least, before = [0.0], [0]
    for end in range(1, steps + 1):
        costs = [least[start] + end * running[start] for start in range(end)]
        before.append(int(np.argmin(costs)))
        least.append(costs[before[-1]])
    ends = [steps]
    while ends[-1] and before[ends[-1]]:
        ends.append(before[ends[-1]])
    return ends[::-1]

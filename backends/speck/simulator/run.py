"""Run a configuration, event by event: frames in batches, one thread per sample at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.events import STEP_US, Events, from_frames
from d2e.backends.speck.simulator import kernels
from d2e.backends.speck.simulator.cores import population
from d2e.backends.speck.simulator.plan import make_plan
from d2e.backends.speck.simulator.reference import Order
from d2e.backends.speck.simulator.stream import Streamed, stream
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

_CHUNK_BYTES = 1 << 26
"""What a chunk of samples records stays below this."""


class Simulator:
    """A configuration, planned once, run many times; `reference` says what it computes.

    Args:
        configuration: of the chip.
        order: "depth" as the chip, or "breadth".
        events: order of the events within a step of frames, see `d2e.backends.speck.events.from_frames`.

    Raises:
        UnsupportedError: D2E-SPECK-060 for cores that send in a circle, -061 for events sent to no layer.
    """

    def __init__(self, configuration: Configuration, *, order: Order = "depth", events: str = "mixed") -> None:
        self.configuration, self.order, self.events = configuration, order, events
        self.plan = make_plan(configuration)
        self._saturated = dict.fromkeys(self.plan.cores, 0)

    @property
    def overflows(self) -> dict[str, int]:
        """Population -> updates of a state, at events or edges of the slow clock, cut off at 32767 in all runs so far."""
        return self._of_populations(self._saturated)

    def _of_populations(self, of_cores: dict[int, int]) -> dict[str, int]:
        placed = self.configuration.populations.items()
        return {name: sum(of_cores[part.layer] for part in own.parts) for name, own in placed}

    def run(self, frames: Array, record: Record = "counts", threads: int | None = None) -> Trace:
        """Run frames, each sample from rest; arguments and results as `reference.run`.

        Args:
            frames: integer counts [batch, time, *input shape].
            record: "counts", "spikes", or "state" for v after every step too.
            threads: how many run samples side by side; None: as torch does.
        """
        batch, steps = frames.shape[:2]
        trace = self._room(batch, steps, record)
        workers = max(1, threads or torch.get_num_threads())
        kept = self.plan.neurons * (6 if record == "state" else 4) * (steps if record != "counts" else 1)
        size = max(1, min(_CHUNK_BYTES // max(1, kept), -(-batch // (4 * workers))))
        chunks = [slice(i, min(i + size, batch)) for i in range(0, batch, size)]
        if workers == 1 or len(chunks) < 2:
            for chunk in chunks:
                self._add(self._chunk(frames[chunk], chunk, trace, record))
            return trace
        for done in [_workers(workers).submit(self._chunk, frames[chunk], chunk, trace, record) for chunk in chunks]:
            self._add(done.result())
        return trace

    def stream(self, events: Events, *, window_us: int = 1000, duration_us: int | None = None) -> Streamed:
        """Send timed events, one sample from rest, in one thread.

        Args:
            events: in the coordinates of the network's input; timestamps are microseconds from its start.
            window_us: input time over which the peaks of synaptic operations are taken.
            duration_us: of the input, at least: edges of the slow clock go on up to there; None: up to the last event.

        Returns:
            What every core and population did.

        Raises:
            UsageError: D2E-SPECK-063 for timestamps that fall or are negative, -064 for an event outside the input.
        """
        found = stream(self.configuration, self.plan, events, breadth=self.order == "breadth", window_us=window_us,
                       duration_us=duration_us)
        for core, run in found.cores.items():
            self._saturated[core] += run.saturated
        return found

    def _room(self, batch: int, steps: int, record: Record) -> Trace:
        def room(*lead: int) -> dict[str, Array]:
            placed = self.configuration.populations.items()
            return {name: np.asarray(np.zeros((*lead, *own.shape), np.int32)) for name, own in placed}

        output = np.zeros((batch, steps, *self.configuration.populations[self.configuration.output].shape), np.int32)
        spikes = room(batch, steps) if record != "counts" else {}
        return Trace(output, room(batch), spikes, v=room(batch, steps) if record == "state" else {})

    def _chunk(self, frames: Array, chunk: slice, trace: Trace, record: Record) -> Array:
        """Simulate a slice of the samples into the trace; returns the kernels' totals."""
        batch, steps = frames.shape[:2]
        flat = frames.reshape(batch * steps, *self.configuration.source.space)
        sent = from_frames(flat, order=self.events)
        ends = np.searchsorted(sent.timestamp, STEP_US * np.arange(1, 1 + batch * steps)).reshape(batch, steps)
        neurons, first = self.plan.neurons, self.plan.output if record == "counts" else 0
        kept = kernels.Record(
            np.empty((batch, neurons), np.int32), np.empty((batch, steps, neurons - first), np.int32),
            np.empty((batch, steps if record == "state" else 0, neurons), np.int16), np.empty(0, np.int64), 0,
            np.empty(0, np.int64),
        )
        work, plan = self.plan.work(), self.plan.arrays
        leaks = self.configuration.slow_clock_hz is not None
        kernels.run(plan, work, kept, sent.feature, sent.y, sent.x, ends, leaks, self.order == "breadth")
        self._unpack(kept, first, chunk, trace)
        return np.asarray(work.totals)

    def _unpack(self, kept: kernels.Record, first: int, chunk: slice, trace: Trace) -> None:
        """What the kernels kept, in the populations of the network."""
        counts = self.plan.of_cores(kept.counts)
        stepped = self.plan.of_cores(np.diff(kept.rows, axis=1, prepend=np.int32(0)), first)
        states = self.plan.of_cores(kept.states)
        for name in self.configuration.populations:
            trace.counts[name][chunk] = population(self.configuration, name, counts)
            if name in trace.spikes:
                trace.spikes[name][chunk] = population(self.configuration, name, stepped)
            if name in trace.v:
                trace.v[name][chunk] = population(self.configuration, name, states)
        trace.output[chunk] = population(self.configuration, self.configuration.output, stepped)

    def _add(self, totals: Array) -> None:
        for core, times in zip(self.plan.cores, totals[kernels.SATURATED].tolist(), strict=True):
            self._saturated[core] += times


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)

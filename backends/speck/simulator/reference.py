"""The definition: what Speck does with an event, in plain Python. The engine is tested against it.

An event (feature f, y, x) that arrives at a core updates every neuron that its kernel reaches, once, then each neuron
at or above the threshold fires ONE spike, whatever is left above it; timestamps play no role::

    v = min(32767, max(threshold_low, v + w[o, f, i, j]))       one synaptic operation, zero weights included
    if v >= threshold_high: one spike; v -= threshold_high, or v = 0 with return_to_zero

Sources: SynSense, Speck Dev Kit Datasheet (2023), section 3.2.4.6 (one update per event, one spike, subtract or zero, the
floor); sinabs documentation, docs/speck/notebooks/leak_neuron.ipynb (the bias is added at each edge of the slow clock).
Spikes go on depth first: all that follows from the first spike happens before the second is delivered. "breadth" keeps
them in one queue per input event, as samna's specksim does (sinabs documentation, docs/speck/specksim.md).

Not documented, and so chosen here: an event's neurons are updated, and their spikes leave, in the order of y, x, feature;
states saturate at 32767; a destination's pooling and shift that lead out of the next core's input drop the event; an
edge of the slow clock fires nothing, a neuron that it lifts to the threshold fires at its next event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal

import numpy as np

from d2e.backends.speck.configuration import CnnLayer, Configuration, Destination
from d2e.backends.speck.events import from_frames
from d2e.backends.speck.simulator.cores import in_order, initial_states, population, spaces, used
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

Order = Literal["depth", "breadth"]
Event = tuple[int, int, int]
"""(feature, y, x)."""
STATE_MAX = (1 << 15) - 1


class Core:
    """One core: states, and what has been counted, each [features, height, width]."""

    def __init__(self, layer: CnnLayer) -> None:
        self.layer = layer
        self.input, self.output = spaces(layer)
        self.weights = layer.weights.swapaxes(2, 3).astype(int)  # [f_out, f_in, y, x]
        self.v = initial_states(layer).astype(int)
        self.spikes = np.zeros(self.output, int)
        self.synops = self.saturated = self.dropped = 0

    def event(self, event: Event) -> list[Event]:
        """Update every neuron that an event reaches; returns who fires."""
        if any(not 0 <= at < size for at, size in zip(event, self.input, strict=True)):
            self.dropped += 1
            return []
        f, y, x = event
        touched = [
            (o, oy, ox, self.weights[o, f, i, j])
            for oy, i in self._taps(y, axis=1) for ox, j in self._taps(x, axis=0) for o in range(self.output[0])
        ]
        for o, oy, ox, weight in touched:
            self.synops += 1
            self.v[o, oy, ox] = self._clipped(self.v[o, oy, ox] + weight)
        return [(o, oy, ox) for o, oy, ox, _ in touched if self._fires(o, oy, ox)]

    def _taps(self, at: int, axis: int) -> list[tuple[int, int]]:
        """(output position, kernel tap) along an axis, (x, y) as in `Dimensions`, that an input position reaches."""
        d = self.layer.dimensions
        return [
            (out, tap) for out in range(d.output_shape[1 + axis]) for tap in range(d.kernel_size)
            if out * d.stride[axis] - d.padding[axis] + tap == at
        ]

    def _clipped(self, v: int) -> int:
        self.saturated += v > STATE_MAX
        return min(STATE_MAX, max(self.layer.threshold_low, v))

    def _fires(self, o: int, oy: int, ox: int) -> bool:
        if self.v[o, oy, ox] < self.layer.threshold_high:
            return False
        self.v[o, oy, ox] = 0 if self.layer.return_to_zero else self.v[o, oy, ox] - self.layer.threshold_high
        self.spikes[o, oy, ox] += 1
        return True

    def edge(self) -> None:
        """An edge of the slow clock."""
        if self.layer.biases is None:
            return
        for (o, oy, ox), v in np.ndenumerate(self.v):
            self.v[o, oy, ox] = self._clipped(int(v) + int(self.layer.biases[o]))


class Chip:
    """All cores of a configuration, at rest.

    Attributes:
        cores: number -> `Core`.
        sent: (core, its spike) in the order in which they left.
    """

    def __init__(self, configuration: Configuration, order: Order = "depth") -> None:
        in_order(configuration)
        self.source, self.order, self.clocked = configuration.source, order, configuration.slow_clock_hz is not None
        self.cores = {number: Core(layer) for number, layer in configuration.cnn_layers.items()}
        self.sent: list[tuple[int, Event]] = []

    def send(self, event: Event) -> None:
        """An event of the input, and all that follows from it."""
        waiting = deque((d, event) for d in used(self.source.destinations))
        while waiting:
            destination, (f, y, x) = waiting.popleft()
            at = f + destination.feature_shift, y // destination.pooling, x // destination.pooling
            spikes = self.cores[destination.layer].event(at)
            self.sent += [(destination.layer, spike) for spike in spikes]
            follow = [(d, spike) for spike in spikes for d in self._onward(destination)]
            if self.order == "depth":
                waiting.extendleft(reversed(follow))
            else:
                waiting.extend(follow)

    def _onward(self, destination: Destination) -> list[Destination]:
        return used(self.cores[destination.layer].layer.destinations)

    def edge(self) -> None:
        """An edge of the slow clock at all cores; nothing where there is no slow clock."""
        for core in self.cores.values() if self.clocked else ():
            core.edge()


def run(
    configuration: Configuration, frames: Array, record: Record = "counts", *, order: Order = "depth", events: str = "mixed"
) -> Trace:
    """Run frames, each sample from rest; see `d2e.ir.reference.run`.

    Args:
        configuration: of the chip.
        frames: counts [batch, time, *input shape]; a count n is n events in its step.
        record: "counts", "spikes", or "state" for v after every step too.
        order: "depth" as the chip, or "breadth".
        events: the order of events within a step, see `d2e.backends.speck.events.from_frames`.

    Returns:
        The `Trace`; spikes belong to the step of the input event that caused them.
    """
    lead = frames.shape[:2]
    n, v = ({name: np.zeros((*lead, *p.shape), np.int64) for name, p in configuration.populations.items()} for _ in "nv")
    for b, sample in enumerate(frames):
        for t, (spikes, states) in enumerate(_steps(Chip(configuration, order), configuration, sample, events)):
            for name in n:
                n[name][b, t] = population(configuration, name, spikes)
                v[name][b, t] = population(configuration, name, states)
    counts = {name: spikes.sum(axis=1) for name, spikes in n.items()}
    return Trace(
        n[configuration.output], counts, n if record != "counts" else {}, v=v if record == "state" else {},
    )


def _steps(
    chip: Chip, configuration: Configuration, sample: Array, events: str
) -> Iterator[tuple[dict[int, Array], dict[int, Array]]]:
    """Every step's spikes, and the states at its end, core -> [features, height, width]."""
    for frame in sample.reshape(-1, 1, *configuration.source.space):
        before = {number: core.spikes.copy() for number, core in chip.cores.items()}
        chip.edge()
        inputs = from_frames(frame, order=events)
        for event in zip(inputs.feature.tolist(), inputs.y.tolist(), inputs.x.tolist(), strict=True):
            chip.send(event)
        yield (
            {number: core.spikes - before[number] for number, core in chip.cores.items()},
            {number: core.v for number, core in chip.cores.items()},
        )

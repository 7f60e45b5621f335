"""Measuring a network on data: accuracy, spikes, and how far each count is from the source network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from d2e.compiler.data import Data
from d2e.compiler.replicas import merged
from d2e.ir import LI, MultiThreshold, Network, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

Runner = Callable[[Network, Array, Record], Trace]
_CHUNK = 64
EVENTS = "events"
"""Metadata key of a network whose input sends a payload of n as n events, not as one message."""
SINGLE_SPIKES = "single_spikes"
"""Metadata key: names of populations that send a level's payload as so many spikes, not as one spike of a level."""


@dataclass
class Measured:
    """Sums over a data set.

    Attributes:
        samples: how many.
        correct: rightly classified; None without labels.
        spikes: population -> spikes per sample, mean over samples, per neuron [*shape].
        counts: population -> spikes [samples, *shape], a burst of n counted n times; replicas also added up.
        messages: population -> mean per sample of how often each neuron sent something [*shape]: a burst that travels as
            one graded spike is one message.
        input_messages: the same of the input; where a payload travels as so many events, these.
        payloads: multi-threshold population -> payload sent [samples, *shape], in units of the smallest level's.
        predictions: [samples] class indices.
    """

    samples: int = 0
    correct: int | None = None
    counts: dict[str, Array] = field(default_factory=dict)
    messages: dict[str, Array] = field(default_factory=dict)
    input_messages: Array = field(default_factory=lambda: np.zeros(0))
    payloads: dict[str, Array] = field(default_factory=dict)
    predictions: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def accuracy(self) -> float | None:
        """Share of samples classified rightly, 0..1."""
        return None if self.correct is None else self.correct / self.samples

    def spikes(self, name: str) -> Array:
        """Mean spikes per sample of each neuron of a population."""
        return np.asarray(self.counts[name].mean(axis=0))


def comparable(source: Measured, network: Network) -> Measured:
    """What was measured of a source, counted as a network lowered from it counts: see `SINGLE_SPIKES`."""
    single = {n: source.payloads[n] for n in network.metadata.get(SINGLE_SPIKES, ()) if n in source.payloads}
    return replace(source, counts={**source.counts, **single}) if single else source


def classify(network: Network, output: Array) -> Array:
    """Class per sample of an output [batch, time, *out], by the network's readout; ties go to the lower index."""
    flat = output.reshape(*output.shape[:2], -1)
    return np.asarray(_READOUTS[network.output.readout](flat).argmax(axis=1))


def _first(flat: Array) -> Array:
    """Higher the earlier an output sends, then the more it sends."""
    steps, sends = flat.shape[1], flat > 0
    early = np.where(sends.any(axis=1), steps - sends.argmax(axis=1), 0)
    total = flat.sum(axis=1)
    return np.asarray(early + 0.49 * total / (1.0 + np.abs(total).max(axis=1, keepdims=True)))


_READOUTS: dict[str, Callable[[Array], Array]] = {
    "count": lambda flat: flat.sum(axis=1), "last": lambda flat: flat[:, -1], "mean": lambda flat: flat.mean(axis=1),
    "max": lambda flat: flat.max(axis=1), "first": _first,
}


def reference_run(network: Network, frames: Array, record: Record = "counts") -> Trace:
    """The reference interpreter."""
    return reference.run(network, frames, record)


def measure(network: Network, data: Data, run: Runner = reference_run) -> Measured:
    """Run a network on data and sum up; a few samples at a time where every step is needed, or memory."""
    graded = [n for n in network.populations if _is_graded(network, n)]
    chunk = len(data) if not graded and run is not reference_run else _CHUNK
    parts = [
        _measure(network, data.frames[i : i + chunk], run, graded) for i in range(0, len(data), max(1, chunk))
    ]
    outputs = np.concatenate([trace.output for trace, *_ in parts])
    counts = {n: np.concatenate([trace.counts[n] for trace, *_ in parts]) for n in parts[0][0].counts}
    messages = {n: np.asarray(sum(sent[n] for _, sent, _ in parts) / len(data)) for n in parts[0][1]}
    predictions = classify(network, outputs)
    correct = None if data.labels is None else int((predictions == data.labels).sum())
    input_messages = messages.pop(network.inputs[0])
    payloads = {n: np.concatenate([sent[n] for *_, sent in parts]) for n in parts[0][2]}
    return Measured(len(data), correct, counts, messages, input_messages, payloads, predictions)


def _is_graded(network: Network, name: str) -> bool:
    node = network.neuron(name)
    return not isinstance(node, LI) and (isinstance(node, MultiThreshold) or node.max_spikes != 1)


def _measure(
    network: Network, frames: Array, run: Runner, graded: list[str]
) -> tuple[Trace, dict[str, Array], dict[str, Array]]:
    """The trace with replicas added up, how often each neuron of each source sent something, and `Measured.payloads`."""
    trace = run(network, frames, "spikes" if graded else "counts")
    sent = {n: trace.counts[n].sum(axis=0) for n in network.populations if n not in graded}
    sent |= {n: (trace.spikes[n] != 0).sum(axis=(0, 1)) for n in graded}
    given = np.abs(reference.check_frames(network, frames))
    sent[network.inputs[0]] = (given if network.metadata.get(EVENTS) else given != 0).sum(axis=(0, 1), dtype=np.int64)
    together = merged(network, trace)
    payloads = {n: _payloads(node, trace.spikes[n]) for n in graded if isinstance(node := network.nodes[n], MultiThreshold)}
    return Trace(trace.output, {**trace.counts, **together.counts}), sent, payloads


def _payloads(node: MultiThreshold, n: Array) -> Array:
    """Payload sent [batch, *shape] where ``n`` [batch, time, *shape] is what fired."""
    sent = node.levels if node.payloads is None else node.payloads
    table = np.rint(sent / sent[0]).astype(np.int64)
    return np.asarray(np.concatenate([[0], table])[np.abs(n)].sum(axis=1))


def max_count_error(found: Measured, source: Measured) -> int:
    """Largest difference of any neuron's spike count in any sample, over the source's populations."""
    return max(
        (int(np.abs(found.counts[n] - source.counts[n]).max(initial=0)) for n in source.counts if n in found.counts),
        default=0,
    )

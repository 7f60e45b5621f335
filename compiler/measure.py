"""Measuring a network on data: accuracy, spikes, and how far each count is from the source network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from d2e.compiler.data import Data
from d2e.compiler.early_exit import at_once, stop
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
    """Sums over a data set; where the network has an early exit, of what happens until then.

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
        steps: [samples] steps that each ran.
        correct_full: with an early exit, how many are rightly classified after all steps; None without labels.
        spikes_full: with an early exit, messages of all populations per sample over all steps.
        correct_at: with an early exit, how many would be right if all were read after each step [time]; None without labels.
    """

    samples: int = 0
    correct: int | None = None
    counts: dict[str, Array] = field(default_factory=dict)
    messages: dict[str, Array] = field(default_factory=dict)
    input_messages: Array = field(default_factory=lambda: np.zeros(0))
    payloads: dict[str, Array] = field(default_factory=dict)
    predictions: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    steps: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    correct_full: int | None = None
    spikes_full: float | None = None
    correct_at: Array | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of samples classified rightly, 0..1."""
        return None if self.correct is None else self.correct / self.samples

    @property
    def accuracy_full(self) -> float | None:
        """The same after all steps; None without an early exit."""
        return None if self.correct_full is None else self.correct_full / self.samples

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


@dataclass
class _Part:
    """What some samples did: see `Measured`.

    Attributes:
        trace: with replicas also added up in its counts.
        messages: population or input -> how often each neuron sent something, sum over the samples.
        predictions_at: with an early exit, the classes read after each step [time, samples].
    """

    trace: Trace
    messages: dict[str, Array]
    payloads: dict[str, Array]
    steps: Array
    predictions_at: Array
    spikes_full: float


def measure(network: Network, data: Data, run: Runner = reference_run) -> Measured:
    """Run a network on data and sum up; a few samples at a time where every step is needed, or memory."""
    graded, rule = [n for n in network.populations if _is_graded(network, n)], network.output.exit
    chunk = len(data) if not graded and rule is None and run is not reference_run else _CHUNK
    chunk = chunk if rule is None else min(chunk, at_once(network, data.frames.shape[1]))
    parts = [
        _measure(network, data.frames[i : i + chunk], run, graded) for i in range(0, len(data), max(1, chunk))
    ]
    counts = {n: np.concatenate([p.trace.counts[n] for p in parts]) for n in parts[0].trace.counts}
    messages = {n: np.asarray(sum(p.messages[n] for p in parts) / len(data)) for n in parts[0].messages}
    predictions = classify(network, np.concatenate([p.trace.output for p in parts]))
    input_messages = messages.pop(network.inputs[0])
    payloads = {n: np.concatenate([p.payloads[n] for p in parts]) for n in parts[0].payloads}
    found = Measured(
        len(data), _correct(predictions, data), counts, messages, input_messages, payloads, predictions,
        np.concatenate([p.steps for p in parts]),
    )
    if rule is None:
        return found
    at = np.concatenate([p.predictions_at for p in parts], axis=1)
    right = None if data.labels is None else (at == data.labels).sum(axis=1)
    return replace(found, correct_full=_correct(at[-1], data), correct_at=right,
                   spikes_full=sum(p.spikes_full for p in parts) / len(data))


def _correct(predictions: Array, data: Data) -> int | None:
    return None if data.labels is None else int((predictions == data.labels).sum())


def _is_graded(network: Network, name: str) -> bool:
    node = network.neuron(name)
    return not isinstance(node, LI) and (isinstance(node, MultiThreshold) or node.max_spikes != 1)


def _measure(network: Network, frames: Array, run: Runner, graded: list[str]) -> _Part:
    rule, readout = network.output.exit, network.output.readout
    trace = run(network, frames, "spikes" if graded or rule is not None else "counts")
    given = np.abs(reference.check_frames(network, frames))
    steps = np.full(len(frames), given.shape[1], np.int64)
    predictions, spikes = np.zeros(0, np.int64), 0.0
    if rule is not None:
        predictions = np.stack([classify(network, trace.output[:, : t + 1]) for t in range(given.shape[1])])
        steps = rule.steps(trace.output, readout)
        spikes = float(sum(n.sum() for n in _messages(network, trace, graded).values()))
        stop(trace, steps, readout)
        given[np.arange(given.shape[1]) >= steps[:, None]] = 0
    messages = _messages(network, trace, graded)
    sent = given if network.metadata.get(EVENTS) else given != 0
    messages[network.inputs[0]] = sent.sum(axis=(0, 1), dtype=np.int64)
    counts = {**trace.counts, **merged(network, Trace(trace.output, trace.counts)).counts}
    payloads = {n: _payloads(node, trace.spikes[n]) for n in graded if isinstance(node := network.nodes[n], MultiThreshold)}
    return _Part(Trace(trace.output, counts), messages, payloads, steps, predictions, spikes)


def _messages(network: Network, trace: Trace, graded: list[str]) -> dict[str, Array]:
    """How often each neuron of each population sent something."""
    sent = {n: trace.counts[n].sum(axis=0) for n in network.populations if n not in graded}
    return sent | {n: (trace.spikes[n] != 0).sum(axis=(0, 1)) for n in graded}


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

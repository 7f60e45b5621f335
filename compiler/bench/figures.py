"""What a batch did: predictions, spikes, synaptic operations and peaks, and a name for all its counts.

Spikes are messages, as in a program's report: a burst that travels as one graded spike is one; where a payload travels as so
many events, these. A synaptic operation is a message that reaches a target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from d2e.compiler import cost
from d2e.compiler.measure import EVENTS, classify
from d2e.compiler.paths import paths_from
from d2e.compiler.replicas import merged, replicas
from d2e.compiler.target import Streamed
from d2e.ir import LI, MultiThreshold, Network, infer_shapes
from d2e.ir.nodes import Array
from d2e.ir.reference import Trace


@dataclass(frozen=True)
class Part:
    """What a batch did, as plain JSON values.

    Attributes:
        predictions: class of each sample.
        spikes: messages of all populations, per sample.
        synops: synaptic operations, per sample; None where not every population is told of.
        steps: that each sample ran; 0 for recordings.
        counts: per sample, a hash of the spike counts of all neurons of all populations that are told of.
        answers: per sample, a hash of the output's.
        populations: of which ``counts`` are.
        layers: population of the source -> sums over the batch: ``spikes``, ``synops``.
        peaks: ``spikes`` -> core, and ``synops`` -> population: the most in a step (recordings: ``synops_per_s``).
        labels: class of each sample, where it is known.
        device: what ran it.
        seconds: how long that took, input and output of the device included.
        each: of every sample, where the device runs one after another; else None.
        power: rail -> idle, total, dynamic and unit, of the device so far; else None.
    """

    predictions: list[int]
    spikes: list[int]
    synops: list[int] | None
    steps: list[int]
    counts: list[str]
    answers: list[str]
    populations: list[str]
    layers: dict[str, dict[str, int]]
    peaks: dict[str, dict[str, float]] = field(default_factory=dict)
    labels: list[int] | None = None
    device: str = ""
    seconds: float = 0.0
    each: list[float] | None = None
    power: dict[str, list[Any]] | None = None


class Counter:
    """Counts what batches of one program did.

    Args:
        network: lowered; or one of which a part runs on the host, which has no synaptic operations here.
        populations: names in the source network.
        cores: population -> core of every neuron, for peaks; None: none.
    """

    def __init__(self, network: Network, populations: Sequence[str], cores: Mapping[str, Array] | None = None) -> None:
        self.network, self.populations, self.cores = network, list(populations), cores
        self.hosted = bool(network.hosts)
        self.rows = {name: [name] for name in self.populations} if self.hosted else replicas(network)
        self.graded = [] if self.hosted else [n for n in network.populations if _is_graded(network, n)]
        self.read = None if self.hosted else next(
            (e.source for e in network.incoming[network.outputs[0]] if e.source in network.populations), None)
        shapes = {} if self.hosted else infer_shapes(network)
        sources = () if self.hosted else (network.inputs[0], *network.populations)
        self.reach = {
            source: [(p.target, cost.path_fan_out(network, p, shapes)) for p in paths_from(network, source)
                     if p.target in network.populations] for source in sources
        }

    @property
    def needs_steps(self) -> bool:
        """Whether it counts what was sent in every step."""
        return bool(self.graded) or self.cores is not None

    # ----- frames

    def of_frames(self, frames: Array, trace: Trace, steps: Array) -> Part:
        """Of frames [batch, time, *shape] that ran so many steps; the trace is of the lowered network."""
        whole = trace if self.hosted else merged(self.network, trace)
        own = {n: whole.counts[n] for n in self.populations if n in whole.counts}
        predictions = classify(self.network, trace.output)
        if self.hosted:
            sent = {n: c for n, c in own.items() if not isinstance(self.network.nodes.get(n), LI)}
            layers = {n: {"spikes": int(c.sum())} for n, c in sent.items()}
            return self._part(predictions, sent, None, steps, own, trace.output, layers, {})
        given = np.abs(frames).astype(np.int64)
        given = given if self.network.metadata.get(EVENTS) else np.sign(given)
        given[np.arange(frames.shape[1]) >= steps[:, None]] = 0
        sent = {n: (trace.spikes[n] != 0).sum(axis=1) if n in self.graded else trace.counts[n]
                for n in self.network.populations if n in trace.counts and not isinstance(self.network.nodes[n], LI)
                and (n not in self.graded or n in trace.spikes)}
        into = self._synops({**sent, self.network.inputs[0]: given.sum(axis=1)})
        layers = self._layers(sent, into)
        peaks = self._peaks(trace, given) if self.cores is not None else {}
        return self._part(predictions, sent, into, steps, own, trace.output, layers, peaks)

    def _synops(self, sent: Mapping[str, Array]) -> dict[str, Array]:
        """Into each population whose sources are all told of, per sample [batch]."""
        found: dict[str, Array] = {}
        unknown: set[str] = set()
        for source, targets in self.reach.items():
            node = self.network.nodes[source]
            for target, fan in targets:
                if source in sent:
                    rows = sent[source].reshape(len(sent[source]), -1).astype(np.int64)
                    found[target] = found.get(target, 0) + rows @ fan.reshape(-1)
                elif not isinstance(node, LI):
                    unknown.add(target)
        return {name: total for name, total in found.items() if name not in unknown}

    def _layers(self, sent: Mapping[str, Array], into: Mapping[str, Array]) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for name, parts in self.rows.items():
            row = {}
            if all(n in sent for n in parts):
                row["spikes"] = int(sum(sent[n].sum() for n in parts))
            if any(n in into for n in parts):
                row["synops"] = int(sum(into[n].sum() for n in parts if n in into))
            if row:
                table[name] = row
        return table

    def _peaks(self, trace: Trace, given: Array) -> dict[str, dict[str, float]]:
        """The most spikes of one core, and the most synaptic operations into one population, in one step of one sample."""
        assert self.cores is not None
        of_core: dict[int, Array] = {}
        into: dict[str, Array] = {}
        stepped = {n: (s != 0).astype(np.int64) if n in self.graded else np.abs(s) for n, s in trace.spikes.items()
                   if not isinstance(self.network.nodes[n], LI)}
        for name, sent in {**stepped, self.network.inputs[0]: given}.items():
            flat = sent.reshape(*sent.shape[:2], -1).astype(np.int64)
            for target, fan in self.reach.get(name, []):
                into[target] = into.get(target, 0) + flat @ fan.reshape(-1)
            if name in self.cores:
                core = self.cores[name].reshape(-1)
                for number in np.unique(core).tolist():
                    of_core[number] = of_core.get(number, 0) + flat[..., core == number].sum(axis=-1)
        return {"spikes": {str(c): int(n.max(initial=0)) for c, n in sorted(of_core.items())},
                "synops": {n: int(s.max(initial=0)) for n, s in into.items()}}

    # ----- recordings

    def of_recordings(self, done: Sequence[Streamed]) -> Part:
        """Of recordings of timed events."""
        counts = {n: np.stack([d.counts[n] for d in done]) for n in done[0].counts}
        own = {n: counts[n] for n in self.populations if n in counts}
        assert self.read is not None
        output = counts[self.read][:, None]
        predictions = np.asarray(output.reshape(len(done), -1).argmax(axis=1))
        into = {n: np.array([d.synops[n] for d in done]) for n in counts if all(n in d.synops for d in done)}
        peaks = {n: float(max(d.peak_synops_per_s[n] for d in done)) for n in counts
                 if all(n in d.peak_synops_per_s for d in done)}
        return self._part(predictions, counts, into or None, np.zeros(len(done), np.int64), own, output,
                          self._layers(counts, into), {"synops_per_s": peaks} if peaks else {})

    # ----- both

    def _part(
        self, predictions: Array, sent: Mapping[str, Array], into: Mapping[str, Array] | None, steps: Array,
        own: Mapping[str, Array], output: Array, layers: dict[str, dict[str, int]], peaks: dict[str, dict[str, float]],
    ) -> Part:
        batch = len(predictions)
        reached = {t for targets in self.reach.values() for t, _ in targets}
        told = into is not None and reached <= into.keys()
        names = sorted(own)
        exact = output if self._reads_membrane() else output.sum(axis=1)
        return Part(
            predictions.tolist(),
            sum((n.reshape(batch, -1).sum(axis=1) for n in sent.values()), np.zeros(batch, np.int64)).tolist(),
            sum(into.values(), np.zeros(batch, np.int64)).tolist() if told and into is not None else None,
            steps.tolist(), [_digest([own[n][i] for n in names]) for i in range(batch)],
            [_digest([exact[i]]) for i in range(batch)], names, layers, peaks,
        )

    def _reads_membrane(self) -> bool:
        return self.hosted or self.read is None or isinstance(self.network.nodes[self.read], LI)


def _is_graded(network: Network, name: str) -> bool:
    node = network.neuron(name)
    return not isinstance(node, LI) and (isinstance(node, MultiThreshold) or node.max_spikes != 1)


def _digest(arrays: Sequence[Array]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        kind = "<f8" if array.dtype.kind == "f" else "<i8"
        found.update(np.ascontiguousarray(array, kind).tobytes())
    return found.hexdigest()[:16]

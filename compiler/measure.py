"""Measuring a network on data: accuracy, spikes, and how far each count is from the source network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from d2e.compiler.data import Data
from d2e.ir import Network, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Trace

Runner = Callable[[Network, Array], Trace]
_CHUNK = 64


@dataclass
class Measured:
    """Sums over a data set.

    Attributes:
        samples: how many.
        correct: rightly classified; None without labels.
        spikes: population -> spikes per sample, mean over samples, per neuron [*shape].
        counts: population -> [samples, *shape].
        input_spikes: payload sum per sample, per input element.
        predictions: [samples] class indices.
    """

    samples: int = 0
    correct: int | None = None
    counts: dict[str, Array] = field(default_factory=dict)
    input_spikes: Array = field(default_factory=lambda: np.zeros(0))
    predictions: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def accuracy(self) -> float | None:
        """Share of samples classified rightly, 0..1."""
        return None if self.correct is None else self.correct / self.samples

    def spikes(self, name: str) -> Array:
        """Mean spikes per sample of each neuron of a population."""
        return np.asarray(self.counts[name].mean(axis=0))


def classify(network: Network, output: Array) -> Array:
    """Class per sample of an output [batch, time, *out], by the network's readout; ties go to the lower index."""
    flat = output.reshape(*output.shape[:2], -1)
    readout = network.output.readout
    value = flat[:, -1] if readout == "last" else flat.mean(axis=1) if readout == "mean" else flat.sum(axis=1)
    return np.asarray(value.argmax(axis=1))


def reference_run(network: Network, frames: Array) -> Trace:
    """The reference interpreter, a few samples at a time to bound its memory."""
    parts = [reference.run(network, frames[i : i + _CHUNK]) for i in range(0, len(frames), _CHUNK)]
    return Trace(
        np.concatenate([p.output for p in parts]),
        {name: np.concatenate([p.counts[name] for p in parts]) for name in parts[0].counts},
    )


def measure(network: Network, data: Data, run: Runner = reference_run) -> Measured:
    """Run a network on data and sum up."""
    trace = run(network, data.frames)
    predictions = classify(network, trace.output)
    correct = None if data.labels is None else int((predictions == data.labels).sum())
    return Measured(
        len(data), correct, trace.counts, np.asarray(np.abs(data.frames).sum(axis=1).mean(axis=0)), predictions
    )


def max_count_error(found: Measured, source: Measured) -> int:
    """Largest difference of any neuron's spike count in any sample, over the source's populations."""
    return max(
        (int(np.abs(found.counts[n] - source.counts[n]).max(initial=0)) for n in source.counts if n in found.counts),
        default=0,
    )

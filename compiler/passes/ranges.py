"""Static range analysis: what a population can receive and hold, from weights and payloads alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from d2e.compiler.paths import Path, paths_into
from d2e.ir import LI, Conv1d, Conv2d, CubaLIF, Input, Linear, Network, Neuron, Scale, SumPool2d
from d2e.ir.nodes import Array, MultiThreshold


@dataclass(frozen=True)
class Range:
    """Bounds in weight units.

    Attributes:
        low, high: of the summed input of one step, over all neurons of the population.
        state: bound on |u| and |v| over the run; None where it grows with a number of steps nobody knows.
    """

    low: float
    high: float
    state: float | None


def payload_range(network: Network, name: str) -> tuple[float, float]:
    """Smallest and largest payload a source sends (floats for a directly coded input: unbounded)."""
    node = network.nodes[name]
    if isinstance(node, Input):
        if node.coding == "direct":
            return -np.inf, np.inf
        return (-node.max_payload if node.coding == "signed" else 0), node.max_payload
    assert isinstance(node, Neuron)
    if isinstance(node, MultiThreshold):
        sent = node.levels if node.payloads is None else node.payloads
        top = float(sent.max())
        return (-top if node.signed else min(0.0, float(sent.min()))), top
    return 0, float(node.max_spikes) if node.max_spikes else np.inf


def path_range(network: Network, path: Path) -> tuple[Array, Array]:
    """Least and largest contribution of a path per output row (neuron or channel), for any input it may carry."""
    low, high = payload_range(network, path.source)
    for name in path.synapses:
        node = network.nodes[name]
        if isinstance(node, (Linear, Conv1d, Conv2d)):
            rows = node.weight.reshape(node.weight.shape[0], -1).astype(np.float64)
            positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
        elif isinstance(node, Scale):
            positive, negative = np.maximum(node.scale, 0).astype(float), np.minimum(node.scale, 0).astype(float)
        elif isinstance(node, SumPool2d):
            positive, negative = np.asarray(float(np.prod(node.kernel_size))), np.asarray(0.0)
        else:
            continue
        return positive * low + negative * high, positive * high + negative * low
    return np.asarray(float(low)), np.asarray(float(high))


def population_range(network: Network, name: str, time_steps: int | None) -> Range:
    """Bounds of a population; ``time_steps`` None: unknown."""
    node = network.neuron(name)
    low, high = np.zeros(()), np.zeros(())
    for path in paths_into(network, name):
        least, largest = path_range(network, path)
        least, largest = _spread(least, node), _spread(largest, node)
        low, high = low + least, high + largest
    unit = float(1 << node.arithmetic.fraction_bits) if node.arithmetic else 1.0
    step = np.maximum(np.abs(low), np.abs(high))
    state = _accumulated(node, step, unit, time_steps)
    return Range(float(low.min()), float(high.max()), state)


def _spread(bound: Array, node: Neuron) -> Array:
    """A bound per channel or neuron, so that it broadcasts against the population."""
    if bound.ndim == 1 and len(node.shape) > 1:
        return bound.reshape(-1, *([1] * (len(node.shape) - 1)))
    return bound


def _accumulated(node: Neuron, step: Array, unit: float, time_steps: int | None) -> float | None:
    """Bound on |u| and |v|: what enters, summed over the steps and their leaks, on top of the start or of a reset."""
    current, membrane = (_longest(node, decay, time_steps) for decay in node.decays)
    if node.decays[0] is None:
        current = 1.0
    if current is None or membrane is None:
        return None
    u_init = np.abs(node.u_init) / unit if isinstance(node, CubaLIF) else 0.0
    u = u_init + step * current
    start = max(float(np.abs(node.v_init).max()) / unit, _below(node, unit))
    return start + float((u + np.abs(node.bias) / unit).max()) * membrane


def _longest(node: Neuron, decay: Array | None, time_steps: int | None) -> float | None:
    """Sum of decay**k over the run; None: without limit."""
    one = 1 << node.arithmetic.decay_bits if node.arithmetic else 1
    keep = 1.0 if decay is None else float(decay.max()) / one
    limit = math.inf if time_steps is None else float(time_steps)
    longest = min(limit, 1 / (1 - keep)) if keep < 1 else limit
    return None if longest == math.inf else longest


def _below(node: Neuron, unit: float) -> float:
    """How far below 0 a soft reset can take ``v``: where more is taken than the (decayed) threshold that was reached."""
    if node.reset != "subtract" or isinstance(node, LI):
        return 0.0
    reached = node.levels * node.threshold if isinstance(node, MultiThreshold) else node.threshold
    taken = node.reset_by if node.reset_by is not None and not isinstance(node, MultiThreshold) else reached
    keep = 1.0
    if node.reset_when == "next" and node.decays[1] is not None:
        keep = float(node.decays[1].min()) / (1 << node.arithmetic.decay_bits if node.arithmetic else 1)
    missing = float((taken - keep * reached).max())
    times = 1 if isinstance(node, MultiThreshold) else node.max_spikes or math.inf
    return times * (missing + 1 / unit) if missing > 0 else 0.0

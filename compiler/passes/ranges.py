"""Static range analysis: what a population can receive and hold, from weights and payloads alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from d2e.compiler.blocks import row_sums
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
    if isinstance(node, LI):
        return -np.inf, np.inf
    most = float(node.max_spikes) if node.max_spikes else np.inf
    sent = np.array([0.0, most])
    if isinstance(node, MultiThreshold):
        sent = np.append(node.levels if node.payloads is None else node.payloads, 0.0)
        sent = np.concatenate([sent, -sent]) if node.signed else sent
    ends = np.stack([sent.min() * node.amplitude, sent.max() * node.amplitude])
    return float(ends.min()), float(ends.max())


def path_range(network: Network, path: Path) -> tuple[Array, Array]:
    """Least and largest contribution of a path per output row (neuron or channel), for any input it may carry."""
    low, high = payload_range(network, path.source)
    for name in path.synapses:
        node = network.nodes[name]
        if isinstance(node, (Linear, Conv1d, Conv2d)):
            positive, negative = row_sums(node.weight)
        elif isinstance(node, Scale):
            positive, negative = np.maximum(node.scale, 0).astype(float), np.minimum(node.scale, 0).astype(float)
        else:
            if isinstance(node, SumPool2d):
                low, high = low * math.prod(node.kernel_size), high * math.prod(node.kernel_size)
            continue
        return _times(positive, low) + _times(negative, high), _times(positive, high) + _times(negative, low)
    return np.asarray(float(low)), np.asarray(float(high))


def _times(weights: Array, bound: float) -> Array:
    """A product in which nothing times an infinite payload is nothing."""
    return np.multiply(weights, bound, where=weights != 0, out=np.zeros(weights.shape))


def _input_range(network: Network, name: str) -> tuple[Array, Array]:
    """Least and largest summed input of one step, per channel or neuron."""
    node = network.neuron(name)
    low, high = np.zeros(()), np.zeros(())
    for path in paths_into(network, name):
        least, largest = path_range(network, path)
        low, high = low + _spread(least, node), high + _spread(largest, node)
    return low, high


def population_range(network: Network, name: str, time_steps: int | None) -> Range:
    """Bounds of a population; ``time_steps`` None: unknown."""
    node = network.neuron(name)
    low, high = _input_range(network, name)
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
    taken = reached if node.reset_by is None else node.reset_by
    if isinstance(node, MultiThreshold) and node.reset_by is not None:
        taken = node.reset_by * node.threshold
    keep = 1.0
    if node.reset_when == "next" and node.decays[1] is not None:
        keep = float(node.decays[1].min()) / (1 << node.arithmetic.decay_bits if node.arithmetic else 1)
    missing = float((taken - keep * reached).max())
    times = 1 if isinstance(node, MultiThreshold) else node.max_spikes or math.inf
    return times * (missing + 1 / unit) if missing > 0 else 0.0


def spike_bound(network: Network, name: str, time_steps: int | None) -> int | None:
    """Most spikes a float population with gain 1 can fire in one step; None where nothing bounds it.

    A silent neuron keeps at most theta (or ``v_min``). What one that fired at v keeps, from n >= v / theta - 1::

        keep * (v - n * r) <= slope * v + offset          reset_when="same"
        keep * v - n * r   <= slope * v + offset          reset_when="next"
    """
    node = network.neuron(name)
    _, high = _input_range(network, name)
    longest = 1.0 if node.decays[0] is None else _longest(node, node.decays[0], time_steps)
    if longest is None:
        return None
    u_init = np.maximum(node.u_init, 0.0) if isinstance(node, CubaLIF) else 0.0
    entering = u_init + np.maximum(high, 0.0) * longest + node.bias
    keep = np.asarray(1.0 if node.decays[1] is None else node.decays[1])
    silent = node.threshold if node.v_min is None else np.maximum(node.threshold, node.v_min)
    slope, offset = _kept(node, keep)
    grows = offset + entering
    reach = np.maximum(np.maximum(keep * np.maximum(node.v_init, silent), silent) + entering, silent)
    settled = np.maximum(reach, grows / np.where(slope < 1, 1 - slope, 1.0))
    summed = np.inf if time_steps is None else reach + np.maximum(grows, 0.0) * time_steps
    bound = (np.where((slope < 1) | (grows <= 0), settled, summed) / node.threshold).max()
    return max(1, int(bound * (1 + 1e-9))) if np.isfinite(bound) else None


def _kept(node: Neuron, keep: Array) -> tuple[Array, Array]:
    """(slope, offset) of `spike_bound`."""
    if node.reset == "none":
        return keep, np.zeros(())
    if node.reset != "subtract":
        return np.zeros(()), np.zeros(())
    amount = node.threshold if node.reset_by is None else node.reset_by
    share = amount / node.threshold
    if node.reset_when == "next":
        return np.maximum(keep - share, 0.0), np.where(keep > share, amount, keep * node.threshold)
    return keep * np.maximum(1 - share, 0.0), keep * np.minimum(amount, node.threshold)

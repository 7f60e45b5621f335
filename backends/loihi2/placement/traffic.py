"""What crosses chips: pairs of cores that are connected, and axons that leave their chip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from d2e.backends.loihi2.placement.layer import Dense, Kernel, Layer, Synapses
from d2e.backends.loihi2.placement.tile import Cut
from d2e.ir.nodes import Array


def traffic(layers: Mapping[str, Layer], cuts: Mapping[str, Cut], chips: Mapping[str, Array]) -> dict[str, int]:
    """Connections between chips.

    Args:
        layers: every population.
        cuts: its tiles.
        chips: the chip of every tile.

    Returns:
        ``edges``: pairs of tiles on different chips of which one sends to the other; ``axons``: what the senders have of
        axons for such a path, once per chip that they reach.
    """
    edges = axons = 0
    for layer in layers.values():
        for source, synapses in layer.arriving:
            if source not in cuts:
                continue
            reaches = reached(cuts[source], cuts[layer.name], synapses)
            away = reaches & (chips[source][:, None] != chips[layer.name][None, :])
            edges += int(away.sum())
            numbers = np.unique(chips[layer.name])
            remote = np.stack([away[:, chips[layer.name] == chip].any(axis=1) for chip in numbers], axis=1)
            axons += int((remote.sum(axis=1) * _axons(cuts[source], synapses)).sum())
    return {"edges": edges, "axons": axons}


def reached(source: Cut, target: Cut, synapses: Synapses) -> Array:
    """Whether any neuron of a tile reaches any of another, [source tiles, target tiles]."""
    (low, high), (start, stop) = source.corners(), target.corners()
    if isinstance(synapses, Dense) or low.shape[1] != start.shape[1]:
        return np.ones((len(low), len(start)), bool)
    if isinstance(synapses, Kernel):
        start, stop = _field(synapses, start, stop)
    overlap = (low[:, None] < stop[None]) & (start[None] < high[:, None])
    return np.asarray(overlap.all(axis=2))


def _field(kernel: Kernel, start: Array, stop: Array) -> tuple[Array, Array]:
    """The source neurons that targets start <= index < stop see."""
    stride, dilation, before, size = map(np.array, (kernel.stride, kernel.dilation, kernel.before, kernel.kernel))
    first = start[:, 1:] * stride - before
    last = (stop[:, 1:] - 1) * stride - before + (size - 1) * dilation + 1
    group, beyond = start[:, :1] // kernel.per_group, -(-stop[:, :1] // kernel.per_group)
    return np.hstack([group * kernel.inputs, first]), np.hstack([beyond * kernel.inputs, last])


def _axons(cut: Cut, synapses: Synapses) -> Array:
    """Axons of every tile: one per position towards a kernel, else one per neuron."""
    start, stop = cut.corners()
    extent = stop - start
    return np.asarray((extent[:, 1:] if isinstance(synapses, Kernel) else extent).prod(axis=1))

"""Weight calibration: a layer's weights make up, in closed form, for what the layers before it send differently.

For the mean payloads x that arrive from the spiking network and the input z of the same neurons in the ANN, the change D
of the weights and d of the bias minimise ``|z - W x - b - D x - d|^2 + strength * mean(x^2) * |D|^2`` (ridge regression).
The published method takes gradient steps on the same samples; the closed form needs none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from d2e.compiler.convert.adaptive.engine import Plan, Spikes, payloads
from d2e.compiler.convert.skeleton import Layer, Skeleton, rows_of
from d2e.compiler.paths import Path
from d2e.ir import Conv2d, Linear
from d2e.ir.nodes import Array
from d2e.ir.shapes import padding_pairs

_POSITIONS = 32
_AT_ONCE = 64
_ROWS_PER_WEIGHT = 2.0
"""Fewer samples than this for each weight of a neuron leave the weights as they are."""


def calibrated(
    skeleton: Skeleton, plan: Plan, layer: Layer, spikes: Spikes, received: Array, images: Array, strength: float,
    rng: np.random.Generator,
) -> tuple[Skeleton, Array]:
    """The skeleton with changed weights into a layer, and the change [C] of its bias.

    Args:
        skeleton, plan, spikes: of the populations before.
        layer: whose widest synapse is changed, where it is a convolution or a linear map from neurons.
        received: rows [B, N] of what the ANN's neurons receive, bias included.
        images: [B, *input shape].
        strength: of the ridge.
        rng: draws the positions of a map that count.
    """
    path = _widest(skeleton, layer)
    if path is None:
        return skeleton, np.zeros(layer.channels)
    node = skeleton.network.nodes[path.synapses[-1]]
    assert isinstance(node, (Conv2d, Linear))
    size = node.weight[0].size
    gram, cross, rows = np.zeros((size + 1, size + 1)), np.zeros((size + 1, layer.channels)), 0
    for start in range(0, len(images), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        mean = {
            p.source: skeleton.image_frames(images[part]) if p.source == skeleton.input
            else _mean(skeleton, plan, p.source, spikes[p.source][part]) for p in layer.paths
        }
        miss = received[part] - rows_of(skeleton.arriving(layer, mean)) - layer.bias
        x = _columns(node, skeleton.through(path, mean[path.source], -1))
        y = miss.reshape(len(miss), -1, layer.channels)
        if x.shape[1] > _POSITIONS:
            at = rng.integers(0, x.shape[1], (len(x), _POSITIONS))[:, :, None]
            x, y = np.take_along_axis(x, at, 1), np.take_along_axis(y, at, 1)
        x = np.concatenate([x.reshape(-1, size), np.ones((x.shape[0] * x.shape[1], 1), x.dtype)], axis=1).astype(np.float64)
        gram, cross, rows = gram + x.T @ x, cross + x.T @ y.reshape(-1, layer.channels), rows + len(x)
    if rows < _ROWS_PER_WEIGHT * size or not gram[:-1, :-1].any():
        return skeleton, np.zeros(layer.channels)
    ridge = np.full(size + 1, strength * float(np.diagonal(gram)[:-1].mean()))
    ridge[-1] = 1e-9 * rows
    found = np.linalg.solve(gram + np.diag(ridge), cross)
    change = found[:-1].T.reshape(node.weight.shape).astype(node.weight.dtype)
    return skeleton.with_weight(path, node.weight + change), found[-1]


def _mean(skeleton: Skeleton, plan: Plan, name: str, n: Array) -> torch.Tensor:
    """What a population sends in the mean of all steps, as frames [B, *shape]."""
    return payloads(skeleton, plan, name, n.mean(axis=1, dtype=skeleton.numpy_dtype))


def _widest(skeleton: Skeleton, layer: Layer) -> Path | None:
    """The path from neurons whose last synapse has the most weights, if they are fit to be solved for."""
    fit = [
        path for path in layer.paths if path.source != skeleton.input and path.synapses
        and isinstance(node := skeleton.network.nodes[path.synapses[-1]], (Conv2d, Linear))
        and not (isinstance(node, Conv2d) and (node.groups > 1 or any(a != b for a, b in padding_pairs(node))))
        and not (isinstance(node, Linear) and len(layer.shape) > 1)
    ]
    return max(fit, key=lambda path: skeleton.network.nodes[path.synapses[-1]].weight.size, default=None)  # type: ignore[attr-defined]


def _columns(node: Conv2d | Linear, frames: torch.Tensor) -> Array:
    """What each output of a map multiplies with its weights: [B, positions, inputs of one output]."""
    if isinstance(node, Linear):
        return np.asarray(frames.numpy()[:, None])
    pads = tuple(a for a, _ in padding_pairs(node))
    found = functional.unfold(frames, node.weight.shape[2:], dilation=node.dilation, padding=pads, stride=node.stride)
    return np.asarray(found.transpose(1, 2).numpy())



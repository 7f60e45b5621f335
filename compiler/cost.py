"""What a network costs whatever the chip: synapses, and synaptic operations of given spikes."""

from __future__ import annotations

import math

import numpy as np

from d2e.compiler.paths import Path, paths_from, paths_into
from d2e.ir import Conv1d, Conv2d, Delay, Flatten, Linear, Network, Scale, Synapse, infer_shapes
from d2e.ir.nodes import Array, Shape, _Pool
from d2e.ir.shapes import output_shape, padding_pairs


def fan_out(nodes: list[Synapse], shape: Shape) -> Array:
    """How many targets each element of a frame of ``shape`` reaches through a canonical chain of synapses."""
    reached = np.ones(shape, np.int64)
    for i, node in enumerate(nodes):
        if isinstance(node, _Pool) and _has_map(nodes[i + 1 :]):
            pooled = output_shape("pool", node, reached.shape)
            return _through(node, fan_out(nodes[i + 1 :], pooled).reshape(pooled), reached.shape)
        if isinstance(node, Linear):
            return np.full(reached.shape, node.weight.shape[0], np.int64)
        if isinstance(node, (Conv1d, Conv2d, _Pool)):
            return _windows(node, reached.shape)
        if isinstance(node, Flatten):
            reached = reached.reshape(output_shape("flatten", node, reached.shape))
        elif isinstance(node, (Scale, Delay)):
            continue
    return reached


def _has_map(nodes: list[Synapse]) -> bool:
    """Whether a chain goes through a linear map."""
    return any(not isinstance(n, (Flatten, Delay)) for n in nodes)


def _through(pool: _Pool, reached: Array, shape: Shape) -> Array:
    """Per element of a frame of ``shape``: the sum of ``reached`` over the windows it lies in."""
    (py, px), (sy, sx), (_, height, width) = pool.padding, pool.stride, reached.shape
    total = np.zeros((shape[0], shape[1] + 2 * py, shape[2] + 2 * px), np.int64)
    for y, x in np.ndindex(*pool.kernel_size):
        total[:, y : y + sy * height : sy, x : x + sx * width : sx][:, :height, :width] += reached
    return total[:, py : py + shape[1], px : px + shape[2]]


def _windows(node: Conv1d | Conv2d | _Pool, shape: Shape) -> Array:
    axes, channels = _axes(node, shape)
    frame = axes[0] if len(axes) == 1 else np.multiply.outer(axes[0], axes[1])
    return np.broadcast_to(frame * channels, shape)


def _axes(node: Conv1d | Conv2d | _Pool, shape: Shape) -> tuple[list[Array], int]:
    """How many windows cover each coordinate, per axis of space; and the output channels of each input channel."""
    out = output_shape("window", node, shape)
    kernel: Shape
    stride: Shape
    dilation: Shape
    if isinstance(node, _Pool):
        kernel, stride, dilation = node.kernel_size, node.stride, (1, 1)
        pads, channels = tuple((p, p) for p in node.padding), 1
    else:
        kernel, stride, dilation = node.weight.shape[2:], node.stride, node.dilation
        pads, channels = padding_pairs(node), node.weight.shape[0] // node.groups
    return [
        _reached(n, o, k, s, d, p[0]) for n, o, k, s, d, p in
        zip(shape[1:], out[1:], kernel, stride, dilation, pads, strict=True)
    ], channels


def _reached(n: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> Array:
    """Per input coordinate: how many windows cover it."""
    index = np.arange(out)[:, None] * stride - before + np.arange(kernel)[None, :] * dilation
    inside = index[(index >= 0) & (index < n)]
    return np.bincount(inside, minlength=n)


def path_fan_out(network: Network, path: Path, shapes: dict[str, Shape]) -> Array:
    """`fan_out` of a path, in the shape of its source."""
    return fan_out(_nodes(network, path), shapes[path.source]).reshape(shapes[path.source])


def _nodes(network: Network, path: Path) -> list[Synapse]:
    return [n for n in (network.nodes[s] for s in path.synapses) if isinstance(n, Synapse)]


def synapses(network: Network, name: str) -> int:
    """Connections into a population, each source-target pair counted once per path."""
    shapes = infer_shapes(network)
    return sum(connections(_nodes(network, p), shapes[p.source]) for p in paths_into(network, name))


def connections(nodes: list[Synapse], shape: Shape) -> int:
    """The sum of `fan_out`, without an array of the frame's size."""
    for i, node in enumerate(nodes):
        if isinstance(node, _Pool) and _has_map(nodes[i + 1 :]):
            return math.prod(node.kernel_size) * connections(nodes[i + 1 :], output_shape("pool", node, shape))
        if isinstance(node, Linear):
            return math.prod(shape) * int(node.weight.shape[0])
        if isinstance(node, (Conv1d, Conv2d, _Pool)):
            axes, channels = _axes(node, shape)
            return shape[0] * channels * math.prod(int(axis.sum()) for axis in axes)
        if isinstance(node, Flatten):
            shape = output_shape("flatten", node, shape)
    return math.prod(shape)


def synops(network: Network, sent: dict[str, Array]) -> dict[str, float]:
    """Synaptic operations into each population: spikes times targets reached.

    Args:
        network: canonical.
        sent: source (populations and the input) -> spikes per element, any leading axes summed away by the caller.
    """
    shapes = infer_shapes(network)
    totals = dict.fromkeys(network.populations, 0.0)
    for source, spikes in sent.items():
        for path in paths_from(network, source):
            if path.target in totals:
                totals[path.target] += float((spikes * path_fan_out(network, path, shapes)).sum())
    return totals


def neurons(network: Network, name: str) -> int:
    """Size of a population."""
    return math.prod(network.neuron(name).shape)

"""Shape inference: the shape of a frame after each node (batch and time not counted).

Own code because ``nir``'s is wrong for grouped and non-square convolutions and strided ``same`` padding.
"""

from __future__ import annotations

import math

from d2e.ir import host
from d2e.ir.errors import UnsupportedError
from d2e.ir.network import Edge, Network
from d2e.ir.nodes import (
    Conv1d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Neuron,
    Node,
    Output,
    Scale,
    Shape,
    _Conv,
    _Pool,
)


def padding_pairs(node: _Conv) -> tuple[tuple[int, int], ...]:
    """(before, after) zeros per spatial axis; torch's rule for ``same``: total d*(k-1), the odd one after."""
    assert isinstance(node, (Conv1d, Conv2d))
    if node.padding != "same":
        return tuple((int(p), int(p)) for p in node.padding)
    totals = [d * (k - 1) for d, k in zip(node.dilation, node.weight.shape[2:], strict=True)]
    return tuple((t // 2, t - t // 2) for t in totals)


def _fail(message: str, name: str, hint: str | None = None) -> UnsupportedError:
    return UnsupportedError("D2E-SHAPE-001", message, node=name, hint=hint)


def _windows(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def output_shape(name: str, node: Node, shape: Shape) -> Shape:
    """Shape after ``node`` of a frame of ``shape``.

    Raises:
        UnsupportedError: D2E-SHAPE-001 where the frame does not fit the node.
    """
    if isinstance(node, Linear):
        return _linear(name, node, shape)
    if isinstance(node, (Conv1d, Conv2d)):
        return _conv(name, node, shape)
    if isinstance(node, _Pool):
        return _pool(name, node, shape)
    if isinstance(node, Flatten):
        return _flatten(name, node, shape)
    if isinstance(node, Scale):
        return _scale(name, node, shape)
    if isinstance(node, host.Host):
        return host.output_shape(name, node, shape)
    if isinstance(node, (Neuron, Output, Input)):
        if node.shape != shape:
            raise _fail(f"expects frames of shape {node.shape} but receives {shape}", name)
        return shape
    return shape  # Delay


def _linear(name: str, node: Linear, shape: Shape) -> Shape:
    if not shape or shape[-1] != node.weight.shape[1]:
        raise _fail(
            f"takes {node.weight.shape[1]} inputs on the last axis but receives frames of shape {shape}",
            name, hint="Is a Flatten missing before it?" if len(shape) > 1 else None,
        )
    return (*shape[:-1], node.weight.shape[0])


def _conv(name: str, node: Conv1d | Conv2d, shape: Shape) -> Shape:
    dims = node.weight.ndim - 2
    if len(shape) != dims + 1:
        raise _fail(f"a {dims}-d convolution needs frames [channels, {dims} axes] but receives {shape}", name)
    out_channels, per_group = node.weight.shape[:2]
    if shape[0] != per_group * node.groups:
        raise _fail(f"takes {per_group * node.groups} channels but receives {shape[0]}", name)
    if out_channels % node.groups:
        raise _fail(f"{out_channels} output channels cannot be split into {node.groups} groups", name)
    if node.padding == "same" and any(s != 1 for s in node.stride):
        raise _fail("padding 'same' needs stride 1", name, hint="Give the padding as numbers.")
    sizes = tuple(
        _windows(n, k, s, before, after, d)
        for n, k, s, (before, after), d in zip(
            shape[1:], node.weight.shape[2:], node.stride, padding_pairs(node), node.dilation, strict=True
        )
    )
    if min(sizes) < 1:
        raise _fail(f"kernel {node.weight.shape[2:]} does not fit into frames of shape {shape}", name)
    return (out_channels, *sizes)


def _pool(name: str, node: _Pool, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise _fail(f"pooling needs frames [channels, height, width] but receives {shape}", name)
    sizes = tuple(
        _windows(n, k, s, p, p)
        for n, k, s, p in zip(shape[1:], node.kernel_size, node.stride, node.padding, strict=True)
    )
    if min(sizes) < 1:
        raise _fail(f"window {node.kernel_size} does not fit into frames of shape {shape}", name)
    return (shape[0], *sizes)


def _flatten(name: str, node: Flatten, shape: Shape) -> Shape:
    rank = len(shape)
    start = node.start_dim + rank if node.start_dim < 0 else node.start_dim
    end = node.end_dim + rank if node.end_dim < 0 else node.end_dim
    if not 0 <= start <= end < rank:
        raise _fail(f"cannot flatten axes {node.start_dim}..{node.end_dim} of frames of shape {shape}", name)
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def _scale(name: str, node: Scale, shape: Shape) -> Shape:
    factor = node.scale.shape
    fits = len(factor) <= len(shape) and all(
        f in (1, n) for f, n in zip(reversed(factor), reversed(shape), strict=False)
    )
    if not fits:
        raise _fail(f"scale of shape {factor} does not broadcast against frames of shape {shape}", name)
    return shape


def _declared(network: Network, source: str, target: str) -> Shape:
    """The shape of a recurrent source that is not reached yet: neurons state theirs."""
    node = network.nodes[source]
    if isinstance(node, (Neuron, Input)):
        return node.shape
    raise UnsupportedError(
        "D2E-SHAPE-003", f"receives only the previous step of {source!r}, whose shape is not known yet",
        node=target, hint="Mark the edge out of the neuron as the recurrent one.",
    )


def infer_shapes(network: Network) -> dict[str, Shape]:
    """Node name -> shape of the frame it sends.

    Raises:
        UnsupportedError: D2E-SHAPE-001 with the first node that does not fit; D2E-SHAPE-002 for a node
            without any input; D2E-NET-004 for a cycle without a recurrent edge.
    """
    shapes: dict[str, Shape] = {}
    for name in network.order:
        node = network.nodes[name]
        arriving = [(e, shapes[e.source]) for e in network.incoming[name] if not e.recurrent]
        if isinstance(node, (Input, Neuron)) and not arriving:
            shapes[name] = node.shape
            continue
        arriving = arriving or [(e, _declared(network, e.source, name)) for e in network.incoming[name]]
        if not arriving:
            hint = "Remove it or connect it."
            raise UnsupportedError("D2E-SHAPE-002", "has no input", node=name, hint=hint)
        first = arriving[0][1]
        for edge, shape in arriving[1:]:
            if shape != first:
                raise _fail(f"sums inputs of shapes {first} and {shape} (from {edge.source!r})", name)
        shapes[name] = output_shape(name, node, first)
    for edge in network.edges:
        if edge.recurrent:
            _check_recurrent(network, edge, shapes)
    return shapes


def _check_recurrent(network: Network, edge: Edge, shapes: dict[str, Shape]) -> None:
    """A recurrent edge must bring frames of the shape that the other edges into its target bring."""
    into = network.incoming[edge.target]
    expected = next((shapes[e.source] for e in into if not e.recurrent), shapes[into[0].source])
    shape = shapes[edge.source]
    if shape != expected:
        raise _fail(f"sums inputs of shapes {expected} and {shape} (from {edge.source!r})", edge.target)
    output_shape(edge.target, network.nodes[edge.target], shape)

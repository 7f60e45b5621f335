"""Algebra of synapses: scale the rows or columns of a linear map, merge two into one, flatten a chain to a matrix.

All exact in real arithmetic; a function returns None where the result is not one of the IR's synapses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from d2e.ir import (
    AvgPool2d,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    Scale,
    SumPool2d,
    Synapse,
    UnsupportedError,
    linear,
)
from d2e.ir.nodes import Array, Shape
from d2e.ir.shapes import output_shape, padding_pairs

MATRIX_LIMIT = 1 << 26
"""Most weights `as_matrix` writes out."""

_CHUNK = 1 << 24


def bias_frame(node: Synapse, shape: Shape) -> Array | None:
    """What ``node`` adds to every frame, as a frame of its output shape (from frames of ``shape``); None: nothing."""
    bias = getattr(node, "bias", None)
    if bias is None or not bias.any():
        return None
    out = output_shape("bias", node, shape)
    if isinstance(node, (Conv1d, Conv2d)):
        bias = bias.reshape(-1, *([1] * (len(out) - 1)))
    return np.broadcast_to(bias, out)


def without_bias(node: Synapse) -> Synapse:
    """The linear part of a synapse."""
    if isinstance(node, (Conv1d, Conv2d)) and node.bias is not None:
        return replace(node, bias=None)
    if isinstance(node, Linear):
        return Linear(weight=node.weight, quantized=node.quantized, metadata=node.metadata)
    return node


def weight_of(node: Synapse) -> Array:
    """The array of a synapse that has one (a SumPool2d counts as ones)."""
    if isinstance(node, (Linear, Conv1d, Conv2d)):
        return node.weight
    if isinstance(node, Scale):
        return node.scale
    return np.ones((1,), np.int64)


def with_weight(node: Synapse, weight: Array) -> Synapse:
    """The synapse with another array of the same shape."""
    if isinstance(node, Scale):
        return replace(node, scale=weight)
    assert isinstance(node, (Linear, Conv1d, Conv2d))
    return replace(node, weight=weight)


def channels(factor: Array, shape: Shape) -> Array | None:
    """``factor``, broadcast against frames of ``shape``, as one value per first axis; None if it varies within one."""
    full = np.broadcast_to(factor, shape).reshape(shape[0], -1)
    return full[:, 0] if (full == full[:, :1]).all() else None


def depthwise(pool: SumPool2d | AvgPool2d, shape: Shape) -> Conv2d:
    """Pooling of frames of ``shape`` as a convolution of each channel with one number."""
    share = 1.0 / math.prod(pool.kernel_size) if isinstance(pool, AvgPool2d) else 1.0
    weight = np.full((shape[0], 1, *pool.kernel_size), share)
    return Conv2d(weight=weight, stride=pool.stride, padding=pool.padding, groups=shape[0])


def _entries(factor: Array, shape: Shape) -> Array | None:
    """A factor of frames of ``shape`` as one per entry of the last axis; None where it varies along others too."""
    full = np.broadcast_to(factor, shape)
    first = full[(0,) * (len(shape) - 1)]
    return np.array(first) if (full == first).all() else None


def scale_rows(node: Synapse, factor: Array, shape: Shape) -> Synapse | None:
    """``factor * node(x)`` for frames of ``shape``; ``factor`` broadcasts against the output."""
    out = output_shape("scale", node, shape)
    if factor.size == 1 and not isinstance(node, SumPool2d):
        return with_weight(node, weight_of(node) * factor.reshape(()))
    if isinstance(node, Scale):
        return replace(node, scale=node.scale * factor)
    if isinstance(node, Linear):
        per_row = _entries(factor, out)
        return None if per_row is None else replace(node, weight=node.weight * per_row[:, None])
    per_channel = channels(factor, out)
    if per_channel is None:
        return None
    if isinstance(node, SumPool2d):
        node = depthwise(node, shape)
    if isinstance(node, (Conv1d, Conv2d)):
        return replace(node, weight=node.weight * per_channel.reshape(-1, *([1] * (node.weight.ndim - 1))))
    return None


def scale_columns(node: Synapse, factor: Array, shape: Shape) -> Synapse | None:
    """``node(factor * x)`` for frames of ``shape``; ``factor`` broadcasts against the input."""
    if factor.size == 1 and not isinstance(node, SumPool2d):
        return with_weight(node, weight_of(node) * factor.reshape(()))
    if isinstance(node, Scale):
        return replace(node, scale=node.scale * factor)
    if isinstance(node, Linear):
        per_column = _entries(factor, shape)
        return None if per_column is None else replace(node, weight=node.weight * per_column)
    per_channel = channels(factor, shape)
    if per_channel is None:
        return None
    if isinstance(node, SumPool2d):
        node = depthwise(node, shape)
    if isinstance(node, (Conv1d, Conv2d)):
        groups = node.groups
        per_group = per_channel.reshape(groups, 1, -1, *([1] * (node.weight.ndim - 2)))
        grouped = node.weight.reshape(groups, -1, *node.weight.shape[1:])
        return replace(node, weight=(grouped * per_group).reshape(node.weight.shape))
    return None


def merge(first: Synapse, second: Synapse, shape: Shape) -> list[Synapse] | None:
    """``second(first(x))`` for frames of ``shape`` with fewer or better placed synapses; None: nothing to do."""
    middle = output_shape("merge", first, shape)
    if isinstance(first, Flatten) and isinstance(second, Flatten):
        end = output_shape("merge", second, middle)
        return [Flatten()] if len(end) == 1 else None
    if isinstance(first, Scale) and isinstance(second, Flatten):
        if first.scale.size == 1:
            return [second, Scale(scale=first.scale.reshape(()))]
        ends = output_shape("merge", second, shape)
        return [second, Scale(scale=np.broadcast_to(first.scale, shape).reshape(ends))]
    if isinstance(first, Scale):
        merged = scale_columns(second, first.scale, shape)
        return [merged] if merged is not None else None
    if isinstance(second, Scale):
        merged = scale_rows(first, second.scale, shape) if not isinstance(first, Flatten) else None
        return [merged] if merged is not None else None
    if isinstance(first, Linear) and isinstance(second, Linear):
        return [Linear(weight=_precise(second.weight) @ _precise(first.weight))]
    if isinstance(first, (Conv2d, SumPool2d)) and isinstance(second, (Conv2d, SumPool2d)):
        one = _merge_convs(first, second, shape, middle)
        return [one] if one is not None else None
    return None


def _precise(weight: Array) -> Array:
    """Weights to compute new ones from: floats of double precision."""
    return weight.astype(np.float64, copy=False) if weight.dtype.kind == "f" else weight


def _merge_convs(first: Synapse, second: Synapse, shape: Shape, middle: Shape) -> Conv2d | None:
    a = depthwise(first, shape) if isinstance(first, SumPool2d) else first
    b = depthwise(second, middle) if isinstance(second, SumPool2d) else second
    assert isinstance(a, Conv2d)
    assert isinstance(b, Conv2d)
    if any(before != after for before, after in (*padding_pairs(a), *padding_pairs(b))):
        return None
    pad_a, pad_b = [p for p, _ in padding_pairs(a)], [p for p, _ in padding_pairs(b)]
    windows = zip(shape[1:], a.weight.shape[2:], a.stride, a.dilation, pad_a, strict=True)
    tiles = [k == s and (d == 1 or k == 1) and p == 0 and n % s == 0 for n, k, s, d, p in windows]
    if any(p and not whole for p, whole in zip(pad_b, tiles, strict=True)):
        return None  # beyond the edge b reads zeros, the merged kernel would read inside the edge
    kernel, groups = _compose_kernels(a, b, shape[0])
    return Conv2d(
        weight=kernel, groups=groups,
        stride=(a.stride[0] * b.stride[0], a.stride[1] * b.stride[1]),
        padding=(pad_a[0] + a.stride[0] * pad_b[0], pad_a[1] + a.stride[1] * pad_b[1]),
    )


def _compose_kernels(a: Conv2d, b: Conv2d, in_channels: int) -> tuple[Array, int]:
    """Kernel of b after a: W[o, i, s_a * d_b * y_b + d_a * y_a] += Wb[o, m, y_b] Wa[m, i, y_a], with its groups."""
    keep_a = b.groups == b.weight.shape[0] == a.weight.shape[0]  # b depthwise: a's groups stay
    keep_b = a.groups == in_channels == a.weight.shape[0]  # a depthwise: b's groups stay
    wa = _precise(a.weight if keep_a or keep_b else _ungroup(a))
    wb = _precise(b.weight if keep_a or keep_b else _ungroup(b))
    size = [
        a.stride[i] * b.dilation[i] * (wb.shape[2 + i] - 1) + a.dilation[i] * (wa.shape[2 + i] - 1) + 1
        for i in (0, 1)
    ]
    inputs = wb.shape[1] if keep_b else wa.shape[1]
    kernel = np.zeros((wb.shape[0], inputs, *size), np.result_type(wa, wb))
    span = [a.dilation[i] * (wa.shape[2 + i] - 1) + 1 for i in (0, 1)]
    for y, x in np.ndindex(*wb.shape[2:]):
        top, left = a.stride[0] * b.dilation[0] * y, a.stride[1] * b.dilation[1] * x
        part = kernel[:, :, top : top + span[0] : a.dilation[0], left : left + span[1] : a.dilation[1]]
        tap = wb[:, :, y, x]
        if keep_a:
            part += tap[:, :, None, None] * wa
        elif keep_b:
            part += tap[:, :, None, None] * _of_inputs(wa[:, 0], b)
        else:
            part += np.einsum("om,mihw->oihw", tap, wa)
    return kernel, a.groups if keep_a else b.groups if keep_b else 1


def _of_inputs(per_channel: Array, b: Conv2d) -> Array:
    """Depthwise kernels [channel, kh, kw] as seen by each (output, input of its group) pair of ``b``."""
    per_group, out_per_group = b.weight.shape[1], b.weight.shape[0] // b.groups
    group = np.arange(b.weight.shape[0]) // out_per_group
    index = group[:, None] * per_group + np.arange(per_group)[None, :]
    return np.asarray(per_channel[index])


def _ungroup(node: Conv2d) -> Array:
    out, per_group = node.weight.shape[:2]
    full = np.zeros((out, per_group * node.groups, *node.weight.shape[2:]), node.weight.dtype)
    for g in range(node.groups):
        rows = slice(g * out // node.groups, (g + 1) * out // node.groups)
        full[rows, g * per_group : (g + 1) * per_group] = node.weight[rows]
    return full


def run_chain(nodes: list[Synapse], frames: Array, shape: Shape) -> Array:
    """The frames after a chain of synapses."""
    for node in nodes:
        frames = linear.apply(node, frames, shape)
        shape = output_shape("chain", node, shape)
    return frames


def chain_shape(nodes: Sequence[Synapse], shape: Shape, name: str) -> Shape:
    """The shape of frames of ``shape`` after a chain of synapses; ``name`` for the error."""
    return reduce(lambda s, node: output_shape(name, node, s), nodes, shape)


def as_matrix(nodes: list[Synapse], shape: Shape, name: str) -> Array:
    """A chain of linear maps of frames of ``shape`` as one matrix [out, in]: what each output reads, traced back.

    Raises:
        UnsupportedError: D2E-CANON-001 beyond `MATRIX_LIMIT` weights.
    """
    shapes = [shape]
    for node in nodes:
        shapes.append(output_shape(name, node, shapes[-1]))
    size, end = math.prod(shape), math.prod(shapes[-1])
    if size * end > MATRIX_LIMIT:
        raise UnsupportedError(
            "D2E-CANON-001", f"these linear layers only merge into a dense matrix of {size * end:,} weights, "
            f"the limit is {MATRIX_LIMIT:,}", node=name, hint="Put a neuron layer between them.",
        )
    matrix = np.empty((end, size))
    step = max(1, _CHUNK // max(math.prod(s) for s in shapes))
    for start in range(0, end, step):
        rows = np.eye(min(step, end - start), end, start).reshape(-1, *shapes[-1])
        for node, before in zip(reversed(nodes), reversed(shapes[:-1]), strict=True):
            rows = _traced_back(node, rows, before)
        matrix[start : start + step] = rows.reshape(-1, size)
    return matrix


def _traced_back(node: Synapse, rows: Array, shape: Shape) -> Array:
    """Factors [n, *output shape] of what a map sends as factors [n, *shape] of what it receives."""
    if isinstance(node, Linear):
        return np.asarray(np.matmul(rows, node.weight))
    if isinstance(node, Scale):
        return rows * node.scale
    if isinstance(node, (Conv1d, Conv2d, SumPool2d, AvgPool2d)):
        return _windows_traced_back(node, rows, shape)
    return rows.reshape(-1, *shape)


def _windows_traced_back(node: Conv1d | Conv2d | SumPool2d | AvgPool2d, rows: Array, shape: Shape) -> Array:
    """Every output gives each element of its window its share."""
    if isinstance(node, (Conv1d, Conv2d)):
        kernel, dilation, pads, groups = node.weight.shape[2:], node.dilation, padding_pairs(node), node.groups
    else:
        kernel, dilation, pads, groups = node.kernel_size, (1, 1), tuple((p, p) for p in node.padding), shape[0]
    space = rows.shape[2:]
    total = np.zeros((len(rows), shape[0], *(n + a + b for n, (a, b) in zip(shape[1:], pads, strict=True))))
    for tap in np.ndindex(*kernel):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        where = [slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(starts, node.stride, space, strict=True)]
        part = total[:, :, *where]
        if isinstance(node, (Conv1d, Conv2d)):
            weight = node.weight[:, :, *tap].reshape(groups, -1, shape[0] // groups)
            shares = rows.reshape(len(rows), groups, weight.shape[1], -1)
            part += np.matmul(weight.swapaxes(1, 2), shares).reshape(part.shape)
        else:
            part += rows
    inside = tuple(slice(a, a + n) for n, (a, _) in zip(shape[1:], pads, strict=True))
    return np.asarray(total[:, :, *inside] / (math.prod(kernel) if isinstance(node, AvgPool2d) else 1))


def split_delays(nodes: list[Synapse], name: str) -> tuple[list[Synapse], int]:
    """A chain without its Delay nodes, and their total.

    Raises:
        UnsupportedError: D2E-CANON-002 where a bias is added before a delay (it would have to start late).
    """
    steps, biased = 0, False
    rest: list[Synapse] = []
    for node in nodes:
        if isinstance(node, Delay):
            if biased and node.steps:
                raise UnsupportedError(
                    "D2E-CANON-002", "a layer with bias before a delay adds its bias late", node=name,
                    hint="Move the delay before the layer.",
                )
            steps += node.steps
        else:
            bias = getattr(node, "bias", None)
            biased = biased or (bias is not None and bool(bias.any()))
            rest.append(node)
    return rest, steps

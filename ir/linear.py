"""The linear maps in numpy: what each synapse computes on a batch of frames, floats or exact integers.

Integer sums run through float64 where they are provably below 2**53, which is exact and quick; else in int64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from d2e.ir.nodes import (
    Affine,
    Array,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    Scale,
    Shape,
    Synapse,
    _Conv,
    _Pool,
)
from d2e.ir.shapes import output_shape, padding_pairs


def apply(node: Synapse, frames: Array, shape: Shape) -> Array:
    """``node`` applied to ``frames`` [batch, *shape]; returns [batch, *output shape].

    Integer frames and integer weights give exact int64 results.
    """
    if isinstance(node, Linear):
        result = contract(frames, node.weight.T)
        return result + node.bias if isinstance(node, Affine) else result
    if isinstance(node, (Conv1d, Conv2d)):
        return _convolve(node, frames)
    if isinstance(node, _Pool):
        return _pool(node, frames)
    if isinstance(node, Flatten):
        return frames.reshape(frames.shape[0], *output_shape("flatten", node, shape))
    if isinstance(node, Scale):
        return frames * node.scale
    raise TypeError(f"{type(node).__name__} is not a map of one frame")


def contract(frames: Array, matrix: Array) -> Array:
    """``frames`` [..., k] times ``matrix`` [k, n]; exact for integers."""
    result: Array
    if not (is_integer(frames) and is_integer(matrix)):
        result = np.matmul(frames.astype(np.float64, copy=False), matrix)
        return result
    largest = max(float(frames.max(initial=0)), -float(frames.min(initial=0)))
    bound = largest * float(np.abs(matrix.astype(np.float64)).sum(axis=0).max(initial=0.0))
    if bound < 2.0**53:
        result = np.matmul(frames.astype(np.float64), matrix.astype(np.float64)).astype(np.int64)
    else:
        result = np.matmul(frames.astype(np.int64), matrix.astype(np.int64))
    return result


def is_integer(array: Array) -> bool:
    """Whether an array holds integers (or booleans)."""
    return array.dtype.kind in "iub"


def _patches(
    frames: Array, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Array:
    """Windows of ``frames`` [batch, channels, *space] as [batch, channels, *out, *kernel] (a view)."""
    axes = tuple(range(2, frames.ndim))
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(frames, span, axis=axes)
    steps = tuple(slice(None, None, s) for s in stride)
    holes = tuple(slice(None, None, d) for d in dilation)
    return view[(slice(None), slice(None), *steps, *holes)]


def columns(node: Conv1d | Conv2d, frames: Array) -> Iterator[Array]:
    """What each kernel of a group multiplies, group by group: [batch, *out, inputs of the group * kernel]."""
    kernel = node.weight.shape[2:]
    padded = np.pad(frames, ((0, 0), (0, 0), *padding_pairs(node)))
    patches = _patches(padded, kernel, node.stride, node.dilation)
    batch, channels, space = patches.shape[0], patches.shape[1], patches.shape[2 : 2 + len(kernel)]
    per_group = channels // node.groups
    for g in range(node.groups):
        part = patches[:, g * per_group : (g + 1) * per_group]
        yield np.moveaxis(part, 1, 1 + len(kernel)).reshape(batch, *space, -1)


def _convolve(node: _Conv, frames: Array) -> Array:
    assert isinstance(node, (Conv1d, Conv2d))
    kernel = node.weight.shape[2:]
    rows = node.weight.shape[0] // node.groups
    matrices = (node.weight[g * rows : (g + 1) * rows].reshape(rows, -1) for g in range(node.groups))
    results = [
        np.moveaxis(contract(part, weight.T), -1, 1) for part, weight in zip(columns(node, frames), matrices, strict=True)
    ]
    result = np.concatenate(results, axis=1)
    if node.bias is None:
        return result
    return result + node.bias.reshape(-1, *([1] * len(kernel)))


def _pool(node: _Pool, frames: Array) -> Array:
    (py, px), kernel = node.padding, node.kernel_size
    padded = np.pad(frames, ((0, 0), (0, 0), (py, py), (px, px)))
    total: Array = _patches(padded, kernel, node.stride, (1, 1)).sum(axis=(-2, -1))
    return total / (kernel[0] * kernel[1]) if isinstance(node, AvgPool2d) else total

"""Arrays as the kernels take them: channels last, weights in padded rows, convolutions by tap.

Maps [channels, *space] are kept channels last, so that a spike's weights are contiguous; results are turned back at
the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from d2e.backends.loihi2.simulator.kernels import BLOCK
from d2e.compiler.algebra import as_matrix
from d2e.ir import Conv1d, Conv2d, Linear, SumPool2d, Synapse
from d2e.ir.nodes import Array, Shape
from d2e.ir.shapes import padding_pairs

NO_MATRIX = np.zeros(0, np.int16)


@dataclass
class Conv:
    """A convolution as the kernel takes it (`kernels._add_conv`)."""

    weight: Array = field(default_factory=lambda: NO_MATRIX)
    tap_to: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    tap_from: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    tap_start: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    shape: tuple[int, int, int] = (1, 1, 0)

    @property
    def arguments(self) -> tuple[Array, Array, Array, Array, tuple[int, int, int]]:
        """The kernel's tuple."""
        return self.weight, self.tap_to, self.tap_from, self.tap_start, self.shape


def last(array: Array, shape: Shape) -> Array:
    """Frames [..., *shape] flattened channels last."""
    lead = array.shape[: array.ndim - len(shape)]
    return np.moveaxis(array, len(lead), -1).reshape(*lead, math.prod(shape)) if len(shape) > 1 else array


def first(array: Array, shape: Shape) -> Array:
    """The inverse of `last`: [..., n] -> [..., *shape]."""
    if len(shape) < 2:
        return array
    turned = array.reshape(*array.shape[:-1], *shape[1:], shape[0])
    return np.ascontiguousarray(np.moveaxis(turned, -1, array.ndim - 1))


def linear(node: Linear, shape: Shape, target: Shape) -> Array:
    """[in, out], inputs channels last."""
    weight = node.weight
    if len(shape) > 1 and len(target) == 1:
        weight = last(weight.reshape(-1, *shape), shape)
    return np.ascontiguousarray(weight.T)


def fits(weight: Array) -> bool:
    """Whether weights fit the kernels' int16."""
    return bool(np.abs(weight).max(initial=0) <= np.iinfo(np.int16).max)


def own_matrix(nodes: list[Synapse], shape: Shape, target: Shape) -> Array | None:
    """A chain of maps from a population to itself as rows, channels last on both sides; None beyond int16."""
    weight = as_matrix(nodes, shape, "recurrent")
    weight = last(weight.reshape(-1, *shape), shape)
    weight = last(weight.T.reshape(-1, *target), target)
    return padded(weight) if fits(weight) else None


def padded(matrix: Array) -> Array:
    """[in, out] as one run of int16 rows, each padded to whole blocks."""
    rows = np.zeros((matrix.shape[0], -(-matrix.shape[1] // BLOCK) * BLOCK), np.int16)
    rows[:, : matrix.shape[1]] = np.rint(matrix)
    return rows.reshape(-1)


def convolution(node: Conv1d | Conv2d | SumPool2d, shape: Shape) -> Conv:
    """Weights per tap and, for every input position, the outputs it reaches."""
    stride: Shape
    dilation: Shape
    if isinstance(node, SumPool2d):
        weight: Array = np.ones((shape[0], 1, *node.kernel_size), np.int16)
        stride, dilation, groups = node.stride, (1, 1), shape[0]
        pads = tuple((p, p) for p in node.padding)
    else:
        weight, stride, dilation, groups = node.weight, node.stride, node.dilation, node.groups
        pads = padding_pairs(node)
    space = shape[1:]
    if len(space) == 1:  # a line is a map of height 1
        weight, space = weight[:, :, None, :], (1, *space)
        stride, dilation, pads = (1, *stride), (1, *dilation), ((0, 0), *pads)
    kernel = weight.shape[2:]
    axes = list(zip(space, pads, dilation, kernel, stride, strict=True))
    out = tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in axes)
    reach = [_reach(*a) for a in zip(space, out, kernel, stride, dilation, (p[0] for p in pads), strict=True)]
    taps: list[tuple[int, int]] = []
    starts = [0]
    for rows in reach[0]:
        for columns in reach[1]:
            taps += [(y * out[1] + x, ky * kernel[1] + kx) for y, ky in rows for x, kx in columns]
            starts.append(len(taps))
    out_channels, per_group = weight.shape[:2]
    width = out_channels // groups
    grouped = weight.reshape(groups, width, per_group, -1)  # [group, out, in, tap]
    rows_ = np.moveaxis(grouped, (3, 0, 2, 1), (0, 1, 2, 3)).reshape(kernel[0] * kernel[1], groups * per_group, width)
    pairs = np.array(taps, np.int64).reshape(-1, 2)
    channels = groups * per_group
    return Conv(
        np.ascontiguousarray(rows_.astype(np.int16)).reshape(-1),
        np.ascontiguousarray(pairs[:, 0] * out_channels), np.ascontiguousarray(pairs[:, 1] * channels * width),
        np.array(starts, np.int64), (channels, per_group, width),
    )


def _reach(n: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> list[list[tuple[int, int]]]:
    """Per input coordinate: the (output coordinate, tap) pairs it reaches."""
    table: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for o in range(out):
        for k in range(kernel):
            i = o * stride - before + k * dilation
            if 0 <= i < n:
                table[i].append((o, k))
    return table

"""Linear maps as the chip's convolution: dense, square, with a legal stride and padding, wherever there is such a form.

Groups and dilation are written out with zeros; a rectangular kernel is set into a square one; a dense layer on a map is a
convolution whose kernel covers the map. All exact: the same weight joins the same pair of neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from d2e.backends.speck.layer import Space
from d2e.backends.speck.limits import LIMITS, STRIDES
from d2e.compiler.algebra import channels
from d2e.ir import Conv1d, Conv2d, Linear, Scale, Synapse
from d2e.ir.nodes import Array
from d2e.ir.shapes import padding_pairs

KERNEL_MAX = int(LIMITS["kernel_size"].value)
PADDING_MAX = int(LIMITS["padding"].value)


@dataclass(frozen=True, eq=False)
class Window:
    """A dense cross-correlation of maps.

    Attributes:
        weight: [out features, in features, kernel height, kernel width].
        stride: (y, x).
        before: (y, x) of the padding before the first element.
        input, output: (features, height, width).
    """

    weight: Array
    stride: tuple[int, int]
    before: tuple[int, int]
    input: Space
    output: Space


@dataclass(frozen=True)
class Square:
    """A kernel size, stride (y, x) and padding (y, x) that the chip has, and where each window's kernel lies in it."""

    kernel_size: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Misfit:
    """Why there is no `Square`; ``limit`` is "kernel", "stride", "padding" or "square"."""

    limit: str
    why: str


def window(node: Synapse, space: Space, output: Space) -> Window | None:
    """A synapse from maps of ``space`` to maps of ``output``; None where its factors vary within a feature."""
    if isinstance(node, Linear):
        return Window(node.weight.reshape(output[0], *space), (1, 1), (0, 0), space, output)
    if isinstance(node, Scale):
        factors = channels(node.scale if node.scale.ndim == 0 else node.scale.reshape(_aligned(node.scale, space)), space)
        return None if factors is None else Window(np.diag(factors)[:, :, None, None], (1, 1), (0, 0), space, output)
    assert isinstance(node, (Conv1d, Conv2d))
    flat = isinstance(node, Conv1d)
    weight = _dilated(_ungrouped(node.weight, node.groups), node.dilation)
    pads = [before for before, _ in padding_pairs(node)]
    if flat:
        return Window(weight[:, :, None], (1, node.stride[0]), (0, pads[0]), space, output)
    return Window(weight, (node.stride[0], node.stride[1]), (pads[0], pads[1]), space, output)


def _aligned(scale: Array, space: Space) -> tuple[int, ...]:
    """Shape of a factor per element of a population [F], [F, L] or [F, H, W] as one that broadcasts against its space."""
    if scale.ndim == 1 and scale.size == space[0] * space[1] * space[2]:
        return space
    if scale.ndim == 2:
        return (scale.shape[0], 1, scale.shape[1])
    return scale.shape


def _ungrouped(weight: Array, groups: int) -> Array:
    """[out, in / groups, …] as [out, in, …], zeros between the groups."""
    if groups == 1:
        return weight
    out, per_group = weight.shape[:2]
    full = np.zeros((out, per_group * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        rows = slice(g * out // groups, (g + 1) * out // groups)
        full[rows, g * per_group : (g + 1) * per_group] = weight[rows]
    return full


def _dilated(weight: Array, dilation: tuple[int, ...]) -> Array:
    """The kernel with zeros between its taps."""
    if all(d == 1 for d in dilation):
        return weight
    sizes = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    full = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    full[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = weight
    return full


def square(windows: Sequence[Window]) -> Square | Misfit:
    """One kernel for all windows, which have the same height and width of input and output."""
    reach = max(max(w.weight.shape[2:]) for w in windows)
    if reach > KERNEL_MAX:
        return Misfit("kernel", f"needs a kernel of {reach} x {reach}, the limit is {KERNEL_MAX}")
    axes = [[_Axis.of(w, axis) for w in windows] for axis in (0, 1)]
    strides = [_strides(axis) for axis in axes]
    for axis, found in zip(axes, strides, strict=True):
        if not found:
            wanted = sorted({a.stride for a in axis})
            return Misfit("stride", f"has stride {' and '.join(map(str, wanted))}, the chip has {_listed(STRIDES)}")
    for size in range(reach, KERNEL_MAX + 1):
        fits = [
            next((f for s, p in product(own, range(PADDING_MAX + 1)) if (f := _offsets(axis, size, s, p))), None)
            for axis, own in zip(axes, strides, strict=True)
        ]
        if fits[0] and fits[1]:
            (sy, py, oy), (sx, px, ox) = fits[0], fits[1]
            return Square(size, (sy, sx), (py, px), tuple(zip(oy, ox, strict=True)))
    padded = max(max(w.before) for w in windows)
    if padded > PADDING_MAX:
        return Misfit("padding", f"needs padding {padded}, the limit is {PADDING_MAX}")
    first = windows[0]
    kernel, maps, out = (" x ".join(map(str, s[-2:])) for s in (first.weight.shape, first.input, first.output))
    return Misfit("square", f"has a kernel of {kernel} on maps of {maps}, and no square one with padding up to "
                  f"{PADDING_MAX} gives maps of {out}")


@dataclass(frozen=True)
class _Axis:
    """One axis of a window: elements in and out, taps, stride, padding before."""

    inputs: int
    outputs: int
    taps: int
    stride: int
    before: int

    @classmethod
    def of(cls, w: Window, axis: int) -> _Axis:
        return cls(w.input[1 + axis], w.output[1 + axis], w.weight.shape[2 + axis], w.stride[axis], w.before[axis])


def _strides(axis: list[_Axis]) -> list[int]:
    """The chip's strides that serve all windows: theirs; any, theirs first, where there is one output only."""
    wanted = {a.stride for a in axis}
    if axis[0].outputs == 1:
        return sorted(STRIDES, key=lambda s: s not in wanted)
    return [s for s in wanted if len(wanted) == 1 and s in STRIDES]


def _offsets(axis: list[_Axis], size: int, stride: int, padding: int) -> tuple[int, int, list[int]] | None:
    """(stride, padding, where each kernel begins in one of ``size``), if the chip then has the outputs wanted."""
    total = axis[0].inputs + 2 * padding
    if total < size or (total - size) // stride + 1 != axis[0].outputs:
        return None
    starts = [padding - a.before for a in axis]
    inside = all(o >= 0 and o + a.taps <= size for o, a in zip(starts, axis, strict=True))
    return (stride, padding, starts) if inside else None


def merged(windows: Sequence[Window], form: Square) -> list[Array]:
    """The kernels, each in its place in a square one: [out, in, size, size]."""
    kernels = []
    for w, (y, x) in zip(windows, form.offsets, strict=True):
        full = np.zeros((*w.weight.shape[:2], form.kernel_size, form.kernel_size), w.weight.dtype)
        full[:, :, y : y + w.weight.shape[2], x : x + w.weight.shape[3]] = w.weight
        kernels.append(full)
    return kernels


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))

"""The int8 form: (batch, time) folded into one oneDNN matmul or convolution of bytes, exact.

Used for payloads that span at most 127 and weights of 8 bits times a power of two: then no pair of products leaves 16
bits, and the result is exact on CPUs without VNNI too. The convolution takes unsigned bytes: negative payloads are moved
up by a zero point. A sum below 2**24 is exact in the float32 that it returns. `works` tries both once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from d2e.ir import Conv2d, Linear, Synapse, linear
from d2e.ir.nodes import Array, Shape
from d2e.ir.shapes import padding_pairs

LARGEST = 127
_LARGEST_SUM = 1 << 24


@dataclass
class Int8:
    """A linear map for bytes in channels-last rows.

    Attributes:
        macs: multiplications per frame, for the choice between this and events.
        weight: int8 [in, out] of a matmul, or the packed weights of a convolution.
        space: (height, width, channels) of the input of a convolution; None for a matmul.
        stride, padding, dilation, groups: of a convolution.
        zero: the byte that stands for payload 0 in a convolution.
        exponent: the weights are this many bits larger than those of a matmul.
        out: elements of a result.
    """

    macs: int
    weight: torch.Tensor
    out: int
    space: Shape | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    zero: int = 0
    exponent: int = 0
    scale: torch.Tensor | None = None

    def __call__(self, rows: Array) -> Array:
        """``rows`` [frames, in] of payloads as bytes (int8 where negative) -> [frames, out], int32 or whole float32."""
        with torch.inference_mode():
            if self.space is None:
                product = torch._int_mm(torch.from_numpy(rows.view(np.int8)), self.weight)
                return np.asarray(product << self.exponent if self.exponent else product)
            moved = rows + np.uint8(self.zero) if self.zero else rows
            frames = torch.from_numpy(moved).view(-1, *self.space).permute(0, 3, 1, 2)
            result = torch.ops.onednn.qconv2d_pointwise(
                frames, 1.0, self.zero, self.weight, self.scale, torch.zeros(self.groups, dtype=torch.int64), None,
                self.stride, self.padding, self.dilation, self.groups, 1.0, 0, torch.float32, "none", [], "",
            )
            return np.asarray(result.permute(0, 2, 3, 1).reshape(rows.shape[0], self.out))


def prepare(
    node: Synapse, matrix: Array | None, shape: Shape, out: Shape, bound: float, payload: tuple[int, int]
) -> Int8 | None:
    """The int8 form of a map of frames of ``shape``, if it has one.

    Args:
        node: a Linear or Conv2d.
        matrix: [in, out] of a Linear, inputs channels last.
        shape, out: of the frames before and after.
        bound: on the absolute sums.
        payload: least and largest the source sends.
    """
    low, high = payload
    if bound >= _LARGEST_SUM or max(-low, high) > LARGEST or not works():
        return None
    if isinstance(node, Linear) and matrix is not None:
        exponent = _exponent(matrix)
        if np.abs(matrix).max(initial=0) >> exponent > 127:
            return None
        weight = torch.from_numpy((matrix >> exponent).astype(np.int8))
        return Int8(matrix.size, weight, matrix.shape[1], exponent=exponent)
    if not isinstance(node, Conv2d) or high - low > LARGEST:
        return None
    step = 1 << _exponent(node.weight)
    if node.weight.min() < -128 * step or node.weight.max() > 127 * step:
        return None
    pads = padding_pairs(node)
    if any(before != after for before, after in pads):
        return None
    if node.stride[1] > 1 and min(shape[2], out[2]) == 1:
        return None  # oneDNN (torch 2.13) crashes or errs where it strides over maps one column wide
    form = _convolution(node, shape, out, tuple(before for before, _ in pads), -low)
    return form if _exact(form, node, shape, payload) else None


def _convolution(node: Conv2d, shape: Shape, out: Shape, padding: tuple[int, ...], zero: int = 0) -> Int8:
    exponent = _exponent(node.weight)
    weight = torch.from_numpy(np.ascontiguousarray((node.weight >> exponent).astype(np.int8)))
    scale = torch.full((out[0],), float(1 << exponent))
    packed = torch.ops.onednn.qconv_prepack(
        weight, scale, 1.0, zero, node.stride, padding, node.dilation, node.groups, (1, *shape)
    )
    size = int(np.prod(out))
    return Int8(
        node.weight[0].size * size, packed, size, (*shape[1:], shape[0]), node.stride, padding, node.dilation,
        node.groups, zero, scale=scale,
    )


def _exponent(weight: Array) -> int:
    """Largest power of two that all weights are multiples of."""
    bits = int(np.bitwise_or.reduce(weight, axis=None))
    return (bits & -bits).bit_length() - 1 if bits else 0


@cache
def works() -> bool:
    """Whether torch has both kernels here and they are exact, tried on the largest payloads and weights."""
    rng = np.random.default_rng(0)
    node = Conv2d(weight=rng.choice([-128, 127, 3], (16, 8, 3, 3)), padding=(1, 1))
    matrix = rng.choice([-127, 127], (160, 16)).astype(np.int8)
    rows = np.full((6, 160), LARGEST, np.int8)
    rows[3:] = -LARGEST
    try:
        found = _convolution(node, (8, 5, 4), (16, 5, 4), (1, 1))
        product = torch._int_mm(torch.from_numpy(rows), torch.from_numpy(matrix)).numpy()
        return _exact(found, node, (8, 5, 4), (0, LARGEST)) and bool((product == rows.astype(np.int64) @ matrix).all())
    except (AttributeError, RuntimeError, TypeError):
        return False


def _exact(form: Int8, node: Conv2d, shape: Shape, payload: tuple[int, int]) -> bool:
    """Whether a convolution is right on a few frames, the first two all of the largest and the least payload."""
    low, high = payload
    rows = np.random.default_rng(0).integers(low, high + 1, (4, math.prod(shape)))
    rows[0], rows[1] = high, low
    frames = np.moveaxis(rows.reshape(-1, *shape[1:], shape[0]), -1, 1)
    expected = np.moveaxis(linear.apply(node, frames, shape), 1, -1).reshape(4, -1)
    return bool((form(rows.astype(np.uint8)) == expected).all())

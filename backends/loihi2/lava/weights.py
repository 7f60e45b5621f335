"""Weights in Lava's terms: digits that its Dense reproduces exactly, kernels in its axis order, files.

Lava's Dense clips to -256..255, drops the lowest 9 - bits bits of mixed-sign weights and shifts the sum by
``weight_exp`` (lava ``utils/weightutils.py``); an integer w of b bits is w << (9 - b), exponent b - 9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from d2e.backends.loihi2.limits import LIMITS
from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import Array, Conv1d, Conv2d, Shape, SumPool2d
from d2e.ir.shapes import padding_pairs

_EXPONENT_MAX = 7
_KERNEL_MAX = int(LIMITS["synapse_mantissa"].value)  # of Lava's Conv, which has no exponent
_KERNELS_MAX = int(LIMITS["step_kernels"].value)
_SMALL_MAX = 127  # Lava's Conv keeps kernel, stride, padding, dilation and groups in 8 bits


@dataclass(frozen=True)
class Digit:
    """One Lava synapse: it delivers ``(weights @ s)`` shifted by ``exponent``.

    Attributes:
        mantissas, shift: Lava's ``weights`` argument is ``mantissas << shift``.
        exponent: ``weight_exp``.
        bits: ``num_weight_bits``.
        sign_mode: name of lava's ``SignMode``.
    """

    mantissas: Array
    shift: int
    exponent: int
    bits: int
    sign_mode: str

    @property
    def weights(self) -> Array:
        """As Lava's ``weights`` argument wants them."""
        return self.mantissas.astype(np.int32) << self.shift


def digits(name: str, weights: Array, bits: int | None = None) -> list[Digit]:
    """Integers as the fewest Lava synapses that add up to exactly them.

    Args:
        name: for the error.
        weights: integers of any shape.
        bits: known width of the grid, sign included; only used where it fits.

    Raises:
        UnsupportedError: D2E-LAVA-013 where they need more than two digits of 8 bits.
    """
    rest = weights
    result: list[Digit] = []
    shift = 0
    while True:
        last = _one_digit(rest, shift, bits)
        if last is not None:
            return [*result, last]
        rest = rest.astype(np.int64, copy=False)
        low = ((rest + 128) & 255) - 128
        if shift + 8 - 1 > _EXPONENT_MAX:
            raise UnsupportedError(
                "D2E-LAVA-013", f"weights {weights.min()}..{weights.max()} need more than 16 bits", node=name,
                hint="Lower --weight-bits or rescale the layer.",
            )
        if low.any():
            result.append(_mixed(low, shift, 8))
        rest, shift = (rest - low) >> 8, shift + 8


def _one_digit(values: Array, shift: int, bits: int | None) -> Digit | None:
    """``values << shift`` as one synapse, or None."""
    for common in range(_trailing_zeros(values) + 1):
        reduced, total = (values >> common if common else values), shift + common
        needed = _signed_bits(reduced)
        if needed <= 8 and total <= _EXPONENT_MAX + 1:
            return _mixed(reduced, total, max(needed, bits if bits and total == 0 and bits <= 8 else 2))
        sign = _one_sign(reduced)
        if sign and total <= _EXPONENT_MAX:
            return Digit(reduced, 0, total, 8, sign)
    return None


def _one_sign(values: Array) -> str | None:
    """The sign all values share where their size fits into 8 bits."""
    if values.min() >= 0 and values.max() <= 255:
        return "EXCITATORY"
    return "INHIBITORY" if values.max() <= 0 and values.min() >= -255 else None


def _mixed(values: Array, shift: int, bits: int) -> Digit:
    return Digit(values, 9 - bits, shift - (9 - bits), bits, "MIXED")


def _signed_bits(values: Array) -> int:
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length()) + 1


def _trailing_zeros(values: Array) -> int:
    joined = int(np.bitwise_or.reduce(values, axis=None)) if values.size else 0
    return (joined & -joined).bit_length() - 1 if joined else 0


# --------------------------------------------------------------------------- axes


def lava_shape(shape: Shape) -> Shape:
    """Lava's order of a frame: [C, H, W] is (W, H, C), [C, L] is (L, 1, C), a vector stays."""
    if len(shape) == 3:
        return tuple(int(n) for n in shape[::-1])
    if len(shape) == 2:
        return (int(shape[1]), 1, int(shape[0]))
    return (int(math.prod(shape)),)


def order(shape: Shape) -> Array:
    """Row-major index in ``shape`` of every neuron in Lava's order."""
    return np.arange(math.prod(shape)).reshape(shape).transpose().reshape(-1)


def to_lava(values: Array, shape: Shape) -> Array:
    """One value, or one per neuron of ``shape``, in Lava's order."""
    if values.ndim == 0:
        return values
    return np.broadcast_to(values, shape).transpose().reshape(lava_shape(shape))


@dataclass(frozen=True)
class Kernel:
    """Arguments of Lava's Conv, all in (X, Y) order."""

    weight: Array
    padding: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def kernels(name: str, node: Conv1d | Conv2d | SumPool2d, channels: int, factor: int = 1) -> list[Kernel]:
    """A torch cross-correlation [out, in, (ky,) kx] times ``factor`` as Lava's convolutions [out, kx, ky, in].

    Kernels are flipped; weights beyond 8 bits take several convolutions that add up to them.

    Raises:
        UnsupportedError: D2E-LAVA-013 for weights that need too many, D2E-LAVA-012 for sizes Lava cannot hold.
    """
    if isinstance(node, SumPool2d):
        weight = np.full((channels, 1, *node.kernel_size), factor, np.int64)
        pads: list[tuple[int, int]] = [(int(p), int(p)) for p in node.padding]
        stride, dilation, groups = [int(s) for s in node.stride], [1, 1], channels
    else:
        weight, groups = node.weight.astype(np.int64) * factor, int(node.groups)
        pads = list(padding_pairs(node))
        stride, dilation = [int(s) for s in node.stride], [int(d) for d in node.dilation]
    if weight.ndim == 3:
        weight, pads, stride, dilation = weight[:, :, None], [(0, 0), *pads], [1, *stride], [1, *dilation]
    parts = _parts(name, weight)
    for axis, (before, after) in enumerate(pads):
        if before != after:
            parts = [_lead(part, axis + 2, dilation[axis], after - before) for part in parts]
            dilation[axis] = 1
    if groups > _SMALL_MAX:
        parts, groups = [_ungrouped(part, groups) for part in parts], 1
    py, px = padding = tuple(max(pair) for pair in pads)
    if max(*parts[0].shape[2:], *padding, *stride, *dilation) > _SMALL_MAX:
        raise UnsupportedError(
            "D2E-LAVA-012", f"kernel size, padding, stride and dilation must not exceed {_SMALL_MAX} in Lava",
            node=name,
        )
    flipped = [np.ascontiguousarray(part[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)) for part in parts]
    (sy, sx), (dy, dx) = stride, dilation
    return [Kernel(part, (px, py), (sx, sy), (dx, dy), groups) for part in flipped]


def _parts(name: str, weight: Array) -> list[Array]:
    """Kernels of -256..255 whose sum is ``weight``."""
    if weight.min() >= -_KERNEL_MAX - 1 and weight.max() <= _KERNEL_MAX:
        return [weight]
    needed = -(-int(np.abs(weight).max()) // _KERNEL_MAX)
    if needed > _KERNELS_MAX:
        raise UnsupportedError(
            "D2E-LAVA-013", f"convolution weights {weight.min()}..{weight.max()} need {needed} convolutions of 8 bits, "
            f"{_KERNELS_MAX} are allowed", node=name, hint="Lower --weight-bits, or the payloads of what feeds it.",
        )
    parts: list[Array] = []
    for _ in range(needed):
        parts.append(np.clip(weight, -_KERNEL_MAX, _KERNEL_MAX))
        weight = weight - parts[-1]
    return parts


def _lead(weight: Array, axis: int, dilation: int, zeros: int) -> Array:
    """The kernel with its dilation written out and ``zeros`` taps before it (for uneven padding)."""
    taps = weight.shape[axis]
    shape = list(weight.shape)
    shape[axis] = zeros + dilation * (taps - 1) + 1
    result = np.zeros(shape, weight.dtype)
    place = [slice(None)] * weight.ndim
    place[axis] = slice(zeros, None, dilation)
    result[tuple(place)] = weight
    return result


def _ungrouped(weight: Array, groups: int) -> Array:
    out, per_group = weight.shape[:2]
    result = np.zeros((out, per_group * groups, *weight.shape[2:]), weight.dtype)
    for o in range(out):
        first = o // (out // groups) * per_group
        result[o, first : first + per_group] = weight[o]
    return result

"""One layer of a ``.net`` file, and what netx can hold in one: weights, delays, convolutions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2e.backends.loihi2.limits import LIMITS
from d2e.compiler.algebra import MATRIX_LIMIT
from d2e.compiler.frontends.netx_arithmetic import delivered, weight_bits
from d2e.ir import Conv1d, Conv2d
from d2e.ir.nodes import Array, Shape, integral
from d2e.ir.shapes import padding_pairs

_SMALL = 127  # Lava's Conv keeps kernel size, stride, padding, dilation and groups in 8 bits
_KERNEL = (-256, 255)
MOST_COPIES = 8


@dataclass(frozen=True)
class Kernel:
    """A torch cross-correlation over two axes (rows, columns)."""

    weight: Array
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Layer:
    """A layer with neurons.

    Attributes:
        name: of the population in the source network.
        shape: [C, H, W] of a convolution, [N] of a dense layer.
        weight: [out, in], or a kernel [out, in, rows, columns].
        recurrent: [out, out]; None: none.
        bias: in weight units: per neuron [N], per channel [C] or per neuron [C, H, W].
        delay: steps: 0-d, per neuron or per input; None: none.
        kernel: of a convolution; None: dense.
        flatten: whether the frames before it are flattened.
        registers: iDecay, vDecay, vThMant.
        helpers: neurons at its end that are no output: an always-on one, and copies of all.
        copies: how often its neurons are there, see `fitted`.
    """

    name: str
    shape: Shape
    weight: Array
    bias: Array
    registers: tuple[int, int, int]
    recurrent: Array | None = None
    delay: Array | None = None
    kernel: Kernel | None = None
    flatten: bool = False
    helpers: int = 0
    copies: int = 1


class PreventedError(Exception):
    """What keeps one layer out of a ``.net`` file."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def as_frames(shape: Shape) -> Shape:
    """[C, L] as [C, 1, L]: netx has three axes."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def kernel(node: Conv1d | Conv2d) -> Kernel:
    """A convolution as netx has it.

    Raises:
        PreventedError: where Lava's Conv cannot hold it.
    """
    weight, pads = node.weight.astype(np.int64), list(padding_pairs(node))
    stride, dilation = list(node.stride), list(node.dilation)
    if weight.ndim == 3:
        weight, pads, stride, dilation = weight[:, :, None], [(0, 0), *pads], [1, *stride], [1, *dilation]
    if any(before != after for before, after in pads):
        raise PreventedError("pads one side more than the other, which netx cannot", "Give the padding as numbers.")
    padding = [before for before, _ in pads]
    if weight.min() < _KERNEL[0] or weight.max() > _KERNEL[1]:
        raise PreventedError(f"its weights reach {weight.min()}..{weight.max()}, more than 8 bits", "Lower --weight-bits.")
    if max(*weight.shape[2:], *padding, *stride, *dilation, node.groups) > _SMALL:
        raise PreventedError(f"kernel size, padding, stride, dilation or groups exceed {_SMALL}")
    return Kernel(weight, (stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), node.groups)


def delays(delay: Array) -> Array | None:
    """Steps per weight (-1: no weight) as netx has them: one number, one per neuron, or one per input.

    Raises:
        PreventedError: where they are neither.
    """
    limit, most = int(LIMITS["delay"].value), int(delay.max(initial=-1))
    if most > limit:
        raise PreventedError(f"is reached {most} steps late; the limit is {limit}")
    if most <= 0:
        return None
    per_neuron, per_input = np.maximum(delay.max(axis=1), 0), np.maximum(delay.max(axis=0), 0)
    if ((delay < 0) | (delay == most)).all():
        return integral(most)
    if ((delay < 0) | (delay == per_neuron[:, None])).all():
        return np.asarray(per_neuron)
    if ((delay < 0) | (delay == per_input)).all() and delay.shape[0] != delay.shape[1]:
        return np.asarray(per_input)
    raise PreventedError("has delays that are neither one per neuron nor one per input")


def fitted(layer: Layer, payload: int) -> Layer:
    """The dense layer as netx computes exactly: it gives a layer's weights one exponent and 8 bits.

    Recurrent weights beyond that, such as a reset, are shared out: the neurons are repeated, each copy hears and fires the
    same, and takes its part.

    Raises:
        PreventedError: not with `MOST_COPIES` of them either.
    """
    recurrent = layer.recurrent
    if recurrent is None:
        if not _held([layer.weight], payload):
            raise _beyond([layer.weight], "")
        return layer
    if layer.delay is not None:
        raise PreventedError("feeds back onto itself (a soft reset or a recurrent layer) and is reached late; netx has one "
                             "or the other")
    size = len(recurrent)
    for copies in range(1, MOST_COPIES + 1):
        parts = [layer.weight, _shared(recurrent, copies)]
        if (size * copies) ** 2 > MATRIX_LIMIT:
            break
        if _held(parts, payload):
            return replace(
                layer, shape=(size * copies,), weight=np.tile(layer.weight, (copies, 1)), bias=np.tile(layer.bias, copies),
                recurrent=np.tile(parts[1], (copies, 1)), helpers=layer.helpers + size * (copies - 1), copies=copies,
            )
    raise _beyond([layer.weight, recurrent], f", resets and biases included, even shared out to {MOST_COPIES} copies")


def _shared(recurrent: Array, copies: int) -> Array:
    """Weights from each of the copies that add up to ``recurrent``."""
    shares = [np.sign(recurrent) * ((np.abs(recurrent) + c) // copies) for c in range(copies)]
    return np.hstack(shares)


def _held(parts: list[Array], payload: int) -> bool:
    """Whether netx computes with exactly these weights, in the chip's 8 bits."""
    if not any(p.any() for p in parts):
        raise PreventedError("has no weight other than 0, which netx cannot scale")
    found = delivered(parts, payload)
    same = found is not None and all(a is b or (a == b).all() for a, b in zip(found, parts, strict=True))
    return same and weight_bits(parts) <= int(LIMITS["weight_bits"].value)


def _beyond(parts: list[Array], what: str) -> PreventedError:
    low, high = min(int(p.min()) for p in parts), max(int(p.max()) for p in parts)
    return PreventedError(f"its weights{what} reach {low}..{high}, which 8 bits of one scale do not hold",
                          "Lower --weight-bits.")

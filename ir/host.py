"""What runs on the host: functions of one frame, without state, in floating point; the rest of a network runs on a chip.

A chip has no products of activations, no statistics of a frame, no reordering, and no sums of real values between layers.
These nodes say where a network needs them (docs/meaning.md). As everywhere, several edges into a node add up first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import KINDS, Array, Node, Shape, _array


@dataclass(frozen=True, eq=False, kw_only=True)
class Host(Node):
    """A function of one frame, in floating point; neither Synapse nor Neuron."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerNorm(Host):
    """``weight * (x - mean) / sqrt(var + eps) + bias`` over the last axis [d]; var divides by d, as torch's does."""

    kind: ClassVar[str] = "layer_norm"
    weight: Array
    bias: Array
    eps: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(Host):
    """``softmax(scale * q k^T) v`` of every head, over frames [tokens, 3 * d] that hold q, k and v side by side.

    The result [tokens, d] has the heads side by side, d / heads entries each, as torch.nn.MultiheadAttention has them.
    """

    kind: ClassVar[str] = "attention"
    heads: int
    scale: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Permute(Host):
    """The frame's own axes in another order: axis i of the result is axis ``axes[i]`` of the frame."""

    kind: ClassVar[str] = "permute"
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Host):
    """The sum of what arrives, plus a bias that broadcasts against the frame: residual streams, position embeddings."""

    kind: ClassVar[str] = "add"
    bias: Array = _array(0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mean(Host):
    """The mean over one of the frame's own axes, which is gone afterwards."""

    kind: ClassVar[str] = "mean"
    axis: int


HOSTS: tuple[type[Host], ...] = (LayerNorm, Attention, Permute, Add, Mean)
KINDS.update({cls.kind: cls for cls in HOSTS})


def apply(node: Host, frames: Array) -> Array:
    """``node`` on ``frames`` [batch, *shape], real or payloads; returns float64 [batch, *output shape]."""
    x = np.asarray(frames, np.float64)
    if isinstance(node, LayerNorm):
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + float(node.eps))
        return np.asarray(centred / spread * node.weight + node.bias)
    if isinstance(node, Attention):
        return _attend(x, node.heads, float(node.scale))
    if isinstance(node, Permute):
        return x.transpose(0, *(1 + axis for axis in node.axes))
    if isinstance(node, Mean):
        return np.asarray(x.mean(axis=node.axis + 1 if node.axis >= 0 else node.axis))
    if isinstance(node, Add):
        return np.asarray(x + node.bias)
    raise TypeError(f"{type(node).__name__} is no function of the host")


def _attend(x: Array, heads: int, scale: float) -> Array:
    """Attention of frames [..., tokens, 3 * d]; scores lose the largest of their row, which changes no softmax."""
    *lead, tokens, width = x.shape
    parts = x.reshape(*lead, tokens, 3, heads, width // (3 * heads))
    q, k, v = (parts[..., i, :, :].swapaxes(-3, -2) for i in range(3))  # [..., heads, tokens, d / heads]
    scores = scale * (q @ k.swapaxes(-2, -1))
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result = (shares / shares.sum(axis=-1, keepdims=True)) @ v
    return np.asarray(result.swapaxes(-3, -2).reshape(*lead, tokens, width // 3))


def macs(node: Host, shape: Shape) -> int:
    """Multiply-accumulates that the host does for one frame of ``shape`` which arrives.

    Attention: 2 * tokens^2 * d, the products q k^T and shares v; its softmax is not counted. The others count one for each
    operation on an entry: LayerNorm 4 (mean, square, quotient, weight and bias), Add 1 (its bias; further edges are not
    known here), Mean 1, Permute 0.
    """
    size = math.prod(shape)
    if isinstance(node, Attention):
        return 2 * shape[-2] * size // 3
    per_entry = {LayerNorm: 4, Add: 1, Mean: 1, Permute: 0}
    return per_entry[type(node)] * size


def options(node: Host) -> Iterator[str]:
    """What is wrong with a node's own fields, whatever frames arrive."""
    if isinstance(node, LayerNorm):
        if node.weight.ndim != 1 or node.weight.shape != node.bias.shape:
            yield f"weight {node.weight.shape} and bias {node.bias.shape} must be [d] both"
        if not 0 < float(node.eps) < math.inf:
            yield f"eps is {node.eps}; a finite number above 0 is needed"
    if isinstance(node, Attention):
        if node.heads < 1:
            yield f"has {node.heads} heads; 1 or more are needed"
        if not math.isfinite(node.scale):
            yield f"scale is {node.scale}; a finite number is needed"
    if isinstance(node, Permute) and sorted(node.axes) != list(range(len(node.axes))):
        yield f"axes {node.axes} are no order of 0..{len(node.axes) - 1}"


def output_shape(name: str, node: Host, shape: Shape) -> Shape:
    """Shape after ``node`` of a frame of ``shape``.

    Raises:
        UnsupportedError: D2E-SHAPE-001 where the frame does not fit the node.
    """
    def fail(message: str) -> UnsupportedError:
        return UnsupportedError("D2E-SHAPE-001", f"{message} but receives frames of shape {shape}", node=name)

    if isinstance(node, LayerNorm) and (not shape or shape[-1] != node.weight.size):
        raise fail(f"normalises {node.weight.size} entries of the last axis")
    if isinstance(node, Attention):
        if len(shape) < 2 or shape[-1] % (3 * node.heads):
            raise fail(f"takes [tokens, 3 * d] with d a multiple of {node.heads} heads")
        return (*shape[:-1], shape[-1] // 3)
    if isinstance(node, Permute):
        if len(node.axes) != len(shape):
            raise fail(f"reorders {len(node.axes)} axes")
        return tuple(shape[axis] for axis in node.axes)
    if isinstance(node, Mean):
        if not -len(shape) <= node.axis < len(shape) or len(shape) < 2:
            raise fail(f"takes the mean over axis {node.axis} and leaves one axis or more")
        return tuple(size for axis, size in enumerate(shape) if axis != node.axis % len(shape))
    if isinstance(node, Add):
        sizes = zip(reversed(node.bias.shape), reversed(shape), strict=False)
        if node.bias.ndim > len(shape) or any(a not in (1, b) for a, b in sizes):
            raise fail(f"adds a bias of shape {node.bias.shape}")
    return shape

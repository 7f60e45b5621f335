"""The text of a synapse: Lava's Dense, Sparse and Conv with integers that add up exactly to the network's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from d2e.backends.loihi2.lava import weights as w
from d2e.backends.loihi2.lava.text import Text
from d2e.ir.errors import UnsupportedError
from d2e.ir.linear import apply
from d2e.ir.nodes import Affine, Array, Conv1d, Conv2d, Linear, Node, Scale, Shape, SumPool2d

DELAY_MAX = 63


@dataclass(frozen=True)
class Wire:
    """One synapse to write.

    Attributes:
        starts: ports of the sources, all of ``source_shape``; ends: variables of the targets, of ``target_shape``.
        shape: of the frame that enters the linear map.
        factor: multiplies the weights.
        delay: steps beyond the first.
        message_bits: of the sources' payloads; 0: plain spikes.
    """

    name: str
    starts: tuple[str, ...]
    source_shape: Shape
    ends: tuple[str, ...]
    target_shape: Shape
    shape: Shape
    factor: int
    delay: int
    message_bits: int


def write(text: Text, node: Node, wire: Wire) -> None:
    """Write a linear map between its sources and targets.

    Raises:
        UnsupportedError: D2E-LAVA-012 for a map Lava has no synapse for, -013 for weights it cannot hold.
    """
    single = math.prod(wire.source_shape) == 1
    if single and isinstance(node, (Conv1d, Conv2d, SumPool2d)):
        column = apply(node, np.ones((1, *wire.shape), np.int64), wire.shape).reshape(-1, 1)
        _matrix(text, wire, column, None)
    elif isinstance(node, (Conv1d, Conv2d, SumPool2d)):
        _conv(text, wire, node)
    elif isinstance(node, Linear) and not isinstance(node, Affine):
        if len(wire.shape) != 1:
            raise UnsupportedError(
                "D2E-LAVA-012", f"a linear map of frames {wire.shape} acts on the last axis only",
                node=wire.name, hint="Put a Flatten before it.",
            )
        stated = node.quantized.bits if node.quantized and wire.factor == 1 else None
        _matrix(text, wire, node.weight, stated)
    elif isinstance(node, Scale):
        _scale(text, wire, node)
    else:
        raise UnsupportedError("D2E-LAVA-012", f"Lava has no synapse for {node.kind}", node=wire.name)


def write_repeat(text: Text, wire: Wire) -> None:
    """Write a synapse that hands every spike on as it is."""
    size = math.prod(wire.source_shape)
    _sparse(text, replace(wire, factor=1), w.Digit(np.ones(size, np.int8), 7, -7, 2, "MIXED"), np.arange(size))


def _conv(text: Text, wire: Wire, node: Conv1d | Conv2d | SumPool2d) -> None:
    if wire.shape != wire.source_shape or getattr(node, "bias", None) is not None:
        raise UnsupportedError(
            "D2E-LAVA-012", "a convolution in Lava has no bias and takes its source's frames as they are",
            node=wire.name, hint="Remove the Flatten before it; give the bias to the neurons.",
        )
    for k in w.kernels(wire.name, node, wire.shape[0], wire.factor):
        var = text.variable(wire.name)
        stored = text.stored(f"{var}_weight", k.weight)
        with _heard(text, wire) as bits:
            text.process(
                var, "Conv", f"weight={stored}, input_shape={w.lava_shape(wire.shape)}",
                f"padding={k.padding}, stride={k.stride}, dilation={k.dilation}, groups={k.groups}",
                f"num_message_bits={bits}",
            )
            _connect(text, wire, var, flat=False)


def _matrix(text: Text, wire: Wire, matrix: Array, stated: int | None) -> None:
    """``matrix`` [target, source], both flat in the network's order."""
    if len(wire.target_shape) > 1:
        matrix = matrix[w.order(wire.target_shape)]
    if len(wire.source_shape) > 1:
        matrix = matrix[:, w.order(wire.source_shape)]
    if wire.factor != 1:
        matrix = matrix.astype(np.int64) * wire.factor
    kind, delays = ("DelayDense", f", delays={wire.delay}") if wire.delay else ("Dense", "")
    for digit in w.digits(wire.name, matrix, stated):
        var = text.variable(wire.name)
        stored = text.stored(f"{var}_weight", digit.mantissas, digit.shift)
        with _heard(text, wire) as bits:
            text.process(var, kind, f"weights={stored}{delays}", *_options(digit, bits))
            _connect(text, wire, var, flat=True)


def _scale(text: Text, wire: Wire, node: Scale) -> None:
    """A diagonal; source and target may keep their neurons in different orders."""
    values = np.broadcast_to(node.scale.astype(np.int64), wire.shape).reshape(-1) * wire.factor
    columns, rows = w.order(wire.source_shape), w.order(wire.target_shape)
    column_of = np.empty_like(columns)
    column_of[columns] = np.arange(columns.size)
    for digit in w.digits(wire.name, values[rows]):
        _sparse(text, wire, digit, column_of[rows])


def _sparse(text: Text, wire: Wire, digit: w.Digit, columns: Array) -> None:
    """A square matrix with one weight per row."""
    var = text.variable(wire.name)
    key = f"{var}_weight"
    text.stored(key, digit.weights)
    text.stored(f"{key}_col", columns)
    kind, delays = ("DelaySparse", f", delays=_diagonal({key!r}, {wire.delay})") if wire.delay else ("Sparse", "")
    with _heard(text, wire) as bits:
        text.process(var, kind, f"weights=_diagonal({key!r}){delays}", *_options(digit, bits))
        _connect(text, wire, var, flat=True)


def _options(digit: w.Digit, bits: str) -> tuple[str, str]:
    return (
        f"weight_exp={digit.exponent}, num_weight_bits={digit.bits}, sign_mode=SignMode.{digit.sign_mode}",
        f"num_message_bits={bits}",
    )


@contextmanager
def _heard(text: Text, wire: Wire) -> Iterator[str]:
    """The block in which a synapse is written; yields the text of its num_message_bits."""
    if len(wire.starts) == 1:
        yield str(wire.message_bits)
        return
    with text.inside(f"for heard in _together({', '.join(wire.starts)}):"):
        yield "_sum_bits(heard)"


def _connect(text: Text, wire: Wire, synapse: str, *, flat: bool) -> None:
    """Wire sources -> synapse -> targets; Dense and Sparse take and give vectors."""
    leaves = ".flatten()" if flat and len(w.lava_shape(wire.source_shape)) > 1 else ""
    shape = w.lava_shape(wire.target_shape)
    enters = f".reshape({shape})" if flat and len(shape) > 1 else ""
    if len(wire.starts) == 1:
        text.line(f"{wire.starts[0]}{leaves}.connect({synapse}.s_in)")
    else:
        with text.inside("for port in heard:"):
            text.line(f"port{leaves}.connect({synapse}.s_in)")
    if len(wire.ends) == 1:
        text.line(f"{synapse}.a_out{enters}.connect({wire.ends[0]}.a_in)")
    else:
        with text.inside(f"for end in ({', '.join(wire.ends)}):"):
            text.line(f"{synapse}.a_out{enters}.connect(end.a_in)")

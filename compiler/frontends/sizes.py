"""Sizes in a traced graph: ``x.size(0)``, ``x.shape[2:]``, ``c // 2`` have values once the frames' shapes are known."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from d2e.ir.nodes import Shape


@dataclass(frozen=True)
class Leading:
    """The size of an axis before the frame's own (batch or time), which is not known: axis ``axis`` of ``count``."""

    axis: int
    count: int


class Unknown(Exception):
    """A size computed of batch or time."""


_ARITHMETIC = {
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.neg,
    operator.getitem,
}


def mark(node: fx.Node, sizes: set[fx.Node]) -> bool:
    """Whether a node is a shape or a size, after those before it; then it joins ``sizes``."""
    of_frame = node.target in ("size", torch.Tensor.size) or (node.target is getattr and node.args[1] == "shape")
    given = node.all_input_nodes
    if of_frame or (node.target in _ARITHMETIC and given and all(value in sizes for value in given)):
        sizes.add(node)
    return node in sizes


def value(thing: Any, sizes: set[fx.Node], shape_of: Callable[[fx.Node, fx.Node], tuple[Leading | int, ...]]) -> Any:
    """An argument of a call with every size in it as a number.

    Args:
        thing: a node, a number, or a tuple, list or slice of such; what is no size stays as it is.
        sizes: the nodes that are sizes.
        shape_of: (a node of a frame, the node that asks) -> all its sizes.

    Raises:
        Unknown: for arithmetic with the size of batch or time.
    """
    if isinstance(thing, (tuple, list)):
        return type(thing)(value(entry, sizes, shape_of) for entry in thing)
    if isinstance(thing, slice):
        return slice(*(value(entry, sizes, shape_of) for entry in (thing.start, thing.stop, thing.step)))
    if not isinstance(thing, fx.Node) or thing not in sizes:
        return thing
    if thing.target in _ARITHMETIC:
        operate: Any = thing.target
        try:
            return operate(*value(tuple(thing.args), sizes, shape_of))
        except (TypeError, IndexError, ZeroDivisionError):
            raise Unknown from None
    (frame,) = thing.all_input_nodes
    shape = shape_of(frame, thing)
    given: Any = thing.kwargs.get("dim", thing.args[1] if len(thing.args) > 1 else None)
    if thing.target is getattr or given is None:
        return shape
    try:
        return shape[given]
    except IndexError:
        raise Unknown from None


def frame_of(target: list[Any], leading: int, shape: Shape) -> Shape | None:
    """What ``view`` makes of a frame of ``shape`` behind ``leading`` axes; None where it does not keep those as they are.

    One size may be -1; of an axis before the frame it stands for that axis' own size where the rest fills a frame.
    """
    if len(target) <= leading or target.count(-1) > 1:
        return None
    kept = [target[i] in (-1, Leading(i, leading)) for i in range(leading)]
    rest = target[leading:]
    if not all(kept) or not all(isinstance(n, int) for n in rest):
        return None
    total, known = math.prod(shape), math.prod(n for n in rest if n != -1)
    if known <= 0 or total % known or (-1 not in rest and known != total):
        return None
    return tuple(total // known if n == -1 else n for n in rest)

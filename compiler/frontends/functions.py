"""The table of functions between layers: what a traced call becomes, and the words a reader knows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.nn import functional

from d2e.compiler.frontends import frames, layers, sizes
from d2e.compiler.frontends.builder import Flow
from d2e.compiler.frontends.modules import ROWS
from d2e.compiler.frontends.refusals import option_refusal, refusal
from d2e.compiler.frontends.tensors import Row
from d2e.ir.errors import Finding, UnsupportedError

if TYPE_CHECKING:
    from d2e.compiler.frontends.graph_reader import GraphReader

Function = Callable[["GraphReader", str, fx.Node], Flow]


@dataclass(frozen=True)
class Vocabulary:
    """What a reader turns into nodes.

    Attributes:
        rows: dotted class name -> row, for modules.
        functions: functions, and methods by name.
        refusal: the error for a layer or function that stands in neither, by (its name, the node's).
        check: findings about a call before anything is read.
        constants: whether functions may take parameters of the model, and what is computed of them (`GraphReader.constant`).
    """

    rows: Mapping[str, Row]
    functions: Mapping[Any, Function]
    refusal: Callable[[str, str], UnsupportedError] = refusal
    check: Callable[[GraphReader, fx.Node], list[Finding]] = lambda reader, node: []
    constants: bool = False


def bound(reader: GraphReader, name: str, node: fx.Node, names: str) -> dict[str, Any]:
    """A call's arguments after the first, by name, with the sizes among them as numbers."""
    given = {**dict(zip(names.split(), node.args[1:], strict=False)), **node.kwargs}
    return {key: reader.value(value, name) for key, value in given.items() if key != "input"}


def several(reader: GraphReader, name: str, node: fx.Node, key: str) -> list[Any]:
    """The numbers of a call that takes them one by one or as a tuple: ``view(2, 3)``, ``view((2, 3))``."""
    given = reader.value([*node.args[1:], *(node.kwargs[k] for k in (key,) if k in node.kwargs)], name)
    one = given[0] if len(given) == 1 else given
    return list(one) if isinstance(one, (tuple, list)) else list(given)


def _add(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = {**dict(zip(("input", "other"), node.args, strict=False)), **node.kwargs}
    terms = [given.get("input"), given.get("other")]
    if not all(isinstance(term, fx.Node) and term in reader.flows for term in terms):
        raise refusal("an addition of something that is not a frame", name)
    flows = [reader.flows[term] for term in terms if isinstance(term, fx.Node)]
    factor = given.get("alpha", 1)
    if isinstance(factor, (int, float)) and factor != 1:
        flows[1] = layers.scale(reader.build, f"{name}.alpha", flows[1], factor)
    return reader.build.add_up(name, flows)


def _multiply(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = reader.value(tuple(node.args), name)
    frames_ = [a for a in given if isinstance(a, fx.Node)]
    factors = [float(a) for a in given if isinstance(a, (int, float))]
    if len(frames_) != 1 or len(factors) != 1 or frames_[0] not in reader.flows:
        raise refusal("a product of two tensors", name)
    return layers.scale(reader.build, name, reader.flows[frames_[0]], factors[0])


def _flatten(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = {"start_dim": 0, "end_dim": -1, **bound(reader, name, node, "start_dim end_dim")}
    return reader.flatten(name, node, reader.flow_of(node, name), given["start_dim"], given["end_dim"])


def _unflatten(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """What folds time into the batch unfolds it: ``x.unflatten(0, (time, batch))``."""
    given = node.args[2] if len(node.args) == 3 else ()
    folded = node.args[0] in reader.folded or reader.before.get(node) == 2
    if not folded or node.args[1] != 0 or not isinstance(given, Sequence) or len(given) != 2:
        raise refusal("an unflatten that does not give time and batch back", name)
    return reader.flow_of(node, name)


def _item(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """``frames, state = neuron(frames)``, or ``x[:, :, ::2, ::2]``."""
    if reader.pair_of(node) is not None:
        if node.args[1] != 0:
            raise refusal("indexing", name)
        return reader.flow_of(node, name)
    flow, leading = reader.flow_of(node, name), reader.leading(node)
    index = reader.value(node.args[1], name)
    index = list(index) if isinstance(index, (tuple, list)) else [index]
    rank = leading + len(flow.shape)
    if index.count(Ellipsis) == 1:
        at = index.index(Ellipsis)
        index[at : at + 1] = [slice(None)] * (rank - len(index) + 1)
    index += [slice(None)] * (rank - len(index))
    plain = len(index) == rank and all(isinstance(entry, slice) and _is_plain(entry) for entry in index)
    if not plain or any(entry.indices(8) != (0, 8, 1) for entry in index[:leading]):
        raise refusal("indexing", name)
    kept = [range(n)[entry] for n, entry in zip(flow.shape, index[leading:], strict=True)]
    return frames.select(reader.build, name, flow, kept)


def _is_plain(index: slice) -> bool:
    return all(end is None or isinstance(end, int) for end in (index.start, index.stop, index.step))


def _pad(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = bound(reader, name, node, "pad mode value")
    if given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0):
        raise option_refusal("pads with something else than zeros", name, "Use mode='constant' and value=0.")
    flow, pads = reader.flow_of(node, name), list(given["pad"])
    pairs = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    beyond, pairs = pairs[: -len(flow.shape)], pairs[-len(flow.shape) :]
    if any(n != 0 for pair in beyond for n in pair):
        raise option_refusal("pads the axes of batch or time", name, "Pad the frame's own axes.")
    return frames.pad(reader.build, name, flow, [(0, 0)] * (len(flow.shape) - len(pairs)) + pairs)


def _concat(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = {**dict(zip(("tensors", "dim"), node.args, strict=False)), **node.kwargs}
    parts = given.get("tensors", ())
    if not isinstance(parts, (tuple, list)) or not parts or not all(part in reader.flows for part in parts):
        raise refusal("a concatenation of something that is not a frame", name)
    flows = [reader.flows[part] for part in parts]
    (axis,) = axes_of(reader, name, node, flows[0], given.get("dim", given.get("axis", 0)))
    if axis != 0:
        raise option_refusal("joins frames along an axis that is not their channels", name, "Join the channels.")
    return frames.concat(reader.build, name, flows)


def axes_of(reader: GraphReader, name: str, node: fx.Node, flow: Flow, dims: Any) -> list[int]:
    """Axes of a call as axes of the frame; batch and time are below 0."""
    leading = reader.leading(node)
    given = reader.value(dims, name)
    given = list(given) if isinstance(given, (tuple, list)) else [given]
    if not all(isinstance(axis, int) for axis in given):
        raise refusal(f"{node.name} over all axes", name)
    return [(axis + len(flow.shape) if axis < 0 else axis - leading) for axis in given]


def _reduce(reader: GraphReader, name: str, node: fx.Node, *, mean: bool) -> Flow:
    given = bound(reader, name, node, "dim keepdim")
    flow = reader.flow_of(node, name)
    if given.get("dim", given.get("axis")) is None or given.get("dtype") is not None:
        raise refusal("mean over all axes" if mean else "sum over all axes", name)
    axes = axes_of(reader, name, node, flow, given.get("dim", given.get("axis")))
    return frames.reduce_space(reader.build, name, flow, axes, bool(given.get("keepdim")), mean)


def _squeeze(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    flow, given = reader.flow_of(node, name), bound(reader, name, node, "dim")
    axes = axes_of(reader, name, node, flow, given.get("dim"))
    if any(axis < 0 for axis in axes):
        raise refusal("squeeze of batch or time", name)
    return frames.squeeze(reader.build, name, flow, axes)


def _reshape(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """``x.view(x.size(0), -1)``: what keeps batch and time."""
    flow = reader.flow_of(node, name)
    target = several(reader, name, node, "shape")
    shape = sizes.frame_of(target, reader.leading(node), flow.shape)
    if shape is None:
        raise refusal(str(getattr(node.target, "__name__", node.target)), name)
    return frames.reshape(reader.build, name, flow, shape)


def _avg_pool2d(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    names = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
    return layers.avg_pool2d(reader.build, name, reader.flow_of(node, name), **bound(reader, name, node, names))


def _adaptive_avg_pool2d(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = bound(reader, name, node, "output_size")
    return layers.adaptive_avg_pool2d(reader.build, name, reader.flow_of(node, name), given["output_size"])


def _pass(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    return reader.flow_of(node, name)


_PASSED: dict[Any, Function] = {
    functional.dropout: _pass, functional.dropout1d: _pass, functional.dropout2d: _pass, torch.dropout: _pass,
    "contiguous": _pass, "unflatten": _unflatten,
}
_MOVED: dict[Any, Function] = {
    operator.getitem: _item, "__getitem__": _item, torch.flatten: _flatten, "flatten": _flatten,
    "view": _reshape, "reshape": _reshape, torch.reshape: _reshape, "squeeze": _squeeze, torch.squeeze: _squeeze,
}
TURNS: dict[Any, str] = {
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", torch.transpose, torch.swapaxes, torch.swapdims), "transpose"),
    **dict.fromkeys(("permute", torch.permute), "permute"),
}
"""What puts axes in another order."""
VIEWS = frozenset([*_PASSED, *_MOVED, *TURNS])
"""What may return its argument's own memory."""
FUNCTIONS: dict[Any, Function] = {
    **_PASSED, **_MOVED,
    operator.add: _add, operator.iadd: _add, torch.add: _add, "add": _add, "add_": _add,
    operator.mul: _multiply, operator.imul: _multiply, torch.mul: _multiply, "mul": _multiply, "mul_": _multiply,
    functional.avg_pool2d: _avg_pool2d, functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    functional.pad: _pad, torch.cat: _concat, torch.concat: _concat, torch.concatenate: _concat,
    torch.mean: partial(_reduce, mean=True), "mean": partial(_reduce, mean=True),
    torch.sum: partial(_reduce, mean=False), "sum": partial(_reduce, mean=False),
}
SPIKING = Vocabulary(ROWS, FUNCTIONS)

"""A traced graph as a network: what every layer and function between layers becomes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from d2e.compiler.frontends import axes, layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.modules import is_stateful, row_of
from d2e.compiler.frontends.refusals import option_refusal, refusal
from d2e.ir.errors import UnsupportedError, raise_findings
from d2e.ir.network import Network


def in_place(node: fx.Node) -> bool:
    """Whether a node changes its first argument."""
    function = node.op in ("call_method", "call_function")
    return function and (node.target in (operator.iadd, operator.imul) or called(node).endswith("_"))


def called(node: fx.Node) -> str:
    """What a node calls, as it is written."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


class GraphReader:
    """Turns the traced graph into nodes."""

    def __init__(
        self, root: nn.Module, where: Mapping[fx.Node, tuple[str, str]], build: Builder, *,
        before: Mapping[fx.Node, int] | None = None, flows: Mapping[fx.Node, Flow] | None = None,
    ) -> None:
        """``where``: scope and path of each node; ``before``: see `axes.Axes`; ``flows``: of inputs that are known."""
        self.root, self.where, self.build, self.before = root, where, build, before or {}
        self.states: set[fx.Node] = set()
        self.flows: dict[fx.Node, Flow] = dict(flows or {})
        self.used: set[str] = set()
        self.sizes: set[fx.Node] = set()
        self.folded: set[fx.Node] = set()

    def read(self, graph: fx.Graph, readout: str) -> Network:
        """The network, node by node; everything that has no form is told at once."""
        raise_findings([f for node in graph.nodes if (error := self._unknown(node)) for f in error.findings])
        result: Any = None
        for node in graph.nodes:
            if node.op == "output":
                result = node.args[0]
            elif node.op == "placeholder":
                self._placeholder(node)
            elif not self._is_size(node) and not self._is_state(node):
                flow = self._flow(node)
                self.flows[node] = replace(flow, alone=flow.alone and len(node.users) == 1)
                if node.target != "unflatten" and any(n in self.folded for n in node.all_input_nodes):
                    self.folded.add(node)
        result = self._sent(result)
        if not isinstance(result, fx.Node) or result not in self.flows:
            raise UnsupportedError(
                "D2E-TRACE-002", "the model does not return one tensor that depends on its input",
                hint="Return the output spikes only; wrap the model if it returns more.",
            )
        return self.build.finish(self.flows[result], readout)

    def _unknown(self, node: fx.Node) -> UnsupportedError | None:
        """The refusal of a layer or function that d2e has no form for."""
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            known = type(module) is nn.Flatten or row_of(module) is not None
            return None if known else refusal(type(module).__name__, str(node.target))
        if node.op == "get_attr":
            return refusal(f"the tensor {called(node)}", self._name(node))
        known = node.op not in ("call_function", "call_method") or self._function(node) is not None
        if known or self._is_size(node) or self._is_state(node):
            return None
        return refusal(called(node), self._name(node))

    def _is_size(self, node: fx.Node) -> bool:
        """Whether a node is a frame's shape, or a part of it."""
        of_frame = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
        if of_frame or (node.target is operator.getitem and node.args[0] in self.sizes):
            self.sizes.add(node)
        return node in self.sizes

    def _pair_of(self, node: fx.Node) -> nn.Module | None:
        """The neuron whose (frame, state) a node takes one of."""
        source = node.args[0] if node.target is operator.getitem else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            return None
        module = self.root.get_submodule(str(source.target))
        return module if axes.returns_state(module) else None

    def _is_state(self, node: fx.Node) -> bool:
        """Whether a node is the state that a neuron returns beside its frame."""
        if self._pair_of(node) is not None and node.args[1] == 1:
            self.states.add(node)
        return node in self.states

    def _sent(self, result: Any) -> Any:
        """The frames of a result (frames, states)."""
        if not isinstance(result, (tuple, list)) or not result:
            return result
        rest: list[fx.Node] = []
        fx.node.map_arg(tuple(result[1:]), rest.append)
        return result[0] if rest and all(node in self.states for node in rest) else result

    def _name(self, node: fx.Node) -> str:
        path = self.where[node][1]
        return f"{path}.{node.name}" if path else node.name

    @staticmethod
    def _function(node: fx.Node) -> Any:
        return (_METHODS if node.op == "call_method" else _FUNCTIONS).get(node.target)

    def _placeholder(self, node: fx.Node) -> None:
        if node in self.flows:
            return
        if not self.flows:
            self.flows[node] = replace(self.build.start, alone=False)
        elif node.users:
            raise UnsupportedError(
                "D2E-TRACE-002", f"the model takes a second input {node.name!r}",
                hint="Wrap it to take one tensor.",
            )

    def _flow(self, node: fx.Node) -> Flow:
        if node.op == "call_module":
            return self._module(node, str(node.target))
        name = self._name(node)
        if in_place(node) and self._read_later(node.all_input_nodes[0], node):
            raise refusal(f"{called(node)} in place on a tensor that is used again", name)
        flow: Flow = self._function(node)(self, name, node)
        return flow

    def _read_later(self, value: fx.Node, node: fx.Node) -> bool:
        return any(user is not node and user not in self.flows for user in value.users)

    def _module(self, node: fx.Node, path: str) -> Flow:
        module = self.root.get_submodule(path)
        row = row_of(module)
        if is_stateful(module) and path in self.used:
            raise UnsupportedError(
                "D2E-LAYER-007", f"the neuron {path} is used twice; its state would be shared", node=path,
                hint="Make one neuron for each place.",
            )
        self.used.add(path)
        flow = self.flow_of(node, path)
        if is_stateful(module) and node.all_input_nodes[0] in self.folded:
            raise option_refusal(
                "receives time folded into the batch, and would forget its state between steps", path,
                "Give it [time, batch, …]: unflatten before it.",
            )
        if axes.merges(module):
            return self.build.add_up(path, [flow, *(self.flows[n] for n in node.all_input_nodes[1:])])
        if axes.returns_state(module) and len(node.all_input_nodes) > 1:
            raise refusal("a state that is handed to another neuron", path)
        if row is None:
            assert isinstance(module, nn.Flatten), "read refuses layers without a row"
            return self.flatten(path, node, flow, module.start_dim, module.end_dim)
        return row(self.build, path, module, flow)

    def flow_of(self, node: fx.Node, name: str) -> Flow:
        """The flow a node's first argument stands for."""
        value = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if not isinstance(value, fx.Node) or value not in self.flows:
            raise refusal(f"a call without the frame as first argument ({node.name})", name)
        return self.flows[value]

    def flatten(self, name: str, node: fx.Node, flow: Flow, start: int, end: int) -> Flow:
        """Flatten; a ``forward`` around neurons counts batch and time, unless it starts at axis 1."""
        scope = self.where[node][0]
        if self.before and scope != axes.WRAPPED:
            leading = self.before[node.all_input_nodes[0]]
            if (leading, start, end) == (2, 0, 1):
                return flow
            return layers.flatten(self.build, name, flow, start, end, leading)
        if scope == "steps" and node.all_input_nodes[0] not in self.folded:
            if (start, end) == (0, 1):
                self.folded.add(node)
                return flow
            return layers.flatten(self.build, name, flow, start, end, 2)
        return layers.flatten(self.build, name, flow, start, end, 2 if scope == "time" and start != 1 else 1)


def _bound(node: fx.Node, names: str) -> dict[str, Any]:
    """A call's arguments after the first, by name."""
    return {**dict(zip(names.split(), node.args[1:], strict=False)), **node.kwargs}


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
    frames = [a for a in node.args if isinstance(a, fx.Node)]
    factors = [float(a) for a in node.args if isinstance(a, (int, float))]
    if len(frames) != 1 or len(factors) != 1 or frames[0] not in reader.flows:
        raise refusal("a product of two tensors", name)
    return layers.scale(reader.build, name, reader.flows[frames[0]], factors[0])


def _flatten(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = {"start_dim": 0, "end_dim": -1, **_bound(node, "start_dim end_dim")}
    return reader.flatten(name, node, reader.flow_of(node, name), given["start_dim"], given["end_dim"])


def _unflatten(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """What folds time into the batch unfolds it: ``x.unflatten(0, (time, batch))``."""
    sizes = node.args[2] if len(node.args) == 3 else ()
    folded = node.args[0] in reader.folded or reader.before.get(node) == 2
    if not folded or node.args[1] != 0 or not isinstance(sizes, Sequence) or len(sizes) != 2:
        raise refusal("an unflatten that does not give time and batch back", name)
    return reader.flow_of(node, name)


def _item(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """``frames, state = neuron(frames)``."""
    if reader._pair_of(node) is None or node.args[1] != 0:
        raise refusal("indexing", name)
    return reader.flow_of(node, name)


def _avg_pool2d(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    names = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
    return layers.avg_pool2d(reader.build, name, reader.flow_of(node, name), **_bound(node, names))


def _adaptive_avg_pool2d(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    given = _bound(node, "output_size")
    return layers.adaptive_avg_pool2d(reader.build, name, reader.flow_of(node, name), given["output_size"])


def _pass(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    return reader.flow_of(node, name)


_Function = Callable[[GraphReader, str, fx.Node], Flow]
_FUNCTIONS: dict[Any, _Function] = {
    operator.add: _add, operator.iadd: _add, torch.add: _add,
    operator.mul: _multiply, operator.imul: _multiply, torch.mul: _multiply,
    torch.flatten: _flatten, operator.getitem: _item,
    functional.avg_pool2d: _avg_pool2d, functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    functional.dropout: _pass, functional.dropout1d: _pass, functional.dropout2d: _pass, torch.dropout: _pass,
}
_METHODS: dict[Any, _Function] = {
    "add": _add, "add_": _add, "mul": _multiply, "mul_": _multiply, "flatten": _flatten, "contiguous": _pass,
    "unflatten": _unflatten,
}

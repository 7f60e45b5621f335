"""Torch modules by tracing: `from_torch` follows a module's ``forward`` symbolically and builds the network.

The tracer is nirtorch's, the module map our own (nirtorch's default one loses biases and knows only Linear).
Weights keep the model's precision, single or double; all other numbers are float64.
"""

from __future__ import annotations

import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from nirtorch.torch_tracer import NIRTorchTracer
from torch import fx, nn
from torch.nn import functional

from d2e.compiler.frontends import axes, images, layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.modules import calls_by_itself, calls_by_step, is_stateful, layout_of, row_of
from d2e.compiler.frontends.refusals import option_refusal, refusal
from d2e.compiler.frontends.tensors import LAYOUT
from d2e.compiler.nn.containers import TimeFolded, has_neurons
from d2e.ir.errors import D2EError, UnsupportedError, raise_findings
from d2e.ir.network import Network
from d2e.ir.nodes import Input


def from_torch(
    module: nn.Module, input_shape: Sequence[int], *, time_steps: int | None = None, coding: str = "spikes",
    max_payload: int = 1, readout: str | None = None, dt: float | None = None, name: str | None = None,
) -> Network:
    """The network a torch module describes.

    Args:
        module: built of torch layers, neurons of ``d2e.nn`` and additions; its training mode does not matter.
        input_shape: of one frame, without batch and time.
        time_steps: steps per sample.
        coding: of the input: "spikes", "signed" or "direct".
        max_payload: largest absolute payload of the input.
        readout: "count", "last" or "mean"; None: what the model does over time, or "count".
        dt: length of a step in seconds, if it has one.
        name: kept in the metadata.

    Raises:
        UnsupportedError: D2E-LAYER-001..008 for a layer that does not compile, D2E-TRACE-001..006 for a
            ``forward`` that cannot be followed, D2E-SHAPE-001 where shapes do not fit.
        UsageError: D2E-LOAD-010 for an input that has no meaning.
    """
    source = Input(
        shape=tuple(input_shape), dt=dt, time_steps=time_steps, coding=coding,  # type: ignore[arg-type]
        max_payload=max_payload,
    )
    facts = {"source": "torch", **({"name": name} if name else {})}
    try:
        return _traced(module, source, facts, readout)
    except UnsupportedError as error:
        if not calls_by_itself(module):
            raise
        first = error
    from d2e.compiler.frontends import loops

    try:
        return loops.read(module, source, facts, readout)
    except UnsupportedError as error:
        plain = error.code == "D2E-TRACE-006" and first.code not in _LOOPS
        raise (first if plain else error) from None


def _traced(module: nn.Module, source: Input, facts: Mapping[str, Any], readout: str | None) -> Network:
    """The network of a ``forward`` without a loop."""
    layout = layout_of(module)
    builder = Builder(source, {**facts, **({LAYOUT: layout} if layout else {})})
    builder.single = all(p.dtype != torch.float64 for p in module.parameters())
    scope = "sequence" if layout is None else "steps" if layout == "time-batch" else "frame"
    if row_of(module) is not None:
        module = nn.Sequential(module)
    elif calls_by_step(module):
        module, scope = nn.Sequential(OrderedDict(module.named_children())), "frame"
    tracer = _Tracer(module, scope)
    graph = tracer.follow(module)
    found = axes.of(graph, module, {node for node, (scope, _) in tracer.where.items() if scope == axes.WRAPPED})
    if found.layout is not None:
        builder.metadata = {**builder.metadata, LAYOUT: found.layout}
    over_time = layout == "time-batch"
    if over_time and (steps := images.shown(graph, module)) is not None:
        builder.metadata = {**builder.metadata, LAYOUT: "image"}
        builder.nodes["input"] = replace(source, time_steps=source.time_steps or steps)
    ends = axes.readout(graph, axes.Axes(time=0, before=dict.fromkeys(graph.nodes, 2)) if over_time else found)
    return GraphReader(module, tracer.where, builder, before=found.before).read(graph, readout or ends or "count")


_LOOPS = ("D2E-TRACE-001", "D2E-TRACE-002", "D2E-LAYER-006", "D2E-LAYER-007")
"""What a loop over time looks like to the tracer."""


class _Tracer(NIRTorchTracer):  # type: ignore[misc]
    """Traces to the layers of our table, and notes for every node where it stands.

    A module sees frames ("frame": one leading axis) inside TimeFolded or as a stateless member of a
    Sequential; a ``forward`` of its own around neurons sees batch and time ("time"). In a framework whose
    modules take time and batch, all of them do ("steps"), but for what its containers call step by step.
    """

    def __init__(self, root: nn.Module, scope: str) -> None:
        super().__init__(tuple({type(m) for m in root.modules() if row_of(m) is not None}))
        self.scopes = [_scope(root, scope)]
        self.paths = [""]
        self.failed: str | None = None
        self.where: dict[fx.Node, tuple[str, str]] = {}

    def follow(self, root: nn.Module) -> fx.Graph:
        """The graph of ``root``, without what its output does not need."""
        try:
            graph = self.trace(root, _defaults(root))
        except D2EError:
            raise
        except Exception as error:
            place = self.failed or type(root).__name__
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UnsupportedError(
                "D2E-TRACE-001", f"the forward of {place} cannot be followed without data: {reason}",
                node=self.failed,
                hint="Write it without 'if' or 'for' on tensors or sizes; d2e.nn neurons loop over time.",
            ) from None
        for node in reversed(graph.nodes):
            if not node.users and node.op not in ("output", "placeholder") and not _in_place(node):
                graph.erase_node(node)
        return graph  # type: ignore[no-any-return]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Also what a framework defines: a class of it without a row is named, not followed."""
        return super().is_leaf_module(m, module_qualified_name) or axes.is_layer(m)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Keep the scope and the path while a module is traced."""
        path = self.path_of_module(m)
        leaf = self.is_leaf_module(m, path)
        if isinstance(m, nn.Sequential) and calls_by_step(m):
            forward = partial(nn.Sequential.forward, m)
        elif (inner := axes.wrapped(m)) is not None:
            forward = inner
        if not leaf:
            self.scopes.append(_scope(m, self.scopes[-1]))
            self.paths.append(path)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or path
            raise
        finally:
            if not leaf:
                self.scopes.pop()
                self.paths.pop()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note where the node stands."""
        node: fx.Node = super().create_node(*args, **kwargs)
        self.where[node] = (self.scopes[-1], self.paths[-1])
        return node


def _defaults(root: nn.Module) -> dict[str, Any]:
    """The values of what ``forward`` takes besides its frames, where they may be left out."""
    taken = list(inspect.signature(root.forward).parameters.values())[1:]
    return {p.name: p.default for p in taken if p.default is None or isinstance(p.default, (int, float, str))}


def _scope(module: nn.Module, outer: str) -> str:
    if outer == axes.WRAPPED or axes.wrapped(module) is not None:
        return axes.WRAPPED
    if outer == "frame" or isinstance(module, TimeFolded) or calls_by_step(module):
        return "frame"
    if outer == "steps":
        return "steps"
    if isinstance(module, nn.Sequential):
        return "sequence"
    return "frame" if outer == "sequence" and not has_neurons(module) else "time"


def _in_place(node: fx.Node) -> bool:
    function = node.op in ("call_method", "call_function")
    return function and (node.target in (operator.iadd, operator.imul) or _called(node).endswith("_"))


def _called(node: fx.Node) -> str:
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
            return refusal(f"the tensor {_called(node)}", self._name(node))
        known = node.op not in ("call_function", "call_method") or self._function(node) is not None
        if known or self._is_size(node) or self._is_state(node):
            return None
        return refusal(_called(node), self._name(node))

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
        if _in_place(node) and self._read_later(node.all_input_nodes[0], node):
            raise refusal(f"{_called(node)} in place on a tensor that is used again", name)
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

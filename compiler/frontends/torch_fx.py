"""Torch modules by tracing: `from_torch` follows a module's ``forward`` symbolically and builds the network.

The tracer is nirtorch's, the module map our own (nirtorch's default one loses biases and knows only Linear).
Weights keep the model's precision, single or double; all other numbers are float64.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from nirtorch.torch_tracer import NIRTorchTracer
from torch import fx, nn
from torch.nn import functional

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.modules import row_of
from d2e.compiler.frontends.refusals import refusal
from d2e.compiler.nn.containers import Recurrent, TimeFolded, has_neurons
from d2e.compiler.nn.neurons import Neuron
from d2e.ir.errors import D2EError, UnsupportedError, raise_findings
from d2e.ir.network import Network
from d2e.ir.nodes import Input


def from_torch(
    module: nn.Module, input_shape: Sequence[int], *, time_steps: int | None = None, coding: str = "spikes",
    max_payload: int = 1, readout: str = "count", dt: float | None = None, name: str | None = None,
) -> Network:
    """The network a torch module describes.

    Args:
        module: built of torch layers, neurons of ``d2e.nn`` and additions; its training mode does not matter.
        input_shape: of one frame, without batch and time.
        time_steps: steps per sample.
        coding: of the input: "spikes", "signed" or "direct".
        max_payload: largest absolute payload of the input.
        readout: "count", "last" or "mean".
        dt: length of a step in seconds, if it has one.
        name: kept in the metadata.

    Raises:
        UnsupportedError: D2E-LAYER-001..007 for a layer that does not compile, D2E-TRACE-001/-002 for a
            ``forward`` that cannot be followed, D2E-SHAPE-001 where shapes do not fit.
        UsageError: D2E-LOAD-010 for an input that has no meaning.
    """
    source = Input(
        shape=tuple(input_shape), dt=dt, time_steps=time_steps, coding=coding,  # type: ignore[arg-type]
        max_payload=max_payload,
    )
    builder = Builder(source, {"source": "torch", **({"name": name} if name else {})})
    if row_of(module) is not None:
        module = nn.Sequential(module)
    tracer = _Tracer(module)
    graph = tracer.follow(module)
    return _Reader(module, tracer, builder).read(graph, readout)


class _Tracer(NIRTorchTracer):  # type: ignore[misc]
    """Traces to the layers of our table, and notes for every node where it stands.

    A module sees frames ("frame": one leading axis) inside TimeFolded or as a stateless member of a
    Sequential; a ``forward`` of its own around neurons sees batch and time ("time").
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__(tuple({type(m) for m in root.modules() if row_of(m) is not None}))
        self.scopes = [_scope(root, "sequence")]
        self.paths = [""]
        self.failed: str | None = None
        self.where: dict[fx.Node, tuple[str, str]] = {}

    def follow(self, root: nn.Module) -> fx.Graph:
        """The graph of ``root``, without what its output does not need."""
        try:
            graph = self.trace(root)
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

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Keep the scope and the path while a module is traced."""
        path = self.path_of_module(m)
        leaf = self.is_leaf_module(m, path)
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


def _scope(module: nn.Module, outer: str) -> str:
    if outer == "frame" or isinstance(module, TimeFolded):
        return "frame"
    if isinstance(module, nn.Sequential):
        return "sequence"
    return "frame" if outer == "sequence" and not has_neurons(module) else "time"


def _in_place(node: fx.Node) -> bool:
    function = node.op in ("call_method", "call_function")
    return function and (node.target in (operator.iadd, operator.imul) or _called(node).endswith("_"))


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


class _Reader:
    """Turns the traced graph into nodes."""

    def __init__(self, root: nn.Module, tracer: _Tracer, build: Builder) -> None:
        self.root, self.where, self.build = root, tracer.where, build
        self.flows: dict[fx.Node, Flow] = {}
        self.used: set[str] = set()

    def read(self, graph: fx.Graph, readout: str) -> Network:
        """The network, node by node; everything that has no form is told at once."""
        raise_findings([f for node in graph.nodes if (error := self._unknown(node)) for f in error.findings])
        result: Any = None
        for node in graph.nodes:
            if node.op == "output":
                result = node.args[0]
            elif node.op == "placeholder":
                self._placeholder(node)
            else:
                flow = self._flow(node)
                self.flows[node] = replace(flow, alone=flow.alone and len(node.users) == 1)
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
            known = isinstance(module, nn.Flatten) or row_of(module) is not None
            return None if known else refusal(type(module).__name__, str(node.target))
        if node.op == "get_attr":
            return refusal(f"the tensor {_called(node)}", self._name(node))
        if node.op not in ("call_function", "call_method") or self._function(node) is not None:
            return None
        return refusal(_called(node), self._name(node))

    def _name(self, node: fx.Node) -> str:
        path = self.where[node][1]
        return f"{path}.{node.name}" if path else node.name

    @staticmethod
    def _function(node: fx.Node) -> Any:
        return (_METHODS if node.op == "call_method" else _FUNCTIONS).get(node.target)

    def _placeholder(self, node: fx.Node) -> None:
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
        if isinstance(module, (Neuron, Recurrent)) and path in self.used:
            raise UnsupportedError(
                "D2E-LAYER-007", f"the neuron {path} is used twice; its state would be shared", node=path,
                hint="Make one neuron for each place.",
            )
        self.used.add(path)
        flow = self.flow_of(node, path)
        if isinstance(module, nn.Flatten):
            return self.flatten(path, node, flow, module.start_dim, module.end_dim)
        assert row is not None, "read refuses layers without a row"
        return row(self.build, path, module, flow)

    def flow_of(self, node: fx.Node, name: str) -> Flow:
        """The flow a node's first argument stands for."""
        value = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if not isinstance(value, fx.Node) or value not in self.flows:
            raise refusal(f"a call without the frame as first argument ({node.name})", name)
        return self.flows[value]

    def flatten(self, name: str, node: fx.Node, flow: Flow, start: int, end: int) -> Flow:
        """Flatten; a ``forward`` around neurons counts batch and time, unless it starts at axis 1."""
        leading = 2 if self.where[node][0] == "time" and start != 1 else 1
        return layers.flatten(self.build, name, flow, start, end, leading)


def _bound(node: fx.Node, names: str) -> dict[str, Any]:
    """A call's arguments after the first, by name."""
    return {**dict(zip(names.split(), node.args[1:], strict=False)), **node.kwargs}


def _add(reader: _Reader, name: str, node: fx.Node) -> Flow:
    given = {**dict(zip(("input", "other"), node.args, strict=False)), **node.kwargs}
    terms = [given.get("input"), given.get("other")]
    if not all(isinstance(term, fx.Node) and term in reader.flows for term in terms):
        raise refusal("an addition of something that is not a frame", name)
    flows = [reader.flows[term] for term in terms if isinstance(term, fx.Node)]
    factor = given.get("alpha", 1)
    if isinstance(factor, (int, float)) and factor != 1:
        flows[1] = layers.scale(reader.build, f"{name}.alpha", flows[1], factor)
    return reader.build.add_up(name, flows)


def _multiply(reader: _Reader, name: str, node: fx.Node) -> Flow:
    frames = [a for a in node.args if isinstance(a, fx.Node)]
    factors = [float(a) for a in node.args if isinstance(a, (int, float))]
    if len(frames) != 1 or len(factors) != 1 or frames[0] not in reader.flows:
        raise refusal("a product of two tensors", name)
    return layers.scale(reader.build, name, reader.flows[frames[0]], factors[0])


def _flatten(reader: _Reader, name: str, node: fx.Node) -> Flow:
    given = {"start_dim": 0, "end_dim": -1, **_bound(node, "start_dim end_dim")}
    return reader.flatten(name, node, reader.flow_of(node, name), given["start_dim"], given["end_dim"])


def _avg_pool2d(reader: _Reader, name: str, node: fx.Node) -> Flow:
    names = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
    return layers.avg_pool2d(reader.build, name, reader.flow_of(node, name), **_bound(node, names))


def _adaptive_avg_pool2d(reader: _Reader, name: str, node: fx.Node) -> Flow:
    given = _bound(node, "output_size")
    return layers.adaptive_avg_pool2d(reader.build, name, reader.flow_of(node, name), given["output_size"])


def _pass(reader: _Reader, name: str, node: fx.Node) -> Flow:
    return reader.flow_of(node, name)


_Function = Callable[[_Reader, str, fx.Node], Flow]
_FUNCTIONS: dict[Any, _Function] = {
    operator.add: _add, operator.iadd: _add, torch.add: _add,
    operator.mul: _multiply, operator.imul: _multiply, torch.mul: _multiply,
    torch.flatten: _flatten,
    functional.avg_pool2d: _avg_pool2d, functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    functional.dropout: _pass, functional.dropout1d: _pass, functional.dropout2d: _pass, torch.dropout: _pass,
}
_METHODS: dict[Any, _Function] = {
    "add": _add, "add_": _add, "mul": _multiply, "mul_": _multiply, "flatten": _flatten, "contiguous": _pass,
}

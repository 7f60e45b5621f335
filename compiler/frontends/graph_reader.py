"""A traced graph as a network: what every layer and function between layers becomes."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from d2e.compiler.frontends import axes, layers, sizes
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.functions import SPIKING, VIEWS, Vocabulary
from d2e.compiler.frontends.modules import is_stateful, row_of
from d2e.compiler.frontends.refusals import option_refusal, refusal
from d2e.ir.errors import Finding, UnsupportedError, raise_findings
from d2e.ir.network import Network


def in_place(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node changes its first argument."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return getattr(module, "inplace", False) is True and not isinstance(module, _DropoutNd)
    name = called(node)
    if node.op not in ("call_method", "call_function") or name.endswith("__") or "dropout" in name:
        return False
    return node.target in (operator.iadd, operator.imul) or name.endswith("_") or node.kwargs.get("inplace") is True


def called(node: fx.Node) -> str:
    """What a node calls, as it is written."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


class GraphReader:
    """Turns the traced graph into nodes."""

    def __init__(
        self, root: nn.Module, where: Mapping[fx.Node, tuple[str, str]], build: Builder, *,
        before: Mapping[fx.Node, int] | None = None, flows: Mapping[fx.Node, Flow] | None = None,
        vocabulary: Vocabulary = SPIKING,
    ) -> None:
        """``where``: scope and path of each node; ``before``: see `axes.Axes`; ``flows``: of inputs that are known."""
        self.root, self.where, self.build, self.before = root, where, build, before or {}
        self.vocabulary = vocabulary
        self.flows: dict[fx.Node, Flow] = dict(flows or {})
        self.states: set[fx.Node] = set()
        self.sizes: set[fx.Node] = set()
        self.constants: set[fx.Node] = set()
        self.used: set[str] = set()
        self.folded: set[fx.Node] = set()
        self.read_already: set[fx.Node] = set()
        self.memory: dict[fx.Node, fx.Node] = {}

    def read(self, graph: fx.Graph, readout: str) -> Network:
        """The network, node by node; everything that has no form is told at once."""
        aside = {n for n in graph.nodes if sizes.mark(n, self.sizes) or self._is_state(n) or self._is_constant(n)}
        findings = [finding for node in graph.nodes if node not in aside for finding in self._unknown(node)]
        raise_findings(list(dict.fromkeys(findings)))
        result: Any = None
        for node in graph.nodes:
            if node.op == "output":
                result = node.args[0]
            elif node.op == "placeholder":
                self._placeholder(node)
            elif node not in aside:
                flow = self._flow(node)
                self.flows[node] = replace(flow, alone=flow.alone and len(node.users) == 1)
                if node.target != "unflatten" and any(n in self.folded for n in node.all_input_nodes):
                    self.folded.add(node)
            self.read_already.add(node)
            self.memory[node] = self.memory[node.all_input_nodes[0]] if self._is_view(node) else node
        result = self._sent(result)
        if not isinstance(result, fx.Node) or result not in self.flows:
            raise UnsupportedError(
                "D2E-TRACE-002", "the model does not return one tensor that depends on its input",
                hint="Return the output spikes only; wrap the model if it returns more.",
            )
        return self.build.finish(self.flows[result], readout)

    def _unknown(self, node: fx.Node) -> list[Finding]:
        """The refusals of a layer or function that d2e has no form for."""
        if node.op not in ("call_module", "call_function", "call_method", "get_attr"):
            return []
        found = self.vocabulary.check(self, node)
        if found or self.form_of(node) is not None:
            return found
        what = f"the tensor {called(node)}" if node.op == "get_attr" else called(node)
        module = self.module_of(node)
        error = self.vocabulary.refusal(what if module is None else type(module).__name__, self.place(node))
        return error.findings

    def form_of(self, node: fx.Node) -> Any:
        """The row or function that a call is read by; None: there is none."""
        module = self.module_of(node)
        if module is not None:
            return row_of(module, self.vocabulary.rows) or (layers.flatten if type(module) is nn.Flatten else None)
        return self.vocabulary.functions.get(node.target)

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def value(self, thing: Any, name: str) -> Any:
        """An argument with the sizes in it as numbers (`sizes.value`)."""
        try:
            return sizes.value(thing, self.sizes, self._shape_of)
        except sizes.Unknown:
            raise refusal("a size computed of batch or time", name) from None

    def _shape_of(self, frame: fx.Node, asks: fx.Node) -> tuple[sizes.Leading | int, ...]:
        leading = self.leading(asks)
        return (*(sizes.Leading(i, leading) for i in range(leading)), *self.flows[frame].shape)

    def leading(self, node: fx.Node) -> int:
        """Axes (batch, time) before the frame's own of what a node receives."""
        scope, given = self.where[node][0], node.all_input_nodes[0]
        if self.before and scope != axes.WRAPPED:
            return self.before[given]
        return 2 if scope == "time" or (scope == "steps" and given not in self.folded) else 1

    def pair_of(self, node: fx.Node) -> nn.Module | None:
        """The neuron whose (frame, state) a node takes one of."""
        source = node.args[0] if node.target is operator.getitem else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            return None
        module = self.root.get_submodule(str(source.target))
        return module if axes.returns_state(module) else None

    def _is_state(self, node: fx.Node) -> bool:
        """Whether a node is the state that a neuron returns beside its frame."""
        if self.pair_of(node) is not None and node.args[1] == 1:
            self.states.add(node)
        return node in self.states

    def _is_constant(self, node: fx.Node) -> bool:
        """Whether a node is a parameter, or computed of parameters alone, where the vocabulary has such."""
        given = node.all_input_nodes
        computed = any(n in self.constants for n in given) and all(n in self.constants | self.sizes for n in given)
        if self.vocabulary.constants and node.op != "output" and (node.op == "get_attr" or computed):
            self.constants.add(node)
        return node in self.constants

    def constant(self, node: fx.Node, name: str) -> torch.Tensor:
        """The value of one of `constants`; a batch has the size 1.

        Raises:
            UnsupportedError: D2E-LAYER-006 where it cannot be computed without data.
        """
        if node.op == "get_attr":
            found: torch.Tensor = operator.attrgetter(str(node.target))(self.root)
            return found.detach()
        if node.op not in ("call_function", "call_method") or in_place(node, self.root):
            raise refusal(f"{called(node)} of a parameter", name)

        def known(value: fx.Node) -> Any:
            if value in self.constants:
                return self.constant(value, name)
            size = self.value(value, name)
            return 1 if isinstance(size, sizes.Leading) else size

        args, kwargs = fx.node.map_arg(node.args, known), fx.node.map_arg(node.kwargs, known)
        target: Any = node.target if node.op == "call_function" else getattr(args[0], str(node.target))
        try:
            with torch.no_grad():
                result: torch.Tensor = target(*(args if node.op == "call_function" else args[1:]), **kwargs)
        except (RuntimeError, TypeError, IndexError, ValueError):
            raise refusal(f"{called(node)} of a parameter", name) from None
        return result

    def _sent(self, result: Any) -> Any:
        """The frames of a result (frames, states)."""
        if not isinstance(result, (tuple, list)) or not result:
            return result
        rest: list[fx.Node] = []
        fx.node.map_arg(tuple(result[1:]), rest.append)
        return result[0] if rest and all(node in self.states for node in rest) else result

    def place(self, node: fx.Node) -> str:
        """The name of what a node calls, as the network has it."""
        if node.op == "call_module":
            return str(node.target)
        path = self.where[node][1]
        return f"{path}.{node.name}" if path else node.name

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
        name = self.place(node)
        self._check_in_place(node, name)
        flow: Flow = self.form_of(node)(self, name, node)
        return flow

    def _check_in_place(self, node: fx.Node, name: str) -> None:
        """What changes a tensor in place must be the last to read it, and every view of it."""
        if not in_place(node, self.root):
            return
        memory = self.memory[node.all_input_nodes[0]]
        later = {user for other, where in self.memory.items() if where is memory for user in other.users}
        if later - self.read_already - self.sizes - self.states - {node}:
            raise refusal(f"{called(node)} in place on a tensor that is used again", name)

    def _is_view(self, node: fx.Node) -> bool:
        """Whether a node's result may share the memory of its first argument."""
        if not node.all_input_nodes or self.pair_of(node) is not None:
            return False
        if (module := self.module_of(node)) is not None:
            return isinstance(module, (nn.Flatten, nn.Identity, _DropoutNd)) or in_place(node, self.root)
        return node.target in VIEWS or in_place(node, self.root)

    def _module(self, node: fx.Node, path: str) -> Flow:
        module = self.root.get_submodule(path)
        self._check_in_place(node, path)
        row = row_of(module, self.vocabulary.rows)
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

"""Torch modules by tracing: `from_torch` follows a module's ``forward`` symbolically and builds the network.

The tracer is nirtorch's, the module map our own (nirtorch's default one loses biases and knows only Linear).
Weights keep the model's precision, single or double; all other numbers are float64.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from nirtorch.torch_tracer import NIRTorchTracer
from torch import fx, nn

from d2e.compiler.frontends import axes, images, loops
from d2e.compiler.frontends.builder import Builder
from d2e.compiler.frontends.graph_reader import GraphReader, in_place
from d2e.compiler.frontends.modules import ROWS, calls_by_itself, calls_by_step, layout_of, row_of
from d2e.compiler.frontends.tensors import LAYOUT, Row
from d2e.compiler.nn.attention import SelfAttention
from d2e.compiler.nn.containers import Sequential, TimeFolded, has_neurons
from d2e.ir.errors import D2EError, UnsupportedError
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
        readout: of `d2e.ir.nodes.Output`; None: what the model does over time, or "count".
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
    if row_of(module) is not None or type(module) in NAMED:
        module = nn.Sequential(module)
    elif calls_by_step(module):
        module, scope = nn.Sequential(OrderedDict(module.named_children())), "frame"
    tracer = Tracer(module, scope)
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


NAMED = (SelfAttention,)
"""Modules of d2e that are named where they have no row, and not followed."""


class Tracer(NIRTorchTracer):  # type: ignore[misc]
    """Traces to the layers of our table, and notes for every node where it stands.

    A module sees frames ("frame": one leading axis) inside TimeFolded or as a stateless member of a
    Sequential; a ``forward`` of its own around neurons sees batch and time ("time"). In a framework whose
    modules take time and batch, all of them do ("steps"), but for what its containers call step by step.
    """

    def __init__(self, root: nn.Module, scope: str, rows: Mapping[str, Row] = ROWS) -> None:
        super().__init__(tuple({type(m) for m in root.modules() if row_of(m, rows) is not None}))
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
            if not node.users and node.op not in ("output", "placeholder") and not in_place(node, root):
                graph.erase_node(node)
        return graph  # type: ignore[no-any-return]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Also what a framework defines: a class of it without a row is named, not followed."""
        return super().is_leaf_module(m, module_qualified_name) or axes.is_layer(m) or type(m) in NAMED

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
    if type(module).forward in (nn.Sequential.forward, Sequential.forward):
        return "sequence"
    return "frame" if outer == "sequence" and not has_neurons(module) else "time"

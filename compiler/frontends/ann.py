"""`load_ann`: a trained ReLU network as a network whose populations stand for its ReLUs; a converter gives them thresholds.

The module takes [batch, *shape] and knows no time. Every ReLU becomes a population that fires any number of spikes, marked
with ``metadata={"activation": "relu"}`` and, for ReLU6 and clamps, ``"cap"``: the largest value it lets through.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from d2e.compiler.frontends import ann_refusals, files
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.files import Source
from d2e.compiler.frontends.functions import FUNCTIONS, Function, Vocabulary
from d2e.compiler.frontends.graph_reader import GraphReader, called
from d2e.compiler.frontends.modules import ROWS, is_stateful, row_of
from d2e.compiler.frontends.pt2_archive import Archive
from d2e.compiler.frontends.tensors import Row, dotted
from d2e.compiler.frontends.torch_fx import Tracer
from d2e.ir.errors import Finding, UsageError, raise_findings
from d2e.ir.network import Network
from d2e.ir.nodes import IF, Array, Input, Node, real
from d2e.ir.verify import verified

ACTIVATION, CAP, RELU = "activation", "cap", "relu"
"""Metadata of a population that stands for an activation: which one, and the largest value it lets through."""


def load_ann(
    source: Source, *, input_shape: Sequence[int] | None = None, allow_pickle: bool = False, name: str | None = None,
) -> Network:
    """The network of a trained ANN of ReLUs, for conversion into a spiking network.

    Args:
        source: a ``.pt``/``.pth`` file (checkpoint of ``d2e.nn.save``, whole module), ``pkg.module:factory`` that makes a
            module or (module, facts), a live module, or a network that this function made.
        input_shape: of one sample, without batch; needed where the model does not say it.
        allow_pickle: load a ``.pt`` that holds more than layers, and with it any code it runs.
        name: kept in the metadata.

    Raises:
        UsageError: D2E-LOAD-001..016 (docs/errors.md).
        UnsupportedError: D2E-CONV-001 what is no ReLU network, -002 a maximum, -003 neurons, -004 no ReLU, -005 weights that
            are no numbers; D2E-LAYER-..., D2E-TRACE-..., D2E-SHAPE-... as for spiking models.
    """
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    if text.endswith((".nir", ".net")):
        raise UsageError(
            "D2E-LOAD-008", f"{text} holds a spiking network, not an ANN", hint="Compile it directly (d2e compile).",
        )
    given = {"input_shape": input_shape, "name": name}
    stated = {key: value for key, value in given.items() if value is not None}
    model, facts = files.unwrapped(files.opened(source, allow_pickle), stated, text)
    if isinstance(model, nn.Module):
        files.check_shape_known(facts, text)
        return from_ann(model, facts["input_shape"], name=facts.get("name"))
    if isinstance(model, Network):
        network = _checked(files.restated(model, {key: facts[key] for key in ("input_shape",) if key in facts}, text))
        return network.with_metadata(name=name) if name else network
    if isinstance(model, (torch.export.ExportedProgram, Archive)):
        raise UsageError(
            "D2E-LOAD-008", f"{text} holds an exported program, which is read as a spiking network only",
            hint="Give the module itself: a .pt of d2e.nn.save, or a factory in source (pkg.module:factory).",
        )
    raise files.not_a_model(model, text)


def _checked(network: Network) -> Network:
    """A network in the form that `from_ann` gives it."""
    spiking = [name for name in network.populations if network.nodes[name].metadata.get(ACTIVATION) != RELU]
    raise_findings([f for name in spiking for f in ann_refusals.spiking_refusal(network.nodes[name].kind, name).findings])
    if not network.populations:
        raise ann_refusals.no_relu()
    broken = [name for name, node in network.nodes.items() if not all(np.isfinite(a).all() for a in _arrays(node))]
    raise_findings([f for name in broken for f in ann_refusals.not_finite(network.nodes[name].kind, name).findings])
    return verified(network)


def _arrays(node: Node) -> list[Array]:
    values = (getattr(node, field.name) for field in fields(node))
    return [value for value in values if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


def from_ann(module: nn.Module, input_shape: Sequence[int], *, name: str | None = None) -> Network:
    """The network of a ReLU module over [batch, *input_shape]; see `load_ann`."""
    source = Input(shape=tuple(input_shape), coding="direct")
    build = Builder(source, {"source": "torch", **({"name": name} if name else {})})
    build.single = all(p.dtype != torch.float64 for p in module.parameters())
    if row_of(module, _ROWS) is not None or type(module) is nn.Flatten:
        module = nn.Sequential(module)
    tracer = Tracer(module, "frame", _ROWS)
    graph = tracer.follow(module)
    network = GraphReader(module, tracer.where, build, vocabulary=_VOCABULARY).read(graph, "last")
    if not network.populations:
        raise ann_refusals.no_relu()
    return network


# --------------------------------------------------------------------------- activations


def _activation(build: Builder, name: str, flow: Flow, cap: float | None) -> Flow:
    facts = {ACTIVATION: RELU, **({} if cap is None else {CAP: cap})}
    node = IF(shape=flow.shape, threshold=real(1.0), reset="subtract", max_spikes=0, metadata=facts)
    return build.add(name, node, flow)


def _relu(build: Builder, name: str, module: nn.Module, flow: Flow) -> Flow:
    return _activation(build, name, flow, None)


def _hardtanh(build: Builder, name: str, module: nn.Hardtanh, flow: Flow) -> Flow:
    return _activation(build, name, flow, float(module.max_val))


def _clamp(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    high = _limits(node)[1]
    return _activation(reader.build, name, reader.flow_of(node, name), None if high is None else float(high))


_LIMITS: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "relu": (("", 0), ("", None)), "relu6": (("", 0), ("", 6.0)), "hardtanh": (("min_val", -1.0), ("max_val", 1.0)),
    **dict.fromkeys(("clamp", "clip"), (("min", None), ("max", None))), "clamp_min": (("min", None), ("", None)),
}
"""Function -> the names and defaults of the least and the largest value that it lets through."""
_CLAMPS = (
    functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, functional.hardtanh, functional.hardtanh_,
    torch.clamp, torch.clamp_, torch.clip, torch.clip_, torch.clamp_min, torch.clamp_min_,
    *(f"{name}{end}" for name in ("relu", "clamp", "clip", "clamp_min") for end in ("", "_")),
)


def _limits(node: fx.Node) -> tuple[Any, Any]:
    """The least and the largest value that a clamp lets through."""
    found = []
    for place, (key, default) in enumerate(_LIMITS[called(node).removesuffix("_")], 1):
        given = node.args[place] if key and len(node.args) > place else default
        found.append(node.kwargs.get(key, given) if key else default)
    return found[0], found[1]


def _is_relu(low: Any, high: Any) -> bool:
    numbers = all(value is None or isinstance(value, (int, float)) for value in (low, high))
    return numbers and low == 0 and (high is None or 0 < high < float("inf"))


# --------------------------------------------------------------------------- findings

_PRODUCTS = ("mul", "mul_", "imul", "div", "div_", "truediv", "itruediv", "matmul", "bmm", "pow")


def _check(reader: GraphReader, node: fx.Node) -> list[Finding]:
    """What speaks against the conversion of a layer or function."""
    name, module = reader.place(node), reader.module_of(node)
    if module is not None:
        return _check_module(reader, node, module, name)
    what = called(node)
    activations = [value for value in node.args if isinstance(value, fx.Node) and value not in reader.sizes]
    if what in _PRODUCTS and len(activations) > 1 and all(value.op != "get_attr" for value in activations):
        return ann_refusals.product_refusal(what, name).findings
    clamp = node.target in _CLAMPS and not _is_relu(*_limits(node))
    if clamp or (reader.form_of(node) is None and node.op != "get_attr"):
        return ann_refusals.ann_refusal(what, name, _is_last(node)).findings
    return []


def _check_module(reader: GraphReader, node: fx.Node, module: nn.Module, name: str) -> list[Finding]:
    what = type(module).__name__
    if is_stateful(module):
        return ann_refusals.spiking_refusal(what, name).findings
    clamps = isinstance(module, nn.Hardtanh) and not _is_relu(module.min_val, module.max_val)
    if clamps or reader.form_of(node) is None:
        return ann_refusals.ann_refusal(what, name, _is_last(node)).findings
    return ann_refusals.not_finite(what, name).findings if _holds_nan(module) else []


def _holds_nan(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return any(not torch.isfinite(t).all() for t in tensors if not nn.parameter.is_lazy(t) and not t.is_meta)


def _is_last(node: fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)


_ROWS: dict[str, Row] = {
    **ROWS, dotted(nn.ReLU): _relu, dotted(nn.ReLU6): _hardtanh, dotted(nn.Hardtanh): _hardtanh,
}
_FUNCTIONS: dict[Any, Function] = {**FUNCTIONS, **dict.fromkeys(_CLAMPS, _clamp)}
_VOCABULARY = Vocabulary(_ROWS, _FUNCTIONS, ann_refusals.ann_refusal, _check)

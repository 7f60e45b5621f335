"""Activations of an ANN as populations that stand for them, and the many ways to write them.

A population fires any number of spikes; its metadata say which activation it stands for, and for ReLU6 and clamps ``"cap"``:
the largest value it lets through.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.functions import Function, bound
from d2e.compiler.frontends.graph_reader import GraphReader, called
from d2e.compiler.frontends.refusals import option_refusal
from d2e.compiler.frontends.tensors import Row, dotted
from d2e.ir.nodes import IF, real

ACTIVATION, CAP = "activation", "cap"
"""Metadata of a population that stands for an activation: which one, and the largest value it lets through."""
RELU, GELU, GELU_TANH, SILU = "relu", "gelu", "gelu_tanh", "silu"


def population(build: Builder, name: str, flow: Flow, what: str, cap: float | None = None) -> Flow:
    """A population that stands for an activation."""
    facts = {ACTIVATION: what, **({} if cap is None else {CAP: cap})}
    node = IF(shape=flow.shape, threshold=real(1.0), reset="subtract", max_spikes=0, metadata=facts)
    return build.add(name, node, flow)


# --------------------------------------------------------------------------- ReLU and clamps


def _relu(build: Builder, name: str, module: nn.Module, flow: Flow) -> Flow:
    return population(build, name, flow, RELU)


def _hardtanh(build: Builder, name: str, module: nn.Hardtanh, flow: Flow) -> Flow:
    return population(build, name, flow, RELU, float(module.max_val))


def _clamp(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    high = limits(node)[1]
    return population(reader.build, name, reader.flow_of(node, name), RELU, None if high is None else float(high))


_LIMITS: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "relu": (("", 0), ("", None)), "relu6": (("", 0), ("", 6.0)), "hardtanh": (("min_val", -1.0), ("max_val", 1.0)),
    **dict.fromkeys(("clamp", "clip"), (("min", None), ("max", None))), "clamp_min": (("min", None), ("", None)),
}
"""Function -> the names and defaults of the least and the largest value that it lets through."""
CLAMPS = (
    functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, functional.hardtanh, functional.hardtanh_,
    torch.clamp, torch.clamp_, torch.clip, torch.clip_, torch.clamp_min, torch.clamp_min_,
    *(f"{name}{end}" for name in ("relu", "clamp", "clip", "clamp_min") for end in ("", "_")),
)


def limits(node: fx.Node) -> tuple[Any, Any]:
    """The least and the largest value that a clamp lets through."""
    found = []
    for place, (key, default) in enumerate(_LIMITS[called(node).removesuffix("_")], 1):
        given = node.args[place] if key and len(node.args) > place else default
        found.append(node.kwargs.get(key, given) if key else default)
    return found[0], found[1]


def is_relu(low: Any, high: Any) -> bool:
    """Whether a clamp between these is a ReLU, with a cap or without."""
    numbers = all(value is None or isinstance(value, (int, float)) for value in (low, high))
    return numbers and low == 0 and (high is None or 0 < high < float("inf"))


RELU_ROWS: dict[str, Row] = {dotted(nn.ReLU): _relu, dotted(nn.ReLU6): _hardtanh, dotted(nn.Hardtanh): _hardtanh}
RELU_FUNCTIONS: dict[Any, Function] = dict.fromkeys(CLAMPS, _clamp)


# --------------------------------------------------------------------------- what transformers have


def _gelu_of(approximate: Any, name: str) -> str:
    forms = {"none": GELU, "tanh": GELU_TANH}
    if approximate not in forms:
        raise option_refusal(f"GELU with approximate={approximate!r} is not known", name, "It is 'none' or 'tanh'.")
    return forms[approximate]


def _gelu(build: Builder, name: str, module: nn.GELU, flow: Flow) -> Flow:
    return population(build, name, flow, _gelu_of(module.approximate, name))


def _gelu_call(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    form = bound(reader, name, node, "approximate").get("approximate", "none")
    return population(reader.build, name, reader.flow_of(node, name), _gelu_of(form, name))


def _silu(build: Builder, name: str, module: nn.SiLU, flow: Flow) -> Flow:
    return population(build, name, flow, SILU)


def _silu_call(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    return population(reader.build, name, reader.flow_of(node, name), SILU)


SMOOTH_ROWS: dict[str, Row] = {dotted(nn.GELU): _gelu, dotted(nn.SiLU): _silu}
SMOOTH_FUNCTIONS: dict[Any, Function] = {functional.gelu: _gelu_call, functional.silu: _silu_call}

"""Rows for Norse 1.1.0: its neurons over time and its cells; found by name, Norse is not imported.

One step of Norse (``norse/torch/functional/lif.py``) in its own order, with a = dt * tau_mem_inv and s = dt * tau_syn_inv::

    i = i + I                                     u = (1 - s) * u + I: what i decays by is applied in the next step here
    v = v + a * (v_leak - v + i)                  decay 1 - a, gain a, bias a * v_leak, from v_leak in the first step on
    i = i - s * i
    z = v > v_th                                  fire="gt"
    v = v_reset where z                           or v - v_th (LIFBox with reset_subtract)

The box neurons have no i. IAF integrates I itself, from v_reset on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import option_refusal
from d2e.compiler.frontends.tensors import Row, fitted, weights
from d2e.ir.nodes import Array, Shape

_RESET = "norse.torch.functional.reset"


def _membrane(name: str, module: Any, shape: Shape) -> dict[str, Array]:
    """What the leak does, in the module's own precision."""
    p = module.p
    rate, leak = module.dt * torch.as_tensor(p.tau_mem_inv), torch.as_tensor(p.v_leak)
    values = {"decay_mem": fitted(1 - rate, name, shape), "gain": fitted(rate, name, shape)}
    if bool((leak != 0).any()):
        values |= {"bias": fitted(rate * leak, name, shape), "v_init": fitted(leak, name, shape)}
    return values


def _current(name: str, module: Any, shape: Shape) -> dict[str, Array]:
    return {"decay_syn": fitted(1 - module.dt * torch.as_tensor(module.p.tau_syn_inv), name, shape)}


def _spikes(name: str, module: Any, shape: Shape) -> tuple[dict[str, Array], dict[str, str]]:
    """Threshold and reset, as values and rules."""
    values = {"threshold": fitted(module.p.v_th, name, shape)}
    method = getattr(module.p, "reset_method", None)
    path = "" if method is None else f"{method.__module__}.{getattr(method, '__qualname__', '')}"
    if path == f"{_RESET}.reset_subtract":
        return values, {"reset": "subtract", "fire": "gt"}
    if path not in ("", f"{_RESET}.reset_value"):
        raise option_refusal(f"reset_method={path} is not known here", name, "Use reset_value or reset_subtract of Norse.")
    value = fitted(module.p.v_reset, name, shape)
    if value.any():
        return {**values, "v_reset": value}, {"reset": "value", "fire": "gt"}
    return values, {"reset": "zero", "fire": "gt"}


def _lif_box(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    values, rules = _spikes(name, module, flow.shape)
    return layers.neuron(build, name, flow, "lif", {**_membrane(name, module, flow.shape), **values}, rules)


def _lif(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    values, rules = _spikes(name, module, flow.shape)
    values |= _membrane(name, module, flow.shape) | _current(name, module, flow.shape)
    return layers.neuron(build, name, flow, "cuba_lif", values, rules)


def _lif_recurrent(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    arriving = layers.linear(build, f"{name}.input_weights", flow, weights(module.input_weights, name), None)
    sent = _lif(build, name, module, arriving)
    back = layers.linear(build, f"{name}.recurrent_weights", sent, weights(module.recurrent_weights, name), None)
    build.feed_back(back, sent)
    return sent


def _iaf(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    values, rules = _spikes(name, module, flow.shape)
    start = fitted(module.p.v_reset, name, flow.shape)
    return layers.neuron(build, name, flow, "if", {**values, "v_init": start} if np.any(start) else values, rules)


def _li(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    values = _membrane(name, module, flow.shape) | _current(name, module, flow.shape)
    return layers.neuron(build, name, flow, "li", values, {})


def _li_box(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return layers.neuron(build, name, flow, "li", _membrane(name, module, flow.shape), {})


def _li_linear(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    arriving = layers.linear(build, f"{name}.input_weights", flow, weights(module.input_weights, name), None)
    return _li(build, name, module, arriving)


_MODULE = "norse.torch.module"
_CELLS: dict[str, Row] = {
    f"{_MODULE}.lif.LIFCell": _lif, f"{_MODULE}.lif.LIFRecurrentCell": _lif_recurrent,
    f"{_MODULE}.lif_box.LIFBoxCell": _lif_box, f"{_MODULE}.iaf.IAFCell": _iaf,
    f"{_MODULE}.leaky_integrator.LICell": _li, f"{_MODULE}.leaky_integrator.LILinearCell": _li_linear,
    f"{_MODULE}.leaky_integrator_box.LIBoxCell": _li_box,
}
_OVER_TIME: dict[str, Row] = {
    f"{_MODULE}.lif.LIF": _lif, f"{_MODULE}.lif.LIFRecurrent": _lif_recurrent, f"{_MODULE}.iaf.IAF": _iaf,
    f"{_MODULE}.leaky_integrator.LI": _li,
}
ROWS: dict[str, Row] = {**_CELLS, **_OVER_TIME}
STATEFUL = frozenset(ROWS)
"""Classes that return (what they send, their state)."""
WRAPPERS = {f"{_MODULE}.lift.Lift": "lifted_module"}
"""Class -> the attribute that holds what it applies to every frame."""
AXES: dict[str, int] = {**dict.fromkeys(_CELLS, 1), **dict.fromkeys(_OVER_TIME, 2)}
"""Class -> the axes before a frame's own that it takes: [batch, …], called once per step, or [time, batch, …]."""

"""Rows for Norse 1.1.0: its neurons over time and its cells; found by name, Norse is not imported.

One step of Norse (``norse/torch/functional/lif.py``) in its own order, with a = dt * tau_mem_inv and s = dt * tau_syn_inv::

    i = i + I                                     u = (1 - s) * u + I: what i decays by is applied in the next step here
    v = v + a * (v_leak - v + i)                  decay 1 - a, gain a, bias a * v_leak, from v_leak in the first step on
    i = i - s * i
    z = v > v_th                                  fire="gt"
    v = v_reset where z                           or v - v_th (LIFBox with reset_subtract)

The box neurons have no i. IAF integrates I itself, from v_reset on. LIFRefrac holds v for rho_reset steps (``refractory``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import neuron_refusal, option_refusal
from d2e.compiler.frontends.tensors import Row, fitted, weights
from d2e.ir.nodes import Array, Shape

_RESET = "norse.torch.functional.reset"
_METHODS = ("super", "heaviside", "triangle", "tanh", "circ", "heavi_erfc")
"""Surrogate gradients; they fire alike."""


def _parameters(module: Any) -> Any:
    """Those of the membrane; refractory neurons keep them one level down."""
    return getattr(module.p, "lif", module.p)


def _membrane(name: str, module: Any, shape: Shape) -> dict[str, Array]:
    """What the leak does, in the module's own precision."""
    p = _parameters(module)
    rate, leak = _rate(name, module, "tau_mem_inv"), torch.as_tensor(p.v_leak)
    values = {"decay_mem": fitted(1 - rate, name, shape), "gain": fitted(rate, name, shape)}
    if bool((leak != 0).any()):
        values |= {"bias": fitted(rate * leak, name, shape), "v_init": fitted(leak, name, shape)}
    return values


def _current(name: str, module: Any, shape: Shape) -> dict[str, Array]:
    return {"decay_syn": fitted(1 - _rate(name, module, "tau_syn_inv"), name, shape)}


def _rate(name: str, module: Any, which: str) -> torch.Tensor:
    """What decays in one step: dt times an inverse time constant."""
    rate: torch.Tensor = module.dt * torch.as_tensor(getattr(_parameters(module), which))
    if bool((rate < 0).any()) or bool((rate > 1).any()):
        raise option_refusal(
            f"dt * {which} reaches {float(rate.max()):g}: more than all would decay in a step", name,
            "Use a smaller dt or a longer time constant, and train again.",
        )
    return rate


def _spikes(name: str, module: Any, shape: Shape) -> tuple[dict[str, Array], dict[str, Any]]:
    """Threshold and reset, as values and rules."""
    p = _parameters(module)
    if p.method not in _METHODS:
        raise option_refusal(f"method={p.method!r} does not run in Norse 1.1.0", name, f"Use one of {', '.join(_METHODS)}.")
    values = {"threshold": fitted(p.v_th, name, shape)}
    rules = {"fire": "gt", "refractory": _refractory(name, module)}
    method = getattr(p, "reset_method", None)
    path = "" if method is None else f"{method.__module__}.{getattr(method, '__qualname__', '')}"
    if path == f"{_RESET}.reset_subtract":
        return values, {**rules, "reset": "subtract"}
    if path not in ("", f"{_RESET}.reset_value"):
        raise option_refusal(f"reset_method={path} is not known here", name, "Use reset_value or reset_subtract of Norse.")
    value = fitted(p.v_reset, name, shape)
    if value.any():
        return {**values, "v_reset": value}, {**rules, "reset": "value"}
    return values, {**rules, "reset": "zero"}


def _refractory(name: str, module: Any) -> int:
    """Steps for which rho, set by a spike and counted down by one per step, is above 0."""
    steps = np.ceil(fitted(getattr(module.p, "rho_reset", 0.0), name, ())).ravel()
    if (steps != steps[0]).any() or steps[0] < 0:
        raise option_refusal("rho_reset differs between neurons, or is below 0", name, "Use one number of steps per layer.")
    return int(steps[0])


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


def _no(why: str) -> Row:
    def refuse(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
        raise neuron_refusal(type(module).__name__, why, name, "Use LIFBoxCell, LIF, LIFRefracCell or IAF, and train again.")

    return refuse


_MODULE = "norse.torch.module"
_CELLS: dict[str, Row] = {
    f"{_MODULE}.lif.LIFCell": _lif, f"{_MODULE}.lif.LIFRecurrentCell": _lif_recurrent,
    f"{_MODULE}.lif_box.LIFBoxCell": _lif_box, f"{_MODULE}.iaf.IAFCell": _iaf,
    f"{_MODULE}.leaky_integrator.LICell": _li, f"{_MODULE}.leaky_integrator.LILinearCell": _li_linear,
    f"{_MODULE}.leaky_integrator_box.LIBoxCell": _li_box,
    f"{_MODULE}.lif_refrac.LIFRefracCell": _lif, f"{_MODULE}.lif_refrac.LIFRefracRecurrentCell": _lif_recurrent,
}
_OVER_TIME: dict[str, Row] = {
    f"{_MODULE}.lif.LIF": _lif, f"{_MODULE}.lif.LIFRecurrent": _lif_recurrent, f"{_MODULE}.iaf.IAF": _iaf,
    f"{_MODULE}.leaky_integrator.LI": _li, f"{_MODULE}.lif_refrac.LIFRefracRecurrent": _lif_recurrent,
}
_REFUSED: dict[str, Row] = {f"{_MODULE}.{path}": _no(why) for why, paths in (
    ("adapts its threshold", "lsnn.LSNN lsnn.LSNNCell lsnn.LSNNRecurrent lsnn.LSNNRecurrentCell"),
    ("charges by an exponential of v and adapts", "lif_adex.LIFAdEx lif_adex.LIFAdExCell lif_adex.LIFAdExRecurrent "
     "lif_adex.LIFAdExRecurrentCell lif_adex_refrac.LIFAdExRefracCell lif_adex_refrac.LIFAdExRefracRecurrentCell "
     "lif_adex_refrac.LIFAdExRefracRecurrent"),
    ("charges by an exponential of v", "lif_ex.LIFEx lif_ex.LIFExCell lif_ex.LIFExRecurrent lif_ex.LIFExRecurrentCell"),
    ("has a recovery variable beside v", "izhikevich.Izhikevich izhikevich.IzhikevichCell izhikevich.IzhikevichRecurrent "
     "izhikevich.IzhikevichRecurrentCell"),
    ("has conductances that multiply v", "coba_lif.CobaLIFCell"),
    ("couples the membranes of its layer", "lif_mc.LIFMCRecurrentCell lif_mc_refrac.LIFMCRefracRecurrentCell"),
    ("learns while it runs", "lif_correlation.LIFCorrelation"),
) for path in paths.split()}
ROWS: dict[str, Row] = {**_CELLS, **_OVER_TIME, **_REFUSED}
OVER_TIME = frozenset(_OVER_TIME)
"""Classes that take all steps in one call."""
STATEFUL = OVER_TIME | frozenset(_CELLS)
"""Classes that return (what they send, their state)."""
WRAPPERS = {f"{_MODULE}.lift.Lift": "lifted_module"}
"""Class -> the attribute that holds what it applies to every frame."""
AXES: dict[str, int] = {**dict.fromkeys(_CELLS, 1), **dict.fromkeys(_OVER_TIME, 2)}
"""Class -> the axes before a frame's own that it takes: [batch, …], called once per step, or [time, batch, …]."""

"""SpikingJelly 2.0 (activation_based): how its neurons and layers become nodes, and how its models take frames.

Nothing of SpikingJelly is imported: classes are found by their dotted names, and only attributes are read. One step is
charge, fire (v >= v_threshold), reset (``spikingjelly._ops``), which is the step of `d2e.ir.nodes`, term by term::

    LIF, PLIF   h = v + (x - (v - r)) / tau  = (1 - 1/tau) v + x / tau + r / tau        decay_input=True
                h = v - (v - r) / tau + x    = (1 - 1/tau) v + x       + r / tau        decay_input=False
    CUBALIF     c = c_decay c + x,  h = v_decay v + c                                   no pull towards v_reset
    ILIF        n = round(clip(h / theta, 0, max)) = clip(floor(w / theta), 0, max), w = h + theta / 2

with r = v_reset, or 0 where it is None (soft reset). ``v`` starts at ``v_reset``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.frameworks.spikingjelly_refused import REFUSED_LAYERS, REFUSED_NEURONS
from d2e.compiler.frontends.refusals import neuron_refusal, option_refusal, refusal
from d2e.compiler.frontends.tensors import Row, array, dotted, required, weights
from d2e.ir.nodes import Array, Delay, Scale, real

_NEURON = "spikingjelly.activation_based.neuron"
LAYER = "spikingjelly.activation_based.layer"
_STATELESS = f"{LAYER}.stateless_wrapper"
DELAY = f"{LAYER}.misc.Delay"
MULTI_STEP, SEQ_TO_ANN, STEP_MODE, _ELEMENT_WISE, _LINEAR = (
    f"{LAYER}.container.{name}Container"
    for name in ("MultiStep", "SeqToANN", "StepMode", "ElementWiseRecurrent", "LinearRecurrent")
)
_STEP = (
    "single_step_forward", "multi_step_forward", "single_step_functional_forward", "multi_step_functional_forward",
    "materialize_states", "neuronal_charge", "neuronal_fire", "neuronal_reset",
)
"""What a subclass may not replace: it would compute another step behind the same ``forward``."""
_PROBE = torch.tensor([-2.0, -0.6, -1e-6, 0.0, 1e-6, 0.4, 0.6, 1.5, 3.0])


# --------------------------------------------------------------------------- neurons


def _rounded(build: Builder, value: float) -> Array:
    """A number as the framework's arithmetic sees it: in the precision of the model."""
    return real(np.float32(value) if build.single else value)


def _checked(module: Any, name: str) -> None:
    """Refuse what computes another step than its class states, or sends something else than spikes."""
    cls = next(c for c in type(module).__mro__ if dotted(c) in ROWS)
    changed = [m for m in _STEP if getattr(type(module), m, None) is not getattr(cls, m, None)]
    if changed:
        raise neuron_refusal(
            type(module).__name__, f"replaces {changed[0]} of {cls.__name__}", name, "Use SpikingJelly's own neuron."
        )
    if getattr(module, "_neuron_precision", None) is not None:
        raise option_refusal(
            "keeps its state in another precision than its input", name, "Load the model without a precision policy."
        )


def _threshold(build: Builder, module: Any, name: str) -> Array:
    """The threshold of a neuron that sends one spike where v reaches it."""
    _checked(module, name)
    try:
        with torch.no_grad():
            fires = torch.equal(module.surrogate_function(_PROBE).float(), (_PROBE >= 0).float())
    except Exception:
        fires = False
    if not fires:
        raise option_refusal(
            f"its surrogate function {type(module.surrogate_function).__name__} does not send 1 from the threshold on, "
            "and 0 below", name, "Use a surrogate function with spiking=True.",
        )
    return _number(build, module.v_threshold, "v_threshold", name)


def _number(build: Builder, value: Any, what: str, name: str) -> Array:
    if not isinstance(value, torch.Tensor):
        return _rounded(build, value)
    if value.numel() != 1:
        raise option_refusal(f"{what} is a tensor of shape {list(value.shape)}", name, "Use a number.")
    return required(value, name).reshape(())


def _reset(build: Builder, module: Any) -> tuple[dict[str, Array], dict[str, Any], Array]:
    """(values, rules, r) of the reset: v_reset=None takes the threshold off, a number is where v goes."""
    r = _rounded(build, module.v_reset or 0.0)
    values = {"v_reset": r, "v_init": _rounded(build, module._memories_rv["v"])}
    rule = "subtract" if module.v_reset is None else "value" if r else "zero"
    return values, {"reset": rule, "reset_when": "same", "fire": "ge", "max_spikes": 1}, r


def _if(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    threshold = _threshold(build, module, name)
    values, rules, _ = _reset(build, module)
    return layers.neuron(build, name, flow, "if", {**values, "threshold": threshold}, rules)


def _leaky(build: Builder, name: str, module: Any, flow: Flow, share: Array) -> Flow:
    """LIF whose charge moves v by ``share`` (1 / tau) of the way."""
    threshold = _threshold(build, module, name)
    values, rules, r = _reset(build, module)
    values |= {"threshold": threshold, "decay_mem": 1 - share, "bias": r * share}
    if module.decay_input:
        values["gain"] = share
    return layers.neuron(build, name, flow, "lif", values, rules)


def _lif(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return _leaky(build, name, module, flow, 1 / _number(build, module.tau, "tau", name))


def _parametric(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return _leaky(build, name, module, flow, required(module.w.sigmoid(), name))


def _ternary(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """Spikes of both signs, at v >= theta and v <= -theta; a soft reset moves v towards zero by theta."""
    theta = _threshold(build, module, name)
    values, rules, r = _reset(build, module)
    values |= {"threshold": theta, "levels": real([1.0]), "payloads": real([1.0])}
    if hasattr(module, "tau"):
        share = 1 / _number(build, module.tau, "tau", name)
        values |= {"decay_mem": 1 - share, "bias": r * share, "gain": share if module.decay_input else real(1.0)}
    return layers.neuron(build, name, flow, "multi_threshold", values, {**rules, "signed": True})


def _cuba(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    threshold = _threshold(build, module, name)
    values, rules, _ = _reset(build, module)
    values |= {
        "threshold": threshold, "decay_syn": _number(build, module.c_decay, "c_decay", name),
        "decay_mem": _number(build, module.v_decay, "v_decay", name), "u_init": _rounded(build, module._memories_rv["c"]),
    }
    return layers.neuron(build, name, flow, "cuba_lif", values, rules)


def _integer(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """ILIF rounds v / theta to the nearest count; half a threshold on top makes that a floor.

    Halves go down here (fire="gt"), to the even count there.
    """
    _checked(module, name)
    if not module.surrogate_function.spiking:
        raise option_refusal("its surrogate function sends no spikes", name, "Set surrogate_function.spiking=True.")
    theta = _number(build, module.v_threshold, "v_threshold", name)
    decay, half = _rounded(build, 1.0 - 1.0 / module.tau), theta / 2
    values = {
        "threshold": theta, "decay_mem": decay, "bias": (1 - decay) * half,
        "v_init": _rounded(build, module._memories_rv["v"]) + half,
    }
    rules = {
        "reset": "subtract", "reset_when": "same", "fire": "gt",
        "max_spikes": int(module.surrogate_function.max_spike_count),
    }
    return layers.neuron(build, name, flow, "lif", values, rules)


# --------------------------------------------------------------------------- layers and containers


def _delay(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return build.add(name, Delay(steps=module.delay_steps), flow) if module.delay_steps else flow


def _voting(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """``layer.VotingLayer``: the means of ``voting_size`` neighbours."""
    if len(flow.shape) != 1:
        raise option_refusal(f"votes over frames of shape {list(flow.shape)}", name, "Put a Flatten before it.")
    size = int(module.voting_size)
    means = np.kron(np.eye(flow.shape[0] // size), np.full((1, size), 1 / size))
    missing = np.zeros((len(means), flow.shape[0] - means.shape[1]))
    return layers.linear(build, name, flow, np.hstack([means, missing]), None)


def _flatten(build: Builder, name: str, module: nn.Flatten, flow: Flow) -> Flow:
    """``layer.Flatten`` counts the batch of a single step in both step modes, ``nn.Flatten`` the time too."""
    return layers.flatten(build, name, flow, module.start_dim, module.end_dim, 1)


def _line(build: Builder, name: str, module: Any, flow: Flow, back: Flow) -> Flow:
    """The module of a recurrent container behind ``flow``; what it sends enters ``back`` one step later."""
    sent = _inner(build, f"{name}.sub_module", module.sub_module, build.add_up(name, [flow, back]))
    build.feed(sent, back)
    return sent


def _inner(build: Builder, name: str, module: nn.Module, flow: Flow) -> Flow:
    from d2e.compiler.frontends.modules import row_of

    if type(module) is nn.Sequential:
        for key, child in module.named_children():
            flow = _inner(build, f"{name}.{key}", child, flow)
        return flow
    row: Row | None = _flatten if type(module) is nn.Flatten else row_of(module)
    if row is None:
        raise refusal(type(module).__name__, name)
    return row(build, name, module, flow)


def _linear_recurrent(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """y(t) = sub_module(rc(cat(x(t), y(t-1)))): the weights of x, and those of y as a layer that is fed back."""
    weight, bias, width = weights(module.rc.weight, name), array(module.rc.bias, name), flow.shape[-1]
    current = layers.linear(build, f"{name}.rc", flow, weight[:, :width], bias)
    state = Flow((), (*flow.shape[:-1], weight.shape[1] - width))
    return _line(build, name, module, current, layers.linear(build, f"{name}.y", state, weight[:, width:], None))


def _element_wise(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """y(t) = sub_module(x(t) + y(t-1))."""
    if not _adds(module.element_wise_function):
        raise option_refusal(
            "its element-wise function is not the sum of its two arguments", name,
            "Use operator.add, or a LinearRecurrentContainer.",
        )
    back = build.add(f"{name}.y", Scale(scale=real(1.0)), Flow((), flow.shape))
    return _line(build, name, module, flow, back)


def _adds(function: Callable[..., Any]) -> bool:
    sums = (operator.add, torch.add, "add")
    if function in sums:
        return True
    try:
        nodes = list(fx.Tracer().trace(function).nodes)
    except Exception:
        return False
    if [n.op for n in nodes[:2]] != ["placeholder"] * 2 or len(nodes) != 4:
        return False
    total, result = nodes[2:]
    return total.target in sums and set(total.args) == set(nodes[:2]) and not total.kwargs and result.args == (total,)


# --------------------------------------------------------------------------- tables

NEURONS: dict[str, Row] = {
    f"{_NEURON}.integrate_and_fire.SimpleIFNode": _if,
    f"{_NEURON}.integrate_and_fire.IFNode": _if,
    f"{_NEURON}.integrate_and_fire.HalfThresholdIFNode": _if,
    f"{_NEURON}.lif.SimpleLIFNode": _lif,
    f"{_NEURON}.lif.LIFNode": _lif,
    f"{_NEURON}.plif.ParametricLIFNode": _parametric,
    f"{_NEURON}.lif_variants.CUBALIFNode": _cuba,
    f"{_NEURON}.ternary.TernaryIFNode": _ternary,
    f"{_NEURON}.ternary.TernaryLIFNode": _ternary,
    f"{_NEURON}.ilif.ILIFNode": _integer,
}
STATEFUL: dict[str, Row] = {**NEURONS, **REFUSED_NEURONS, _ELEMENT_WISE: _element_wise, _LINEAR: _linear_recurrent}
ROWS: dict[str, Row] = {
    **STATEFUL, f"{_STATELESS}.Flatten": _flatten, f"{LAYER}.misc.VotingLayer": _voting, DELAY: _delay, **REFUSED_LAYERS,
}
"""Dotted class name -> row."""
LIKE_TORCH: dict[str, str] = {
    f"{_STATELESS}.Linear": "torch.nn.modules.linear.Linear",
    f"{_STATELESS}.Conv1d": "torch.nn.modules.conv.Conv1d",
    f"{_STATELESS}.Conv2d": "torch.nn.modules.conv.Conv2d",
    f"{_STATELESS}.AvgPool2d": "torch.nn.modules.pooling.AvgPool2d",
    f"{_STATELESS}.AdaptiveAvgPool2d": "torch.nn.modules.pooling.AdaptiveAvgPool2d",
    f"{LAYER}.bn.BatchNorm1d": "torch.nn.modules.batchnorm.BatchNorm1d",
    f"{LAYER}.bn.BatchNorm2d": "torch.nn.modules.batchnorm.BatchNorm2d",
    f"{LAYER}.misc.PrintShapeModule": "torch.nn.modules.linear.Identity",
    f"{LAYER}.dropout.Dropout": "torch.nn.modules.dropout.Dropout",
    f"{LAYER}.dropout.Dropout2d": "torch.nn.modules.dropout.Dropout2d",
}
"""Layers of one step that compute what torch's do; the step mode only says how many axes stand in front."""
CONTAINERS = (MULTI_STEP, SEQ_TO_ANN, STEP_MODE)
"""Sequences that call their modules with the frames of one step."""

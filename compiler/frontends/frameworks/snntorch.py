"""The neurons of snnTorch 1.0.0 as nodes; nothing here imports snnTorch, a module's attributes say all.

All fire at ``mem > threshold``. By default a spike resets the membrane in the *next* step (``reset_delay=True``), after the
decay: `Leaky` then integrates that step's input; the others reset after it, so that with "zero" they lose one step of input,
which is our refractory step. Read in snntorch/_neurons/*.py and measured against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import neuron_refusal, option_refusal
from d2e.compiler.frontends.tensors import LAYOUT, Row, array, fitted, weights
from d2e.ir.nodes import Array, Scale

_TWICE = (
    "after a reset that leaves the membrane above the threshold, snnTorch's reset_delay=False fires again only above twice "
    "the threshold; d2e fires above it: the same where no membrane passes twice the threshold (d2e check --against-source)"
)
_RESETS = (("_base_sub", "subtract"), ("_base_zero", "zero"), ("_base_int", "none"))
"""By ``reset_mechanism_val``: the function that a neuron chose when it was built, and the reset's name."""
_PROBE = (-1.0, -1e-3, 0.0, 1e-3, 1.0)


def _leaky(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return _neuron(build, name, module, flow, "lif", {"decay_mem": _decay(module.beta, name, flow)})


def _synaptic(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    decays = {"decay_mem": _decay(module.beta, name, flow), "decay_syn": _decay(module.alpha, name, flow)}
    return _neuron(build, name, module, flow, "cuba_lif", decays)


def _lapicque(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """mem <- (1 - dt / RC) mem + dt / C input, the factors in the module's precision."""
    gain = module.R * (1 / (module.R * module.C)) * module.time_step
    decay = 1 - module.time_step / (module.R * module.C)
    values = {"decay_mem": fitted(decay, name, flow.shape), "gain": fitted(gain, name, flow.shape)}
    if (values["decay_mem"] < 0).any() or not (values["gain"] > 0).all():
        raise option_refusal(
            f"keeps {float(np.min(values['decay_mem'])):g} of the membrane per step (1 - time_step / RC), and takes "
            f"{float(np.min(values['gain'])):g} of the input", name,
            "Use a time_step below R * C (beta above 0.37 and below 1), or Leaky.",
        )
    return _neuron(build, name, module, flow, "lif", values)


def _recurrent(row: Row) -> Row:
    """The row of a neuron whose spikes of the step before come back through ``module.recurrent``."""

    def recurrent(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
        sent = row(build, name, module, flow)
        back = _back(build, f"{name}.recurrent", module.recurrent, sent)
        if back.shape != sent.shape:
            raise option_refusal(
                f"the recurrent layer turns frames of shape {sent.shape} into {back.shape}", f"{name}.recurrent",
                "It must keep the shape (an odd kernel_size).",
            )
        build.feed_back(back, sent)
        return sent

    return recurrent


def _back(build: Builder, name: str, layer: Any, flow: Flow) -> Flow:
    if isinstance(layer, nn.Linear):
        return layers.linear(build, name, flow, weights(layer.weight, name), array(layer.bias, name))
    if isinstance(layer, nn.Conv2d):
        return layers.convolution(
            build, name, flow, weights(layer.weight, name), array(layer.bias, name), stride=layer.stride,
            padding=layer.padding, dilation=layer.dilation, groups=layer.groups,
        )
    return build.add(name, Scale(scale=fitted(layer.V, name, flow.shape)), flow)


def _decay(value: torch.Tensor, name: str, flow: Flow) -> Array:
    return np.clip(fitted(value, name, flow.shape), 0.0, 1.0)


def _neuron(
    build: Builder, name: str, module: Any, flow: Flow, kind: str, decays: Mapping[str, Array]
) -> Flow:
    """One population; the threshold, the reset and the payload are the same in all."""
    _check(name, module)
    build.metadata = {**build.metadata, LAYOUT: "step"}
    values = {**decays, "threshold": fitted(module.threshold, name, flow.shape)}
    values["amplitude"] = fitted(module.graded_spikes_factor, name, flow.shape)
    rules = _rules(module)
    if (rules["reset"], rules["reset_when"]) == ("subtract", "same"):
        warning = {"code": "D2E-LAYER-011", "message": _TWICE, "node": name}
        build.metadata = {**build.metadata, "warnings": [*build.metadata.get("warnings", []), warning]}
    return layers.neuron(build, name, flow, kind, values, rules)


def _rules(module: Any) -> dict[str, Any]:
    """Our step's options for a reset."""
    reset = _RESETS[int(module.reset_mechanism_val)][1]
    kind = type(module).__name__
    delayed = getattr(module, "reset_delay", True) or kind == "RSynaptic"  # which ignores reset_delay=False
    rules: dict[str, Any] = {"reset": reset, "fire": "gt", "reset_when": "next"}
    if reset == "none":
        return {**rules, "reset_when": "same"}
    if reset == "zero" and (not delayed or kind != "Leaky"):
        return {**rules, "reset_when": "same", "refractory": int(delayed)}
    return rules if delayed else {**rules, "reset_when": "same"}


def _check(name: str, module: Any) -> None:
    """Refuse what our step does not have."""
    if module.inhibition:
        raise option_refusal(
            "inhibition=True lets only the neuron with the highest membrane fire", name,
            "Leave it out, or train recurrent inhibitory weights (RLeaky).",
        )
    if module.state_quant:
        raise option_refusal(
            "state_quant rounds the state with a function of its own", name,
            "Leave it out; d2e chooses the integers of the chip.",
        )
    if not (module.threshold > 0).all():
        raise option_refusal(f"fires above a threshold of {float(module.threshold.min()):g}", name,
                             "Train with thresholds above 0; add a bias instead.")
    if module.state_function.__name__ != (own := _RESETS[int(module.reset_mechanism_val)])[0]:
        raise option_refusal(
            f"was built with another reset_mechanism than {own[1]!r}, and snnTorch goes on with part of it", name,
            "Build the neuron with the reset_mechanism it is to have; loading weights or setting it later is not enough.",
        )
    with torch.no_grad():
        sent = module.spike_grad(torch.tensor(_PROBE, dtype=module.threshold.dtype)).tolist()
    if sent != [0.0, 0.0, 0.0, 1.0, 1.0]:
        raise option_refusal(
            f"spike_grad sends {sent} for a membrane {list(_PROBE)} above the threshold", name,
            "Use a surrogate whose forward is 1 above the threshold and 0 elsewhere.",
        )


def _refused(why: str, hint: str = "Use Leaky, Synaptic, RLeaky, RSynaptic or Lapicque.") -> Row:
    def refuse(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
        raise neuron_refusal(f"snnTorch's {type(module).__name__}", why, name, hint)

    return refuse


_HOME = "snntorch._neurons"
_FLOWS = "computes all steps at once, from weights of its own"
ROWS: dict[str, Row] = {
    f"{_HOME}.leaky.Leaky": _leaky,
    f"{_HOME}.synaptic.Synaptic": _synaptic,
    f"{_HOME}.rleaky.RLeaky": _recurrent(_leaky),
    f"{_HOME}.rsynaptic.RSynaptic": _recurrent(_synaptic),
    f"{_HOME}.lapicque.Lapicque": _lapicque,
    f"{_HOME}.alpha.Alpha": _refused(
        "sums two synaptic currents of opposite sign", "Use Synaptic, and train again."
    ),
    f"{_HOME}.slstm.SLSTM": _refused("multiplies gates, as an LSTM"),
    f"{_HOME}.sconv2dlstm.SConv2dLSTM": _refused("multiplies gates, as an LSTM"),
    f"{_HOME}.deltaleaky.DeltaLeaky": _refused("sends the change of its membrane"),
    f"{_HOME}.leakyparallel.LeakyParallel": _refused(_FLOWS),
    f"{_HOME}.linearleaky.LinearLeaky": _refused(_FLOWS),
    f"{_HOME}.stateleaky.StateLeaky": _refused(_FLOWS),
    f"{_HOME}.associative.AssociativeLeaky": _refused(_FLOWS),
}

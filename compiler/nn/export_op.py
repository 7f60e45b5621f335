"""One operator for a population over time, so that ``torch.export`` keeps neurons visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2e.compiler.nn.dynamics import Rules, Values, scan


@torch.library.custom_op("d2e::neuron", mutates_args=())
def neuron(
    current: Tensor, kind: str, reset: str, reset_when: str, fire: str, max_spikes: int, signed: bool, refractory: int,
    threshold: Tensor | None, decay_mem: Tensor | None, decay_syn: Tensor | None, levels: Tensor | None,
    payloads: Tensor | None, gain: Tensor | None, bias: Tensor | None, reset_by: Tensor | None,
    v_reset: Tensor | None, v_min: Tensor | None, v_init: Tensor | None, amplitude: Tensor | None,
    layer_weight: Tensor | None, layer_bias: Tensor | None, padding: list[int], dilation: list[int],
    groups: int,
) -> Tensor:
    """Payloads [batch, time, *shape]; the last five belong to a recurrent layer (padding []: "same")."""
    named = {
        "threshold": threshold, "decay_mem": decay_mem, "decay_syn": decay_syn, "levels": levels,
        "payloads": payloads, "gain": gain, "bias": bias, "reset_by": reset_by, "v_reset": v_reset,
        "v_min": v_min, "v_init": v_init, "amplitude": amplitude,
    }
    values = {name: value for name, value in named.items() if value is not None}
    rules = Rules(kind, reset, reset_when, fire, max_spikes, signed, refractory)
    return scan(current, values, rules, _feedback(layer_weight, layer_bias, padding, dilation, groups))


@neuron.register_fake
def _(current: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(current)


def _feedback(
    weight: Tensor | None, bias: Tensor | None, padding: list[int], dilation: list[int], groups: int
) -> Callable[[Tensor], Tensor] | None:
    if weight is None:
        return None
    if weight.ndim == 2:
        return lambda sent: functional.linear(sent, weight, bias)
    convolve: Any = functional.conv1d if weight.ndim == 3 else functional.conv2d
    return lambda sent: convolve(
        sent, weight, bias, padding=padding or "same", dilation=dilation, groups=groups
    )


def exported(current: Tensor, values: Values, rules: Mapping[str, Any], layer: nn.Module | None) -> Tensor:
    """The operator applied to a module's parameters, options and recurrent layer."""
    stated = Rules(**rules)
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    padding, dilation = getattr(layer, "padding", ()), getattr(layer, "dilation", ())
    if padding == "valid":
        padding = [0] * len(dilation)
    result: Tensor = neuron(
        current, stated.kind, stated.reset, stated.reset_when, stated.fire, stated.max_spikes, stated.signed,
        stated.refractory, values.get("threshold"), values.get("decay_mem"), values.get("decay_syn"), values.get("levels"),
        values.get("payloads"), values.get("gain"), values.get("bias"), values.get("reset_by"),
        values.get("v_reset"), values.get("v_min"), values.get("v_init"), values.get("amplitude"),
        weight, bias, [] if padding == "same" else list(padding), list(dilation), getattr(layer, "groups", 1),
    )
    return result

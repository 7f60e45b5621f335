"""Rows for sinabs 3.1.3: its neurons, pooling and reshaping layers; found by name, sinabs is not imported.

One step of sinabs (``sinabs/layers/functional/lif.py``) and what stands for it here::

    i = alpha_syn * (i + I)                       u = alpha_syn * u + I, gain times alpha_syn
    v = alpha_mem * v + (1 - alpha_mem) * i       gain 1 - alpha_mem where norm_input, else 1
    n = trunc(v / threshold) where v > 0          fire="ge"; max_spikes 0, 1 or max_num_spikes_per_bin
    v = v - n * subtract_value                    MembraneSubtract; threshold where there is no value
    v = v * (n == 0) + reset_value                MembraneReset adds its value to every neuron, at every step
    v = max(v, min_v_mem)                         after the reset: the same as before it, or refused
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import neuron_refusal, option_refusal, refusal
from d2e.compiler.frontends.tensors import Row, dotted, fitted, required
from d2e.ir.nodes import Array, Shape, real

_ACTIVATION = "sinabs.activation"


@dataclass(frozen=True)
class _Dynamics:
    """The numbers of a layer: decays kept per step, the factor on the current, the synapse's decay."""

    decay: Array | None
    gain: Array
    decay_syn: Array | None

    @property
    def values(self) -> dict[str, Array]:
        """By the names of ir/nodes.py; what is neutral is left out."""
        found = {"decay_mem": self.decay, "decay_syn": self.decay_syn}
        values = {key: value for key, value in found.items() if value is not None}
        if self.decay_syn is not None and self.decay is None:
            values["decay_mem"] = real(1.0)
        return values if np.all(self.gain == 1) else {**values, "gain": self.gain}

    @property
    def kind(self) -> str:
        if self.decay_syn is not None:
            return "cuba_lif"
        return "if" if self.decay is None else "lif"


def _dynamics(name: str, module: Any, shape: Shape) -> _Dynamics:
    """Decays in the module's own precision; an IAF keeps everything."""
    alpha, alpha_syn = module.alpha_mem_calculated, module.alpha_syn_calculated
    keep = fitted(alpha, name, shape)
    gain = fitted(1 - alpha, name, shape) if module.norm_input else real(1.0)
    keep_syn = None if alpha_syn is None else fitted(alpha_syn, name, shape)
    return _Dynamics(None if np.all(keep == 1) else keep, gain if keep_syn is None else gain * keep_syn, keep_syn)


def _neuron(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return _population(build, name, module, flow)[0]


def _squeezed(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """A layer that is built for a number of steps says it of the input, unless the user does."""
    source: Any = build.nodes["input"]
    if module.num_timesteps > 0 and source.time_steps is None:
        build.nodes["input"] = replace(source, time_steps=module.num_timesteps)
    return _neuron(build, name, module, flow)


def _population(build: Builder, name: str, module: Any, flow: Flow) -> tuple[Flow, _Dynamics]:
    found = _dynamics(name, module, flow.shape)
    if module.spike_fn is None:
        if module.min_v_mem is not None:
            raise option_refusal(
                "sends its membrane before min_v_mem bounds it, which no step of ours does", name,
                "Use min_v_mem=None for a layer that does not spike.",
            )
        values = {"decay_mem": real(1.0), **found.values}
        return layers.neuron(build, name, flow, "li", values, {}), found
    threshold = fitted(module.spike_threshold, name, flow.shape)
    most = _max_spikes(name, module.spike_fn)
    values = {"threshold": threshold, **found.values, **_reset(name, module, flow.shape, threshold, most, found)}
    rule = "zero" if _of(module.reset_fn) == "reset_mechanism.MembraneReset" else "subtract"
    return layers.neuron(build, name, flow, found.kind, values, {"reset": rule, "max_spikes": most}), found


def _of(function: Any) -> str:
    """``file.Class`` of a function of sinabs.activation; "" where it is not one."""
    path = dotted(function if isinstance(function, type) else type(function))
    return path.removeprefix(f"{_ACTIVATION}.") if path.startswith(f"{_ACTIVATION}.") else ""


def _max_spikes(name: str, spike_fn: Any) -> int:
    kind = _of(spike_fn)
    if kind == "spike_generation.MultiSpike":
        return 0
    if kind == "spike_generation.SingleSpike":
        return 1
    if kind == "spike_generation.MaxSpike":
        most = spike_fn.max_num_spikes_per_bin
        if most is None:
            return 0
        if most >= 1 and int(most) == most:
            return int(most)
    raise option_refusal(
        f"spike_fn={_shown(spike_fn)} is not known here", name,
        "Use MultiSpike, SingleSpike or MaxSpike(n) of sinabs.activation, and train again.",
    )


def _reset(name: str, module: Any, shape: Shape, threshold: Array, most: int, found: _Dynamics) -> dict[str, Array]:
    """What a spike takes or leaves, and the floor: before the spikes it is sinabs' where no reset goes below it."""
    kind, values = _of(module.reset_fn), {}
    left = real(0.0)  # the least a neuron holds after its reset
    if kind == "reset_mechanism.MembraneSubtract":
        taken = module.reset_fn.subtract_value
        if taken is not None:
            values["reset_by"] = fitted(taken, name, shape)
            over = values["reset_by"] - threshold
            left = np.where(over > 0, -np.abs(over) * (most or np.inf), 0.0)
    elif kind == "reset_mechanism.MembraneReset":
        left = fitted(module.reset_fn.reset_value, name, shape)
        if left.any():  # added at every step: the state here is without it, from -value in the first step on
            values |= {"bias": left * (1.0 if found.decay is None else found.decay), "v_init": -left}
    else:
        raise option_refusal(
            f"reset_fn={_shown(module.reset_fn)} is not known here", name,
            "Use MembraneSubtract or MembraneReset of sinabs.activation, and train again.",
        )
    if module.min_v_mem is not None:
        floor = fitted(module.min_v_mem, name, shape)
        if (floor > left).any():
            raise option_refusal(
                f"min_v_mem={float(floor.max()):g} is above what a reset may leave ({float(np.min(left)):g}), and lifts the "
                "membrane after the spike", name, "Use a lower min_v_mem, or subtract no more than the threshold.",
            )
        values["v_min"] = floor + values.get("v_init", 0.0)
    return values


def _shown(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _recurrent(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """``rec_connect`` behind the neuron, closed into a loop; sinabs feeds nothing back in the first step, no bias either."""
    sent, found = _population(build, name, module, flow)
    back = _feedback(build, f"{name}.rec_connect", module.rec_connect, sent)
    build.feed_back(back, sent)
    with torch.no_grad():
        silent = module.rec_connect(torch.zeros(1, *flow.shape)).reshape(flow.shape)
    bias = required(silent, name)
    if bias.any():
        _start(build, sent.sources[0], bias, found)
    return sent


def _start(build: Builder, name: str, bias: Array, found: _Dynamics) -> None:
    """States from which the first step takes back the bias that it receives."""
    node: Any = build.nodes[name]
    if found.decay_syn is not None:
        build.nodes[name] = replace(node, u_init=node.u_init - bias / found.decay_syn)
    else:
        keep = real(1.0) if found.decay is None else found.decay
        build.nodes[name] = replace(node, v_init=node.v_init - found.gain * bias / keep)


def _feedback(build: Builder, name: str, module: nn.Module, sent: Flow) -> Flow:
    from d2e.compiler.frontends.modules import row_of

    steps = list(module.named_children()) if isinstance(module, nn.Sequential) else [("", module)]
    back = sent
    for key, layer in steps:
        path, row = f"{name}.{key}" if key else name, row_of(layer)
        if isinstance(layer, nn.Flatten):
            back = layers.flatten(build, path, back, layer.start_dim, layer.end_dim, 1)
        elif row is not None and isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Identity, nn.Dropout)):
            back = row(build, path, layer, back)
        else:
            raise refusal(f"{type(layer).__name__} in rec_connect", path)
    if back.shape != sent.shape or back.sources == sent.sources:
        raise option_refusal(
            f"the recurrent layer turns frames of shape {sent.shape} into {back.shape}", name,
            "It must be a Linear or convolution that keeps the shape.",
        )
    return back


def _sum_pool(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    if module.norm_type != 1:
        raise refusal(type(module).__name__, name)
    return layers.avg_pool2d(
        build, name, flow, module.kernel_size, module.stride, ceil_mode=module.ceil_mode, divisor_override=1
    )


def _pass(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return flow


def _quantize(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    if module.quantize:
        raise refusal("QuantizeLayer", name)
    return flow


def _adaptive(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    raise neuron_refusal(type(module).__name__, "adapts its threshold", name, "Use IAF or LIF, and train again.")


_LAYERS = "sinabs.layers"
_PLAIN = {f"{_LAYERS}.{path}": _neuron for path in ("iaf.IAF", "lif.LIF", "exp_leak.ExpLeak")}
_SQUEEZED = {f"{path}Squeeze": _squeezed for path in _PLAIN}
_RECURRENT = {f"{_LAYERS}.{path}": _recurrent for path in ("iaf.IAFRecurrent", "lif.LIFRecurrent")}
MERGE = f"{_LAYERS}.merge.Merge"
FLATTEN_TIME, UNFLATTEN_TIME = f"{_LAYERS}.reshape.FlattenTime", f"{_LAYERS}.reshape.UnflattenTime"
ROWS: dict[str, Row] = {
    **_PLAIN, **_SQUEEZED, **_RECURRENT, MERGE: _pass, FLATTEN_TIME: _pass, UNFLATTEN_TIME: _pass,
    f"{_LAYERS}.alif.ALIF": _adaptive, f"{_LAYERS}.alif.ALIFRecurrent": _adaptive,
    f"{_LAYERS}.pool2d.SumPool2d": _sum_pool, dotted(nn.LPPool2d): _sum_pool, f"{_LAYERS}.quantize.QuantizeLayer": _quantize,
}
STATEFUL = frozenset({**_PLAIN, **_SQUEEZED, **_RECURRENT})
WRAPPERS = {f"{_LAYERS}.reshape.Repeat": "module"}
"""Class -> the attribute that holds what it applies to every frame."""
AXES: dict[str, int] = {
    **dict.fromkeys([*_PLAIN, *_RECURRENT, FLATTEN_TIME], 2), **dict.fromkeys([*_SQUEEZED, UNFLATTEN_TIME], 1),
}
"""Class -> the axes before a frame's own that it takes: [batch, time, …] or [batch * time, …]."""

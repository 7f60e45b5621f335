"""The table of torch modules: class -> how it becomes nodes.

Keys are dotted class names, so that rows for a framework need not import it. A subclass follows its base's
row while it keeps the base's ``forward``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from d2e.compiler.frontends import frames, layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.frameworks import norse, sinabs, snntorch, spikingjelly, spikingjelly_modes
from d2e.compiler.frontends.refusals import option_refusal
from d2e.compiler.frontends.tensors import Row, array, required, weights
from d2e.compiler.frontends.tensors import dotted as _path
from d2e.compiler.nn.containers import Recurrent
from d2e.compiler.nn.neurons import NEURONS, Neuron


def _linear(build: Builder, name: str, module: nn.Linear, flow: Flow) -> Flow:
    return layers.linear(build, name, flow, weights(module.weight, name), array(module.bias, name))


def _conv(build: Builder, name: str, module: nn.Conv2d, flow: Flow) -> Flow:
    if module.padding_mode != "zeros":
        raise option_refusal(
            f"padding_mode={module.padding_mode!r} is not compiled", name, "Use padding_mode='zeros'."
        )
    return layers.convolution(
        build, name, flow, weights(module.weight, name), array(module.bias, name), stride=module.stride,
        padding=module.padding, dilation=module.dilation, groups=module.groups,
    )


def _batch_norm(build: Builder, name: str, module: nn.BatchNorm2d, flow: Flow) -> Flow:
    mean, var = array(module.running_mean, name), array(module.running_var, name)
    if mean is None or var is None:
        raise option_refusal(
            "BatchNorm without running statistics normalises with those of the batch", name,
            "Use track_running_stats=True, and train again.",
        )
    gamma, beta = array(module.weight, name), array(module.bias, name)
    return layers.batch_norm(build, name, flow, gamma, beta, mean, var, module.eps)


def _avg_pool2d(build: Builder, name: str, module: nn.AvgPool2d, flow: Flow) -> Flow:
    return layers.avg_pool2d(
        build, name, flow, module.kernel_size, module.stride, module.padding, module.ceil_mode,
        module.count_include_pad, module.divisor_override,
    )


def _adaptive_avg_pool2d(build: Builder, name: str, module: nn.AdaptiveAvgPool2d, flow: Flow) -> Flow:
    return layers.adaptive_avg_pool2d(build, name, flow, module.output_size)


def _sum_pool2d(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    return layers.sum_pool2d(build, name, flow, module.kernel_size, module.stride, module.padding)


def _pad(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    """ZeroPad1d/2d and ConstantPad1d/2d with 0; torch names the last axis first."""
    if getattr(module, "value", 0) != 0:
        raise option_refusal(f"pads with {module.value}", name, "Pad with zeros.")
    pairs = list(zip(module.padding[::2], module.padding[1::2], strict=True))[::-1]
    return frames.pad(build, name, flow, [(0, 0)] * (len(flow.shape) - len(pairs)) + pairs)


def _drop(build: Builder, name: str, module: nn.Module, flow: Flow) -> Flow:
    return flow


def _neuron(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    values = {key: required(value, name) for key, value in module.values().items()}
    return layers.neuron(build, name, flow, module.kind, values, module.rules)


def _recurrent(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    sent = _neuron(build, f"{name}.neuron", module.neuron, flow)
    row = _linear if isinstance(module.layer, nn.Linear) else _conv
    back = row(build, f"{name}.layer", module.layer, sent)
    if back.shape != sent.shape:
        raise option_refusal(
            f"the recurrent layer turns frames of shape {sent.shape} into {back.shape}", f"{name}.layer",
            "It must keep the shape.",
        )
    build.feed_back(back, sent)
    return sent


_DROPPED = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_TORCH: dict[str, Row] = {
    _path(nn.Linear): _linear,
    _path(nn.Conv1d): _conv,
    _path(nn.Conv2d): _conv,
    _path(nn.BatchNorm1d): _batch_norm,
    _path(nn.BatchNorm2d): _batch_norm,
    _path(nn.AvgPool2d): _avg_pool2d,
    _path(nn.AdaptiveAvgPool2d): _adaptive_avg_pool2d,
    **{_path(cls): _pad for cls in (nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d)},
    "d2e.compiler.nn.containers.SumPool2d": _sum_pool2d,
    "d2e.compiler.nn.containers.Recurrent": _recurrent,
    **{_path(cls): _drop for cls in _DROPPED},
    **{_path(cls): _neuron for cls in NEURONS},
}
ROWS: dict[str, Row] = {
    **_TORCH,
    **sinabs.ROWS, **norse.ROWS, **snntorch.ROWS,
    **spikingjelly.ROWS, **{name: _TORCH[same] for name, same in spikingjelly.LIKE_TORCH.items()},
}
"""Dotted class name -> row; `torch.nn.Flatten` is handled by the tracer, which knows the leading axes."""

_STATEFUL = {
    "d2e.compiler.nn.containers.Recurrent", *map(_path, NEURONS),
    *spikingjelly.STATEFUL, *sinabs.STATEFUL, *norse.STATEFUL, *snntorch.ROWS,
}
_ALL_STEPS = sinabs.STATEFUL | norse.OVER_TIME


def row_of(module: nn.Module, rows: Mapping[str, Row] = ROWS) -> Row | None:
    """The row of a module's class, or of a base class whose ``forward`` it keeps."""
    for cls in type(module).__mro__:
        if (row := rows.get(_path(cls))) is not None:
            return row if getattr(type(module), "forward", None) is getattr(cls, "forward", None) else None
    return None


def is_stateful(module: nn.Module) -> bool:
    """Whether a module is a neuron, or holds one that only its row reads: its state is of one place in the network."""
    return any(_path(cls) in _STATEFUL for cls in type(module).__mro__)


def layout_of(module: nn.Module) -> str | None:
    """How a framework's module takes frames (`tensors.LAYOUT`); None: as d2e's do."""
    return spikingjelly_modes.layout(module)


def calls_by_step(module: nn.Module) -> bool:
    """Whether a module is a sequence that its framework calls with the frames of one step."""
    return any(_path(cls) in spikingjelly.CONTAINERS for cls in type(module).__mro__)


def calls_by_itself(module: nn.Module) -> bool:
    """Whether a model has neurons of another framework, which its ``forward`` may call once per step."""
    theirs = [m for m in module.modules() if is_stateful(m) and not isinstance(m, (Neuron, Recurrent))]
    at_once = any(_path(cls) in _ALL_STEPS for m in theirs for cls in type(m).__mro__)
    return bool(theirs) and not at_once and layout_of(module) != "time-batch"  # where every neuron takes all steps at once

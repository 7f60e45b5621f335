"""One function per layer: its parameters, as numbers and float64 arrays, become nodes of the network.

Both torch front ends (modules and exported programs) end here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import option_refusal
from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import (
    KINDS,
    Affine,
    Array,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    Neuron,
    Node,
    Scale,
    SumPool2d,
    pair,
)

Size = int | Sequence[int]
_RULES = ("reset", "reset_when", "fire", "max_spikes", "signed", "refractory")


def _pair(value: Size) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return pair(values[0]) if len(values) == 1 else pair(tuple(values))


def neuron(
    build: Builder, name: str, flow: Flow, kind: str, values: Mapping[str, Array], rules: Mapping[str, Any]
) -> Flow:
    """A population with the shape of the frame it receives."""
    cls: Any = KINDS[kind]
    known = {f.name for f in fields(cls)}
    options = {rule: rules[rule] for rule in _RULES if rule in rules and rule in known}
    node: Neuron = cls(shape=flow.shape, **values, **options)
    return build.add(name, node, flow)


def linear(build: Builder, name: str, flow: Flow, weight: Array, bias: Array | None) -> Flow:
    """``torch.nn.Linear``."""
    node = Linear(weight=weight) if bias is None else Affine(weight=weight, bias=bias)
    return build.add(name, node, flow)


def convolution(
    build: Builder, name: str, flow: Flow, weight: Array, bias: Array | None, *, stride: Size,
    padding: Size | str, dilation: Size, groups: int,
) -> Flow:
    """``torch.nn.Conv1d`` or ``Conv2d``, by the weight's axes."""
    axes = weight.ndim - 2
    cls = Conv1d if axes == 1 else Conv2d

    def per_axis(value: Size) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
        return values * axes if len(values) == 1 else values

    filled = per_axis(0) if padding == "valid" else "same" if isinstance(padding, str) else per_axis(padding)
    node = cls(
        weight=weight, bias=bias, groups=groups, stride=per_axis(stride), padding=filled,  # type: ignore[arg-type]
        dilation=per_axis(dilation),
    )
    return build.add(name, node, flow)


def batch_norm(
    build: Builder, name: str, flow: Flow, gamma: Array | None, beta: Array | None, mean: Array, var: Array,
    eps: float,
) -> Flow:
    """BatchNorm with its running statistics: y = g x + c, g = gamma / sqrt(var + eps), c = beta - g mean.

    Folded into the linear layer right before it; anywhere else it becomes a layer with one weight a channel.
    """
    g = (1.0 if gamma is None else gamma) / np.sqrt(var + eps)
    c = (0.0 if beta is None else beta) - g * mean
    if not flow.shape or flow.shape[0] != g.size:
        raise UnsupportedError(
            "D2E-SHAPE-001", f"normalises {g.size} channels but receives frames of shape {flow.shape}",
            node=name,
        )
    before = build.nodes[flow.sources[0]]
    if flow.alone and len(flow.sources) == 1 and (folded := _folded(before, g, c, flow)) is not None:
        build.nodes[flow.sources[0]] = folded
        return flow
    axes = len(flow.shape) - 1
    if axes == 0:
        return linear(build, name, flow, np.diag(g), c)
    weight = g.reshape(-1, *([1] * (axes + 1)))
    return convolution(build, name, flow, weight, c, stride=1, padding=0, dilation=1, groups=g.size)


def _folded(node: Node, g: Array, c: Array, flow: Flow) -> Node | None:
    """``node`` with y = g x + c behind it, if it is a linear layer with one output channel per entry."""
    if isinstance(node, (Conv1d, Conv2d)):
        bias = 0.0 if node.bias is None else node.bias
        per_filter = g.reshape(-1, *([1] * (node.weight.ndim - 1)))
        return replace(node, weight=node.weight * per_filter, bias=g * bias + c)
    if isinstance(node, Linear) and len(flow.shape) == 1:
        bias = node.bias if isinstance(node, Affine) else 0.0
        return Affine(weight=node.weight * g[:, None], bias=g * bias + c)
    return None


def avg_pool2d(
    build: Builder, name: str, flow: Flow, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Flow:
    """``torch.nn.AvgPool2d``; with a divisor of its own it becomes a sum and a scale."""
    kernel, border = _pair(kernel_size), _pair(padding)
    step = _pair(stride) if stride else kernel
    if any(border) and not count_include_pad and divisor_override is None:
        raise option_refusal(
            "AvgPool2d with count_include_pad=False divides by another number at the border", name,
            "Use count_include_pad=True or no padding, and train again.",
        )
    if ceil_mode:
        _refuse_partial_windows(name, flow, kernel, step, border)
    if divisor_override is None:
        return build.add(name, AvgPool2d(kernel_size=kernel, stride=step, padding=border), flow)
    total = sum_pool2d(build, name, flow, kernel, step, border)
    if divisor_override == 1:
        return total
    return build.add(f"{name}.scale", Scale(scale=np.array(1.0 / divisor_override)), total)


def _refuse_partial_windows(
    name: str, flow: Flow, kernel: tuple[int, int], step: tuple[int, int], border: tuple[int, int]
) -> None:
    sizes = zip(flow.shape[1:], kernel, step, border, strict=False)
    if any((n + 2 * p - k) % s for n, k, s, p in sizes):
        raise option_refusal(
            f"AvgPool2d with ceil_mode=True has windows beyond the border of frames {flow.shape}", name,
            "Use ceil_mode=False or sizes that divide evenly.",
        )


def adaptive_avg_pool2d(
    build: Builder, name: str, flow: Flow, output_size: int | Sequence[int | None] | None
) -> Flow:
    """``torch.nn.AdaptiveAvgPool2d`` where it divides the frame evenly: an ordinary average pooling."""
    wanted = list(output_size) if isinstance(output_size, Sequence) else [output_size] * 2
    sizes = flow.shape[1:]
    target = [n if w is None else int(w) for n, w in zip(sizes, wanted, strict=False)]
    if len(sizes) != 2 or any(w < 1 or n % w for n, w in zip(sizes, target, strict=True)):
        raise option_refusal(
            f"AdaptiveAvgPool2d({output_size}) does not divide frames of shape {flow.shape} evenly", name,
            "Use AvgPool2d, or an output size that divides the frame.",
        )
    kernel = (sizes[0] // target[0], sizes[1] // target[1])
    return avg_pool2d(build, name, flow, kernel)


def sum_pool2d(build: Builder, name: str, flow: Flow, kernel_size: Size, stride: Size, padding: Size) -> Flow:
    """``d2e.nn.SumPool2d``."""
    node = SumPool2d(kernel_size=_pair(kernel_size), stride=_pair(stride), padding=_pair(padding))
    return build.add(name, node, flow)


def flatten(build: Builder, name: str, flow: Flow, start: int, end: int, leading: int) -> Flow:
    """Flattening of the axes start..end, of which ``leading`` (batch, time) are not the frame's."""
    rank = len(flow.shape)
    first, last = (axis + rank if axis < 0 else axis - leading for axis in (start, end))
    if not 0 <= first <= last < rank:
        raise UnsupportedError(
            "D2E-SHAPE-001", f"cannot flatten axes {start}..{end} of frames of shape {flow.shape}", node=name,
            hint="Flatten the frame's own axes, not those of batch and time.",
        )
    if first == last:
        return flow
    return build.add(name, Flatten(start_dim=first, end_dim=-1 if last == rank - 1 else last), flow)


def scale(build: Builder, name: str, flow: Flow, factor: float) -> Flow:
    """Multiplication by a number."""
    if not math.isfinite(factor):
        raise option_refusal(f"multiplies by {factor}", name, "Use a finite number.")
    return build.add(name, Scale(scale=np.array(float(factor))), flow)

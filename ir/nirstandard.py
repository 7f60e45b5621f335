"""The standard NIR node nearest to one of ours: what any NIR tool reads of our files, without our metadata."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from d2e.ir.host import Add, Attention, Host, LayerNorm, Mean
from d2e.ir.nodes import (
    IF,
    LI,
    Affine,
    Array,
    Continuous,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Neuron,
    Node,
    Output,
    Scale,
    Shape,
    _Pool,
)

Tree = dict[str, Any]
_MOST_KEPT = 1 - 2.0**-52
_MOST_REPEATED = 1 << 22
"""Numbers of a weight that is written once per row of a frame, as nir's types ask; a larger one is written once."""


def standard(node: Node, frame: Shape, dt: float) -> Tree:
    """The type and the fields of the nearest NIR node; see `d2e.ir.nirnodes.to_tree`."""
    if isinstance(node, (Input, Output)):
        return {"type": type(node).__name__, "shape": np.array(node.shape, np.int64)}
    if isinstance(node, Linear):
        arrays = {"weight": node.weight} | ({"bias": node.bias} if isinstance(node, Affine) else {})
        full = {name: _repeated(array, node.weight, frame) for name, array in arrays.items()}
        return {"type": type(node).__name__, **full}
    if isinstance(node, (Conv1d, Conv2d)):
        return _conv(node, frame)
    if isinstance(node, _Pool):
        names = ("kernel_size", "stride", "padding")
        return {"type": type(node).__name__, **{n: np.array(getattr(node, n), np.int64) for n in names}}
    if isinstance(node, Flatten):
        start, end = node.start_dim % len(frame), node.end_dim % len(frame)
        axes = {"start_dim": start, "end_dim": -1 if end == len(frame) - 1 else end}
        return {"type": "Flatten", "input_type": np.array(frame, np.int64), **axes}
    if isinstance(node, Scale):
        return {"type": "Scale", "scale": _full(node.scale, frame)}
    if isinstance(node, Delay):
        return {"type": "Delay", "delay": _full(node.steps * dt, frame)}
    if isinstance(node, Host):
        return _host(node, frame, dt)
    assert isinstance(node, Neuron)
    return _neuron(node, dt)


def _full(value: Any, shape: Shape) -> Array:
    return np.broadcast_to(value, shape)  # a view: a file may state shapes that no memory holds


def _repeated(array: Array, weight: Array, frame: Shape) -> Array:
    rows = frame[:-1] if math.prod(frame[:-1]) * weight.size <= _MOST_REPEATED else ()
    return _full(array, (*rows, *array.shape))


def _host(node: Host, frame: Shape, dt: float) -> Tree:
    """The nearest NIR node: the affine part of a LayerNorm or Add, attention of every token to itself, a pooling, nothing.

    NIR has no node that reorders or drops axes: of a frame that does not keep its shape in Permute and Mean, ``nir.read``
    gives the graph with ``type_check=False``.
    """
    if isinstance(node, (LayerNorm, Add)):  # one Euler step of tau = dt: v = v_leak + r I
        values = {"tau": dt, "r": node.weight if isinstance(node, LayerNorm) else 1.0, "v_leak": node.bias}
        return {"type": "LI", **{name: _full(np.asarray(v, np.float64), frame) for name, v in values.items()}}
    if isinstance(node, Attention):
        values_only = np.eye(frame[-1] // 3, frame[-1], 2 * (frame[-1] // 3), dtype=np.int8)
        return {"type": "Linear", "weight": _repeated(values_only, values_only, frame)}
    if isinstance(node, Mean):
        window = np.array([frame[node.axis], 1], np.int64)
        return {"type": "AvgPool2d", "kernel_size": window, "stride": window, "padding": np.zeros(2, np.int64)}
    return {"type": "Flatten", "input_type": np.array(frame, np.int64), "start_dim": 0, "end_dim": 0}


def _conv(node: Conv1d | Conv2d, frame: Shape) -> Tree:
    def size(value: tuple[int, ...]) -> Any:
        return int(value[0]) if isinstance(node, Conv1d) else np.array(value, np.int64)

    return {
        "type": type(node).__name__, "weight": node.weight, "groups": node.groups,
        "input_shape": size(frame[1:]), "stride": size(node.stride), "dilation": size(node.dilation),
        "padding": node.padding if isinstance(node.padding, str) else size(node.padding),
        "bias": np.zeros(node.weight.shape[0], node.weight.dtype) if node.bias is None else node.bias,
    }


def _neuron(node: Neuron, dt: float) -> Tree:
    """The fields of the nearest NIR neuron, such that its Euler step with ``dt`` has our decays.

    NIR's ``tau v' = (v_leak - v) + r I`` gives ``v = (1 - dt/tau) v + r dt/tau I + dt/tau v_leak``; hence
    tau = dt / (1 - decay), r = gain / (1 - decay), v_leak = bias / (1 - decay), w_in = 1 / (1 - decay_syn).
    No leak at all has no tau; it is written as the slowest leak a float64 can tell from none.
    """
    unit = 2.0**-node.arithmetic.fraction_bits if node.arithmetic else 1.0
    one = 2.0**node.arithmetic.decay_bits if node.arithmetic else 1.0
    kept = (np.float64(0.0) if decay is None else decay.astype(np.float64) / one for decay in node.decays)
    lost_syn, lost_mem = (1 - np.minimum(decay, _MOST_KEPT) for decay in kept)
    settled = Continuous(
        tau_mem=dt / lost_mem, tau_syn=dt / lost_syn, w_in=1 / lost_syn, v_leak=node.bias * unit / lost_mem,
        r=node.gain / dt if isinstance(node, IF) else node.gain / lost_mem,
    )
    open_ = node.continuous or Continuous()

    def value(name: str, default: float = 0.0) -> Any:
        stated = getattr(open_, name) if node.continuous else getattr(settled, name)
        return default if stated is None else stated

    base, rest = _base(node)
    found: dict[str, Any] = {"r": value("r", 1.0)} | rest
    if base != "IF":
        found["tau_mem" if base.startswith("Cuba") else "tau"] = value("tau_mem", dt)
        found["v_leak"] = value("v_leak")
    if base.startswith("Cuba"):
        found |= {"tau_syn": value("tau_syn", dt), "w_in": value("w_in", 1.0)}
    if base in ("IF", "LIF", "CubaLIF"):
        found["v_reset"] = node.v_reset * unit if node.reset == "value" else 0.0
    return {"type": base, **{name: _full(np.asarray(v, np.float64), node.shape) for name, v in found.items()}}


def _base(node: Neuron) -> tuple[str, Tree]:
    """The NIR type nearest to a neuron, and its threshold."""
    if isinstance(node, LI):
        open_ = node.continuous
        current = open_.tau_syn is not None if open_ else bool((node.decay_syn != 0).any())
        return ("CubaLI" if current else "LI"), {}
    if isinstance(node, MultiThreshold):
        return "LIF", {"v_threshold": node.threshold * node.levels[0]}
    name = "IF" if isinstance(node, IF) else "CubaLIF" if isinstance(node, CubaLIF) else "LIF"
    return name, {"v_threshold": node.threshold}

"""The plan of a lowered network: per population, what arrives how, as arrays the kernels take.

Maps [channels, *space] are kept channels last, so that a spike's weights are contiguous; results are turned back at
the end. A path is event driven where the kernels have a form for it, else its input is computed densely for all steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from d2e.backends.loihi2.simulator.int8 import LARGEST_PAYLOAD, Int8, prepare
from d2e.backends.loihi2.simulator.kernels import BLOCK
from d2e.compiler.algebra import as_matrix
from d2e.compiler.passes.ranges import path_range
from d2e.compiler.paths import Path, paths_into
from d2e.ir import (
    LI,
    Conv1d,
    Conv2d,
    Delay,
    Input,
    Linear,
    Network,
    Scale,
    SumPool2d,
    Synapse,
    UnsupportedError,
    infer_shapes,
)
from d2e.ir.nodes import Array, Neuron, Shape
from d2e.ir.shapes import padding_pairs

_NONE = np.zeros(0, np.int16)
_LARGEST = 1 << 24
"""Bound on a step's input in weight units: 64 times it still fits int32."""


@dataclass
class DensePath:
    """A path whose input is computed for all steps at once: the synapses, the source and the lag."""

    source: str
    nodes: list[Synapse]
    shape: Shape
    lag: int
    bound: float


@dataclass
class Conv:
    """A convolution as the kernel takes it (`kernels._add_conv`)."""

    weight: Array = field(default_factory=lambda: _NONE)
    tap_to: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    tap_from: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    tap_start: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    shape: tuple[int, int, int] = (1, 1, 0)

    @property
    def arguments(self) -> tuple[Array, Array, Array, Array, tuple[int, int, int]]:
        """The kernel's tuple."""
        return self.weight, self.tap_to, self.tap_from, self.tap_start, self.shape


@dataclass
class PopulationPlan:
    """Everything about one population that does not depend on the data."""

    name: str
    shape: Shape
    neuron: tuple[int, int, int, int, Array]
    start: tuple[Array, Array]
    readout: bool
    source: str | None = None
    lag: int = 0
    matrix: Array = field(default_factory=lambda: _NONE)
    conv: Conv = field(default_factory=Conv)
    event_path: DensePath | None = None
    int8: Int8 | None = None
    rows_per_spike: float = 1.0
    row_width: int = 0
    recurrent: tuple[Array, int] = field(default_factory=lambda: (_NONE, 1))
    selves: list[tuple[Array, int]] = field(default_factory=list)
    dense: list[DensePath] = field(default_factory=list)
    constant: list[DensePath] = field(default_factory=list)
    bound: float = 0.0

    def piles_up(self, steps: int) -> bool:
        """Whether u, which wraps once per step, may leave 32 bits: only where a step brings more than one wrap undoes."""
        most = self.bound * 64
        return self.neuron[1] > 0 and most > 1 << 24 and most * steps >= 1 << 30

    @property
    def autonomous(self) -> bool:
        """Whether nothing reaches it but itself: it does the same for every sample."""
        return self.source is None and not self.dense and not self.constant

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)


def last(array: Array, shape: Shape) -> Array:
    """Frames [..., *shape] flattened channels last."""
    lead = array.shape[: array.ndim - len(shape)]
    return np.moveaxis(array, len(lead), -1).reshape(*lead, math.prod(shape)) if len(shape) > 1 else array


def first(array: Array, shape: Shape) -> Array:
    """The inverse of `last`: [..., n] -> [..., *shape]."""
    if len(shape) < 2:
        return array
    turned = array.reshape(*array.shape[:-1], *shape[1:], shape[0])
    return np.ascontiguousarray(np.moveaxis(turned, -1, array.ndim - 1))


def make_plan(network: Network) -> list[PopulationPlan]:
    """The populations in order, each with its paths sorted into event-driven, self and dense ones.

    Raises:
        UnsupportedError: D2E-SIM-001 where a step's input may exceed 24 bits (Lava's convolution wraps there).
    """
    shapes = infer_shapes(network)
    return [_population(network, shapes, name) for name in network.populations]


def _population(network: Network, shapes: dict[str, Shape], name: str) -> PopulationPlan:
    node = network.neuron(name)
    plan = PopulationPlan(name, node.shape, _neuron(node), _start(node), isinstance(node, LI))
    total = 0.0
    for path in paths_into(network, name):
        low, high = path_range(network, path)
        bound = float(np.maximum(np.abs(low), np.abs(high)).max())
        total += bound
        _place(plan, network, path, shapes[path.source], bound)
    plan.bound = total
    if total >= _LARGEST:
        raise UnsupportedError(
            "D2E-SIM-001", f"one step's input can reach {total:,.0f} weight units, the limit is {_LARGEST:,}",
            node=name, hint="Lower --weight-bits or the input's payload.",
        )
    return plan


def _neuron(node: Neuron) -> tuple[int, int, int, int, Array]:
    keep_syn, keep_mem = (int(d.flat[0]) for d in node.decays if d is not None)
    soft = keep_syn == 4096 and keep_mem == 0 and not node.bias.any()
    mode = 0 if soft else 1 if keep_syn == 0 and keep_mem == 4096 else 2
    bias = last(np.broadcast_to(node.bias, node.shape), node.shape).astype(np.int32)
    threshold = (1 << 30) if isinstance(node, LI) else int(node.threshold.flat[0]) << 6
    return mode, keep_syn, keep_mem, threshold, bias


def _start(node: Neuron) -> tuple[Array, Array]:
    def flat(value: Array) -> Array:
        return np.ascontiguousarray(last(np.broadcast_to(value, node.shape), node.shape).astype(np.int32))

    return flat(np.asarray(getattr(node, "u_init", 0))), flat(node.v_init)


def _place(plan: PopulationPlan, network: Network, path: Path, shape: Shape, bound: float) -> None:
    """Sort one path into the plan."""
    nodes = [n for n in (network.nodes[s] for s in path.synapses) if isinstance(n, Synapse)]
    lag = sum(n.steps for n in nodes if isinstance(n, Delay)) + int(path.recurrent)
    maps = [n for n in nodes if not isinstance(n, Delay)]
    core = maps[-1]
    dense = DensePath(path.source, maps, shape, lag, bound)
    own = path.source == plan.name
    if not own and path.source in network.populations and not network.incoming[path.source]:
        plan.constant.append(dense)
        return
    if own and lag < 1:
        raise UnsupportedError("D2E-NET-004", "feeds itself within one step", node=plan.name)
    if own and isinstance(core, Scale) and len(maps) == 1:
        weight = last(np.broadcast_to(core.scale, shape), shape).astype(np.int32)
        plan.selves.append((np.ascontiguousarray(weight), lag))
    elif own:
        if plan.recurrent[0].size:
            raise UnsupportedError("D2E-SIM-002", "has two recurrent layers; merge them into one", node=plan.name)
        plan.recurrent = (_matrix(maps, shape, plan.shape), lag)
    elif plan.source is None and _fits(core) and isinstance(core, (Linear, Conv1d, Conv2d, SumPool2d)):
        plan.source, plan.lag, plan.event_path = path.source, lag, dense
        matrix = None
        if isinstance(core, Linear):
            matrix = _linear(core, shape, plan.shape)
            plan.matrix, plan.row_width = _padded(matrix), matrix.shape[1]
        else:
            plan.conv = _convolution(core, shape)
            plan.rows_per_spike, plan.row_width = len(plan.conv.tap_to) / math.prod(shape[1:]), plan.conv.shape[2]
        payload = _payload(network, path.source)
        if payload <= LARGEST_PAYLOAD:
            plan.int8 = prepare(core, matrix, shape, plan.shape, bound, payload)
    else:
        plan.dense.append(dense)


def _payload(network: Network, source: str) -> int:
    node = network.nodes[source]
    return node.max_payload if isinstance(node, Input) else 1


def _fits(node: Synapse) -> bool:
    weight = getattr(node, "weight", np.zeros(1))
    return bool(np.abs(weight).max(initial=0) <= np.iinfo(np.int16).max)


def _linear(node: Linear, shape: Shape, target: Shape) -> Array:
    """[in, out], inputs channels last."""
    weight = node.weight
    if len(shape) > 1 and len(target) == 1:
        weight = last(weight.reshape(-1, *shape), shape)
    return np.ascontiguousarray(weight.T)


def _matrix(nodes: list[Synapse], shape: Shape, target: Shape) -> Array:
    """Any chain of maps from a population to itself as a matrix [in, out], flat, channels last on both sides."""
    weight = as_matrix(nodes, shape, "recurrent")
    weight = last(weight.reshape(-1, *shape), shape)
    weight = last(weight.T.reshape(-1, *target), target)
    return _padded(weight)


def _padded(matrix: Array) -> Array:
    """[in, out] as one run of int16 rows, each padded to whole blocks."""
    rows = np.zeros((matrix.shape[0], -(-matrix.shape[1] // BLOCK) * BLOCK), np.int16)
    rows[:, : matrix.shape[1]] = np.rint(matrix)
    return rows.reshape(-1)


def _convolution(node: Conv1d | Conv2d | SumPool2d, shape: Shape) -> Conv:
    """Weights per tap and, for every input position, the outputs it reaches."""
    stride: Shape
    dilation: Shape
    if isinstance(node, SumPool2d):
        weight: Array = np.ones((shape[0], 1, *node.kernel_size), np.int16)
        stride, dilation, groups = node.stride, (1, 1), shape[0]
        pads = tuple((p, p) for p in node.padding)
    else:
        weight, stride, dilation, groups = node.weight, node.stride, node.dilation, node.groups
        pads = padding_pairs(node)
    space = shape[1:]
    if len(space) == 1:  # a line is a map of height 1
        weight, space = weight[:, :, None, :], (1, *space)
        stride, dilation, pads = (1, *stride), (1, *dilation), ((0, 0), *pads)
    kernel = weight.shape[2:]
    axes = list(zip(space, pads, dilation, kernel, stride, strict=True))
    out = tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in axes)
    reach = [_reach(*a) for a in zip(space, out, kernel, stride, dilation, (p[0] for p in pads), strict=True)]
    taps: list[tuple[int, int]] = []
    starts = [0]
    for rows in reach[0]:
        for columns in reach[1]:
            taps += [(y * out[1] + x, ky * kernel[1] + kx) for y, ky in rows for x, kx in columns]
            starts.append(len(taps))
    out_channels, per_group = weight.shape[:2]
    width = out_channels // groups
    grouped = weight.reshape(groups, width, per_group, -1)  # [group, out, in, tap]
    rows_ = np.moveaxis(grouped, (3, 0, 2, 1), (0, 1, 2, 3)).reshape(kernel[0] * kernel[1], groups * per_group, width)
    pairs = np.array(taps, np.int64).reshape(-1, 2)
    channels = groups * per_group
    return Conv(
        np.ascontiguousarray(rows_.astype(np.int16)).reshape(-1),
        np.ascontiguousarray(pairs[:, 0] * out_channels), np.ascontiguousarray(pairs[:, 1] * channels * width),
        np.array(starts, np.int64), (channels, per_group, width),
    )


def _reach(n: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> list[list[tuple[int, int]]]:
    """Per input coordinate: the (output coordinate, tap) pairs it reaches."""
    table: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for o in range(out):
        for k in range(kernel):
            i = o * stride - before + k * dilation
            if 0 <= i < n:
                table[i].append((o, k))
    return table

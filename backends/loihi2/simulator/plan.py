"""The plan of a lowered network: per unit (population or proven replicas), what arrives how, as arrays the kernels take.

A path is event driven where the kernels have a form for it, else its input is computed densely for all steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from d2e.backends.loihi2.simulator.groups import Group, Unit, Wire, find_units
from d2e.backends.loihi2.simulator.int8 import Int8, prepare
from d2e.backends.loihi2.simulator.layout import NO_MATRIX, Conv, convolution, fits, last, linear, own_matrix, padded
from d2e.backends.loihi2.simulator.neurons import Cell, make_cell
from d2e.ir import (
    LI,
    Conv1d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Network,
    Scale,
    SumPool2d,
    Synapse,
    UnsupportedError,
    infer_shapes,
)
from d2e.ir.nodes import Array, Shape

LARGEST = 1 << 24
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
class PopulationPlan:
    """Everything about one unit that does not depend on the data; ``bound`` is on one step's input in weight units."""

    name: str
    shape: Shape
    cell: Cell
    readout: bool
    group: Group | None = None
    source: str | None = None
    lag: int = 0
    matrix: Array = field(default_factory=lambda: NO_MATRIX)
    conv: Conv = field(default_factory=Conv)
    event_path: DensePath | None = None
    int8: Int8 | None = None
    rows_per_spike: float = 1.0
    row_width: int = 0
    recurrent: tuple[Array, int] = field(default_factory=lambda: (NO_MATRIX, 1))
    selves: list[tuple[Array, int]] = field(default_factory=list)
    dense: list[DensePath] = field(default_factory=list)
    constant: list[DensePath] = field(default_factory=list)
    bound: float = 0.0

    def piles_up(self, steps: int) -> bool:
        """Whether u, which wraps once per step, may leave 32 bits: only where a step brings more than one wrap undoes."""
        most = self.bound * 64
        return self.cell.keeps_current and most > 1 << 24 and most * steps >= 1 << 30

    @property
    def autonomous(self) -> bool:
        """Whether nothing reaches it but itself: it does the same for every sample."""
        return self.source is None and not self.dense and not self.constant

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)

    @property
    def members(self) -> tuple[str, ...]:
        """The populations it stands for."""
        return self.group.members if self.group else (self.name,)


@dataclass
class Plan:
    """The units in order, and the paths into the output."""

    units: list[PopulationPlan]
    output: list[DensePath]


class NoKernelError(Exception):
    """Something the kernels cannot hold: the reference runs it."""


class _Planner:
    """What every step of planning looks at."""

    def __init__(self, network: Network, units: list[Unit]) -> None:
        self.network, self.shapes = network, infer_shapes(network)
        self.cells = {unit.name: self._cell(unit) for unit in units}
        self.constant = {u.name for u in units if not u.wires and not isinstance(network.nodes[u.name], LI)}

    def _cell(self, unit: Unit) -> Cell:
        cell = make_cell(self.network.neuron(unit.name), unit.group)
        if cell is None:
            raise NoKernelError
        return cell

    def unit(self, unit: Unit) -> PopulationPlan:
        """The plan of one unit."""
        node, cell = self.network.neuron(unit.name), self.cells[unit.name]
        plan = PopulationPlan(unit.name, node.shape, cell, isinstance(node, LI), unit.group)
        plan.bound = cell.kicked
        for wire in unit.wires:
            path = self.path(wire)
            plan.bound += path.bound
            self._place(plan, path)
        if plan.bound >= LARGEST and not all(self.limited(wire.source) for wire in unit.wires):
            raise NoKernelError
        if plan.bound >= LARGEST:
            raise UnsupportedError(
                "D2E-SIM-001", f"one step's input can reach {plan.bound:,.0f} weight units, the limit is {LARGEST:,}",
                node=unit.name, hint="Lower --weight-bits or the input's payload.",
            )
        return plan

    def limited(self, source: str) -> bool:
        """Whether the largest payload of a source is certain."""
        return source not in self.cells or self.cells[source].limited

    def payload(self, source: str) -> tuple[int, int]:
        """Least and largest payload of a source."""
        node = self.network.nodes[source]
        if isinstance(node, Input):
            return -node.max_payload if node.coding == "signed" else 0, node.max_payload
        return self.cells[source].low, self.cells[source].high

    def path(self, wire: Wire) -> DensePath:
        """A wire as synapses, its numbers first."""
        nodes = [n for n in (self.network.nodes[s] for s in wire.maps) if isinstance(n, Synapse)]
        if wire.factor != 1 or not nodes:
            nodes.insert(0, Scale(scale=np.asarray(wire.factor)))
        source = self.network.nodes[wire.source]
        if isinstance(source, Input) and source.coding == "direct":
            raise NoKernelError
        bound = _bound(nodes, *self.payload(wire.source))
        return DensePath(wire.source, nodes, self.shapes[wire.source], wire.lag, bound)

    def _place(self, plan: PopulationPlan, path: DensePath) -> None:
        """Sort one path into the plan."""
        core = path.nodes[-1]
        if path.source == plan.name:
            self._own(plan, path)
        elif path.source in self.constant:
            plan.constant.append(path)
        elif plan.source is None and _spreads(path, plan.shape):
            plan.source, plan.lag, plan.event_path = path.source, path.lag, path
            weight = None
            if isinstance(core, Linear):
                weight = linear(core, path.shape, plan.shape)
                plan.matrix, plan.row_width = padded(weight), weight.shape[1]
            else:
                assert isinstance(core, (Conv1d, Conv2d, SumPool2d))
                plan.conv = convolution(core, path.shape)
                plan.rows_per_spike = len(plan.conv.tap_to) / math.prod(path.shape[1:])
                plan.row_width = plan.conv.shape[2]
            plan.int8 = prepare(core, weight, path.shape, plan.shape, path.bound, self.payload(path.source))
        else:
            plan.dense.append(path)

    def _own(self, plan: PopulationPlan, path: DensePath) -> None:
        """A path from a population to itself."""
        if plan.readout:
            raise NoKernelError
        if path.lag < 1:
            raise UnsupportedError("D2E-NET-004", "feeds itself within one step", node=plan.name)
        if all(isinstance(node, Scale) for node in path.nodes):
            weight = math.prod(np.broadcast_to(n.scale, path.shape) for n in path.nodes if isinstance(n, Scale))
            plan.selves.append((np.ascontiguousarray(last(np.asarray(weight), path.shape).astype(np.int32)), path.lag))
        else:
            found = own_matrix(path.nodes, path.shape, plan.shape)
            if found is None or plan.recurrent[0].size:
                raise NoKernelError
            plan.recurrent = (found, path.lag)


def make_plan(network: Network) -> Plan:
    """See `Plan`.

    Raises:
        NoKernelError: a neuron or a path has no form here.
        UnsupportedError: D2E-SIM-001 where a step's input may exceed 24 bits (Lava's convolution wraps there).
    """
    units, output = find_units(network)
    planner = _Planner(network, units)
    plan = Plan([planner.unit(unit) for unit in units], [planner.path(w) for w in output])
    if sum(path.bound for path in plan.output) >= 1 << 31:
        raise NoKernelError
    return plan


def _bound(nodes: list[Synapse], low: float, high: float) -> float:
    """On the absolute sum of any part of a path's products, for payloads from ``low`` <= 0 to ``high`` >= 0."""
    for node in nodes:
        if isinstance(node, (Linear, Conv1d, Conv2d)):
            rows = node.weight.reshape(node.weight.shape[0], -1)
        elif isinstance(node, Scale):
            rows = node.scale.reshape(-1, 1)
        elif isinstance(node, SumPool2d):
            rows = np.ones((1, math.prod(node.kernel_size)))
        else:
            continue
        rise, fall = (np.maximum(sign * rows, 0).sum(axis=1, dtype=np.float64) for sign in (1, -1))
        low, high = float((rise * low - fall * high).min()), float((rise * high - fall * low).max())
    return max(-low, high)


def _spreads(path: DensePath, target: Shape) -> bool:
    """Whether the kernels can follow a spike along a path."""
    *before, core = path.nodes
    if isinstance(core, Linear):
        return all(isinstance(node, Flatten) for node in before) and len(target) == 1 and fits(core.weight)
    if before or not isinstance(core, (Conv1d, Conv2d, SumPool2d)):
        return False
    return isinstance(core, SumPool2d) or fits(core.weight)

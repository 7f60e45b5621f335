"""quantise: weights, biases, decays and the threshold of each population become integers on the target's grid, jointly.

A population has one unit: its threshold is exactly ``threshold_int`` units, so the threshold itself is never rounded; what
is rounded are weights, biases and decays. The search is over ``threshold_int``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from d2e.compiler import activity
from d2e.compiler.algebra import depthwise, weight_of, with_weight
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, folded, integer
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.passes.integers import integer_neuron
from d2e.compiler.passes.ranges import population_range
from d2e.compiler.passes.units import candidate_units, threshold_of
from d2e.compiler.paths import paths_into
from d2e.ir import (
    LI,
    FixedPoint,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    Quantized,
    SumPool2d,
    Synapse,
    UnsupportedError,
    UsageError,
    infer_shapes,
)
from d2e.ir.nodes import Array, integral, real

if TYPE_CHECKING:
    from d2e.compiler.target import Target

Method = Literal["auto", "max", "percentile", "mse", "spikes"]


@dataclass(frozen=True)
class Grid:
    """What integers a chip has for a population.

    Attributes:
        weight_bits: widest signed weight.
        threshold_max: largest threshold in weight units.
        mantissa_max: a threshold of a soft reset must be ``m << e`` with m up to this (it becomes a weight); 0: any.
        exponent_max: largest such e.
        bias_mantissa: largest |mantissa| of a bias; the bias is mantissa << exponent.
        bias_exponents: exponents there are.
        state_max: bound on |u| and |v| in weight units.
        sum_max: bound on the summed input of one step, in weight units.
        arithmetic: of every population.
    """

    weight_bits: int
    threshold_max: int
    mantissa_max: int
    exponent_max: int
    bias_mantissa: int
    bias_exponents: range
    state_max: int
    sum_max: int
    arithmetic: FixedPoint


@dataclass(frozen=True)
class Quantise(Pass):
    """See the module.

    Attributes:
        grid: the target's integers.
        weight_bits: width of signed weights, 2..8.
        scale: "max" keeps every weight, "percentile" clips outliers, "mse" least squared weight error, "spikes" least
            spike-count error on the calibration data; "auto": spikes with calibration data, else mse.
        percentile: of |weight| kept by scale="percentile".
        calibration: frames [batch, time, *shape] the model sees in use.
        bias_correction: with calibration, cancel the mean input error of each channel in layers that have a bias.
        time_steps: steps per sample, for the range analysis.
    """

    name: ClassVar[str] = "quantise"
    requires: ClassVar[tuple[Property, ...]] = (canonical, folded)
    ensures: ClassVar[tuple[Property, ...]] = (integer,)

    grid: Grid
    weight_bits: int = 8
    scale: Method = "auto"
    percentile: float = 99.9
    calibration: Array | None = None
    bias_correction: bool = True
    time_steps: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.weight_bits <= self.grid.weight_bits:
            raise UsageError(
                "D2E-USE-003", f"weight bits {self.weight_bits} are outside 2..{self.grid.weight_bits}",
                hint="Give --weight-bits in that range.",
            )
        if self.scale not in get_args(Method) or not 0 < self.percentile <= 100:
            raise UsageError(
                "D2E-USE-012", f"scale {self.scale!r} with percentile {self.percentile:g} is not known",
                hint=f"Scale is {', '.join(get_args(Method))}; the percentile lies above 0, up to 100.",
            )
        if self.scale == "spikes" and self.calibration is None:
            raise UsageError("D2E-USE-004", "scale 'spikes' needs calibration data", hint="Give --calibration.")

    def run(self, network: Network, target: Target) -> Network:
        """The integer network.

        Raises:
            UnsupportedError: D2E-QUANT-001 where a layer quantises to nothing, -002 where a layer falls silent,
                -003 where it saturates, -004 where levels fall together;
                D2E-RANGE-001 where one step's input can overflow the accumulator.
        """
        if integer(network) is None:  # a .net file's integers stay
            return self._in_range(network)
        seen = None if self.calibration is None else activity.observe(network, self.calibration)
        result = _weighted(network)
        for name in network.populations:
            result = self._population(result, name, seen)
        result = self._in_range(result)
        if seen is not None and self.calibration is not None:
            activity.check_alive(result, seen, self.calibration)
        return result

    def _in_range(self, network: Network) -> Network:
        for name in network.populations:
            network = _check_range(network, name, self.time_steps, self.grid)
        return network

    def _population(self, network: Network, name: str, seen: activity.Seen | None) -> Network:
        node = network.neuron(name)
        if node.metadata.get(HELPER):
            helper = replace(
                node, threshold=integral(1), bias=integral(1 << self.grid.arithmetic.fraction_bits),
                arithmetic=self.grid.arithmetic, gain=integral(1), amplitude=integral(1), v_init=integral(0),
                v_reset=integral(0),
            )
            return network.with_nodes({name: helper})
        weights = [
            s for p in paths_into(network, name) for s in p.synapses
            if isinstance(node_ := network.nodes[s], Synapse) and hasattr(node_, "quantized")
        ]
        arrays = [_weight(network, s) for s in weights]
        values = np.concatenate([np.abs(a).reshape(-1) for a in arrays]) if arrays else np.zeros(1)
        if not values.any() and not node.bias.any():
            raise UnsupportedError("D2E-QUANT-001", "all its input weights are zero, so it never fires", node=name,
                                   hint="Remove the layer or train it again.")
        candidates = candidate_units(node, values, self.weight_bits, self.percentile, self.grid)
        method = self.scale if self.scale != "auto" else ("spikes" if seen is not None else "mse")
        if method == "spikes" and seen is not None and not isinstance(node, LI):
            unit = min(candidates["all"], key=lambda u: self._spike_error(network, name, u, seen))
        elif method in ("spikes", "mse"):
            unit = min(candidates["all"], key=lambda u: sum(self._weight_error(a, u, node) for a in arrays))
        else:
            unit = candidates[method][0]
        result = self._with_unit(network, name, unit, seen)
        if not result.neuron(name).bias.any() and not any(_weight(result, s).any() for s in weights):
            raise UnsupportedError(
                "D2E-QUANT-001", f"all its input weights, at most {values.max():.3g}, round to zero beside a threshold "
                f"of {threshold_of(node):.3g}", node=name, hint="Lower the threshold or scale the weights up.",
            )
        return result

    def _round(self, array: Array, unit: float, node: Neuron) -> Array:
        top = (1 << (self.weight_bits - 1)) - 1
        mirrored = isinstance(node, MultiThreshold) and node.signed  # its negative levels see negated weights
        return np.clip(np.rint(array / unit), -top if mirrored else -top - 1, top).astype(np.int64)

    def _weight_error(self, array: Array, unit: float, node: Neuron) -> float:
        return float(np.square(array - self._round(array, unit, node) * unit).sum())

    def _spike_error(self, network: Network, name: str, unit: float, seen: activity.Seen) -> float:
        changed = self._with_unit(network, name, unit, None)
        return activity.count_error(changed, name, seen)

    # ----- the integer population

    def _with_unit(self, network: Network, name: str, unit: float, seen: activity.Seen | None) -> Network:
        changed: dict[str, Node] = {}
        neuron = network.neuron(name)
        for path in paths_into(network, name):
            for s in path.synapses:
                node = network.nodes[s]
                if isinstance(node, Synapse) and hasattr(node, "quantized"):
                    mark = Quantized(self.weight_bits, real(unit))
                    rounded = with_weight(node, self._round(weight_of(node), unit, neuron))
                    changed[s] = replace(rounded, quantized=mark)  # type: ignore[call-arg]
        bias = neuron.bias
        if seen is not None and self.bias_correction and bias.any():
            error = activity.mean_input_error(network, network.with_nodes(changed), name, unit, seen)
            bias = bias + error
        changed[name] = integer_neuron(name, neuron, bias, unit, self.grid, self.weight_bits)
        return network.with_nodes(changed)


def _weighted(network: Network) -> Network:
    """Sums over windows as convolutions: a spike then adds a weight in the units of its target, not 1."""
    shapes = infer_shapes(network)
    return network.map(
        lambda name, node: depthwise(node, shapes[network.incoming[name][0].source])
        if isinstance(node, SumPool2d) and not isinstance(network.nodes[network.outgoing[name][0].target], Output)
        else node
    )


def _weight(network: Network, name: str) -> Array:
    node = network.nodes[name]
    assert isinstance(node, Synapse)
    return weight_of(node)


def _check_range(network: Network, name: str, time_steps: int | None, grid: Grid) -> Network:
    node = network.neuron(name)
    bound = population_range(network, name, time_steps)
    step = max(abs(bound.low), abs(bound.high))
    if step >= grid.sum_max:
        raise UnsupportedError(
            "D2E-RANGE-001",
            f"one step's input can reach {step:,.0f} weight units, the accumulator holds {grid.sum_max:,}",
            node=name, hint="Lower --weight-bits, or split the layer.",
        )
    if bound.state is not None and bound.state < grid.state_max:
        return network
    reach = "without limit" if bound.state is None else f"{bound.state:,.0f} weight units"
    soft = "wraps" if node.reset == "subtract" else "saturates"
    return warn(
        network, "D2E-RANGE-003", f"in the worst case its state reaches {reach} and {soft} beyond {grid.state_max:,}; "
        "not proven safe, every run counts what overflows", name,
    )

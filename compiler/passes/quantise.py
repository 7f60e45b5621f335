"""quantise: weights, biases, decays and the threshold of each population become integers on the target's grid, jointly.

A population has one unit: its threshold is exactly ``threshold_int`` units, so the threshold itself is never rounded; what
is rounded are weights, biases and decays. The search is over ``threshold_int``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from d2e.compiler import activity
from d2e.compiler.algebra import depthwise, weight_of
from d2e.compiler.blocks import largest
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, folded, integer
from d2e.compiler.passes.bits import AUTO, OTHERS, Bits, table
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.passes.exits import in_new_unit, integer_unit
from d2e.compiler.passes.integers import integer_neuron
from d2e.compiler.passes.layer import Weights, finer, in_units, weighted, weights_into, with_curvature
from d2e.compiler.passes.ranges import population_range
from d2e.compiler.passes.sensitivity import share_out
from d2e.compiler.passes.units import NOISE, candidate_units, dividing, threshold_of
from d2e.compiler.paths import linear_map, paths_into
from d2e.ir import (
    LI,
    FixedPoint,
    Network,
    Neuron,
    Node,
    SumPool2d,
    Synapse,
    UnsupportedError,
    UsageError,
    infer_shapes,
)
from d2e.ir.nodes import Array, integral

if TYPE_CHECKING:
    from d2e.compiler.target import Target

_FINALISTS = 8  # units of least weight error, of which the one is taken that delivers the least error
_MOST_WORK = 1 << 34  # multiplications that this choice may take
Method = Literal["auto", "max", "percentile", "mse", "spikes"]


@dataclass(frozen=True)
class Grid:
    """What integers a chip has for a population.

    Attributes:
        weight_bits: widest signed weight.
        conv_bits, linear_bits: most bits of a convolution's and of any other weight ``m << e`` with its exponent, one per
            synapse.
        threshold_max: largest threshold in weight units.
        mantissa_max: a threshold of a soft reset must be ``m << e`` with m up to this (it becomes a weight); 0: any.
        exponent_max: largest e of weights and of such thresholds.
        bias_mantissa: largest |mantissa| of a bias; the bias is mantissa << exponent.
        bias_exponents: exponents there are.
        state_max: bound on |u| and |v| in weight units; None: the target bounds its states itself.
        sum_max: bound on the summed input of one step, in weight units.
        arithmetic: of every population.
        bias_max: largest |bias| in weight units, for which units grow; None: the target's rules name what is too wide.
        burst_thresholds: whether all thresholds of a burst, up to max_spikes times the first, need to fit.
        below_threshold: whether weights up to the threshold, in float, must not exceed it in integers.
    """

    weight_bits: int
    conv_bits: int
    linear_bits: int
    threshold_max: int
    mantissa_max: int
    exponent_max: int
    bias_mantissa: int
    bias_exponents: range
    state_max: int | None
    sum_max: int
    arithmetic: FixedPoint
    bias_max: int | None = None
    burst_thresholds: bool = True
    below_threshold: bool = False


@dataclass(frozen=True)
class Quantise(Pass):
    """See the module.

    Attributes:
        grid: the target's integers.
        weight_bits: width of signed weights, 1..8: a number, "layer=bits,…" (populations or synapses), or "auto".
        budget: with "auto", most bits per weight in the mean over the network.
        scale: "max" keeps every weight, "percentile" clips outliers, "mse" least squared weight error, "spikes" least
            spike-count error on the calibration data; "auto": mse, or spikes where weights do not compensate.
        percentile: of |weight| kept by scale="percentile".
        calibration: frames [batch, time, *shape] the model sees in use.
        compensate: with calibration, round weights such that later ones make up for the errors of earlier ones.
        bias_correction: with calibration, cancel the mean input error of each channel in layers that have a bias.
        time_steps: steps per sample, for the range analysis.
    """

    name: ClassVar[str] = "quantise"
    requires: ClassVar[tuple[Property, ...]] = (canonical, folded)
    ensures: ClassVar[tuple[Property, ...]] = (integer,)

    grid: Grid
    weight_bits: Bits = 8
    budget: float | None = None
    scale: Method = "auto"
    percentile: float = 99.9
    calibration: Array | None = None
    compensate: bool = True
    bias_correction: bool = True
    time_steps: int | None = None

    def __post_init__(self) -> None:
        table(self.weight_bits, self.grid.weight_bits)
        if self.scale not in get_args(Method) or not 0 < self.percentile <= 100:
            raise UsageError(
                "D2E-USE-012", f"scale {self.scale!r} with percentile {self.percentile:g} is not known",
                hint=f"Scale is {', '.join(get_args(Method))}; the percentile lies above 0, up to 100.",
            )
        if self.calibration is None and (self.scale == "spikes" or self.weight_bits == AUTO):
            what = "weight bits 'auto' need" if self.weight_bits == AUTO else "scale 'spikes' needs"
            raise UsageError("D2E-USE-004", f"{what} calibration data", hint="Give --calibration.")
        if (self.weight_bits == AUTO) != (self.budget is not None) or not 2 <= (self.budget or 2) <= self.grid.weight_bits:
            raise UsageError(
                "D2E-USE-014", f"weight bits {self.weight_bits!r} do not go with a budget of {self.budget}",
                hint=f"Give --weight-bits auto with --budget, 2 to {self.grid.weight_bits} bits per weight in the mean.",
            )

    @classmethod
    def asked(cls, grid: Grid, options: Mapping[str, Any]) -> Quantise:
        """The pass on a target's grid, with what the keywords of `d2e.compile` say of it."""
        own = ("weight_bits", "budget", "scale", "percentile", "calibration", "time_steps")
        return cls(grid=grid, **{key: options[key] for key in own if options.get(key) is not None})

    def run(self, network: Network, target: Target) -> Network:
        """The integer network.

        Raises:
            UsageError: D2E-USE-015 where ``weight_bits`` names a layer that is not there.
            UnsupportedError: D2E-QUANT-001 where a layer quantises to nothing, -002 where a layer falls silent,
                -003 where it saturates, -004 where levels fall together, -005 where one bit would need two signs;
                D2E-RANGE-001 where one step's input can overflow the accumulator.
        """
        if integer(network) is None:  # a .net file's integers stay
            return self._in_range(network)
        result = _weighted(network)
        seen = None if self.calibration is None else activity.observe(result, self.calibration)
        widths = table(self.weight_bits, self.grid.weight_bits)
        _check_names(result, widths)
        if self.weight_bits == AUTO and seen is not None and self.budget is not None:
            floats = result
            widths |= share_out(
                floats, seen, self.budget, self.grid.weight_bits,
                lambda name, width, fit: self._population(floats, name, {OTHERS: width}, fit, fit),
                lambda chosen, fit: self._whole(floats, chosen, fit),
            )
        result = in_new_unit(self._in_range(self._whole(result, widths, seen)), integer_unit)
        if seen is not None and self.calibration is not None:
            activity.check_alive(result, seen, self.calibration)
        return result

    def _in_range(self, network: Network) -> Network:
        for name in network.populations:
            network = _check_range(network, name, self.time_steps, self.grid)
        return network

    def _whole(self, network: Network, widths: Mapping[str, int], seen: activity.Seen | None) -> Network:
        """Every population in integers, each rounded on what those before it send in integers."""
        now = seen
        for name in network.populations:
            network = self._population(network, name, widths, seen, now)
            if now is not None:
                now = now.with_spikes(name, activity.replay(network, name, now)[0])
        return network

    def _population(
        self, network: Network, name: str, widths: Mapping[str, int], seen: activity.Seen | None,
        now: activity.Seen | None,
    ) -> Network:
        """One population in integers; ``now`` is `seen` with the populations before it in integers."""
        node = network.neuron(name)
        if node.metadata.get(HELPER):
            helper = replace(
                node, threshold=integral(1), bias=integral(1 << self.grid.arithmetic.fraction_bits),
                arithmetic=self.grid.arithmetic, gain=integral(1), amplitude=integral(1), v_init=integral(0),
                v_reset=integral(0),
            )
            return network.with_nodes({name: helper})
        weights = weights_into(network, name, lambda s: widths.get(s, widths.get(name, widths.get(OTHERS, 0))), self.grid)
        widest = largest([w.array for w in weights])
        if not widest and not node.bias.any():
            raise UnsupportedError("D2E-QUANT-001", "all its input weights are zero, so it never fires", node=name,
                                   hint="Remove the layer or train it again.")
        if now is not None and self.compensate:
            weights = with_curvature(network, name, weights, now)
        unit = self._unit(network, name, weights, now)
        result = self._with_unit(network, name, weights, unit, seen, now)
        if not result.neuron(name).bias.any() and not any(_weight(result, w.name).any() for w in weights):
            raise UnsupportedError(
                "D2E-QUANT-001", f"all its input weights, at most {widest:.3g}, round to zero beside a threshold "
                f"of {threshold_of(node):.3g}", node=name, hint="Lower the threshold or scale the weights up.",
            )
        return result

    def _unit(self, network: Network, name: str, weights: list[Weights], now: activity.Seen | None) -> float:
        node = network.neuron(name)
        units = self._candidates(node, weights)
        method = self.scale if self.scale != "auto" else "mse" if now is None or self.compensate else "spikes"
        if method == "spikes" and now is not None:
            error = self._drive_error if isinstance(node, LI) else self._spike_error
            return min(units["all"], key=lambda u: error(network, name, weights, u, now))
        if method not in ("spikes", "mse"):
            return units[method][0]
        gains = node.bias.any() or any(d is not None for d in node.decays)  # biases and reset amounts, from a finer unit
        whole = self.grid.arithmetic.fraction_bits == 0  # so does everything that is no weight
        sign = 1 if whole or (gains and finer(weights)) else -1

        def lost(unit: float, error: Callable[[Weights, float], float]) -> tuple[float, float]:
            noise = sum(w.array.size for w in weights) * (NOISE * unit) ** 2 if whole else 0.0
            return _digits(sum(error(w, unit) for w in weights), noise), sign * unit

        best = sorted(units["all"], key=lambda u: lost(u, lambda w, unit: w.error(w.step(unit))))
        some = min(_FINALISTS, _MOST_WORK // max(1, sum(w.work for w in weights)))
        if now is None or not self.compensate or some < 2:
            return best[0]
        return min(best[:some], key=lambda u: lost(u, Weights.loss))

    def _candidates(self, node: Neuron, weights: list[Weights]) -> dict[str, list[float]]:
        """Units by method: those of all weights; for the searches also those of each path, and finer ones for few bits."""
        top = min((w.top for w in weights), default=1)
        units = candidate_units(node, [w.array for w in weights], top, self.percentile, self.grid)
        every = set(units["all"])
        if len(weights) > 1:
            for each in (w for w in weights if w.array.any()):
                every |= set(candidate_units(node, [each.array], each.top, self.percentile, self.grid)["all"])
        every |= {dividing(node, u / (1 << e), self.grid) for u in every for e in range(1, finer(weights) + 1)}
        return {**units, "all": sorted(every, reverse=True)}

    def _spike_error(self, network: Network, name: str, weights: list[Weights], unit: float, now: activity.Seen) -> float:
        fired = activity.replay(self._with_unit(network, name, weights, unit, None, None), name, now)[0]
        return activity.count_error(network, name, now, fired)

    def _drive_error(self, network: Network, name: str, weights: list[Weights], unit: float, now: activity.Seen) -> float:
        changed = network.with_nodes(dict(in_units(network, weights, unit)))
        return float(np.square(activity.current(network, name, now) - activity.current(changed, name, now) * unit).sum())

    def _with_unit(
        self, network: Network, name: str, weights: list[Weights], unit: float, seen: activity.Seen | None,
        now: activity.Seen | None,
    ) -> Network:
        changed: dict[str, Node] = {**in_units(network, weights, unit)}
        neuron = network.neuron(name)
        bias = neuron.bias
        if seen is not None and now is not None and self.bias_correction and bias.any():
            bias = bias + activity.mean_input_error(network, network.with_nodes(changed), name, unit, seen, now)
        bits = max((w.bits for w in weights), default=self.grid.weight_bits)
        changed[name] = integer_neuron(name, neuron, bias, unit, self.grid, bits)
        return network.with_nodes(changed)


def _check_names(network: Network, widths: Mapping[str, int]) -> None:
    known = {s for n in network.populations for s in (n, *weighted(network, n))}
    for name in widths.keys() - known - {OTHERS}:
        raise UsageError("D2E-USE-015", f"weight bits name a layer {name!r} that is not there",
                         hint=f"Layers: {', '.join(sorted(known))}.")


def _digits(value: float, noise: float) -> float:
    """Rounded to where float noise ends, so that equal errors are equal; at most ``noise`` is no error."""
    return float(f"{value:.6g}") if value > noise else 0.0


def _weighted(network: Network) -> Network:
    """Sums over windows that are a path's map as convolutions: a spike then adds a weight in units of its target, not 1."""
    shapes = infer_shapes(network)
    changed: dict[str, Node] = {}
    for name in network.populations:
        for own in (linear_map(network, path) for path in paths_into(network, name)):
            if own is not None and isinstance(node := network.nodes[own], SumPool2d):
                changed[own] = depthwise(node, shapes[network.incoming[own][0].source])
    return network.with_nodes(changed)


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
    if grid.state_max is None or (bound.state is not None and bound.state < grid.state_max):
        return network
    reach = "without limit" if bound.state is None else f"{bound.state:,.0f} weight units"
    fixed = grid.arithmetic
    beyond = {"wrap": "wraps", "saturate": "saturates", "refuse": "stops the run"}
    how = beyond[fixed.u_overflow if node.reset == "subtract" else fixed.v_overflow]
    return warn(
        network, "D2E-RANGE-003", f"in the worst case its state reaches {reach} and {how} beyond {grid.state_max:,}; "
        "not proven safe, every run counts what overflows", name,
    )

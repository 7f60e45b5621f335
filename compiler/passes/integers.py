"""The integer neuron of a float one and a unit: what quantise decides besides the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from d2e.compiler.passes.ratios import EXACT
from d2e.compiler.passes.units import even_levels
from d2e.ir import LI, LIF, CubaLIF, MultiThreshold, Neuron, Quantized, UnsupportedError
from d2e.ir.nodes import Array, integral, real

if TYPE_CHECKING:
    from d2e.compiler.passes.quantise import Grid


def integer_neuron(name: str, node: Neuron, bias: Array, unit: float, grid: Grid, bits: int) -> Neuron:
    """The neuron with integer parameters.

    Args:
        name: for the error.
        node: folded.
        bias: in place of its own.
        unit: float value of one weight unit.
        grid: the target's integers.
        bits: of the weights into it.

    Raises:
        UnsupportedError: D2E-QUANT-004 where two levels round to the same integer.
    """
    if grid.bias_max is not None:
        bias = np.clip(bias, -grid.bias_max * unit, grid.bias_max * unit)  # corrected, it may reach beyond by a little
    fixed = grid.arithmetic
    one = 1 << fixed.fraction_bits
    keeps = [None if d is None else np.rint(d * (1 << fixed.decay_bits)).astype(np.int64) for d in node.decays]
    current = keeps[0] is not None and bool((keeps[0] != 0).any())
    leaky = keeps[1] is not None and bool((keeps[1] != 1 << fixed.decay_bits).any())
    charged = node.reset in ("subtract", "none") and not isinstance(node, LI) and not current  # v may stand in u
    whole = one == 1 or charged or not np.any(np.abs(bias / unit - np.rint(bias / unit)) > 1e-9)
    theta = integral(1) if isinstance(node, LI) else _rounded(node.threshold, unit)
    changes: dict[str, Any] = {
        "threshold": theta, "bias": _rounded(bias, unit) * one if whole else _bias_grid(bias / unit * one, grid),
        "gain": integral(1), "amplitude": integral(1), "v_reset": integral(0), "arithmetic": fixed,
        "v_init": _start(node.v_init, unit, one, whole and not leaky and not current),
        "quantized": Quantized(bits, real(unit)),
        "v_min": None if node.v_min is None else _rounded(node.v_min * one, unit),
        "reset_by": None if node.reset_by is None else _amounts(node, node.reset_by, unit, grid),
    }
    if isinstance(node, LIF):
        changes["decay_mem"] = keeps[1]
    if isinstance(node, (CubaLIF, LI)):
        changes["decay_syn"] = keeps[0]
    if isinstance(node, CubaLIF):
        changes["u_init"] = _rounded(node.u_init * one, unit)
    if isinstance(node, MultiThreshold):
        assert node.payloads is not None
        changes |= {
            "threshold": integral(1), "levels": _levels(name, node, unit, grid),
            "payloads": node.payloads.astype(np.int64),
        }
    forgets = leaky and not np.any(keeps[1])  # then v is the whole units that came in
    if one > 1 and ((leaky and not forgets) or current or not whole):
        changes["fire"] = "gt"  # a state finer than the threshold's unit: >= and > differ on a set of measure zero
    if leaky and not current and _decays_first(node):
        # decay * (v - r) = decay * v - decay * r: the same step with the reset after the decay
        taken = np.asarray(node.decays[1]).flat[0] * _taken(node)
        changes |= {"reset_when": "next", "reset_by": _amounts(node, taken, unit, grid)}
    return replace(node, **changes)


def _decays_first(node: Neuron) -> bool:
    """Whether a soft reset can be put after the decay: on replicas and self synapses it arrives a step later."""
    decay = node.decays[1]
    soft = node.reset == "subtract" and node.reset_when == "same" and not isinstance(node, LI)
    return soft and node.refractory == 0 and decay is not None and bool((decay == decay.flat[0]).all())


def _taken(node: Neuron) -> Array:
    """What a soft reset takes per spike, or per level."""
    if node.reset_by is not None:
        return node.reset_by
    return node.levels if isinstance(node, MultiThreshold) else node.threshold


def _rounded(value: Array, unit: float) -> Array:
    return np.rint(value / unit).astype(np.int64)


def _levels(name: str, node: MultiThreshold, unit: float, grid: Grid) -> Array:
    """Levels in weight units; even ones stay even, and those of a soft reset rise by a mantissa and an exponent each."""
    steps = np.diff(_rounded(node.levels, unit), prepend=0)
    even = even_levels(node, grid)
    if even is not None and (pitch := round(even.pitch / unit)) and abs(even.pitch / unit - pitch) < EXACT * pitch:
        steps[1:] = pitch  # else halves, as of first = pitch / 2, go up and down by turns
        steps[0] = max(1, np.floor(even.first / unit + 0.5 + EXACT))  # whole units reach a part of one with the first
    if node.reset == "subtract":
        steps = _each_mantissa(steps, grid.mantissa_max)
    if (steps <= 0).any():
        raise UnsupportedError(
            "D2E-QUANT-004", f"its levels {[float(f'{x:.4g}') for x in node.levels]} become "
            f"{np.cumsum(steps).tolist()} weight units and no longer rise", node=name,
            hint="Raise --weight-bits, or train with levels further apart or smaller weights.",
        )
    return np.cumsum(steps)


def _amounts(node: Neuron, amounts: Array, unit: float, grid: Grid) -> Array:
    """Reset amounts in weight units that a synapse can hold: of a burst's spike, or of the steps between levels."""
    if isinstance(node, MultiThreshold):
        return np.cumsum(_each_mantissa(np.diff(_rounded(amounts, unit), prepend=0), grid.mantissa_max))
    return _mantissa(_rounded(amounts, unit), grid.mantissa_max)


def _start(v_init: Array, unit: float, one: int, whole: bool) -> Array:
    return _rounded(v_init, unit) * one if whole else _rounded(v_init * one, unit)


def _mantissa(value: Array, largest: int) -> Array:
    """Rounded to m << e with m up to ``largest``, one e for all."""
    exponent = 0
    while largest and (np.abs(value) >> exponent).max() > largest:
        exponent += 1
    return (value + ((1 << exponent) >> 1)) >> exponent << exponent


def _each_mantissa(values: Array, largest: int) -> Array:
    """Rounded to m << e with m up to ``largest``, each with its own e."""
    return np.array([_mantissa(v, largest) for v in values], np.int64)


def _bias_grid(bias: Array, grid: Grid) -> Array:
    """Rounded to mantissa << exponent, with the finest exponent that holds the largest."""
    for exponent in grid.bias_exponents:
        mantissa = np.rint(bias / (1 << exponent)).astype(np.int64)
        if np.abs(mantissa).max() <= grid.bias_mantissa:
            return mantissa << exponent
    return np.rint(bias).astype(np.int64)  # too wide for the chip: its rules name it

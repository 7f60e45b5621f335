"""The unit of a population: the float value of one weight step. Candidates of every method for quantise to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from d2e.ir import LI, MultiThreshold, Neuron
from d2e.ir.nodes import Array

if TYPE_CHECKING:
    from d2e.compiler.passes.quantise import Grid

_ROUNDING = 1e-4
"""Of a step: what single precision leaves of a weight on a grid."""


def threshold_of(node: Neuron) -> float:
    """The float threshold that the unit must divide: the largest level of a multi-threshold neuron."""
    return float(node.levels.max()) if isinstance(node, MultiThreshold) else float(node.threshold)


def candidate_units(
    node: Neuron, values: Array, weight_bits: int, percentile: float, grid: Grid
) -> dict[str, list[float]]:
    """Units by method, the coarsest first; "all" for the searches.

    Args:
        node: folded float neuron.
        values: absolute weights of everything that feeds it.
        weight_bits: their width, sign included.
        percentile: of ``values`` kept by the method "percentile".
        grid: the target's integers.
    """
    top = (1 << (weight_bits - 1)) - 1
    largest = float(values.max()) or threshold_of(node)
    outlier = max(float(np.percentile(values, percentile)), largest / (1 << 20))
    wanted = {"max": [largest / top], "percentile": [outlier / top]}
    wanted["all"] = [largest / top * f for f in np.geomspace(1.0, 0.25, 13)] + wanted["percentile"]
    exact = {m: {_dividing(node, u, grid) for u in units} for m, units in wanted.items()}
    exact["all"] |= _lossless(node, values, top, grid)
    return {m: sorted(units, reverse=True) for m, units in exact.items()}


def _dividing(node: Neuron, unit: float, grid: Grid) -> float:
    """The next unit above that divides the threshold, and for a soft reset makes it a mantissa and an exponent."""
    if isinstance(node, LI):
        return unit
    theta = threshold_of(node)
    steps = max(1, min(int(theta / unit + 1e-9), grid.threshold_max))
    if node.reset == "subtract" and grid.mantissa_max:
        steps = min(steps, grid.mantissa_max << grid.exponent_max)
        exponent = 0
        while steps >> exponent > grid.mantissa_max:
            exponent += 1
        steps = steps >> exponent << exponent
    return theta / steps


def _lossless(node: Neuron, values: Array, top: int, grid: Grid) -> set[float]:
    """The coarsest unit that rounds no weight, where there is one: pooling, or a model trained on a grid."""
    distinct = np.unique(values)
    if distinct.size > top + 1:
        return set()
    for k in range(1, top + 1):
        unit = _dividing(node, float(distinct[-1]) / k or 1.0, grid)
        steps = distinct / unit
        if steps[-1] <= top + _ROUNDING and np.abs(steps - np.rint(steps)).max() < _ROUNDING:
            return {unit}
    return set()

"""The unit of a population: the float value of one weight step. Candidates of every method for quantise to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from d2e.compiler.blocks import distinct, largest, percentile
from d2e.compiler.even_levels import EvenLevels, as_even_levels, shares
from d2e.compiler.passes.ratios import as_multiples
from d2e.ir import LI, MultiThreshold, Neuron
from d2e.ir.nodes import Array

if TYPE_CHECKING:
    from d2e.compiler.passes.quantise import Grid

LEVEL_MAX = 255
"""Levels count as multiples of one factor where these multiples are not larger."""
NOISE = 1e-4
"""Of a step: what single precision leaves of a weight on a grid."""
_SINGLE = 1e-6
"""Of a weight: more than single precision takes from it, so that 0.1 still goes ten times into 1."""
_TRIED = 48
"""Thresholds tried below the largest."""


def threshold_of(node: Neuron) -> float:
    """The float threshold that the unit must divide: the largest level of a multi-threshold neuron."""
    return float(node.levels.max()) if isinstance(node, MultiThreshold) else float(node.threshold)


def spike_at(node: Neuron) -> float:
    """The float threshold of a first spike."""
    return float(node.levels.min()) if isinstance(node, MultiThreshold) else float(node.threshold)


def candidate_units(
    node: Neuron, weights: Sequence[Array], top: int, share: float, grid: Grid
) -> dict[str, list[float]]:
    """Units by method, the coarsest first; "all" for the searches.

    Args:
        node: folded float neuron.
        weights: of what feeds it.
        top: integer that the largest of them may become.
        share: of |weight| that the method "percentile" keeps, in per cent.
        grid: the target's integers.
    """
    widest = largest(weights) or threshold_of(node)
    outlier = max(percentile(weights, share), widest / (1 << 20))
    wanted = {"max": [widest / top], "percentile": [outlier / top]}
    wanted["all"] = [widest / top * f for f in np.geomspace(1.0, 0.25, 13)] + wanted["percentile"]
    exact = {m: {dividing(node, u, grid) for u in units} for m, units in wanted.items()}
    exact["all"] |= _lossless(node, weights, top, grid) | _finest(node, weights, top, grid)
    return {m: _rising(node, sorted(units, reverse=True)) for m, units in exact.items()}


def _rising(node: Neuron, units: list[float]) -> list[float]:
    """Those units on which no two levels fall together, if there are any."""
    if not isinstance(node, MultiThreshold):
        return units
    apart = [u for u in units if (np.diff(np.rint(node.levels / u), prepend=0) > 0).all()]
    return apart or units


def dividing(node: Neuron, unit: float, grid: Grid) -> float:
    """The next unit above that divides the threshold, and for a soft reset makes it a mantissa and an exponent."""
    if isinstance(node, LI):
        return unit
    if grid.bias_max is not None:
        unit = max(unit, float(np.abs(node.bias).max()) / grid.bias_max)
    if isinstance(node, MultiThreshold):
        return _dividing_levels(node, unit, grid)
    theta = threshold_of(node)
    steps = max(1, min(int(theta / unit + 1e-9), grid.threshold_max // (node.max_spikes if grid.burst_thresholds else 1)))
    if node.reset == "subtract" and grid.mantissa_max:
        steps = min(steps, grid.mantissa_max << grid.exponent_max)
        exponent = 0
        while steps >> exponent > grid.mantissa_max:
            exponent += 1
        steps = steps >> exponent << exponent
    if even_levels(node, grid) is not None:
        steps = _inhibiting(1, node.max_spikes, steps, grid)
    return theta / steps


def _dividing_levels(node: MultiThreshold, unit: float, grid: Grid) -> float:
    """The next unit above of which every level is a multiple, or, where levels lie closer than it, the largest level.

    Of levels that lie evenly, their distance at least.
    """
    levels, even = as_multiples(node.levels, LEVEL_MAX), even_levels(node, grid)
    top = int(levels.integers[-1 if grid.burst_thresholds else 0])
    if not levels.exact or levels.factor < unit * (1 - 1e-9):
        if even is not None and even.pitch >= unit * (1 - 1e-9):
            most = int(grid.threshold_max * even.pitch / threshold_of(node))
            return even.pitch / _inhibiting(1, even.count, max(1, min(int(even.pitch / unit + 1e-9), most)), grid)
        largest = threshold_of(node)
        return largest / max(1, min(int(largest / unit + 1e-9), grid.threshold_max - (grid.threshold_max >> 8)))
    steps = max(1, min(int(levels.factor / unit + 1e-9), grid.threshold_max // top))
    if node.reset == "subtract" and grid.mantissa_max:
        taken = np.diff(levels.integers, prepend=0)[:, None] * np.arange(1, steps + 1)  # by each replica of a level
        fits = (taken // (taken & -taken) <= grid.mantissa_max) & (taken <= grid.mantissa_max << grid.exponent_max)
        steps = int(np.flatnonzero(fits.all(axis=0))[-1]) + 1
    if even is not None:
        steps = _inhibiting(int(levels.integers[1] - levels.integers[0]), even.count, steps, grid)
    return levels.factor / steps


def even_levels(node: Neuron, grid: Grid) -> EvenLevels | None:
    """The staircase of a neuron whose digits may inhibit each other on the target: its integer levels are to be even too."""
    found = as_even_levels(node) if grid.mantissa_max else ""
    return None if isinstance(found, str) or found.count < 3 else found


def _inhibiting(pitch: int, count: int, steps: int, grid: Grid) -> int:
    """The most ``steps``, up to those given, for which digits of a staircase of pitch ``steps * pitch`` can inhibit."""
    taken = pitch * np.array(shares(count)[:-1])[:, None] * np.arange(1, steps + 1)
    fits = is_weight(taken, grid.mantissa_max, grid.exponent_max).all(axis=0)
    return int(np.flatnonzero(fits)[-1]) + 1 if fits.any() else steps


def is_weight(values: Array, mantissa: int, exponent: int) -> Array:
    """Where whole numbers above 0 are ``m << e`` with m and e up to these."""
    shift = np.minimum(np.log2(values & -values).astype(np.int64), exponent)
    return np.asarray(values >> shift <= mantissa)


def _finest(node: Neuron, weights: Sequence[Array], top: int, grid: Grid) -> set[float]:
    """Where any integer may be the threshold: the last ones before the widest weights are cut, for some round better."""
    if grid.mantissa_max or isinstance(node, (LI, MultiThreshold)):
        return set()
    theta = threshold_of(node)
    ends = [(top, max((float(w.max()) for w in weights), default=0.0)),
            (top + 1, -min((float(w.min()) for w in weights), default=0.0))]
    whole = [theta / v * t for t, v in ends if v > 0]
    if not whole:
        return set()
    last = min(int(theta / v * (t + 0.5 - NOISE)) for t, v in ends if v > 0)
    return {dividing(node, theta / max(1, n), grid) for n in (*range(last - _TRIED, last + 1), *map(round, whole))}


def _lossless(node: Neuron, weights: Sequence[Array], top: int, grid: Grid) -> set[float]:
    """The coarsest unit that rounds no weight, where there is one: pooling, or a model trained on a grid.

    Where all else is whole units too, also the finest that divides it.
    """
    values = distinct(weights, top + 1)
    if values is None or not values.size:
        return set()
    for k in range(1, top + 1):
        unit = dividing(node, float(values[-1]) / k * (1 - _SINGLE) or 1.0, grid)
        steps = values / unit
        if steps[-1] <= top + NOISE and np.abs(steps - np.rint(steps)).max() < NOISE:
            whole = grid.arithmetic.fraction_bits == 0
            return {unit, dividing(node, unit / max(1, top // k), grid)} if whole else {unit}
    return set()

"""Numbers as integer multiples of one factor: payloads that go into weights, levels that go onto a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2e.ir.nodes import Array

EXACT = 1e-6
"""Relative error that is float noise: of single precision, or of 0.1 * 3."""


@dataclass(frozen=True)
class Multiples:
    """``numbers[i]`` is about ``integers[i] * factor``.

    Attributes:
        integers: zero only where the number is.
        factor: above 0.
        error: largest relative error; below `EXACT` it counts as none.
    """

    integers: Array
    factor: float
    error: float

    @property
    def exact(self) -> bool:
        """Whether nothing was rounded."""
        return self.error < EXACT


def as_multiples(numbers: Array, largest: int, enough: float = 0.0) -> Multiples:
    """The smallest integers up to ``largest`` in the ratios of ``numbers``.

    Where there are none, the smallest whose relative error is at most ``enough``, or else those of the least error.
    """
    values = np.asarray(numbers, np.float64).reshape(-1)
    top = float(np.abs(values).max(initial=0.0))
    if top == 0:
        return Multiples(np.zeros(values.shape, np.int64), 1.0, 0.0)
    best: Multiples | None = None
    good: Multiples | None = None
    for k in range(1, largest + 1):
        integers = np.rint(values * (k / top)).astype(np.int64)
        integers = np.where((integers == 0) & (values != 0), np.sign(values), integers).astype(np.int64)
        ratios = integers[values != 0] / values[values != 0]
        low, high = float(ratios.min()), float(ratios.max())
        found = Multiples(integers, 2 / (low + high), (high - low) / (high + low))
        if found.exact:
            return found
        if good is None and found.error <= enough:
            good = found
        if best is None or found.error < best.error:
            best = found
    assert best is not None
    return good or best

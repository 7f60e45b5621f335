"""When a sample's answer is certain enough to be read before the last step: the rule that an Output carries.

Wang et al., "Adaptive Calibration: A Unified Conversion Framework of Spiking Neural Networks", AAAI 2025, equations 16 and
17. It imports numpy alone, as the encoder does, so that a host program can hold a copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
READOUTS = ("count", "mean", "last")
"""Readouts that add up evidence over time: those the rule can judge step by step."""


@dataclass(frozen=True, eq=False)
class EarlyExit:
    """A sample exits at the first step t = 0 … T-1 whose normalised entropy is at most ``bounds[t]``.

    With K classes and the evidence E[t] (readouts "count" and "mean": all that the output sent up to t, summed; "last": what
    it sends at t, an integrating membrane), computed in float64::

        z = scale * E[t] / (t + 1)        the mean logits so far
        p = exp(z) / sum(exp(z))
        H = -sum(p * log(p)) / log(K)     0: certain … 1: every class alike
        exit after t + 1 steps where H <= bounds[t]

    Attributes:
        bounds: [T], in 0..1; negative: never at this step. A shorter run takes the first of them; none is beyond the last.
        scale: what one unit of the output stands for, in logits divided by the temperature; passes that change the output's
            unit keep it true.
        rule: how the bounds were found, for people.
    """

    bounds: Array
    scale: Array | float = 1.0
    rule: str = "fixed"

    def __post_init__(self) -> None:
        for name in ("bounds", "scale"):
            value = np.array(getattr(self, name), np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def entropy(self, evidence: Array, t: int) -> Array:
        """H in 0..1 [...] of the evidence [..., classes] at step t, counted from 0."""
        z = np.ascontiguousarray(evidence, np.float64) * (float(self.scale) / (t + 1))
        z = z - z.max(axis=-1, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=-1)
        # -sum(p log p) with p = e / total and log p = z - log(total)
        h = np.log(total) - (e * z).sum(axis=-1) / total
        return np.asarray(np.clip(h / math.log(z.shape[-1]), 0.0, 1.0))

    def certain(self, output: Array, readout: str) -> Array:
        """Whether each sample may exit at each step: bool [batch, time] of an output [batch, time, *out]."""
        batch, steps = output.shape[:2]
        flat = output.reshape(batch, steps, math.prod(output.shape[2:]))
        evidence = flat if readout == "last" else flat.cumsum(axis=1)
        found = np.zeros((batch, steps), np.bool_)
        for t in range(min(steps, len(self.bounds))):
            if self.bounds[t] >= 0:
                found[:, t] = self.entropy(evidence[:, t], t) <= self.bounds[t]
        return found

    def steps(self, output: Array, readout: str) -> Array:
        """How many steps each sample runs, int64 [batch], given the output of all steps [batch, time, *out]."""
        found = self.certain(output, readout)
        if not found.size:
            return np.full(len(found), found.shape[1], np.int64)
        steps = np.where(found.any(axis=1), found.argmax(axis=1) + 1, found.shape[1])
        return np.asarray(steps, np.int64)

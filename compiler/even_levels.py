"""Even staircases: neurons without memory whose levels lie evenly and whose payloads count them.

With levels ``first + (i - 1) * pitch``, i = 1 … N, and payloads in proportion to i, such a neuron rounds its input::

    n = clip(floor((v - first) / pitch) + 1, 0, N)

n can be said in about log2(N) binary digits, from the largest down: a digit that stands for s levels is 1 where
``v - pitch * (what the digits before it stand for) >= first + (s - 1) * pitch``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2e.compiler.passes.ratios import EXACT
from d2e.ir import LI, MultiThreshold, Neuron


@dataclass(frozen=True)
class EvenLevels:
    """Levels of a neuron, times its threshold where that is one number; in integers all are whole.

    Attributes:
        first: lowest level.
        pitch: from one level to the next.
        count: of levels.
        step: payload that each level adds.
    """

    first: float
    pitch: float
    count: int
    step: float


def as_even_levels(node: Neuron) -> EvenLevels | str:
    """The even staircase that a neuron, in floating point or in integers, is; or why it is none."""
    if isinstance(node, LI) or not (isinstance(node, MultiThreshold) or node.max_spikes != 1):
        return "sends binary spikes"
    decay_syn, decay_mem = node.decays
    if node.reset != "none" or node.refractory or decay_mem is None or decay_mem.any() or (
        decay_syn is not None and decay_syn.any()
    ):
        return "keeps something from step to step (reset, charge or rest); only neurons without memory have such a code"
    if not isinstance(node, MultiThreshold):
        theta = float(node.threshold.max())
        return EvenLevels(theta, theta, node.max_spikes, 1.0) if node.max_spikes else "has no limit of spikes per step"
    theta, count = float(node.threshold.max()), node.levels.size
    levels = node.levels.astype(np.float64)
    payloads = levels if node.payloads is None else node.payloads.astype(np.float64)
    index = np.arange(count)
    pitch = float(levels[-1] - levels[0]) / max(1, count - 1)
    if np.abs(levels - (levels[0] + pitch * index)).max() > EXACT * levels[-1]:
        return "has levels that are not evenly spaced"
    if np.abs(payloads - payloads[0] * (index + 1)).max() > EXACT * np.abs(payloads).max() or payloads[0] == 0:
        return "sends payloads that are not in proportion to the level's number"
    return EvenLevels(float(levels[0]) * theta, pitch * theta, count, float(payloads[0]))


def shares(count: int) -> tuple[int, ...]:
    """How many of ``count`` levels each binary digit stands for, the largest first; they add up to ``count``.

    Powers of two, and what is missing to ``count``: 15 is 8 + 4 + 2 + 1, 16 is 8 + 4 + 2 + 1 + 1. A digit stands for at
    most one level more than all below it, so that every n up to ``count`` has its digits.
    """
    powers = [1 << k for k in range((count + 1).bit_length() - 1)]
    rest = count - sum(powers)
    return tuple(sorted([*powers, *([rest] if rest else [])], reverse=True))

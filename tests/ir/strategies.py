"""Hypothesis strategies for networks: the builder of networks.py with choices that shrink."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from tests.ir.networks import Builder, Dice

from d2e.ir import Network


class DrawnDice(Dice):
    """Dice whose choices Hypothesis makes; array contents come from one drawn seed."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))


@st.composite
def networks(draw: Callable[..., int]) -> Network:
    """Valid float networks."""
    return Builder(DrawnDice(draw), integer=False).network()


@st.composite
def integer_networks(draw: Callable[..., int]) -> Network:
    """Valid networks of integer populations."""
    return Builder(DrawnDice(draw), integer=True).network()

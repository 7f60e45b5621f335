"""Networks whose reports the tests of this folder look at."""

from __future__ import annotations

from functools import cache

import numpy as np

import d2e
from d2e.ir import IF, LI, Conv2d, EarlyExit, Edge, Flatten, Input, Linear, MultiThreshold, Network, Output
from d2e.ir.network import chain

RNG = np.random.default_rng(11)
FRAMES = RNG.integers(0, 2, (12, 8, 1, 6, 6))
LABELS = RNG.integers(0, 4, 12)


def plain(name: str = "hidden", *, readout: bool = False) -> Network:
    """Convolution, a dense layer and four classes: neurons, or a readout of membranes; some weights stand out."""
    out = LI(shape=(4,), decay_mem=np.float64(0.9)) if readout else IF(shape=(4,))
    return chain([
        ("input", Input(shape=(1, 6, 6))), ("conv", Conv2d(weight=RNG.normal(0.2, 0.4, (3, 1, 3, 3)), padding=(1, 1))),
        (name, IF(shape=(3, 6, 6))), ("flat", Flatten()), ("dense", Linear(weight=RNG.normal(0.1, 0.4, (4, 108)))),
        ("out", out), ("output", Output(shape=(4,))),
    ])


def leaving() -> Network:
    """With an early exit."""
    network = plain()
    rule = EarlyExit(np.full(8, 0.75), 0.7, "calibrated")
    return network.with_nodes({"output": Output(shape=(4,), exit=rule)})


def bursts() -> Network:
    """Levels that become replicas, past which the input also reaches the second layer."""
    nodes = {
        "input": Input(shape=(6,)), "a": Linear(weight=RNG.normal(0.4, 0.4, (5, 6))),
        "first": MultiThreshold(shape=(5,), levels=np.array([1.0, 2.0, 3.0])),
        "b": Linear(weight=RNG.normal(0.4, 0.4, (5, 5))), "second": IF(shape=(5,)),
        "skip": Linear(weight=RNG.normal(0, 1, (5, 6))), "output": Output(shape=(5,)),
    }
    edges = [("input", "a"), ("a", "first"), ("first", "b"), ("b", "second"), ("input", "skip"), ("skip", "second"),
             ("second", "output")]
    return Network(nodes, tuple(Edge(*edge) for edge in edges))


@cache
def program(kind: str, target: str = "loihi2-sim") -> d2e.Program:
    """A program of one of them, measured."""
    made = {"plain": plain, "leaving": leaving, "bursts": bursts, "readout": lambda: plain(readout=True)}[kind]()
    frames = RNG.integers(0, 2, (12, 8, 6)) if kind == "bursts" else FRAMES
    return d2e.compile(made, target=target, eval=(frames, LABELS), burst="replicas")

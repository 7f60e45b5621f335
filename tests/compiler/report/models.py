"""Networks whose reports the tests of this folder look at."""

from __future__ import annotations

from functools import cache

import numpy as np

import d2e
from d2e.ir import IF, LI, Conv2d, EarlyExit, Edge, Flatten, Input, Linear, MultiThreshold, Network, Output
from d2e.ir.network import chain

_RNG = np.random.default_rng(10)
FRAMES = _RNG.integers(0, 2, (12, 8, 1, 6, 6))
LABELS = _RNG.integers(0, 4, 12)


def plain(name: str = "hidden", *, readout: bool = False) -> Network:
    """Convolution, a dense layer and four classes: neurons, or a readout of membranes; some weights stand out."""
    rng = np.random.default_rng(11)
    out = LI(shape=(4,), decay_mem=np.float64(0.9)) if readout else IF(shape=(4,))
    return chain([
        ("input", Input(shape=(1, 6, 6))), ("conv", Conv2d(weight=rng.normal(0.1, 0.3, (3, 1, 3, 3)), padding=(1, 1))),
        (name, IF(shape=(3, 6, 6))), ("flat", Flatten()), ("dense", Linear(weight=rng.normal(0.01, 0.15, (4, 108)))),
        ("out", out), ("output", Output(shape=(4,))),
    ])


def leaving() -> Network:
    """With an early exit."""
    network = plain()
    rule = EarlyExit(np.full(8, 0.8), 3.0, "calibrated")
    return network.with_nodes({"output": Output(shape=(4,), exit=rule)})


def bursts() -> Network:
    """Levels that become replicas, past which the input also reaches the second layer."""
    rng = np.random.default_rng(12)
    nodes = {
        "input": Input(shape=(6,)), "a": Linear(weight=rng.normal(0.4, 0.4, (5, 6))),
        "first": MultiThreshold(shape=(5,), levels=np.array([1.0, 2.0, 3.0])),
        "b": Linear(weight=rng.normal(0.4, 0.4, (5, 5))), "second": IF(shape=(5,)),
        "skip": Linear(weight=rng.normal(0, 1, (5, 6))), "output": Output(shape=(5,)),
    }
    edges = [("input", "a"), ("a", "first"), ("first", "b"), ("b", "second"), ("input", "skip"), ("skip", "second"),
             ("second", "output")]
    return Network(nodes, tuple(Edge(*edge) for edge in edges))


@cache
def program(kind: str, target: str = "loihi2-sim") -> d2e.Program:
    """A program of one of them, measured."""
    made = {"plain": plain, "leaving": leaving, "bursts": bursts, "readout": lambda: plain(readout=True)}[kind]()
    frames = FRAMES[:, :, 0, 0] if kind == "bursts" else FRAMES
    return d2e.compile(made, target=target, eval=(frames, LABELS), burst="replicas")

"""Random lowered networks that netx can express, by kind; ``random_network(kind, seed)`` is the same everywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import numpy as np

from d2e.backends.loihi2.forms import replicas
from d2e.backends.loihi2.map_neurons import MapNeurons
from d2e.compiler.passes.canonicalise import HELPER, Canonicalise
from d2e.ir import (
    IF,
    LI,
    LIF,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
)
from d2e.ir.nodes import Shape, integral
from d2e.ir.reference import Trace
from d2e.ir.shapes import output_shape

KINDS = (
    "dense", "conv", "line", "recurrent", "delay", "soft", "biased", "soft_biased", "burst", "levels", "payload", "readout",
    "copies",
)
ONE = 4096
TIME = 14


class Chain:
    """Nodes one behind another; a recurrent synapse is an extra."""

    def __init__(self, seed: int, shape: Shape, **options: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.nodes: dict[str, Node] = {"input": Input(shape=shape, **options)}
        self.edges: list[Edge] = []
        self.end = "input"

    def add(self, name: str, node: Node) -> None:
        self.nodes[name] = node
        self.edges.append(Edge(self.end, name))
        self.shape = output_shape(name, node, self.shape)
        self.end = name

    def weights(self, *shape: int, reach: int = 60) -> np.ndarray:
        values: np.ndarray = self.rng.integers(-reach // 2, reach + 1, shape)
        values.flat[0] = reach
        return values

    def dense(self, size: int, reach: int = 60) -> None:
        if len(self.shape) > 1:
            self.add(f"flatten{len(self.nodes)}", Flatten())
        self.add(f"weight{len(self.nodes)}", Linear(weight=self.weights(size, self.shape[0], reach=reach)))

    def neurons(self, cls: type[Neuron] = CubaLIF, **options: Any) -> str:
        name = f"layer{len(self.nodes)}"
        self.add(name, cls(shape=self.shape, **{**self.hard(cls), **options}))
        return name

    def hard(self, cls: type[Neuron]) -> dict[str, Any]:
        """Integers of a neuron with hard reset."""
        common: dict[str, Any] = {
            "arithmetic": FixedPoint(), "reset": "zero", "fire": "gt", "gain": integral(1), "amplitude": integral(1),
            "bias": integral(0), "v_init": integral(0), "v_reset": integral(0),
            "threshold": integral(int(self.rng.integers(40, 90))),
        }
        if issubclass(cls, LIF):
            common["decay_mem"] = integral(int(self.rng.choice([ONE, 3000, 1000, 0])))
        if issubclass(cls, (CubaLIF, LI)):
            common["decay_syn"] = integral(int(self.rng.choice([0, 0, 2000, ONE - 1])))
        return common

    def conv(self, channels: int) -> None:
        self.add(f"conv{len(self.nodes)}", Conv2d(weight=self.weights(channels, self.shape[0], 3, 3), padding=(1, 1)))

    def late(self, size: int, steps: int) -> None:
        self.dense(size)
        self.add(f"delay{len(self.nodes)}", Delay(steps=steps))

    def flat_copy(self, source: str, target: str) -> tuple[Flatten, Linear]:
        """Two nodes that lead from any population to a flat one."""
        shapes = [cast("Neuron", self.nodes[n]).shape for n in (source, target)]
        return Flatten(), Linear(weight=self.weights(shapes[1][0], int(np.prod(shapes[0]))))

    def path(self, *names: str) -> list[Edge]:
        return [Edge(a, b) for a, b in pairwise(names)]

    def back(self, name: str) -> None:
        size = self.shape[0]
        self.nodes[f"{name}.back"] = Linear(weight=self.weights(size, size, reach=20))
        self.edges += [Edge(name, f"{name}.back", True), Edge(f"{name}.back", name)]

    def finish(self) -> Network:
        self.add("output", Output(shape=self.shape))
        network = Network(self.nodes, tuple(self.edges))
        return MapNeurons(burst="replicas").run(Canonicalise().run(network, cast("Any", None)), cast("Any", None))

    def frames(self, density: float = 0.4, batch: int = 1) -> np.ndarray:
        entry = cast("Input", self.nodes["input"])
        shape = (batch, TIME, *entry.shape)
        low = -entry.max_payload if entry.coding == "signed" else 0
        values = self.rng.integers(low, entry.max_payload + 1, shape)
        return np.where(self.rng.random(shape) < density, values, 0)


def output_of(network: Network, trace: Trace) -> tuple[np.ndarray, bool]:
    """What the last layer of the file sends for every frame [batch, time, N], and whether it is a membrane."""
    groups = [m for m in replicas(network).values() if not network.neuron(m[0]).metadata.get(HELPER)]
    silent = isinstance(network.neuron(groups[-1][0]), LI)
    table = trace.v if silent else trace.spikes
    parts = [table[m].reshape(*table[m].shape[:2], -1) for m in groups[-1]]
    return np.concatenate(parts, axis=-1), silent


def random_network(kind: str, seed: int) -> tuple[Network, np.ndarray]:
    """A lowered network of a kind, and frames [batch, time, *shape] for it."""
    b = Chain(seed * 100 + KINDS.index(kind), **_ENTRY.get(kind, {"shape": (9,)}))
    for number in range(int(b.rng.integers(1, 4)) if kind != "readout" else 1):
        _LAYERS[kind](b, number)
    if kind in ("conv", "line", "readout"):
        b.dense(5)
        b.neurons(*((LI,) if kind == "readout" else ()))
    network = b.finish()
    return network, b.frames()


_ENTRY: dict[str, dict[str, Any]] = {
    "conv": {"shape": (2, 7, 6)}, "line": {"shape": (3, 11)},
    "payload": {"shape": (2, 4, 3), "coding": "signed", "max_payload": 5},
}


def _dense(b: Chain, number: int) -> None:
    b.dense(7 + number)
    b.neurons()


def _conv(b: Chain, number: int) -> None:
    groups = int(b.rng.choice([1, 2])) if b.shape[0] % 2 == 0 else 1
    b.add(f"conv{number}", Conv2d(
        weight=b.weights(4, b.shape[0] // groups, 3, 2), groups=groups, stride=(1 + number % 2, 1), padding=(1, 1),
        dilation=(1, 1 + number % 2),
    ))
    b.neurons(bias=integral(int(b.rng.integers(-3, 4)) << 6) if number % 2 else (b.weights(4, 1, 1, reach=6) << 6))


def _line(b: Chain, number: int) -> None:
    b.add(f"conv{number}", Conv1d(weight=b.weights(4, b.shape[0], 3), padding=(1,), stride=(1 + number % 2,)))
    b.neurons()


def _recurrent(b: Chain, number: int) -> None:
    b.dense(6)
    b.back(b.neurons())


def _delay(b: Chain, number: int) -> None:
    """A dense layer whose rows, or columns, are late by different steps."""
    before, size = b.shape[0], 8 + 2 * number
    weight, choice = b.weights(size, before), int(b.rng.integers(0, 3))
    steps = b.rng.integers(0, 6, size if choice == 1 else before)
    late = np.broadcast_to({0: steps[0], 1: steps[:, None], 2: steps}[choice], weight.shape)
    start, parts = b.end, []
    for d in np.unique(late):
        b.end = start
        b.shape = (before,)
        b.add(f"weight{number}.{d}", Linear(weight=np.where(late == d, weight, 0)))
        if d:
            b.add(f"delay{number}.{d}", Delay(steps=int(d)))
        parts.append(b.end)
    name = b.neurons()
    b.edges += [Edge(p, name) for p in parts[:-1]]


def _soft(b: Chain, number: int) -> None:
    b.dense(7)
    leak = int(b.rng.choice([ONE, 3500]))
    b.neurons(LIF, reset="subtract", reset_when="next", fire="ge" if leak == ONE else "gt", decay_mem=integral(leak),
              threshold=integral(int(b.rng.integers(50, 120))))


def _copies(b: Chain, number: int) -> None:
    """Resets beyond 8 bits."""
    b.dense(5, reach=121)
    b.neurons(IF, reset="subtract", fire="ge", threshold=integral(int(b.rng.integers(130, 400))),
              max_spikes=int(b.rng.integers(1, 3)), bias=integral(64 * int(b.rng.integers(0, 2) * (30 if number else 130))))


def _biased(b: Chain, number: int) -> None:
    b.dense(8)
    b.neurons(bias=b.weights(8, reach=30) << 6)


def _soft_biased(b: Chain, number: int) -> None:
    b.dense(6)
    b.neurons(IF, reset="subtract", fire="ge", bias=b.weights(6, reach=14) << 6,
              threshold=integral(int(b.rng.integers(60, 120))))


def _burst(b: Chain, number: int) -> None:
    b.dense(6, reach=120)
    b.neurons(IF, reset="subtract", fire="ge", max_spikes=int(b.rng.integers(2, 5)),
              threshold=integral(int(b.rng.integers(30, 100))), bias=integral(64 * int(b.rng.integers(0, 2) * 5)))


def _levels(b: Chain, number: int) -> None:
    b.dense(6, reach=30)
    levels = np.cumsum(b.rng.integers(20, 60, int(b.rng.integers(2, 4))))
    b.neurons(MultiThreshold, reset="subtract", fire="gt", threshold=integral(1), levels=levels, decay_mem=integral(ONE),
              signed=bool(b.rng.integers(0, 2)), payloads=np.arange(1, len(levels) + 1))


_LAYERS: dict[str, Any] = {
    "dense": _dense, "conv": _conv, "line": _line, "recurrent": _recurrent, "delay": _delay, "soft": _soft,
    "biased": _biased, "soft_biased": _soft_biased, "burst": _burst, "levels": _levels, "payload": _dense, "readout": _dense,
    "copies": _copies,
}

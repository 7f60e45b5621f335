"""Replicas and graded processes are the population they stand for: spikes and payloads of random integer networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from d2e.backends.loihi2.forms import lowered, replicas
from d2e.backends.loihi2.map_neurons import MapNeurons
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.replicas import merged
from d2e.compiler.target import find
from d2e.ir import (
    LIF,
    Conv2d,
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
    Scale,
    verified,
)
from d2e.ir.nodes import integral
from d2e.ir.reference import run

CHIP = find("loihi2-sim")
SEEDS = 300


class Source:
    """An integer network as quantise leaves it: populations of several levels, dense and convolutional."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.shape: tuple[int, ...] = (2, 4, 5) if self.rng.random() < 0.4 else (int(self.rng.integers(2, 7)),)
        self.last = "input"
        coding = "signed" if self.rng.random() < 0.3 else "spikes"
        self.nodes["input"] = Input(shape=self.shape, coding=coding, max_payload=int(self.rng.integers(1, 4)))

    def add(self, name: str, node: Node, shape: tuple[int, ...]) -> None:
        self.nodes[name] = node
        self.edges.append(Edge(self.last, name))
        self.last, self.shape = name, shape

    def weights(self, *shape: int) -> np.ndarray:
        return self.rng.integers(-60, 100, shape)

    def layer(self, number: int) -> None:
        if len(self.shape) == 3 and self.rng.random() < 0.6:
            out = int(self.rng.integers(1, 4))
            weight = self.weights(out, self.shape[0], 3, 3)
            self.add(f"w{number}", Conv2d(weight=weight, padding=(1, 1)), (out, *self.shape[1:]))
        else:
            if len(self.shape) == 3:
                self.add(f"flat{number}", Flatten(), (int(np.prod(self.shape)),))
            out = int(self.rng.integers(2, 7))
            self.add(f"w{number}", Linear(weight=self.weights(out, *self.shape)), (out,))
        before = next(e for e in self.edges if e.target == self.last).source
        name = f"n{number}"
        self.add(name, self.neuron(), self.shape)
        if len(self.shape) == 1 and self.rng.random() < 0.4:
            self.nodes[f"r{number}"] = Linear(weight=self.weights(*self.shape, *self.shape) // 2)
            self.edges += [Edge(name, f"r{number}", recurrent=True), Edge(f"r{number}", name)]
        if before in self.nodes and isinstance(self.nodes[before], Neuron) and self.nodes[before].shape == self.shape:
            self.nodes[f"skip{number}"] = Scale(scale=integral(7))
            self.edges += [Edge(before, f"skip{number}"), Edge(f"skip{number}", name)]

    def neuron(self) -> Neuron:
        rng = self.rng
        theta = int(rng.integers(30, 200))
        leak = int(rng.integers(2000, 4096)) if rng.random() < 0.4 else 4096
        options: dict[str, Any] = {
            "shape": self.shape, "arithmetic": FixedPoint(), "gain": integral(1), "amplitude": integral(1),
            "v_reset": integral(0), "reset": "subtract" if rng.random() < 0.85 else "none",
            "fire": str(rng.choice(["ge", "gt"])) if leak == 4096 else "gt",
            "reset_when": "next" if leak != 4096 else str(rng.choice(["same", "next"])),
            "bias": integral(64) * rng.integers(-20, 40, self.shape) if rng.random() < 0.4 else integral(0),
            "v_init": integral(64 * int(rng.integers(-30, 60))), "decay_mem": integral(leak),
        }
        if rng.random() < 0.5:
            phi = int(rng.integers(1, 9))
            reset_by = integral(theta * leak >> 12) if leak != 4096 else None
            return LIF(**options, threshold=integral(theta), max_spikes=phi, reset_by=reset_by)
        count = int(rng.integers(1, 6))
        if rng.random() < 0.5:
            levels = theta * 2 ** np.arange(count)
            payloads = 2 ** np.arange(count)
        else:
            levels = np.cumsum(rng.integers(10, 100, count))
            payloads = np.cumsum(rng.integers(1, 5, count))
        return MultiThreshold(
            **options, threshold=integral(1), levels=levels, payloads=payloads, signed=bool(rng.random() < 0.5)
        )

    def network(self) -> tuple[Network, np.ndarray]:
        source = self.nodes["input"]
        assert isinstance(source, Input)
        size = (2, 12, *self.shape)
        low = -source.max_payload if source.coding == "signed" else 0
        frames = self.rng.integers(low, source.max_payload + 1, size) * (self.rng.random(size) < 0.6)
        for number in range(int(self.rng.integers(1, 4))):
            self.layer(number)
        self.add("output", Output(shape=self.shape), self.shape)
        return verified(Network(self.nodes, tuple(self.edges))), frames


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_replicas_and_graded_processes_send_what_the_population_sends(first: int) -> None:
    fired = several = 0
    for seed in range(first, first + 50):
        network, frames = Source(seed).network()
        expected = run(network, frames, "spikes")
        for burst in ("replicas", "graded"):
            result = verified(MapNeurons(burst=burst).run(network, CHIP))  # type: ignore[arg-type]
            assert lowered(result) is None
            found = merged(result, run(result, frames, "spikes"))
            assert np.array_equal(found.output, expected.output), (seed, burst)
            for name in network.populations:
                assert np.array_equal(found.spikes[name], expected.spikes[name]), (seed, burst, name)
                assert np.array_equal(found.counts[name], expected.counts[name]), (seed, burst, name)
            several += any(len(names) > 1 for names in replicas(result).values())
            own = [n for n in replicas(result) if not (n in result.nodes and result.nodes[n].metadata.get(HELPER))]
            assert sorted(own) == sorted(network.populations)
        fired += sum(int(c.sum() > 0) for c in expected.counts.values())
    assert fired > 50
    assert several > 25

"""Random integer networks of even staircases, as quantise leaves them: neurons without memory, and frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from d2e.ir import (
    LIF,
    Conv1d,
    Conv2d,
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
    Scale,
    verified,
)
from d2e.ir.nodes import integral

COUNTS = (3, 4, 7, 7, 8, 10, 15, 15, 16, 31)


def stairs(shape: tuple[int, ...], first: int, pitch: int, count: int, step: int = 1, **options: Any) -> MultiThreshold:
    """An integer staircase."""
    index = np.arange(count)
    base = {
        "threshold": integral(1), "gain": integral(1), "amplitude": integral(1), "v_reset": integral(0), "bias": integral(0),
        "v_init": integral(0), "decay_mem": integral(0), "arithmetic": FixedPoint(), "reset": "none",
        "levels": first + pitch * index, "payloads": step * (index + 1),
    }
    return MultiThreshold(shape=shape, **{**base, **options})


class Source:
    """Draws a network."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        shapes = (2, 4, 3), (2, 5), (int(rng.integers(2, 6)),)
        self.shape: tuple[int, ...] = shapes[int(rng.choice(3, p=[0.35, 0.1, 0.55]))]
        self.steps = int(rng.choice([1, 4]))
        coding: Any = "signed" if rng.random() < 0.3 else "spikes"
        self.nodes["input"] = Input(shape=self.shape, coding=coding, max_payload=int(rng.integers(1, 9)))
        self.last, self.most, self.skipped = "input", 8, ""

    def add(self, name: str, node: Node, shape: tuple[int, ...]) -> None:
        self.nodes[name] = node
        self.edges.append(Edge(self.last, name))
        self.last, self.shape = name, shape

    def layer(self, number: int) -> None:
        rng, before = self.rng, self.last
        reach = max(2, 120 // self.most)
        if len(self.shape) > 1 and rng.random() < 0.7:
            out, size = int(rng.integers(1, 4)), (3,) * (len(self.shape) - 1)
            weight = rng.integers(-reach, 2 * reach, (out, self.shape[0], *size))
            conv: Node = Conv2d(weight=weight, padding=(1, 1)) if len(size) == 2 else Conv1d(weight=weight, padding=(1,))
            self.add(f"w{number}", conv, (out, *self.shape[1:]))
        else:
            if len(self.shape) > 1:
                self.add(f"flat{number}", Flatten(), (int(np.prod(self.shape)),))
            out = int(rng.integers(2, 6))
            self.add(f"w{number}", Linear(weight=rng.integers(-reach, 2 * reach, (out, *self.shape))), (out,))
        name = f"n{number}"
        self.add(name, self.neuron(reach), self.shape)
        if isinstance(self.nodes[before], Neuron) and self.nodes[before].shape == self.shape:  # type: ignore[attr-defined]
            self.nodes[f"skip{number}"] = Scale(scale=integral(int(rng.integers(1, 2 * reach))))
            self.edges += [Edge(before, f"skip{number}"), Edge(f"skip{number}", name)]
            if rng.random() < 0.3:
                self.nodes[f"late{number}"] = Delay(steps=2)
                self.edges += [Edge(before, f"late{number}"), Edge(f"late{number}", f"late{number}w")]
                self.nodes[f"late{number}w"] = Scale(scale=integral(3))
                self.edges.append(Edge(f"late{number}w", name))

    def neuron(self, reach: int) -> Neuron:
        rng = self.rng
        count, pitch = int(rng.choice(COUNTS)), int(rng.integers(2, 64))
        options: dict[str, Any] = {"fire": str(rng.choice(["ge", "gt"]))}
        if rng.random() < 0.5:
            options["bias"] = 64 * rng.integers(-pitch, 3 * pitch, self.shape)
        if rng.random() < 0.2:
            options["v_init"] = integral(int(rng.integers(-9999, 9999)))
        if rng.random() < 0.15:
            self.most = count
            kept = {"threshold": integral(pitch), "decay_mem": integral(0), "arithmetic": FixedPoint(), "reset": "none",
                    "gain": integral(1), "amplitude": integral(1), "v_reset": integral(0), "bias": integral(0)}
            return LIF(**{"shape": self.shape, **kept, **options, "v_init": integral(0)}, max_spikes=count)
        step = int(rng.choice([1, 1, 2, -1]))
        self.most = count * abs(step)
        first = int(rng.choice([pitch, max(1, pitch // 2), int(rng.integers(1, 3 * pitch))]))
        return stairs(self.shape, first, pitch, count, step, signed=bool(rng.random() < 0.3), **options)

    def network(self) -> tuple[Network, np.ndarray]:
        source = self.nodes["input"]
        assert isinstance(source, Input)
        size = (3, self.steps, *self.shape)
        low = -source.max_payload if source.coding == "signed" else 0
        frames = self.rng.integers(low, source.max_payload + 1, size)
        for number in range(int(self.rng.integers(1, 4))):
            self.layer(number)
        self.add("output", Output(shape=self.shape), self.shape)
        return verified(Network(self.nodes, tuple(self.edges))), frames


def random_stairs(seed: int) -> tuple[Network, np.ndarray]:
    """The same network and frames [3, T, *shape] for the same seed."""
    return Source(np.random.default_rng(seed)).network()

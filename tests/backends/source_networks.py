"""Random float networks of what Loihi 2 takes, and frames: they go through the whole pipeline.

``random_source(seed)`` draws IF, LIF and CubaLIF with every reset, per-channel thresholds, bias, gain, start values,
convolutions with pooling, recurrence, a membrane readout, and payloads or signs at the input; with ``several`` also bursts
of up to 8 and multi-threshold neurons.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from d2e.ir import (
    IF,
    LI,
    LIF,
    Affine,
    AvgPool2d,
    Conv2d,
    CubaLIF,
    Delay,
    Edge,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    SumPool2d,
    verified,
)
from d2e.ir.shapes import output_shape

STEPS = 10


class _Builder:
    def __init__(self, seed: int, several: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.several = several
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.shape: tuple[int, ...] = ()
        self.last = ""

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def add(self, base: str, node: Node) -> None:
        name = f"{base}{len(self.nodes)}"
        self.nodes[name] = node
        if self.last:
            self.edges.append(Edge(self.last, name))
            self.shape = output_shape(name, node, self.shape)
        self.last = name

    def weight(self, *shape: int) -> np.ndarray:
        spread = 1 / np.sqrt(np.prod(shape[1:]))
        return self.rng.normal(0.15 * spread, 1.3 * spread, shape)

    def value(self, low: float, high: float, share: float) -> np.ndarray:
        """One number, or in this share of the cases one per neuron."""
        return np.asarray(self.rng.uniform(low, high, self.shape if self.chance(share) else ()))

    def flat(self) -> None:
        if len(self.shape) > 1:
            self.add("flatten", Flatten())

    def conv(self) -> None:
        out, stride = int(self.rng.integers(1, 4)), (int(self.rng.integers(1, 3)), 1)
        bias = self.rng.normal(0, 0.1, out) if self.chance(0.5) else None
        self.add("conv", Conv2d(weight=self.weight(out, self.shape[0], 3, 3), bias=bias, padding=(1, 1), stride=stride))
        if self.chance(0.4) and min(self.shape[1:]) > 1:
            self.add("pool", self.pick(AvgPool2d, SumPool2d)(kernel_size=(2, 2), stride=(2, 2)))

    def dense(self) -> None:
        self.flat()
        out = int(self.rng.integers(2, 8))
        weight = self.weight(out, *self.shape)
        bias = self.chance(0.5)
        self.add("dense", Affine(weight=weight, bias=self.rng.normal(0, 0.1, out)) if bias else Linear(weight=weight))

    def neuron(self) -> None:
        rng = self.rng
        cls: type[Neuron] = self.pick(IF, LIF, CubaLIF)
        channels = (self.shape[0], *[1] * (len(self.shape) - 1))
        options: dict[str, Any] = {
            "threshold": np.asarray(rng.uniform(0.5, 1.5, channels if self.chance(0.3) else ())),
            "fire": self.pick("ge", "gt"), "reset": self.pick("subtract", "zero", "value"),
            "reset_when": self.pick("same", "next"),
        }
        if issubclass(cls, LIF):
            options["decay_mem"] = np.float64(rng.choice([1.0, rng.uniform(0, 1), 0.0], p=[0.2, 0.7, 0.1]))
        if cls is CubaLIF:
            options["decay_syn"] = np.float64(rng.choice([0.0, rng.uniform(0, 1)], p=[0.3, 0.7]))
        extras = [("bias", -0.2, 0.2, 0.5), ("v_init", -0.4, 0.5, 0.5), ("gain", 0.5, 1.5, 0), ("reset_by", 0.3, 1.2, 0)]
        options |= {name: self.value(low, high, share) for name, low, high, share in extras if self.chance(0.3)}
        if options["reset"] == "value":
            options |= {"reset_when": "same", "v_reset": self.value(-0.3, 0.3, 0)}
        if self.several:
            cls = self.levels(cls, options)
        self.add("neuron", cls(shape=self.shape, **options))

    def levels(self, cls: type[Neuron], options: dict[str, Any]) -> type[Neuron]:
        """Let the neuron send more than one spike, mostly in a form that replicas have."""
        rng = self.rng
        if self.chance(0.8):
            options["reset"] = self.pick("subtract", "subtract", "none")
            options.pop("v_reset", None)
            cls = self.pick(IF, LIF) if cls is CubaLIF else cls
            options.pop("decay_syn", None)
        if cls is IF:
            options.pop("decay_mem", None)
        elif "decay_mem" not in options:
            options["decay_mem"] = np.float64(rng.uniform(0, 1))
        if options["reset"] == "value" or self.chance(0.6):
            options["max_spikes"] = 1 if options["reset"] == "value" else int(rng.integers(1, 9))
            return cls
        count = int(rng.integers(1, 6))
        levels = 0.3 * 2.0 ** np.arange(count) if self.chance(0.5) else np.cumsum(rng.uniform(0.2, 0.6, count))
        dropped = ("reset_by", "decay_syn", "threshold")
        kept = {k: v for k, v in options.items() if k not in dropped}
        options.clear()
        options |= {"decay_mem": np.float64(1), **kept, "levels": levels, "signed": self.chance(0.5)}
        if self.chance(0.4):
            options["payloads"] = np.cumsum(rng.integers(1, 4, count)) * 0.5
        return MultiThreshold

    def recurrence(self) -> None:
        population, shape = self.last, self.shape
        late = self.chance(0.3)
        if late:
            self.add("delay", Delay(steps=int(self.rng.integers(1, 3))))
            self.edges[-1] = self.edges[-1]._replace(recurrent=True)
        self.add("back", Linear(weight=self.weight(*shape, *shape)))
        if not late:
            self.edges[-1] = self.edges[-1]._replace(recurrent=True)
        self.edges.append(Edge(self.last, population))
        self.last, self.shape = population, shape

    def network(self) -> Network:
        image = self.chance(0.4)
        self.shape = (2, 5, 6) if image else (int(self.rng.integers(2, 8)),)
        coding = self.pick("spikes", "spikes", "spikes", "signed")
        self.add("input", Input(shape=self.shape, max_payload=self.pick(1, 1, 3), coding=coding))
        for layer in range(int(self.rng.integers(1, 4))):
            self.conv() if image and layer < 2 else self.dense()
            self.neuron()
            if len(self.shape) == 1 and self.chance(0.3):
                self.recurrence()
            if len(self.shape) > 1 and min(self.shape[1:]) > 1 and self.chance(0.2):
                self.add("sum", SumPool2d(kernel_size=(2, 2), stride=(1, 1)))
                self.add("neuron", IF(shape=self.shape, threshold=np.float64(2)))
        if self.chance(0.2):
            self.dense()
            self.add("readout", LI(shape=self.shape, decay_mem=np.float64(self.rng.uniform(0.5, 1))))
        self.add("output", Output(shape=self.shape))
        return verified(Network(self.nodes, tuple(self.edges)))


def random_source(seed: int, several: bool = False) -> tuple[Network, np.ndarray]:
    """A float network and frames [2, STEPS, *shape]; the same for the same seed."""
    builder = _Builder(seed, several)
    network = builder.network()
    source = network.input
    size = (2, STEPS, *source.shape)
    low = -source.max_payload if source.coding == "signed" else 0
    frames = builder.rng.integers(low, source.max_payload + 1, size) * (builder.rng.random(size) < 0.5)
    return network, frames

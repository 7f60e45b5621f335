"""Random valid networks that use everything the IR has; shared by the tests of all folders.

`random_network(seed)` is float, `random_integer_network(seed)` exact integers; both come with frames. One
builder serves Hypothesis (strategies.py) with a `Dice` whose choices shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from d2e.ir import (
    IF,
    LI,
    LIF,
    Affine,
    AvgPool2d,
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
    Quantized,
    Scale,
    SumPool2d,
    verified,
)
from d2e.ir.shapes import output_shape

T = TypeVar("T")
ONE = 4096


class Dice:
    """Where the choices of a random network come from: here a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        """A whole number in low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[T]) -> T:
        """One of the options; the first is the plainest."""
        return options[self.integer(0, len(options) - 1)]

    def chance(self, percent: int = 50) -> bool:
        """True in about ``percent`` of the cases."""
        return self.integer(0, 99) >= 100 - percent


class Builder:
    """Grows a network node by node; every choice comes from the dice."""

    def __init__(self, dice: Dice, *, integer: bool) -> None:
        self.dice, self.rng, self.integer = dice, dice.rng, integer
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.shape: tuple[int, ...] = ()
        self.last = ""

    def add(self, node: Node, *sources: str) -> str:
        """Append a node after ``sources`` (the last node by default); returns its name."""
        name = f"{node.kind}_{len(self.nodes)}"
        self.nodes[name] = node
        self.edges += [Edge(s, name) for s in (sources or ((self.last,) if self.last else ()))]
        if self.last:
            self.shape = output_shape(name, node, self.shape)
        self.last = name
        return name

    # ----- arrays

    def weight(self, *shape: int) -> np.ndarray[Any, Any]:
        if self.integer:
            return self.rng.integers(-100, 101, shape).astype(np.int8)
        spread = 1.5 / np.sqrt(np.prod(shape[1:], initial=1))
        return self.rng.normal(0.2 * spread, spread, shape).astype(self.dice.choice([np.float64, np.float32]))

    def grid(self) -> dict[str, Any]:
        if not self.integer:
            return {}
        return {"quantized": Quantized(8, self.dice.choice([np.float64(0.01), np.array([0.01], np.float32)]))}

    def bias(self, out: int) -> np.ndarray[Any, Any]:
        if self.integer:
            return self.rng.integers(-50, 51, out)
        return self.rng.normal(0.05, 0.1, out)

    def value(self, low: float, high: float) -> np.ndarray[Any, Any]:
        """A neuron parameter: scalar, per channel or per neuron."""
        size = self.dice.choice([(), (), (self.shape[0], *[1] * (len(self.shape) - 1)), self.shape])
        if self.integer:
            return np.asarray(self.rng.integers(int(low), int(high) + 1, size))
        return np.asarray(self.rng.uniform(low, high, size))

    # ----- synapses

    def synapse(self) -> None:
        """One synapse that fits the present shape."""
        if len(self.shape) == 3:
            plain = [self.conv2d, self.conv2d, self.sum_pool]
        elif len(self.shape) == 2:
            plain = [self.conv1d, self.conv1d, self.flatten]
        else:
            plain = [self.dense, self.dense]
        self.dice.choice([*plain, self.delay] if self.integer else [*plain, self.delay, self.scale])()

    def dense(self, out: int | None = None) -> None:
        out = out or self.dice.integer(1, 8)
        weight = self.weight(out, self.shape[-1])
        if self.dice.chance():
            self.add(Affine(weight=weight, bias=self.bias(out), **self.grid()))
        else:
            self.add(Linear(weight=weight, **self.grid()))

    def _window(self, sizes: tuple[int, ...]) -> tuple[list[int], list[int], list[int], list[int]]:
        kernel, stride, padding, dilation = [], [], [], []
        for size in sizes:
            kernel.append(self.dice.integer(1, min(3, size)))
            dilation.append(self.dice.integer(1, 2) if 2 * (kernel[-1] - 1) < size else 1)
            stride.append(self.dice.integer(1, 2))
            padding.append(self.dice.integer(0, 2))
        return kernel, stride, padding, dilation

    def conv(self, cls: type[Conv1d] | type[Conv2d]) -> None:
        channels, sizes = self.shape[0], self.shape[1:]
        kernel, stride, padding, dilation = self._window(sizes)
        groups = self.dice.choice([g for g in (1, 2, 3) if channels % g == 0])
        out = groups * self.dice.integer(1, 3)
        same = self.dice.chance(25)
        self.add(cls(
            weight=self.weight(out, channels // groups, *kernel), groups=groups, dilation=tuple(dilation),
            bias=self.bias(out) if self.dice.chance() else None,
            stride=(1,) * len(sizes) if same else tuple(stride),
            padding="same" if same else tuple(padding), **self.grid(),
        ))

    def conv1d(self) -> None:
        self.conv(Conv1d)

    def conv2d(self) -> None:
        self.conv(Conv2d)

    def sum_pool(self) -> None:
        kernel, stride, padding, _ = self._window(self.shape[1:])
        cls = SumPool2d if self.integer else self.dice.choice([SumPool2d, AvgPool2d])
        pads = (min(padding[0], kernel[0] // 2), min(padding[1], kernel[1] // 2))
        self.add(cls(kernel_size=(kernel[0], kernel[1]), stride=(stride[0], stride[1]), padding=pads))

    def flatten(self) -> None:
        self.add(Flatten(start_dim=0, end_dim=self.dice.choice([-1, len(self.shape) - 1])))

    def delay(self) -> None:
        self.add(Delay(steps=self.dice.integer(0, 3)))

    def scale(self) -> None:
        self.add(Scale(scale=self.value(0.5, 1.5)))

    # ----- neurons

    def neuron(self, *sources: str) -> str:
        """One population with random options."""
        kinds = [IF, LIF, CubaLIF] if self.integer else [IF, LIF, CubaLIF, MultiThreshold]
        cls: type[Neuron] = self.dice.choice(kinds)
        options = self.fixed_options() if self.integer else self.float_options(cls)
        if issubclass(cls, LIF):
            options["decay_mem"] = self.value(0, ONE) if self.integer else self.value(0.0, 1.0)
        if cls is CubaLIF:
            options["decay_syn"] = self.value(0, ONE) if self.integer else self.value(0.0, 1.0)
        return self.add(cls(shape=self.shape, **options), *sources)

    def float_options(self, cls: type[Neuron]) -> dict[str, Any]:
        dice, chosen = self.dice, {"threshold": self.value(0.3, 1.2)}
        spikes = dice.choice([1, 1, 2, 4, 0])
        options: dict[str, Any] = {
            **chosen, "fire": dice.choice(["ge", "gt"]), "max_spikes": spikes,
            "reset": dice.choice(["subtract", "zero", "value", "none"]),
            "reset_when": dice.choice(["same", "next"]),
        }
        if options["reset"] == "value":
            options["v_reset"] = self.value(-0.3, 0.2)
        extras: list[tuple[str, tuple[float, float]]] = [
            ("gain", (0.5, 1.5)), ("bias", (-0.1, 0.2)), ("v_min", (-2.0, -0.5)), ("v_init", (-0.2, 0.4)),
            ("amplitude", (0.5, 1.5)),
        ]
        options |= {name: self.value(*bounds) for name, bounds in extras if dice.chance(25)}
        if cls is MultiThreshold:
            options["levels"] = np.cumsum(self.rng.uniform(0.3, 0.9, dice.integer(1, 4)))
            options["signed"] = dice.chance()
            if dice.chance(25):
                options["payloads"] = np.arange(1.0, options["levels"].size + 1)
        elif options["reset"] == "subtract" and dice.chance(25):
            options["reset_by"] = self.value(0.2, 1.0)
        return options

    def fixed_options(self) -> dict[str, Any]:
        dice = self.dice
        options: dict[str, Any] = {
            "threshold": self.value(20, 400), "fire": dice.choice(["ge", "gt"]),
            "max_spikes": dice.choice([1, 1, 3]), "reset": dice.choice(["subtract", "zero", "value", "none"]),
            "reset_when": dice.choice(["same", "next"]), "gain": np.int64(1), "amplitude": np.int64(1),
            "bias": np.int64(0), "v_init": np.int64(0), "v_reset": np.int64(0),
            "arithmetic": dice.choice([FixedPoint(), FixedPoint(u_overflow="saturate", v_overflow="wrap")]),
            "quantized": Quantized(8, np.float64(0.01)),
        }
        extras = [
            ("bias", (-300, 900)), ("v_min", (-40000, -6000)), ("v_init", (-99, 99)), ("amplitude", (1, 3)),
        ]
        options |= {name: self.value(*bounds) for name, bounds in extras if dice.chance(25)}
        if options["reset"] == "value":
            options["v_reset"] = self.value(-1000, 1000)
        return options

    # ----- shapes of graphs

    def recurrence(self, population: str) -> None:
        """A loop from a population to itself, through a synapse or straight, maybe with a delay."""
        shape, last = self.shape, self.last
        source, count = population, len(self.edges)
        if self.dice.chance(80):
            node: Node
            if len(shape) == 1:
                node = Linear(weight=self.weight(shape[0], shape[0]), **self.grid())
            else:
                cls = Conv1d if len(shape) == 2 else Conv2d
                node = cls(weight=self.weight(shape[0], shape[0], *[3] * (len(shape) - 1)), padding="same",
                           **self.grid())
            source = self.add(node, source)
        if self.dice.chance(25):
            source = self.add(Delay(steps=self.dice.integer(0, 2)), source)
        entry = self.edges[count] if len(self.edges) > count else None
        late = self.dice.chance(70) or source == population
        if not late:
            self.edges = [e._replace(recurrent=True) if e == entry else e for e in self.edges]
        self.edges.append(Edge(source, population, late))
        self.shape, self.last = shape, last

    def block(self) -> None:
        """Synapses, a population, and sometimes a residual fan-in or a loop."""
        entry, entry_shape = self.last, self.shape
        self.synapse()
        if self.dice.chance(30):
            self.synapse()
        sources = [self.last]
        if self.shape == entry_shape and entry != self.last and self.dice.chance(60):
            sources.append(entry)
        population = self.neuron(*sources)
        if self.dice.chance(30):
            self.recurrence(population)

    def network(self) -> Network:
        """An input, one to three blocks, a dense readout, an output."""
        dice = self.dice
        axes = dice.choice([(), (5,), (5, 4)])
        self.shape = (dice.integer(1, 6), *(n + dice.integer(0, 2) for n in axes))
        payload = dice.choice([1, 1, 3])
        direct = not self.integer and dice.chance(15)
        coding: Any = "direct" if direct else dice.choice(["spikes", "signed"])
        dt = dice.choice([None, 1e-3, 1e-4])
        self.add(Input(shape=self.shape, dt=dt, coding=coding, max_payload=payload))
        self.edges.clear()
        for _ in range(dice.integer(1, 3)):
            self.block()
        if len(self.shape) > 1:
            self.flatten()
        self.dense()
        self.neuron() if self.integer or dice.chance(70) else self.add(
            LI(shape=self.shape, decay_mem=self.value(0.5, 1.0), decay_syn=self.value(0.0, 0.5))
        )
        self.add(Output(shape=self.shape, readout=dice.choice(["count", "last", "mean", "max", "first"])))
        return verified(Network(self.nodes, tuple(self.edges), {"origin": "random", "integer": self.integer}))


def random_frames(network: Network, seed: int, batch: int = 2, steps: int = 6) -> np.ndarray[Any, Any]:
    """Frames [batch, time, *shape] that suit a network's input."""
    rng, source = np.random.default_rng(seed), network.input
    size = (batch, steps, *source.shape)
    if source.coding == "direct":
        return rng.normal(0.3, 1.0, size)
    low = -source.max_payload if source.coding == "signed" else 0
    frames = rng.integers(low, source.max_payload + 1, size)
    return np.where(rng.random(size) < 0.6, frames, 0)


def random_network(seed: int) -> tuple[Network, np.ndarray[Any, Any]]:
    """A valid float network with every feature of the IR within reach of some seed, and frames for it."""
    network = Builder(Dice(seed), integer=False).network()
    return network, random_frames(network, seed)


def random_integer_network(seed: int) -> tuple[Network, np.ndarray[Any, Any]]:
    """A valid network of `FixedPoint` populations with int8 weights, and frames for it."""
    network = Builder(Dice(seed), integer=True).network()
    return network, random_frames(network, seed)

"""Random lowered networks: what d2e's passes hand to the Loihi 2 backend, in every form it must reproduce.

``random_lowered(seed)`` is the same network everywhere; the simulator and Lava are tested on the same ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from d2e.ir import (
    LI,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    Network,
    Node,
    Output,
    Quantized,
    Scale,
    SumPool2d,
)
from d2e.ir.shapes import output_shape

Shape = tuple[int, ...]
ONE = 4096


def random_lowered(seed: int) -> tuple[Network, np.ndarray]:
    """A lowered network and frames [batch, time, *shape] for it."""
    rng = np.random.default_rng(seed)
    return KINDS[seed % len(KINDS)](Builder(rng))


def whole(value: Any) -> np.ndarray:
    return np.asarray(value, np.int64)


class Builder:
    """Grows a network; every method returns the name of what it added."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.shapes: dict[str, Shape] = {}

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def add(
        self, base: str, node: Node, *sources: str, shape: Shape | None = None, recurrent: bool = False
    ) -> str:
        name = base if base not in self.nodes else f"{base}_{len(self.nodes)}"
        self.nodes[name] = node
        self.edges += [Edge(s, name, recurrent) for s in sources]
        self.shapes[name] = shape if shape is not None else output_shape(name, node, self.shapes[sources[0]])
        return name

    def join(self, source: str, target: str) -> None:
        self.edges.append(Edge(source, target))

    # ----- synapses

    def weights(self, shape: Shape, bits: int | None = None) -> tuple[np.ndarray, Quantized | None]:
        bits = bits or int(self.rng.integers(2, 9))
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        sign = self.pick("mixed", "mixed", "mixed", "positive", "negative")
        w = self.rng.integers(0 if sign == "positive" else low, 1 if sign == "negative" else high + 1, shape)
        if self.chance(0.3):
            w = w * self.rng.integers(0, 2, shape)
        stated = Quantized(bits=bits, scale=np.array(0.01)) if self.chance(0.5) else None
        return whole(w), stated

    def linear(self, source: str, out: int, recurrent: bool = False, bits: int | None = None) -> str:
        if len(self.shapes[source]) > 1:
            source = self.add("flat", Flatten(), source, recurrent=recurrent)
            recurrent = False
        w, stated = self.weights((out, self.shapes[source][0]), bits)
        node = Linear(weight=w, quantized=stated)
        return self.add("dense", node, source, shape=(out,), recurrent=recurrent)

    def conv2d(self, source: str, plain: bool = False, bits: int | None = None) -> str:
        channels, height, width = self.shapes[source]
        groups = int(self.pick(*[g for g in (1, 1, 2, channels) if channels % g == 0]))
        out = groups * int(self.rng.integers(1, 4))
        if plain:
            groups, out = 1, channels
        kernel = tuple(int(self.rng.integers(1, min(4, n) + 1)) for n in (height, width))
        w, stated = self.weights((out, channels // groups, *kernel), bits)
        same = plain or self.chance(0.25)
        dilation = tuple(
            int(self.rng.integers(1, 3)) if same or n > 2 * (k - 1) else 1
            for n, k in zip((height, width), kernel, strict=True)
        )
        options: dict[str, Any] = {"padding": "same", "dilation": dilation}
        if not same:
            options["stride"] = tuple(int(s) for s in self.rng.integers(1, 4, 2))
            options["padding"] = tuple(int(p) for p in self.rng.integers(0, 3, 2))
        return self.add("conv", Conv2d(weight=w, groups=groups, quantized=stated, **options), source)

    def conv1d(self, source: str) -> str:
        channels, length = self.shapes[source]
        groups = int(self.pick(*[g for g in (1, 2) if channels % g == 0]))
        taps = int(self.rng.integers(1, min(5, length) + 1))
        w, stated = self.weights((groups * 2, channels // groups, taps))
        if self.chance(0.3):
            node = Conv1d(weight=w, groups=groups, padding="same", quantized=stated)
            return self.add("conv1d", node, source)
        stride, padding = (int(self.rng.integers(1, 3)),), (int(self.rng.integers(0, 3)),)
        node = Conv1d(weight=w, groups=groups, stride=stride, padding=padding, quantized=stated)
        return self.add("conv1d", node, source)

    def pool(self, source: str) -> str:
        kernel = tuple(int(self.rng.integers(1, min(3, n) + 1)) for n in self.shapes[source][1:])
        stride = self.pick(kernel, (1, 1), (2, 1))
        padding = tuple(int(self.rng.integers(0, k // 2 + 1)) for k in kernel)
        return self.add("pool", SumPool2d(kernel_size=kernel, stride=stride, padding=padding), source)

    def scale(self, source: str, recurrent: bool = False) -> str:
        full = self.chance(0.5)
        w, _ = self.weights(self.shapes[source] if full else ())
        return self.add("scale", Scale(scale=w), source, recurrent=recurrent)

    def delay(self, source: str, steps: int, recurrent: bool = False) -> str:
        return self.add("delay", Delay(steps=steps), source, recurrent=recurrent)

    # ----- ends and neurons

    def input(self, shape: Shape, payload: int | None = None) -> str:
        largest = payload or int(self.pick(1, 1, 1, 3, 15, 200))
        return self.add("input", Input(shape=shape, max_payload=largest), shape=shape)

    def population(self, *synapses: str, typical: float | None = None) -> str:
        """Neurons that sum these synapses; a soft reset brings a self synapse, a bias an always-on source."""
        shape = self.shapes[synapses[0]]
        theta = self._threshold(synapses, typical)
        soft = self.chance(0.4)
        style = "soft" if soft else self.pick("hard", "leaky", "cuba", "cuba", "memoryless")
        options = self._dynamics(style, shape, theta)
        node = lif(shape, threshold=whole(theta - 1 if soft else theta), **options)
        name = self.add("lif", node, *synapses, shape=shape)
        if soft:
            step = self.add("self", Scale(scale=whole(-theta)), name, recurrent=True)
            self.join(step, name)
            if self.chance(0.4):
                self._always_on(name, theta)
        return name

    def _threshold(self, synapses: tuple[str, ...], typical: float | None) -> int:
        """About what a few spikes bring; soft resets need it as m << e with m <= 255."""
        nodes = [self.nodes[s] for s in synapses]
        weights = [getattr(n, "weight", getattr(n, "scale", whole(1))) for n in nodes]
        most = typical or max(float(np.abs(w).max(initial=1)) for w in weights)
        theta = min(32640, max(1, int(most * self.rng.uniform(0.3, 4.0))))
        exponent = max(0, theta.bit_length() - 8)
        return max(1, (theta >> exponent) << exponent)

    def _dynamics(self, style: str, shape: Shape, theta: int) -> dict[str, Any]:
        rng = self.rng
        if style == "soft":
            kept = ONE if self.chance(0.7) else rng.integers(3000, ONE)
            start = rng.integers(-(theta << 6), (theta << 6) + 1) if self.chance(0.4) else 0
            return {"decay_syn": whole(kept), "decay_mem": whole(0), "u_init": whole(start)}
        decays = {
            "hard": (0, ONE), "leaky": (0, rng.integers(1500, ONE)), "memoryless": (0, 0),
            "cuba": (rng.integers(0, ONE + 1), rng.integers(0, ONE + 1)),
        }[style]
        options: dict[str, Any] = {"decay_syn": whole(decays[0]), "decay_mem": whole(decays[1])}
        if self.chance(0.5):
            exponent = int(rng.integers(0, 8))
            reach = max(1, min(4095, (theta << 6 >> exponent) // int(self.pick(1, 3, 10))))
            size = shape if self.chance(0.6) else ()
            options["bias"] = whole(rng.integers(-reach, reach + 1, size) << exponent)
        if self.chance(0.3):
            size = shape if self.chance(0.5) else ()
            options["v_init"] = whole(rng.integers(-(theta << 6), 2 * (theta << 6) + 1, size))
            if self.chance(0.5):
                options["u_init"] = whole(rng.integers(-(theta << 4), (theta << 4) + 1))
        return options

    def _always_on(self, target: str, theta: int) -> None:
        """A constant current: a vector takes it through a matrix, a map through a kernel of its own size."""
        shape = self.shapes[target]
        decay_mem = int(self.pick(ONE, ONE, 0, 2000))
        one = (1,) * len(shape)
        bias = whole(self.rng.integers(2, 4000))
        node = lif(one, threshold=whole(0), bias=bias, decay_mem=whole(decay_mem))
        source = self.add("always_on", node, shape=one)
        w = whole(self.rng.integers(-theta, theta + 1, shape))
        space = shape[1:]
        if not space:
            synapse: Node = Linear(weight=w[:, None])
        else:
            kind = Conv1d if len(space) == 1 else Conv2d
            padding = tuple(n - 1 for n in space)
            synapse = kind(weight=w[:, None], padding=padding, stride=(1,) * len(space))
        self.join(self.add("bias", synapse, source, shape=shape), target)

    def finish(
        self, last: str, steps: int | None = None, rate: float | None = None
    ) -> tuple[Network, np.ndarray]:
        """Output behind ``last`` and frames; now and then a readout of v instead of spikes."""
        if self.chance(0.25) and len(self.shapes[last]) == 1:
            last = self._readout(last)
        self.add("output", Output(shape=self.shapes[last]), last)
        entry = next(n for n in self.nodes.values() if isinstance(n, Input))
        steps = steps or int(self.rng.integers(3, 12))
        shape = (int(self.pick(1, 1, 2)), steps, *entry.shape)
        rate = rate or float(self.rng.uniform(0.1, 0.9))
        frames = self.rng.integers(1, entry.max_payload + 1, shape) * (self.rng.random(shape) < rate)
        return Network(self.nodes, tuple(self.edges)), frames.astype(np.int64)

    def _readout(self, source: str) -> str:
        synapse = self.linear(source, 3)
        node = LI(
            shape=(3,), arithmetic=FixedPoint(), reset="zero", reset_when="same", fire="gt", max_spikes=1,
            gain=whole(1), threshold=whole(1), bias=whole(self.rng.integers(-200, 200, 3)), v_init=whole(0),
            decay_syn=whole(self.pick(0, ONE, 3000)), decay_mem=whole(self.pick(0, ONE, 3500)),
        )
        return self.add("readout", node, synapse, shape=(3,))


def lif(shape: Shape, **options: Any) -> CubaLIF:
    """A stock Loihi LIF; ``options`` replace the defaults."""
    stock: dict[str, Any] = {
        "arithmetic": FixedPoint(), "reset": "zero", "reset_when": "same", "fire": "gt", "max_spikes": 1,
        "gain": whole(1), "bias": whole(0), "v_init": whole(0),
        "decay_syn": whole(0), "decay_mem": whole(ONE),
    }
    return CubaLIF(shape=shape, **{**stock, **options})


# --------------------------------------------------------------------------- kinds of networks


def dense(b: Builder) -> tuple[Network, np.ndarray]:
    """One to three dense layers."""
    last = b.input((int(b.rng.integers(1, 12)),))
    for _ in range(int(b.rng.integers(1, 4))):
        last = b.population(b.linear(last, int(b.rng.integers(1, 12))))
    return b.finish(last)


def conv(b: Builder) -> tuple[Network, np.ndarray]:
    """Convolutions of every form, perhaps a pooling layer, then dense."""
    last = b.input((int(b.pick(1, 2, 3, 4)), int(b.rng.integers(4, 10)), int(b.rng.integers(4, 10))))
    for _ in range(int(b.rng.integers(1, 3))):
        last = b.population(b.conv2d(last))
    if b.chance(0.4):
        last = b.population(b.pool(last))
    if b.chance(0.7):
        last = b.population(b.linear(last, int(b.rng.integers(2, 8))))
    return b.finish(last)


def line(b: Builder) -> tuple[Network, np.ndarray]:
    """Convolutions over [channels, length], then dense."""
    last = b.input((int(b.pick(1, 2, 4)), int(b.rng.integers(5, 16))))
    for _ in range(int(b.rng.integers(1, 3))):
        last = b.population(b.conv1d(last))
    return b.finish(b.population(b.linear(last, 4)))


def pooled(b: Builder) -> tuple[Network, np.ndarray]:
    """Pooling straight from the input or after a convolution."""
    last = b.input((int(b.pick(1, 2, 3)), int(b.rng.integers(4, 9)), int(b.rng.integers(4, 9))))
    if b.chance(0.5):
        last = b.population(b.conv2d(last))
    last = b.population(b.pool(last))
    return b.finish(b.population(b.linear(last, 5)))


def recurrent(b: Builder) -> tuple[Network, np.ndarray]:
    """A dense layer with dense recurrence, perhaps delayed, perhaps a second layer."""
    size = int(b.rng.integers(2, 10))
    last = b.population(b.linear(b.input((int(b.rng.integers(2, 8)),)), size))
    source = b.delay(last, int(b.rng.integers(1, 4)), recurrent=True) if b.chance(0.3) else last
    back = b.linear(source, size, recurrent=source == last)
    b.join(back, last)
    if b.chance(0.5):
        last = b.population(b.linear(last, 4))
    return b.finish(last)


def residual(b: Builder) -> tuple[Network, np.ndarray]:
    """Branches of unequal depth that meet: identity, scale, convolution, straight from the input."""
    if b.chance(0.5):
        first = b.population(b.conv2d(b.input((2, 5, 6)), plain=True))
        second = b.population(b.conv2d(first, plain=True))
        extra = b.pick(b.scale, lambda s: b.conv2d(s, plain=True))(first)
        third = b.population(b.conv2d(second, plain=True), extra)
        return b.finish(b.population(b.linear(third, 4), b.linear(first, 4)))
    entry = b.input((6,))
    first = b.population(b.linear(entry, 5))
    second = b.population(b.linear(first, 5))
    third = b.population(b.linear(second, 5), b.scale(first), b.linear(entry, 5))
    return b.finish(third)


def delayed(b: Builder) -> tuple[Network, np.ndarray]:
    """Delay nodes before dense, scale and convolution; long ones need relays."""
    steps = int(b.pick(1, 2, 3, 5, 9))
    if b.chance(0.5):
        entry = b.input((2, 4, 4))
        first = b.population(b.conv2d(b.delay(entry, steps) if b.chance(0.5) else entry, plain=True))
        second = b.population(b.conv2d(b.delay(first, int(b.pick(1, 2, 4))), plain=True))
        return b.finish(second, steps=14)
    first = b.population(b.linear(b.input((5,)), 6))
    late = b.delay(first, steps)
    second = b.population(b.linear(first, 6), b.linear(late, 6), b.scale(b.delay(first, 2)))
    return b.finish(second, steps=14)


def feedback(b: Builder) -> tuple[Network, np.ndarray]:
    """A loop over three layers, with the delay that Loihi's synapses need."""
    size = int(b.rng.integers(2, 7))
    first = b.population(b.linear(b.input((4,)), size))
    second = b.population(b.linear(first, 5))
    third = b.population(b.linear(second, 5))
    back = b.linear(b.delay(third, int(b.rng.integers(2, 5)), recurrent=True), size)
    b.join(back, first)
    return b.finish(third)


def overflow(b: Builder) -> tuple[Network, np.ndarray]:
    """Large payloads drive u over its 24 bits and v to its limits."""
    payload = int(b.pick(500, 2000, 4000))
    entry = b.input((int(b.rng.integers(1, 4)),), payload=payload)
    typical = float(b.pick(100.0, 5000.0))
    first = b.population(b.linear(entry, 6, bits=8), typical=typical)
    return b.finish(b.population(b.linear(first, 5)), steps=10, rate=0.9)


def wide(b: Builder) -> tuple[Network, np.ndarray]:
    """Weights beyond 8 bits on vectors, thresholds beyond a mantissa, signed payloads."""
    signed = b.chance(0.5)
    coding = "signed" if signed else "spikes"
    entry = b.add("input", Input(shape=(3,), coding=coding, max_payload=3), shape=(3,))
    big = int(b.pick(200, 1000, 30000))
    low = 0 if b.chance(0.3) else -big
    first = b.add("dense", Linear(weight=whole(b.rng.integers(low, big + 1, (6, 3)))), entry, shape=(6,))
    hidden = b.population(first)
    scaled = b.add("scale", Scale(scale=whole(b.rng.integers(-big, big + 1, 6))), hidden)
    network, frames = b.finish(b.population(scaled, b.linear(hidden, 6)))
    return network, frames * b.rng.choice([-1, 1], frames.shape) if signed else frames


def shared(b: Builder) -> tuple[Network, np.ndarray]:
    """Synapses that several populations feed, and feedback whose recurrent edge is the synapse's own."""
    entry = b.input((2, 4, 5))
    first = b.population(b.conv2d(entry, plain=True))
    second = b.population(b.conv2d(first, plain=True))
    both = b.conv2d(first, plain=True)
    b.join(second, both)
    third = b.population(both)
    back = b.conv2d(third, plain=True)
    b.edges.append(Edge(back, third, recurrent=True))
    flat = b.add("flat", Flatten(), third)
    b.join(second, flat)
    return b.finish(b.population(b.linear(flat, 4)))


KINDS = (
    dense, conv, line, recurrent, residual, conv, delayed, feedback, pooled, overflow, wide, shared,
)

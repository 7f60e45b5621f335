"""Random lowered networks of bursts and multi-threshold neurons: as replicas of stock neurons, and as graded neurons.

``random_forms(seed)`` is the same network everywhere; the simulator and Lava are tested on the same ones. The layers
are those of `lowered_networks`; the forms of their populations change with the seed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.backends.lava import lowered_networks as plain
from tests.backends.lava.lowered_networks import ONE, Builder, Shape, lif, whole

from d2e.backends.loihi2.forms import Replica, is_stock
from d2e.ir import (
    IF,
    LIF,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Quantized,
    Scale,
    SumPool2d,
)
from d2e.ir.shapes import output_shape

LAYERS = (
    plain.dense, plain.recurrent, plain.conv, plain.residual, plain.delayed, plain.feedback, plain.line, plain.pooled,
)
FORMS = ("burst", "multi", "graded", "mixed")


def random_forms(seed: int) -> tuple[Network, np.ndarray]:
    """A lowered network and frames [batch, time, *shape] for it."""
    builder = FormBuilder(np.random.default_rng(100_000 + seed), FORMS[seed // len(LAYERS) % len(FORMS)])
    return LAYERS[seed % len(LAYERS)](builder)


def kind(seed: int) -> str:
    """What `random_forms` draws for a seed."""
    return f"{LAYERS[seed % len(LAYERS)].__name__}, {FORMS[seed // len(LAYERS) % len(FORMS)]}"


class FormBuilder(Builder):
    """A `Builder` whose populations are bursts or multi-threshold neurons; edges find all their replicas."""

    def __init__(self, rng: np.random.Generator, form: str) -> None:
        super().__init__(rng)
        self.form = form
        self.members: dict[str, list[Replica]] = {}

    def population(self, *synapses: str, typical: float | None = None) -> str:
        """Neurons of this network's form that sum these synapses."""
        form = self.form
        if form == "mixed":
            form = self.pick("burst", "multi", "graded", "graded", "stock")
        if form == "stock":
            return super().population(*synapses, typical=typical)
        theta = self._threshold(synapses, typical)
        return self.graded(synapses, theta) if form == "graded" else self.replicated(synapses, theta, form)

    def weights(self, shape: Shape, bits: int | None = None) -> tuple[np.ndarray, Quantized | None]:
        """A `Builder`'s weights, in half of the cases with most of them above 0: bursts need a strong input."""
        w, stated = super().weights(shape, bits)
        flip = (w < 0) & (self.rng.random(w.shape) < 0.7)
        if self.chance(0.5):
            w = np.where(flip, np.minimum(-w, int(np.abs(w).max(initial=1)) - 1), w)
        return w, stated

    def _threshold(self, synapses: tuple[str, ...], typical: float | None) -> int:
        """Low enough for higher levels to be crossed."""
        theta = super()._threshold(synapses, typical)
        return max(1, theta >> int(self.pick(0, 1, 1, 2)))

    # ----- replicas

    def replicated(self, synapses: tuple[str, ...], theta: int, form: str) -> str:
        """Levels on stock neurons: u is the membrane, every spike resets all of them."""
        shape, rng = self.shapes[synapses[0]], self.rng
        name = f"{form}_{len(self.nodes)}"
        if form == "burst":
            theta = min(theta, 16000)
            multiples = payloads = whole(np.arange(1, int(rng.integers(2, 9)) + 1))
            signed = False
        else:
            multiples, payloads = self._levels()
            theta = max(1, min(theta, 120_000 // int(multiples[-1])))
            signed = self.chance(0.5) and not any(isinstance(self.nodes[s], SumPool2d) for s in synapses)
        levels = multiples * theta
        amounts = np.diff(levels, prepend=0)
        if form == "burst" and self.chance(0.2):
            amounts = np.full_like(amounts, max(1, theta // 2))
        steps = np.diff(payloads, prepend=0)
        signs = (1, -1) if signed else (1,)
        self.members[name] = [Replica(name, s * i, int(d)) for s in signs for i, d in enumerate(steps, 1)]
        self.shapes[name] = shape
        tie = int(self.chance(0.7))
        keep = ONE if self.chance(0.6) else int(rng.integers(2500, ONE))
        start = int(rng.integers(-(theta << 6), (theta << 6) + 1)) if self.chance(0.4) else 0
        for member in self.members[name]:
            sign, index = np.sign(member.level), abs(member.level) - 1
            self.nodes[_replica(member)] = lif(
                shape, threshold=whole(levels[index] - tie), decay_syn=whole(keep), decay_mem=whole(0),
                u_init=whole(sign * start), metadata=member.metadata,
            )
        for synapse in synapses:
            self.join(synapse, name)
        if self.chance(0.85):
            self._resets(name, amounts)
        if self.chance(0.4):
            self._always_on(name, theta)
        return name

    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Rising multiples of a threshold, and the payloads they send."""
        count = int(self.rng.integers(1, 5))
        multiples = whole(np.sort(self.rng.choice(np.arange(1, 11), count, replace=False)))
        if self.chance(0.3):
            multiples = whole(2 ** np.arange(count))
        return multiples, multiples if self.chance(0.6) else whole(np.arange(1, count + 1))

    def _resets(self, name: str, amounts: np.ndarray) -> None:
        """Each spike takes its level's amount from its own group and gives it to the other."""
        members = self.members[name]
        for amount in np.unique(amounts):
            suffix = "" if (amounts == amount).all() else f".{1 + int(np.argmax(amounts == amount))}"
            for sign in sorted({int(np.sign(m.level)) for m in members}, reverse=True):
                sources = [
                    _replica(m) for m in members if m.level * sign > 0 and amounts[abs(m.level) - 1] == amount
                ]
                for what, factor in (("reset", -1), ("undo", 1)):
                    targets = [_replica(m) for m in members if m.level * sign * factor < 0]
                    if targets:
                        node = f"{name}.{what}{suffix}" + (".neg" if sign < 0 else "")
                        self.nodes[node] = Scale(scale=whole(factor * amount))
                        self.edges += [Edge(s, node, recurrent=True) for s in sources]
                        self.edges += [Edge(node, t) for t in targets]

    # ----- edges that find replicas

    def add(
        self, base: str, node: Node, *sources: str, shape: Shape | None = None, recurrent: bool = False
    ) -> str:
        """A node behind ``sources``; a replicated source brings an edge from every replica."""
        if shape is None:
            shape = output_shape(base, node, self.shapes[sources[0]])
        name = super().add(base, node, shape=shape)
        for source in sources:
            self.edges += [Edge(sender, name, back) for sender, back in self._senders(source, recurrent)]
        return name

    def _senders(self, source: str, recurrent: bool) -> list[tuple[str, bool]]:
        """The nodes whose sum a source sends, and whether their edges are recurrent."""
        members = self.members.get(source)
        if members is None:
            return [(source, recurrent)]
        if all(m.factor == 1 for m in members):
            return [(_replica(m), recurrent) for m in members]
        senders = []
        for m in members:
            level = f"{_replica(m)}.level" + (".back" if recurrent else "")
            if level not in self.nodes:
                self.nodes[level] = Scale(scale=whole(m.factor))
                self.edges.append(Edge(_replica(m), level, recurrent))
            senders.append((level, False))
        return senders

    def join(self, source: str, target: str) -> None:
        """An edge into every replica of the target; a chain of opposite weights into those of negative levels."""
        members = self.members.get(target)
        if members is None:
            self.edges.append(Edge(source, target))
            return
        self.edges += [Edge(source, _replica(m)) for m in members if m.level > 0]
        below = [_replica(m) for m in members if m.level < 0]
        if below:
            negative = self._negative(source)
            self.edges += [Edge(negative, name) for name in below]

    def _negative(self, name: str) -> str:
        """The copy of a synapse that sends the opposite."""
        negative, node = f"{name}.neg", self.nodes[name]
        if negative in self.nodes:
            return negative
        into = [e for e in self.edges if e.target == name]
        if isinstance(node, Delay):
            into = [Edge(self._negative(e.source), name, e.recurrent) for e in into]
            self.nodes[negative] = node
        elif isinstance(node, Scale):
            self.nodes[negative] = replace(node, scale=-node.scale)
        else:
            weight: Any = node
            self.nodes[negative] = replace(weight, weight=-weight.weight, quantized=None)
        self.edges += [Edge(e.source, negative, e.recurrent) for e in into]
        return negative

    # ----- graded

    def graded(self, synapses: tuple[str, ...], theta: int) -> str:
        """An integer neuron with any of the IR's options that is no stock LIF."""
        shape = self.shapes[synapses[0]]
        cls: type[Neuron] = self.pick(IF, LIF, CubaLIF, CubaLIF, MultiThreshold, MultiThreshold)
        options: dict[str, Any] = {
            "fire": self.pick("ge", "gt"), "reset": self.pick("subtract", "subtract", "zero", "value", "none"),
            "reset_when": self.pick("same", "same", "next"), "max_spikes": int(self.pick(1, 2, 3, 7, 0)),
            **self._parameters(cls, shape, theta),
        }
        if options["max_spikes"] == 0:
            options["threshold"] = np.maximum(options["threshold"], 1000)
        if options["reset_when"] == "same" and self.chance(0.3):
            options["refractory"] = int(self.rng.integers(1, 4))
        if cls is MultiThreshold:
            options |= self._multi_threshold(max(1, theta // 4))
        node = cls(shape=shape, arithmetic=FixedPoint(), gain=whole(1), amplitude=whole(1), **options)
        if is_stock(node):
            node = replace(node, fire="ge")
        name = self.add("graded", node, *synapses, shape=shape)
        if cls is not MultiThreshold and self.chance(0.15):
            self._always_on(name, theta)
        return name

    def _parameters(self, cls: type[Neuron], shape: Shape, theta: int) -> dict[str, Any]:
        """One number, one per channel or one per neuron."""
        rng, unit = self.rng, theta << 6

        def value(low: int, high: int) -> np.ndarray:
            per_channel = (shape[0], *[1] * (len(shape) - 1))
            return whole(rng.integers(low, high + 1, self.pick((), (), per_channel, shape)))

        options: dict[str, Any] = {
            "threshold": value(max(1, theta // 2), 2 * theta), "v_reset": whole(0), "bias": whole(0), "v_init": whole(0),
        }
        extras = [
            ("bias", -unit // 6, unit // 5, 0.4), ("v_init", -unit, 2 * unit, 0.3), ("v_min", -unit, 0, 0.3),
            ("v_reset", -unit // 2, unit // 2, 0.9), ("reset_by", 1, 2 * theta, 0.3),
        ]
        options |= {name: value(low, high) for name, low, high, share in extras if self.chance(share)}
        if issubclass(cls, LIF):
            options["decay_mem"] = self.pick(whole(ONE), whole(0), value(1500, ONE))
        if issubclass(cls, CubaLIF):
            options["decay_syn"] = self.pick(whole(0), value(0, ONE), value(0, ONE))
            options["u_init"] = value(-unit // 4, unit // 4) if self.chance(0.3) else whole(0)
        return options

    def _multi_threshold(self, theta: int) -> dict[str, Any]:
        """Small levels times a threshold, or levels in weight units with small payloads."""
        multiples, payloads = self._levels()
        signed = self.chance(0.5)
        levels, threshold = (multiples, theta) if self.chance(0.5) else (multiples * theta, 1)
        amounts = np.maximum(1, levels * int(self.rng.integers(1, 5)) // 3) if self.chance(0.3) else None
        return {
            "signed": signed, "levels": levels, "threshold": whole(threshold), "reset_by": amounts,
            "payloads": None if threshold > 1 else payloads,
        }


def _replica(member: Replica) -> str:
    return f"{member.of}.{member.level}"

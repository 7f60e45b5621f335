"""Lowered networks for placement."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from d2e.ir import Conv2d, CubaLIF, Edge, FixedPoint, Flatten, Input, Linear, Network, Node, Output, Quantized, Synapse
from d2e.ir.network import chain
from d2e.ir.nodes import integral, real
from d2e.ir.shapes import output_shape


def lif(*shape: int, **options: object) -> CubaLIF:
    """Stock neurons."""
    zero, one = integral(0), integral(1)
    given = {
        "shape": shape, "decay_syn": zero, "decay_mem": integral(4096), "threshold": integral(100), "fire": "gt",
        "reset": "zero", "gain": one, "bias": zero, "v_reset": zero, "v_init": zero, "amplitude": one, "u_init": zero,
        "arithmetic": FixedPoint(), **options,
    }
    return CubaLIF(**given)  # type: ignore[arg-type]


class Builder:
    """A lowered network, layer after layer, with random weights."""

    def __init__(self, *shape: int) -> None:
        self.shape: tuple[int, ...] = shape
        self.rng = np.random.default_rng(0)
        self.nodes: list[tuple[str, Node]] = [("input", Input(shape=shape))]

    def add(self, name: str, *synapses: Synapse) -> Builder:
        """A population behind synapses."""
        for i, node in enumerate(synapses):
            self.shape = output_shape(name, node, self.shape)
            self.nodes.append((f"{name}.w{i}", node))
        self.nodes.append((name, lif(*self.shape)))
        return self

    def conv(
        self, channels: int, size: int, bits: int = 8, stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0),
    ) -> Builder:
        """A convolution and its population."""
        weight = self.rng.integers(-2, 2, (channels, self.shape[0], size, size))
        name = f"conv{len(self.nodes)}"
        return self.add(name, Conv2d(weight=weight, stride=stride, padding=padding, quantized=Quantized(bits, real(1))))

    def dense(self, outputs: int) -> Builder:
        """A dense layer and its population."""
        flat: list[Synapse] = [Flatten()] if len(self.shape) > 1 else []
        weight = self.rng.integers(-8, 8, (outputs, int(np.prod(self.shape))))
        return self.add(f"fc{len(self.nodes)}", *flat, Linear(weight=weight, quantized=Quantized(8, real(1))))

    def network(self) -> Network:
        """What was built, with an output."""
        return chain([*self.nodes, ("output", Output(shape=self.shape))])

    def fan(self, populations: int) -> Network:
        """What was built, its last population feeding so many single neurons, of which the first is read."""
        nodes, last = dict(self.nodes), self.nodes[-1][0]
        before = [a for a, _ in self.nodes]
        edges = [Edge(a, b) for a, b in pairwise(before)]
        for i in range(populations):
            nodes |= {f"w{i}": Linear(weight=integral(np.ones((1, self.shape[0])))), f"n{i}": lif(1)}
            edges += [Edge(last, f"w{i}"), Edge(f"w{i}", f"n{i}")]
        nodes["output"] = Output(shape=(1,))
        return Network(nodes, (*edges, Edge("n0", "output")))


@pytest.fixture
def build() -> type[Builder]:
    """The builder of lowered networks."""
    return Builder

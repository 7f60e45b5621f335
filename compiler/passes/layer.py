"""The weights into one population: the integers each path may hold, and the integers of a common unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from d2e.compiler import activity
from d2e.compiler.algebra import weight_of, with_weight
from d2e.compiler.blocks import nearest, squared_error
from d2e.compiler.passes.rounding import BLOCK, Curvature, compensated, curvature
from d2e.compiler.passes.units import spike_at
from d2e.compiler.paths import paths_into
from d2e.ir import LI, Conv1d, Conv2d, Linear, MultiThreshold, Network, Neuron, Quantized, Synapse, UnsupportedError
from d2e.ir.nodes import Array, real

if TYPE_CHECKING:
    from d2e.compiler.passes.quantise import Grid


@dataclass(frozen=True)
class Weights:
    """Of one synapse.

    Attributes:
        name: of the synapse.
        array: float weights.
        bits: of an integer, its sign included.
        low, high: integers there are.
        exponent_max: largest e where integers are multiples of 2**e units.
        limit: weights up to this, in float, stay up to it in integers.
        known: how its inputs occur together, for rounding; None: each weight for itself.
        errors: step -> `error`, as far as measured.
    """

    name: str
    array: Array
    bits: int
    low: int
    high: int
    exponent_max: int = 0
    limit: float = math.inf
    known: Curvature | None = None
    errors: dict[float, float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def top(self) -> int:
        """The integer that the largest weight may become."""
        return max(self.high, 1)

    def rounded(self, step: float) -> Array:
        """Integers of a grid of this step."""
        if self.known is None:
            found = nearest(self.array, step, self.low, self.high)
        else:
            found = compensated(self.array, step, self.low, self.high, self.known)
        top = math.floor(min(self.limit / step + 1e-9, self.high))
        if top == self.high:
            return found
        return np.where((found > top) & (self.array <= self.limit), found.dtype.type(top), found)

    def error(self, step: float) -> float:
        """Squared error of rounding each to the nearest; a step is measured once."""
        key = float(f"{step:.12g}")
        if key not in self.errors:
            self.errors[key] = squared_error(self.array, step, self.low, self.high)
        return self.errors[key]

    @property
    def work(self) -> int:
        """Multiplications of `rounded`."""
        return self.array.size * min(self.array[0].size, BLOCK) if self.known is not None else 0

    def loss(self, unit: float) -> float:
        """Squared error of what the map delivers, or of the weights where its inputs are not known."""
        step = self.step(unit)
        if self.known is None:
            return self.error(step)
        return self.known.loss(self.rounded(step) * step - self.array)

    def step(self, unit: float) -> float:
        """What an integer stands for on the exponent that suits this unit."""
        return unit * (1 << self.exponent(unit))

    def exponent(self, unit: float) -> int:
        """The exponent of least `error`, the least one where several are."""
        if not self.exponent_max:
            return 0
        return min(range(self.exponent_max + 1), key=lambda e: (self.error(unit * (1 << e)), e))


def weighted(network: Network, name: str) -> dict[str, Array]:
    """The weights of every synapse with weights that leads to a population, by its name."""
    nodes = {s: network.nodes[s] for path in paths_into(network, name) for s in path.synapses}
    return {s: weight_of(n) for s, n in nodes.items() if isinstance(n, Synapse) and hasattr(n, "quantized")}


def weights_into(network: Network, name: str, width: Callable[[str], int], grid: Grid) -> list[Weights]:
    """The weights of every synapse that leads to a population, and the integers they may become.

    Args:
        network: folded floats.
        name: of the population.
        width: of a synapse's weights.
        grid: the target's integers.

    Raises:
        UnsupportedError: D2E-QUANT-005 for weights of both signs in one bit.
    """
    node = network.neuron(name)
    mirrored = isinstance(node, MultiThreshold) and node.signed  # its negative levels see negated weights
    limit = spike_at(node) if grid.below_threshold and not isinstance(node, LI) else math.inf
    found = []
    for s, array in weighted(network, name).items():
        bits = width(s)
        low, high = _span(s, array, bits)
        found.append(Weights(s, array, bits, low + (mirrored and bits > 1), high, limit=limit))
    most = grid.exponent_max if len(found) > 1 else min(finer(found), grid.exponent_max)
    convs = (isinstance(network.nodes[w.name], (Conv1d, Conv2d)) for w in found)
    rooms = ((grid.conv_bits if conv else grid.linear_bits) - w.bits for w, conv in zip(found, convs, strict=True))
    return [replace(w, exponent_max=min(most, room)) for w, room in zip(found, rooms, strict=True)]


def finer(weights: list[Weights]) -> int:
    """How many times the unit may be halved below the step of the weights: few bits leave threshold and bias too coarse."""
    return max(0, min(3, 6 - min((w.bits for w in weights), default=8)))


def _span(name: str, array: Array, bits: int) -> tuple[int, int]:
    if bits > 1:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if (array < 0).any() and (array > 0).any():
        raise UnsupportedError(
            "D2E-QUANT-005", "holds weights of both signs; in one bit a weight is 0 or one value, of one sign per layer",
            node=name, hint="Give it 2 weight bits: -2, -1, 0 and 1 steps.",
        )
    return (-1, 0) if (array < 0).any() else (0, 1)


def with_curvature(network: Network, name: str, weights: list[Weights], now: activity.Seen) -> list[Weights]:
    """The same, to be rounded for the inputs of ``now``."""
    window = _window(network.neuron(name), now.frames.shape[1])
    known: dict[str, Curvature] = {}
    for path in paths_into(network, name):
        found = activity.moments(network, path, now, window)
        if found is not None:
            known |= {s: curvature(found) for s in path.synapses if isinstance(network.nodes[s], (Linear, Conv1d, Conv2d))}
    return [replace(w, known=known.get(w.name)) for w in weights]


def _window(node: Neuron, steps: int) -> int:
    """Steps whose inputs a membrane holds together: the sum of its time constants."""
    keeps = [float(np.max(d)) for d in node.decays if d is not None]
    lasting = sum(np.inf if keep >= 1 else 1 / (1 - keep) for keep in keeps) if keeps else np.inf
    return max(1, int(min(steps, lasting)))


def in_units(network: Network, weights: list[Weights], unit: float) -> dict[str, Synapse]:
    """The synapses with integers of a common unit, each path on the exponent that suits it."""
    changed: dict[str, Synapse] = {}
    for each in weights:
        exponent = each.exponent(unit)
        mark = Quantized(each.bits, real(unit), signed=each.low < 0, exponent=exponent)
        node = network.nodes[each.name]
        assert isinstance(node, Synapse)
        integers = each.rounded(unit * (1 << exponent))
        rounded = with_weight(node, integers.astype(np.int32) << exponent if exponent else integers)
        changed[each.name] = replace(rounded, quantized=mark)  # type: ignore[call-arg]
    return changed

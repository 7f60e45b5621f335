"""Cuts a population into tiles, one of which fits a core, in as few tiles as it can.

A vector is cut into equal parts. A map [channels, *space] is cut as the published tables cut theirs: the width into
powers of two, the height and the channels into halves, quarters and so on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from d2e.backends.loihi2.placement.layer import Dense, Layer
from d2e.backends.loihi2.placement.model import Excess, Load
from d2e.ir import UnsupportedError
from d2e.ir.nodes import Array, Shape

_MORE = 1.125
"""Tiles that more channels per core may cost."""


@dataclass(frozen=True)
class Tile:
    """Some neurons of a population: start <= index < stop on every axis."""

    layer: str
    start: Shape
    stop: Shape
    load: Load
    neurons: int

    @property
    def label(self) -> str:
        """As in ``conv[0:16,0:8,0:8]``."""
        return f"{self.layer}[{','.join(f'{a}:{b}' for a, b in zip(self.start, self.stop, strict=True))}]"


@dataclass(frozen=True)
class Cut:
    """A population in tiles of one extent; those at the border may be smaller."""

    layer: Layer
    extent: Shape

    @property
    def size(self) -> int:
        """How many tiles."""
        return count(self.layer.shape, self.extent)

    def corners(self) -> tuple[Array, Array]:
        """(start, stop) of every tile, each [tiles, axes]."""
        shape, extent = np.array(self.layer.shape), np.array(self.extent)
        start = np.indices(-(-shape // extent)).reshape(len(shape), -1).T * extent
        return start, np.minimum(start + extent, shape)

    def tiles(self) -> Iterator[Tile]:
        """Every tile with its load."""
        loads: dict[Shape, Load] = {}
        for start, stop in zip(*(corner.tolist() for corner in self.corners()), strict=True):
            extent = tuple(b - a for a, b in zip(start, stop, strict=True))
            if extent not in loads:
                loads[extent] = self.layer.load(extent)
            yield Tile(self.layer.name, tuple(start), tuple(stop), loads[extent], math.prod(extent))


def count(shape: Shape, extent: Shape) -> int:
    """How many tiles of an extent cover a shape."""
    return math.prod(-(-n // e) for n, e in zip(shape, extent, strict=True))


def cut(layer: Layer, core: int) -> Cut:
    """The population in as few tiles as the limits of a core allow.

    Args:
        layer: the population.
        core: number of its first core, for the message.

    Raises:
        UnsupportedError: D2E-FIT-001 where not even one neuron of a vector, or one channel at one place of a map, fits.
    """
    least = (1,) * len(layer.shape)
    excess = layer.load(least).beyond()
    if excess is not None:
        raise UnsupportedError(
            "D2E-FIT-001", f"does not fit: one neuron of it alone{_inputs(layer)} needs {excess.used:,} {excess.label} on "
            f"core {core}, a core has {excess.limit:,}", node=layer.name, hint=_way_out(layer, excess),
        )
    extent = _vector(layer) if len(layer.shape) == 1 else _map(layer)
    return Cut(layer, extent)


def _inputs(layer: Layer) -> str:
    inputs = sum(synapses.axons for _, synapses in layer.arriving if isinstance(synapses, Dense))
    return f", with {inputs:,} inputs," if inputs > 1 else ""


def _way_out(layer: Layer, excess: Excess) -> str:
    if excess.label in ("axons out", "entries of axon memory"):
        return "Let it feed fewer layers."
    if any(isinstance(synapses, Dense) for _, synapses in layer.arriving):
        return "Give its neurons fewer inputs: pool or stride before the layer, or put a smaller layer between."
    return "Use fewer input channels, a smaller kernel, groups, or fewer --weight-bits."


def _vector(layer: Layer) -> Shape:
    """The most neurons that fit, then as equal parts as possible."""
    (size,) = layer.shape
    fits, beyond = 1, size + 1
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (middle, beyond) if layer.load((middle,)).fits else (fits, middle)
    return (-(-size // -(-size // fits)),)


def _map(layer: Layer) -> Shape:
    """The extent of fewest tiles, or of a few more if they hold more channels: every group of channels gets all spikes.

    Of equals the one of fewest words, then the one nearest to a square.
    """
    channels, *space = layer.shape
    axes = [_halves(channels), *map(_halves, space[:-1]), _powers(space[-1])]
    fits = [(count(layer.shape, e), load.words, e) for e in product(*axes) if (load := layer.load(e)).fits]
    enough = _MORE * min(tiles for tiles, _, _ in fits)
    return min(
        (-e[0], tiles, words, max(e[1:]) / min(e[1:]), e) for tiles, words, e in fits if tiles <= enough
    )[-1]


def _halves(size: int) -> list[int]:
    """size, half of it, …, 1, rounded up."""
    return sorted({-(-size // (1 << i)) for i in range(size.bit_length() + 1)}, reverse=True)


def _powers(size: int) -> list[int]:
    """1, 2, 4, … up to the first that holds it all."""
    return [1 << i for i in range((size - 1).bit_length() + 1)]

"""Paths: how a value gets from one population (or the input) to the next, through synapses only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from d2e.ir import Delay, Flatten, Network, Synapse


@dataclass(frozen=True)
class Path:
    """A chain of synapses from ``source`` (Input or neuron) to ``target`` (neuron or Output).

    Attributes:
        synapses: names in order; empty for a direct edge.
        recurrent: how many of its edges carry the previous step's value (at most one in a canonical network).
    """

    source: str
    synapses: tuple[str, ...]
    target: str
    recurrent: int

    @property
    def label(self) -> str:
        """The name of its last synapse, or "source -> target"."""
        return self.synapses[-1] if self.synapses else f"{self.source} -> {self.target}"


def paths_into(network: Network, target: str) -> Iterator[Path]:
    """Every path that ends in ``target``."""

    def walk(node: str, behind: tuple[str, ...], recurrent: int) -> Iterator[Path]:
        for edge in network.incoming[node]:
            seen = recurrent + edge.recurrent
            if isinstance(network.nodes[edge.source], Synapse):
                yield from walk(edge.source, (edge.source, *behind), seen)
            else:
                yield Path(edge.source, behind, target, seen)

    yield from walk(target, (), 0)


def paths_from(network: Network, source: str) -> Iterator[Path]:
    """Every path that starts in ``source``."""

    def walk(node: str, before: tuple[str, ...], recurrent: int) -> Iterator[Path]:
        for edge in network.outgoing[node]:
            seen = recurrent + edge.recurrent
            if isinstance(network.nodes[edge.target], Synapse):
                yield from walk(edge.target, (*before, edge.target), seen)
            else:
                yield Path(source, before, edge.target, seen)

    yield from walk(source, (), 0)


def linear_map(network: Network, path: Path) -> str | None:
    """The name of a canonical path's linear map: its last, for pooling may stand before it. None: it has none."""
    maps = (s for s in reversed(path.synapses) if not isinstance(network.nodes[s], (Flatten, Delay)))
    return next(maps, None)


def all_paths(network: Network) -> Iterator[Path]:
    """Every path of the network, by target in order."""
    for name in network.order:
        if not isinstance(network.nodes[name], Synapse):
            yield from paths_into(network, name)

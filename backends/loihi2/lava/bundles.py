"""Paths that one synapse of Lava can stand for: the replicas of a population share it on both of its sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from d2e.backends.loihi2.lava.registers import is_lif
from d2e.backends.loihi2.lava.schedule import Path, Schedule
from d2e.ir.network import Network
from d2e.ir.nodes import Neuron, Shape


@dataclass(frozen=True)
class Bundle:
    """Every source reaches every target through the same linear map, with the same factor and delay.

    Attributes:
        sources: several only where all send plain spikes.
        targets: of one shape.
        synapse, factor, shape: as in `Path`.
        delay: steps between a spike and its arrival, at least 1.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    synapse: str | None
    factor: int
    shape: Shape
    delay: int

    @property
    def label(self) -> str:
        """Its ends, for people."""
        return f"{', '.join(map(repr, self.sources))} -> {', '.join(map(repr, self.targets))}"


def bundles(network: Network, plan: Schedule) -> Iterator[Bundle]:
    """All paths of a network as the fewest bundles; a path that is there twice is in two of them."""
    alike: dict[tuple[object, ...], list[Path]] = {}
    for path in plan.paths:
        ends = tuple(network.nodes[n] for n in (path.source, path.target))
        key = (path.synapse, path.factor, path.shape, plan.delay(path), *(getattr(n, "shape", ()) for n in ends))
        binary = isinstance(ends[0], Neuron) and is_lif(ends[0])
        alike.setdefault((*key, None if binary else path.source), []).append(path)
    for paths in alike.values():
        first = paths[0]
        for sources, targets in _products(paths):
            yield Bundle(sources, targets, first.synapse, first.factor, first.shape, plan.delay(first))


def _products(paths: list[Path]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(sources, targets) pairs in which every source reaches every target; together they are the paths."""
    reached: dict[str, Counter[str]] = {}
    for path in paths:
        reached.setdefault(path.source, Counter())[path.target] += 1
    for level in count():
        sharing: dict[tuple[str, ...], list[str]] = {}
        for source, targets in reached.items():
            again = tuple(t for t, times in targets.items() if times > level)
            if again:
                sharing.setdefault(again, []).append(source)
        if not sharing:
            return
        yield from ((tuple(sources), targets) for targets, sources in sharing.items())

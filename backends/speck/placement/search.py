"""The best cores for a set of layers, found exactly: dynamic programming over the subsets of the nine cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple, TypeAlias

from d2e.backends.speck.layer import Layer
from d2e.backends.speck.limits import BROKEN_LEAK, CORES, GOOD_LEAK, PARALLEL, Core

Choice: TypeAlias = tuple[tuple[int, int], ...]
"""(core, how many output features it holds), by rising core; the features in this order."""


class Cost(NamedTuple):
    """What an assignment costs, the first difference decides; `added` keeps the order of any two.

    Attributes:
        biases: parts of layers with biases that are not on the cores 3 and 4.
        loads: synaptic operations of the cores but 0 and 1, the largest first.
        waste: words of kernel and neuron memory that lie idle on the cores used.
    """

    biases: int = 0
    loads: tuple[float, ...] = ()
    waste: int = 0

    def added(self, other: Cost) -> Cost:
        """The cost of both."""
        loads = tuple(sorted((*self.loads, *other.loads), reverse=True))
        return Cost(self.biases + other.biases, loads, self.waste + other.waste)


@dataclass(frozen=True, eq=False)
class Demand:
    """What the search knows of a layer.

    Attributes:
        layer: its memory is counted.
        load: its synaptic operations.
        whole: it may not be split.
        avoid: cores that it may not have.
    """

    layer: Layer
    load: float
    whole: bool = False
    avoid: tuple[int, ...] = ()

    @property
    def features(self) -> int:
        """Output features."""
        return self.layer.output[0]

    @cached_property
    def room(self) -> tuple[int, ...]:
        """Per core: the most output features that its memories hold; 0 where the layer may not be."""
        most = {core: self._most(core) for core in set(CORES)}
        return tuple(0 if i in self.avoid else most[core] for i, core in enumerate(CORES))

    def _most(self, core: Core) -> int:
        low, high = 0, self.features
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if holds(core, self.words(middle)) else (low, middle - 1)
        return 0 if self.whole and low < self.features else low

    def words(self, features: int) -> Core:
        """Memory that so many of the output features take."""
        return self.layer.part(0, features).memory

    @cached_property
    def least(self) -> int | None:
        """The fewest cores that hold the layer; None: all together do not."""
        return next((n for n in range(1, len(CORES) + 1) if self.choices(n)), None)

    def choices(self, count: int) -> list[tuple[Choice, Cost]]:
        """Every way to be on ``count`` cores, with its cost."""
        if count not in self._choices:
            sets = combinations(range(len(CORES)), count) if count == 1 or not self.whole else ()
            shared = (self._shared(cores) for cores in sets)
            self._choices[count] = [(chosen, self._cost(chosen)) for chosen in shared if chosen]
        return self._choices[count]

    @cached_property
    def _choices(self) -> dict[int, list[tuple[Choice, Cost]]]:
        return {}

    def _shared(self, cores: Sequence[int]) -> Choice | None:
        """The features shared out as evenly as these cores' memories allow; None where they do not hold them."""
        shares, rest = {}, self.features
        by_room = sorted(cores, key=lambda core: (self.room[core], -core))
        for place, core in enumerate(by_room):
            shares[core] = min(self.room[core], rest // (len(cores) - place))
            rest -= shares[core]
        return None if rest or 0 in shares.values() else tuple(sorted(shares.items()))

    def _cost(self, chosen: Choice) -> Cost:
        cost = Cost()
        for core, features in chosen:
            used = self.words(features)
            load = 0.0 if core in PARALLEL else self.load * features / self.features
            cost = cost.added(Cost(
                int(self.layer.bias is not None and core not in GOOD_LEAK), (load,) if load else (),
                CORES[core].kernel - used.kernel + CORES[core].neuron - used.neuron,
            ))
        return cost


def demand(layer: Layer, load: float, *, whole: bool = False, leaks_anywhere: bool = False) -> Demand:
    """A layer's demand; with biases it avoids the cores whose leak is broken, unless it ``leaks_anywhere``."""
    return Demand(layer, load, whole, BROKEN_LEAK if layer.bias is not None and not leaks_anywhere else ())


def holds(core: Core, words: Core) -> bool:
    """Whether the core's memories hold so many words."""
    return core.kernel >= words.kernel and core.neuron >= words.neuron and core.bias >= words.bias


def sends(demands: Sequence[Demand], counts: Sequence[int]) -> Counter[str]:
    """Source -> its destinations, if the layers are on so many cores each."""
    found: Counter[str] = Counter()
    for each, count in zip(demands, counts, strict=True):
        for link in each.layer.links:
            found[link.source] += count
    return found


def search(demands: Sequence[Demand], limits: Mapping[str, int], *, split: bool = True) -> dict[str, Choice] | None:
    """The assignment on the fewest cores, and among those the one of least `Cost`; None where there is none.

    Args:
        demands: of all layers.
        limits: source -> destinations it can have; sources that are not named have no limit.
        split: whether layers may be split further than their own size demands.
    """
    least = [each.least for each in demands]
    known = [n for n in least if n is not None]
    if len(known) < len(least):
        return None
    for total in range(sum(known), (len(CORES) if split else min(sum(known), len(CORES))) + 1):
        best: tuple[Cost, tuple[Choice, ...]] | None = None
        for counts in _counts(known, total):
            if any(n > limits[source] for source, n in sends(demands, counts).items() if source in limits):
                continue
            found = _best(demands, counts)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        if best is not None:
            return {each.layer.name: chosen for each, chosen in zip(demands, best[1], strict=True)}
    return None


def _counts(least: Sequence[int], total: int) -> Iterator[tuple[int, ...]]:
    """Every list of numbers, each at least its ``least``, of this sum."""
    if not least:
        yield from [()] if total == 0 else []
        return
    for first in range(least[0], total - sum(least[1:]) + 1):
        yield from ((first, *others) for others in _counts(least[1:], total - first))


def _best(demands: Sequence[Demand], counts: Sequence[int]) -> tuple[Cost, tuple[Choice, ...]] | None:
    """The least cost with so many cores for each layer: per set of cores taken, the cheapest way of the layers so far."""
    ways: dict[int, tuple[Cost, tuple[Choice, ...]]] = {0: (Cost(), ())}
    for each, count in zip(demands, counts, strict=True):
        options = [(sum(1 << core for core, _ in chosen), chosen, cost) for chosen, cost in each.choices(count)]
        longer: dict[int, tuple[Cost, tuple[Choice, ...]]] = {}
        for taken, (cost, chosen) in ways.items():
            for cores, more, own in options:
                if taken & cores:
                    continue
                total = cost.added(own)
                if taken | cores not in longer or total < longer[taken | cores][0]:
                    longer[taken | cores] = total, (*chosen, more)
        ways = longer
    return min(ways.values(), key=lambda way: way[0], default=None)

"""Units of simulation: a population, or the replicas of one that are proven to share a single state.

All positive replicas of a population (`d2e.compiler.replicas`) see the same input and the same resets, so that their u
is one; that of the negative ones is its negative. Metadata only says where to look: parameters, weights and edges prove
it. Replicas without a proof stay populations of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise

import numpy as np

from d2e.backends.loihi2.forms import is_stock, replica_of
from d2e.compiler.paths import Path, paths_into
from d2e.ir import CubaLIF, Delay, FixedPoint, Network, Scale
from d2e.ir.nodes import Node

HIGHEST = (1 << 17) - 1
"""Largest threshold below which saturation of v changes no comparison."""


@dataclass(frozen=True)
class Wire:
    """A path without its delays and numbers.

    Attributes:
        source: population, Input or first member of a group.
        factor: product of the Scales of one number on the way.
        maps: names of the other synapses.
        lag: steps until it arrives.
    """

    source: str
    factor: int
    maps: tuple[str, ...]
    lag: int


@dataclass(frozen=True)
class Group:
    """Replicas that are simulated as one.

    Attributes:
        positive, negative: names by rising level; no or equally many negative ones.
        thresholds: of the positive ones (and of the negative ones).
        steps: what each adds to the payload.
        kicks: what a spike of each brings to u of the positive ones in the next step: the positive's, the negative's.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    thresholds: tuple[int, ...]
    steps: tuple[int, ...]
    kicks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def members(self) -> tuple[str, ...]:
        """All names."""
        return self.positive + self.negative

    @property
    def factors(self) -> dict[str, int]:
        """Name -> what a spike of it adds to the payload, with its sign."""
        signed = [*self.steps, *(-s for s in self.steps)]
        return dict(zip(self.members, signed, strict=False))


@dataclass(frozen=True)
class Unit:
    """What is simulated as one: the population ``name`` with the wires into it, or a group and its first name."""

    name: str
    wires: tuple[Wire, ...]
    group: Group | None = None


def find_units(network: Network) -> tuple[list[Unit], list[Wire]]:
    """(the units in order, the wires into the output)."""
    ends = (*network.populations, *network.outputs)
    wires = {end: [_wire(network, path) for path in paths_into(network, end)] for end in ends}
    proven = [g for g in (_driven(network, wires, g) for g in _candidates(network)) if g and _read(wires, g)]
    home = {member: group for group in proven for member in group.members}
    units = []
    for name in network.populations:
        group = home.get(name)
        if group is None or name == group.positive[0]:
            own = wires[name] if group is None else [w for w in wires[name] if not _kicks(w, group)]
            units.append(Unit(name, tuple(_joined(own, home)), group))
    return units, [w for end in network.outputs for w in _joined(wires[end], home)]


def _joined(wires: Iterable[Wire], home: Mapping[str, Group]) -> list[Wire]:
    """The wires with one from each group, which carries the whole payload, in place of one from each member."""
    result, shared = [], Counter[Wire]()
    for wire in wires:
        group = home.get(wire.source)
        if group is None:
            result.append(wire)
        elif wire.source == group.positive[0]:
            shared[replace(wire, factor=group.steps[0])] += wire.factor
    return [*result, *(replace(wire, factor=total // wire.factor) for wire, total in shared.items())]


def _wire(network: Network, path: Path) -> Wire:
    factor, lag, maps = 1, path.recurrent, []
    for name in path.synapses:
        node = network.nodes[name]
        if isinstance(node, Delay):
            lag += node.steps
        elif isinstance(node, Scale) and node.scale.ndim == 0:
            factor *= int(node.scale)
        else:
            maps.append(name)
    return Wire(path.source, factor, tuple(maps), lag)


def _candidates(network: Network) -> Iterable[Group]:
    """Replicas whose parameters agree: the same state, rising thresholds, the negative ones mirrored."""
    found: dict[str, dict[int, str]] = {}
    steps: dict[str, int] = {}
    for name in network.populations:
        replica = replica_of(network.neuron(name))
        if replica is not None and replica.level and replica.step:
            found.setdefault(replica.of, {})[replica.level] = name
            steps[name] = replica.step
    for names in found.values():
        above, below = (sorted((n for n in names if n * sign > 0), key=abs) for sign in (1, -1))
        if not above or (below and [-n for n in below] != above):
            continue
        if len(above) + len(below) == 1 and steps[names[above[0]]] == 1:
            continue  # a stock population like any other
        nodes = [network.nodes[names[n]] for n in (*above, *below)]
        cells = [n for n in nodes if isinstance(n, CubaLIF) and is_stock(n) and n.arithmetic == FixedPoint()]
        thresholds = [int(n.threshold) for n in cells]
        rising, mirrored = tuple(thresholds[: len(above)]), tuple(thresholds[len(above) :])
        if len(cells) == len(nodes) and _one_state(cells, len(above)) and _rising(rising) and mirrored in ((), rising):
            positive, negative = (tuple(names[n] for n in levels) for levels in (above, below))
            yield Group(positive, negative, rising, tuple(steps[n] for n in positive))


def _one_state(cells: list[CubaLIF], above: int) -> bool:
    """Whether v is a copy of u, and u starts and decays the same in all, mirrored from ``above`` on."""
    first = cells[0]
    return all(
        not n.decay_mem.any() and not n.bias.any() and n.shape == first.shape and n.decay_syn == first.decay_syn
        and (n.gain == 1).all() and (n.amplitude == 1).all()
        and (np.broadcast_to(n.u_init, n.shape) == (first.u_init if i < above else -first.u_init)).all()
        for i, n in enumerate(cells)
    )


def _rising(thresholds: tuple[int, ...]) -> bool:
    return all(a < b for a, b in pairwise(thresholds)) and thresholds[0] >= 0 and thresholds[-1] <= HIGHEST


def _kicks(wire: Wire, group: Group) -> bool:
    """Whether a wire into a member is a reset: a number from a member, one step late."""
    return wire.source in group.members and not wire.maps and wire.lag == 1


def _driven(network: Network, wires: Mapping[str, list[Wire]], group: Group) -> Group | None:
    """The group with its kicks, if all members get the same input and the same resets, the negative ones the opposite."""
    rest = {m: Counter(w for w in wires[m] if not _kicks(w, group)) for m in group.members}
    kicks = {m: {s: 0 for s in group.members} for m in group.members}
    for member in group.members:
        for wire in wires[member]:
            if _kicks(wire, group):
                kicks[member][wire.source] += wire.factor
    first = kicks[group.positive[0]]
    opposite = {source: -amount for source, amount in first.items()}
    same = all(kicks[m] == first and rest[m] == rest[group.positive[0]] for m in group.positive)
    mirrored = all(kicks[m] == opposite and rest[m] == rest[group.negative[0]] for m in group.negative)
    if not same or not mirrored:
        return None
    if group.negative and not _opposite(network, rest[group.positive[0]], rest[group.negative[0]]):
        return None
    amounts = tuple(first[m] for m in group.positive), tuple(first[m] for m in group.negative)
    return replace(group, kicks=amounts)


def _opposite(network: Network, above: Counter[Wire], below: Counter[Wire]) -> bool:
    """Whether every wire has a partner of opposite weights."""

    @cache
    def signs(one: tuple[str, ...], other: tuple[str, ...]) -> frozenset[int]:
        """The factors that turn one chain into the other."""
        found = {1} if len(one) == len(other) else set()
        for a, b in zip(one, other, strict=False):
            found = {f * s for f in found for s in _signs(network.nodes[a], network.nodes[b])}
        return frozenset(found)

    left = list(below.elements())
    for wire in above.elements():
        partner = next((
            w for w in left if w.source == wire.source and w.lag == wire.lag
            and any(w.factor * sign == -wire.factor for sign in signs(wire.maps, w.maps))
        ), None)
        if partner is None:
            return False
        left.remove(partner)
    return not left


def _signs(one: Node, other: Node) -> set[int]:
    """Which of 1 and -1 times a synapse is another one."""
    if one is other:
        return {1}
    name = next((n for n in ("weight", "scale") if hasattr(one, n)), "")
    alike = type(one) is type(other) and all(
        _equal(getattr(one, f.name), getattr(other, f.name))
        for f in fields(one) if f.name not in (name, "metadata", "quantized")
    )
    if not alike or not name:
        return {1} if alike else set()
    a, b = getattr(one, name), getattr(other, name)
    return {sign for sign in (1, -1) if np.array_equal(a, sign * b)}


def _equal(a: object, b: object) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b


def _read(wires: Mapping[str, list[Wire]], group: Group) -> bool:
    """Whether everyone who reads a member reads all of them, each by its share of the payload."""
    factors = group.factors
    for target, into in wires.items():
        seen: dict[tuple[tuple[str, ...], int], Counter[str]] = {}
        for wire in into:
            if wire.source in factors and not (target in factors and _kicks(wire, group)):
                seen.setdefault((wire.maps, wire.lag), Counter())[wire.source] += wire.factor
        for shares in seen.values():
            scale, remainder = divmod(shares[group.positive[0]], group.steps[0])
            if remainder or any(shares[m] != scale * factors[m] for m in group.members):
                return False
    return True



"""Writes a burst or multi-threshold population as stock populations that inhibit each other.

`replicate`: one per level. All see the same input and take the same resets, so they hold the same charge in ``u``; level i
fires where it exceeds that level. A spike of level i takes the i-th part of the reset from all of them and sends the i-th
part of the payload: a thermometer code, exact in integers.

`weigh`: one per binary digit of an even staircase (`d2e.compiler.even_levels`), which keeps nothing from step to step. A
digit that stands for s levels takes s times their distance from the digits below it within the step, and sends s times
the payload of a level.

A signed population has a second group behind negated weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from d2e.backends.loihi2.forms import Replica
from d2e.compiler.algebra import weight_of, with_weight
from d2e.ir import CubaLIF, Delay, Edge, Flatten, Node, Scale, Synapse
from d2e.ir.nodes import Array, integral


@dataclass(frozen=True)
class Level:
    """One level of a population.

    Attributes:
        threshold: in weight units, as the stock neuron compares (v > threshold).
        reset: what a spike of it takes, in weight units; one number, or one per neuron.
        step: what it adds to the payload.
        stands_for: how many levels.
    """

    threshold: int
    reset: Array
    step: int
    stands_for: int = 1


def replicate(
    name: str, levels: list[Level], signed: bool, stock: Callable[[int, int], CubaLIF], nodes: dict[str, Node],
    edges: list[Edge],
) -> None:
    """Replace population ``name`` in ``nodes`` and ``edges``.

    Args:
        name: the population; its incoming chains and its always-on neuron lead to it.
        levels: rising.
        signed: whether a negative group mirrors them.
        stock: the stock neuron of a threshold and a sign (1, or -1 for the negative group).
        nodes, edges: changed in place.
    """
    groups = _spread(name, levels, lambda sign, i: f"{name}.{sign * i}", signed, stock, nodes, edges)
    for sign in groups:
        mark = "" if sign > 0 else "-"
        _take(f"{name}.reset{mark}", levels, -1, groups[sign], groups[sign], nodes, edges)
        if signed:
            _take(f"{name}.undo{mark}", levels, 1, groups[sign], groups[-sign], nodes, edges)


def weigh(
    name: str, digits: list[Level], signed: bool, stock: Callable[[int, int], CubaLIF], nodes: dict[str, Node],
    edges: list[Edge],
) -> None:
    """Replace population ``name``, an even staircase, by its digits, the largest first; arguments as of `replicate`.

    ``reset`` of a digit is what it takes from those below it in the same step.
    """
    top = len(digits) - 1
    groups = _spread(name, digits, lambda sign, i: f"{name}.{'-' * (sign < 0)}bit{top + 1 - i}", signed, stock, nodes, edges)
    for sign, own in groups.items():
        for i, digit in enumerate(digits[:-1]):
            inhibition = f"{name}.{'-' * (sign < 0)}inhibit{top - i}"
            nodes[inhibition] = Scale(scale=-digit.reset)
            edges += [Edge(own[i], inhibition), *(Edge(inhibition, below) for below in own[i + 1 :])]


def _spread(
    name: str, levels: list[Level], own_name: Callable[[int, int], str], signed: bool, stock: Callable[[int, int], CubaLIF],
    nodes: dict[str, Node], edges: list[Edge],
) -> dict[int, list[str]]:
    """Put replicas in the population's place, with all that it receives and sends; returns their names by sign."""
    signs = (1, -1) if signed else (1,)
    groups = {sign: [own_name(sign, i) for i in range(1, len(levels) + 1)] for sign in signs}
    if signed:
        edges += _negated(name, nodes, edges)
    del nodes[name]
    plain = not signed and all(level.step == 1 for level in levels)
    leaving = [e for e in edges if e.source == name]
    kept = [e for e in edges if name not in (e.source, e.target) and e.target != _NEGATIVE]
    into = [e for e in edges if e.source != name and e.target in (name, _NEGATIVE)]
    edges[:] = [
        *kept, *(Edge(e.source, to, e.recurrent) for e in into for to in (groups[1] if e.target == name else groups[-1])),
    ]
    for sign in signs:
        for i, (own, level) in enumerate(zip(groups[sign], levels, strict=True), 1):
            neuron, facts = stock(level.threshold, sign), Replica(name, sign * i, level.step, level.stands_for)
            nodes[own] = replace(neuron, metadata={**neuron.metadata, **facts.metadata})
            _send(own, facts.factor, leaving, plain, nodes, edges)
    return groups


def is_step(name: str, source: str) -> bool:
    """Whether a synapse is the one that holds what a replica's spike adds to the payload."""
    return name in (f"{source}.level", f"{source}.level.late")


def _send(
    own: str, factor: int, leaving: list[Edge], plain: bool, nodes: dict[str, Node], edges: list[Edge]
) -> None:
    """Lead a replica to everything that the population led to, through its step where that is not 1."""
    for edge in leaving:
        if plain:
            edges.append(Edge(own, edge.target, edge.recurrent))
            continue
        step = f"{own}.level.late" if edge.recurrent else f"{own}.level"
        if step not in nodes:
            nodes[step] = Scale(scale=integral(factor))
            edges.append(Edge(own, step, edge.recurrent))
        edges.append(Edge(step, edge.target))


_NEGATIVE = "\0negative"
"""Stands for the negative group until the edges are rewired."""


def _take(
    base: str, levels: list[Level], sign: int, firing: list[str], hit: list[str], nodes: dict[str, Node], edges: list[Edge]
) -> None:
    """Synapses by which a spike changes the charge of a group one step later; equal amounts share one."""
    alike = all(np.array_equal(level.reset, levels[0].reset) for level in levels)
    for i, (own, level) in enumerate(zip(firing, levels, strict=True), 1):
        node = base if alike else f"{base}.{i}"
        if not level.reset.any():
            continue
        if node not in nodes:
            nodes[node] = Scale(scale=sign * level.reset)
            edges += [Edge(node, target) for target in hit]
        edges.append(Edge(own, node, recurrent=True))


def _negated(name: str, nodes: dict[str, Node], edges: list[Edge]) -> list[Edge]:
    """A second copy of every chain into the population, its weights negated, that leads to the negative group."""
    copies: list[Edge] = []
    for edge in [e for e in edges if e.target == name]:
        chain = _chain(edge.source, nodes, edges)
        renamed = {n: f"{n}.neg" for n in chain}
        for n in chain:
            nodes[renamed[n]] = _minus(nodes[n])
            copies += [Edge(renamed.get(e.source, e.source), renamed[n], e.recurrent) for e in edges if e.target == n]
        copies.append(Edge(renamed[edge.source], _NEGATIVE, edge.recurrent))
    return copies


def _chain(last: str, nodes: dict[str, Node], edges: list[Edge]) -> list[str]:
    """The synapses that lead to ``last`` and nowhere else, itself the last."""
    chain = [last]
    while True:
        before = [e.source for e in edges if e.target == chain[0]]
        behind = [e.source for e in edges if e.target == before[0]]
        if len(before) != 1 or not isinstance(nodes[before[0]], Synapse) or is_step(before[0], behind[0]):
            return chain
        chain.insert(0, before[0])


def _minus(node: Node) -> Node:
    assert isinstance(node, Synapse)
    return node if isinstance(node, (Flatten, Delay)) else with_weight(node, -weight_of(node))

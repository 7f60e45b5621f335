"""Replicas: a population that fires several spikes a step, written as several binary populations.

A chip's pass makes them; whoever reports to the user puts them together again. With one replica per level it is a
thermometer code: the number of those that fire is n, what they add is the payload. A weighted replica is a digit of n and
stands for several levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2e.ir import Network, Neuron
from d2e.ir.nodes import Array
from d2e.ir.reference import Trace

REPLICA = "replica"
"""Metadata key of a population that is one level, or one digit, of another."""


@dataclass(frozen=True)
class Replica:
    """One level of a population, or a digit that stands for several.

    Attributes:
        of: name of the population.
        level: from 1, of weighted ones the digit from the largest down; negative in the negative group of a signed one.
        step: payload it adds when it fires, not 0.
        stands_for: how many levels a spike of it counts.
    """

    of: str
    level: int
    step: int
    stands_for: int = 1

    @property
    def factor(self) -> int:
        """What a spike of it adds to the payload, with its sign."""
        return self.step if self.level > 0 else -self.step

    @property
    def metadata(self) -> dict[str, Any]:
        """As a node carries it."""
        several = {"stands_for": self.stands_for} if self.stands_for > 1 else {}
        return {REPLICA: {"of": self.of, "level": self.level, "step": self.step, **several}}


def replica_of(node: Neuron) -> Replica | None:
    """What a population is a level of; None: of none."""
    facts = node.metadata.get(REPLICA)
    if facts is None:
        return None
    return Replica(str(facts["of"]), int(facts["level"]), int(facts["step"]), int(facts.get("stands_for", 1)))


def replicas(network: Network) -> dict[str, list[str]]:
    """Population of the source -> the populations that stand for it: itself, or its replicas in their order."""
    found: dict[str, list[str]] = {}
    for name in network.populations:
        level = replica_of(network.neuron(name))
        found.setdefault(name if level is None else level.of, []).append(name)
    return found


def merged(network: Network, trace: Trace) -> Trace:
    """A trace in the populations of the source: replicas added up.

    ``counts`` are sums of |n| and ``spikes`` are n, as of the population that the replicas stand for; ``u`` and ``v`` are
    those of the first level, or of the largest digit, which hold the population's charge.
    """
    parts = replicas(network)

    def counts(name: str, *, signs: bool) -> int:
        level = replica_of(network.neuron(name))
        return 1 if level is None else level.stands_for * (-1 if signs and level.level < 0 else 1)

    def each(table: Mapping[str, Array], *, signs: bool) -> dict[str, Array]:
        return {
            name: table[own[0]] if len(own) == 1 else np.asarray(sum(table[n] * counts(n, signs=signs) for n in own))
            for name, own in parts.items() if all(n in table for n in own)
        }

    def first(table: Mapping[str, Array]) -> dict[str, Array]:
        return {name: table[own[0]] for name, own in parts.items() if own[0] in table}

    return replace(
        trace, counts=each(trace.counts, signs=False), spikes=each(trace.spikes, signs=True), u=first(trace.u),
        v=first(trace.v),
    )

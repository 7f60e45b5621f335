"""Replicas: a population that fires several spikes a step, written as one binary population per level.

A chip's pass makes them; whoever reports to the user puts them together again. It is a thermometer code: the number of
replicas that fire is n, what they add is the payload.
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
"""Metadata key of a population that is one level of another."""


@dataclass(frozen=True)
class Replica:
    """One level of a population.

    Attributes:
        of: name of the population.
        level: from 1; negative in the negative group of a signed one.
        step: payload it adds when it fires, above 0.
    """

    of: str
    level: int
    step: int

    @property
    def factor(self) -> int:
        """What a spike of it adds to the payload, with its sign."""
        return self.step if self.level > 0 else -self.step

    @property
    def metadata(self) -> dict[str, Any]:
        """As a node carries it."""
        return {REPLICA: {"of": self.of, "level": self.level, "step": self.step}}


def replica_of(node: Neuron) -> Replica | None:
    """What a population is a level of; None: of none."""
    facts = node.metadata.get(REPLICA)
    return None if facts is None else Replica(str(facts["of"]), int(facts["level"]), int(facts["step"]))


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
    those of the first level.
    """
    parts = replicas(network)

    def signed(name: str) -> int:
        level = replica_of(network.neuron(name))
        return -1 if level is not None and level.level < 0 else 1

    def total(table: Mapping[str, Array], names: list[str], *, signs: bool) -> Array:
        return np.asarray(sum(table[n] * (signed(n) if signs else 1) for n in names))

    def each(table: Mapping[str, Array], *, signs: bool) -> dict[str, Array]:
        return {
            name: table[own[0]] if len(own) == 1 else total(table, own, signs=signs)
            for name, own in parts.items() if all(n in table for n in own)
        }

    def first(table: Mapping[str, Array]) -> dict[str, Array]:
        return {name: table[own[0]] for name, own in parts.items() if own[0] in table}

    return replace(
        trace, counts=each(trace.counts, signs=False), spikes=each(trace.spikes, signs=True), u=first(trace.u),
        v=first(trace.v),
    )

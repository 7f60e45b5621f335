"""The forms a population has on Loihi 2: stock LIF, replicas of it, or one process of its own with graded spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from d2e.ir import LI, CubaLIF, Network, Neuron

REPLICA = "replica"
"""Metadata key of a stock population that is one level of a burst or multi-threshold population."""


@dataclass(frozen=True)
class Replica:
    """One level of a population: a thermometer code.

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
    """Population of the source -> the populations that stand for it: itself, or its replicas by level."""
    found: dict[str, list[str]] = {}
    for name in network.populations:
        level = replica_of(network.neuron(name))
        found.setdefault(name if level is None else level.of, []).append(name)
    return found


def is_stock(node: Neuron) -> bool:
    """Whether a population is Loihi's LIF (lava-nc 0.10.0 ``proc/lif``), or a readout on it."""
    if node.arithmetic is None:
        return False
    uniform = all(d is None or d.ndim == 0 for d in node.decays)
    if isinstance(node, LI):
        return uniform
    rules = (node.reset, node.reset_when, node.fire, node.max_spikes, node.refractory)
    return isinstance(node, CubaLIF) and rules == ("zero", "same", "gt", 1, 0) and node.v_min is None and uniform and (
        node.threshold.ndim == 0
    )


def is_graded(node: Neuron) -> bool:
    """Whether a population is an integer neuron of the IR that is no stock LIF: it needs a process of its own."""
    plain = bool((node.gain == 1).all() and (node.amplitude == 1).all())
    return node.arithmetic is not None and plain and not is_stock(node)


def lowered(network: Network) -> str | None:
    """Every population is a stock Loihi LIF, a readout, or a graded neuron."""
    for name in network.populations:
        node = network.neuron(name)
        if not (is_stock(node) or is_graded(node)):
            return name
    return None

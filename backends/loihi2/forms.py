"""The forms a population has on Loihi 2, and which of them a neuron can have.

stock: one LIF of the chip. replicas: one LIF per level of a burst or multi-threshold neuron. weighted: one LIF per binary
digit of its level's number. graded: one process of its own, which sends integer payloads and computes the neuron as the IR
defines it; exact on this computer, on a chip it needs microcode. approximate: a LIF that is not the same neuron.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from d2e.backends.loihi2.limits import DECAY_ONE, LIMITS
from d2e.compiler.even_levels import as_even_levels, shares
from d2e.compiler.passes.ranges import population_range
from d2e.compiler.passes.units import is_weight
from d2e.compiler.replicas import Replica, replica_of, replicas
from d2e.ir import LI, CubaLIF, MultiThreshold, Network, Neuron
from d2e.ir.nodes import Array

Kind = Literal["stock", "replicas", "weighted", "graded", "approximate"]


@dataclass(frozen=True)
class Form:
    """What becomes of a population, and why."""

    kind: Kind
    why: str


@dataclass(frozen=True)
class Obstacle:
    """Why a neuron has no exact form on stock neurons."""

    code: str
    why: str
    hint: str


def obstacles(node: Neuron) -> Iterator[Obstacle]:
    """What keeps a neuron, in floating point or in integers, from stock neurons; nothing where it has an exact form."""
    if isinstance(node, LI):
        return
    current, soft = has_current(node), node.reset in ("subtract", "none")
    if is_several(node) and not soft:
        yield Obstacle("D2E-LOIHI-003", "resets to a value after a burst, which stock neurons of several levels cannot",
                       "Use reset='subtract'.")
    if current and node.reset == "none":
        yield Obstacle("D2E-LOIHI-003", "never resets behind a synaptic current, the stock neuron always does",
                       "Use reset='zero'.")
    if isinstance(node, MultiThreshold) and node.reset != "none" and not _rises(node):
        yield Obstacle("D2E-LOIHI-003", "sends payloads that do not rise with its levels, which replicas add up",
                       "Use payloads that rise.")
    if isinstance(node, MultiThreshold) and node.reset == "none" and not _changes(node):
        yield Obstacle("D2E-LOIHI-003", "sends one payload at two of its levels, or none at its first",
                       "Leave out one of the two levels.")
    early = node.arithmetic is not None and _leaks(node) and node.reset_when == "same"  # quantise turns it into "next"
    if early and node.reset == "subtract" and not current:
        yield Obstacle("D2E-LOIHI-003", "takes its reset before the leak, stock neurons after it",
                       "Use reset_when='next'.")
    if node.refractory:
        yield Obstacle("D2E-LOIHI-004", "has a refractory period, the stock neuron has none", "Train without it.")
    if node.v_min is not None:
        yield Obstacle("D2E-LOIHI-005", "has a floor v_min that it may reach, the stock neuron has none",
                       "Train without v_min.")
    if any(d is not None and d.size > 1 and (d != d.flat[0]).any() for d in node.decays):
        yield Obstacle("D2E-LOIHI-006", "its decay varies within the population; the chip's neuron has one per population",
                       "Use one decay per layer.")
    if current and node.reset == "subtract":
        yield Obstacle(APPROXIMATE, "has a soft reset behind a synaptic current; both states of the stock neuron are "
                       "taken, and it always resets to 0", "Train it with reset='zero'.")


APPROXIMATE = "D2E-LOIHI-020"
"""Code of the one obstacle that an approximate form passes by."""


def _rises(node: MultiThreshold) -> bool:
    return node.payloads is None or bool((np.diff(node.payloads, prepend=0) > 0).all())


def _changes(node: MultiThreshold) -> bool:
    return node.payloads is None or bool((np.diff(node.payloads, prepend=0) != 0).all())


def unweighted(network: Network, name: str) -> str | None:
    """Why a population has no weighted replicas, and None where it has; in floating point or in integers."""
    node = network.neuron(name)
    found = as_even_levels(node)
    if isinstance(found, str):
        return found
    if found.count < FEWEST:
        return f"has {found.count} levels, of which each is a digit already"
    if _feeds_itself(network, name):
        return "lies in a feedback loop, which its digits would make longer"
    pitch = round(found.pitch)
    taken = pitch * np.array(shares(found.count)[:-1])
    mantissa, exponent = int(LIMITS["synapse_mantissa"].value), int(LIMITS["synapse_exponent"].value)
    if node.arithmetic is not None and not is_weight(taken, mantissa, exponent).all():
        return (f"has levels {pitch} weight units apart, which its digits take {', '.join(map(str, taken // pitch))} times "
                f"and no synapse of {mantissa} << {exponent} holds")
    return None


FEWEST = 3
"""Levels from which on there are fewer digits than levels."""


def _feeds_itself(network: Network, name: str) -> bool:
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        reached = {e.target for e in network.outgoing[ahead.pop()]} - seen
        seen |= reached
        ahead += sorted(reached)
    return name in seen


def is_several(node: Neuron) -> bool:
    """Whether it sends more than a binary spike."""
    return isinstance(node, MultiThreshold) or node.max_spikes != 1


def has_current(node: Neuron) -> bool:
    """Whether ``u`` carries over from step to step."""
    decay = node.decays[0]
    return decay is not None and bool(decay.any())


def _leaks(node: Neuron) -> bool:
    one = DECAY_ONE if node.arithmetic else 1
    decay = node.decays[1]
    return decay is not None and bool((decay != one).any())


def floor_is_idle(network: Network, name: str) -> bool:
    """Whether ``v_min`` is never reached: nothing that enters is negative, and a reset never takes more than is there."""
    node = network.neuron(name)
    if node.v_min is None:
        return True
    taken: Array | None = node.reset_by
    takes_less = node.reset != "subtract" or isinstance(node, MultiThreshold) or (
        taken is None or bool((taken <= node.threshold).all())
    )
    after_leak = node.reset == "subtract" and node.reset_when == "next" and _leaks(node)
    quiet = population_range(network, name, None).low >= 0 and bool((node.bias >= 0).all() and (node.v_init >= 0).all())
    current = not isinstance(node, CubaLIF) or bool((node.u_init >= 0).all())
    return quiet and current and takes_less and not after_leak and bool((node.v_min <= 0).all())


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


__all__ = [
    "APPROXIMATE", "FEWEST", "Form", "Kind", "Obstacle", "Replica", "floor_is_idle", "has_current", "is_graded",
    "is_several", "is_stock", "lowered", "obstacles", "replica_of", "replicas", "unweighted",
]

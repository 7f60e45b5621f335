"""What a pass is, and the properties passes require of a network and ensure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from d2e.ir import AvgPool2d, Network, Synapse
from d2e.ir.nodes import LI, MultiThreshold

if TYPE_CHECKING:
    from d2e.compiler.target import Target

Property: TypeAlias = Callable[[Network], "str | None"]
"""A property of a network: None where it holds, else the name of a node where it does not."""


@dataclass(frozen=True)
class Pass:
    """Base of all passes; a subclass's fields are its options.

    Attributes:
        name: kebab-case, as on the command line.
        requires: properties the network must have before.
        ensures: properties it has after; checked by the manager.
    """

    name: ClassVar[str] = "pass"
    requires: ClassVar[tuple[Property, ...]] = ()
    ensures: ClassVar[tuple[Property, ...]] = ()

    def run(self, network: Network, target: Target) -> Network:
        """The changed network; the given one stays as it is."""
        raise TypeError(f"{type(self).__name__} has no run method")


def canonical(network: Network) -> str | None:
    """Every synapse has one source and one target, and no average pooling is left.

    A path to a population is [SumPool2d], [Flatten], one linear map, [Delay] (`Canonicalise`).
    """
    for name, node in network.nodes.items():
        if isinstance(node, AvgPool2d):
            return name
        if isinstance(node, Synapse) and (len(network.incoming[name]) != 1 or len(network.outgoing[name]) != 1):
            return name
    return None


def discrete(network: Network) -> str | None:
    """Every neuron has its decays and gain."""
    return next((n for n in network.populations if network.neuron(n).continuous is not None), None)


def folded(network: Network) -> str | None:
    """Every population has one threshold, gain 1 and amplitude 1, a limit of spikes, and resets to 0 or by amounts.

    Multi-threshold populations have threshold 1 and whole numbers as payloads.
    """
    for name in network.populations:
        node = network.neuron(name)
        one_threshold = True if isinstance(node, LI) else node.threshold.ndim == 0
        plain = node.gain.ndim == 0 and node.gain == 1 and node.amplitude.ndim == 0 and node.amplitude == 1
        limited = node.max_spikes > 0 or isinstance(node, (LI, MultiThreshold))
        if not (one_threshold and plain and limited and node.reset != "value"):
            return name
        if isinstance(node, MultiThreshold) and (
            node.threshold != 1 or node.payloads is None or (node.payloads != np.rint(node.payloads)).any()
        ):
            return name
    return None


def integer(network: Network) -> str | None:
    """Every population computes in integers."""
    return next((n for n in network.populations if network.neuron(n).arithmetic is None), None)

"""The forms a population has on Loihi 2: stock LIF, replicas of it, or one process of its own with graded spikes."""

from __future__ import annotations

from d2e.compiler.replicas import Replica, replica_of, replicas
from d2e.ir import LI, CubaLIF, Network, Neuron


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


__all__ = ["Replica", "is_graded", "is_stock", "lowered", "replica_of", "replicas"]

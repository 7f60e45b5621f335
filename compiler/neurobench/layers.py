"""A lowered network as NeuroBench sees one: layers with weights, layers of spiking neurons, and what each of them sends.

Connections are Linear and convolutions; what only moves or adds up values (Flatten, pooling, Delay), what a chip needs to
reset its neurons (Scale) and what gives them their bias (helpers that fire at every step) is none. Populations are those of
the source, replicas put together; readouts that never fire are none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields

import numpy as np

from d2e.compiler.measure import EVENTS
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.replicas import replicas
from d2e.ir import (
    LI,
    AvgPool2d,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Scale,
    SumPool2d,
    Synapse,
    infer_shapes,
    linear,
    reference,
)
from d2e.ir.nodes import Array, Shape
from d2e.ir.reference import Trace

Connection = Linear | Conv1d | Conv2d
Sent = Callable[[str], Array]
"""What a node sends [batch, time, *shape], by its name."""


def connections(network: Network) -> dict[str, Connection]:
    """The layers with weights, by name, in order."""
    return {
        n: node for n in network.order
        if isinstance(node := network.nodes[n], Connection) and not _of_helper(network, n)
    }


def _of_helper(network: Network, name: str) -> bool:
    """Whether nothing but helpers that fire at every step feeds a node."""
    return all(network.nodes[e.source].metadata.get(HELPER) for e in network.incoming[name])


def spiking(network: Network) -> dict[str, list[str]]:
    """Population of the source that fires -> the populations of the network that stand for it."""
    return {
        name: own for name, own in replicas(network).items()
        if not isinstance(node := network.neuron(own[0]), LI) and not node.metadata.get(HELPER)
    }


def membrane(network: Network, own: list[str], trace: Trace) -> Array:
    """The state that holds a population's charge [batch, time, *shape], of a trace that has states.

    ``u`` where a chip keeps the charge in its synaptic current, so that ``v`` is that sum (soft reset on Loihi 2).

    Args:
        network: lowered.
        own: the populations that stand for it; the first holds the charge.
        trace: recorded with states.
    """
    node = network.neuron(own[0])
    summed = isinstance(node, CubaLIF) and node.decay_syn.any() and not node.decay_mem.any()
    return (trace.u if summed else trace.v)[own[0]]


# --------------------------------------------------------------------------- arrays


def arrays(node: Node) -> tuple[dict[str, Array], dict[str, Array]]:
    """(weights and biases, other constants) of a node, each in the narrowest integers that hold it.

    What has its default value is a constant of d2e, not one of the network.
    """
    parameters: dict[str, Array] = {}
    constants: dict[str, Array] = {}
    for f in fields(node):
        value = getattr(node, f.name)
        if not isinstance(value, np.ndarray):
            continue
        if f.default is not MISSING and f.default is not None and (value == f.default).all():
            continue
        (parameters if f.name in ("weight", "bias") else constants)[f.name] = _narrow(value)
    return parameters, constants


def _narrow(value: Array) -> Array:
    if not linear.is_integer(value):
        return value
    low, high = int(value.min(initial=0)), int(value.max(initial=0))
    fits = (t for t in (np.int8, np.int16, np.int32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return value.astype(next(fits, np.int64))


# --------------------------------------------------------------------------- what arrives


def arriving(network: Network, name: str, sent: Sent, *, counts: bool = False) -> Array:
    """What the edges into a node bring at every step, added up: [batch, time, *shape].

    Args:
        network: canonical.
        name: the node.
        sent: of inputs and populations.
        counts: whether these are numbers of events, which no scale changes and pooling adds up.
    """
    shapes = infer_shapes(network)

    def leaving(source: str) -> Array:
        node = network.nodes[source]
        if not isinstance(node, Synapse):
            return sent(source)
        return _applied(node, total(source), shapes[network.incoming[source][0].source], counts)

    def total(target: str) -> Array:
        parts = [late(leaving(e.source), int(e.recurrent)) for e in network.incoming[target]]
        return np.asarray(sum(parts[1:], parts[0]))

    return total(name)


def _applied(node: Synapse, values: Array, shape: Shape, counts: bool) -> Array:
    if isinstance(node, Delay):
        return late(values, node.steps)
    if counts and isinstance(node, Scale):
        return values
    if counts and isinstance(node, AvgPool2d):
        node = SumPool2d(kernel_size=node.kernel_size, stride=node.stride, padding=node.padding)
    result = linear.apply(node, values.reshape(-1, *shape), shape)
    return result.reshape(*values.shape[:2], *result.shape[1:])


def late(values: Array, steps: int) -> Array:
    """Values [batch, time, …] so many steps later, zeros before."""
    if not steps:
        return values
    return np.concatenate([np.zeros_like(values[:, :steps]), values[:, :-steps]], axis=1)[:, : values.shape[1]]


def events(network: Network, name: str, n: Array) -> tuple[Array, Array]:
    """How often an input or a population sent (a plain spike, a payload that multiplies), sums over samples.

    A payload of size 1 is a plain spike; of size k it is k of them where it travels as k events, else one message whose
    payload multiplies the weights.

    Args:
        network: lowered.
        name: of the input or population.
        n: what entered or fired [batch, time, *shape].

    Returns:
        Two arrays [1, time, *shape].
    """
    node = network.nodes[name]
    as_events = bool(network.metadata.get(EVENTS)) or (isinstance(node, Neuron) and not is_graded(node))
    size = np.abs(reference.payload(node, n) if isinstance(node, Neuron) and not as_events else n)
    if as_events:
        plain = size.sum(axis=0, keepdims=True, dtype=np.int64)
        return plain, np.zeros_like(plain)
    plain = np.count_nonzero(size == 1, axis=0, keepdims=True)
    return plain, np.count_nonzero(size, axis=0, keepdims=True) - plain


def is_graded(node: Neuron) -> bool:
    """Whether one message of a population may carry more than a plain spike."""
    return not isinstance(node, LI) and (isinstance(node, MultiThreshold) or node.max_spikes != 1)


def messages(network: Network, trace: Trace) -> dict[str, int]:
    """Population of the network, helpers too -> messages it sent in all samples; a payload in one message is one."""
    return {
        name: int(np.count_nonzero(n) if is_graded(network.neuron(name)) else np.abs(n).sum(dtype=np.int64))
        for name, n in trace.spikes.items()
    }

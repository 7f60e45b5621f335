"""What the host computes over all steps of a run, and what a network that runs there in part computes in floating point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from d2e.compiler.hosted.split import Segment, on_host, reshaped, split, whole
from d2e.ir import LI, Flatten, MultiThreshold, Network, Neuron, Node, host, linear, reference
from d2e.ir.host import Host
from d2e.ir.nodes import Array

_CHUNK = 64


def total(values: Iterable[Array]) -> Array:
    """The sum over edges."""
    return np.asarray(sum(values))


def over_time(node: Host | Flatten, frames: Array) -> Array:
    """What the host does, on frames [batch, time, *shape]."""
    batch, time = frames.shape[:2]
    rows = frames.reshape(batch * time, *frames.shape[2:])
    found = host.apply(node, rows) if isinstance(node, Host) else linear.apply(node, rows, rows.shape[1:])
    return found.reshape(batch, time, *found.shape[1:])


def on_the_host(network: Network) -> dict[str, Node]:
    """Name -> node of all that the host runs."""
    own = {*network.hosts, *on_host(network), *reshaped(network)}
    return {name: node for name, node in network.nodes.items() if name in own}


@dataclass(frozen=True, eq=False)
class Sent:
    """What a node of the host gives, frames [batch, time, *shape].

    Attributes:
        values: in the units of the network.
        payloads: the same as integers, of a population that sends levels.
        counts: spikes [batch, *shape] of such a population.
    """

    values: Array
    payloads: Array | None = None
    counts: Array | None = None


def sent_by(name: str, node: Node, frames: Array) -> Sent:
    """What a node of the host makes of frames [batch, time, *shape]: a population starts at rest."""
    if isinstance(node, (Host, Flatten)):
        return Sent(over_time(node, frames))
    assert isinstance(node, Neuron)
    population = reference.Population(name, node, len(frames))
    sent, fired = [], []
    for t in range(frames.shape[1]):
        sent.append(population.step(frames[:, t]))
        fired.append(population.n)
    values = np.stack(sent, axis=1)
    if isinstance(node, LI):
        return Sent(values)
    assert isinstance(node, MultiThreshold)
    n, integers = np.stack(fired, axis=1), np.concatenate([[0], whole(node)[0]])
    return Sent(values, np.sign(n) * integers[np.abs(n)], np.abs(n).sum(axis=1))


def inner(network: Network, frames: Array) -> tuple[dict[str, Array], Array]:
    """(source of a segment -> what enters it, the output), [n, time, *shape], of the float network.

    Chip populations are run by the reference interpreter, a few samples at a time.
    """
    segments, own = {s.end: s for s in split(network)}, on_the_host(network)
    parts = [_inner(network, segments, own, frames[i : i + _CHUNK]) for i in range(0, len(frames), _CHUNK)]
    entering = {name: np.concatenate([each[0][name] for each in parts]) for name in parts[0][0]}
    return entering, np.concatenate([each[1] for each in parts])


def _inner(
    network: Network, segments: Mapping[str, Segment], own: Mapping[str, Node], frames: Array
) -> tuple[dict[str, Array], Array]:
    values, entering = {network.inputs[0]: frames}, {network.inputs[0]: frames}
    for name in network.order:
        if name in own:
            sent = sent_by(name, network.nodes[name], total(values[e.source] for e in network.incoming[name]))
            values[name] = sent.values
            if sent.payloads is not None:
                entering[name] = sent.payloads
        elif name in segments:
            segment = segments[name]
            given = segment.entering(entering[segment.source])
            values[name] = segment.leaving(reference.run(segment.network, given).output, segment.factor)
    output = total(values[e.source] for e in network.incoming[network.outputs[0]])
    used = {s.source for s in segments.values()}
    return {name: found for name, found in entering.items() if name in used}, output

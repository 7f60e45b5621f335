"""Where chip and host meet: populations that send the host's real values in levels, and membranes that the host reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from d2e.compiler.hosted.split import reshaped
from d2e.ir import IF, LI, Edge, Flatten, Network, Neuron, Node, Synapse
from d2e.ir.host import Attention
from d2e.ir.nodes import Shape, real
from d2e.ir.shapes import infer_shapes

IDENTITY = "identity"


def with_sites(network: Network) -> Network:
    """The network with a population at every place where values pass from host to chip or back.

    ``NAME.sent`` stands for the identity behind a host node that leads to synapses of the chip, which receives integers.
    ``NAME.in`` before an attention stands for the identity too: queries, keys and values are what neurons send. ``NAME.in``
    before every other host node behind synapses is a membrane without memory, which the host reads.
    """
    shapes, flat = infer_shapes(network), reshaped(network)
    nodes: dict[str, Node] = dict(network.nodes)
    edges = list(network.edges)

    def put(name: str, node: Neuron, moved: Iterable[Edge], *, before: bool, at: str) -> None:
        own, moved = Network(nodes, ()).fresh_name(name), set(moved)
        nodes[own] = node
        kept = [e for e in edges if e not in moved]
        edges[:] = [*kept, *(Edge(e.source, own) if before else Edge(own, e.target) for e in edges if e in moved)]
        edges.append(Edge(own, at) if before else Edge(at, own))

    for name in network.hosts:
        node = network.nodes[name]
        behind = [e for e in edges if e.source == name and isinstance(nodes[e.target], Synapse) and e.target not in flat]
        if behind:
            put(f"{name}.sent", _identity(shapes[name]), behind, before=False, at=name)
        for at in _behind_maps(name, nodes, edges):
            ahead = [e for e in edges if e.target == at and isinstance(nodes[e.source], Synapse)]
            shape = shapes[ahead[0].source]
            read = _identity(shape) if isinstance(node, Attention) else LI(shape=shape, decay_mem=real(0.0))
            put(f"{name}.in", read, ahead, before=True, at=at)
    return Network(nodes, tuple(edges), network.metadata)


def _behind_maps(name: str, nodes: Mapping[str, Node], edges: Iterable[Edge]) -> list[str]:
    """The host node, or the Flattens before it, which the host does too, where synapses that calculate lead to them."""
    found, into = [], [e.source for e in edges if e.target == name and isinstance(nodes[e.source], Synapse)]
    for source in into:
        if isinstance(nodes[source], Flatten):
            found += _behind_maps(source, nodes, edges)
        elif name not in found:
            found.append(name)
    return found


def _identity(shape: Shape) -> IF:
    return IF(shape=shape, max_spikes=0, metadata={"activation": IDENTITY})

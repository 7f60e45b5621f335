"""latch-input: what the encoder's latch sends again at every step, the chip holds instead.

A latched input sends W * (s[0] + … + s[t]) at step t, where s are the plain encoder's events. A neuron whose current does
not decay receives W * s[t] and sums it up itself: u[t] = u[t-1] + W * s[t]. Exact in integers, and it takes one event per
element in place of one per step. Biases stand in the neuron, beside the current, and do not add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, integer
from d2e.compiler.paths import paths_into
from d2e.ir import IF, LI, LIF, CubaLIF, Edge, MultiThreshold, Network, Neuron, Node, Scale, Synapse
from d2e.ir.nodes import FixedPoint, integral

if TYPE_CHECKING:
    from d2e.compiler.target import Target

LATCH = "latch"
"""Metadata key of the population that holds the input for populations that cannot."""


@dataclass(frozen=True)
class LatchInput(Pass):
    """See the module.

    A population holds its current itself where only the input feeds it, it has no synaptic current of its own, and it is
    a readout or resets to 0. For the others (a soft reset keeps its charge where the current would be) the input gets
    a population of its shape, whose neurons fire at every step from their event on; it takes binary events >= 0.

    Attributes:
        chip: whether the target's neurons hold a current without loss; otherwise the latch stays on the host.
    """

    name: ClassVar[str] = "latch-input"
    requires: ClassVar[tuple[Property, ...]] = (canonical, integer)

    chip: bool = True

    def run(self, network: Network, target: Target) -> Network:
        """The network with a plain encoder and the latch on the chip; or with a warning, D2E-ENC-009, and as it was."""
        encoder = network.input.encoder
        if encoder is None or not encoder.latch:
            return network
        fed = dict.fromkeys(_end(network, e) for e in network.outgoing[network.inputs[0]])
        others = [name for name in fed if not _holds(network, name)]
        if not self.chip:
            return _on_host(network, "the neurons of this target hold no current without loss")
        if others and (network.input.coding == "signed" or network.input.max_payload > 1):
            return _on_host(network, f"{', '.join(map(repr, others))} cannot hold what it receives, and only binary events "
                            "have a population that does")
        plain = replace(network.input, encoder=replace(encoder, latch=False))
        held = {name: _held(network.neuron(name)) for name in fed if name not in others}
        network = network.with_nodes({network.inputs[0]: plain, **held})
        return _with_latch(network, set(others)) if others else network


def _on_host(network: Network, why: str) -> Network:
    steps = network.input.time_steps
    return warn(
        network, "D2E-ENC-009", "the latch stays on the host, which sends each element's event again at every later step"
        f"{f', up to {steps} events in place of one' if steps else ''}: {why}", network.inputs[0],
    )


def _end(network: Network, edge: Edge) -> str:
    """The population or output at the end of the path that begins with this edge."""
    while isinstance(network.nodes[edge.target], Synapse):
        edge = network.outgoing[edge.target][0]
    return edge.target


def _holds(network: Network, name: str) -> bool:
    """Whether a population can hold its current itself."""
    node = network.nodes[name]
    if not isinstance(node, Neuron) or isinstance(node, MultiThreshold):
        return False
    current = node.decays[0]
    alone = all(path.source in network.inputs for path in paths_into(network, name))
    return alone and (current is None or not current.any()) and (isinstance(node, LI) or node.reset == "zero")


def _held(node: Neuron) -> Neuron:
    """The population with a current that does not decay."""
    assert node.arithmetic is not None
    one = integral(1 << node.arithmetic.decay_bits)
    if isinstance(node, LI):
        return replace(node, decay_syn=one)
    kept = {f.name: getattr(node, f.name) for f in fields(node) if f.init}
    leak = node.decay_mem if isinstance(node, LIF) else one
    return CubaLIF(**{**kept, "decay_mem": leak, "decay_syn": one, "u_init": integral(0)})


def _with_latch(network: Network, others: set[str]) -> Network:
    """The network with a population that holds the input, between it and these populations."""
    entry = network.inputs[0]
    latch = network.fresh_name(f"{entry}.latch")
    synapse = network.fresh_name(f"{latch}.in")
    arithmetic = next(_arithmetics(network))
    node = IF(
        shape=network.input.shape, threshold=integral(1), reset="none", gain=integral(1), bias=integral(0),
        v_reset=integral(0), v_init=integral(0), amplitude=integral(1), arithmetic=arithmetic, metadata={LATCH: True},
    )
    edges = [
        e._replace(source=latch) if e.source == entry and _end(network, e) in others else e for e in network.edges
    ]
    nodes: dict[str, Node] = {**network.nodes, synapse: Scale(scale=integral(1)), latch: node}
    return Network(nodes, (*edges, Edge(entry, synapse), Edge(synapse, latch)), network.metadata)


def _arithmetics(network: Network) -> Iterator[FixedPoint]:
    for name in network.populations:
        if (own := network.neuron(name).arithmetic) is not None:
            yield own

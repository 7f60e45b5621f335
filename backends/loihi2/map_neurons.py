"""map_neurons: integer IF, LIF and CubaLIF populations become stock Loihi LIF neurons and synapses.

The stock neuron (lava ``LIF``) resets ``v`` to zero and fires at ``v > vth``. A soft reset keeps its charge in ``u``
instead (du=-1 or a leak, dv=4096: v is a copy of u) and takes ``reset_by`` away with a synapse onto itself. Behind a
synaptic current ``u`` is taken: there a soft reset becomes one to zero, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from d2e.backends.loihi2.limits import DECAY_ONE, LIMITS, UNIT
from d2e.backends.loihi2.rules import LOWERED_RULES, SOURCE_RULES, check, neuron_is_known, stock
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, discrete, folded, integer
from d2e.compiler.passes.canonicalise import add_constant_current
from d2e.ir import IF, LI, CubaLIF, Edge, Network, Neuron, Node, Scale, raise_findings
from d2e.ir.nodes import Array, integral

if TYPE_CHECKING:
    from d2e.compiler.target import Target


@dataclass(frozen=True)
class CheckRules(Pass):
    """check-rules: everything the chip cannot take, told at once, before any work is done."""

    name: ClassVar[str] = "check-rules"
    requires: ClassVar[tuple[Property, ...]] = (canonical, discrete)

    def run(self, network: Network, target: Target) -> Network:
        """The same network.

        Raises:
            UnsupportedError: D2E-LOIHI-001..009, the first finding with all of them in the message.
        """
        raise_findings(check(network, SOURCE_RULES))
        return network


@dataclass(frozen=True)
class MapNeurons(Pass):
    """See the module."""

    name: ClassVar[str] = "map-neurons"
    requires: ClassVar[tuple[Property, ...]] = (canonical, folded, integer)
    ensures: ClassVar[tuple[Property, ...]] = (stock,)

    def run(self, network: Network, target: Target) -> Network:
        """The network on stock neurons; populations keep their names, helpers are marked.

        Raises:
            UnsupportedError: D2E-LOIHI-003..005 for a neuron the chip has no form of, D2E-LOIHI-010..014 where the
                result does not fit the chip's words.
        """
        raise_findings(list(neuron_is_known(network)))
        nodes: dict[str, Node] = dict(network.nodes)
        edges = list(network.edges)
        approximate = [n for n in network.populations if self._map(n, network.neuron(n), nodes, edges)]
        result = Network(nodes, tuple(edges), network.metadata)
        for name in approximate:
            result = warn(
                result, "D2E-LOIHI-020", "the stock neuron has no soft reset behind a synaptic current: it resets to 0, "
                "and what exceeds the threshold is lost; train it with reset='zero'", name,
            )
        for name in network.populations:
            node = network.neuron(name)
            if node.fire == "ge" and not _integral(node) and not isinstance(node, LI):
                result = warn(result, "D2E-LOIHI-021", "fires at v >= threshold, the stock neuron at v > threshold; its "
                              "state holds fractions of a weight unit, so an exact tie does not fire", name)
        raise_findings(check(result, LOWERED_RULES))
        return result

    def _map(self, name: str, node: Neuron, nodes: dict[str, Node], edges: list[Edge]) -> bool:
        """Replace one population; True where the result is approximate."""
        keep_syn, keep_mem = node.decays
        syn = integral(0) if keep_syn is None else _one(keep_syn)
        mem = integral(DECAY_ONE) if keep_mem is None else _one(keep_mem)
        if isinstance(node, LI):
            nodes[name] = replace(node, decay_syn=syn, decay_mem=mem, reset="zero", fire="gt",
                                  threshold=integral(LIMITS["threshold"].value))
            return False
        if node.reset != "subtract":
            nodes[name] = _stock(node, syn, mem)
            return False
        amount = node.threshold if node.reset_by is None else node.reset_by
        bias = node.bias
        if syn != 0:
            nodes[name] = _stock(node, syn, mem)
            return True
        mapped = _stock(node, mem, integral(0))
        nodes[name] = replace(mapped, bias=integral(0), v_init=integral(0), u_init=node.v_init)
        nodes[f"{name}.reset"] = Scale(scale=np.asarray(-amount))
        edges += [Edge(name, f"{name}.reset", recurrent=True), Edge(f"{name}.reset", name)]
        if bias.any():
            assert (bias % UNIT == 0).all(), "the bias of a soft reset is whole weight units"
            add_constant_current(nodes, edges, name, node, bias // UNIT)
            source = f"{name}.on"
            on = nodes[source]
            assert isinstance(on, IF)
            nodes[source] = _stock(on, integral(0), integral(DECAY_ONE))
        return False


def _one(decay: Array) -> Any:
    """A uniform decay as one number (the rules refuse others)."""
    return integral(decay.flat[0])


def _integral(node: Neuron) -> bool:
    """Whether ``v`` only ever holds whole weight units."""
    leaks = node.decays[1] is not None and bool((node.decays[1] % DECAY_ONE).any())
    current = node.decays[0] is not None and bool(node.decays[0].any())
    return not (leaks or current or (node.bias % UNIT).any() or (node.v_init % UNIT).any())


def _stock(node: Neuron, decay_syn: Any, decay_mem: Any) -> CubaLIF:
    """The stock LIF with this neuron's threshold, bias and start; in whole units v >= theta is v > theta - 1."""
    threshold = node.threshold - 1 if node.fire == "ge" and _integral(node) else node.threshold
    return CubaLIF(
        shape=node.shape, decay_syn=decay_syn, decay_mem=decay_mem, threshold=threshold, fire="gt", reset="zero",
        gain=integral(1), bias=node.bias, v_reset=integral(0), v_init=node.v_init, amplitude=integral(1),
        u_init=node.u_init if isinstance(node, CubaLIF) else integral(0),
        arithmetic=node.arithmetic, quantized=node.quantized, metadata=node.metadata,
    )

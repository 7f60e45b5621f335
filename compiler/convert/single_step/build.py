"""The network of a one-step conversion: activations become multi-threshold neurons that keep no charge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from d2e.compiler.convert.parameters import facts_of, smallest
from d2e.compiler.convert.single_step.calibrate import State
from d2e.compiler.convert.single_step.staircase import Staircase
from d2e.ir import MultiThreshold, Network, Node, Scale, verified
from d2e.ir.host import Host
from d2e.ir.nodes import real


def network_of(state: State) -> Network:
    """An ordinary network of the IR: what `engine.simulate` computes.

    Every step is an image of its own: neither neurons nor the readout keep anything for the next.
    """
    skeleton = state.skeleton
    network = skeleton.network
    nodes: dict[str, Node] = {skeleton.input: replace(network.input, time_steps=1, coding="direct")}
    for layer in skeleton.layers.values():
        if layer.host is not None:
            continue
        node, stairs = network.neuron(layer.name), state.plan.get(layer.name)
        shift = state.readouts.get(layer.name, np.zeros(layer.channels)) if stairs is None else stairs.shift
        bias = np.asarray(node.bias) + layer.as_parameter(shift)
        if stairs is None:
            nodes[layer.name] = replace(node, bias=smallest(bias), decay_mem=real(0.0))  # type: ignore[call-arg]
            continue
        raised = max(0.0, _gap(stairs) - float(stairs.levels[0]))  # levels are above 0, so z is measured from below
        nodes[layer.name] = MultiThreshold(
            shape=layer.shape, levels=real(stairs.levels + raised), payloads=real(stairs.payloads),
            bias=smallest(bias + layer.as_parameter(raised * stairs.scale)),
            threshold=smallest(layer.as_parameter(stairs.scale)), decay_mem=real(0.0), reset="none", signed=stairs.signed,
            amplitude=smallest(layer.as_parameter(stairs.amplitude)), metadata=facts_of(layer),
        )
    return verified(_direct(network.with_nodes(nodes)))


def _direct(network: Network) -> Network:
    """Without the factors of 1 that the canonical form has between host nodes and populations."""
    for name in [n for n, node in network.nodes.items() if isinstance(node, Scale) and (node.scale == 1).all()]:
        if any(isinstance(network.nodes[e.source], Host) for e in network.incoming[name]):
            network = network.without(name)
    return network


def _gap(stairs: Staircase) -> float:
    """A distance between levels, for the first one; 0 where all are above 0 anyhow."""
    if stairs.levels[0] > 0:
        return 0.0
    return float(np.diff(stairs.levels).mean()) if stairs.most > 1 else 1.0

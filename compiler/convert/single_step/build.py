"""The network of a one-step conversion: activations become multi-threshold neurons that keep no charge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from d2e.compiler.convert.parameters import facts_of, smallest
from d2e.compiler.convert.single_step.calibrate import State
from d2e.ir import MultiThreshold, Network, Node, verified
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
        nodes[layer.name] = MultiThreshold(
            shape=layer.shape, levels=real(stairs.levels), payloads=real(stairs.payloads), bias=smallest(bias),
            threshold=smallest(layer.as_parameter(stairs.scale)), decay_mem=real(0.0), reset="none",
            amplitude=smallest(layer.as_parameter(stairs.amplitude)), metadata=facts_of(layer),
        )
    return verified(network.with_nodes(nodes))

"""The spiking network of a conversion: ReLU populations become IF neurons with bursts and soft reset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from d2e.compiler.convert.adaptive.calibrate import State
from d2e.compiler.convert.parameters import facts_of, smallest
from d2e.ir import IF, EarlyExit, Network, Node, verified


def network_of(state: State, steps: int, exit: EarlyExit | None = None) -> Network:
    """An ordinary network of the IR: what `engine.simulate` computes, for images shown at every step.

    Args:
        state: all layers set.
        steps: T, the time steps of the input.
        exit: rule of the output.
    """
    skeleton = state.skeleton
    network = skeleton.network
    nodes: dict[str, Node] = {
        skeleton.input: replace(network.input, time_steps=steps, coding="direct"),
        network.outputs[0]: replace(network.output, exit=exit),
    }
    for layer in skeleton.layers.values():
        node, neurons = network.neuron(layer.name), state.plan.get(layer.name)
        shift = np.zeros(layer.channels) if neurons is None else neurons.shift
        bias = smallest(np.asarray(node.bias) + layer.as_parameter(shift))
        if layer.readout or neurons is None:
            nodes[layer.name] = replace(node, bias=bias)
            continue
        theta = smallest(layer.as_parameter(neurons.threshold))
        nodes[layer.name] = IF(
            shape=layer.shape, threshold=theta, amplitude=theta, v_init=smallest(layer.as_parameter(neurons.start)),
            bias=bias, reset="subtract", max_spikes=neurons.most, metadata=facts_of(layer),
        )
    return verified(network.with_nodes(nodes))

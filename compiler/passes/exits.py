"""The early exit of an output stays true where a pass changes what one unit of the output's numbers stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from d2e.compiler.paths import paths_into
from d2e.ir import LI, Network, Neuron, UnsupportedError


def in_new_unit(network: Network, unit: Callable[[Neuron], float]) -> Network:
    """The network with the scale of its early exit multiplied by the new unit of what its output reads.

    Args:
        network: one without a rule stays as it is.
        unit: what 1 sent by a population will stand for, in what it sends now.

    Raises:
        UnsupportedError: D2E-EXIT-003 where the output adds up different units.
    """
    name, rule = network.outputs[0], network.output.exit
    if rule is None:
        return network
    paths = list(paths_into(network, name))
    sources = [network.nodes[p.source] for p in paths]
    units = {unit(node) if isinstance(node, Neuron) else 1.0 for node in sources} | ({1.0} if not paths else set())
    if len(units) > 1 or (units != {1.0} and any(_adds_a_bias(network, s) for p in paths for s in p.synapses)):
        raise UnsupportedError(
            "D2E-EXIT-003", "its early exit judges a sum of numbers whose units come to differ", node=name,
            hint="Let it read one population, or leave the early exit out.",
        )
    scale = rule.scale * units.pop()
    return network.with_nodes({name: replace(network.output, exit=replace(rule, scale=scale))})


def amplitude_unit(node: Neuron) -> float:
    """What 1 sent by a population stands for once its amplitude is dropped; a membrane has none."""
    return 1.0 if isinstance(node, LI) else float(node.amplitude.flat[0])


def integer_unit(node: Neuron) -> float:
    """The float value of 1 sent by an integer population: spikes stay spikes, a membrane is in fractions of its unit."""
    if not isinstance(node, LI) or node.quantized is None or node.arithmetic is None:
        return 1.0
    return float(node.quantized.scale) / (1 << node.arithmetic.fraction_bits)


def _adds_a_bias(network: Network, name: str) -> bool:
    bias = getattr(network.nodes[name], "bias", None)
    return bias is not None and bool(np.any(bias))

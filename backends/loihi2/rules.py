"""What a network must satisfy on Loihi 2: a list of small named functions; all findings are collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from d2e.backends.loihi2.limits import LIMITS, UNIT
from d2e.compiler.paths import all_paths, paths_into
from d2e.ir import (
    LI,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Finding,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Output,
    Scale,
    Synapse,
    infer_shapes,
)

Rule = Callable[[Network], Iterator[Finding]]


def _neurons(network: Network) -> Iterator[tuple[str, Neuron]]:
    for name in network.populations:
        yield name, network.neuron(name)


def input_is_integer(network: Network) -> Iterator[Finding]:
    """Frames are spikes or integer payloads; real-valued input has no synapse to arrive on."""
    if network.input.coding == "direct":
        yield Finding("D2E-LOIHI-001", "takes real-valued input, the chip takes spikes", network.inputs[0],
                      "Encode the input as spikes (coding='spikes').")


def output_is_population(network: Network) -> Iterator[Finding]:
    """The output reads exactly one population, directly."""
    name = network.outputs[0]
    paths = list(paths_into(network, name))
    if len(paths) != 1 or paths[0].synapses or not isinstance(network.nodes[paths[0].source], Neuron):
        yield Finding("D2E-LOIHI-002", "the network ends in a layer without neurons, and only neurons can be read",
                      paths[0].label if paths else name, "End it with d2e.nn.IF (spike counts) or d2e.nn.LI (membrane).")


def neuron_is_known(network: Network) -> Iterator[Finding]:
    """One binary spike per step, no floor, a reset that the stock neuron has."""
    for name, node in _neurons(network):
        if isinstance(node, MultiThreshold):
            yield Finding("D2E-LOIHI-003", "multi-threshold neurons have no form on stock Loihi 2 neurons yet", name,
                          "Use d2e.nn.IF or LIF.")
            continue
        if isinstance(node, LI):
            continue
        if node.max_spikes != 1:
            yield Finding("D2E-LOIHI-003", f"fires up to {node.max_spikes or 'any number of'} spikes a step, the stock "
                          "neuron fires one", name, "Use max_spikes=1.")
        if node.reset == "none":
            yield Finding("D2E-LOIHI-004", "never resets; the stock neuron always does", name,
                          "Use reset='subtract' or 'zero'.")
        if node.v_min is not None:
            yield Finding("D2E-LOIHI-005", "has a floor v_min, the stock neuron has none", name, "Train without v_min.")


def decay_is_uniform(network: Network) -> Iterator[Finding]:
    """du and dv are one number per population."""
    for name, node in _neurons(network):
        for what, decay in zip(("decay_syn", "decay_mem"), node.decays, strict=True):
            if decay is not None and decay.size > 1 and (decay != decay.flat[0]).any():
                yield Finding("D2E-LOIHI-006", f"{what} varies within the population; the chip has one per population",
                              name, "Use one decay per layer.")


def delay_fits(network: Network) -> Iterator[Finding]:
    """Delays have 6 bits."""
    limit = int(LIMITS["delay"].value)
    for name, node in network.nodes.items():
        if isinstance(node, Delay) and node.steps > limit:
            yield Finding("D2E-LOIHI-007", f"delays by {node.steps} steps, the limit is {limit}", name,
                          "Use shorter delays or a relay layer.")


def readout_ends(network: Network) -> Iterator[Finding]:
    """Only an output reads a membrane; synapses carry spikes."""
    for path in all_paths(network):
        if isinstance(network.nodes[path.source], LI) and not isinstance(network.nodes[path.target], Output):
            yield Finding("D2E-LOIHI-008", f"feeds its membrane to {path.target!r}, synapses carry spikes", path.source,
                          "Use d2e.nn.LI as the last layer only.")


def layer_is_flat(network: Network) -> Iterator[Finding]:
    """A dense layer connects vectors."""
    shapes = infer_shapes(network)
    for name, node in network.nodes.items():
        if isinstance(node, Linear) and len(shapes[name]) > 1:
            yield Finding("D2E-LOIHI-009", f"a dense layer on the last axis of frames of shape {shapes[name]}", name,
                          "Flatten before it, or use a convolution of kernel size 1.")


SOURCE_RULES: tuple[Rule, ...] = (
    input_is_integer, output_is_population, neuron_is_known, decay_is_uniform, delay_fits, readout_ends, layer_is_flat,
)
"""What can be said before quantisation."""


def threshold_fits(network: Network) -> Iterator[Finding]:
    """vth has 17 bits."""
    limit = int(LIMITS["threshold"].value)
    for name, node in _neurons(network):
        if not isinstance(node, LI) and node.threshold.max() > limit:
            yield Finding("D2E-LOIHI-010", f"its threshold is {int(node.threshold.max())}, the limit is {limit}", name,
                          "Lower --weight-bits or scale the layer.")


def bias_fits(network: Network) -> Iterator[Finding]:
    """A bias is a 13-bit mantissa and one exponent 0..7 per population."""
    limit, top = int(LIMITS["bias_mantissa"].value), int(LIMITS["bias_exponent"].value)
    for name, node in _neurons(network):
        bias = node.bias.astype(np.int64)
        exact = any(
            (bias % (1 << e) == 0).all() and (np.abs(bias >> e) <= limit).all() for e in range(top + 1)
        )
        if not exact:
            largest = float(np.abs(bias).max()) / UNIT
            yield Finding("D2E-LOIHI-011", f"its bias of up to {largest:g} weight units is not one 13-bit mantissa and "
                          f"exponent; the limit is {(limit << top) / UNIT:g}", name, "Scale the layer's bias down.")


def weight_fits(network: Network) -> Iterator[Finding]:
    """Weights are integers of at most 8 bits, sign included; thresholds and biases on synapses split exactly."""
    half = 1 << (int(LIMITS["weight_bits"].value) - 1)
    for name, node in network.nodes.items():
        if isinstance(node, (Linear, Conv1d, Conv2d)) and node.quantized is not None:
            low, high = int(node.weight.min()), int(node.weight.max())
            if low < -half or high > half - 1:
                yield Finding("D2E-LOIHI-012", f"weights reach {low}..{high}, the limit is {-half}..{half - 1}", name,
                              "Lower --weight-bits.")


def synapse_is_single(network: Network) -> Iterator[Finding]:
    """Between two populations stands one linear map."""
    for path in all_paths(network):
        maps = [s for s in path.synapses if isinstance(network.nodes[s], Synapse)
                and network.nodes[s].kind not in ("flatten", "delay")]
        if len(maps) != 1 and not isinstance(network.nodes[path.target], Output):
            yield Finding("D2E-LOIHI-013", f"{len(maps)} linear maps between two populations, one is needed", path.label)


def synapse_is_known(network: Network) -> Iterator[Finding]:
    """Scale on a map is elementwise, integer."""
    for name, node in network.nodes.items():
        if isinstance(node, Scale) and node.scale.dtype.kind == "f" and (node.scale != np.rint(node.scale)).any():
            yield Finding("D2E-LOIHI-014", "scale is not an integer", name)


LOWERED_RULES: tuple[Rule, ...] = (
    input_is_integer, output_is_population, threshold_fits, bias_fits, weight_fits, synapse_is_single, synapse_is_known,
    decay_is_uniform, delay_fits, readout_ends, layer_is_flat,
)
"""What the lowered network must satisfy."""


def check(network: Network, rules: tuple[Rule, ...]) -> list[Finding]:
    """Every finding of the rules."""
    return [finding for rule in rules for finding in rule(network)]


def stock(network: Network) -> str | None:
    """Every population is a stock Loihi LIF (or a readout)."""
    for name, node in _neurons(network):
        if isinstance(node, LI):
            continue
        plain = isinstance(node, CubaLIF) and node.arithmetic is not None and node.reset == "zero"
        if not (plain and node.fire == "gt" and node.max_spikes == 1 and node.reset_when == "same"):
            return name
    return None

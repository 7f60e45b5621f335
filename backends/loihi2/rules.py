"""What a network must satisfy on Loihi 2: a list of small named functions; all findings are collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from d2e.backends.loihi2.forms import is_graded, is_stock, replica_of
from d2e.backends.loihi2.limits import DECAY_ONE, LIMITS, UNIT
from d2e.backends.loihi2.replicate import is_step
from d2e.compiler.passes.ranges import payload_range
from d2e.compiler.paths import Path, all_paths, paths_into
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
from d2e.ir.nodes import Array

Rule = Callable[[Network], Iterator[Finding]]


def _neurons(network: Network) -> Iterator[tuple[str, Neuron]]:
    for name in network.populations:
        yield name, network.neuron(name)


def input_is_integer(network: Network) -> Iterator[Finding]:
    """Frames are spikes or integer payloads; real-valued input has no synapse to arrive on."""
    if network.input.coding == "direct":
        yield Finding("D2E-LOIHI-001", "takes real-valued input, the chip takes spikes", network.inputs[0],
                      "Leave encode-input in the pipeline.")


def output_is_population(network: Network) -> Iterator[Finding]:
    """The output reads exactly one population, or its replicas, directly."""
    name = network.outputs[0]
    paths = list(paths_into(network, name))
    read = {_read(network, path) for path in paths}
    if len(read) != 1 or None in read:
        yield Finding("D2E-LOIHI-002", "the network ends in a layer without neurons, and only neurons can be read",
                      paths[0].label if paths else name, "End it with d2e.nn.IF (spike counts) or d2e.nn.LI (membrane).")


def _read(network: Network, path: Path) -> str | None:
    """The population of the source that a path to the output reads; None where it is more than that."""
    node = network.nodes[path.source]
    level = replica_of(node) if isinstance(node, Neuron) else None
    allowed = 0 if level is None else 1
    if not isinstance(node, Neuron) or len(path.synapses) > allowed:
        return None
    return path.source if level is None else level.of


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
    output_is_population, delay_fits, readout_ends, layer_is_flat,
)
"""What can be said before quantisation, besides the forms of neurons (`forms.obstacles`)."""


def threshold_fits(network: Network) -> Iterator[Finding]:
    """vth has 17 bits, and so has what 24 bits of state hold in weight units."""
    limit = int(LIMITS["threshold"].value)
    for name, node in _neurons(network):
        if isinstance(node, LI):
            continue
        top = node.levels * node.threshold if isinstance(node, MultiThreshold) else node.threshold * (node.max_spikes or 1)
        if top.max() > limit:
            yield Finding("D2E-LOIHI-010", f"its threshold is {int(top.max())}, the limit is {limit}", name,
                          "Lower --weight-bits or scale the layer.")


def payload_fits(network: Network) -> Iterator[Finding]:
    """A graded spike carries at most 24 bits in Lava."""
    limit = int(LIMITS["payload"].value)
    for name, node in _neurons(network):
        top = 0.0 if isinstance(node, LI) else max(map(abs, payload_range(network, name)))
        if top > limit:
            yield Finding("D2E-LOIHI-015", f"sends payloads up to {top:g}, the limit is {limit}", name,
                          "Limit its spikes per step (max_spikes).")


def bias_fits(network: Network) -> Iterator[Finding]:
    """A bias is a 13-bit mantissa and one exponent 0..7 per population."""
    limit, top = int(LIMITS["bias_mantissa"].value), int(LIMITS["bias_exponent"].value)
    for name, node in _neurons(network):
        if is_graded(node):
            continue
        bias = node.bias.astype(np.int64)
        exact = any(
            (bias % (1 << e) == 0).all() and (np.abs(bias >> e) <= limit).all() for e in range(top + 1)
        )
        if not exact:
            largest = float(np.abs(bias).max()) / UNIT
            yield Finding("D2E-LOIHI-011", f"its bias of up to {largest:g} weight units is not one 13-bit mantissa and "
                          f"exponent; the limit is {(limit << top) / UNIT:g}", name, "Scale the layer's bias down.")


def weight_fits(network: Network) -> Iterator[Finding]:
    """Weights are integers of at most 8 bits, sign included, times one power of two per output channel.

    Dense has an exponent per process; Conv has none, but its kernels hold 9 bits.
    """
    half, most = 1 << (int(LIMITS["weight_bits"].value) - 1), int(LIMITS["synapse_exponent"].value)
    for name, node in network.nodes.items():
        if not isinstance(node, (Linear, Conv1d, Conv2d)) or node.quantized is None:
            continue
        rows = node.weight.reshape(len(node.weight), -1)
        low, high, bits = (of(rows, axis=1).astype(np.int64) for of in (np.min, np.max, np.bitwise_or.reduce))
        shift = np.minimum(_trailing_zeros(bits), most)
        wide = (low >> shift < -half) | (high >> shift > half - 1)
        if isinstance(node, (Conv1d, Conv2d)):
            wide |= (low < -2 * half) | (high > 2 * half - 1)
        if wide.any():
            yield Finding("D2E-LOIHI-012", f"weights reach {low.min()}..{high.max()}, the limit is "
                          f"{-half}..{half - 1} times one power of two per output", name, "Lower --weight-bits.")


def _trailing_zeros(joined: Array) -> Array:
    """How often 2 divides each number; many times where it is zero."""
    lowest = joined & -joined
    return np.where(joined == 0, 63, np.log2(np.maximum(lowest, 1))).astype(np.int64)


def steep_steps(network: Network) -> Iterator[tuple[str, str, int]]:
    """(population, convolution, how many it takes) where the payload of a replica's spike does not fit one convolution."""
    for path in all_paths(network):
        source = network.nodes[path.source]
        level = replica_of(source) if isinstance(source, Neuron) else None
        for name in path.synapses if level is not None and abs(level.step) > 1 else ():
            node = network.nodes[name]
            if isinstance(node, (Conv1d, Conv2d)) and level is not None:
                largest = max(int(node.weight.max()), -int(node.weight.min())) * abs(level.step)
                yield level.of, name, -(-largest // _KERNEL_MAX)


def step_fits(network: Network) -> Iterator[Finding]:
    """A convolution has no exponent: a step beyond 8 bits is a sum of several convolutions, of not too many."""
    limit = int(LIMITS["step_kernels"].value)
    worst: dict[tuple[str, str], int] = {}
    for of, name, needed in steep_steps(network):
        worst[of, name] = max(needed, worst.get((of, name), 0))
    for (of, name), needed in worst.items():
        if needed > limit:
            yield Finding("D2E-LOIHI-016", f"the steps between the levels of {of!r} take {needed} convolutions of 8 bits, "
                          f"{limit} are allowed", name, "Use --burst graded, fewer --weight-bits or levels closer together.")


def synapse_is_single(network: Network) -> Iterator[Finding]:
    """Between two populations stands one linear map, behind a replica also its step."""
    for path in all_paths(network):
        source = network.nodes[path.source]
        behind = path.synapses[1:] if isinstance(source, Neuron) and _has_step(network, path) else path.synapses
        maps = [s for s in behind if isinstance(network.nodes[s], Synapse)
                and network.nodes[s].kind not in ("flatten", "delay")]
        if len(maps) != 1 and not isinstance(network.nodes[path.target], Output):
            yield Finding("D2E-LOIHI-013", f"{len(maps)} linear maps between two populations, one is needed", path.label)


def synapse_is_known(network: Network) -> Iterator[Finding]:
    """Scale on a map is elementwise, integer."""
    for name, node in network.nodes.items():
        if isinstance(node, Scale) and node.scale.dtype.kind == "f" and (node.scale != np.rint(node.scale)).any():
            yield Finding("D2E-LOIHI-014", "scale is not an integer", name)


def _has_step(network: Network, path: Path) -> bool:
    """Whether a path begins with the step of a replica."""
    source = network.nodes[path.source]
    return isinstance(source, Neuron) and any(is_step(name, path.source) for name in path.synapses[:1])


LOWERED_RULES: tuple[Rule, ...] = (
    input_is_integer, output_is_population, threshold_fits, payload_fits, bias_fits, weight_fits, step_fits,
    synapse_is_single, synapse_is_known, delay_fits, readout_ends, layer_is_flat,
)
"""What the lowered network must satisfy."""


def _hazard(code: str, message: str, node: str, hint: str) -> Finding:
    return Finding(code, message, node, hint, severity="warning")


def convolution_is_small(network: Network) -> Iterator[Finding]:
    """Known on the chip: spikes at x = n * 256 - 1 of wide maps may be lost (lava-dl, netx/yolo_kp/run.ipynb)."""
    shapes = infer_shapes(network)
    for name, node in network.nodes.items():
        shape = shapes[network.incoming[name][0].source] if isinstance(node, (Conv1d, Conv2d)) else ()
        if max(shape[1:], default=0) >= _WIDE:
            size = " x ".join(map(str, shape[1:]))
            yield _hazard("D2E-LOIHI-022", f"convolves maps of {size}; from {_WIDE} on, chips have been seen to drop "
                          "spikes, which no simulation shows", name, "Use a larger stride before it.")


def decay_is_documented(network: Network) -> Iterator[Finding]:
    """du = -1 and dv = 4096 lie outside the 12 bits that Lava documents; whether the chip takes them is not public."""
    found = [
        name for name, node in _neurons(network)
        if isinstance(node, CubaLIF) and is_stock(node) and (node.decay_syn == DECAY_ONE or node.decay_mem == 0)
    ]
    if found:
        yield _hazard("D2E-LOIHI-025", f"keeps its charge with du=-1 or dv=4096, as {len(found)} populations do; "
                      "whether the chip's closed microcode takes them is not known", found[0],
                      "Use --soft-reset fallback if it does not.")


_WIDE = 256
_KERNEL_MAX = int(LIMITS["synapse_mantissa"].value)
HAZARDS: tuple[Rule, ...] = (convolution_is_small, decay_is_documented)
"""What no simulation shows, but a chip may do otherwise: warnings."""


def check(network: Network, rules: tuple[Rule, ...]) -> list[Finding]:
    """Every finding of the rules."""
    return [finding for rule in rules for finding in rule(network)]


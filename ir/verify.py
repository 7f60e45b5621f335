"""The verifier: everything that makes a network meaningless, collected at once. Runs between all passes.

It knows no chip; a chip's limits are the backend's rules. Codes are explained in docs/errors.md.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from d2e.ir import host
from d2e.ir.encoding import KINDS, LATCHING, REAL, Encoder
from d2e.ir.errors import D2EError, Finding, raise_findings
from d2e.ir.exit import READOUTS, EarlyExit
from d2e.ir.network import Network
from d2e.ir.nodes import (
    LI,
    Array,
    Conv1d,
    Conv2d,
    Delay,
    FixedPoint,
    Input,
    Linear,
    MultiThreshold,
    Neuron,
    Node,
    Output,
    Quantized,
    Synapse,
    _Conv,
    _Pool,
)
from d2e.ir.shapes import infer_shapes

_RESETS = ("subtract", "zero", "value", "none")
_CODINGS = ("spikes", "signed", "direct")


def verify(network: Network) -> list[Finding]:
    """Every finding about a network, in the order of its nodes; an empty list means it has a meaning."""
    findings = [*_structure(network)]
    for name, node in network.nodes.items():
        findings += _arrays(name, node)
        if isinstance(node, Neuron):
            findings += _neuron(name, node)
        wrong = host.options(node) if isinstance(node, host.Host) else _options(node)
        findings += (Finding("D2E-NODE-003", message, name) for message in wrong)
        if isinstance(node, Output) and node.exit is not None:
            findings += (Finding("D2E-EXIT-001", message, name) for message in _exit(network, node, node.exit))
    if not any(f.severity == "error" for f in findings):
        try:
            infer_shapes(network)
        except D2EError as error:
            findings.append(Finding(error.code, error.message, error.node, error.hint))
    return findings


def verified(network: Network) -> Network:
    """The network, if `verify` finds no error.

    Raises:
        UnsupportedError: with the first finding's code, all findings in the message.
    """
    raise_findings(verify(network))
    return network


def _structure(network: Network) -> Iterator[Finding]:
    for kind, names in (("input", network.inputs), ("output", network.outputs)):
        if len(names) != 1:
            yield Finding("D2E-NET-002", f"the network has {len(names)} {kind} nodes and needs exactly one")
    dangling = False
    for edge in network.edges:
        for end in (edge.source, edge.target):
            if end not in network.nodes:
                dangling = True
                message = f"edge {edge.source} -> {edge.target} names no node {end!r}"
                yield Finding("D2E-NET-001", message, end)
    for (source, target), count in Counter((e.source, e.target) for e in network.edges).items():
        if count > 1:
            yield Finding("D2E-NET-003", f"edge {source} -> {target} appears {count} times", source)
    yield from _connections(network)
    if not dangling:
        try:
            _ = network.order
        except D2EError as error:
            yield Finding(error.code, error.message, error.node, error.hint)


def _connections(network: Network) -> Iterator[Finding]:
    for name, node in network.nodes.items():
        if "/" in name or name in ("", ".") or any(unicodedata.category(letter) == "Cc" for letter in name):
            yield Finding("D2E-NET-005", "a node name must not be empty, '.', or hold '/' or control characters", name)
        if not isinstance(node, (Input, Neuron)) and not network.incoming[name]:
            yield Finding("D2E-SHAPE-002", "has no input", name, "Remove it or connect it.")
        if not isinstance(node, Output) and not network.outgoing[name]:
            yield Finding("D2E-NET-006", "its result reaches nothing", name, "Remove it or connect it.")


def _arrays(name: str, node: Node) -> Iterator[Finding]:
    for f in fields(node):
        value = getattr(node, f.name)
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.kind not in "iubf":
            yield Finding("D2E-NODE-001", f"{f.name} holds {value.dtype}, not numbers", name)
        elif value.dtype.kind == "f" and value.size and not np.isfinite([value.min(), value.max()]).all():
            bad = int((~np.isfinite(value)).sum())
            yield Finding(
                "D2E-NODE-002", f"{f.name} holds {bad} values that are NaN or infinite", name,
                "Train or load the model again.",
            )
    quantized = getattr(node, "quantized", None)
    weight = getattr(node, "weight", None)
    if quantized is not None and isinstance(node, Synapse) and weight is not None:
        yield from _grid(name, weight, quantized)


def _options(node: Node) -> Iterator[str]:
    """What is wrong with the sizes of an input, an output or a synapse."""
    if isinstance(node, (Input, Output)) and min(node.shape, default=1) < 1:
        yield f"shape {node.shape} must hold sizes above 0"
    if isinstance(node, Input) and (node.max_payload < 1 or node.coding not in _CODINGS):
        yield f"coding {node.coding!r} with payloads up to {node.max_payload} is not known"
    if isinstance(node, Input) and node.encoder is not None:
        yield from _encoder(node, node.encoder)
    if isinstance(node, Linear) and node.weight.ndim != 2:
        yield f"weight has {node.weight.ndim} axes; [out, in] is needed"
    if isinstance(node, (Conv1d, Conv2d)):
        yield from _convolution(node)
    bias = getattr(node, "bias", None)
    if isinstance(node, (Linear, _Conv)) and bias is not None and bias.shape != node.weight.shape[:1]:
        yield f"bias has shape {bias.shape}; {node.weight.shape[:1]}, one per output, is needed"
    if isinstance(node, _Pool) and (min(*node.kernel_size, *node.stride) < 1 or min(node.padding) < 0):
        yield f"window {node.kernel_size}, stride {node.stride}, padding {node.padding} are not all above 0"
    if isinstance(node, Delay) and node.steps < 0:
        yield f"delays by {node.steps} steps; 0 or more is needed"


def _encoder(node: Input, encoder: Encoder) -> Iterator[str]:
    if encoder.kind not in KINDS:
        yield f"encoder {encoder.kind!r} is none of {', '.join(KINDS)}"
    if not 0 <= encoder.seed < 1 << 32:
        yield f"the encoder's seed {encoder.seed} is not in 0..{(1 << 32) - 1}"
    if encoder.latch and encoder.kind not in LATCHING:
        yield f"encoder {encoder.kind!r} has no latch, {', '.join(LATCHING)} have one"
    if encoder.scale is None:
        if node.coding != "direct" or encoder.kind not in REAL:
            yield f"encoder {encoder.kind!r} needs a scale, and a coding of integers"
    elif node.coding == "direct":
        yield "an input coded 'direct' stays real, its encoder must have no scale"
    elif encoder.scale.dtype.kind not in "iuf" or not np.isfinite(encoder.scale).all() or (encoder.scale <= 0).any():
        yield "the encoder's scale must hold finite numbers above 0"
    elif not _broadcasts(encoder.scale, node.shape):
        yield f"the encoder's scale of shape {encoder.scale.shape} does not broadcast against {node.shape}"


def _exit(network: Network, node: Output, rule: EarlyExit) -> Iterator[str]:
    if node.readout not in READOUTS:
        yield f"an early exit judges the readouts {', '.join(READOUTS)}, not {node.readout!r}"
    if math.prod(node.shape) < 2:
        yield f"an early exit needs two classes or more, the output has shape {node.shape}"
    bounds, scale = np.asarray(rule.bounds), np.asarray(rule.scale)
    if bounds.ndim != 1 or not bounds.size or not np.isfinite(bounds).all():
        yield f"the bounds of the early exit, of shape {bounds.shape}, are not one finite number per step"
    if scale.ndim or not np.isfinite(scale).all() or not (scale > 0).all():
        yield "the scale of the early exit is not one finite number above 0"
    stated = next((n.time_steps for n in network.nodes.values() if isinstance(n, Input)), None)
    if stated is not None and bounds.ndim == 1 and bounds.size not in (0, stated):
        yield f"the early exit has {bounds.size} bounds for {stated} time steps"


def _convolution(node: Conv1d | Conv2d) -> Iterator[str]:
    axes = 1 if isinstance(node, Conv1d) else 2
    padding = (0,) * axes if isinstance(node.padding, str) else node.padding
    if node.groups < 1:
        yield f"has {node.groups} groups; at least 1 is needed"
    if node.weight.ndim != axes + 2 or node.weight.size == 0:
        yield f"weight has shape {node.weight.shape}; [out, in/groups and {axes} kernel axes] is needed"
    if isinstance(node.padding, str) and node.padding != "same":
        yield f"padding {node.padding!r} is neither 'same' nor numbers"
    if any(len(size) != axes for size in (node.stride, node.dilation, padding)):
        yield f"stride, padding and dilation need {axes} numbers each"
    elif min(*node.stride, *node.dilation) < 1 or min(padding) < 0:
        yield f"stride {node.stride}, dilation {node.dilation}, padding {node.padding} are out of range"


def _grid(name: str, weight: Array, grid: Quantized) -> Iterator[Finding]:
    bits, step = grid.bits, 1 << grid.exponent
    low, high = (-(step << (bits - 1)), step * ((1 << (bits - 1)) - 1)) if grid.signed else (0, step * ((1 << bits) - 1))
    if weight.dtype.kind not in "iu":
        message = f"weight is marked quantised to {bits} bits but holds {weight.dtype}"
        yield Finding("D2E-NODE-004", message, name)
    elif weight.size and (weight.min() < low or weight.max() > high):
        yield Finding(
            "D2E-NODE-004",
            f"weight reaches {weight.min()}..{weight.max()}, outside {low}..{high} ({bits} bits)", name,
        )
    elif step > 1 and (weight % step).any():
        yield Finding("D2E-NODE-004", f"weight holds values that are no multiples of {step}", name)


def _neuron(name: str, node: Neuron) -> Iterator[Finding]:
    def bad(message: str, hint: str | None = None) -> Finding:
        return Finding("D2E-NODE-003", message, name, hint)

    if not isinstance(node, LI) and not (node.threshold > 0).all() and not (
        node.arithmetic and node.fire == "gt" and node.max_spikes == 1 and (node.threshold >= 0).all()
    ):
        yield bad(f"threshold is {node.threshold.min()}; it must be above 0")
    if node.reset not in _RESETS:
        yield bad(f"reset {node.reset!r} is none of {', '.join(_RESETS)}")
    if node.reset_when not in ("same", "next"):
        yield bad(f"reset_when {node.reset_when!r} is neither 'same' nor 'next'")
    if node.fire not in ("ge", "gt"):
        yield bad(f"fire {node.fire!r} is neither 'ge' nor 'gt'")
    if node.max_spikes < 0:
        yield bad(f"max_spikes is {node.max_spikes}; 0 (no limit) or more is needed")
    if node.refractory < 0 or (node.refractory and node.reset_when == "next"):
        yield bad(f"refractory is {node.refractory} with reset_when {node.reset_when!r}; it is 0 or more, with 'same'")
    yield from _parameters(name, node)
    if node.arithmetic:
        yield from _integers(name, node, node.arithmetic)
    elif node.continuous is None:
        yield from _factors(name, node)


def _parameters(name: str, node: Neuron) -> Iterator[Finding]:
    """What is wrong with the shapes and the order of a neuron's arrays."""
    for f in fields(node):
        value = getattr(node, f.name)
        by_level = ("levels", "payloads", "reset_by") if isinstance(node, MultiThreshold) else ()
        if not isinstance(value, np.ndarray) or f.name in by_level:
            continue
        if not _broadcasts(value, node.shape):
            message = f"{f.name} of shape {value.shape} does not broadcast against {node.shape}"
            yield Finding("D2E-NODE-003", message, name)
    if not isinstance(node, MultiThreshold):
        return
    levels, payloads = node.levels, node.payloads
    if levels.ndim != 1 or levels.size == 0 or levels[0] <= 0 or (np.diff(levels) <= 0).any():
        yield Finding("D2E-NODE-003", f"levels {levels.tolist()} must rise and be above 0", name)
    for what, values in (("payloads", payloads), ("reset amounts", node.reset_by)):
        if values is not None and values.shape != levels.shape:
            yield Finding("D2E-NODE-003", f"{levels.size} levels need as many {what}", name)


def _broadcasts(value: Array, shape: tuple[int, ...]) -> bool:
    return value.ndim <= len(shape) and all(
        a in (1, b) for a, b in zip(reversed(value.shape), reversed(shape), strict=False)
    )


def _factors(name: str, node: Neuron) -> Iterator[Finding]:
    for what, decay in zip(("decay_syn", "decay_mem"), node.decays, strict=True):
        if decay is not None and ((decay < 0) | (decay > 1)).any():
            message = f"{what} must lie in 0..1, it holds {decay.min()}..{decay.max()}"
            yield Finding("D2E-NODE-003", message, name)


def _integers(name: str, node: Neuron, fixed: FixedPoint) -> Iterator[Finding]:
    one = 1 << fixed.decay_bits
    for what, decay in zip(("decay_syn", "decay_mem"), node.decays, strict=True):
        if decay is not None and ((decay < 0) | (decay > one)).any():
            yield Finding("D2E-NODE-003", f"{what} must be an integer in 0..{one}", name)
    for f in fields(node):
        value = getattr(node, f.name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and (value != np.rint(value)).any():
            message = f"{f.name} is not an integer in a population of integer arithmetic"
            yield Finding("D2E-NODE-005", message, name)
    if (node.gain != 1).any():
        hint = "Run fold_thresholds before quantise."
        yield Finding("D2E-NODE-005", "gain must be 1 in integers", name, hint)

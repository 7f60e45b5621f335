"""Writes populations as stock Loihi LIF neurons, each in the form that `map_neurons` chose for it.

The stock neuron (lava ``LIF``) resets ``v`` to zero and fires at ``v > vth``. A soft reset keeps its charge in ``u``
instead (du=-1 or a leak, dv=4096: v is a copy of u) and takes ``reset_by`` away with a synapse onto itself; a neuron of
several levels is several such neurons (`replicate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from d2e.backends.loihi2.forms import Form, has_current, is_several
from d2e.backends.loihi2.limits import DECAY_ONE, LIMITS, UNIT
from d2e.backends.loihi2.replicate import Level, replicate, weigh
from d2e.compiler.even_levels import shares
from d2e.compiler.passes.canonicalise import add_constant_current
from d2e.ir import IF, LI, CubaLIF, Edge, MultiThreshold, Network, Neuron, Node, Scale
from d2e.ir.nodes import integral

SoftReset = Literal["exact", "fallback"]


def lower(network: Network, forms: Mapping[str, Form], soft_reset: SoftReset) -> Network:
    """The network with every population in its form, populations that become graded processes as they are."""
    nodes: dict[str, Node] = dict(network.nodes)
    edges = list(network.edges)
    for name, form in forms.items():
        node = network.neuron(name)
        if form.kind != "graded":
            _map(name, node, form, soft_reset, nodes, edges)
    return Network(nodes, tuple(edges), network.metadata)


def _map(
    name: str, node: Neuron, form: Form, soft_reset: SoftReset, nodes: dict[str, Node], edges: list[Edge]
) -> None:
    """Replace one population by stock neurons."""
    keep_syn, keep_mem = node.decays
    syn = integral(0) if keep_syn is None else integral(keep_syn.flat[0])
    mem = integral(DECAY_ONE) if keep_mem is None else integral(keep_mem.flat[0])
    if isinstance(node, LI):
        nodes[name] = replace(node, decay_syn=syn, decay_mem=mem, reset="zero", fire="gt",
                              threshold=integral(LIMITS["threshold"].value))
        return
    if node.reset not in ("subtract", "none") or form.kind == "approximate":
        nodes[name] = _stock(node, syn, mem)
        return
    if node.bias.any():
        assert (node.bias % UNIT == 0).all(), "the bias of a soft reset is whole weight units"
        add_constant_current(nodes, edges, name, node, node.bias // UNIT)
        on = nodes[f"{name}.on"]
        assert isinstance(on, IF)
        nodes[f"{name}.on"] = _stock(on, integral(0), integral(DECAY_ONE))
    if soft_reset == "fallback":
        mapped = partial(_charged, node, np.minimum(mem, DECAY_ONE - 1), integral(1))
    else:
        mapped = partial(_charged, node, mem, integral(0))
    levels, signed = levels_of(node), isinstance(node, MultiThreshold) and node.signed
    if form.kind == "weighted":
        weigh(name, _digits(node, levels), signed, mapped, nodes, edges)
        return
    if is_several(node):
        replicate(name, levels, signed, mapped, nodes, edges)
        return
    nodes[name] = mapped(levels[0].threshold, 1)
    if node.reset == "subtract":
        nodes[f"{name}.reset"] = Scale(scale=-levels[0].reset)
        edges += [Edge(name, f"{name}.reset", recurrent=True), Edge(f"{name}.reset", name)]


def levels_of(node: Neuron) -> list[Level]:
    """The levels of an integer population with a soft reset, or none at all, as stock neurons have them."""
    if isinstance(node, MultiThreshold):
        thresholds = node.levels * int(node.threshold)
        steps = np.diff(node.levels if node.payloads is None else node.payloads, prepend=0)
        amounts = list(np.diff(thresholds if node.reset_by is None else node.reset_by, prepend=0))
    else:
        thresholds = np.arange(1, node.max_spikes + 1) * int(node.threshold)
        steps = np.ones(node.max_spikes, np.int64)
        amounts = [node.threshold if node.reset_by is None else node.reset_by] * node.max_spikes
    if node.reset == "none":
        amounts = [integral(0)] * len(thresholds)
    below = int(node.fire == "ge" and is_whole(node))  # in whole units v >= theta is v > theta - 1
    return [
        Level(int(t) - below, integral(r), int(s)) for t, r, s in zip(thresholds, amounts, steps, strict=True)
    ]


def _digits(node: Neuron, levels: list[Level]) -> list[Level]:
    """The digits of an even staircase, the largest first."""
    pitch = integral(levels[1].threshold - levels[0].threshold)
    return [Level(levels[s - 1].threshold, pitch * s, levels[0].step * s, s) for s in shares(len(levels))]


def is_whole(node: Neuron) -> bool:
    """Whether ``v`` only ever holds whole weight units."""
    keep = node.decays[1]
    current = has_current(node) and not _keeps_all(node)
    leaks, starts = keep is not None and bool((keep % DECAY_ONE).any()), keep is None or bool(keep.any())
    return not (leaks or current or (node.bias % UNIT).any() or (starts and (node.v_init % UNIT).any()))


def _keeps_all(node: Neuron) -> bool:
    """Whether a synaptic current of whole weight units stays one."""
    keep = node.decays[0]
    whole = keep is not None and not bool((keep % DECAY_ONE).any())
    return whole and not (isinstance(node, CubaLIF) and bool((node.u_init % UNIT).any()))


def _charged(node: Neuron, keep: Any, keep_mem: Any, threshold: int, sign: int) -> CubaLIF:
    """The stock LIF that keeps its charge in ``u``; of the negative group with sign -1."""
    stock = _stock(node, keep, keep_mem)
    return replace(
        stock, threshold=integral(threshold), bias=integral(0), v_init=integral(0), u_init=sign * node.v_init
    )


def _stock(node: Neuron, decay_syn: Any, decay_mem: Any) -> CubaLIF:
    """The stock LIF with this neuron's threshold, bias and start."""
    threshold = node.threshold - 1 if node.fire == "ge" and is_whole(node) else node.threshold
    return CubaLIF(
        shape=node.shape, decay_syn=decay_syn, decay_mem=decay_mem, threshold=threshold, fire="gt", reset="zero",
        gain=integral(1), bias=node.bias, v_reset=integral(0), v_init=node.v_init, amplitude=integral(1),
        u_init=node.u_init if isinstance(node, CubaLIF) else integral(0),
        arithmetic=node.arithmetic, quantized=node.quantized, metadata=node.metadata,
    )

"""Cuts a network at what runs on the host into segments that a chip runs whole."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import gcd

import numpy as np

from d2e.ir import (
    LI,
    Affine,
    Conv1d,
    Edge,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    Scale,
    Synapse,
    UnsupportedError,
    verified,
)
from d2e.ir.host import Host
from d2e.ir.nodes import Array, real
from d2e.ir.shapes import infer_shapes


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a network that runs on the chip.

    Attributes:
        source: the network's input, or the population on the host whose payloads enter.
        end: the population whose output the host reads.
        network: from an Input of those payloads to an Output.
        factor: what one unit of that output stands for, against what ``end`` sends in the whole network; a readout's
            integers also have a unit of their own.
        offset: what the host adds to it: the bias of a membrane without memory.
        moved: whether the segment's frames are [d, tokens] where the whole network's are [tokens, d]: a chip has dense
            layers on every token as convolutions of size 1.
    """

    source: str
    end: str
    network: Network
    factor: Array
    offset: Array
    moved: bool = False

    def entering(self, frames: Array) -> Array:
        """Frames [n, time, *shape] of the whole network as the segment takes them."""
        return frames.swapaxes(-1, -2) if self.moved else frames

    def leaving(self, output: Array, unit: Array) -> Array:
        """What the segment sends, in ``unit``, as values of the whole network."""
        return (output.swapaxes(-1, -2) if self.moved else output) * unit + self.offset


def on_host(network: Network) -> tuple[str, ...]:
    """The populations that the host runs: those that nothing but host nodes lead to. They make its values integers."""
    return tuple(
        name for name in network.populations
        if network.incoming[name] and all(isinstance(network.nodes[e.source], Host) for e in network.incoming[name])
    )


def reshaped(network: Network) -> tuple[str, ...]:
    """The Flattens that the host does: those that lead to nothing but host nodes."""
    found: list[str] = []
    for name in reversed(network.order):
        targets = [e.target for e in network.outgoing[name]]
        if isinstance(network.nodes[name], Flatten) and all(
            t in found or isinstance(network.nodes[t], Host) for t in targets
        ):
            found.append(name)
    return tuple(found)


def split(network: Network) -> list[Segment]:
    """The segments, in an order in which each one's source is known before it.

    Raises:
        UnsupportedError: D2E-HOST-002 for a segment with more than one source or end, -003 for one that ends in a synapse,
            -004 where the host hands real values to synapses, -005 for a loop through the host, -008 for a population
            that the host cannot run, -009 for an early exit.
    """
    sites = on_host(network)
    _check(network, sites)
    chip = {n for n, node in network.nodes.items() if isinstance(node, (Synapse, Neuron))}
    chip -= {*sites, *reshaped(network)}
    segments = [_segment(network, part, sites) for part in _parts(network, chip)]
    order = {name: i for i, name in enumerate(network.order)}
    return sorted(segments, key=lambda s: order[s.end])


def _check(network: Network, sites: tuple[str, ...]) -> None:
    for name in sites:
        if not isinstance(network.nodes[name], (MultiThreshold, LI)):
            raise UnsupportedError(
                "D2E-HOST-008", f"is of the kind {network.nodes[name].kind}; the host runs populations that send levels "
                "and readouts", node=name, hint="Put it behind synapses, then the chip runs it; or take a MultiThreshold.")
    if network.output.exit is not None:
        raise UnsupportedError("D2E-HOST-009", "an early exit ends a run on one chip, and a part of this network runs on "
                               "the host", node=network.outputs[0], hint="Leave the early exit out.")


def _parts(network: Network, chip: set[str]) -> list[set[str]]:
    """The connected parts of the chip's nodes."""
    parts: dict[str, set[str]] = {name: {name} for name in chip}
    for edge in network.edges:
        if edge.recurrent and not (edge.source in chip and edge.target in chip):
            raise UnsupportedError("D2E-HOST-005", "a loop leads through the host", node=edge.source,
                                   hint="Keep recurrent layers between two parts of the host.")
        if edge.source in chip and edge.target in chip and parts[edge.source] is not parts[edge.target]:
            joined = parts[edge.source] | parts[edge.target]
            parts |= dict.fromkeys(joined, joined)
    return [part for name, part in parts.items() if name == min(part)]


def _segment(network: Network, part: set[str], sites: tuple[str, ...]) -> Segment:
    into = [e for e in network.edges if e.target in part and e.source not in part]
    out = [e for e in network.edges if e.source in part and e.target not in part]
    sources, ends = sorted({e.source for e in into}), sorted({e.source for e in out})
    if len(sources) != 1 or len(ends) != 1:
        what = f"{len(sources)} sources ({', '.join(sources)}) and {len(ends)} ends ({', '.join(ends)})"
        raise UnsupportedError("D2E-HOST-002", f"what runs on the chip between two parts of the host has {what}, one of "
                               "each is needed", node=(ends or sources)[0],
                               hint="Read values of different layers in host nodes.")
    (source,), (end,) = sources, ends
    begin, last = network.nodes[source], network.nodes[end]
    if not isinstance(begin, (Input, MultiThreshold)):
        raise UnsupportedError("D2E-HOST-004", "hands real values to the chip, which takes integers", node=source,
                               hint="Put a population behind it that sends them in levels (d2e convert does).")
    if not isinstance(last, Neuron):
        raise UnsupportedError("D2E-HOST-003", "the host reads neurons, not synapses", node=end,
                               hint="Put a readout (LI) behind it.")
    final = [e.target for e in out if isinstance(network.nodes[e.target], Output)]
    nodes: dict[str, Node] = {name: network.nodes[name] for name in network.nodes if name in part}
    edges = [e for e in network.edges if e.source in part and e.target in part]
    nodes, edges = _begun(network, source, into, nodes, edges)
    factor, offset = np.ones(()), np.zeros(())
    if final:
        nodes[final[0]] = network.nodes[final[0]]
        edges.append(Edge(end, final[0]))
    else:
        nodes[end], factor, offset = _plain(last)
        name = "output"
        nodes[name] = Output(shape=last.shape, readout="last" if isinstance(last, LI) else "count")
        edges.append(Edge(end, name))
    own = verified(Network(nodes, tuple(edges), {}))
    moved = any(isinstance(node, Linear) for node in nodes.values()) and len(last.shape) == 2
    return Segment(source, end, _with_tokens_last(own) if moved else own, factor, offset, moved)


def _begun(
    network: Network, source: str, into: list[Edge], nodes: dict[str, Node], edges: list[Edge]
) -> tuple[dict[str, Node], list[Edge]]:
    """With the Input in place of what leads into the segment."""
    node = network.nodes[source]
    if isinstance(node, Input):
        return {source: node, **nodes}, [*into, *edges]
    assert isinstance(node, MultiThreshold)
    payloads, factor = whole(node)
    signed = node.signed or bool((payloads < 0).any())
    entry = Input(shape=infer_shapes(network)[source], time_steps=network.input.time_steps, dt=network.input.dt,
                  coding="signed" if signed else "spikes", max_payload=int(np.abs(payloads).max()))
    scale = f"{source}.amplitude"
    return {source: entry, scale: Scale(scale=real(node.amplitude * factor)), **nodes}, [
        Edge(source, scale), *(Edge(scale, e.target) for e in into), *edges]


def _with_tokens_last(network: Network) -> Network:
    """A network on frames [tokens, d] as the same on frames [d, tokens].

    Raises:
        UnsupportedError: D2E-HOST-007 where it has more than dense layers, factors and neurons.
    """
    return verified(network.map(_moved))


def _moved(name: str, node: Node) -> Node:
    if isinstance(node, (Input, Output)):
        return replace(node, shape=node.shape[::-1])
    if isinstance(node, Linear):
        bias = node.bias if isinstance(node, Affine) else None
        return Conv1d(weight=node.weight[:, :, None], bias=bias, metadata=node.metadata)
    if isinstance(node, (Scale, Neuron)):
        levels = ("levels", "payloads", "reset_by") if isinstance(node, MultiThreshold) else ()
        arrays = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in levels}
        turned = {k: _turned(v) for k, v in arrays.items() if isinstance(v, np.ndarray) and v.ndim}
        shape = {"shape": node.shape[::-1]} if isinstance(node, Neuron) else {}
        changed: Node = replace(node, **turned, **shape)  # type: ignore[arg-type]
        return changed
    raise UnsupportedError("D2E-HOST-007", f"is a {node.kind} on tokens, of which the chip takes dense layers and neurons",
                           node=name, hint="Reorder tokens on the host (permute) before it.")


def _turned(values: Array) -> Array:
    """A parameter that broadcasts against [tokens, d] as one that does against [d, tokens]."""
    return values.reshape((1,) * (2 - values.ndim) + values.shape).swapaxes(0, 1)


def whole(node: MultiThreshold) -> tuple[Array, float]:
    """The payloads of a population as integers without a common divisor, and what it was.

    Raises:
        UnsupportedError: D2E-HOST-006 where they are no integers.
    """
    payloads = node.levels if node.payloads is None else node.payloads
    integers = np.rint(payloads).astype(np.int64)
    if (integers != payloads).any() or not integers.any():
        raise UnsupportedError("D2E-HOST-006", "its payloads are no integers, which is what passes between host and chip",
                               hint="Give it whole payloads; an amplitude says what one of them stands for.")
    divisor = gcd(*integers.tolist())
    return integers // divisor, float(divisor)


def _plain(node: Neuron) -> tuple[Neuron, Array, Array]:
    """A population that sends integers, what one of them stands for, and what the host adds."""
    none = np.zeros(())
    if isinstance(node, LI):
        if np.any(node.decay_mem) or (node.has_synaptic_state and np.any(node.decay_syn)):
            return node, np.ones(()), none
        return replace(node, bias=real(0.0)), np.ones(()), np.asarray(node.bias)
    if isinstance(node, MultiThreshold):
        payloads, factor = whole(node)
        return replace(node, payloads=real(payloads), amplitude=real(1.0)), np.asarray(node.amplitude * factor), none
    return replace(node, amplitude=real(1.0)), np.asarray(node.amplitude), none

"""The graph of a `.nir` file of another tool: subgraphs dissolved, batch axes dropped, cycles closed, shapes settled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from d2e.ir.errors import UnsupportedError, UsageError
from d2e.ir.network import Edge, Network
from d2e.ir.nodes import Array, Input, Neuron, Node, Output, Scale, Shape
from d2e.ir.shapes import output_shape

Tree = dict[str, Any]
Edges = list[tuple[str, str]]
MAX_SIZE = 1 << 31
_MAX_DEPTH = 32
_RANKS = {"Conv1d": 2, "Conv2d": 3, "SumPool2d": 3, "AvgPool2d": 3}
_NEURONS = ("IF", "LI", "LIF", "CubaLI", "CubaLIF")
_KEEP_RANK = ("Linear", "Affine", "Scale", "Delay", *_NEURONS)


def malformed(message: str, node: str | None = None) -> UsageError:
    """D2E-NIR-003, for what is no NIR graph."""
    return UsageError("D2E-NIR-003", message, node=node, hint="Export the network again.")


def flattened(tree: Any, depth: int = 0) -> tuple[dict[str, Tree], Edges]:
    """Nodes and edges of a NIR graph, subgraphs dissolved: node x of subgraph s is named s.x.

    Raises:
        UsageError: D2E-NIR-003 where the dictionaries are no NIR graph.
    """
    if not _is_graph(tree):
        raise malformed("the file holds no NIR graph")
    if depth > _MAX_DEPTH:
        raise malformed(f"its graphs nest deeper than {_MAX_DEPTH}")
    nodes: dict[str, Tree] = {}
    edges = [(_text(a), _text(b)) for a, b in _pairs(tree.get("edges", ()))]
    for name, node in tree["nodes"].items():
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            raise malformed("has no type", name)
        if node["type"] != "NIRGraph":
            _add(nodes, name, node)
            continue
        inner, inner_edges = flattened(node, depth + 1)
        ends = {kind: [n for n in inner if inner[n]["type"] == kind] for kind in ("Input", "Output")}
        if len(ends["Input"]) != 1 or len(ends["Output"]) != 1:
            raise malformed("a subgraph needs exactly one Input and one Output", name)
        enter, leave = f"{name}.{ends['Input'][0]}", f"{name}.{ends['Output'][0]}"
        for n, t in inner.items():
            _add(nodes, f"{name}.{n}", t)
        edges = [(leave if a == name else a, enter if b == name else b) for a, b in edges]
        edges += [(f"{name}.{a}", f"{name}.{b}") for a, b in inner_edges]
        for end in (enter, leave):
            edges = _bypassed(end, edges)
            del nodes[end]
    for edge in edges:
        for end in edge:
            if end not in nodes:
                raise malformed(f"edge {edge[0]} -> {edge[1]} names no node {end!r}", end)
    return nodes, edges


def _is_graph(tree: Any) -> bool:
    return isinstance(tree, dict) and tree.get("type") == "NIRGraph" and isinstance(tree.get("nodes"), dict)


def _add(nodes: dict[str, Tree], name: str, node: Tree) -> None:
    if name in nodes:
        raise malformed("two nodes have this name once the subgraphs are dissolved", name)
    nodes[name] = node


def _bypassed(name: str, edges: Edges) -> Edges:
    joined = [(a, d) for a, b in edges if b == name for c, d in edges if c == name]
    return [e for e in edges if name not in e] + joined


def _pairs(edges: Any) -> list[tuple[Any, Any]]:
    try:
        return [(a, b) for a, b in edges]
    except (TypeError, ValueError):
        raise malformed("its edges are not pairs of names") from None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def one_end_each(trees: Mapping[str, Tree]) -> None:
    """Raise D2E-NET-002 with the names where a file has several inputs or outputs, or none."""
    for kind in ("Input", "Output"):
        names = [name for name, tree in trees.items() if tree["type"] == kind]
        if len(names) != 1:
            raise UnsupportedError(
                "D2E-NET-002", f"the file has {len(names)} {kind} nodes and needs exactly one",
                hint=f"Export the network with one {kind}." + (f" Found: {', '.join(sorted(names))}." if names else ""),
            )


def batch_axes(trees: Mapping[str, Tree], edges: Edges) -> int:
    """How many axes of the Input are not the frame's: tools that trace a sample keep its batch (and time) axes.

    The frame's rank is that of the first convolution or pooling, of the first Flatten's input or of the first neuron
    with parameters per neuron that the Input reaches through nodes that keep it.
    """
    start = next((name for name, tree in trees.items() if tree["type"] == "Input"), None)
    if start is None:
        return 0
    rank, seen, front = np.size(trees[start].get("shape", ())), {start}, [start]
    while front:
        front = [b for a, b in edges if a in front and b not in seen]
        seen.update(front)
        for name in front:
            expected = _rank(trees[name])
            if expected is not None:
                return max(0, rank - expected)
        front = [name for name in front if trees[name]["type"] in _KEEP_RANK]
    return 0


def _rank(tree: Tree) -> int | None:
    """The rank of the frames a node takes, where its fields say so."""
    kind = tree["type"]
    if kind == "Flatten" and "input_type" in tree:
        return int(np.size(tree["input_type"]))
    per_neuron = np.shape(tree.get("r", ())) if kind in _NEURONS else ()
    return _RANKS.get(kind, len(per_neuron) or None)


def close_cycles(nodes: Mapping[str, Node], edges: Edges) -> tuple[Edge, ...]:
    """The edges, those marked recurrent that close a cycle: one step of delay each.

    A depth-first search from the Input finds the edge that closes a cycle; where a chain of single edges leads from a
    neuron to it, the edge out of the neuron is marked instead, so that a recurrent layer adds its bias at every step.
    """
    closing = {_out_of_neuron(edge, nodes, edges) for edge in _back_edges(nodes, edges)}
    return tuple(Edge(a, b, (a, b) in closing) for a, b in edges)


def _out_of_neuron(edge: tuple[str, str], nodes: Mapping[str, Node], edges: Edges) -> tuple[str, str]:
    source, seen = edge, {edge[1]}
    while not isinstance(nodes[source[0]], Neuron):
        into = [e for e in edges if e[1] == source[0]]
        if len(into) != 1 or sum(e[0] == source[0] for e in edges) != 1 or source[0] in seen:
            return edge
        seen.add(source[0])
        source = into[0]
    return source


def _back_edges(nodes: Mapping[str, Node], edges: Edges) -> set[tuple[str, str]]:
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        after[source].append(target)
    open_, done, closing = set[str](), set[str](), set[tuple[str, str]]()
    for root in sorted(nodes, key=lambda name: not isinstance(nodes[name], Input)):
        if root in done:
            continue
        open_.add(root)
        stack = [(root, iter(after[root]))]
        while stack:
            name, rest = stack[-1]
            target = next(rest, "")
            if not target:
                stack.pop()
                open_.discard(name)
                done.add(name)
            elif target in open_:
                closing.add((name, target))
            elif target not in done:
                open_.add(target)
                stack.append((target, iter(after[target])))
    return closing


def settle_shapes(network: Network, names: set[str]) -> Network:
    """The network with the shapes of these neurons and outputs taken from what reaches them.

    Files state shapes by parameters that may be scalar or per channel, and outputs by inference that may be
    wrong.

    Raises:
        UsageError: D2E-NIR-006 where a shape is beyond all bounds.
    """
    shapes: dict[str, Shape] = {}
    changed: dict[str, Node] = {}
    for name in network.order:
        node = network.nodes[name]
        arriving = next((shapes[e.source] for e in network.incoming[name] if e.source in shapes), None)
        if name in names and arriving is not None:
            node = changed[name] = _shaped(node, arriving)
        if arriving is not None:
            shapes[name] = output_shape(name, node, arriving)
        elif isinstance(node, (Input, Neuron)):
            shapes[name] = node.shape
        if math.prod(shapes.get(name, ())) > MAX_SIZE:
            raise UsageError("D2E-NIR-006", f"shape {shapes[name]} is beyond all bounds", node=name, hint="Is it wrong?")
    return network.with_nodes(changed)


def _shaped(node: Node, frame: Shape) -> Node:
    """A node of a file with the shape of the frames that reach it, parameters per channel along the first axes."""
    if isinstance(node, Scale):
        return replace(node, scale=_by_channel(node.scale, frame))
    if isinstance(node, Output):
        return replace(node, shape=frame)
    if not isinstance(node, Neuron):
        return node
    changes: dict[str, Any] = {}
    for f in fields(node):
        value = getattr(node, f.name)
        if isinstance(value, np.ndarray):
            changes[f.name] = _by_channel(value, frame)
    if node.continuous is not None:
        held = {f.name: getattr(node.continuous, f.name) for f in fields(node.continuous)}
        times: dict[str, Any] = {k: _by_channel(v, frame) for k, v in held.items() if isinstance(v, np.ndarray)}
        changes["continuous"] = replace(node.continuous, **times)
    return replace(node, shape=frame, **changes)


def _by_channel(value: Array, frame: Shape) -> Array:
    """Parameters of the shape of a frame's first axes, so that they broadcast along the others."""
    if 0 < value.ndim < len(frame) and value.shape == frame[: value.ndim]:
        return value.reshape(*value.shape, *([1] * (len(frame) - value.ndim)))
    return value

"""The graph of a `.nir` file of another tool: subgraphs dissolved, cycles closed, shapes settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from d2e.ir.errors import UsageError
from d2e.ir.network import Edge, Network
from d2e.ir.nodes import Input, Neuron, Node, Output, Shape
from d2e.ir.shapes import output_shape

Tree = dict[str, Any]
_MAX_DEPTH = 32


def malformed(message: str, node: str | None = None) -> UsageError:
    """D2E-NIR-003, for what is no NIR graph."""
    return UsageError("D2E-NIR-003", message, node=node, hint="Export the network again.")


def flattened(tree: Any, depth: int = 0) -> tuple[dict[str, Tree], list[tuple[str, str]]]:
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


def _bypassed(name: str, edges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    joined = [(a, d) for a, b in edges if b == name for c, d in edges if c == name]
    return [e for e in edges if name not in e] + joined


def _pairs(edges: Any) -> list[tuple[Any, Any]]:
    try:
        return [(a, b) for a, b in edges]
    except (TypeError, ValueError):
        raise malformed("its edges are not pairs of names") from None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def close_cycles(nodes: Mapping[str, Node], edges: list[tuple[str, str]]) -> tuple[Edge, ...]:
    """The edges, those marked recurrent that a depth-first search from the Input finds to close a cycle."""
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
    return tuple(Edge(a, b, (a, b) in closing) for a, b in edges)


def settle_shapes(network: Network, names: set[str]) -> Network:
    """The network with the shapes of these neurons and outputs taken from what reaches them.

    Files state shapes by parameters that may be scalar or per channel, and outputs by inference that may be
    wrong.
    """
    shapes: dict[str, Shape] = {}
    changed: dict[str, Node] = {}
    for name in network.order:
        node = network.nodes[name]
        arriving = next((shapes[e.source] for e in network.incoming[name] if e.source in shapes), None)
        if name in names and isinstance(node, (Neuron, Output)) and arriving is not None:
            node = changed[name] = replace(node, shape=arriving)
        if arriving is not None:
            shapes[name] = output_shape(name, node, arriving)
        elif isinstance(node, (Input, Neuron)):
            shapes[name] = node.shape
    return network.with_nodes(changed)

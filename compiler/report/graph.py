"""A network as boxes and arrows: what `d2e inspect --graph` draws, as plain data.

Boxes are the input, populations, what runs on the host and the output; arrows are chains of synapses. Replicas of one
population are one box, and the always-on neurons that carry a bias are told on the box that they serve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from d2e.compiler import cost
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.paths import Path, paths_from, paths_into
from d2e.compiler.replicas import replicas
from d2e.ir import Conv1d, Conv2d, Delay, Flatten, Linear, Network, Neuron, Scale, Synapse, infer_shapes
from d2e.ir.nodes import Node, Shape


def graph(network: Network) -> dict[str, Any]:
    """``nodes``: name, kind, shape, neurons, and where they are known forms and cores; ``edges``: from, to, what, synapses.

    Args:
        network: verified, of any stage.
    """
    shapes, own = infer_shapes(network), replicas(network)
    of = {part: name for name, parts in own.items() for part in parts}
    helpers = {name for name in network.populations if network.neuron(name).metadata.get(HELPER)}
    nodes = []
    for name in network.order:
        node = network.nodes[name]
        if isinstance(node, Synapse) or name in helpers or (name in of and own[of[name]][0] != name):
            continue
        nodes.append(_box(network, of.get(name, name), node, shapes[name], own.get(of.get(name, ""), [name]), helpers))
    edges: dict[tuple[str, str, str, bool], int | None] = {}
    for name in network.order:
        if isinstance(network.nodes[name], Synapse) or name in helpers:
            continue
        for path in paths_from(network, name):
            ends = (of.get(path.source, path.source), of.get(path.target, path.target))
            key = (*ends, _words([network.nodes[s] for s in path.synapses]), bool(path.recurrent))
            count = _synapses(network, path, shapes[name])
            known = edges.get(key, 0)
            edges[key] = None if count is None or known is None else known + count
    return {"nodes": nodes, "edges": [
        {"from": a, "to": b, "what": what, **({"synapses": count} if count else {}), **({"recurrent": True} if back else {})}
        for (a, b, what, back), count in edges.items()
    ]}


def graphs(network: Network, stages: Sequence[tuple[str, Network]]) -> dict[str, Any]:
    """report["graph"]: ``source``, once its chains of synapses are plain, and ``mapped``, what was made of it."""
    table = dict(stages)
    source = table.get("canonicalise", table.get("source"))
    return {} if source is None else {"source": graph(source), "mapped": graph(network)}


def _box(
    network: Network, name: str, node: Node, shape: Shape, parts: Sequence[str], helpers: set[str]
) -> dict[str, Any]:
    box: dict[str, Any] = {"name": name, "kind": node.kind, "shape": list(shape)}
    if not isinstance(node, Neuron):
        return box
    box["neurons"] = math.prod(shape) * len(parts)
    form = network.metadata.get("forms", {}).get(name, {}).get("form")
    if form:
        box["form"] = form if len(parts) == 1 else f"{len(parts)} {form}"
    serving = sorted({p.source for part in parts for p in paths_into(network, part) if p.source in helpers})
    if serving:
        box["always_on"] = len(serving)
    placed = network.metadata.get("placement", {}).get("populations", {})
    on = [placed[part]["cores"] for part in [*parts, *serving] if part in placed]
    if on:
        box["cores"] = sum(on)
    return box


def _words(nodes: Sequence[Node]) -> str:
    """A chain of synapses in a few words, in order."""
    parts = []
    for node in nodes:
        if isinstance(node, (Conv1d, Conv2d)):
            stride = max(node.stride)
            grouped = "" if node.groups == 1 else "depthwise " if node.weight.shape[1] == 1 else "grouped "
            parts.append(f"{grouped}conv {_times(node.weight.shape[2:])}{f' stride {stride}' if stride > 1 else ''}")
        elif isinstance(node, Linear):
            parts.append("dense")
        elif isinstance(node, Delay):
            parts.append(f"delay {node.steps}")
        elif isinstance(node, Scale):
            parts.append("one to one")
        elif not isinstance(node, Flatten):
            parts.append(f"pool {_times(getattr(node, 'kernel_size', ()))}")
    return ", ".join(parts)


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _synapses(network: Network, path: Path, shape: Shape) -> int | None:
    """How many connections a chain makes; None where several linear maps stand in it, as they may before the passes."""
    nodes = [node for s in path.synapses if isinstance(node := network.nodes[s], Synapse)]
    if sum(isinstance(node, (Conv1d, Conv2d, Linear)) for node in nodes) > 1:
        return None
    return cost.connections(nodes, shape) if nodes else None

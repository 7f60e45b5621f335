"""Models over time that show one image at every step: ``x.unsqueeze(0).expand(T, …)`` or ``.repeat(T, 1, …)`` first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from d2e.compiler.frontends.modules import is_stateful


def shown(graph: fx.Graph, root: nn.Module) -> int | None:
    """For how many steps a model shows its image; the graph then begins behind it. None: it takes frames over time."""
    for node in graph.nodes:
        steps = _times(node)
        if steps is None or not all(_of_one_frame(given, root) for given in _before(node.args[0])):
            continue
        one = node.args[0]
        node.replace_all_uses_with(one.args[0])
        graph.erase_node(node)
        graph.erase_node(one)
        return steps
    return None


def _times(node: fx.Node) -> int | None:
    """The number of copies along a new first axis."""
    one = node.args[0] if node.args else None
    if node.target not in ("expand", "repeat") or not isinstance(one, fx.Node) or len(one.users) != 1:
        return None
    axis: Any = one.args[1:] or (one.kwargs.get("dim"),)
    if one.target not in ("unsqueeze", torch.unsqueeze) or tuple(axis) != (0,):
        return None
    sizes = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
    kept = all(isinstance(n, fx.Node) or n == -1 if node.target == "expand" else n == 1 for n in sizes[1:])
    return sizes[0] if kept and isinstance(sizes[0], int) and sizes[0] > 0 else None


def _before(node: fx.Node) -> Iterator[fx.Node]:
    for given in node.all_input_nodes:
        yield given
        yield from _before(given)


def _of_one_frame(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node does the same in every step: the image, or a layer of torch without a state."""
    if node.op != "call_module":
        return node.op == "placeholder"
    module = root.get_submodule(str(node.target))
    return not is_stateful(module) and not isinstance(module, nn.Flatten)

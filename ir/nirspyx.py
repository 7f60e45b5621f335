"""What Spyx 1.0.0 writes otherwise than it computes, put right in the nodes of its files before they are read.

Its neurons send the spikes of the step before; a recurrent layer's input is wired into the recurrent weights; frames are
[height, width, channels] inside, so that the weights after a Flatten stand in that order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from d2e.ir.errors import UnsupportedError
from d2e.ir.nirforeign import SPIKING
from d2e.ir.nirgraph import Edges, Tree
from d2e.ir.nirprofile import Choices


def adapted(trees: Mapping[str, Tree], edges: Edges, choices: Choices) -> tuple[dict[str, Tree], Edges]:
    """The nodes and edges as Spyx computes them.

    Raises:
        UnsupportedError: D2E-NIR-004 for a pooling whose padding the file does not determine.
    """
    found = dict(trees)
    loops = {(n, w) for n, w in edges if (w, n) in edges and _is(trees, n, *SPIKING) and _is(trees, w, "Linear", "Affine")}
    back = {w: n for n, w in loops}
    edges = [(a, back[b]) if b in back and (a, b) not in loops else (a, b) for a, b in edges]
    for name, tree in trees.items():
        if tree["type"] == "SumPool2d" and np.any(tree["padding"]):
            raise UnsupportedError(
                "D2E-NIR-004", "Spyx writes the total padding of a pooling, not where it is", node=name,
                hint="Pool with padding='VALID'.",
            )
        if tree["type"] == "Flatten" and np.size(tree.get("input_type", ())) == 3:
            for target in (b for a, b in edges if a == name and _is(trees, b, "Linear", "Affine")):
                found[target] = {**trees[target], "weight": _channels_first(trees[target]["weight"], tree["input_type"])}
    if choices.options["delay"] == "1":
        edges = _delayed(found, edges, loops, float(choices.get("unit")))
    return found, edges


def _is(trees: Mapping[str, Tree], name: str, *kinds: str) -> bool:
    return trees[name]["type"] in kinds


def _channels_first(weight: np.ndarray, frame: np.ndarray) -> np.ndarray:
    channels, height, width = (int(n) for n in frame)
    ordered = np.asarray(weight).reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return ordered.reshape(ordered.shape[0], -1)


def _delayed(found: dict[str, Tree], edges: Edges, loops: set[tuple[str, str]], unit: float) -> Edges:
    """The edges, with a delay of one step between layers; recurrent edges have it already, the output needs none."""
    waiting = [e for e in edges if _is(found, e[0], *SPIKING) and e not in loops and not _is(found, e[1], "Output")]
    late = {a: f"{a}.delay" for a, _ in waiting}
    found.update({name: {"type": "Delay", "delay": np.full(1, unit)} for name in late.values()})
    return [(late[e[0]], e[1]) if e in waiting else e for e in edges] + list(late.items())

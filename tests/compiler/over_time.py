"""Networks of soft-reset neurons that show images for T steps; numbers are multiples of powers of two, so sums are exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from d2e.ir import (
    IF,
    LI,
    Affine,
    D2EError,
    Edge,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    reference,
    verified,
)

Draw = Callable[..., Any]
INPUTS, SAMPLES = 3, 5
RANGE = (-2.0, 3.0)
EYE = ("w", Linear(weight=np.eye(2)))


def dyadic(draw: Draw, shape: Sequence[int] | tuple[int, ...], low: float, high: float, unit: float = 0.25) -> np.ndarray:
    """Multiples of ``unit`` in low..high, from one drawn seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return rng.integers(round(low / unit), round(high / unit) + 1, shape) * unit


def neurons(draw: Draw, size: int) -> Neuron:
    """One population with soft reset."""
    one = draw(st.sampled_from([(), (size,)]))
    theta = dyadic(draw, one, 0.5, 2.0)
    common: dict[str, Any] = {
        "shape": (size,), "threshold": theta, "fire": draw(st.sampled_from(["ge", "gt"])),
        "bias": dyadic(draw, one, -0.25, 0.25, 0.125) * draw(st.integers(0, 1)),
        "gain": np.float64(draw(st.sampled_from([1.0, 1.0, 0.5, -1.0]))),
        "v_init": theta * draw(st.sampled_from([0.0, 0.5, 0.5, 1.0, -0.5, 1.5])),
        "amplitude": draw(st.sampled_from([np.float64(1.0), theta])),
    }
    phi = draw(st.integers(1, 3))
    if draw(st.booleans()):
        return IF(max_spikes=phi, **common)
    unit = draw(st.sampled_from([1.0, 0.5]))
    payloads = draw(st.sampled_from([None, 2.0 * np.arange(1, phi + 1)]))
    return MultiThreshold(levels=unit * np.arange(1, phi + 1), signed=draw(st.booleans()), payloads=payloads, **common)


def _weights(draw: Draw, out: int, into: int) -> Node:
    mild = draw(st.booleans())  # positive and small: drives that are proven to fit
    weight = dyadic(draw, (out, into), 0.0 if mild else -1.0, 0.125 if mild else 1.5, 0.125)
    if draw(st.booleans()):
        return Linear(weight=weight)
    return Affine(weight=weight, bias=dyadic(draw, (out,), 0.0, 0.25, 0.125))


@st.composite
def networks(draw: Draw) -> tuple[Network, np.ndarray]:
    """A network of one to three populations, with a skip from the input or between them, and images for it."""
    steps = draw(st.sampled_from([1, 2, 4, 8]))
    nodes: dict[str, Node] = {"input": Input(shape=(INPUTS,), coding="direct", time_steps=steps)}
    edges: list[Edge] = []
    last, size = "input", INPUTS
    for number in range(draw(st.integers(1, 3))):
        name, out = f"n{number}", draw(st.integers(1, 4))
        nodes[f"w{number}"], nodes[name] = _weights(draw, out, size), neurons(draw, out)
        edges += [Edge(last, f"w{number}"), Edge(f"w{number}", name)]
        if last != "input" and draw(st.integers(0, 3)) == 0:
            source = draw(st.sampled_from(["input", "n0"]))
            if source != last:
                nodes[f"skip{number}"] = _weights(draw, out, INPUTS if source == "input" else nodes["n0"].shape[0])  # type: ignore[attr-defined]
                edges += [Edge(source, f"skip{number}"), Edge(f"skip{number}", name)]
        last, size = name, out
    if draw(st.booleans()):
        nodes["w"] = _weights(draw, 2, size)
        nodes["readout"] = LI(shape=(2,), bias=dyadic(draw, (2,), -1, 1), v_init=np.float64(draw(st.sampled_from([0, 0.5]))))
        edges += [Edge(last, "w"), Edge("w", "readout"), Edge("readout", "output")]
        nodes["output"] = Output(shape=(2,), readout="last")
    else:
        edges.append(Edge(last, "output"))
        nodes["output"] = Output(shape=(size,), readout=draw(st.sampled_from(["count", "mean"])))
    images = dyadic(draw, (SAMPLES, INPUTS), *RANGE, 0.5)
    return verified(Network(nodes, tuple(edges))), images


def line(*nodes: tuple[str, Node], steps: int = 4, readout: Any = "count", size: int = 2) -> Network:
    """Nodes one after the other, between an input of images and an output."""
    both = [("input", Input(shape=(size,), coding="direct", time_steps=steps)), *nodes]
    both.append(("output", Output(shape=nodes[-1][1].shape, readout=readout)))  # type: ignore[attr-defined]
    names = [name for name, _ in both]
    return Network(dict(both), tuple(Edge(a, b) for a, b in itertools.pairwise(names)))


def signed_counts(network: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    trace = reference.run(network, images, "spikes")
    return {name: n.sum(axis=1) for name, n in trace.spikes.items()}


def same_nodes(a: Network, b: Network) -> bool:
    return sorted(a.edges) == sorted(b.edges) and a.nodes.keys() == b.nodes.keys() and all(
        node.same(b.nodes[name]) for name, node in a.nodes.items())


def fault(call: Any) -> D2EError:
    with pytest.raises(D2EError) as caught:
        call()
    assert caught.value.hint
    assert caught.value.node or caught.value.exit_code == 2
    return caught.value

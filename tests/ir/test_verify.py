"""The verifier finds each defect, under its code, and nothing in valid networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from tests.ir.strategies import integer_networks, networks

from d2e.ir import (
    IF,
    LIF,
    Affine,
    Conv2d,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Output,
    Quantized,
    SumPool2d,
    UnsupportedError,
    chain,
    verified,
    verify,
)

GOOD = chain([
    ("in", Input(shape=(3,))), ("fc", Linear(weight=np.ones((2, 3)))), ("n", LIF(shape=(2,), decay_mem=0.5)),
    ("out", Output(shape=(2,))),
])


def codes(network: Network) -> set[str]:
    return {finding.code for finding in verify(network)}


def with_neuron(**options) -> Network:
    return GOOD.with_nodes({"n": LIF(shape=(2,), **options)})


def with_image(node) -> Network:
    return chain([("in", Input(shape=(2, 5, 5))), ("x", node), ("out", Output(shape=(2, 5, 5)))])


@given(network=networks())
def test_random_networks_are_clean(network):
    assert verify(network) == []


@given(network=integer_networks())
def test_random_integer_networks_are_clean(network):
    assert verify(network) == []


INTEGERS = {
    "arithmetic": FixedPoint(), "threshold": np.int64(5), "gain": np.int64(1), "decay_mem": np.int64(4096),
    "bias": np.int64(0), "v_init": np.int64(0), "v_reset": np.int64(0), "amplitude": np.int64(1),
}


def quantised(weight: np.ndarray, bits: int, signed: bool = True) -> Network:
    return GOOD.with_nodes({"fc": Linear(weight=weight, quantized=Quantized(bits, np.float64(1.0), signed))})


DEFECTS = {
    "edge to nowhere": (replace(GOOD, edges=(*GOOD.edges, Edge("n", "ghost"))), "D2E-NET-001"),
    "no input": (Network({"out": Output(shape=(2,))}, ()), "D2E-NET-002"),
    "two outputs": (
        replace(GOOD.with_nodes({"b": Output(shape=(2,))}), edges=(*GOOD.edges, Edge("n", "b"))),
        "D2E-NET-002",
    ),
    "edge twice": (replace(GOOD, edges=(*GOOD.edges, GOOD.edges[0])), "D2E-NET-003"),
    "cycle": (replace(GOOD, edges=(*GOOD.edges, Edge("n", "n"))), "D2E-NET-004"),
    "name with slash": (chain([("a/b", Input(shape=(2,))), ("out", Output(shape=(2,)))]), "D2E-NET-005"),
    "name of two lines": (chain([("a\nb", Input(shape=(2,))), ("out", Output(shape=(2,)))]), "D2E-NET-005"),
    "empty name": (chain([("", Input(shape=(2,))), ("out", Output(shape=(2,)))]), "D2E-NET-005"),
    "dead end": (
        replace(GOOD.with_nodes({"m": IF(shape=(2,))}), edges=(*GOOD.edges, Edge("fc", "m"))), "D2E-NET-006",
    ),
    "synapse without input": (
        replace(GOOD.with_nodes({"w": Linear(weight=np.eye(2))}), edges=(*GOOD.edges, Edge("w", "n"))),
        "D2E-SHAPE-002",
    ),
    "shapes": (GOOD.with_nodes({"fc": Linear(weight=np.ones((2, 4)))}), "D2E-SHAPE-001"),
    "fan-in of two shapes": (replace(GOOD, edges=(*GOOD.edges, Edge("in", "n"))), "D2E-SHAPE-001"),
    "recurrent edge of another shape": (
        replace(
            GOOD.with_nodes({"w": Linear(weight=np.ones((3, 2)))}),
            edges=(*GOOD.edges, Edge("n", "w"), Edge("w", "n", True)),
        ), "D2E-SHAPE-001",
    ),
    "loop through a synapse of unknown shape": (
        replace(
            GOOD.with_nodes({"v": Linear(weight=np.eye(2)), "w": Linear(weight=np.eye(2))}),
            edges=(*GOOD.edges, Edge("n", "v"), Edge("v", "w", True), Edge("w", "n")),
        ), "D2E-SHAPE-003",
    ),
    "text weights": (GOOD.with_nodes({"fc": Linear(weight=np.array([["a"] * 3] * 2))}), "D2E-NODE-001"),
    "NaN": (GOOD.with_nodes({"fc": Linear(weight=np.full((2, 3), np.nan))}), "D2E-NODE-002"),
    "infinity": (with_neuron(threshold=np.inf), "D2E-NODE-002"),
    "threshold": (with_neuron(threshold=np.array([1.0, 0.0])), "D2E-NODE-003"),
    "reset": (with_neuron(reset="soft"), "D2E-NODE-003"),
    "reset_when": (with_neuron(reset_when="later"), "D2E-NODE-003"),
    "fire": (with_neuron(fire=">"), "D2E-NODE-003"),
    "max_spikes": (with_neuron(max_spikes=-1), "D2E-NODE-003"),
    "decay above 1": (with_neuron(decay_mem=1.5), "D2E-NODE-003"),
    "negative decay": (GOOD.with_nodes({"n": CubaLIF(shape=(2,), decay_syn=-0.1)}), "D2E-NODE-003"),
    "parameter shape": (with_neuron(bias=np.zeros(3)), "D2E-NODE-003"),
    "levels that fall": (
        GOOD.with_nodes({"n": MultiThreshold(shape=(2,), levels=np.array([2.0, 1.0]))}), "D2E-NODE-003",
    ),
    "levels that start at 0": (
        GOOD.with_nodes({"n": MultiThreshold(shape=(2,), levels=np.array([0.0, 1.0]))}), "D2E-NODE-003",
    ),
    "payloads": (
        GOOD.with_nodes({"n": MultiThreshold(shape=(2,), levels=np.ones(1), payloads=np.ones(2))}),
        "D2E-NODE-003",
    ),
    "bias shape": (GOOD.with_nodes({"fc": Affine(weight=np.ones((2, 3)), bias=np.zeros(3))}), "D2E-NODE-003"),
    "weight axes": (GOOD.with_nodes({"fc": Linear(weight=np.ones((2, 2, 3)))}), "D2E-NODE-003"),
    "stride 0": (with_image(Conv2d(weight=np.ones((2, 2, 1, 1)), stride=(0, 1))), "D2E-NODE-003"),
    "one stride for two axes": (
        with_image(Conv2d(weight=np.ones((2, 2, 1, 1)), stride=(1,))), "D2E-NODE-003",
    ),
    "no groups": (with_image(Conv2d(weight=np.ones((2, 2, 1, 1)), groups=0)), "D2E-NODE-003"),
    "kernel axes": (with_image(Conv2d(weight=np.ones((2, 2, 1)))), "D2E-NODE-003"),
    "padding": (with_image(Conv2d(weight=np.ones((2, 2, 1, 1)), padding="valid")), "D2E-NODE-003"),
    "pool stride 0": (with_image(SumPool2d(kernel_size=(1, 1), stride=(1, 0))), "D2E-NODE-003"),
    "negative delay": (with_image(Delay(steps=-1)), "D2E-NODE-003"),
    "shape with 0": (chain([("in", Input(shape=(0,))), ("out", Output(shape=(0,)))]), "D2E-NODE-003"),
    "no payload": (
        chain([("in", Input(shape=(1,), max_payload=0)), ("out", Output(shape=(1,)))]), "D2E-NODE-003",
    ),
    "float weights marked quantised": (quantised(np.ones((2, 3)), 8), "D2E-NODE-004"),
    "weights off the grid": (quantised(np.full((2, 3), 8), 4), "D2E-NODE-004"),
    "negative on an unsigned grid": (quantised(np.full((2, 3), -1), 8, signed=False), "D2E-NODE-004"),
    "half a threshold": (with_neuron(**INTEGERS | {"threshold": 2.5}), "D2E-NODE-005"),
    "gain in integers": (with_neuron(**INTEGERS | {"gain": np.int64(2)}), "D2E-NODE-005"),
    "integer decay": (with_neuron(**INTEGERS | {"decay_mem": np.int64(4097)}), "D2E-NODE-003"),
    "threshold 0 with bursts": (
        with_neuron(**INTEGERS | {"threshold": np.int64(0), "fire": "gt", "max_spikes": 2}), "D2E-NODE-003",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_found(name):
    network, code = DEFECTS[name]
    assert code in codes(network)
    with pytest.raises(UnsupportedError):
        verified(network)


def test_the_networks_the_defects_are_made_of_are_clean():
    assert verify(GOOD) == []
    assert verify(with_neuron(**INTEGERS)) == []
    assert verify(with_neuron(**INTEGERS | {"threshold": np.int64(0), "fire": "gt"})) == []
    assert verify(quantised(np.full((2, 3), 7), 4)) == []
    assert verify(with_image(Conv2d(weight=np.ones((2, 2, 1, 1))))) == []


def test_all_findings_are_reported_at_once():
    network = with_neuron(fire=">", reset="soft", max_spikes=-1)
    with pytest.raises(UnsupportedError) as caught:
        verified(network)
    assert caught.value.node == "n"
    for part in ("fire", "reset 'soft'", "max_spikes"):
        assert part in caught.value.message

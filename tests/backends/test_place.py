"""place counts cores by the scarcest resource, and says what does not fit and where."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import d2e
from d2e.ir import IF, Conv2d, Input, Linear, Network, Neuron, Node, Output, Synapse, UnsupportedError
from d2e.ir.network import chain


def dense(inputs: int, outputs: int) -> Network:
    weight = np.random.default_rng(0).normal(0.1, 0.5, (outputs, inputs))
    return chain([
        ("input", Input(shape=(inputs,))), ("fc", Linear(weight=weight)), ("out", IF(shape=(outputs,), reset="zero")),
        ("output", Output(shape=(outputs,))),
    ])


def placement(network: Network, **options: Any) -> Any:
    return d2e.compile(network, **options).network.metadata["placement"]


def test_a_dense_layer_pays_sixteen_bits_a_synapse() -> None:
    row = placement(dense(1000, 100))["populations"]["out"]
    assert row == {"neurons": 100, "synapses": 100_000, "cores": 3, "words_per_core": math.ceil(25_000 / 3)}


def test_a_convolution_pays_its_kernel_once_per_core() -> None:
    kernel = np.random.default_rng(0).normal(0.1, 0.2, (16, 1, 3, 3))
    network = chain([
        ("input", Input(shape=(1, 26, 26))), ("conv", Conv2d(weight=kernel)),
        ("maps", IF(shape=(16, 24, 24), reset="zero")), ("output", Output(shape=(16, 24, 24))),
    ])
    table = placement(network)["populations"]
    assert table["maps"] == {"neurons": 9216, "synapses": 9216 * 9, "cores": 3, "words_per_core": 16 * 9 * 8 // 64}


def test_fit_is_used_and_limit() -> None:
    fit = placement(dense(1000, 100))["fit"]
    assert fit == {
        "cores": {"used": 3, "limit": 128}, "neurons_per_core": {"used": 34, "limit": 4096},
        "synaptic_words_per_core": {"used": 8334, "limit": 12000},
    }


def test_too_many_cores_are_a_warning_on_the_simulator_and_an_error_on_the_chip() -> None:
    program = d2e.compile(dense(1000, 100), target="loihi2-sim{cores=2}")
    (found,) = [w for w in program.report["warnings"] if w["code"] == "D2E-FIT-002"]
    assert found["message"].startswith("needs 3 cores, 2 are there; the largest layer takes 3")
    with pytest.raises(UnsupportedError) as caught:
        d2e.compile(dense(1000, 100), target="loihi2{cores=2}")
    assert (caught.value.code, caught.value.node, caught.value.exit_code) == ("D2E-FIT-002", "out", 3)


def maps(channels_in: int, channels: int, kernel: int, bias: float = 0.0) -> Network:
    weight = np.random.default_rng(0).normal(0, 0.05, (channels, channels_in, kernel, kernel))
    synapse: Synapse = Conv2d(weight=weight, bias=np.full(channels, bias), padding=(kernel // 2, kernel // 2))
    neuron: Neuron = IF(shape=(channels, 2, 2), reset="subtract" if bias else "zero")
    nodes: list[tuple[str, Node]] = [("input", Input(shape=(channels_in, 2, 2))), ("conv", synapse), ("maps", neuron)]
    return chain([*nodes, ("output", Output(shape=(channels, 2, 2)))])


def test_kernels_beyond_a_core_are_shared_out_by_channels() -> None:
    row = placement(maps(340, 340, 1))["populations"]["maps"]  # 14,450 words
    assert (row["cores"], row["words_per_core"]) == (2, 7225)


def test_a_bias_costs_a_synapse_for_every_neuron_not_a_kernel() -> None:
    rows = placement(maps(3, 8, 3, bias=0.2))["populations"]
    kernel, reset_and_bias = 8 * 3 * 9 * 8 // 64, 2 * 8 * 2 * 2 * 16 // 64
    assert rows["maps"]["words_per_core"] == kernel + reset_and_bias
    assert rows["maps.on"]["cores"] == 1


def test_a_channel_whose_kernels_exceed_a_core_is_told() -> None:
    assert placement(maps(3839, 1, 5))["populations"]["maps"]["cores"] == 1
    with pytest.raises(UnsupportedError) as caught:
        d2e.compile(maps(3840, 1, 5))
    assert (caught.value.code, caught.value.node) == ("D2E-FIT-001", "maps")
    assert caught.value.hint

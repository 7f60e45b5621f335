"""The text form: stable goldens, equal for equal networks, different where anything differs."""

from __future__ import annotations

import numpy as np
import pytest
from tests.ir.networks import random_integer_network, random_network

from d2e.ir import IF, Edge, Input, Linear, Network, Output, to_text


def golden_network() -> Network:
    return Network(
        {
            "in": Input(shape=(4,), dt=1e-3, coding="signed", max_payload=3),
            "fc": Linear(weight=np.arange(12, dtype=np.int8).reshape(3, 4)),
            "n": IF(shape=(3,), threshold=np.array([1.0, 2.0, 3.0]), reset="zero", max_spikes=0, v_min=-1.0),
            "rec": Linear(weight=np.eye(3)),
            "out": Output(shape=(3,), readout="last"),
        },
        (Edge("in", "fc"), Edge("fc", "n"), Edge("n", "rec"), Edge("rec", "n", True), Edge("n", "out")),
        {"stage": "example"},
    )


def test_golden_of_a_written_network(golden):
    golden("written.txt", to_text(golden_network()))


@pytest.mark.parametrize("seed", [0, 7, 20])
def test_every_node_is_one_line(seed):
    for maker in (random_network, random_integer_network):
        network, _ = maker(seed)
        lines = to_text(network).splitlines()
        assert len(lines) == len(network.nodes) + 1
        assert all(any(line.startswith(f"  %{name} = ") for line in lines) for name in network.nodes)


def test_a_changed_weight_changes_the_text():
    network = golden_network()
    weight = network.nodes["fc"].weight.copy()
    weight[1, 1] += 1
    assert to_text(network) != to_text(network.with_nodes({"fc": Linear(weight=weight)}))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16, np.float32])
def test_all_types_of_arrays_have_a_text(dtype):
    network = golden_network().with_nodes({"fc": Linear(weight=np.ones((3, 4), dtype))})
    assert np.dtype(dtype).name in to_text(network)

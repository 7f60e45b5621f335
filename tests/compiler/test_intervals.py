"""Intervals: what any neuron receives lies within them, in random networks of everything the IR has."""

from __future__ import annotations

import numpy as np
import pytest
from tests.ir.networks import random_frames, random_network

from d2e.compiler.intervals import drives
from d2e.ir import (
    IF,
    LI,
    Affine,
    AvgPool2d,
    Conv2d,
    Delay,
    Edge,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Output,
    Scale,
    chain,
    reference,
)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_every_drive_of_a_random_network_lies_within(first: int) -> None:
    finite = 0
    for seed in range(first, first + 50):
        network, _ = random_network(seed)
        frames = random_frames(network, seed, batch=4, steps=7)
        found = drives(network, (frames.min(axis=(0, 1)), frames.max(axis=(0, 1))))
        trace = reference.run(network, frames, "state")
        assert found.keys() == set(network.populations)
        for name, (low, high) in found.items():
            node = network.neuron(name)
            if node.has_synaptic_state and node.decays[0].any():
                continue
            x = node.gain * trace.u[name] + node.bias
            slack = 1e-9 * (1 + np.abs(x))
            assert (x >= low - slack).all(), (seed, name)
            assert (x <= high + slack).all(), (seed, name)
            finite += bool(np.isfinite(low).all() and np.isfinite(high).all())
    assert finite > 50


def network(*nodes: tuple[str, object]) -> Network:
    return chain([("input", Input(shape=(2,), coding="direct")), *nodes, ("output", Output(shape=nodes[-1][1].shape))])


def test_an_input_of_unknown_range_is_without_bounds_where_a_weight_reaches() -> None:
    affine = Affine(weight=np.array([[1.0, -1.0], [0.0, 0.0]]), bias=np.array([1.0, 3.0]))
    net = network(("w", affine), ("n", IF(shape=(2,))))
    low, high = drives(net)["n"]
    assert (low.tolist(), high.tolist()) == ([-np.inf, 3.0], [np.inf, 3.0])
    low, high = drives(net, (0.0, 2.0))["n"]
    assert (low.tolist(), high.tolist()) == ([-1.0, 3.0], [3.0, 3.0])
    low, high = drives(net, (np.array([0.0, 1.0]), np.array([2.0, 1.0])))["n"]
    assert (low.tolist(), high.tolist()) == ([0.0, 3.0], [2.0, 3.0])


def test_a_gain_below_zero_turns_a_range_around() -> None:
    net = network(("n", IF(shape=(2,), gain=np.array([-2.0, 0.0]), bias=np.float64(1.0))))
    low, high = drives(net, (-1.0, 3.0))["n"]
    assert (low.tolist(), high.tolist()) == ([-5.0, 1.0], [3.0, 1.0])
    assert drives(net)["n"][0].tolist() == [-np.inf, 1.0]


def test_payloads_are_those_of_each_channel() -> None:
    neuron = IF(shape=(2,), max_spikes=3, amplitude=np.array([0.5, -2.0]))
    net = network(("a", neuron), ("w", Linear(weight=np.array([[1.0, 1.0], [2.0, 0.0]]))), ("b", IF(shape=(2,))))
    low, high = drives(net)["b"]
    assert (low.tolist(), high.tolist()) == ([-6.0, 0.0], [1.5, 3.0])


def test_a_small_drive_fires_few_of_the_spikes_that_phi_allows() -> None:
    net = network(("a", IF(shape=(2,), max_spikes=0)), ("w", Linear(weight=np.eye(2))), ("b", IF(shape=(2,))))
    assert drives(net)["b"][1].tolist() == [np.inf, np.inf]
    assert drives(net, (-1.0, 2.5))["b"][1].tolist() == [3.0, 3.0]


def test_signed_levels_send_both_signs() -> None:
    node = MultiThreshold(shape=(2,), levels=np.array([1.0, 2.0]), signed=True)
    net = network(("a", node), ("w", Linear(weight=np.array([[1.0, 2.0]]))), ("b", IF(shape=(1,))))
    assert [bound.tolist() for bound in drives(net)["b"]] == [[-6.0], [6.0]]


def test_maps_of_all_kinds() -> None:
    rng = np.random.default_rng(0)
    net = chain([
        ("input", Input(shape=(2, 6, 6), coding="direct")), ("scale", Scale(scale=rng.normal(size=(2, 1, 1)))),
        ("conv", Conv2d(weight=rng.normal(size=(3, 2, 3, 3)), bias=rng.normal(size=3), padding=(1, 1))),
        ("pool", AvgPool2d(kernel_size=(2, 2), stride=(2, 2))), ("late", Delay(steps=1)), ("flat", Flatten()),
        ("n", IF(shape=(27,))), ("output", Output(shape=(27,))),
    ])
    frames = rng.uniform(-1, 2, (200, 3, 2, 6, 6))
    low, high = drives(net, (-1.0, 2.0))["n"]
    u = reference.run(net, frames, "state").u["n"]
    assert (u >= low).all()
    assert (u <= high).all()
    assert np.isinf(drives(net)["n"][0]).all()


def test_a_membrane_and_what_comes_back_are_without_bounds() -> None:
    net = network(("a", LI(shape=(2,))), ("w", Linear(weight=np.eye(2))), ("b", IF(shape=(2,))))
    assert np.isinf(drives(net, (0.0, 1.0))["b"]).all()
    loop = network(("a", IF(shape=(2,))))
    edges = (*loop.edges, Edge("a", "back"), Edge("back", "a", True))
    loop = Network({**loop.nodes, "back": Linear(weight=np.eye(2))}, edges)
    assert np.isinf(drives(loop, (0.0, 1.0))["a"]).all()


def test_a_population_that_receives_nothing_has_its_bias() -> None:
    net = Network({"input": Input(shape=(2,), coding="direct"), "n": IF(shape=(2,), bias=np.float64(0.5)),
                   "output": Output(shape=(2,))}, (Edge("n", "output"), Edge("input", "output")))
    assert [bound.tolist() for bound in drives(net)["n"]] == [[0.5, 0.5], [0.5, 0.5]]

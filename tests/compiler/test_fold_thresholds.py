"""fold_thresholds: afterwards one population has one threshold, gain 1 and amplitude 1, and fires the same spikes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from tests.ir.networks import random_network

from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.passes.base import folded
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.ir import (
    IF,
    LI,
    LIF,
    Conv1d,
    Conv2d,
    CubaLIF,
    D2EError,
    Edge,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    SumPool2d,
    UnsupportedError,
    reference,
)

STEPS = 30
CODES = {"D2E-CANON-001", "D2E-CANON-002", "D2E-FOLD-001", "D2E-FOLD-002", "D2E-FOLD-003"}


def fold(network: Network) -> Network:
    return run_passes([Canonicalise(), FoldThresholds()], network, TARGETS[0])[-1].network


def assert_same_spikes(before: Network, after: Network, frames: np.ndarray) -> None:
    assert folded(after) is None
    a, b = reference.run(before, frames, "spikes"), reference.run(after, frames, "spikes")
    for name in before.populations:
        np.testing.assert_array_equal(a.spikes[name], b.spikes[name], err_msg=name)


def check(seeds: range) -> int:
    compared = 0
    for seed in seeds:
        network, frames = random_network(seed)
        try:
            after = fold(network)
        except D2EError as error:
            if error.code not in CODES:
                raise
            continue
        assert_same_spikes(network, after, frames)
        compared += 1
    return compared


def test_random_networks_of_all_nodes_keep_their_spikes() -> None:
    assert check(range(150)) >= 50


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 250))
def test_many_random_networks_keep_their_spikes(start: int) -> None:
    assert check(range(start, start + 250)) >= 80


def rich(rng: np.random.Generator, cls: type[Neuron], shape: tuple[int, ...], last: bool) -> Neuron:
    """A neuron with everything that folds, one value per channel."""
    channels = (shape[0], *[1] * (len(shape) - 1))

    def value(low: float, high: float) -> np.ndarray:
        return np.asarray(rng.uniform(low, high, channels))

    soft = rng.random() < 0.5
    options: dict[str, Any] = {
        "threshold": value(0.4, 1.5), "gain": value(0.5, 1.5), "bias": value(-0.05, 0.1), "v_init": value(-0.3, 0.3),
        "amplitude": np.asarray(rng.uniform(0.5, 1.5)) if last else value(0.5, 1.5),
        "v_min": value(-2, -0.5) if rng.random() < 0.5 else None, "fire": str(rng.choice(["ge", "gt"])),
        "reset": "subtract" if soft else "value", "v_reset": value(-0.3, 0.2), "reset_by": value(0.3, 1.0) if soft else None,
        "max_spikes": int(rng.choice([1, 3, 0])) if soft else 1,
    }
    if issubclass(cls, LIF):
        options["decay_mem"] = value(0.3, 1)
    if cls is CubaLIF:
        options |= {"decay_syn": value(0, 0.8), "u_init": value(-0.2, 0.2)}
    return cls(shape=shape, **options)


@pytest.mark.parametrize("cls", [IF, LIF, CubaLIF])
@pytest.mark.parametrize("seed", range(8))
def test_everything_per_channel_folds_into_dense_and_convolution(cls: type[Neuron], seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "input": Input(shape=(2, 5, 5)), "conv": Conv2d(weight=rng.normal(0.3, 0.5, (4, 1, 3, 3)), groups=2),
        "a": rich(rng, cls, (4, 3, 3), False), "pool": SumPool2d(kernel_size=(2, 2), stride=(1, 1)),
        "b": rich(rng, cls, (4, 2, 2), False), "flat": Flatten(), "dense": Linear(weight=rng.normal(0.1, 0.5, (6, 16))),
        "c": rich(rng, cls, (6,), True), "back": Linear(weight=rng.normal(0, 0.3, (6, 6))), "output": Output(shape=(6,)),
    }
    line = ["input", "conv", "a", "pool", "b", "flat", "dense", "c", "output"]
    edges = [Edge(a, b) for a, b in itertools.pairwise(line)]
    network = Network(nodes, (*edges, Edge("c", "back", True), Edge("back", "c")))
    frames = (rng.random((2, STEPS, 2, 5, 5)) < 0.4).astype(np.int64)
    after = fold(network)
    assert_same_spikes(network, after, frames)
    for name in "abc":
        given, node = network.neuron(name), after.neuron(name)
        base = given.v_reset if given.reset == "value" else np.zeros(())
        assert node.threshold.shape == ()
        assert node.threshold == (given.threshold - base).max()


def between(neuron: Neuron, synapse: Node | None = None, shape: tuple[int, ...] = (3,)) -> Network:
    synapse = synapse or Linear(weight=np.ones((neuron.shape[0], 3)))
    nodes: dict[str, Node] = {
        "input": Input(shape=shape), "syn": synapse, "neuron": neuron, "output": Output(shape=neuron.shape)
    }
    return Network(nodes, (Edge("input", "syn"), Edge("syn", "neuron"), Edge("neuron", "output")))


def test_thresholds_of_single_neurons_fold_into_rows() -> None:
    theta = np.array([0.5, 1.0, 2.0, 0.8])
    after = fold(between(IF(shape=(4,), threshold=theta, reset_by=np.float64(0.4))))
    assert after.neuron("neuron").threshold == 2.0
    np.testing.assert_allclose(after.nodes["syn"].weight[:, 0], 2 / theta)  # type: ignore[attr-defined]
    np.testing.assert_allclose(after.neuron("neuron").reset_by, 0.8 / theta)


def test_levels_absorb_their_threshold() -> None:
    neuron = MultiThreshold(shape=(4,), levels=np.array([0.5, 1.0]), threshold=np.array([1.0, 2.0, 0.5, 4.0]))
    network = between(neuron)
    after = fold(network)
    assert after.neuron("neuron").threshold == 1
    assert_same_spikes(network, after, np.ones((1, 12, 3), np.int64))


def test_a_readout_has_gain_one_and_the_same_membrane() -> None:
    gain = np.array([0.5, 2.0, 1.0, 3.0])
    network = between(LI(shape=(4,), gain=gain, decay_mem=np.float64(0.9), decay_syn=np.float64(0.5)))
    after = fold(network)
    frames = np.ones((1, 9, 3), np.int64)
    np.testing.assert_allclose(reference.run(network, frames).output, reference.run(after, frames).output)
    np.testing.assert_allclose(after.nodes["syn"].weight[:, 0], gain)  # type: ignore[attr-defined]


def test_amplitudes_scale_the_columns_behind_a_partial_flatten() -> None:
    rng = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "input": Input(shape=(2, 2, 3)), "a": IF(shape=(2, 2, 3), amplitude=np.array([0.5, 2.0]).reshape(2, 1, 1)),
        "flat": Flatten(start_dim=1), "conv": Conv1d(weight=rng.normal(0.4, 0.5, (3, 2, 2))),
        "b": IF(shape=(3, 5), threshold=np.array([[0.5], [0.7], [0.9]])), "output": Output(shape=(3, 5)),
    }
    line = list(nodes)
    network = Network(nodes, tuple(Edge(a, b) for a, b in itertools.pairwise(line)))
    assert_same_spikes(network, fold(network), (rng.random((2, 20, 2, 2, 3)) < 0.5).astype(np.int64))


def refused(network: Network) -> str:
    with pytest.raises(UnsupportedError) as caught:
        fold(network)
    assert caught.value.hint
    return caught.value.code


def test_thresholds_that_vary_within_a_channel_cannot_enter_a_convolution() -> None:
    conv = Conv2d(weight=np.ones((2, 1, 1, 1)))
    theta = np.arange(1.0, 19.0).reshape(2, 3, 3)
    assert refused(between(IF(shape=(2, 3, 3), threshold=theta), conv, (1, 3, 3))) == "D2E-FOLD-001"


@pytest.mark.parametrize("options", [
    {"v_reset": np.float64(1.5)}, {"v_reset": np.float64(0.2), "max_spikes": 3},
    {"v_reset": np.float64(-0.2), "reset_when": "next", "decay_mem": np.float64(0.5)},
], ids=["above the threshold", "several spikes", "undecayed"])
def test_a_reset_value_that_cannot_be_the_origin_is_told(options: dict[str, Any]) -> None:
    options = {"decay_mem": np.float64(1.0), **options}
    assert refused(between(LIF(shape=(4,), reset="value", **options))) == "D2E-FOLD-002"


@pytest.mark.parametrize("amplitude", [np.array([1.0, 2, 1, 1]), np.float64(-1), np.zeros(4)],
                         ids=["unequal", "below", "zero"])
def test_output_amplitudes_that_change_the_order_of_classes_are_told(amplitude: np.ndarray) -> None:
    assert refused(between(IF(shape=(4,), amplitude=amplitude))) == "D2E-FOLD-003"


def test_one_output_amplitude_becomes_a_count() -> None:
    network = between(IF(shape=(4,), amplitude=np.float64(2.5)))
    frames = np.ones((1, 5, 3), np.int64)
    after = fold(network)
    np.testing.assert_allclose(reference.run(network, frames).output, 2.5 * reference.run(after, frames).output)

"""fold_thresholds: afterwards one population has one threshold, gain 1 and amplitude 1, and fires the same spikes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from tests.ir.networks import random_network

from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.notes import warnings
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
CODES = {"D2E-CANON-001", "D2E-CANON-002", "D2E-FOLD-001", "D2E-FOLD-002", "D2E-FOLD-003", "D2E-FOLD-005"}


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
        if "D2E-FOLD-004" in [w["code"] for w in warnings(after)]:  # payloads were rounded
            continue
        assert_same_spikes(network, after, frames)
        compared += 1
    return compared


def test_random_networks_of_all_nodes_keep_their_spikes() -> None:
    assert check(range(300)) >= 50


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 250))
def test_many_random_networks_keep_their_spikes(start: int) -> None:
    assert check(range(start, start + 250)) >= 40


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
        "max_spikes": int(rng.choice([1, 3] if last else [1, 3, 0])) if soft else 1,
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


# --------------------------------------------------------------------------- payloads and limits


def two(neuron: Neuron, seed: int = 0) -> Network:
    """The population between random weights, and one behind it."""
    rng = np.random.default_rng(seed)
    size = neuron.shape[0]
    nodes: dict[str, Node] = {
        "input": Input(shape=(3,), max_payload=2), "w1": Linear(weight=rng.normal(0.3, 0.8, (size, 3))), "a": neuron,
        "w2": Linear(weight=rng.normal(0.2, 0.7, (5, size))), "b": IF(shape=(5,), max_spikes=3),
        "output": Output(shape=(5,)),
    }
    return Network(nodes, tuple(Edge(a, b) for a, b in itertools.pairwise(nodes)))


def frames_of_two(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (3, STEPS, 3))


@pytest.mark.parametrize(("options", "sent", "factor"), [
    ({"levels": [1.0, 2.0, 4.0]}, [1, 2, 4], 1.0), ({"levels": [0.25, 0.5, 0.75]}, [1, 2, 3], 0.25),
    ({"levels": [0.1, 0.2, 0.30000000000000004]}, [1, 2, 3], 0.1),
    ({"levels": [0.3, 0.6], "payloads": [1.5, 2.5]}, [3, 5], 0.5),
    ({"levels": [0.3, 0.6], "payloads": [2.0, 1.0]}, [2, 1], 1.0),
    ({"levels": [0.3, 0.6], "payloads": [1.0, -2.0]}, [1, -2], 1.0),
    ({"levels": [0.3, 0.6], "payloads": [0.0, 7.0]}, [0, 1], 7.0),
    ({"levels": [0.3, 0.6, 0.9], "amplitude": 2.0}, [1, 2, 3], 0.6),
], ids=str)
@pytest.mark.parametrize("signed", [True, False])
def test_payloads_become_small_integers(options: dict[str, Any], sent: list[int], factor: float, signed: bool) -> None:
    arrays = {key: np.asarray(value) for key, value in options.items()}
    network = two(MultiThreshold(shape=(4,), signed=signed, **arrays))
    after = fold(network)
    node = after.neuron("a")
    assert isinstance(node, MultiThreshold)
    assert node.payloads is not None
    np.testing.assert_array_equal(node.payloads, sent)
    np.testing.assert_allclose(after.nodes["w2"].weight, network.nodes["w2"].weight * factor)  # type: ignore[attr-defined]
    assert warnings(after) == []
    assert_same_spikes(network, after, frames_of_two())


def test_payloads_in_no_ratio_are_rounded_with_a_warning() -> None:
    levels = np.array([1.0, np.sqrt(2), np.pi])
    after = fold(two(MultiThreshold(shape=(4,), levels=levels)))
    node = after.neuron("a")
    assert isinstance(node, MultiThreshold)
    assert node.payloads is not None
    assert node.payloads.max() <= 255
    (found,) = warnings(after)
    assert (found["code"], found["node"]) == ("D2E-FOLD-004", "a")
    ratios = node.payloads / levels
    worst = 100 * (ratios.max() - ratios.min()) / (ratios.max() + ratios.min())
    assert f"rounded by up to {worst:.2g} %" in found["message"]
    assert 0 < worst <= 1


def test_one_output_factor_scales_the_payloads_of_all() -> None:
    network = between(MultiThreshold(shape=(4,), levels=np.array([0.5, 1.0, 1.5])))
    frames = np.random.default_rng(0).integers(0, 2, (2, 9, 3))
    after = reference.run(fold(network), frames).output
    np.testing.assert_allclose(reference.run(network, frames).output, 0.5 * after)
    assert after.max() == 3


@pytest.mark.parametrize("options", [
    {}, {"fire": "gt"}, {"reset": "zero"}, {"reset_by": np.float64(0.4)}, {"reset_by": np.float64(1.7)},
    {"reset_when": "next"}, {"reset_when": "next", "reset_by": np.float64(0.3)}, {"v_init": np.float64(7)},
    {"v_min": np.float64(3.3)}, {"bias": np.float64(0.7)}, {"refractory": 2},
], ids=str)
@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_no_limit_of_spikes_becomes_the_largest_burst_there_can_be(options: dict[str, Any], decay: float) -> None:
    for seed in range(8):
        network = two(LIF(shape=(4,), decay_mem=np.float64(decay), max_spikes=0, **options), seed)
        try:
            after = fold(network)
        except UnsupportedError as error:
            # a reset by less than the threshold, without a leak, lets v grow
            if error.code != "D2E-FOLD-005" or decay < 1 or "reset_by" not in options:
                raise
            continue
        assert after.neuron("a").max_spikes >= 1
        frames = np.concatenate([frames_of_two(seed), np.full((1, STEPS, 3), 2)])
        assert_same_spikes(network, after, frames)


def test_the_bound_of_a_burst_is_reached() -> None:
    network = two(IF(shape=(1,), max_spikes=0))
    network = network.with_nodes({"w1": Linear(weight=np.array([[0.3, 1.4, -2.0]]))})
    after = fold(network)
    assert after.neuron("a").max_spikes == 4  # (below 1) + 2 * 1.7
    frames = np.array([[[2, 2, 0]] * 9])
    assert reference.run(network, frames, "spikes").spikes["a"].max() == 4


def test_a_burst_that_nothing_bounds_is_told_unless_the_steps_are_known() -> None:
    network = between(IF(shape=(4,), max_spikes=0, reset="none"))
    assert refused(network) == "D2E-FOLD-005"
    known = network.with_nodes({"input": Input(shape=(3,), time_steps=5)})
    assert fold(known).neuron("neuron").max_spikes == 15 + 4  # a step more, from just below the threshold


def test_reset_amounts_of_levels_are_one_number_each() -> None:
    levels, taken = np.array([0.5, 1.0, 2.0]), np.array([0.4, 0.9, 1.5])
    network = two(MultiThreshold(shape=(4,), levels=levels, reset_by=taken, threshold=np.array([1.0, 2.0, 0.5, 1.5])))
    after = fold(network)
    np.testing.assert_array_equal(after.neuron("a").reset_by, taken)
    assert_same_spikes(network, after, frames_of_two())

"""canonicalise on random networks and on each of its cases: the populations keep their spikes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.ir.networks import random_network

from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.passes.canonicalise import HELPER, Canonicalise
from d2e.compiler.passes.manager import run_passes
from d2e.ir import (
    IF,
    LIF,
    Affine,
    AvgPool2d,
    Continuous,
    Conv1d,
    Conv2d,
    CubaLIF,
    D2EError,
    Delay,
    Edge,
    Flatten,
    Input,
    Linear,
    Network,
    Node,
    Output,
    SumPool2d,
    UnsupportedError,
    UsageError,
    reference,
    verified,
)
from d2e.ir.network import chain

RNG = np.random.default_rng(0)
ALLOWED = {"D2E-CANON-001", "D2E-CANON-002"}


def canonicalise(network: Network) -> Network:
    return run_passes([Canonicalise()], verified(network), TARGETS[0])[-1].network


def assert_same_spikes(before: Network, after: Network, frames: np.ndarray) -> None:
    a, b = reference.run(before, frames, "spikes"), reference.run(after, frames, "spikes")
    for name in before.populations:
        np.testing.assert_array_equal(a.spikes[name], b.spikes[name], err_msg=name)
    np.testing.assert_allclose(a.output, b.output, rtol=1e-6, atol=1e-6)


def spikes(*shape: int, rate: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(1).random((2, 8, *shape)) < rate).astype(np.int64)


def check(seeds: range) -> int:
    compared = 0
    for seed in seeds:
        network, frames = random_network(seed)
        try:
            after = canonicalise(network)
        except D2EError as error:
            if error.code not in ALLOWED:
                raise
            continue
        assert_same_spikes(network, after, frames)
        compared += 1
    return compared


def test_random_networks_keep_their_spikes() -> None:
    assert check(range(150)) >= 120


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 250))
def test_many_random_networks_keep_their_spikes(start: int) -> None:
    assert check(range(start, start + 250)) >= 180


def between(shape: tuple[int, ...], *synapses: tuple[str, Node], neuron: Node) -> Network:
    ends = ("input", Input(shape=shape)), ("output", Output(shape=neuron.shape))  # type: ignore[attr-defined]
    return chain([ends[0], *synapses, ("neuron", neuron), ends[1]])


def test_bias_goes_through_pooling_with_padding() -> None:
    conv = Conv2d(weight=RNG.normal(size=(2, 1, 1, 1)), bias=np.array([0.3, -0.2]))
    pool = AvgPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(1, 1))
    network = between((1, 6, 6), ("conv", conv), ("pool", pool), neuron=IF(shape=(2, 4, 4)))
    after = canonicalise(network)
    bias = after.neuron("neuron").bias
    np.testing.assert_allclose(bias[0], 0.3 * np.outer([0.5, 1, 1, 0.5], [0.5, 1, 1, 0.5]))
    assert [n.kind for n in after.nodes.values()].count("conv2d") == 1
    assert_same_spikes(network, after, spikes(1, 6, 6))


def test_a_bias_alike_for_all_is_one_number() -> None:
    network = between((3,), ("dense", Affine(weight=np.ones((4, 3)), bias=np.full(4, 0.2))), neuron=IF(shape=(4,)))
    assert canonicalise(network).neuron("neuron").bias.shape == ()


def test_the_gain_multiplies_the_bias() -> None:
    neuron = LIF(shape=(4,), decay_mem=np.float64(0.8), gain=np.array([0.5, 1, 1.5, 2]), bias=np.float64(0.1))
    network = between((3,), ("dense", Affine(weight=RNG.normal(size=(4, 3)), bias=np.full(4, 0.2))), neuron=neuron)
    after = canonicalise(network)
    np.testing.assert_allclose(after.neuron("neuron").bias, 0.1 + 0.2 * np.array([0.5, 1, 1.5, 2]))
    assert_same_spikes(network, after, spikes(3))


@pytest.mark.parametrize("shape", [(5,), (2, 7), (2, 5, 4)])
def test_bias_before_a_synaptic_current_comes_from_an_always_on_source(shape: tuple[int, ...]) -> None:
    neuron = CubaLIF(shape=shape, decay_syn=np.float64(0.6), decay_mem=np.float64(0.8), threshold=np.float64(1.7))
    bias = RNG.normal(0.2, 0.2, shape[0])
    synapse: Node = {
        1: Affine(weight=RNG.normal(size=(5, 5)), bias=bias),
        2: Conv1d(weight=RNG.normal(size=(2, 2, 3)), bias=bias, padding=(1,)),
        3: Conv2d(weight=RNG.normal(size=(2, 2, 3, 3)), bias=bias, padding="same"),
    }[len(shape)]
    network = between(shape, ("syn", synapse), neuron=neuron)
    after = canonicalise(network)
    helper = after.neuron("neuron.on")
    assert helper.metadata[HELPER] is True
    assert not after.neuron("neuron").bias.any()
    assert_same_spikes(network, after, spikes(*shape))


def test_a_map_of_other_rank_has_no_always_on_form() -> None:
    neuron = CubaLIF(shape=(2, 2, 2, 3), decay_syn=np.float64(0.5), decay_mem=np.float64(0.5))
    network = between((2, 2, 2, 3), ("dense", Affine(weight=np.ones((3, 3)), bias=np.ones(3))), neuron=neuron)
    with pytest.raises(UnsupportedError) as caught:
        canonicalise(network)
    assert caught.value.code == "D2E-CANON-004"


def test_a_shared_synapse_is_written_out_per_path() -> None:
    conv = Conv2d(weight=RNG.normal(size=(2, 2, 3, 3)), padding="same", bias=np.array([0.123, -0.1]))
    neuron = IF(shape=(2, 4, 4), threshold=np.float64(0.8))
    nodes: dict[str, Node] = {
        "input": Input(shape=(2, 4, 4)), "first": neuron, "second": neuron, "third": neuron, "shared": conv,
        "flat": Flatten(), "dense": Linear(weight=RNG.normal(size=(3, 32))), "out": IF(shape=(3,)),
        "output": Output(shape=(3,)),
    }
    pairs = [("input", "first"), ("input", "shared"), ("first", "shared"), ("shared", "second"), ("shared", "third"),
             ("second", "flat"), ("third", "flat"), ("flat", "dense"), ("dense", "out"), ("out", "output")]
    network = Network(nodes, tuple(Edge(*p) for p in pairs))
    after = canonicalise(network)
    assert [n.kind for n in after.nodes.values()].count("conv2d") == 4
    assert "shared@first" in after.nodes
    assert_same_spikes(network, after, spikes(2, 4, 4))


def test_a_direct_connection_becomes_a_factor_of_one() -> None:
    nodes: dict[str, Node] = {
        "input": Input(shape=(2, 3)), "a": IF(shape=(2, 3)), "flat": Flatten(), "b": IF(shape=(6,)),
        "output": Output(shape=(6,)),
    }
    network = Network(nodes, tuple(Edge(*p) for p in [("input", "a"), ("a", "flat"), ("flat", "b"), ("b", "output")]))
    after = canonicalise(network)
    assert [n.kind for n in after.nodes.values()].count("scale") == 2
    assert_same_spikes(network, after, spikes(2, 3))


def test_delays_gather_after_the_map() -> None:
    synapses = ("d1", Delay(steps=2)), ("dense", Linear(weight=RNG.normal(size=(4, 3)))), ("d2", Delay(steps=1))
    network = between((3,), *synapses, neuron=IF(shape=(4,), threshold=np.float64(0.7)))
    after = canonicalise(network)
    delays = [n for n in after.nodes.values() if isinstance(n, Delay)]
    assert [d.steps for d in delays] == [3]
    assert_same_spikes(network, after, spikes(3))


def test_a_bias_before_a_delay_is_refused() -> None:
    late = ("dense", Affine(weight=np.ones((4, 3)), bias=np.ones(4))), ("delay", Delay(steps=1))
    with pytest.raises(UnsupportedError) as caught:
        canonicalise(between((3,), *late, neuron=IF(shape=(4,))))
    assert caught.value.code == "D2E-CANON-002"


def loop(back: Node, first: bool, second: bool) -> Network:
    nodes: dict[str, Node] = {
        "input": Input(shape=(3,)), "dense": Linear(weight=RNG.normal(size=(3, 3))),
        "neuron": IF(shape=(3,), threshold=np.float64(0.9)), "back": back, "output": Output(shape=(3,)),
    }
    edges = Edge("input", "dense"), Edge("dense", "neuron"), Edge("neuron", "output")
    return Network(nodes, (*edges, Edge("neuron", "back", first), Edge("back", "neuron", second)))


def test_two_recurrent_edges_on_a_path_are_two_steps() -> None:
    network = loop(Linear(weight=RNG.normal(size=(3, 3))), first=True, second=True)
    after = canonicalise(network)
    assert sum(e.recurrent for e in after.edges) == 1
    assert_same_spikes(network, after, spikes(3))


def test_a_recurrent_bias_acts_from_the_first_step_or_is_refused() -> None:
    back = Affine(weight=RNG.normal(size=(3, 3)), bias=np.array([0.4, 0.1, -0.1]))
    early = loop(back, first=True, second=False)
    assert_same_spikes(early, canonicalise(early), spikes(3))
    with pytest.raises(UnsupportedError) as caught:
        canonicalise(loop(back, first=False, second=True))
    assert caught.value.code == "D2E-CANON-003"


def test_layers_that_do_not_merge_are_told() -> None:
    conv = Conv2d(weight=np.ones((1, 1, 3, 3)), padding=(1, 1))
    convs = ("a", conv), ("b", conv)
    with pytest.raises(UnsupportedError) as caught:
        canonicalise(between((1, 6, 6), *convs, neuron=IF(shape=(1, 6, 6))))
    assert (caught.value.code, caught.value.node) == ("D2E-CANON-001", "b")
    assert caught.value.hint


def test_layers_before_the_output_stay_and_averages_become_convolutions() -> None:
    nodes = [
        ("input", Input(shape=(2, 4, 4))), ("neuron", IF(shape=(2, 4, 4))),
        ("pool", AvgPool2d(kernel_size=(2, 2), stride=(2, 2))),
        ("conv", Conv2d(weight=RNG.normal(size=(2, 2, 1, 1)), bias=np.ones(2))), ("output", Output(shape=(2, 2, 2))),
    ]
    network = chain(nodes)
    after = canonicalise(network)
    assert [after.nodes[n].kind for n in ("pool", "conv")] == ["conv2d", "conv2d"]
    assert_same_spikes(network, after, spikes(2, 4, 4))


@pytest.mark.parametrize("after", [False, True], ids=["last", "before another"])
def test_a_biased_layer_before_the_output_adds_its_bias_once_whatever_reaches_it(after: bool) -> None:
    nodes: dict[str, Node] = {
        "input": Input(shape=(3,)), "a": IF(shape=(3,)), "b": IF(shape=(3,), threshold=np.float64(1.3)),
        "l": Affine(weight=RNG.normal(size=(2, 3)), bias=np.array([1.0, -0.5])), "output": Output(shape=(2,)),
    }
    pairs = [("input", "a"), ("a", "b"), ("a", "l"), ("b", "l")]
    if after:
        nodes["m"] = Affine(weight=RNG.normal(size=(2, 2)), bias=np.array([0.25, 2.0]))
        pairs += [("l", "m"), ("b", "other"), ("other", "m"), ("l", "output")]
        nodes["other"] = Linear(weight=RNG.normal(size=(2, 3)))
    network = Network(nodes, tuple(Edge(*p) for p in [*pairs, ("m" if after else "l", "output")]))
    assert_same_spikes(network, canonicalise(network), spikes(3))
    assert_same_spikes(network, canonicalise(canonicalise(network)), spikes(3))


def test_time_constants_must_be_settled_first() -> None:
    neuron = LIF(shape=(2,), continuous=Continuous(tau_mem=np.float64(0.1), rule="euler"))
    network = between((2,), ("dense", Affine(weight=np.ones((2, 2)), bias=np.ones(2))), neuron=neuron)
    with pytest.raises(UsageError) as caught:
        canonicalise(network)
    assert (caught.value.code, caught.value.node) == ("D2E-USE-006", "neuron")


def test_sum_pooling_alone_stays() -> None:
    pool = SumPool2d(kernel_size=(2, 2), stride=(2, 2))
    network = between((2, 4, 4), ("pool", pool), neuron=IF(shape=(2, 2, 2), threshold=np.float64(2)))
    after = canonicalise(network)
    assert after.nodes["pool"].same(pool)
    assert_same_spikes(network, after, spikes(2, 4, 4))

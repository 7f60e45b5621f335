"""The reference interpreter: every option on examples small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tests.ir.networks import random_integer_network, random_network

from d2e.ir import (
    IF,
    LI,
    LIF,
    Affine,
    Continuous,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Output,
    UnsupportedError,
    UsageError,
    chain,
    reference,
)


def alone(node: Neuron, currents: list[float], **source) -> reference.Trace:
    """One neuron fed these currents step by step."""
    options = {"coding": "direct"} | source
    network = chain([("in", Input(shape=(1,), **options)), ("n", node), ("out", Output(shape=(1,)))])
    return reference.run(network, np.array(currents).reshape(1, -1, 1), record="state")


def row(array: np.ndarray) -> list[float]:
    return array.reshape(-1).tolist()


def spikes(node: Neuron, currents: list[float], **source) -> list[float]:
    return row(alone(node, currents, **source).spikes["n"])


# ----- firing


@pytest.mark.parametrize(("fire", "expected"), [("ge", [0, 1, 0, 1]), ("gt", [0, 0, 1, 1])])
def test_at_the_threshold(fire, expected):
    node = IF(shape=(1,), threshold=1.0, fire=fire, reset="subtract")
    assert spikes(node, [0.5, 0.5, 0.5, 0.75]) == expected


@pytest.mark.parametrize(("fire", "most", "n", "v"), [
    ("ge", 1, [1, 1, 1], [2.0, 1.5, 1.5]), ("ge", 2, [2, 1, 1], [1.0, 0.5, 0.5]),
    ("ge", 0, [3, 0, 1], [0.0, 0.5, 0.5]), ("gt", 1, [1, 1, 1], [2.0, 1.5, 1.5]),
    ("gt", 2, [2, 1, 1], [1.0, 0.5, 0.5]), ("gt", 0, [2, 1, 1], [1.0, 0.5, 0.5]),
])
def test_bursts(fire, most, n, v):
    trace = alone(IF(shape=(1,), threshold=1.0, fire=fire, max_spikes=most), [3.0, 0.5, 1.0])
    assert row(trace.spikes["n"]) == n
    assert row(trace.v["n"]) == v


def test_a_burst_is_limited_and_the_rest_stays():
    trace = alone(IF(shape=(1,), threshold=1.0, max_spikes=2), [5.5, 0.0, 0.0, 0.0])
    assert row(trace.spikes["n"]) == [2, 2, 1, 0]
    assert row(trace.v["n"]) == [3.5, 1.5, 0.5, 0.5]
    assert row(trace.counts["n"]) == [5]


def test_negative_membranes_do_not_fire():
    for most in (1, 3, 0):
        assert spikes(IF(shape=(1,), max_spikes=most), [-5.0, -5.0]) == [0, 0]


# ----- reset


@pytest.mark.parametrize(("reset", "after"), [
    ("subtract", 0.5), ("zero", 0.0), ("value", -0.25), ("none", 1.5),
])
def test_reset_in_the_same_step(reset, after):
    trace = alone(IF(shape=(1,), threshold=1.0, reset=reset, v_reset=-0.25), [1.5, 0.125])
    assert row(trace.v["n"]) == [after, after + 0.125 if reset != "none" else 1.625]
    assert row(trace.spikes["n"]) == [1, int(reset == "none")]


@pytest.mark.parametrize(("reset", "second"), [
    ("subtract", 0.5 * 1.5 - 1.0 + 0.125), ("zero", 0.125), ("value", -0.25 + 0.125), ("none", 0.75 + 0.125),
])
def test_reset_in_the_next_step_comes_after_the_decay(reset, second):
    node = LIF(shape=(1,), decay_mem=0.5, threshold=1.0, reset=reset, reset_when="next", v_reset=-0.25)
    trace = alone(node, [1.5, 0.125])
    assert row(trace.v["n"]) == [1.5, second]


def test_reset_by_another_amount_than_the_threshold():
    trace = alone(IF(shape=(1,), threshold=1.0, reset_by=0.25, max_spikes=2), [2.0])
    assert row(trace.spikes["n"]) == [2]
    assert row(trace.v["n"]) == [1.5]


# ----- integration


def test_decay_gain_bias_and_starting_value():
    node = LIF(shape=(1,), decay_mem=0.5, gain=2.0, bias=0.25, v_init=4.0, threshold=100.0)
    assert row(alone(node, [1.0, 0.0]).v["n"]) == [0.5 * 4 + 2 + 0.25, 0.5 * 4.25 + 0.25]


def test_synaptic_current_decays_before_it_takes_the_input():
    node = CubaLIF(shape=(1,), decay_syn=0.5, decay_mem=0.5, u_init=2.0, threshold=100.0)
    trace = alone(node, [1.0, 1.0])
    assert row(trace.u["n"]) == [2.0, 2.0]
    assert row(trace.v["n"]) == [2.0, 3.0]


def test_floor_of_the_membrane():
    node = IF(shape=(1,), v_min=-1.0)
    assert row(alone(node, [-5.0, 0.5, -0.25]).v["n"]) == [-1.0, -0.5, -0.75]


def test_amplitude_scales_what_is_sent_not_what_is_counted():
    trace = alone(IF(shape=(1,), threshold=1.0, max_spikes=3, amplitude=0.5), [3.0])
    assert row(trace.output) == [1.5]
    assert row(trace.counts["n"]) == [3]


def test_parameters_per_neuron():
    node = LIF(shape=(3,), threshold=np.array([1.0, 2.0, 4.0]), decay_mem=np.array([0.0, 0.5, 1.0]))
    network = chain([("in", Input(shape=(3,), coding="direct")), ("n", node), ("out", Output(shape=(3,)))])
    trace = reference.run(network, np.full((1, 3, 3), 1.5), record="spikes")
    assert trace.spikes["n"][0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


# ----- multi-threshold


def test_the_largest_crossed_level_is_sent_and_taken():
    node = MultiThreshold(shape=(1,), levels=np.array([1.0, 2.5, 4.0]))
    trace = alone(node, [0.5, 2.5, 4.0, 0.0])
    assert row(trace.spikes["n"]) == [0, 2, 3, 0]
    assert row(trace.output) == [0.0, 2.5, 4.0, 0.0]
    assert row(trace.v["n"]) == [0.5, 0.5, 0.5, 0.5]


def test_signed_levels():
    node = MultiThreshold(shape=(1,), levels=np.array([1.0, 2.0]), signed=True)
    trace = alone(node, [-2.5, -0.5, 1.75, 2.0])
    assert row(trace.spikes["n"]) == [-2, -1, 1, 2]
    assert row(trace.output) == [-2.0, -1.0, 1.0, 2.0]
    assert row(trace.counts["n"]) == [6]
    unsigned = MultiThreshold(shape=(1,), levels=np.array([1.0, 2.0]))
    assert spikes(unsigned, [-2.5, -0.5, 1.75]) == [0, 0, 0]


@pytest.mark.parametrize(("fire", "expected"), [("ge", [1, -2]), ("gt", [0, -1])])
def test_levels_at_equality(fire, expected):
    node = MultiThreshold(shape=(1,), levels=np.array([1.0, 2.0]), signed=True, fire=fire, reset="zero")
    last = {"ge": -2.0, "gt": -3.0}[fire]
    assert spikes(node, [1.0, last]) == expected


def test_payloads_and_thresholds_per_neuron_of_levels():
    node = MultiThreshold(
        shape=(2,), levels=np.array([1.0, 2.0]), threshold=np.array([1.0, 10.0]),
        payloads=np.array([5.0, 7.0]),
    )
    network = chain([("in", Input(shape=(2,), coding="direct")), ("n", node), ("out", Output(shape=(2,)))])
    trace = reference.run(network, np.full((1, 1, 2), 12.0), record="state")
    assert trace.output[0, 0].tolist() == [7.0, 5.0]
    assert trace.v["n"][0, 0].tolist() == [10.0, 2.0]


# ----- readout, delay, recurrence


def test_leaky_readout_never_fires_and_sends_its_membrane():
    node = LI(shape=(1,), decay_mem=0.5, decay_syn=0.5, bias=1.0)
    trace = alone(node, [4.0, 0.0, 0.0])
    assert row(trace.output) == [5.0, 0.5 * 5 + 2 + 1, 0.5 * 5.5 + 1 + 1]
    assert row(trace.counts["n"]) == [0]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_delay_shifts_frames(steps):
    network = chain([("in", Input(shape=(2,))), ("d", Delay(steps=steps)), ("out", Output(shape=(2,)))])
    frames = np.eye(6, 2, dtype=int)[None]
    expected = np.concatenate([np.zeros((1, steps, 2), int), frames], axis=1)[:, :6]
    assert np.array_equal(reference.run(network, frames).output, expected)


def looped(*edges: Edge, extra: dict | None = None) -> Network:
    nodes = {
        "in": Input(shape=(1,)), "n": IF(shape=(1,), threshold=1.0, reset="zero"), "out": Output(shape=(1,)),
        "w": Linear(weight=np.array([[1.0]])), **(extra or {}),
    }
    return Network(nodes, (Edge("in", "n"), Edge("n", "out"), *edges))


PULSE = np.array([1, 0, 0, 0, 0, 0]).reshape(1, 6, 1)


@pytest.mark.parametrize("edges", [
    (Edge("n", "w"), Edge("w", "n", True)), (Edge("n", "w", True), Edge("w", "n")),
])
def test_a_loop_brings_a_spike_back_one_step_later(edges):
    assert row(reference.run(looped(*edges), PULSE).output) == [1, 1, 1, 1, 1, 1]


def test_a_delay_in_a_loop_adds_its_steps():
    network = looped(Edge("n", "d"), Edge("d", "w"), Edge("w", "n", True), extra={"d": Delay(steps=2)})
    assert row(reference.run(network, PULSE).output) == [1, 0, 0, 1, 0, 0]


def test_recurrent_edges_straight_from_neuron_to_neuron():
    nodes = {**looped().nodes}
    del nodes["w"]
    network = Network(nodes, (Edge("in", "n"), Edge("n", "out"), Edge("n", "n", True)))
    assert row(reference.run(network, PULSE).output) == [1, 1, 1, 1, 1, 1]


def test_fan_in_is_summed_and_biases_come_every_step():
    nodes = {
        "in": Input(shape=(2,)), "a": Affine(weight=np.array([[1.0, 0.0]]), bias=np.array([0.25])),
        "b": Linear(weight=np.array([[0.0, 2.0]])), "n": IF(shape=(1,), threshold=100.0),
        "out": Output(shape=(1,)),
    }
    edges = (Edge("in", "a"), Edge("in", "b"), Edge("a", "n"), Edge("b", "n"), Edge("n", "out"))
    trace = reference.run(Network(nodes, edges), np.array([[[1, 1], [0, 1]]]), record="state")
    assert row(trace.v["n"]) == [3.25, 5.5]


# ----- what a run takes and gives


@pytest.mark.parametrize("maker", [random_network, random_integer_network])
@pytest.mark.parametrize("seed", range(12))
def test_samples_of_a_batch_are_independent_and_records_agree(maker, seed):
    network, frames = maker(seed)
    whole = reference.run(network, frames, record="state")
    one = reference.run(network, frames[1:], record="spikes")
    counted = reference.run(network, frames)
    assert np.allclose(whole.output[1:], one.output, rtol=1e-9, atol=1e-12)
    assert np.array_equal(whole.output, counted.output)
    for name in network.populations:
        assert np.array_equal(np.abs(whole.spikes[name]).sum(axis=1), counted.counts[name])
        assert np.array_equal(whole.spikes[name][1:], one.spikes[name])
    assert not one.u
    assert not counted.spikes


def test_random_networks_are_busy_enough_to_test_with():
    traces = [reference.run(*random_network(seed)) for seed in range(40)]
    assert sum(any(v.any() for v in trace.counts.values()) for trace in traces) > 30


@pytest.mark.parametrize(("frames", "options", "code"), [
    (np.zeros((2, 3)), {}, "D2E-INPUT-001"), (np.zeros((1, 3, 2)), {}, "D2E-INPUT-001"),
    (np.full((1, 3, 1), np.nan), {"coding": "direct"}, "D2E-INPUT-002"),
    (np.full((1, 3, 1), 0.5), {}, "D2E-INPUT-003"),
    (np.full((1, 3, 1), -1), {}, "D2E-INPUT-003"), (np.full((1, 3, 1), 2), {}, "D2E-INPUT-003"),
    (np.full((1, 3, 1), -3), {"coding": "signed", "max_payload": 2}, "D2E-INPUT-003"),
])
def test_frames_that_do_not_fit(frames, options, code):
    source = Input(shape=(1,), **options)
    network = chain([("in", source), ("n", IF(shape=(1,))), ("out", Output(shape=(1,)))])
    with pytest.raises(UsageError) as caught:
        reference.run(network, frames)
    assert caught.value.code == code


def test_unsettled_time_constants_are_refused():
    node = LIF(shape=(1,), continuous=Continuous(tau_mem=np.array(0.01)))
    with pytest.raises(UnsupportedError, match="D2E-DYN-001"):
        alone(node, [1.0])


def test_real_numbers_into_integers_are_refused():
    node = IF(shape=(1,), threshold=np.int64(1), arithmetic=FixedPoint())
    with pytest.raises(UnsupportedError, match="D2E-DYN-004"):
        alone(node, [1.0])


def test_refractory_holds_v_and_lets_u_go_on() -> None:
    """By hand: input 1 every step, threshold 2, reset to zero, silent for two steps after a spike."""
    network = chain([
        ("input", Input(shape=(1,))), ("w", Linear(weight=np.array([[1.0]]))),
        ("n", CubaLIF(shape=(1,), threshold=2.0, decay_syn=0.5, decay_mem=1.0, reset="zero", refractory=2)),
        ("output", Output(shape=(1,))),
    ])
    trace = reference.run(network, np.ones((1, 6, 1), np.int64), "state")
    assert trace.u["n"].ravel().tolist() == [1.0, 1.5, 1.75, 1.875, 1.9375, 1.96875]
    assert trace.spikes["n"].ravel().tolist() == [0, 1, 0, 0, 0, 1]
    assert trace.v["n"].ravel().tolist() == [1.0, 0.0, 0.0, 0.0, 1.9375, 0.0]

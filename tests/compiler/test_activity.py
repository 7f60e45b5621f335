"""activity and cost: what populations receive and send on data, and what that costs, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.source_networks import random_source

from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler import activity, cost, measure
from d2e.compiler.data import Data
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.passes.ranges import population_range
from d2e.compiler.paths import all_paths, paths_from, paths_into
from d2e.ir import IF, LIF, CubaLIF, Input, Linear, MultiThreshold, Network, Output, infer_shapes, reference
from d2e.ir.network import chain


@pytest.mark.parametrize("seed", range(30))
def test_the_current_seen_replays_every_population(seed: int) -> None:
    network, frames = random_source(seed)
    canonical = run_passes([Canonicalise()], network, TARGETS[0])[-1].network
    seen = activity.observe(canonical, frames)
    for name in canonical.populations:
        if canonical.neuron(name).kind != "li":
            assert activity.count_error(canonical, name, seen, activity.replay(canonical, name, seen)[0]) == 0


def test_a_delay_longer_than_the_run_brings_nothing() -> None:
    from d2e.ir import Delay

    network = chain([
        ("input", Input(shape=(2,))), ("fc", Linear(weight=np.ones((2, 2)))), ("late", Delay(steps=9)),
        ("n", IF(shape=(2,))), ("output", Output(shape=(2,))),
    ])
    seen = activity.observe(network, np.ones((1, 5, 2), np.int64))
    assert not activity.current(network, "n", seen).any()
    assert activity.current(network, "n", seen).shape == (1, 5, 2)


@pytest.mark.parametrize("seed", range(30))
def test_paths_from_and_into_are_the_same_paths(seed: int) -> None:
    network, _ = random_source(seed)
    into = {p for n in network.nodes for p in paths_into(network, n) if not hasattr(network.nodes[n], "weight")}
    ends = {p for p in into if p.target in network.populations or p.target == network.outputs[0]}
    assert {p for n in (network.inputs[0], *network.populations) for p in paths_from(network, n)} == ends
    assert set(all_paths(network)) == ends


@pytest.mark.parametrize("seed", range(30))
def test_synops_are_spikes_times_targets(seed: int) -> None:
    network, _ = random_source(seed)
    network = run_passes([Canonicalise()], network, TARGETS[0])[-1].network
    shapes = infer_shapes(network)
    sent = {name: np.ones(shapes[name]) for name in (network.inputs[0], *network.populations)}
    totals = cost.synops(network, sent)
    assert totals == {name: cost.synapses(network, name) for name in network.populations}


def test_measuring_in_parts_is_measuring_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = random_source(3)
    rng = np.random.default_rng(0)
    frames = (rng.random((11, 6, *network.input.shape)) < 0.4).astype(np.int64)
    data = Data(frames, np.zeros(11, np.int64))
    whole = measure.measure(network, data)
    monkeypatch.setattr(measure, "_CHUNK", 4)
    parts = measure.measure(network, data)
    np.testing.assert_array_equal(whole.predictions, parts.predictions)
    assert measure.max_count_error(whole, parts) == 0
    assert whole.accuracy == (whole.predictions == 0).mean()


@pytest.mark.parametrize(("readout", "winner"), [("count", 0), ("last", 1), ("mean", 0), ("max", 0), ("first", 0)])
def test_classes_are_read_as_the_output_says(readout: str, winner: int) -> None:
    network = Network({"output": Output(shape=(2,), readout=readout)}, ())  # type: ignore[arg-type]
    output = np.array([[[1, 0], [1, 0], [1, 0], [0, 1]]])
    assert measure.classify(network, output).tolist() == [winner]
    assert measure.classify(network, np.zeros((1, 3, 2))).tolist() == [0], "ties go to the lower index"


def test_the_first_spike_wins_then_the_larger_sum() -> None:
    network = Network({"output": Output(shape=(3,), readout="first")}, ())
    late_but_many = np.array([[[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]]])
    assert measure.classify(network, late_but_many).tolist() == [1]
    together = np.array([[[0, 0, 0], [0, 1, 1], [0, 0, 1], [5, 0, 0]]])
    assert measure.classify(network, together).tolist() == [2]
    assert measure.classify(network, np.array([[[0, 0, 0], [0, 0, 4]]])).tolist() == [2], "silence comes last"


# --------------------------------------------------------------------------- ranges


def worst(neuron: IF | LIF, weight: float, steps: int) -> tuple[float, float]:
    network = chain([("input", Input(shape=(1,))), ("fc", Linear(weight=np.array([[weight]]))), ("n", neuron),
                     ("output", Output(shape=(1,)))])
    bound = population_range(network, "n", steps).state
    trace = reference.run(network, np.ones((1, steps, 1), np.int64), "state")
    assert bound is not None
    return bound, float(np.abs(trace.v["n"]).max())


def test_bounds_are_reached_where_nothing_resets() -> None:
    silent = {"shape": (1,), "threshold": np.float64(1e9)}
    assert worst(IF(**silent), -2.0, 10) == (20.0, 20.0)
    assert worst(IF(**silent, bias=np.float64(-0.5), v_init=np.float64(-3)), -2.0, 10) == (28.0, 28.0)
    bound, reached = worst(LIF(**silent, decay_mem=np.float64(0.5)), 2.0, 40)
    assert bound == 4.0
    assert reached == pytest.approx(4.0)


def test_a_reset_that_takes_more_than_was_there_is_counted() -> None:
    neuron = IF(shape=(1,), threshold=np.float64(1), reset_by=np.float64(50))
    bound, reached = worst(neuron, 1.0, 3)
    assert reached == 49
    assert bound >= 49
    late = LIF(shape=(1,), threshold=np.float64(10), reset_when="next", decay_mem=np.float64(0.01))
    bound, reached = worst(late, 10.0, 2)
    assert bound >= reached


def test_without_a_number_of_steps_only_leaks_bound() -> None:
    def bound(neuron: IF | LIF) -> float | None:
        network = chain([("input", Input(shape=(1,))), ("fc", Linear(weight=np.ones((1, 1)))), ("n", neuron),
                         ("output", Output(shape=(1,)))])
        return population_range(network, "n", None).state

    assert bound(IF(shape=(1,))) is None
    assert bound(LIF(shape=(1,), decay_mem=np.float64(1))) is None
    assert bound(LIF(shape=(1,), decay_mem=np.float64(0.75))) == 4


def test_levels_are_seen_by_what_they_send() -> None:
    node = MultiThreshold(shape=(2,), levels=np.array([0.5, 1.0, 2.0]), payloads=np.array([3.0, 1.0, 7.0]), signed=True)
    network = chain([
        ("input", Input(shape=(2,), coding="signed", max_payload=3)),
        ("fc", Linear(weight=np.array([[0.5, 0.2], [-0.6, 1.0]]))),
        ("a", node), ("back", Linear(weight=np.array([[1.0, 0.5]]))), ("b", IF(shape=(1,), max_spikes=9)),
        ("output", Output(shape=(1,))),
    ])
    frames = np.random.default_rng(0).integers(-3, 4, (4, 12, 2))
    seen = activity.observe(network, frames)
    assert len(np.unique(seen.spikes["a"])) > 4
    for name in "ab":
        assert activity.count_error(network, name, seen, activity.replay(network, name, seen)[0]) == 0


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_the_mean_error_is_taken_behind_the_synaptic_current(decay: float) -> None:
    def network(weight: float) -> Network:
        neuron = CubaLIF(shape=(1,), decay_syn=np.float64(decay), threshold=np.float64(1e9))
        return chain([("input", Input(shape=(1,))), ("fc", Linear(weight=np.array([[weight]]))), ("n", neuron),
                      ("output", Output(shape=(1,)))])

    before, after, frames = network(1.25), network(1.0), np.ones((2, 10, 1), np.int64)
    seen = activity.observe(before, frames)
    missing = [reference.run(n, frames, "state").u["n"].mean() for n in (before, after)]
    found = activity.mean_input_error(before, after, "n", 1.0, seen, seen)
    np.testing.assert_allclose(found, missing[0] - missing[1])

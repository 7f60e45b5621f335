"""Many samples in one Lava run: bit for bit what a fresh run of each gives, or else a fresh run is what they get."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.backends.lava.form_networks import random_forms
from tests.backends.lava.lowered_networks import ONE, lif, random_lowered, whole
from tests.backends.lava.test_equality import differences

from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import run_lava, run_many
from d2e.backends.loihi2.lava.schedule import schedule
from d2e.backends.loihi2.lava.windows import Windows, windows
from d2e.ir import IF, Delay, Edge, FixedPoint, Input, Linear, Network, Neuron, Output, Scale, UnsupportedError
from d2e.ir.reference import run

SAMPLES = 3
WHOLE = int(os.environ.get("D2E_LAVA_RUNS", "96"))
Draw = Callable[[int], tuple[Network, np.ndarray]]


def batch(seed: int, frames: np.ndarray) -> np.ndarray:
    """Samples of the first one's frames, shuffled; the first is loud to its end."""
    rng = np.random.default_rng(seed)
    samples = np.stack([rng.permutation(frames[0]) for _ in range(SAMPLES)])
    samples[0, -1] = frames.max(axis=(0, 1))
    return samples


def compare(draw: Draw, seeds: range, folder: Path, python: Path) -> Counter[str]:
    """How many networks of ``seeds`` ran their samples in one run."""
    networks = {seed: (network, batch(seed, frames)) for seed in seeds for network, frames in [draw(seed)]}
    plans, seen = {}, Counter[str]()
    for seed, (network, frames) in networks.items():
        plans[seed] = windows(network, schedule(network))
        emit(network, folder / str(seed), time_steps=frames.shape[1])
    jobs = [(folder / str(seed), frames) for seed, (_, frames) in networks.items()]
    traces = run_many(jobs, record="state", python=python)
    for (seed, (network, frames)), trace in zip(networks.items(), traces, strict=True):
        assert not differences(network, run(network, frames, "state"), trace), seed
        assert trace.one_run.shape == (SAMPLES,)
        together = bool(trace.one_run.all())
        assert bool(trace.one_run.any()) == (not plans[seed].fresh)
        seen["together"] += together
        seen["with a gap"] += together and plans[seed].gap > 0
        seen["told beforehand"] += bool(plans[seed].fresh)
    return seen


@pytest.mark.lava
def test_one_run_is_identical(tmp_path: Path, lava_python: Path) -> None:
    seen = compare(random_lowered, range(24), tmp_path, lava_python)
    assert seen["together"] >= 8
    assert seen["with a gap"] >= 3
    assert seen["told beforehand"] >= 3


@pytest.mark.lava
def test_one_run_of_bursts_is_identical(tmp_path: Path, lava_python: Path) -> None:
    seen = compare(random_forms, range(24), tmp_path, lava_python)
    assert seen["together"] >= 12
    assert seen["with a gap"] >= 6


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("first", range(24, WHOLE, 24))
@pytest.mark.parametrize("draw", [random_lowered, random_forms])
def test_more_runs_are_identical(draw: Draw, first: int, tmp_path: Path, lava_python: Path) -> None:
    compare(draw, range(first, min(first + 24, WHOLE)), tmp_path, lava_python)


def soft(**options: object) -> Network:
    """A soft reset, whose self synapse reaches one step further than the pipeline."""
    nodes = {
        "in": Input(shape=(2,)), "a": Linear(weight=whole([[60, 10], [5, 90]])),
        "p": lif((2,), threshold=whole(99), decay_syn=whole(ONE), decay_mem=whole(0), **options),
        "p.reset": Scale(scale=whole(-100)), "out": Output(shape=(2,)),
    }
    edges = (Edge("in", "a"), Edge("a", "p"), Edge("p", "p.reset", True), Edge("p.reset", "p"), Edge("p", "out"))
    return Network(nodes, edges)


def planned(network: Network) -> Windows:
    return windows(network, schedule(network))


def test_a_pipeline_needs_no_blank_frames() -> None:
    network = Network(
        {"in": Input(shape=(2,)), "a": Linear(weight=whole(np.eye(2))), "p": lif((2,), threshold=whole(9)),
         "out": Output(shape=(2,))}, (Edge("in", "a"), Edge("a", "p"), Edge("p", "out")),
    )
    assert planned(network) == Windows(gap=0)


def test_a_soft_reset_is_silenced_in_the_frame_before_each_sample() -> None:
    plan = planned(soft())
    assert (plan.gap, plan.lead, plan.fresh) == (1, 2, "")
    assert [(p.targets, p.at) for p in plan.pulses] == [(("p",), (-1,))]
    started = planned(soft(u_init=whole(50 << 6)))
    assert [p.at for p in started.pulses] == [(-1,), (0,)]
    assert int(started.pulses[1].digits[0].weights.item()) >> -started.pulses[1].digits[0].exponent == 50


@pytest.mark.parametrize("options", [{"u_init": whole(33)}, {"decay_mem": whole(ONE), "v_init": whole(64)}])
def test_what_no_spike_brings_about_is_told(options: dict[str, object]) -> None:
    node = lif((2,), threshold=whole(99), **{"decay_syn": whole(ONE), "decay_mem": whole(0), **options})
    network = Network(
        {"in": Input(shape=(2,)), "a": Linear(weight=whole(np.eye(2))), "p": node, "out": Output(shape=(2,))},
        (Edge("in", "a"), Edge("a", "p"), Edge("p", "out")),
    )
    assert "'p' starts with" in planned(network).fresh


@pytest.mark.parametrize(("slack", "keep", "at"), [
    (4, ONE, (-4,)), (4, 0, (-4, -3, -2, -1)), (4, 2048, (-4, -3, -2, -1)), (4, 2500, (-4, -2)),
])  # fmt: skip
def test_inhibition_lasts_and_does_not_pile_up(slack: int, keep: int, at: tuple[int, ...]) -> None:
    node = lif((2,), threshold=whole(9), decay_syn=whole(keep))
    network = Network(
        {"in": Input(shape=(2,)), "a": Linear(weight=whole(np.eye(2))), "p": node, "late": Delay(steps=slack),
         "b": Linear(weight=whole(np.eye(2))), "q": lif((2,), threshold=whole(9)), "out": Output(shape=(2,))},
        (Edge("in", "a"), Edge("a", "p"), Edge("p", "late"), Edge("late", "b"), Edge("b", "q"), Edge("q", "out")),
    )
    assert [p.at for p in planned(network).pulses] == [at]


@pytest.mark.lava
def test_who_speaks_up_in_a_blank_frame_gets_fresh_runs(lava_python: Path, tmp_path: Path) -> None:
    """So strong an input that the inhibition does not silence it: its reset would reach into the next sample."""
    quiet = soft()
    wild = Network({**quiet.nodes, "in": Input(shape=(2,), max_payload=900)}, quiet.edges)
    frames = np.full((3, 4, 2), 900)
    emit(wild, tmp_path, time_steps=4)
    trace = run_lava(tmp_path, frames, record="state", python=lava_python)
    assert trace.one_run.tolist() == [True, False, False]
    assert not differences(wild, run(wild, frames, "state"), trace)


@pytest.mark.lava
def test_fresh_runs_on_request_and_one_that_is_alone(lava_python: Path, tmp_path: Path) -> None:
    network, frames = soft(), np.ones((3, 5, 2), int)
    emit(network, tmp_path, time_steps=5)
    together, apart, alone = (
        run_lava(tmp_path, frames[:n], record="state", python=lava_python, fresh=fresh)
        for n, fresh in ((3, False), (3, True), (1, False))
    )
    assert together.one_run.all()
    assert not apart.one_run.any()
    assert not alone.one_run.any()
    assert (together.u["p"] == apart.u["p"]).all()
    assert (alone.u["p"] == apart.u["p"][:1]).all()


@pytest.mark.lava
@pytest.mark.parametrize("samples", [1, 2])
def test_a_pipeline_may_be_deeper_than_all_samples_are_long(lava_python: Path, tmp_path: Path, samples: int) -> None:
    """The soft reset is 12 steps behind the input, a sample has 2 steps."""
    nodes, edges = dict(soft().nodes), [e for e in soft().edges if e.source != "in"]
    names = [f"stage{i}" for i in range(12)]
    for before, name in zip(["in", *names], names, strict=False):
        nodes |= {f"{name}.w": Linear(weight=whole(np.eye(2) * 60)), name: lif((2,), threshold=whole(50))}
        edges += [Edge(before, f"{name}.w"), Edge(f"{name}.w", name)]
    network = Network(nodes, (*edges, Edge(names[-1], "a")))
    frames = np.ones((samples, 2, 2), int)
    emit(network, tmp_path, time_steps=2)
    trace = run_lava(tmp_path, frames, record="state", python=lava_python)
    assert not differences(network, run(network, frames, "state"), trace)
    assert trace.spikes["p"].any()


@pytest.mark.lava
def test_graded_neurons_start_anew_and_are_silent_between(lava_python: Path, tmp_path: Path) -> None:
    node: Neuron = IF(
        shape=(2,), arithmetic=FixedPoint(), threshold=whole(20), max_spikes=3, bias=whole(700), v_init=whole(301),
        reset_when="next",
    )
    network = Network({**soft().nodes, "p": node}, soft().edges)
    frames = np.random.default_rng(0).integers(0, 2, (4, 6, 2))
    emit(network, tmp_path, time_steps=6)
    trace = run_lava(tmp_path, frames, record="state", python=lava_python)
    assert trace.one_run.all()
    assert not differences(network, run(network, frames, "state"), trace)
    assert (trace.spikes["p"] > 1).any()


@pytest.mark.lava
def test_time_out_says_how_far_it_came(lava_python: Path, tmp_path: Path) -> None:
    emit(soft(), tmp_path, time_steps=5)
    with pytest.raises(UnsupportedError, match=r"D2E-LAVA-003.*within 2 seconds \(0 of 60000 samples done\)"):
        run_lava(tmp_path, np.ones((60000, 5, 2), int), time_out=2.0, python=lava_python)

"""Programs that exit early: every figure is that of the full run up to each sample's exit."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.source_networks import random_source

import d2e
from d2e.compiler import early_exit
from d2e.compiler.data import Data
from d2e.compiler.measure import classify, measure
from d2e.compiler.program import Result
from d2e.compiler.results import run_to_file
from d2e.ir import (
    IF,
    LI,
    LIF,
    D2EError,
    EarlyExit,
    Encoder,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Output,
    chain,
    nirfile,
    reference,
)

STEPS = 8
RULE = EarlyExit(np.linspace(0.5, 0.8, STEPS), 4.0, "calibrated")


def network(last: Neuron | None = None, hidden: Neuron | None = None, rule: EarlyExit | None = RULE, seed: int = 0,
            **source: Any) -> Network:
    rng = np.random.default_rng(seed)
    last = last or IF(shape=(3,))
    return chain([
        ("input", Input(shape=(6,), time_steps=STEPS, **source)), ("w1", Linear(weight=rng.normal(0.3, 0.5, (9, 6)))),
        ("hidden", hidden or IF(shape=(9,))), ("w2", Linear(weight=rng.normal(0.15, 0.4, (3, 9)))), ("last", last),
        ("output", Output(shape=(3,), exit=rule, readout="last" if isinstance(last, LI) else "count")),
    ])


def data(samples: int = 150, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Samples of which some are easy."""
    rng = np.random.default_rng(seed)
    busy = rng.choice([0.1, 0.4, 0.9], (samples, 1, 6))
    return (rng.random((samples, STEPS, 6)) < busy).astype(np.uint8), rng.integers(0, 3, samples)


def by_hand(program: d2e.Program, frames: np.ndarray, engine: str | None, record: str) -> Result:
    """The result as it has to be, sample by sample from a run of all steps."""
    full = program.run(frames, engine=engine, record="state", early_exit=False)
    output = program.network.output
    assert output.exit is not None
    steps = output.exit.steps(full.output, output.readout)
    tables = {kind: {n: a.copy() for n, a in getattr(full, kind).items()} for kind in ("counts", "spikes", "u", "v")}
    held = full.output.copy()
    for sample, end in enumerate(steps):
        held[sample, end:] = held[sample, end - 1] if output.readout == "last" else 0
        for kind in ("spikes", "u", "v"):
            for array in tables[kind].values():
                array[sample, end:] = 0
        short = program.run(frames[sample : sample + 1, :end], engine=engine, early_exit=False)
        for name, counts in tables["counts"].items():
            counts[sample] = short.counts[name][0]
    tables |= {} if record == "state" else {"u": {}, "v": {}}
    return Result(held, engine=full.engine, steps=steps, **(tables | ({"spikes": {}} if record == "counts" else {})))


def assert_same(found: Result, wanted: Result) -> None:
    assert found.engine == wanted.engine
    np.testing.assert_array_equal(found.steps, wanted.steps)
    np.testing.assert_array_equal(found.output, wanted.output)
    for kind in ("counts", "spikes", "u", "v"):
        mine, theirs = getattr(found, kind), getattr(wanted, kind)
        assert list(mine) == list(theirs), kind
        for name, array in mine.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=f"{kind} of {name}")


# --------------------------------------------------------------------------- runs


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), several=st.booleans(), engine=st.sampled_from([None, "reference"]),
       record=st.sampled_from(["counts", "spikes", "state"]), scale=st.floats(0.5, 20.0), first=st.integers(1, 5))
def test_random_programs_run_as_if_cut(seed, several, engine, record, scale, first):
    source, frames = random_source(seed, several)
    if np.prod(source.output.shape) < 2:
        return
    readout = "last" if isinstance(source.neuron(source.populations[-1]), LI) else "count"
    rng = np.random.default_rng(seed)
    rule = EarlyExit(rng.uniform(-0.2, 1.0, frames.shape[1] + int(rng.integers(-2, 3))), scale)
    source = source.with_nodes({source.outputs[0]: replace(source.output, exit=rule, readout=readout)})
    try:
        program = d2e.compile(source)
    except D2EError:
        return
    frames = np.concatenate([frames, np.roll(frames, 1, axis=1), frames[:, ::-1], 0 * frames, abs(frames)])
    frames = frames if source.input.coding == "signed" else abs(frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early_exit, "_FIRST", first)
        assert_same(program.run(frames, engine=engine, record=record), by_hand(program, frames, engine, record))


@pytest.mark.parametrize("record", ["counts", "spikes", "state"])
@pytest.mark.parametrize("last", [
    IF(shape=(3,)), LI(shape=(3,), decay_mem=np.float64(0.9)), IF(shape=(3,), max_spikes=4),
    MultiThreshold(shape=(3,), levels=np.array([0.5, 1.0]), signed=True), IF(shape=(3,), amplitude=np.float64(2)),
], ids=["spikes", "membrane", "burst", "levels", "amplitude"])
def test_samples_stop(last, record):
    program, (frames, _) = d2e.compile(network(last)), data(40)
    found = program.run(frames, record=record)
    assert_same(found, by_hand(program, frames, None, record))
    assert found.steps.dtype == np.int64
    assert len(set(found.steps.tolist())) > 2, "some exit early, some late"


def test_samples_that_exited_are_not_run(monkeypatch):
    program, (frames, _) = d2e.compile(network(hidden=LIF(shape=(9,), decay_mem=np.float64(0.9)))), data(400)
    ran: list[int] = []
    run = type(program.target).run
    monkeypatch.setattr(type(program.target), "run", lambda self, network, frames, **options: (
        ran.append(int(np.prod(frames.shape[:2]))), run(self, network, frames, **options))[1])
    found = program.run(frames)
    assert found.steps.sum() < sum(ran) < frames.shape[0] * STEPS
    monkeypatch.undo()
    wanted = program.run(frames, engine="reference")
    np.testing.assert_array_equal(found.output, wanted.output)


@pytest.mark.parametrize("most", [1, 9 * STEPS * 5, 1 << 40])
def test_results_do_not_hang_on_what_runs_together(most, monkeypatch):
    program, (frames, _) = d2e.compile(network()), data(30)
    wanted = by_hand(program, frames, None, "spikes")
    monkeypatch.setattr(early_exit, "_AT_ONCE", most)
    for first in (1, 7, 30, 1000):
        monkeypatch.setattr(early_exit, "_FIRST", first)
        assert_same(program.run(frames, record="spikes"), wanted)


def test_without_a_rule_and_without_wanting_it():
    frames, _ = data(5)
    plain = d2e.compile(network(rule=None)).run(frames)
    assert plain.steps.tolist() == [STEPS] * 5
    assert_same(d2e.compile(network()).run(frames, early_exit=False), plain)


def test_other_numbers_of_samples_and_steps():
    program, (frames, _) = d2e.compile(network()), data(3)
    assert program.run(frames[:0]).steps.shape == (0,)
    assert program.run(frames[:0], record="state").v["last"].shape == (0, STEPS, 3)
    assert program.run(frames[:, :0]).steps.tolist() == [0, 0, 0]
    short, long = program.run(frames[:, :2]), program.run(np.concatenate([frames] * 2, axis=1))
    assert short.output.shape == (3, 2, 3)
    np.testing.assert_array_equal(short.steps, np.minimum(program.run(frames).steps, 2))
    full = program.run(frames).steps
    np.testing.assert_array_equal(long.steps, np.where((full < STEPS) | (long.steps == STEPS), full, 2 * STEPS))


@pytest.mark.parametrize("kind", ["rate", "ttfs", "bernoulli"])
def test_images_are_encoded_for_all_steps(kind):
    """A shorter window must not change what the encoder sends."""
    program = d2e.compile(network(encoder=Encoder(kind, np.float64(1.0))))
    images = np.random.default_rng(0).random((50, 6))
    found, full = program.run(images, record="spikes"), program.run(images, record="spikes", early_exit=False)
    assert len(set(found.steps.tolist())) > 1
    for sample, end in enumerate(found.steps):
        np.testing.assert_array_equal(found.spikes["hidden"][sample, :end], full.spikes["hidden"][sample, :end])
        assert not found.spikes["hidden"][sample, end:].any()


@pytest.mark.lava
@pytest.mark.parametrize("last", [IF(shape=(3,), max_spikes=2), LI(shape=(3,), decay_mem=np.float64(0.9))],
                         ids=["count", "last"])
def test_lava_runs_once_and_is_cut(last, lava_python, tmp_path):
    program, (frames, _) = d2e.compile(network(last)), data(12)
    program.save(tmp_path / "program")
    for record in ("counts", "state"):
        found = d2e.load(tmp_path / "program").run(frames, engine="loihi2-lava", record=record)
        wanted = program.run(frames, record=record)
        assert_same(replace(found, engine=wanted.engine), wanted)


# --------------------------------------------------------------------------- windows


def cost(ends: list[int], steps: np.ndarray) -> int:
    """Steps run for samples that exit so, one window after another."""
    return sum(end * int((steps > before).sum()) for before, end in pairwise([0, *ends]))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_windows_take_the_fewest_steps(exits):
    steps = np.array(exits)
    found = early_exit.windows(steps, 6)
    assert found == sorted(set(found))
    assert found[-1] == 6
    every = [[e for e in range(1, 6) if choice >> e & 1] + [6] for choice in range(0, 64, 2)]
    assert cost(found, steps) == min(cost(ends, steps) for ends in every)
    assert cost(found, steps) <= 6 * len(steps)


def test_windows_without_samples_or_steps():
    assert early_exit.windows(np.zeros(0, np.int64), 8) == [8]
    assert early_exit.windows(np.zeros(3, np.int64), 0) == [0]
    assert early_exit.windows(np.full(9, 2), 8)[0] == 2


# --------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("hidden", [
    IF(shape=(9,)), IF(shape=(9,), max_spikes=3), MultiThreshold(shape=(9,), levels=np.array([0.5, 1.0, 2.0]), signed=True),
], ids=["spikes", "burst", "levels"])
@pytest.mark.parametrize("engine", ["float", "program"])
def test_measured_is_what_happens_until_the_exit(hidden, engine, monkeypatch):
    monkeypatch.setattr(early_exit, "_AT_ONCE", 3000)  # several chunks
    frames, labels = data(90)
    source = network(hidden=hidden)
    program = d2e.compile(source)
    if engine == "float":
        found, full = measure(source, Data(frames, labels)), reference.run(source, frames, "spikes")
        at = source.output.exit.steps(full.output, "count")
    else:
        found, full = program.measure((frames, labels)), program.run(frames, record="spikes", early_exit=False)
        at = program.run(frames).steps
    np.testing.assert_array_equal(found.steps, at)
    live = np.arange(STEPS) < at[:, None]
    wanted = (full.output * live[:, :, None]).sum(axis=1).argmax(axis=1)
    np.testing.assert_array_equal(found.predictions, wanted)
    assert found.accuracy == (wanted == labels).mean()
    assert found.accuracy_full == (full.output.sum(axis=1).argmax(axis=1) == labels).mean()
    np.testing.assert_allclose(found.input_messages, (frames * live[:, :, None]).sum(axis=1).mean(axis=0))
    for name in ("hidden", "last"):
        n = full.spikes[name] * live[:, :, None]
        np.testing.assert_array_equal(found.counts[name], np.abs(n).sum(axis=1))
        if name in found.messages:  # else replicas of it were counted
            np.testing.assert_allclose(found.messages[name], (n != 0).sum(axis=1).mean(axis=0))
    if all(name in found.messages for name in ("hidden", "last")):
        assert found.spikes_full == sum((full.spikes[n] != 0).sum() for n in ("hidden", "last")) / 90
    assert found.spikes_full > sum(m.sum() for m in found.messages.values())


def test_measured_without_a_rule_ran_all_steps():
    frames, labels = data(9)
    found = measure(network(rule=None), Data(frames, labels))
    assert found.steps.tolist() == [STEPS] * 9
    assert found.correct_full is found.spikes_full is found.accuracy_full is None


def test_a_rule_that_never_holds_changes_nothing():
    frames, labels = data(50)
    never = replace(RULE, bounds=np.full(STEPS, -1.0))
    a, b = (measure(network(rule=r), Data(frames, labels)) for r in (never, None))
    assert (a.correct_full, a.correct) == (b.correct, b.correct)
    assert a.spikes_full == pytest.approx(sum(m.sum() for m in b.messages.values()))
    for name in b.counts:
        np.testing.assert_array_equal(a.counts[name], b.counts[name])
        np.testing.assert_array_equal(a.messages[name], b.messages[name])


@pytest.mark.parametrize("readout", ["count", "mean", "last"])
def test_a_cut_output_is_classified_as_at_the_exit(readout):
    rng = np.random.default_rng(0)
    output, steps = rng.integers(-3, 9, (40, STEPS, 3)), rng.integers(1, STEPS + 1, 40)
    cut = reference.Trace(output.copy(), {})
    early_exit.stop(cut, steps, readout)
    found = classify(network().with_nodes({"output": Output(shape=(3,), readout=readout)}), cut.output)
    for sample, end in enumerate(steps):
        seen = output[sample, :end]
        assert found[sample] == (seen[-1] if readout == "last" else seen.sum(axis=0)).argmax()


# --------------------------------------------------------------------------- report, files, commands


@pytest.fixture(scope="module")
def reported() -> d2e.Program:
    return d2e.compile(network(), eval=data())


def test_the_report_shows_both(reported):
    frames, labels = data()
    told, found = reported.report["early_exit"], reported.run(frames)
    full = reported.run(frames, early_exit=False)
    sent, whole = (sum(float(c.sum()) for c in r.counts.values()) / 150 for r in (found, full))
    assert told == {
        "rule": "calibrated", "mean_steps": found.steps.mean(), "time_steps": STEPS,
        "saved_steps": 1 - found.steps.mean() / STEPS,
        "accuracy_full": (full.output.sum(axis=1).argmax(axis=1) == labels).mean(),
        "spikes_full_per_sample": pytest.approx(whole), "saved_spikes": pytest.approx(1 - sent / whole),
        "steps": np.bincount(found.steps, minlength=STEPS + 1)[1:].tolist(),
        "accuracy_by_step": [(full.output[:, : t + 1].sum(axis=1).argmax(axis=1) == labels).mean() for t in range(STEPS)],
    }
    assert reported.report["accuracy"]["program"] == (found.output.sum(axis=1).argmax(axis=1) == labels).mean()
    assert reported.report["totals"]["spikes_per_sample"] == pytest.approx(sent)
    row = next(r for r in reported.report["layers"] if r["name"] == "hidden")
    assert row["rate"] == pytest.approx(found.counts["hidden"].sum() / 150 / 9 / found.steps.mean())
    assert reported.source is not None
    assert reported.report["accuracy"]["source"] == measure(reported.source, Data(frames, labels)).accuracy
    assert (found.output.sum(axis=1).argmax(axis=1) != full.output.sum(axis=1).argmax(axis=1)).any(), "else it says nothing"


def test_the_report_in_words(reported):
    told = reported.report["early_exit"]
    line = (f"early exit {told['mean_steps']:.2f} of 8 steps in the mean, {100 * told['saved_spikes']:.0f} % fewer spikes; "
            f"all steps: {100 * told['accuracy_full']:.2f} %")
    assert line in reported.report.text().splitlines()
    assert len(reported.report.text("somewhere").splitlines()) <= 15
    page = reported.report.html()
    assert "<h2>Early exit</h2>" in page
    assert "".join(f"<td>{n}</td>" for n in told["steps"]) in page
    assert json.loads(reported.report.json())["early_exit"] == told


def test_the_report_without_labels_without_data_without_a_rule():
    frames, _ = data(20)
    unlabelled = d2e.compile(network(), eval=frames).report
    assert "accuracy_full" not in unlabelled["early_exit"]
    assert "all steps" not in unlabelled.text()
    assert "<h2>Early exit" in unlabelled.html()
    unmeasured = d2e.compile(network()).report
    assert unmeasured["early_exit"] == {"rule": "calibrated"}
    assert "early exit by the rule 'calibrated', not measured" in unmeasured.text()
    assert "Rule “calibrated”, not measured." in unmeasured.html()
    plain = d2e.compile(network(rule=None), eval=data(20)).report
    assert "early_exit" not in plain.data
    assert "exit" not in plain.text() + plain.html()


def test_loaded_programs_exit_as_well(reported, tmp_path):
    frames, labels = data()
    reported.save(tmp_path / "program")
    again = d2e.load(tmp_path / "program")
    assert again.network.output.same(reported.network.output)
    assert_same(again.run(frames, record="spikes"), reported.run(frames, record="spikes"))
    assert again.evaluate((frames, labels))["early_exit"] == reported.report["early_exit"]
    assert reported.evaluate((frames, labels))["early_exit"] == reported.report["early_exit"]


def test_nir_models_bring_their_rule(tmp_path):
    nirfile.write(network(), tmp_path / "model.nir")
    program = d2e.compile(str(tmp_path / "model.nir"))
    assert program.network.output.exit.rule == "calibrated"


def test_d2e_run_tells_the_mean_steps(reported, tmp_path):
    frames, labels = data()
    found = reported.run(frames)
    mean = f"{found.steps.mean():.2f} of 8 steps in the mean"
    assert mean in run_to_file(reported, (frames, labels), output=str(tmp_path / "out.npz"))
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["steps"], found.steps)
        np.testing.assert_array_equal(arrays["predictions"], found.output.sum(axis=1).argmax(axis=1))
    summary = json.loads(run_to_file(reported, (frames, labels), as_json=True))
    assert summary["mean_steps"] == found.steps.mean()
    assert summary["accuracy"] == reported.report["accuracy"]["program"]
    plain = d2e.compile(network(rule=None))
    assert "steps" not in run_to_file(plain, (frames, labels), output=str(Path(tmp_path) / "plain.npz"))
    with np.load(tmp_path / "plain.npz") as arrays:
        assert "steps" not in arrays.files


def test_a_target_that_lives_by_events_leaves_it_out():
    source = chain([
        ("input", Input(shape=(2, 4, 4), time_steps=STEPS)),
        ("flat", d2e.ir.Flatten()), ("w", Linear(weight=np.random.default_rng(0).normal(0.1, 0.3, (3, 32)))),
        ("last", IF(shape=(3,), max_spikes=0, v_min=np.float64(-1.0))), ("output", Output(shape=(3,), exit=RULE)),
    ])
    frames = (np.random.default_rng(1).random((6, STEPS, 2, 4, 4)) < 0.3).astype(np.int64)
    program = d2e.compile(source, target="speck2f-sim", eval=(frames, np.arange(6) % 3))
    assert program.network.output.exit is None
    assert [w["code"] for w in program.report["warnings"] if "EXIT" in w["code"]] == ["D2E-EXIT-002"]
    assert "early_exit" not in program.report.data
    assert program.run(frames).steps.tolist() == [STEPS] * 6
    assert program.source is not None
    assert program.source.output.exit is None

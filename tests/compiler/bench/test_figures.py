"""The figures of a benchmark are those of runs and reports."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.bench.conftest import DIGITS, SHAPES, spikes

import d2e
from d2e.compiler.bench.figures import Counter
from d2e.compiler.replicas import merged
from d2e.ir import EarlyExit, reference
from d2e.nn import IF, Sequential


def test_activity_is_that_of_the_report(digits, data):
    report = digits.evaluate(data)
    found = d2e.bench(digits, data, batch=40)
    assert found["accuracy"] == report["accuracy"]["program"]
    for key in ("spikes_per_sample", "synops_per_sample"):
        assert found["activity"][key] == pytest.approx(report["totals"][key], rel=1e-12)
    rows = {row["name"]: row for row in report["layers"]}
    for row in found["activity"]["layers"]:
        assert row == {key: pytest.approx(rows[row["name"]][key]) if key != "name" else row["name"] for key in row}
    assert found["engine"] == {"name": "loihi2-sim", "kind": "engine", "label": "simulated",
                               "bit_exact_with": "lava-nc 0.10.0 fixed_pt"}
    assert found["activity"]["label"] == "simulated"
    assert found["times"]["label"] == "measured on this host"


def test_a_graded_burst_is_one_message():
    program = d2e.compile(DIGITS / "burst.pt", calibration=DIGITS / "burst-calibration.npz", burst="graded")
    with np.load(DIGITS / "burst-test.npz") as kept:
        frames, labels = kept["x"][:24], kept["y"][:24]
    totals = program.evaluate((frames, labels))["totals"]
    found = d2e.bench(program, (frames, labels), batch=7)["activity"]
    assert found["synops_per_sample"] == pytest.approx(totals["synops_per_sample"])
    assert found["spikes_per_sample"] == pytest.approx(totals["spikes_per_sample"])
    assert sum(int(c.sum()) for c in program.run(frames).counts.values()) > 24 * found["spikes_per_sample"]


def test_figures_end_at_the_early_exit(digits, data):
    source = digits.network
    rule = EarlyExit(bounds=np.full(16, 0.5), scale=8.0)
    name = source.outputs[0]
    early = replace(digits, network=source.with_nodes({name: replace(source.output, exit=rule)}), folder=None)
    result = early.run(data[0])
    assert 1 <= result.steps.mean() < 16
    for options in ({}, {"device": "sim:0"}, {"engine": "reference"}):
        found = d2e.bench(early, (data[0][:32], data[1][:32]), batch=20, **options)
        assert [row["steps"] for row in found.rows] == result.steps[:32].tolist()
        measured = early.evaluate((data[0][:32], data[1][:32]))["totals"]
        assert found["activity"]["synops_per_sample"] == pytest.approx(measured["synops_per_sample"])


def test_peaks_are_the_most_of_one_step(digits, data):
    frames = data[0][:8]
    found = d2e.bench(digits, frames, batch=3, peaks=True)["peaks"]
    trace = merged(digits.network, reference.run(digits.network, frames, "spikes"))
    on = {name: int(np.unique(cores)[0]) for name, cores in digits.target.core_of(digits.network).items()}
    for name in ("1", "3", "7"):  # a core each, with its always-on neuron
        per_step = trace.spikes[name].reshape(8, 16, -1).sum(axis=2) + 1
        assert found["spikes_per_core_and_step"][str(on[name])] == per_step.max()
    reached = d2e.bench(digits, frames, peaks=True)["activity"]["layers"]
    assert found["synops_per_layer_and_step"].keys() == {r["name"] for r in reached if "synops_per_sample" in r}
    into = next(r for r in reached if r["name"] == "7")["synops_per_sample"]
    assert into / 16 <= found["synops_per_layer_and_step"]["7"] <= into


def test_what_a_device_does_not_tell_is_absent(digits, data):
    counter = Counter(digits.network, list(digits.populations))
    frames = data[0][:4].astype(np.int64)
    trace = reference.run(digits.network, frames)
    whole = counter.of_frames(frames, trace, np.full(4, 16))
    trace.counts = {"7": trace.counts["7"]}  # a chip that tells its readout alone
    part = counter.of_frames(frames, trace, np.full(4, 16))
    assert (part.synops, part.populations, part.predictions) == (None, ["7"], whole.predictions)
    assert part.layers == {"7": {"spikes": whole.layers["7"]["spikes"]}}
    assert part.answers == whole.answers
    assert part.counts != whole.counts


def test_engines_and_a_simulated_board_agree_in_every_count(digits, shapes, data):
    few = (data[0][:12], data[1][:12])
    for program, given in ((digits, few), (shapes, SHAPES / "test.npz")):
        engines = (program.target.predictor, "reference")
        runs = [d2e.bench(program, given, samples=12, batch=5, engine=name) for name in engines]
        runs.append(d2e.bench(program, given, samples=12, batch=7, device="sim:0"))
        assert spikes(runs[0]) == spikes(runs[1]) == spikes(runs[2])
    assert runs[2]["times"]["sample_is"] == "its own time"
    assert runs[0]["times"]["sample_is"] == "an equal share of its batch's time"


@pytest.mark.lava
def test_lava_agrees_in_every_count(digits, data, lava_python, monkeypatch):
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    few = (data[0][:3], data[1][:3])
    lava = d2e.bench(digits, few, engine="loihi2-lava", warm_up=0)
    assert spikes(lava) == spikes(d2e.bench(digits, few)) == spikes(d2e.bench(digits, few, device="sim:0"))


def test_repeats_change_times_alone(digits, data, tmp_path):
    once, twice = (d2e.bench(digits, data, batch=32, repeat=n, output=tmp_path / str(n)) for n in (1, 2))
    assert spikes(once) == spikes(twice)
    assert (twice["repeats_differ"], twice["times"]["batches"], once["times"]["batches"]) == (0, 6, 3)
    for folder in ("1", "2"):
        kept = json.loads((tmp_path / folder / "bench.json").read_text())
        assert kept["done"] == [[0, 95]]
        assert kept["complete"]
        table = list(csv.DictReader(io.StringIO((tmp_path / folder / "samples.csv").read_text())))
        assert [int(row["prediction"]) for row in table] == [row["prediction"] for row in once.rows]
        assert [int(row["label"]) for row in table] == data[1].tolist()
    d2e.bench(digits, data, samples=5, output=tmp_path / "1")  # a folder of d2e's is replaced
    assert json.loads((tmp_path / "1" / "bench.json").read_text())["samples"] == 5


def test_a_screen_holds_it(digits, data):
    text = d2e.bench(digits, data, devices="sim:0,sim:1", peaks=True, repeat=2, batch=32).text("out")
    assert len(text.splitlines()) <= 15
    assert text.startswith(f"program    {digits.folder} on sim (simulated, bit-exact with lava-nc 0.10.0 fixed_pt)\n")
    assert text.endswith("written    out\n")


def test_a_program_with_a_part_on_the_host():
    from d2e.ir import LI, Add, Input, Linear, MultiThreshold, Output, chain

    rng = np.random.default_rng(0)
    network = chain([
        ("in", Input(shape=(16,), coding="direct", time_steps=1)), ("more", Add(bias=np.ones(16))),
        ("sent", MultiThreshold(shape=(16,), levels=np.arange(1, 9) - 0.5, payloads=np.arange(1, 9.0),
                                threshold=np.float64(0.25), amplitude=np.float64(0.25), decay_mem=np.float64(0.0),
                                reset="none", signed=True)),
        ("fc", Linear(weight=rng.normal(size=(4, 16)))), ("read", LI(shape=(4,), decay_mem=np.float64(0.0))),
        ("add", Add(bias=np.ones(4))), ("out", Output(shape=(4,), readout="last")),
    ])
    frames = rng.normal(size=(20, 16))
    program = d2e.compile(network, calibration=frames)
    labels = program.run(frames).output[:, 0].argmax(axis=1)
    found = d2e.bench(program, (frames, labels), batch=6)
    assert (found["accuracy"], "synops_per_sample" in found["activity"]) == (1.0, False)
    assert spikes(found) == spikes(d2e.bench(program, (frames, labels), engine="reference"))
    with pytest.raises(d2e.ir.UnsupportedError) as refused:
        d2e.bench(program, frames, device="sim:0")
    assert refused.value.code == "D2E-BENCH-011"


def test_an_unsaved_program(data):
    from torch import nn

    program = d2e.compile(Sequential(nn.Flatten(), nn.Linear(64, 10), IF()), input_shape=(1, 8, 8), time_steps=16)
    found = d2e.bench(program, data[0], batch=50)
    assert (found["samples"], "accuracy" in found.data, found["program"].keys()) == (96, False, {"target", "sha256"})

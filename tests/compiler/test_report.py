"""The report: its figures recomputed by brute force, its keys, its at most fifteen lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import d2e
from d2e.compiler.report import Report
from d2e.ir import IF, LI, AvgPool2d, Conv2d, Edge, Flatten, Input, Linear, Network, Output, reference
from d2e.ir.network import chain

RNG = np.random.default_rng(4)
FRAMES = RNG.integers(0, 2, (9, 7, 1, 6, 7))
LABELS = RNG.integers(0, 3, 9)
ROOT = Path(__file__).parents[2]

PICTURES = {"core_map", "histograms", "graph"}
TOP = {"schema", "target", "engine", "accuracy", "layers", "totals", "fit", "fit_source", "energy", "energy_published",
       "warnings", "raster", *PICTURES}
ACTIVITY = {"spikes_per_sample", "synops_per_sample", "rate", "spikes_source_per_sample", "drift", "silent", "saturated",
            "overflows"}
LAYER = {"name", "kind", "neurons", "synapses", "weight_bits", "cores", *ACTIVITY}
TOTALS = {"neurons", "synapses", "cores", "spikes_per_sample", "synops_per_sample", "input_events_per_sample",
          "latency_steps"}


def network() -> Network:
    return chain([
        ("input", Input(shape=(1, 6, 7))),
        ("conv", Conv2d(weight=RNG.normal(0.2, 0.4, (4, 1, 3, 2)), stride=(1, 2), padding=(1, 1), bias=np.full(4, 0.06))),
        ("hidden", IF(shape=(4, 6, 4))), ("pool", AvgPool2d(kernel_size=(2, 2), stride=(2, 2))),
        ("flat", Flatten()), ("dense", Linear(weight=RNG.normal(0.1, 0.4, (3, 24)))),
        ("out", IF(shape=(3,), reset="zero")), ("output", Output(shape=(3,))),
    ])


@pytest.fixture(scope="module")
def program() -> d2e.Program:
    return d2e.compile(network(), eval=(FRAMES, LABELS), time_steps=7)


def incidence(lowered: Network, name: str) -> dict[str, np.ndarray]:
    """source -> how many synapses each of its elements has into a population, found by probing with ones."""
    from d2e.compiler.paths import paths_into
    from d2e.ir import infer_shapes, linear
    from d2e.ir.shapes import output_shape

    shapes, found = infer_shapes(lowered), {}
    for path in paths_into(lowered, name):
        shape, frames = shapes[path.source], np.eye(int(np.prod(shapes[path.source])), dtype=np.int64)
        frames = frames.reshape(-1, *shape)
        for s in path.synapses:
            node: Any = lowered.nodes[s]
            if node.kind == "delay":
                continue
            weight = "scale" if node.kind == "scale" else "weight"
            ones = node
            if node.kind != "flatten":
                ones = replace(node, quantized=None, **{weight: np.ones_like(getattr(node, weight))})
            frames, shape = linear.apply(ones, frames, shape), output_shape(s, node, shape)
        counts = (frames != 0).reshape(len(frames), -1).sum(axis=1).reshape(shapes[path.source])
        found[path.source] = found.get(path.source, 0) + counts
    return found


def test_figures_are_what_brute_force_counts(program: d2e.Program) -> None:
    lowered, report = program.network, program.report
    trace = reference.run(lowered, FRAMES)
    sent = {"input": FRAMES.sum(axis=1).mean(axis=0), **{n: c.mean(axis=0) for n, c in trace.counts.items()}}
    for row in report["layers"]:
        fan = incidence(lowered, row["name"])
        assert row["neurons"] == int(np.prod(lowered.neuron(row["name"]).shape))
        assert row["synapses"] == sum(int(c.sum()) for c in fan.values())
        assert row["spikes_per_sample"] == pytest.approx(trace.counts[row["name"]].sum() / 9)
        assert row["synops_per_sample"] == pytest.approx(sum(float((sent[s] * c).sum()) for s, c in fan.items()))
        assert row["rate"] == pytest.approx(row["spikes_per_sample"] / row["neurons"] / 7)
    totals = report["totals"]
    for key in ("neurons", "synapses", "cores", "spikes_per_sample", "synops_per_sample"):
        assert totals[key] == pytest.approx(sum(row[key] for row in report["layers"]))
    assert totals["input_events_per_sample"] == pytest.approx((FRAMES != 0).sum() / 9)
    assert {row["name"] for row in report["layers"]} == set(lowered.populations)
    kinds = {row["name"]: row["kind"] for row in report["layers"]}
    assert kinds == {"hidden": "if", "out": "if", "hidden.on": "always-on"}


def test_a_dense_layer_counts_by_hand(program: d2e.Program) -> None:
    row = next(r for r in program.report["layers"] if r["name"] == "out")
    assert row["synapses"] == 96 * 3  # pooling and dense layer merged
    hidden = next(r for r in program.report["layers"] if r["name"] == "hidden")
    assert row["synops_per_sample"] == pytest.approx(3 * hidden["spikes_per_sample"])


def test_accuracy_and_count_errors_are_those_of_the_runs(program: d2e.Program) -> None:
    accuracy = program.report["accuracy"]
    source = reference.run(network().with_nodes(dict(program.source.nodes)), FRAMES)  # type: ignore[union-attr]
    lowered = reference.run(program.network, FRAMES)
    assert accuracy["source"] == (source.output.sum(axis=1).argmax(axis=1) == LABELS).mean()
    assert accuracy["program"] == (lowered.output.sum(axis=1).argmax(axis=1) == LABELS).mean()
    last = accuracy["passes"][-1]
    assert last["max_count_error"] == max(np.abs(source.counts[n] - lowered.counts[n]).max() for n in source.counts)
    assert last["spikes"] == pytest.approx(sum(lowered.counts[n].sum() for n in source.counts) / 9)
    assert [r["pass"] for r in accuracy["passes"]] == [
        "source", "discretise", "canonicalise", "check-rules", "encode-input", "fold-thresholds", "quantise", "latch-input",
        "map-neurons", "place",
    ]


def test_keys_are_those_that_were_promised(program: d2e.Program) -> None:
    data = json.loads(program.report.json())
    assert data.keys() == TOP
    assert data["engine"] == {"name": "loihi2-sim", "bit_exact_with": "lava-nc 0.10.0 fixed_pt"}
    assert data["totals"].keys() == TOTALS
    assert all(row.keys() <= LAYER for row in data["layers"])
    assert data["layers"][-1].keys() == LAYER
    assert data["accuracy"].keys() == {"source", "program", "passes", "samples"}
    assert all(row.keys() == {"pass", "accuracy", "spikes", "max_count_error"} for row in data["accuracy"]["passes"])
    assert all(entry.keys() == {"used", "limit"} for entry in data["fit"].values())
    assert data["fit"]["cores"]["used"] == data["totals"]["cores"]


def test_numbers_without_data_are_absent() -> None:
    report = d2e.compile(network()).report
    assert report.data.keys() == TOP - {"accuracy", "energy_published", "raster"}
    assert report["energy"] == []
    for row in report["layers"]:
        assert row.keys().isdisjoint(ACTIVITY)
    assert report["totals"].keys() == {"neurons", "synapses", "cores", "latency_steps"}
    unlabelled = d2e.compile(network(), eval=FRAMES).report
    assert unlabelled["accuracy"].keys() == {"passes", "samples"}
    assert "not measured (the data have no labels)" in unlabelled.text()


def test_a_readout_has_no_spikes() -> None:
    given = network().with_nodes({"out": LI(shape=(3,), decay_mem=np.float64(0.9))})
    row = d2e.compile(given, eval=(FRAMES, LABELS)).report["layers"][-1]
    assert (row["name"], row["kind"]) == ("out", "li")
    assert row.keys().isdisjoint({"spikes_per_sample", "rate"})


def test_drift_is_how_much_more_a_layer_fires_than_in_the_source(program: d2e.Program) -> None:
    source = reference.run(program.source, FRAMES)  # type: ignore[arg-type]
    lowered = reference.run(program.network, FRAMES)
    rows = {row["name"]: row for row in program.report["layers"]}
    assert rows["hidden.on"].keys().isdisjoint({"spikes_source_per_sample", "drift"})
    for name in ("hidden", "out"):
        assert rows[name]["spikes_source_per_sample"] == pytest.approx(source.counts[name].sum() / 9)
        assert rows[name]["drift"] == pytest.approx(lowered.counts[name].sum() / source.counts[name].sum() - 1)
    name, most = max(((n, rows[n]["drift"]) for n in ("hidden", "out")), key=lambda d: abs(d[1]))
    assert f"layers differ from the source by up to {100 * most:+.2f} % ({name})" in program.report.text()
    assert f"<td>{100 * most:+.2f} %</td>" in program.report.html()
    assert "drift" in program.evaluate((FRAMES, LABELS))["layers"][-1]


def test_a_silent_source_has_no_drift() -> None:
    report = d2e.compile(network(), eval=(np.zeros_like(FRAMES[:, :1]), LABELS)).report
    row = next(row for row in report["layers"] if row["name"] == "out")
    assert (row["spikes_source_per_sample"], "drift" in row) == (0, False)


def test_tables_hold_the_same_rows(program: d2e.Program, tmp_path: Path) -> None:
    folder = program.save(tmp_path / "program")
    layers = list(csv.DictReader(io.StringIO((folder / "layers.csv").read_text())))
    assert [row["name"] for row in layers] == [row["name"] for row in program.report["layers"]]
    assert [float(row["synops_per_sample"]) for row in layers] == [r["synops_per_sample"] for r in program.report["layers"]]
    mapping = list(csv.DictReader(io.StringIO((folder / "mapping.csv").read_text())))
    assert [int(row["core"]) for row in mapping] == list(range(program.report["totals"]["cores"]))
    assert sum(int(row["neurons"]) for row in mapping) == program.report["totals"]["neurons"]
    assert json.loads((folder / "report.json").read_text()) == json.loads(program.report.json())


def test_the_page_is_self_contained_and_escapes_names(tmp_path: Path) -> None:
    nodes = {("<b>fc" if n == "hidden" else n): node for n, node in network().nodes.items()}
    renamed = [Edge(*("<b>fc" if end == "hidden" else end for end in e[:2])) for e in network().edges]
    page = d2e.compile(Network(nodes, tuple(renamed)), eval=(FRAMES, LABELS)).report.html()
    assert "&lt;b&gt;fc" in page
    assert "<b>fc" not in page
    assert not re.search(r"(src|href)=", page)
    HTMLParser().feed(page)


def with_warnings(report: Report, count: int, energy: int = 0) -> Report:
    warnings = [{"code": "D2E-RANGE-003", "node": f"layer{i}", "message": "x" * 300} for i in range(count)]
    entries = [{"of": "given", "value_j": 1e-6, "label": "estimated", "source": "somewhere"}] * energy
    return Report({**report.data, "warnings": warnings, "energy": entries})


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 40])
def test_the_last_screen_has_at_most_fifteen_lines(program: d2e.Program, count: int) -> None:
    rows = [{"pass": f"p{i}", "accuracy": 0.5, "spikes": float(i), "max_count_error": i} for i in range(8)]
    busy = Report({**program.report.data, "accuracy": {**program.report["accuracy"], "passes": rows}})
    for report in (program.report, busy, d2e.compile(network()).report):
        for energy in (0, 1):
            for path in (None, "build/here"):
                text = with_warnings(report, count, energy).text(path)
                assert text.count("\n") <= 15
                assert max(map(len, text.splitlines())) <= 140
                assert re.search(rf"^warnings   {count or 'none'}\b", text, re.MULTILINE)
                assert path is None or text.endswith("written    build/here\n")


def test_the_digits_example_reads_as_it_did(golden: Callable[[str, str], None]) -> None:
    folder = ROOT / "examples" / "digits"
    program = d2e.compile(
        str(folder / "model.pt"), calibration=str(folder / "calibration.npz"), calibration_samples=16,
        eval=str(folder / "test.npz"), eval_samples=100,
    )
    text = program.report.text("build/model-loihi2-sim")
    assert text.count("\n") <= 15
    golden("digits-report.txt", text)

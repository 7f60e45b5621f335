"""What the pictures show, counted again by brute force: histograms, one sample, silent and saturated neurons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.compiler.report.models import FRAMES, LABELS, plain, program

import d2e
from d2e.compiler.replicas import replicas
from d2e.compiler.report import details
from d2e.ir import Linear, reference


@pytest.mark.parametrize("kind", ["plain", "bursts", "readout"])
def test_histograms_count_every_weight_before_and_after(kind: str) -> None:
    made = program(kind)
    stages = dict(made.stages)
    rows = {row["name"]: row for row in made.report["histograms"]}
    layer, weights = {"plain": ("out", "dense"), "bursts": ("first", "a"), "readout": ("out", "dense")}[kind]
    before, after = stages["fold-thresholds"].nodes[weights], stages["quantise"].nodes[weights]
    assert isinstance(before, Linear)
    assert isinstance(after, Linear)
    assert after.quantized is not None
    found = rows[layer]["weights"]
    scaled = after.weight * after.quantized.scale
    assert found["low"] == pytest.approx(min(before.weight.min(), scaled.min()), rel=1e-5)
    assert found["high"] == pytest.approx(max(before.weight.max(), scaled.max()), rel=1e-5)
    assert found["levels"] == len(np.unique(after.weight))
    for key, values in (("before", before.weight), ("after", scaled)):
        edges = np.linspace(min(before.weight.min(), scaled.min()), max(before.weight.max(), scaled.max()), details.BINS + 1)
        counted = np.histogram(values, edges)[0]
        assert sum(found[key]) == values.size
        assert np.abs(np.array(found[key]) - counted).sum() <= 4  # values on an edge may fall to either side
    if kind == "bursts":
        assert sum(rows["first"]["thresholds"]["before"]) == 3
    if kind == "readout":
        assert "thresholds" not in rows["out"]


@given(arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-100, 100, width=32)))
def test_bins_hold_every_value_once(values: np.ndarray) -> None:
    found = details._bins(values, np.rint(values))
    assert sum(found["before"]) == sum(found["after"]) == values.size
    assert found["low"] == pytest.approx(min(values.min(), np.rint(values).min()), rel=1e-5)


def test_without_the_pass_there_is_no_histogram() -> None:
    assert "histograms" not in d2e.compile(plain(), stop_after="canonicalise").report.data


@pytest.mark.parametrize("kind", ["plain", "leaving"])
def test_the_raster_is_the_first_sample(kind: str) -> None:
    made = program(kind)
    found = made.report["raster"]
    trace = reference.run(made.network, FRAMES[:1], "spikes")
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["input", "hidden", "out"]
    sent = {"input": FRAMES[0].reshape(8, -1), **{n: trace.spikes[n][0].reshape(8, -1) for n in ("hidden", "out")}}
    for name, row in rows.items():
        trains = ["".join("." if not x else str(int(x)) for x in column) for column in sent[name].T]
        assert row["neurons"] == len(trains)
        assert row["active"] == sum(set(train) != {"."} for train in trains)
        assert all(train in trains for train in row["trains"])
        assert len(row["trains"]) <= 24
        if row["neurons"] > 24:
            assert all(set(train) != {"."} for train in row["trains"])
    assert rows["out"]["trains"] == ["".join("." if not x else "1" for x in column) for column in sent["out"].T]
    assert ("exit" in found) == (kind == "leaving")
    if kind == "leaving":
        assert found["exit"] == made.run(FRAMES[:1]).steps[0] < 8


def test_the_raster_of_a_readout_is_its_membrane() -> None:
    made = program("readout")
    row = made.report["raster"]["rows"][-1]
    output = made.run(FRAMES[:1]).output[0]
    assert (row["low"], row["high"]) == (output.min(), output.max())
    digits = np.array([[int(d) for d in train] for train in row["trains"]]).T
    assert np.abs(digits - 9 * (output - output.min()) / (output.max() - output.min())).max() <= 1


def test_the_raster_adds_replicas_up() -> None:
    made = program("bursts")
    row = next(row for row in made.report["raster"]["rows"] if row["name"] == "first")
    assert (row["neurons"], len(replicas(made.network)["first"])) == (5, 3)
    assert set("".join(row["trains"])) <= set(".123")


def test_silent_and_saturated_are_counted_by_hand() -> None:
    made = program("leaving")
    rows = {row["name"]: row for row in made.report["layers"]}
    result = made.run(FRAMES)
    for name in ("hidden", "out"):
        counts = result.counts[name]
        assert rows[name]["silent"] == pytest.approx((counts.sum(axis=0) == 0).mean())
        steps = result.steps.reshape(-1, *[1] * (counts.ndim - 1))
        assert rows[name]["saturated"] == pytest.approx((counts == steps).mean())
        assert rows[name]["overflows"] == 0


def test_a_layer_of_levels_is_full_when_all_its_replicas_fire() -> None:
    made = program("bursts")
    counts = np.array([[24, 23, 0, 8, 24]])
    own = replicas(made.network)["first"]
    assert details.silent_and_full(made.network, own, counts, np.array([8])) == {"silent": 0.2, "saturated": 0.4}


def test_where_events_drive_the_chip_nothing_bounds_a_neuron() -> None:
    made = program("plain", "speck2f-sim")
    assert all("saturated" not in row and "silent" in row for row in made.report["layers"])


def test_only_the_engine_that_counts_overflows_reports_them() -> None:
    rows = program("plain").evaluate((FRAMES, LABELS), engine="reference")["layers"]
    assert all("overflows" not in row for row in rows)


def test_the_same_network_gives_the_same_report_and_page() -> None:
    made = program("plain")
    again = d2e.compile(dict(made.stages)["source"], eval=(FRAMES, LABELS), burst="replicas")
    assert again.report.json() == made.report.json()
    assert again.report.html(again.facts) == made.report.html(made.facts)

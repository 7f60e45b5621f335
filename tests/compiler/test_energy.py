"""Energy: activity counted by hand, estimates as sums, constants of the user's own, and no number without a source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import d2e
from d2e.compiler import energy
from d2e.ir import IF, Conv2d, Flatten, Input, Linear, Network, Output, UsageError
from d2e.ir.network import chain

RNG = np.random.default_rng(3)
FRAMES = RNG.integers(0, 2, (5, 6, 1, 4, 4))
LABELS = RNG.integers(0, 3, 5)


def network(**more: object) -> Network:
    return chain([
        ("input", Input(shape=(1, 4, 4), **more)),  # type: ignore[arg-type]
        ("conv", Conv2d(weight=RNG.normal(0.3, 0.4, (2, 1, 3, 3)))), ("hidden", IF(shape=(2, 2, 2))), ("flat", Flatten()),
        ("dense", Linear(weight=RNG.normal(0.2, 0.4, (3, 8)))), ("out", IF(shape=(3,), reset="zero")),
        ("output", Output(shape=(3,))),
    ])


def test_activity_is_what_is_counted_by_hand() -> None:
    program = d2e.compile(network(), eval=(FRAMES, LABELS))
    counts = energy.activity(program.network, found := program.measure((FRAMES, LABELS)))
    totals = program.report["totals"]
    assert counts["synops"] == pytest.approx(totals["synops_per_sample"])
    assert counts["spikes"] == pytest.approx(totals["spikes_per_sample"])
    assert counts["updates"] == totals["neurons"] * 6
    reached = np.zeros((4, 4))
    for y, x in np.ndindex(2, 2):
        reached[y : y + 3, x : x + 3] += 2
    conv = float((FRAMES.sum(axis=1)[:, 0] * reached).sum() / 5)
    hidden = float(found.messages["hidden"].sum())
    others = counts["dense_synops"] - 3 * hidden  # the soft reset's, one per spike, and the always-on neuron's
    assert counts["conv_synops"] == pytest.approx(conv)
    assert others >= hidden
    assert counts["conv_synops"] + counts["dense_synops"] == pytest.approx(counts["synops"])
    assert (counts["additions"], counts["multiplications"]) == (counts["synops"], 0.0)


def test_payloads_of_the_input_multiply() -> None:
    frames = RNG.integers(0, 4, (5, 6, 1, 4, 4))
    program = d2e.compile(network(max_payload=3), eval=(frames, LABELS))
    counts = energy.activity(program.network, program.measure((frames, LABELS)))
    first = next(row for row in program.report["layers"] if row["name"] == "hidden")
    assert 0 < counts["multiplications"] <= first["synops_per_sample"]
    assert counts["additions"] + counts["multiplications"] == pytest.approx(counts["synops"])


def test_on_a_chip_that_lives_by_events_every_synop_is_an_update() -> None:
    program = d2e.compile(network(), target="speck2f-sim", eval=(FRAMES, LABELS))
    counts = energy.activity(program.network, program.measure((FRAMES, LABELS)))
    assert counts["updates"] == counts["synops"] > 0


@pytest.mark.parametrize(("target", "of"), [
    ("loihi2-sim", ["Loihi 1, stated", "Loihi 1, fitted", "45 nm"]), ("speck2f-sim", ["45 nm"]), ("somebody-s", ["45 nm"]),
])
def test_a_chip_gets_no_constants_but_published_ones(target: str, of: list[str]) -> None:
    rows = energy.estimates(target, dict.fromkeys(energy.KINDS, 10.0))
    assert [row["of"] for row in rows] == of
    for row in rows:
        assert row["label"] == "estimated"
        assert row["value_j"] == pytest.approx(sum(part["count"] * part["each_j"] for part in row["parts"]))
        assert "proxy" in row["source"] or "of no chip" in row["source"]


def test_every_figure_has_its_source_label_and_unit() -> None:
    for constants in energy.CONSTANTS:
        assert constants.source
        assert constants.joules.keys() <= energy.KINDS.keys()
        assert all(1e-13 < value < 1e-9 for value in constants.joules.values())
    for figure in energy.PUBLISHED:
        assert figure.source
        assert figure.targets
        assert (figure.unit, figure.label) in {(u, la) for u in "JW" for la in ("measured", "simulated", "estimated")}
    assert {row["unit"] for row in energy.published("speck2e")} == {"W"}
    assert energy.published("somebody-s") == []


def test_reports_carry_estimates_where_activity_was_measured() -> None:
    program = d2e.compile(network())
    assert program.report["energy"] == []
    assert "energy_published" not in program.report.data
    report = program.evaluate((FRAMES, LABELS), energy={"source": "our board", "spikes": 5e-12})
    given_, *others = report["energy"]
    assert (given_["of"], given_["source"]) == ("given", "our board")
    assert given_["value_j"] == pytest.approx(5e-12 * report["totals"]["spikes_per_sample"])
    assert [row["of"] for row in others] == ["Loihi 1, stated", "Loihi 1, fitted", "45 nm"]
    assert f"energy     {given_['value_j']:.3g} J per sample (estimated: our board)" in report.text()
    assert "Loihi 1" not in report.text()
    assert "our board" in report.html()


def test_constants_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps({"source": "our board", "synops": 2e-12, "note": "at rest"}))
    program = d2e.compile(network(), eval=(FRAMES, LABELS), energy=str(path))
    row = program.report["energy"][0]
    assert row["value_j"] == pytest.approx(2e-12 * program.report["totals"]["synops_per_sample"])
    assert row["note"] == "at rest"
    assert program.facts["options"]["energy"]["name"] == "board.json"


@pytest.mark.parametrize(("given", "code"), [
    ({"synops": 1e-12}, "D2E-ENERGY-002"), ({"source": "", "synops": 1e-12}, "D2E-ENERGY-002"),
    ({"source": "x"}, "D2E-ENERGY-002"), ({"source": "x", "synop": 1e-12}, "D2E-ENERGY-002"),
    ({"source": "x", "synops": -1e-12}, "D2E-ENERGY-002"), ({"source": "x", "synops": True}, "D2E-ENERGY-002"),
    ({"source": "x", "synops": 23.6}, "D2E-ENERGY-002"), ({"source": "x", "synops": 10**400}, "D2E-ENERGY-002"),
    ({"source": "x", "synops": float("nan")}, "D2E-ENERGY-002"), ({"source": "x", "synops": "1 pJ"}, "D2E-ENERGY-002"),
    ("missing.json", "D2E-ENERGY-001"), ("text.json", "D2E-ENERGY-001"), ("list.json", "D2E-ENERGY-001"),
])
def test_constants_that_cannot_be_used_are_refused(
    given: object, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("2 pJ")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UsageError) as error:
        energy.own(given)  # type: ignore[arg-type]
    assert error.value.code == code


@given(st.lists(st.lists(st.floats(0, 1e9), min_size=7, max_size=7), min_size=1, max_size=3))
def test_estimates_of_parts_add_up(counts: list[list[float]]) -> None:
    parts = [energy.estimates("loihi2", dict(zip(energy.KINDS, own, strict=True))) for own in counts]
    whole = energy.estimates("loihi2", dict(zip(energy.KINDS, np.sum(counts, axis=0), strict=True)))
    for row, expected in zip(energy.summed(parts), whole, strict=True):
        assert row["of"] == expected["of"]
        assert row["value_j"] == pytest.approx(expected["value_j"])
        assert sum(p["count"] * p["each_j"] for p in row["parts"]) == pytest.approx(expected["value_j"])
    assert energy.summed([]) == []

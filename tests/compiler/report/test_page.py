"""Words, ways out and the page without a browser: the command that made a program, names escaped, nothing invented."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compiler.hosted.networks import transformer
from tests.compiler.report.browser import Tables
from tests.compiler.report.models import FRAMES, LABELS, leaving, plain, program

import d2e
from d2e.compiler.report import Report, plots
from d2e.compiler.report.page import fits
from d2e.compiler.report.remedies import WAYS_OUT, with_way_out
from d2e.compiler.report.words import command, engineering

ROOT = Path(__file__).parents[3]


def test_ways_out_are_those_of_the_page_of_errors() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (D2E-[A-Z0-9]+-\d{3}) \| ([^|]*warning[^|]*) \| [^|]+ \| ([^|]+) \|$", text, re.M)
    plain_text = {code: re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", way).replace("`", "") for code, _, way in rows}
    assert plain_text == WAYS_OUT
    assert with_way_out({"code": "OTHER-001", "message": "m"}) == {"code": "OTHER-001", "message": "m"}


def test_warnings_say_the_way_out_in_the_report_and_on_the_page() -> None:
    made = d2e.compile(plain(), eval=(FRAMES, LABELS), soft_reset="fallback")
    codes = {row["code"]: row for row in made.report["warnings"]}
    assert codes["D2E-LOIHI-023"]["hint"] == WAYS_OUT["D2E-LOIHI-023"]
    assert WAYS_OUT["D2E-LOIHI-023"] in Tables(made.report.html()).words["warnings"]


FILE = {"name": "test set.npz", "sha256": "0"}


@pytest.mark.parametrize(("facts", "expected"), [
    ({"model": {"name": "m.pt", "sha256": "0"},
      "options": {"target": "loihi2-sim", "weight_bits": {"": 8, "a b": 4}, "eval": FILE}},
     "d2e-compile m.pt --target loihi2-sim --weight-bits '8,a b=4' --eval 'test set.npz'"),
    ({"model": {"name": "p.m:f"}, "options": {"target": "t", "input_range": [0.0, 1.0], "allow_pickle": True}},
     "d2e-compile p.m:f --target t --input-range 0,1 --allow-pickle"),
    ({"model": {"name": "Network"}, "options": {"target": "t", "eval": {"name": "tuple"}, "calibration": FILE}},
     "d2e.compile(Network, target='t', eval=tuple, calibration='test set.npz')"),
    ({"model": {"name": "m.pt", "sha256": "0"}, "options": {"eval": {"name": "ndarray"}}},
     "d2e.compile('m.pt', eval=ndarray)"),
    ({}, None), ({"model": {"name": "m.pt"}}, None),
])
def test_the_command_is_that_of_the_manifest(facts: dict[str, Any], expected: str | None) -> None:
    assert command(facts) == expected


def test_the_command_of_a_program_makes_it_again(tmp_path: Path) -> None:
    digits = ROOT / "examples" / "digits"
    first = d2e.compile(str(digits / "model.pt"), eval=str(digits / "test.npz"), eval_samples=8, max_drop=50)
    first.save(tmp_path / "first")
    words = command(first.facts)
    assert words is not None
    tool, *args = words.split()
    path = str(Path(sysconfig.get_path("scripts")) / tool)
    subprocess.run([path, *args, "-o", str(tmp_path / "again"), "-q"], cwd=digits, capture_output=True, check=True)
    kept = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("first", "again")]
    assert kept[0]["files"] == kept[1]["files"]


@given(st.floats(1e-15, 1e3))
def test_prefixes_keep_the_value(value: float) -> None:
    shown, unit = engineering(value, "J").split(" ")
    scale = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12}[unit]
    assert float(shown) * scale == pytest.approx(value, rel=6e-3)
    assert abs(float(shown)) < 1000 or unit == "J"
    assert engineering(0.0, "W") == "0 W"
    assert (engineering(999.6e-9, "J"), engineering(-999.6e-9, "J")) == ("1 uJ", "-1 uJ")


def test_names_of_any_kind_are_escaped_everywhere() -> None:
    name = "<script>alert(1)&\"'"
    made = d2e.compile(plain(name), eval=(FRAMES, LABELS))
    page = made.report.html({**made.facts, "model": {"name": name}})
    assert "<script" not in page
    assert Tables(page).rows["layers"][1][0] == name
    HTMLParser().feed(page)
    assert not re.search(r"(src|href)=|url\(|@import|https?://(?!www\.w3\.org)", page)


def test_what_was_not_measured_has_no_section() -> None:
    bare = d2e.compile(plain()).report
    found = Tables(bare.html())
    assert set(found.rows) == {"verdict", "layers", "cores", "fit", "graph", "weights", "warnings"}
    assert "not measured" in found.words["verdict"]
    assert found.rows["layers"][0] == ["name", "kind", "neurons", "synapses", "weight bits", "cores"]
    smallest = {key: bare[key] for key in ("schema", "target", "engine", "layers", "totals", "energy", "warnings")}
    assert set(Tables(Report(smallest).html()).rows) == {"verdict", "layers", "warnings"}
    assert fits(smallest) is None


def test_a_readout_has_no_spikes_in_the_source_either() -> None:
    *_, out = program("readout").report["layers"]
    assert out["name"] == "out"
    assert not {"spikes_per_sample", "spikes_source_per_sample", "drift", "rate"} & set(out)
    page = Tables(program("readout").report.html()).rows["layers"]
    assert dict(zip(page[0], page[-1], strict=True))["spikes of the source"] == "-"


def test_an_early_exit_is_said_where_nothing_was_measured() -> None:
    words = Tables(d2e.compile(leaving()).report.html()).words["exit"]
    assert "Rule “calibrated”, not measured." in words


def test_notes_of_the_user_s_own_constants_stay_as_written() -> None:
    given = {"source": "our FPGA", "note": "at 20 C, the FPGA alone", "spikes": 5e-12}
    words = Tables(program("plain").evaluate((FRAMES, LABELS), energy=given).html()).words["energy"]
    assert "At 20 C, the FPGA alone" in words
    assert "estimates from the\nconstants named" in words


def test_a_layer_that_is_silent_in_the_source_alone_is_told_as_the_largest_drift() -> None:
    report = program("plain").report.data
    first, *others = report["layers"]
    silent = {**{key: value for key, value in first.items() if key != "drift"}, "spikes_source_per_sample": 0.0}
    made = Report({**report, "layers": [silent, *({**row, "drift": 0.0} for row in others)]})
    assert f"up to +inf % ({first['name']})" in made.text()
    assert "+inf %" in Tables(made.html()).words["verdict"]


def test_a_chart_of_many_layers_says_that_the_table_has_more() -> None:
    report = program("plain").report.data
    assert plots.layers(report)[0]["caption"] == "Activity of every layer."
    many = {**report, "layers": report["layers"] * 40}
    count = len(many["layers"])
    assert plots.layers(many)[0]["caption"] == f"Activity of the first 60 of {count} layers; the table has all."


def test_what_does_not_fit_is_said() -> None:
    made = d2e.compile(plain(), target="loihi2-sim{cores=1}")
    assert made.report["totals"]["cores"] > 1 or fits(made.report.data)
    over = {**made.report.data, "fit": {"cores": {"used": 3, "limit": 2}}}
    assert fits(over) is False
    assert "does not fit3 of 2 cores" in Tables(Report(over).html()).words["verdict"]


def test_the_page_of_a_large_network_stays_small() -> None:
    report = program("plain").report.data
    many = {**report, **{key: report[key] * 40 for key in ("layers", "histograms")}}
    few = [{**row, "trains": row["trains"][:4]} for row in report["raster"]["rows"]]
    many["raster"] = {**report["raster"], "rows": few * 14}
    many["core_map"] = {**report["core_map"], "cores": 5000, "rows": [[i, i % 2, 0.5, "memory"] for i in range(5000)]}
    assert len(Report(many).html()) < 1_000_000


def test_the_page_of_a_hosted_program_adds_its_parts_up() -> None:
    x = np.random.default_rng(0).normal(size=(6, *transformer().input.shape))
    made = d2e.compile(transformer(), calibration=x, eval=(x, np.zeros(6, np.int64)), burst="graded")
    rows, parts = made.report["energy"], [part.report["energy"] for _, part in made.segments]  # type: ignore[attr-defined]
    for row in rows:
        same = [own["value_j"] for part in parts for own in part if own["of"] == row["of"]]
        assert row["value_j"] == pytest.approx(sum(same))
        assert "alone" in row["note"]
    found = Tables(made.report.html())
    assert {"host", "energy", "graph", "weights"} <= set(found.rows)
    assert found.pictures["graph"] == 1

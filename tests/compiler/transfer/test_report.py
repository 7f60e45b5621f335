"""The report of a transfer: fifteen lines at most, JSON without what is not known, one page that needs nothing else."""

import copy
import csv
import io
import json
import math
import re
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2e.compiler.transfer import report
from d2e.compiler.transfer.bounds import compare, two_sample_bound
from d2e.compiler.transfer.energy import direct_rows, event_row


def compared(noise):
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(200, 4)) * 2
    return compare(teacher, teacher + noise * rng.normal(size=(200, 4)), teacher.argmax(axis=1)).facts()


def stage(name, noise, rate):
    return {"name": name, **compared(noise), "rates": {"2": rate, "5": 0.2}, "input_events": 353.0, "spikes": 1234.0,
            "synops": 56789.0}


FACTS = {
    "schema": 1, "method": "skd", "encoding": "ttfs", "time_steps": 8, "seed": 0,
    "settings": {"alpha": 0.4, "temperature": 1.0, "divergence": "forward-kl", "epochs": 4, "batch": 256,
                 "learning_rate": 0.1},
    "data": {"train": 900, "held": 100, "eval": 200},
    "teacher": {"accuracy": 0.9, "soft_accuracy": 0.8, "rates": {"2": 0.3, "5": 0.25}, "mac_first": 5000, "spikes": 2000.0,
                "synops": 90000.0},
    "stages": [stage("zero-shot", 3.0, 0.05), stage("calibrated", 1.5, 0.3), stage("student", 0.4, 0.28)],
    "epochs": [{"epoch": i, "lr": 0.1, "loss": 1.0 / i, "ce": 0.9 / i, "divergence": 1.1 / i,
                "train_accuracy": 0.5 + 0.1 * i, "held": compared(1.5 / i)} for i in range(1, 5)],
    "pearson": 0.93,
    "encoder": {"ceiling_bits": math.log2(9), "entropy_bits": 2.31, "pixel_bits": 4.92, "spike_fraction": 0.45,
                "input_events": 353.0},
    "gradient": {"cosine": 0.21, "relative_norm": 7.5, "direct_norm": 0.1, "event_norm": 0.8,
                 "layers": {"0": {"cosine": 0.2, "relative_norm": 8.0, "direct_norm": 0.1, "event_norm": 0.7}}},
    "collapse": [{"layer": "2", "state": "collapsed", "teacher": 0.3, "student": 0.05, "ratio": 1 / 6, "remedy": "latch"}],
    "programs": [{"target": "loihi2-sim", "folder": "loihi2-sim", "accuracy": 0.81, "spikes": 1200.0, "synops": 50000.0,
                  "cores": 4, "latency_steps": 6}],
    "energy": [*direct_rows("teacher", 5000, 90000.0, 8), event_row("student", 4000.0, 50000.0)],
    "warnings": [{"code": "D2E-ENC-005", "node": "input", "message": "1 % are clipped"}],
}


def test_the_last_screen(golden):
    golden("report.txt", report.text(FACTS, "out"))


def nothing(keys):
    found = copy.deepcopy(FACTS)
    for key in keys:
        del found[key]
    return found


@given(st.sets(st.sampled_from(sorted(FACTS.keys() - {"method"}))), st.integers(0, 40))
def test_any_part_may_be_missing_and_fifteen_lines_are_enough(missing, warnings):
    found = nothing(missing)
    if "warnings" in found:
        found["warnings"] = [{"code": "D2E-ENC-005", "message": "x" * 300}] * warnings
    lines = report.text(found, "a" * 200).splitlines()
    assert len(lines) <= 15
    assert all(len(line) <= 140 for line in lines[:-1])
    assert lines[-1] == f"written    {'a' * 200}"
    assert not re.search(r"\bNone\b|nan", "\n".join(lines[:-1]))


@pytest.mark.parametrize("key", [None, *sorted(FACTS.keys() - {"method", "schema"})])
def test_the_page_needs_no_part_and_nothing_from_elsewhere(key, monkeypatch):
    found = nothing([key] if key else [])
    if key not in (None, "teacher", "stages", "epochs", "programs"):
        monkeypatch.setattr("d2e.compiler.transfer.plots.charts", lambda facts: [])  # the others' data are not drawn
    page = report.html(found)

    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            assert not {"src", "srcset"} & {name for name, _ in attrs}
            assert tag not in ("script", "link", "img", "iframe")
            if tag not in ("meta", "path", "use", "rect"):
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            assert tag not in ("script", "img")

        def handle_endtag(self, tag):
            if tag not in ("path", "use", "rect"):
                assert self.open.pop() == tag

    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    links = re.findall(r'(?:href|url)[=(]"?([^")\s]+)', page)
    assert all(link.startswith("#") or link == "loihi2-sim/report.html" for link in links)
    assert not re.search(r"\bNone\b(?!\.)|nan\b", re.sub("<svg.*?</svg>", "", page, flags=re.S))


def test_charts_follow_the_data_and_the_page_s_colours():
    page = report.html(FACTS)
    assert page.count("<figure>") == 5
    assert "currentColor" in page
    assert "#000" not in re.sub(r"#000[0-9a-f]", "", page)
    assert report.html(nothing(["epochs"])).count("<figure>") == 2
    assert "<figure>" not in report.html(nothing(["epochs", "stages", "teacher", "programs"]))
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert report.html(FACTS) == page


def test_files_hold_what_was_found_and_leave_out_what_is_not_known(tmp_path):
    facts = {**FACTS, "pearson": None, "encoder": {"entropy_bits": np.float64(2.123456789), "spike_fraction": math.nan}}
    report.write(facts, tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["encoder"] == {"entropy_bits": 2.12346}
    assert "pearson" not in data
    assert data["stages"][2]["holds"] is True
    rows = list(csv.DictReader(io.StringIO((tmp_path / "epochs.csv").read_text())))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[3]["held_kl"]) == pytest.approx(FACTS["epochs"][3]["held"]["kl"], rel=1e-5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    report.write(facts, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_epochs_there_is_no_table_of_them(tmp_path):
    report.write(nothing(["epochs"]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_bound_that_does_not_hold_is_said():
    facts = copy.deepcopy(FACTS)
    facts["epochs"][1]["held"]["holds"] = facts["stages"][0]["holds"] = False
    assert report.verdict(facts) == "DOES NOT HOLD in zero-shot, epoch 2: the logits there are no numbers"
    assert "DOES NOT HOLD" in report.text(facts)
    assert "DOES NOT HOLD" in report.html(facts)
    assert report.verdict({"stages": [{"name": "student", "accuracy": 0.5}]}) is None


def test_events_of_other_samples_have_a_lower_bound_and_no_verdict(monkeypatch):
    monkeypatch.setattr("d2e.compiler.transfer.plots.charts", lambda facts: [])
    found = two_sample_bound(np.zeros((8, 2)), np.ones((6, 2)))
    page = report.html({"method": "tsf", "two_sample": asdict(found)})
    assert "at least 1" in page
    assert "The bound on the soft gap" not in page


def test_layers_of_a_student_with_an_event_mapping_stand_beside_the_teacher_s():
    facts = copy.deepcopy(FACTS)
    facts["stages"] = [{**facts["stages"][2], "rates": {"3": 0.125, "6": 0.25}}]
    assert "<tr><td>2</td><td>0.3</td><td>0.125</td></tr>" in report.html(facts)

"""The student on chips and the folder of a transfer: what is in it, that it is whole, what is refused before training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.conftest import listing
from tests.compiler.transfer.conftest import SHAPE, STEPS, Samples, codes, never
from torch import nn

import d2e
import d2e.nn as dn
from d2e.compiler.transfer import report
from d2e.ir import UnsupportedError, UsageError

OPTIONS = {"epochs": 8, "encoding": "ttfs{latch}", "targets": ("loihi2-sim",)}


@pytest.fixture(scope="module")
def done(shelf: Path, lesson: Samples, exam: Samples, tmp_path_factory: pytest.TempPathFactory) -> d2e.Transfer:
    """A transfer to one chip, written."""
    folder = tmp_path_factory.mktemp("transfer") / "out"
    return d2e.transfer(
        shelf / "teacher.pt", data=lesson, eval=exam, batch=32, learning_rate=0.1, output=str(folder), **OPTIONS)


@pytest.fixture
def folder(done: d2e.Transfer) -> Path:
    assert done.folder is not None
    return done.folder


def test_the_folder_has_the_student_its_report_and_its_programs(folder):
    found = listing(folder)
    top = [name for name in found if "/" not in name]
    assert top == ["epochs.csv", "loihi2-sim", "manifest.json", "report.html", "report.json", "student.pt"]
    assert {"loihi2-sim/manifest.json", "loihi2-sim/program.npz", "loihi2-sim/report.json"} <= found.keys()
    manifest = json.loads(found["manifest.json"])
    files = {name: content for name, content in found.items() if content is not None and name != "manifest.json"}
    assert manifest["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert manifest["transfer"] == "skd"
    assert found["epochs.csv"].decode().count("\n") == 1 + OPTIONS["epochs"]


def test_the_same_run_writes_the_same_bytes(done, folder, transfer, tmp_path):
    transfer(output=str(tmp_path / "elsewhere" / "again"), **OPTIONS)
    assert listing(tmp_path / "elsewhere" / "again") == listing(folder)


def test_the_report_is_the_facts(done, folder):
    found = json.loads((folder / "report.json").read_text())
    assert found == report.rounded(done.facts)
    assert (found["schema"], found["method"], found["encoding"], found["time_steps"]) == (1, "skd", "ttfs{latch}", STEPS)
    assert found["programs"] == [report.rounded(row) for row in done.facts["programs"]]


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and None below a value, with its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield from [(path, value)] if not isinstance(value, (str, bool)) else []
        return
    for key, each in items:
        yield from numbers(each, f"{path}/{key}")


def test_a_number_without_data_is_absent(transfer, tmp_path):
    transfer(method="zero-shot", output=str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not {"programs", "epochs", "settings", "pearson", "warnings"} & found.keys()
    assert [path for path, value in numbers(found) if value in (None, 0) and path != "/seed"] == []
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "manifest.json", "report.html", "report.json", "student.pt"]


def test_the_program_answers_as_often_rightly_as_the_student(done, folder, exam):
    row, student = done.facts["programs"][0], done.facts["stages"][-1]
    assert (row["target"], row["folder"], row["samples"]) == ("loihi2-sim", "loihi2-sim", 90)
    for program in (done.programs["loihi2-sim"], d2e.load(folder / "loihi2-sim")):
        assert program.evaluate(exam)["accuracy"]["program"] == row["accuracy"]
        assert (program.run(exam[0]).output.mean(axis=1).argmax(axis=1) == exam[1]).mean() == row["accuracy"]
    assert student["accuracy"] > 0.8
    assert row["accuracy"] == pytest.approx(student["accuracy"], abs=0.05)
    assert row["spikes"] == pytest.approx(student["spikes"], rel=0.1)
    assert row["cores"] >= 3
    assert done.programs["loihi2-sim"].folder == folder / "loihi2-sim"


@pytest.mark.parametrize("options", [{"mean": [0.2], "std": [0.5]}, {"encoding": "dvs"}], ids=str)
def test_a_mapping_merges_into_the_first_layer_of_the_chip(transfer, options):
    """With its bias, which stops at the border of the image."""
    found = transfer(epochs=8, targets=["loihi2-sim"], **options)
    row, student = found.facts["programs"][0], found.facts["stages"][-1]
    assert row["accuracy"] == pytest.approx(student["accuracy"], abs=0.04)
    assert row["spikes"] == pytest.approx(student["spikes"], rel=0.05)
    assert row["cores"] == 3


def test_the_input_events_of_chip_and_student_are_counted_alike(transfer):
    found = transfer(encoding="ttfs", method="zero-shot", targets=["loihi2-sim"]).facts
    assert found["programs"][0]["input_events"] == pytest.approx(found["stages"][0]["input_events"])


def test_the_student_alone_compiles_to_the_same_program(folder, lesson, exam):
    ours = d2e.load(folder / "loihi2-sim")
    again = d2e.compile(folder / "student.pt", "loihi2-sim", calibration=lesson)
    np.testing.assert_array_equal(again.run(exam[0]).output, ours.run(exam[0]).output)
    plain = d2e.compile(folder / "student.pt")
    assert plain.network.input.time_steps == STEPS
    answers = [program.run(exam[0]).output.mean(axis=1).argmax(axis=1) for program in (plain, ours)]
    assert (answers[0] == answers[1]).mean() > 0.95


def test_the_student_in_the_folder_is_the_one_returned(done, folder, exam):
    kept = torch.load(folder / "student.pt", weights_only=False)
    assert kept["d2e"]["encoder"] == "ttfs{latch}"
    frames = torch.rand(5, STEPS, *SHAPE)
    with torch.no_grad():
        assert torch.equal(kept["model"](frames), done.student(frames))


def speck_student() -> dn.Sequential:
    torch.manual_seed(0)
    return dn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), dn.IF(0.5, v_min=-0.5), nn.Flatten(), nn.Linear(72, 3, bias=False),
        dn.IF(0.5, v_min=-0.5))


def test_several_chips_have_a_program_each(transfer, tmp_path):
    given = speck_student(), {"input_shape": SHAPE, "time_steps": STEPS, "coding": "direct", "readout": "count"}
    targets = ("speck2f-sim", "loihi2-sim{cores=10}")
    found = transfer(model=given, epochs=1, targets=targets, output=str(tmp_path / "out"))
    assert tuple(found.programs) == targets
    rows = found.facts["programs"]
    assert [(row["target"], row["folder"]) for row in rows] == [
        ("speck2f-sim", "speck2f-sim"), ("loihi2-sim{cores=10}", "loihi2-sim")]
    for row in rows:
        assert d2e.load(tmp_path / "out" / row["folder"]).report["accuracy"]["program"] == row["accuracy"]
        assert row["input_events"] == pytest.approx(found.facts["stages"][-1]["input_events"])


# --------------------------------------------------------------------------- told before it trains


@pytest.mark.parametrize(("targets", "error"), [
    (["speck2f-sim"], UnsupportedError), (["loihi2-sim", "speck2f-sim"], UnsupportedError),
    (["loihi3"], UsageError), (["loihi2{colour=red}"], UsageError),
], ids=str)
def test_a_target_that_cannot_take_the_student(transfer, tmp_path, targets, error):
    with pytest.raises(error) as raised:
        transfer(targets=targets, output=str(tmp_path / "out"), listen=never)
    assert codes(raised).startswith("D2E-")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_d2e_did_not_make_is_left_alone_and_one_that_it_made_replaced(transfer, tmp_path, folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError) as raised:
        d2e.transfer("nowhere.pt", data="nowhere.npz", output=str(tmp_path / "mine"))
    assert codes(raised) == "D2E-FILE-010"
    assert listing(tmp_path / "mine") == {"notes.txt": b"mine"}
    transfer(epochs=1, output=str(tmp_path / "out"))
    transfer(method="zero-shot", output=str(tmp_path / "out"))
    assert "epochs.csv" not in listing(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("No space left on device"), RuntimeError])
def test_what_fails_while_it_is_written_leaves_the_old_folder(transfer, tmp_path, monkeypatch, fault):
    transfer(method="zero-shot", output=str(tmp_path / "out"))
    before = listing(tmp_path)

    def write(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(report, "write", write)
    with pytest.raises((KeyboardInterrupt, UsageError, RuntimeError)):
        transfer(method="calibrate", output=str(tmp_path / "out"))
    with pytest.raises((KeyboardInterrupt, UsageError, RuntimeError)):
        transfer(method="calibrate", output=str(tmp_path / "new" / "out"))
    assert listing(tmp_path) == before


def test_interrupted_training_leaves_nothing(transfer, tmp_path):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(output=str(tmp_path / "out"), listen=stop)
    assert not list(tmp_path.iterdir())

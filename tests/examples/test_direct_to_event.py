"""The digits of Direct-to-Event: the command in its first lines as it stands, from teacher to both chips."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.direct_to_event import train
from tests.cli.conftest import Done, call, listing
from torch import nn

import d2e
from d2e.compiler.frontends.files import opened

EXAMPLE = Path(__file__).parents[2] / "examples" / "direct_to_event"
POINT = 0.01


def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(EXAMPLE / f"{name}.npz") as data:
        return data["x"], data["y"]


def command() -> list[str]:
    """That of the docstring."""
    found = re.search(r"^    (d2e transfer (?:.*\\\n)*.*)$", str(train.__doc__), re.MULTILINE)
    assert found is not None
    return shlex.split(found[1].replace("\\\n", " "))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """What it printed, and its folder."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "examples").symlink_to(EXAMPLE.parent)
    program, *args = command()
    return call(program, *args, cwd=folder, OMP_NUM_THREADS="1"), folder / "build" / "digits-events"


@pytest.fixture(scope="module")
def facts(run: tuple[Done, Path]) -> dict:
    return json.loads((run[1] / "report.json").read_text())


def test_the_files_are_small_and_what_they_say():
    assert all(path.stat().st_size < 100_000 for path in EXAMPLE.iterdir() if path.suffix in (".pt", ".npz"))
    (x, y), (held, labels) = images("train"), images("test")
    assert (x.shape, held.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in held}
    for part, classes in ((x, y), (held, labels)):
        assert (part.dtype, part.min(), part.max()) == (np.float32, 0, 1)
        assert set(classes) == set(range(10))


def test_the_teacher_is_the_network_that_its_script_builds():
    kept = opened(EXAMPLE / "teacher.pt", False)
    built = train.build()
    assert str(kept["model"]) == str(built)
    assert [p.shape for p in kept["model"].parameters()] == [p.shape for p in built.parameters()]
    assert {k: kept["d2e"][k] for k in ("input_shape", "time_steps", "coding", "readout")} == {
        "input_shape": (1, 8, 8), "time_steps": train.STEPS, "coding": "direct", "readout": "count"}
    x, y = images("test")
    with torch.no_grad():
        answers = kept["model"](train.over_time(torch.from_numpy(x))).sum(dim=1).argmax(dim=1).numpy()
    assert f"{100 * (answers == y).mean():.2f}" == "97.78"


def test_the_script_trains_what_learns():
    torch.manual_seed(0)
    model, (x, y) = train.build(), images("train")
    frames, labels = torch.from_numpy(x[:256]), torch.from_numpy(y[:256].astype(np.int64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train.train(model, frames, labels, epochs=4, batch=16)
    with torch.no_grad():
        found = (model(train.over_time(frames)).sum(dim=1).argmax(dim=1) == labels).float().mean()
    assert found > 0.7
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_command_ends_with_the_student_and_both_programs(run):
    done, folder = run
    assert (done.code, len(done.out.splitlines()) <= 15) == (0, True)
    assert done.out.splitlines()[-1] == "written    build/digits-events"
    top = {name for name in listing(folder) if "/" not in name}
    assert top == {"epochs.csv", "loihi2-sim", "manifest.json", "report.html", "report.json", "speck2f-sim", "student.pt"}


def test_the_student_answers_nearly_as_often_rightly_as_its_teacher(facts):
    zero, student = facts["stages"]
    assert facts["teacher"]["accuracy"] == pytest.approx(352 / 360, abs=1e-5)
    assert zero["accuracy"] < 0.3
    assert student["accuracy"] > 0.95 * facts["teacher"]["accuracy"]
    assert student["accuracy"] - zero["accuracy"] > 0.35
    assert len(facts["epochs"]) == facts["settings"]["epochs"] == 40
    assert all(row["holds"] for row in (*facts["stages"], *(row["held"] for row in facts["epochs"])))
    assert facts["data"] == {"train": 1294, "held": 143, "eval": 360}
    assert "pearson" in facts


def test_both_chips_are_in_the_report(run, facts):
    loihi, speck = facts["programs"]
    student = facts["stages"][-1]
    assert (loihi["target"], speck["target"]) == ("loihi2-sim", "speck2f-sim")
    assert abs(loihi["accuracy"] - student["accuracy"]) <= POINT
    assert speck["accuracy"] > 0.8
    x, y = images("test")
    for row in facts["programs"]:
        assert row["input_events"] == pytest.approx(student["input_events"], rel=1e-5)
        program = d2e.load(run[1] / row["folder"])
        found = program.evaluate((x[:60], y[:60]))["accuracy"]["program"]
        assert abs(found - row["accuracy"]) < 0.15
        assert program.network.input.encoder.kind == "ttfs"
        assert row["target"] in (run[1] / "report.html").read_text()


def test_every_pixel_sends_one_spike_or_none(run):
    kept = opened(run[1] / "student.pt", False)
    assert isinstance(kept["model"], nn.Module)
    network = d2e.compile(run[1] / "student.pt", "loihi2-sim").network
    x, _ = images("test")
    sent = network.input.encoder.encode(np.repeat(x[:, None], train.STEPS, axis=1), 0, 1)
    assert set(np.unique(sent.sum(axis=1))) == {0, 1}
    np.testing.assert_array_equal(sent.sum(axis=1) == 0, np.floor(x * (train.STEPS + 1)) == 0)

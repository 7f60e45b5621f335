"""d2e transfer on a tiny task: what it prints and writes, how it is stopped and goes on, and its faults."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import Done, listing
from tests.compiler.transfer.conftest import SHAPE, STEPS, network, pictures, taught
from torch import nn

import d2e as package
import d2e.nn as dn
from d2e import cli
from d2e.cli_transfer import transfer_command

QUICK = ("--epochs", 3, "--batch", 32, "--learning-rate", 0.1)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, its data, and what is no teacher or no data."""
    folder = tmp_path_factory.mktemp("shelf")
    facts = {"input_shape": SHAPE, "time_steps": STEPS, "coding": "direct", "readout": "mean"}
    dn.save(taught(network(dropout=0.1), pictures(240)), folder / "teacher.pt", **facts)
    dn.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), folder / "ann.pt", **facts)
    dn.save(network(), folder / "student.pt", **{**facts, "coding": "spikes"})
    x, y = pictures(240)
    arrays = {
        "train": {"x": x, "y": y}, "pixels": {"x": (255 * x).astype(np.uint8), "y": y}, "images": {"x": x},
        "few": {"x": x[:9], "y": y[:9]}, "other": {"x": x, "y": y + 1},
        "test": dict(zip("xy", pictures(90, 1), strict=True)), "events": {"x": np.repeat(x[:, None] > 0.5, STEPS, axis=1)},
    }
    for name, table in arrays.items():
        np.savez(folder / f"{name}.npz", **table)
    return folder


@pytest.fixture
def transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], shelf: Path
) -> Callable[..., Done]:
    """``d2e transfer teacher.pt --data train.npz --eval test.npz …`` in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object, data: str = "train.npz") -> Done:
        given = ("transfer", shelf / "teacher.pt", "--data", shelf / data, *QUICK, *args)
        code = cli.app([str(a) for a in given], standalone_mode=False)
        return Done(code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def declined(refused: Callable[..., str], shelf: Path) -> Callable[..., str]:
    """``declined(exit code, code, *args)``: see `refused`."""
    def check(exit_code: int, code: str, *args: object, model: str = "teacher.pt", data: str = "train.npz") -> str:
        return refused(exit_code, code, "transfer", shelf / model, "--data", shelf / data, *QUICK, *args, program="d2e")

    return check


def test_the_last_screen_says_what_came_of_it(transfer, shelf, tmp_path):
    done = transfer("--eval", shelf / "test.npz", "--target", "loihi2-sim", "--start", "calibrated")
    lines = done.out.splitlines()
    assert (done.code, len(lines) <= 15) == (0, True)
    assert lines[0].startswith("method     skd, encoding ttfs, T 4, seed 0, alpha 0.4")
    assert [line[:11].rstrip() for line in lines[1:6]] == ["teacher", "zero-shot", "calibrated", "student", "loihi2-sim"]
    assert lines[-1] == "written    build/teacher-ttfs-skd"
    facts = json.loads((tmp_path / "build" / "teacher-ttfs-skd" / "report.json").read_text())
    assert f"{100 * facts['stages'][-1]['accuracy']:.2f} %" in lines[4]
    assert f"{100 * facts['programs'][0]['accuracy']:.2f} %" in lines[5]
    assert any(line.startswith("bound      holds in 3 epochs and 3 stages") for line in lines)
    heard = done.err.splitlines()
    assert heard[0] == "[epoch 1 of 3] 7 steps"
    assert all(re.fullmatch(r"\[epoch [23] of 3, \d+\.\d % held-out before\] 7 steps", line) for line in heard[1:])
    assert len(heard) == 3
    assert listing(tmp_path).keys() >= {"build/teacher-ttfs-skd/student.pt", "build/teacher-ttfs-skd/loihi2-sim/program.npz"}


def test_the_student_compiles_without_another_word(transfer, compile_, tmp_path):
    assert transfer("--method", "calibrate", "-o", "out", "-q").code == 0
    after = compile_("out/student.pt", "-q", OMP_NUM_THREADS="1")
    assert (after.code, after.err) == (0, "")
    program = package.load(tmp_path / "build" / "student-loihi2-sim")
    assert (program.network.input.time_steps, program.network.input.encoder.kind) == (STEPS, "ttfs")


@pytest.mark.parametrize(("given", "name"), [
    ((), "teacher-ttfs-zero-shot"), (("--encoding", "ttfs{latch}"), "teacher-ttfs-latch-zero-shot"),
    (("--encoding", "bernoulli{seed=3}"), "teacher-bernoulli-seed-3-zero-shot"),
    (("--events", "events.npz"), "teacher-events-zero-shot"), (("-o", "new/place"), None),
], ids=str)
def test_where_it_is_written_unless_stated(transfer, shelf, tmp_path, given, name):
    given = tuple(shelf / each if each == "events.npz" else each for each in given)
    done = transfer("--method", "zero-shot", "-q", *given)
    path = f"build/{name}" if name else "new/place"
    assert done.out.splitlines()[-1] == f"written    {path}"
    assert (tmp_path / path / "student.pt").is_file()
    assert done.err == ""


def test_json_is_all_that_stdout_holds(transfer, tmp_path):
    done = transfer("--json", "-q", "-o", "out", "--target", "loihi2-sim")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {"folder": "out", **json.loads((tmp_path / "out" / "report.json").read_text())}


def test_options_reach_the_training(transfer, tmp_path):
    given = {"--alpha": 0.2, "--temperature": 4, "--divergence": "mse", "--warm-up": 0.5, "--weight-decay": 0.001,
             "--augment": "shift", "--patience": 2, "--seed": 3, "-T": 5, "--precision": "bfloat16", "--device": "cpu"}
    done = transfer("--json", "-q", "-o", "out", "--event-mapping", *(each for pair in given.items() for each in pair))
    facts = json.loads(done.out)
    assert facts["settings"] == {
        "epochs": 3, "batch": 32, "learning_rate": 0.1, "warm_up": 0.5, "momentum": 0.9, "weight_decay": 0.001, "alpha": 0.2,
        "temperature": 4, "divergence": "mse", "augment": "shift", "patience": 2}
    assert (facts["seed"], facts["time_steps"], facts["event_mapping"]) == (3, 5, True)
    assert transfer("-q", "--mean", 0.2, "--std", 0.5, "--method", "zero-shot", "-o", "out").code == 0
    student = torch.load(tmp_path / "out" / "student.pt", weights_only=False)["model"]
    assert (student[0].weight.item(), student[0].bias.item()) == (2, pytest.approx(-0.4))


def test_a_run_that_was_killed_goes_on_to_the_same_result(transfer, shelf, tmp_path):
    """Killed as by a lack of memory, in the second epoch; the same bytes but for the hour."""
    args = ("--augment", "flip-shift", "--patience", "3")
    options = {"augment": "flip-shift", "patience": 3, "epochs": 3, "batch": 32, "learning_rate": 0.1, "resume": "kept",
               "data": str(shelf / "train.npz"), "output": "out"}
    script = (
        "import os, sys, d2e, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "def listen(done, total, what):\n    if what.startswith('epoch 2') and done == 3: os.kill(os.getpid(), 9)\n"
        f"d2e.transfer(sys.argv[1], listen=listen, **{options!r})\n")
    killed = subprocess.run([sys.executable, "-c", script, str(shelf / "teacher.pt")], cwd=tmp_path, capture_output=True,
                            text=True, timeout=240, check=False)
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")
    assert list(listing(tmp_path)) == ["kept"]
    again = transfer(*args, "--resume", "kept", "-o", "out")
    assert [line.split(",")[0] for line in again.err.splitlines()] == ["[epoch 2 of 3", "[epoch 3 of 3"]
    assert transfer(*args, "-o", "whole", "-q").code == 0
    assert listing(tmp_path / "out") == listing(tmp_path / "whole")
    ended = transfer(*args, "--resume", "kept", "-o", "out")
    assert (ended.out, ended.err) == (again.out, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_leaves_nothing(programs, shelf, tmp_path, number):
    command = [programs / "d2e", "transfer", shelf / "teacher.pt", "--data", shelf / "train.npz", "--epochs", "100000"]
    process = subprocess.Popen([*map(str, command), "-o", "new/out"], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("[epoch 1 of 100000] ")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (128 + number, "")
    assert "Traceback" not in err
    assert err.endswith("interrupted\n") == (number == signal.SIGINT)
    assert not list(tmp_path.iterdir())


def test_help_shows_every_option(d2e):
    done = d2e("transfer", "--help")
    assert (done.code, done.err) == (0, "")
    for name in inspect.signature(transfer_command).parameters:
        shown = {"as_json": "json", "targets": "target", "model": "MODEL"}.get(name, name).replace("_", "-")
        assert (f"--{shown}" if shown != "MODEL" else shown) in done.out
    for word in ("zero-shot", "calibrate", "skd", "forward-kl", "flip-shift", "dvs"):
        assert word in done.out


def test_every_option_is_a_keyword_of_the_function():
    options, keywords = (inspect.signature(each).parameters for each in (transfer_command, package.transfer))
    assert set(options) - {"as_json", "quiet"} == set(keywords) - {"listen"}
    assert {k: p.default for k, p in options.items() if k in keywords and k != "targets"} == {
        k: p.default for k, p in keywords.items() if k not in ("listen", "targets")}


FAULTS = {
    "--method other": "D2E-TRANS-008", "--start nowhere": "D2E-TRANS-008", "--divergence kl": "D2E-TRANS-008",
    "--augment crop": "D2E-TRANS-008", "--precision int8": "D2E-TRANS-008", "--epochs 0": "D2E-TRANS-008",
    "--batch 1": "D2E-TRANS-008", "--learning-rate 0": "D2E-TRANS-008", "--alpha 2": "D2E-TRANS-008",
    "--method tsf --alpha 0.5": "D2E-TRANS-008", "--temperature 0": "D2E-TRANS-008", "--patience 0": "D2E-TRANS-008",
    "--mean 0.5": "D2E-TRANS-008", "--mean 0.1,0.2 --std 1,1": "D2E-TRANS-008", "--mean a --std 1": "D2E-USE-001",
    "--target loihi2 --target loihi2{cores=2}": "D2E-TRANS-008",
    "--device nowhere": "D2E-TRANS-006", "--encoding direct": "D2E-TRANS-009", "--encoding morse": "D2E-ENC-006",
    "--learning-rate inf": "D2E-TRANS-013", "--eval nowhere.npz": "D2E-DATA-001", "--input-shape 8,x": "D2E-USE-001",
    "--encoding dvs --augment shift": "D2E-TRANS-008", "--target nowhere": "D2E-USE-002",
}


@pytest.mark.parametrize("given", FAULTS)
def test_options_that_mean_nothing(declined, given):
    declined(2, FAULTS[given], *given.split())


def test_teachers_and_data_that_do_not_fit(declined, shelf, tmp_path):
    assert "d2e convert" in declined(3, "D2E-TRANS-003", model="ann.pt")
    assert "coding spikes" in declined(2, "D2E-TRANS-002", model="student.pt")
    declined(2, "D2E-LOAD-001", model="missing.pt")
    assert "255" in declined(2, "D2E-TRANS-010", data="pixels.npz")
    declined(2, "D2E-TRANS-011", data="few.npz")
    declined(2, "D2E-DATA-003", data="images.npz")
    assert "from 1 to 3" in declined(2, "D2E-DATA-003", data="other.npz")
    declined(2, "D2E-TRANS-012", "--events", shelf / "test.npz")
    declined(2, "D2E-TRANS-012", "--eval-events", shelf / "events.npz")
    (tmp_path / "kept").write_text("mine")
    declined(2, "D2E-TRANS-014", "--resume", "kept")


def test_accelerate_that_is_missing(declined, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "d2e[train]" in declined(5, "D2E-TRANS-007")


def test_places_that_cannot_be_written_are_told_first(declined, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    declined(2, "D2E-FILE-011", "-o", "file/out", model="missing.pt")
    declined(2, "D2E-FILE-010", "-o", "folder", model="missing.pt")
    declined(2, "D2E-FILE-010", "-o", "file", model="missing.pt")
    declined(2, "D2E-FILE-011", "--resume", "file/kept")


@pytest.mark.parametrize("given", ["", "--data x.npz --seed -1", "--data x.npz -T 0"])
def test_a_command_line_that_cannot_be_read(d2e, given):
    done = d2e("transfer", "net.pt", *given.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")

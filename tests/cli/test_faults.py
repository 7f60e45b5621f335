"""Bad input: each fault has its exit code and its code, one sentence on stderr, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from tests.cli.conftest import DIGITS

EXITS = {
    2: ("D2E-LOAD-005", ("{broken}/truncated.pt",)), 3: ("D2E-LAYER-001", ("{broken}/maxpool.pt",)),
    4: ("D2E-GATE-001", (
        "{model}", "--eval", "{data}", "--eval-samples", 30, "--max-drop", 1, "--weight-bits", 2, "--scale", "max", "-q")),
}


@pytest.mark.parametrize("exit_code", EXITS)
def test_each_exit_code_from_the_real_program(compile_, broken, model, data, exit_code, tmp_path):
    code, args = EXITS[exit_code]
    done = compile_(*(str(a).format(broken=broken, model=model, data=data) for a in args))
    assert (done.code, done.out) == (exit_code, "")
    assert re.fullmatch(rf"error: {code}: .*\n", done.err)
    assert not list(tmp_path.iterdir())


FILES = {
    "truncated.pt": (2, "D2E-LOAD-005", "cut short"),
    "text.pt": (2, "D2E-LOAD-004", "torch.save"),
    "empty.pt": (2, "D2E-LOAD-003", "empty"),
    "folder.pt": (2, "D2E-LOAD-002", "folder"),
    "missing.pt": (2, "D2E-LOAD-001", "no file"),
    "frames_9x9.npz": (2, "D2E-LOAD-014", "no ending"),
    "truncated.nir": (2, "D2E-FILE-003", "not a whole HDF5 file"),
    "missing.nir": (2, "D2E-LOAD-001", "no file"),
    "maxpool.pt": (3, "D2E-LAYER-001", "AvgPool2d"),
    "relu.pt": (3, "D2E-LAYER-002", "spiking neuron"),
    "nan.pt": (3, "D2E-NODE-002", "node '1'"),
    "ends_in_linear.pt": (3, "D2E-LOIHI-002", "node '3'"),
    "burst.pt": (3, "D2E-LOIHI-003", "reset='subtract'"),
    "multi_threshold.pt": (3, "D2E-LOIHI-003", "reset='subtract'"),
}


@pytest.mark.parametrize("name", FILES)
def test_models_that_cannot_be_compiled(refused, broken, name):
    exit_code, code, words = FILES[name]
    assert words in refused(exit_code, code, broken / name, "--target", "loihi2", "-o", "out")


def test_files_that_the_system_does_not_give(refused, tmp_path):
    refused(2, "D2E-FILE-002", "a" * 300 + ".pt", "-o", "out")
    refused(2, "D2E-FILE-002", "inspect", "a" * 300 + ".pt", program="d2e")
    (tmp_path / "file").write_text("mine")
    refused(2, "D2E-FILE-002", "file/model.nir", "-o", "out")


@pytest.mark.parametrize("name", ["bomb.pt", "bomb_zip.pt"])
def test_a_pickle_that_runs_code_is_refused_and_did_not_run(refused, broken, name):
    assert "--allow-pickle" in refused(2, "D2E-LOAD-006", broken / name)
    for command in ("check", "inspect"):
        refused(2, "D2E-LOAD-006", command, broken / name, program="d2e")
    assert not (broken / "exploded").exists()


def test_where_the_user_insists_it_runs(d2e, broken):
    assert d2e("inspect", broken / "bomb.pt").code == 2
    assert not (broken / "exploded").exists()
    assert d2e("inspect", broken / "bomb.pt", "--allow-pickle").code == 2
    assert (broken / "exploded").exists()
    (broken / "exploded").unlink()


def test_a_nir_file_that_leaves_choices_open_lists_them_with_their_flags(refused, broken):
    said = refused(2, "D2E-NIR-002", broken / "open.nir")
    assert all(flag in said for flag in ("--dt", "--reset", "--fire", "--max-spikes", "--profile"))
    said = refused(2, "D2E-NIR-002", broken / "open.nir", "--dt", "1e-3", "--fire", "ge", "--max-spikes", 1)
    assert "--reset" in said
    assert "--fire" not in said


DATA = {
    "frames_9x9": "D2E-INPUT-001", "no_time": "D2E-INPUT-001", "nans": "D2E-INPUT-002", "twos": "D2E-INPUT-003",
    "halves": "D2E-INPUT-003", "labels_12": "D2E-DATA-003", "labels_negative": "D2E-DATA-003",
    "labels_few": "D2E-DATA-003", "no_x": "D2E-DATA-002", "no_samples": "D2E-DATA-002", "text": "D2E-DATA-002",
    "steps_8": "D2E-DATA-004", "none": "D2E-DATA-001", "objects": "D2E-DATA-001", "missing": "D2E-DATA-001",
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_do_not_fit(refused, broken, model, name):
    refused(2, DATA[name], model, "--eval", broken / f"{name}.npz")


def test_data_of_another_shape_than_the_model_are_told_everywhere(refused, broken, model, program):
    frames = broken / "frames_9x9.npz"
    assert "[4, 16, 1, 9, 9]" in refused(2, "D2E-INPUT-001", model, "--calibration", frames)
    assert "1, 8, 8" in refused(2, "D2E-INPUT-001", "run", program, "--data", frames, program="d2e")
    refused(3, "D2E-SHAPE-001", model, "--input-shape", "1,9,9")


OPTIONS = {
    "--target nope": "D2E-USE-002",
    "--target loihi2-sim{": "D2E-USE-002",
    "--target loihi2-sim{volts=3}": "D2E-USE-011",
    "--target loihi2-sim{cores=none}": "D2E-USE-011",
    "--passes quantise,nope": "D2E-USE-005",
    "--passes quantise;place": "D2E-USE-005",
    "--passes quantise{": "D2E-USE-005",
    "--passes quantise{depth=3}": "D2E-USE-005",
    "--passes quantise{percentile=x}": "D2E-USE-005",
    "--passes quantise{weight-bits=x}": "D2E-USE-013",
    "--passes map-neurons": "D2E-USE-006",
    "--stop-after nope": "D2E-USE-005",
    "--print-ir-after nope": "D2E-USE-005",
    "--weight-bits 9": "D2E-USE-003",
    "--weight-bits 0": "D2E-USE-003",
    "--weight-bits fc=x": "D2E-USE-013",
    "--weight-bits auto --budget 4": "D2E-USE-004",
    "--budget 4": "D2E-USE-014",
    "--weight-bits other=4": "D2E-USE-015",
    "--scale nope": "D2E-USE-012",
    "--scale spikes": "D2E-USE-004",
    "--percentile 101 --scale percentile": "D2E-USE-012",
    "--burst nope": "D2E-USE-009",
    "--max-drop 1": "D2E-USE-010",
    "--input-shape 1,x": "D2E-USE-001",
    "--input-shape 0,8,8": "D2E-LOAD-010",
    "--coding nope": "D2E-LOAD-010",
    "--readout nope": "D2E-LOAD-010",
    "--dt nan": "D2E-LOAD-010",
    "--reset zero": "D2E-LOAD-017",
}


@pytest.mark.parametrize("given", OPTIONS)
def test_options_that_mean_nothing(refused, model, given):
    refused(2, OPTIONS[given], model, "-o", "out", *given.split())


@pytest.mark.parametrize("given", ["--nope", "--time-steps 0", "--eval-samples x", "second", "--max-drop -1"])
def test_a_command_line_that_cannot_be_read(compile_, model, given, tmp_path):
    done = compile_(model, *given.split())
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"error: .*\. See d2e-compile --help\.\n", done.err)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_not_to_be_written(refused, model, data, program, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "a web page", "manifest_version": 3}')
    for name in ("file", "mine", "app", "."):
        refused(2, "D2E-FILE-010", model, "-o", name)
    for name in ("file/below", "file/far/below", "/proc/d2e", "/proc/d2e/below", "a" * 300):
        refused(2, "D2E-FILE-011", model, "-o", name)
    for name in ("file/below.npz", "mine", "absent/results.npz"):
        refused(2, "D2E-FILE-011", "run", program, "--data", data, "--samples", 1, "-o", name, program="d2e")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(refused, model, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(2, "D2E-FILE-011", model, "-o", "locked/out")
    locked.chmod(0o000)
    refused(2, "D2E-FILE-011", model, "-o", "locked/out")
    locked.chmod(0o700)


def test_programs_that_are_none_or_were_changed(refused, d2e, program, data, tmp_path):
    refused(2, "D2E-LOAD-020", "run", "nowhere", "--data", data, program="d2e")
    shutil.copytree(program, tmp_path / "changed")
    with (tmp_path / "changed" / "program.nir").open("ab") as file:
        file.write(b"!")
    refused(2, "D2E-LOAD-021", "run", "changed", "--data", data, program="d2e")
    refused(2, "D2E-LOAD-021", "inspect", "changed", program="d2e")
    refused(2, "D2E-USE-007", "run", program, "--data", data, "--engine", "nope", program="d2e")
    refused(2, "D2E-USE-008", "run", program, "--data", data, "--record", "nope", program="d2e")


def test_what_is_missing_here(refused, d2e, model, program, data, tmp_path):
    lava = d2e("lava", "check", D2E_LAVA_PYTHON="/nowhere/python")
    assert (lava.code, lava.out, len(lava.err.splitlines())) == (5, "", 1)
    run = ("--data", data, "--samples", 1, "--engine")
    nowhere = {"D2E_LAVA_PYTHON": "/nowhere/python"}
    said = refused(5, "D2E-LAVA-001", "run", program, *run, "loihi2-lava", program="d2e", **nowhere)
    assert "d2e lava install" in said
    refused(5, "D2E-LAVA-001", "lava", "check", program="d2e", **nowhere)
    refused(5, "D2E-LAVA-001", "lava", "check", program="d2e", D2E_LAVA_PYTHON=sys.executable)
    refused(5, "D2E-LAVA-002", "lava", "install", "--path", "new", "--python", "/nowhere/python", program="d2e")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    refused(2, "D2E-LAVA-005", "lava", "install", "--path", "mine", program="d2e")
    refused(5, "D2E-LAVA-001", "run", program, *run, "loihi2-lava", program="d2e", D2E_LAVA_PYTHON=sys.executable)
    bursts = (DIGITS / "burst.pt", "--burst", "replicas")
    refused(3, "D2E-FIT-002", *bursts, "--target", "loihi2{cores=1}", "-o", "out")


@pytest.mark.lava
def test_the_chip_is_missing_here(refused, compile_, lava_python, model, data):
    assert compile_(model, "--target", "loihi2", "-o", "chip", "-q").code == 0
    run = ("run", "chip", "--data", data, "--samples", 1, "--engine", "loihi2")
    said = refused(5, "D2E-HW-001", *run, program="d2e", D2E_LAVA_PYTHON=str(lava_python))
    assert "lava-loihi" in said


FACTORIES = {
    "nowhere_at_all:net": "D2E-LOAD-012", "shop:absent": "D2E-LOAD-012", "broken_shop:net": "D2E-LOAD-012",
    "shop:raises": "D2E-LOAD-013", "shop:number": "D2E-LOAD-008", "shop:shapeless": "D2E-LOAD-011",
}


@pytest.mark.parametrize("name", FACTORIES)
def test_factories_that_fail(refused, tmp_path, name):
    (tmp_path / "shop.py").write_text(
        "from torch import nn\ndef raises(): raise RuntimeError('no weights')\ndef number(): return 3\n"
        "def shapeless(): return nn.Linear(2, 2)\n"
    )
    (tmp_path / "broken_shop.py").write_text("import nothing_of_that_name\n")
    refused(2, FACTORIES[name], name)


def test_a_fault_of_d2e_names_its_log_and_shows_no_traceback(model, tmp_path):
    script = (
        "import sys, d2e.compiler.api as api, d2e.cli\n"
        "def fails(*args, **options): raise ZeroDivisionError('a slip')\n"
        "api.compile = fails\nsys.argv = ['d2e-compile', sys.argv[1]]\nd2e.cli.compile_main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first == "internal error: a slip"
    logs = list(tmp_path.iterdir())
    assert [str(path) for path in logs] == [second.rpartition(" ")[2]]
    assert "ZeroDivisionError: a slip" in logs[0].read_text()

"""The deployment scripts as their page shows them, on simulated boards; on Ctrl-C, and where no board answers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import d2e
from d2e.ir import EarlyExit

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "deployment"
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
SHARE = re.compile(r"^sim:.*\n", re.M)                             # what one board of a fleet had, which is chance


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def call(folder: Path, script: str, *args: object) -> Done:
    """Run a script as ``python script args`` in a folder does, in this process, which has torch already."""
    out, err, argv, path, code = io.StringIO(), io.StringIO(), sys.argv, sys.path[:], 0
    sys.argv = [script, *map(str, args)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder):
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv, sys.path[:] = argv, path
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the examples, and what the page compiles of them."""
    folder = tmp_path_factory.mktemp("deployment")
    for path in (ROOT / "examples" / "digits").iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copytree(ROOT / "examples" / "shapes", folder / "shapes")
    (folder / "my_camera.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.S)[1])
    for line in re.findall(r"^\$ python (compile_once.*)$", PAGE, re.M):
        script, *args = shlex.split(line)
        done = call(folder, script, *args)
        assert done.returncode == 0, done.stderr
        assert f"written    {args[-1]}\n" in done.stdout
    return folder


def shown() -> list[object]:
    """(command line, what it prints) of the page."""
    found = [part for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
             for part in re.findall(r"^\$ python (.*)\n((?:(?!\$ ).*\n)*)", block, re.M)]
    return [pytest.param(*each, id=each[0].split()[0]) for each in found if not each[0].startswith("compile_once")]


@pytest.mark.parametrize(("line", "printed"), shown())
def test_the_page_holds(line: str, printed: str, place: Path) -> None:
    script, *args = shlex.split(line)
    done = call(place, script, *args)
    assert done.returncode == 0, done.stderr
    assert SHARE.sub("", done.stdout) == SHARE.sub("", printed)


def test_every_script_is_on_the_page():
    assert set(re.findall(r"^\$ python (\w+\.py)", PAGE, re.M)) == {p.name for p in SCRIPTS.glob("*.py")}


def test_engines_agree_on_every_sample(place):
    simulator, board = (
        call(place, "stream_file.py", "digits-speck", "test.npz", "--samples", 4, "--engine", engine).stdout
        for engine in ("speck2f-sim", "simulated-board")
    )
    assert simulator == board
    assert simulator.count("sample") == 4


# --------------------------------------------------------------------------- all boards


def evaluate(place, output, devices):
    return call(place, "evaluate_on_boards.py", "digits-speck", "test.npz", "--batch", 90, "-o", output,
                "--devices", devices)


def test_boards_share_the_samples_and_one_that_goes_away_costs_none(place, tmp_path):
    done = evaluate(place, tmp_path / "figures", "sim:0{fail=after:2},sim:1")
    assert done.returncode == 0, done.stderr
    assert sum(int(n) for n in re.findall(r"^sim:\d: (\d+) samples", done.stdout, re.M)) == 360
    assert "98.06 % right, 360 rows" in done.stdout
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["bench.json", "manifest.json", "samples.csv"]


def test_where_all_boards_go_away_the_same_call_runs_the_rest(place, tmp_path):
    lost = evaluate(place, tmp_path / "figures", "sim:0{fail=after:3}")
    assert (lost.returncode, json.loads((tmp_path / "figures/bench.json").read_text())["complete"]) == (5, False)
    kept = len((tmp_path / "figures.jsonl").read_text().splitlines())
    done = evaluate(place, tmp_path / "figures", "sim:1")
    assert done.returncode == 0, done.stderr
    assert "98.06 % right, 360 rows" in done.stdout
    assert 1 < kept < len((tmp_path / "figures.jsonl").read_text().splitlines())


def test_where_no_board_is_there_simulated_ones_are_and_the_script_says_so(place, tmp_path):
    done = call(place, "evaluate_on_boards.py", "digits-speck", "test.npz", "-o", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert "speck2f:0: samna is not installed\nno board answers: two simulated ones do\n" in done.stderr


# --------------------------------------------------------------------------- the camera


def test_ctrl_c_ends_the_camera_well_and_keeps_the_counts(place, tmp_path):
    counts = tmp_path / "counts.npz"
    with subprocess.Popen(
        [sys.executable, str(SCRIPTS / "stream_camera.py"), "shapes-speck", "--output", str(counts)], cwd=place,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:
        seen = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "stopped\n" in rest
    with np.load(counts) as kept:
        classes = kept["classes"].tolist()
        assert all(kept[name].shape[0] == len(classes) for name in kept.files)
        assert kept.files[1:] == [f"counts/{name}" for name in d2e.load(place / "shapes-speck").populations]
    assert f"counts of {len(classes)} windows" in rest
    told = [int(line.rsplit(" ", 1)[1]) for line in [*seen, *rest.splitlines()] if line.startswith("window")]
    assert told == classes[: len(told)]
    assert len(told) >= 2


def test_counts_are_kept_where_a_fault_ends_the_camera(place, tmp_path):
    (place / "torn.py").write_text(
        "import numpy as np\n\n\ndef windows(shape, steps, most):\n    for _ in range(2):\n"
        "        yield np.ones((steps, *shape), int)\n    yield np.ones((steps, 1), int)\n")
    counts = tmp_path / "counts.npz"
    done = call(place, "stream_camera.py", "shapes-speck", "--output", counts, "--source", "torn:windows")
    assert done.returncode == 2
    assert done.stderr.startswith("D2E-INPUT-001: ")
    assert f"counts of 2 windows in {counts}\n" in done.stdout
    with np.load(counts) as kept:
        assert {kept[name].shape[0] for name in kept.files} == {2}


def test_a_source_that_is_not_there_is_a_wrong_call(place, tmp_path):
    done = call(place, "stream_camera.py", "shapes-speck", "--output", tmp_path / "c.npz", "--source", "nowhere:windows")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


# --------------------------------------------------------------------------- faults


def test_where_no_speck_answers_the_simulator_does_and_says_so(place):
    done = call(place, "with_fallback.py", "digits-speck", "test.npz")
    assert done.returncode == 0
    assert "speck2f does not answer: samna is not installed" in done.stderr
    assert "running in speck2f-sim" in done.stderr


def test_where_no_loihi_answers_the_simulator_does_and_says_so(place, monkeypatch):
    monkeypatch.setenv("D2E_LAVA_PYTHON", "/nowhere")
    done = call(place, "with_fallback.py", "digits-loihi", "test.npz")
    assert (done.returncode, done.stdout) == (0, "loihi2-sim: 351 of 360 right\n")
    assert "loihi2 does not answer" in done.stderr


@pytest.mark.parametrize(("args", "code"), [
    (("stream_file.py", "digits-speck", "test.npz", "--engine", "speck2f"), 5),
    (("stream_file.py", "digits-speck", "test.npz", "--engine", "warp"), 2),
    (("stream_file.py", "nowhere", "test.npz"), 2),
    (("read_counts.py", "digits-loihi", "nowhere.npz"), 2),
    (("with_fallback.py", "digits-speck", "shapes/test.npz"), 2),
    (("stream_camera.py", "shapes-speck"), 2),
    (("stream_camera.py", "shapes-speck", "--output", "test.npz/never.npz"), 2),
    (("compile_once.py", "model.pt", "--eval", "test.npz", "--max-drop", "-100", "-o", "never"), 4),
])
def test_scripts_exit_as_d2e_does(args, code, place):
    done = call(place, *args)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert not (place / "never").exists()


def test_early_exits_are_read(place, tmp_path):
    program = d2e.load(place / "digits-loihi")
    network = program.network
    rule = EarlyExit(bounds=np.full(16, 0.5), scale=5.0)
    quick = replace(program, network=network.with_nodes({network.outputs[0]: replace(network.output, exit=rule)}))
    quick.save(tmp_path / "quick")
    done = call(place, "read_counts.py", tmp_path / "quick", "test.npz")
    with np.load(place / "test.npz") as data:
        steps = quick.run(data["x"]).steps
    assert f"{len(steps)} samples, {steps.mean():.2f} of 16 steps in the mean" in done.stdout
    for n, samples in zip(*np.unique(steps, return_counts=True), strict=True):
        assert f"{samples} samples stopped after {n} steps\n" in done.stdout
    assert len(np.unique(steps)) > 1

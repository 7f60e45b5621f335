"""The other commands of d2e: run, inspect, targets, lava, version, help; and what the screen may show."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import nir
import numpy as np
import pytest

import d2e as package
from d2e.backends.loihi2.limits import LIMITS


def test_run_says_how_good_the_program_is(d2e, program, data):
    done = d2e("run", program, "--data", data, "--samples", 30)
    assert (done.code, done.err) == (0, "")
    accuracy = json.loads((program / "report.json").read_text())["accuracy"]["program"]
    assert done.out.startswith(f"loihi2-sim: 30 samples, accuracy {100 * accuracy:.2f} %\nspikes per sample: 1 ")
    exact = d2e("run", program, "--data", data, "--samples", 3, "--engine", "reference", "--json")
    quick = d2e("run", program, "--data", data, "--samples", 3, "--json")
    assert {**json.loads(exact.out), "engine": "loihi2-sim"} == json.loads(quick.out)


def test_run_writes_what_it_recorded(d2e, program, data, tmp_path):
    frames = np.load(data)["x"][:2]
    np.save(tmp_path / "frames.npy", frames)
    done = d2e("run", program, "--data", "frames.npy", "--record", "state", "-o", "results.npz")
    assert (done.code, done.err) == (0, "")
    assert "accuracy" not in done.out
    result = package.load(program).run(frames, record="state")
    with np.load(tmp_path / "results.npz") as kept:
        assert set(kept.files) == {"output", "predictions"} | {
            f"{what}/{name}" for what in ("counts", "spikes", "u", "v") for name in ("1", "3", "7")
        }
        assert np.array_equal(kept["output"], result.output)
        assert np.array_equal(kept["v/3"], result.v["3"])
        assert np.array_equal(kept["predictions"], result.output.sum(axis=1).argmax(axis=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames.npy", "results.npz"]


@pytest.mark.lava
def test_run_in_lava_gives_the_same(d2e, lava_python, program, data, tmp_path):
    for engine in ("loihi2-sim", "loihi2-lava"):
        args = ("--samples", 1, "--record", "state", "--engine", engine, "-o", f"{engine}.npz")
        done = d2e("run", program, "--data", data, *args, D2E_LAVA_PYTHON=str(lava_python))
        assert (done.code, done.err) == (0, "")
    with np.load(tmp_path / "loihi2-sim.npz") as ours, np.load(tmp_path / "loihi2-lava.npz") as lava:
        assert set(ours.files) == set(lava.files)
        assert [name for name in ours.files if not np.array_equal(ours[name], lava[name])] == []
    done = d2e("lava", "check", D2E_LAVA_PYTHON=str(lava_python))
    assert done.out.startswith(f"{lava_python}\n")
    assert "lava-nc 0.10.0" in done.out


def test_check_tells_whose_nir_file_it_reads(d2e, tmp_path):
    four = np.full(4, 1.0, np.float32)
    nodes = {
        "input": nir.Input(np.array([6])), "0": nir.Linear(np.full((4, 6), 0.25, np.float32)),
        "1": nir.LIF(tau=four * 1e-3, r=four * 10, v_leak=four * 0, v_threshold=four), "output": nir.Output(np.array([4])),
    }
    nir.write(tmp_path / "f.nir", nir.NIRGraph(nodes, [("input", "0"), ("0", "1"), ("1", "output")]))
    done = d2e("check", "f.nir", "--time-steps", 8, "--json")
    assert done.code == 0
    found = {entry["code"]: entry for entry in json.loads(done.out)}
    assert found["D2E-NIR-010"]["severity"] == "warning"
    assert "written by snntorch" in found["D2E-NIR-010"]["message"]
    assert "--reset" in found["D2E-NIR-011"]["message"]
    assert d2e("check", "f.nir", "--time-steps", 8, "--profile", "sinabs{v_min=x}").code == 2


def test_targets_and_their_limits(d2e):
    done = d2e("targets")
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "loihi2-sim", "loihi2", "speck2f-sim", "speck2f", "speck2e-sim", "speck2e"]
    limits = d2e("targets", "loihi2").out.splitlines()
    assert limits[1] == "engines: loihi2, loihi2-lava, loihi2-sim, reference"
    assert limits[2:4] == ["option:  loihi2{cores=NUMBER}  cores there are",
                           "option:  loihi2{chips=NUMBER}  chips there are, instead of cores"]
    assert [line.split()[0] for line in limits[4:]] == list(LIMITS)
    assert all(LIMITS[line.split()[0]].source in line for line in limits[4:])
    assert d2e("targets", "nope").code == 2


def test_version_and_help(d2e, compile_):
    assert d2e("--version").out == f"{package.__version__}\n"
    single = ("compile", "convert", "transfer", "check", "run", "inspect", "targets")
    for command in ((), *((name,) for name in single), ("lava", "install")):
        done = d2e(*command, "--help")
        assert (done.code, done.err) == (0, "")
        assert done.out.strip().startswith("Usage: d2e")
    done = compile_("--help")
    for code in range(1, 6):
        assert f" {code} " in done.out
    assert compile_().code == 2


@pytest.mark.parametrize("command", ["d2e-compile --help", "d2e --help", "d2e convert --help", "d2e transfer --help"])
def test_help_imports_nothing_heavy(command):
    main = "compile_main" if command.startswith("d2e-compile") else "main"
    script = (
        f"import sys\nfrom d2e import cli\nsys.argv = {command.split()}\n"
        f"try:\n    cli.{main}()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'nir', 'nirtorch', 'h5py', 'matplotlib', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert ("Commands" if command == "d2e --help" else "--time-steps") in done.stdout


def on_a_terminal(command: list[str], **env: str) -> str:
    """What a program shows on a terminal that knows colours."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", **env}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    process.wait()
    os.close(ours)
    return shown.decode()


def test_no_color_is_honoured(programs, tmp_path):
    colour = re.compile(r"\x1b\[[\d;]*\b(3[0-7]|9[0-7]|38;[\d;]*)m")
    command = [str(programs / "d2e"), "--help"]
    assert colour.search(on_a_terminal(command))
    assert not colour.search(on_a_terminal(command, NO_COLOR="1"))
    wrong = [str(programs / "d2e-compile"), str(tmp_path / "missing.pt"), "-o", str(tmp_path / "out")]
    assert "\x1b" not in on_a_terminal(wrong, NO_COLOR="1")

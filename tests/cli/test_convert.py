"""d2e convert on a tiny network: what it prints and writes, and its faults."""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import Done, listing
from torch import nn

import d2e as package
import d2e.nn as dn
from d2e import cli
from d2e.cli_convert import convert_command
from d2e.compiler.convert import report
from d2e.ir import nirfile
from d2e.progress import Progress


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks over 8x8 images, 64 images, and the same with the answers of ``net.pt`` as labels."""
    folder = tmp_path_factory.mktemp("shelf")
    kinds: dict[str, tuple[nn.Module, nn.Module]] = {
        "net": (nn.ReLU(), nn.AvgPool2d(2)), "maxpool": (nn.ReLU(), nn.MaxPool2d(2)), "gelu": (nn.GELU(), nn.AvgPool2d(2)),
    }
    nets = {}
    for name, layers in kinds.items():
        torch.manual_seed(0)
        nets[name] = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
        dn.save(nets[name], folder / f"{name}.pt", input_shape=(1, 8, 8))
    torch.save(nets["net"], folder / "shapeless.pt")
    x = np.random.default_rng(0).normal(0.3, 1.0, (64, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "images.npz", x=x)
    np.savez(folder / "few.npz", x=x[:15])
    np.savez(folder / "frames_9x9.npz", x=np.zeros((64, 1, 9, 9), np.float32), y=np.zeros(64, int))
    with torch.no_grad():
        np.savez(folder / "test.npz", x=x, y=nets["net"](torch.from_numpy(x)).argmax(1).numpy())
    return folder


@pytest.fixture
def convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], shelf: Path
) -> Callable[..., Done]:
    """``d2e convert net.pt --calibration images.npz …`` in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object, model: str = "net.pt", calibration: str = "images.npz") -> Done:
        source = model if ":" in model else shelf / model
        given = ("convert", source, "--calibration", shelf / calibration, *args)
        code = cli.app([str(a) for a in given], standalone_mode=False)
        return Done(code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def declined(refused: Callable[..., str], shelf: Path) -> Callable[..., str]:
    """``declined(exit code, code, *args)``: see `refused`."""
    def check(exit_code: int, code: str, *args: object, model: str = "net.pt", calibration: str = "images.npz") -> str:
        return refused(exit_code, code, "convert", shelf / model, "--calibration", shelf / calibration, *args, program="d2e")

    return check


def test_the_file_is_where_it_says_loads_and_compiles(convert, shelf, tmp_path):
    done = convert("-T", 6, "--max-burst", 3, "--eval", shelf / "test.npz")
    assert done.code == 0
    assert list(listing(tmp_path)) == ["build", "build/net-adaptive.nir"]
    lines = done.out.splitlines()
    assert lines[0] == "method     adaptive, T 6, phi 3, calibration advanced"
    assert lines[1] == "network    2 layers and a readout, 276 neurons"
    assert lines[2].startswith("bursts     3x2 ")
    assert lines[-2] == "written    build/net-adaptive.nir"
    network = nirfile.read("build/net-adaptive.nir")
    facts = network.metadata["conversion"]
    assert f"accuracy   100.00 % ANN -> {100 * facts['accuracy']['snn']:.2f} % SNN" in done.out
    program = package.compile("build/net-adaptive.nir", target="loihi2-sim", calibration=str(shelf / "images.npz"))
    assert program.network.input.time_steps == 6
    assert program.report["conversion"] == facts


def test_the_next_command_is_one(convert, compile_, shelf):
    done = convert("--eval", shelf / "test.npz", "-o", "a name.nir", "-q")
    command = f"d2e-compile 'a name.nir' --target loihi2-sim --calibration {shelf}/images.npz --eval {shelf}/test.npz"
    assert done.out.splitlines()[-1] == f"next       {command}"
    after = compile_("a name.nir", *command.split()[3:], "--eval-samples", 4, "-q", OMP_NUM_THREADS="1")
    assert (after.code, after.err) == (0, "")


def test_the_summary_has_every_choice_in_at_most_fifteen_lines(convert, shelf, tmp_path):
    done = convert("--budget", 0.7, "--compress", 0.1, "--early-exit", 5, "--eval", shelf / "test.npz", "-o", "new/net.nir")
    facts = nirfile.read(tmp_path / "new" / "net.nir").metadata["conversion"]
    lines = {line[:11].strip(): line[11:] for line in done.out.splitlines()}
    assert len(done.out.splitlines()) <= 15
    assert lines["method"].endswith(", search rate-distortion, budget 0.7, compressed by up to 0.1 of the divergence")
    assert lines["divergence"] == (
        f"{facts['kl']:.3g} nats (KL) from the ANN on 16 held-out samples; 48 set the neurons")
    spikes, synops = facts["spikes_per_sample"], facts["synops_per_sample"]
    assert lines["activity"] == f"{spikes:,.1f} spikes, {synops:,.0f} synops per sample in all 8 steps"
    assert lines["early exit"] == "by the rule 'calibrated'; it may change 5 points of the answers"
    assert f" in {facts['accuracy']['mean_steps']:.2f} of 8 steps in the mean; all steps: " in lines["accuracy"]
    assert all(re.fullmatch(r"\[[a-z]+\] \d+ measured", line) for line in done.err.splitlines())
    assert [line.split("]")[0] for line in done.err.splitlines()] == ["[budget", "[compression"]


def test_layers_are_told_from_the_front_and_ratios_where_they_are_not_1(convert, tmp_path):
    convert("-q")
    network = nirfile.read(tmp_path / "build" / "net-adaptive.nir")
    facts = network.metadata["conversion"]
    changed = {**facts, "bursts": {"5": 1, "1": 4}, "ratios": {"5": 1.5, "1": 1.0}}
    lines = report.text(network.with_metadata(conversion=changed)).splitlines()
    assert "bursts     4x1 1x1 (spikes per step x layers, from the front)" in lines
    assert "ratios     1 1.5 (thresholds against those of least error)" in lines
    assert lines[-1] == "accuracy   not measured (give --eval)"
    assert "ratios" not in report.text(network)
    exit_facts = {**facts, "early_exit": {"rule": "eq17-code", "bounds": [0.5, -1.0], "allowed": 1}}
    assert "early exit by the rule 'eq17-code'\n" in report.text(network.with_metadata(conversion=exit_facts))


def test_json_is_all_that_stdout_holds(convert, tmp_path, monkeypatch):
    (tmp_path / "convert_shop.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n    torch.manual_seed(0)\n    print('chatter')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)), {'input_shape': (1, 8, 8)}\n"
    )
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    done = convert("--json", "-q", model="convert_shop:net")
    del sys.modules["convert_shop"]
    assert (done.code, done.err) == (0, "chatter\n")
    facts = nirfile.read(tmp_path / "build" / "net-adaptive.nir").metadata["conversion"]
    assert json.loads(done.out) == {"file": "build/net-adaptive.nir", **facts}


def test_quiet_and_a_shape_that_the_file_does_not_say(convert, declined):
    assert "--input-shape" in declined(2, "D2E-LOAD-011", model="shapeless.pt")
    done = convert("-q", "--budget", 0.8, "--input-shape", "1,8,8", model="shapeless.pt")
    assert (done.code, done.err) == (0, "")
    assert "build/shapeless-adaptive.nir" in done.out


def test_a_run_that_was_cut_off_goes_on(convert, declined, tmp_path):
    args = ("--budget", 0.7, "--resume", "kept.jsonl")
    first = convert(*args)
    written = listing(tmp_path)
    again = convert(*args)
    assert "measured" in first.err
    assert (again.out, again.err) == (first.out, "")
    assert listing(tmp_path) == written
    declined(2, "D2E-CONV-015", *args, "-T", 4)
    (tmp_path / "notes.txt").write_text("mine")
    declined(2, "D2E-CONV-015", "--resume", "notes.txt")


# --------------------------------------------------------------------------- --method single-step

ONE_STEP = ("--method", "single-step", "--levels", 6)


def test_one_step_says_levels_and_what_travels_as_integers(convert, compile_, shelf, tmp_path):
    done = convert(*ONE_STEP, "--eval", shelf / "test.npz")
    assert list(listing(tmp_path)) == ["build", "build/net-single-step.nir"]
    facts = nirfile.read("build/net-single-step.nir").metadata["conversion"]
    lines = done.out.splitlines()
    assert len(lines) <= 15
    assert lines[:3] == [
        "method     single-step, T 1, up to 6 levels, fitted", "network    2 layers and a readout, 276 neurons",
        "levels     6x2 (of a neuron x layers, from the front)"]
    assert lines[4] == (f"activity   {facts['spikes_per_sample']:,.1f} spikes, {facts['synops_per_sample']:,.0f} synops "
                        "per sample in one step")
    assert lines[5] == (
        f"  graded   {facts['messages_per_sample']:,.1f} spikes of {facts['payload_bits_per_message']:.1f} bits, "
        f"{facts['messages_synops_per_sample']:,.0f} synops, where payloads travel as integers")
    energy = {row["of"]: 1e6 * row["value_j"] for row in facts["energy"]}
    assert lines[6].startswith(
        f"energy     estimated {energy['snn']:.3g} uJ per sample, the ANN {energy['ann']:.3g} uJ (0.9 pJ an addition")
    assert lines[7].startswith(f"accuracy   100.00 % ANN -> {100 * facts['accuracy']['snn']:.2f} % SNN")
    assert done.err == "[levels] 4 measured\n"
    command = lines[-1].removeprefix("next       ").split()
    assert command[:2] == ["d2e-compile", "build/net-single-step.nir"]
    after = compile_(*command[1:], "--eval-samples", 4, "-q", OMP_NUM_THREADS="1")
    assert (after.code, after.err) == (0, "")


@pytest.mark.parametrize(("given", "line"), [
    ("--spacing uniform", "single-step, T 1, up to 6 levels, uniform (round)"),
    ("--spacing uniform --start floor", "single-step, T 1, up to 6 levels, uniform (floor)"),
    ("--budget 0.8", "single-step, T 1, up to 6 levels, fitted, search rate-distortion, budget 0.8"),
    ("--spacing uniform --search bayes", "single-step, T 1, up to 6 levels, uniform (round), search bayes"),
    ("--budget 0.9 --search bayes", "single-step, T 1, up to 6 levels, fitted, search bayes, budget 0.9"),
])
def test_the_line_of_the_method_has_every_choice(convert, given, line):
    done = convert(*ONE_STEP, *given.split())
    assert done.out.splitlines()[0] == f"method     {line}"
    assert len(done.out.splitlines()) <= 15
    assert ("[scales] 48 measured" in done.err) == ("bayes" in given)


def test_the_facts_of_one_step_as_json(convert, tmp_path):
    done = convert(*ONE_STEP, "--spacing", "uniform", "-q", "--json", "-o", "one.nir")
    facts = json.loads(done.out)
    assert facts == {"file": "one.nir", **nirfile.read("one.nir").metadata["conversion"]}
    assert done.err == ""
    assert (facts["time_steps"], facts["spacing"], facts["start"], facts["levels"]) == (
        1, "uniform", "round", {"1": 6, "5": 6})


def test_a_search_of_levels_that_was_cut_off_goes_on(convert, declined, tmp_path):
    args = (*ONE_STEP, "--budget", 0.8, "--resume", "kept.jsonl")
    first = convert(*args)
    assert (convert(*args).out, convert(*args).err) == (first.out, "")
    declined(2, "D2E-CONV-015", *args, "--levels", 5)
    declined(2, "D2E-CONV-015", *args, "--spacing", "uniform")


def test_a_missing_optuna_says_how_to_get_it(declined, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "d2e[search]" in declined(5, "D2E-CONV-018", *ONE_STEP, "--search", "bayes", model="missing.pt")


def test_help_has_the_options_of_both_methods(d2e):
    done = d2e("convert", "--help")
    assert done.code == 0
    for option in ("--method", "--levels", "--spacing", "--start", "--search", "--budget", "--time-steps", "--max-burst"):
        assert option in done.out
    assert "single-step" in done.out
    assert "bayes" in done.out


FAULTS = {
    "--method other": (2, "D2E-CONV-010"), "--method single-step -T 4": (2, "D2E-CONV-017"),
    "--levels 4": (2, "D2E-CONV-017"), "--spacing uniform": (2, "D2E-CONV-017"), "--start floor": (2, "D2E-CONV-017"),
    "--method single-step --early-exit 1": (2, "D2E-CONV-017"), "--method single-step --levels 256": (2, "D2E-CONV-012"),
    "--method single-step --spacing nope": (2, "D2E-CONV-012"), "--method single-step --start floor": (2, "D2E-CONV-012"),
    "--method single-step --search paper": (2, "D2E-CONV-012"), "--search bayes": (2, "D2E-CONV-012"),
    "--method single-step --budget 0.0001": (3, "D2E-CONV-014"),
    "-T 0": (2, "D2E-CONV-012"), "--max-burst 256": (2, "D2E-CONV-012"),
    "--calibrate nope": (2, "D2E-CONV-012"), "--search nope": (2, "D2E-CONV-012"),
    "--budget 0.5 --calibrate light": (2, "D2E-CONV-012"),
    "--budget 2 --search paper": (2, "D2E-CONV-012"), "--budget 0": (2, "D2E-CONV-012"),
    "--compress -1": (2, "D2E-CONV-012"), "--early-exit 101": (2, "D2E-CONV-012"), "--exit-rule nope": (2, "D2E-CONV-012"),
    "--calibration-samples 15": (2, "D2E-CONV-012"), "--budget 0.01": (3, "D2E-CONV-014"),
    "--budget 0.01 --search paper": (3, "D2E-CONV-014"), "--input-shape 8,x": (2, "D2E-USE-001"),
    "--eval nowhere.npz": (2, "D2E-DATA-001"), "-o net": (2, "D2E-FILE-001"), "-o net.pt": (2, "D2E-FILE-001"),
}


@pytest.mark.parametrize("given", FAULTS)
def test_options_that_mean_nothing(declined, given):
    declined(*FAULTS[given], *given.split())


def test_models_and_images_that_do_not_fit(declined, shelf):
    assert "AvgPool2d" in declined(3, "D2E-CONV-002", model="maxpool.pt")
    declined(3, "D2E-CONV-001", model="gelu.pt")
    declined(2, "D2E-LOAD-001", model="missing.pt")
    assert "15 calibration samples" in declined(2, "D2E-CONV-011", calibration="few.npz")
    assert "[64, 1, 9, 9]" in declined(2, "D2E-INPUT-001", calibration="frames_9x9.npz")
    assert "[64, 1, 9, 9]" in declined(2, "D2E-INPUT-001", "--eval", shelf / "frames_9x9.npz")
    declined(2, "D2E-DATA-003", "--eval", shelf / "images.npz")


def test_places_that_cannot_be_written_are_told_first(declined, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.nir").mkdir()
    for name in ("file/net.nir", "file/far/net.nir", "folder.nir", "/proc/d2e/net.nir", "a" * 300 + ".nir"):
        declined(2, "D2E-FILE-011", "-o", name, model="missing.pt")


def test_a_file_that_is_there_outlives_a_run_that_fails(declined, convert, tmp_path):
    (tmp_path / "net.nir").write_text("mine")
    declined(3, "D2E-CONV-014", "--budget", 0.01, "-o", "net.nir")
    declined(2, "D2E-CONV-010", "--method", "nope", "-o", "net.nir")
    assert (tmp_path / "net.nir").read_text() == "mine"
    assert convert("-o", "net.nir", "-q").code == 0
    assert nirfile.read("net.nir").metadata["conversion"]["method"] == "adaptive"


@pytest.mark.parametrize("given", ["", "--calibration x.npz --seed -1", "--calibration x.npz --jobs 0"])
def test_a_command_line_that_cannot_be_read(d2e, given):
    done = d2e("convert", "net.pt", *given.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEPS = [(1, 2, "sensitivity"), (2, 2, "sensitivity"), (1, 1, "sweep"), (1, 1, "sweep")]


def test_progress_on_a_terminal_is_one_line_and_elsewhere_one_per_kind():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress = Progress(stream)
        progress.end()
        assert stream.getvalue() == ""
        for step in STEPS:
            progress(*step)
        progress.end()
    assert file.getvalue() == "[sensitivity] 2 measured\n[sweep] 2 measured\n"
    shown = terminal.getvalue()
    assert "\n" not in shown
    assert [line.rstrip() for line in shown.split("\r")] == [
        "", "[sensitivity] 1 of 2", "[sensitivity] 2 of 2", "[sweep] 1 of 1", "[sweep] 1 of 1", "", ""]
    assert shown.split("\r")[-2] == " " * len("[sweep] 1 of 1")


def test_every_option_is_a_keyword_of_the_function():
    options = inspect.signature(convert_command).parameters
    keywords = inspect.signature(package.convert).parameters
    assert set(options) - {"as_json", "quiet"} == set(keywords) - {"listen"}
    assert {k: p.default for k, p in options.items() if k in keywords} == {
        k: p.default for k, p in keywords.items() if k != "listen"
    }

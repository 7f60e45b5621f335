"""d2e-compile on the shipped example: what it prints, what it writes, and that both are the same every time."""

from __future__ import annotations

import csv
import inspect
import io
import json
import re

import numpy as np
import torch

import d2e as package
from d2e import cli, nn
from d2e.compiler.target import find
from d2e.ir import nirfile

PASSES = [each.name for each in find("loihi2-sim").pipeline({})]
FILES = {
    "compile.log", "layers.csv", "manifest.json", "mapping.csv", "neurobench.json", "program.nir", "program.npz",
    "report.html", "report.json", "target",
}


def test_the_example_compiles_with_no_option_at_all(compile_, model, tmp_path):
    done = compile_(model)
    assert done.code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["build"]
    folder = tmp_path / "build" / "model-loihi2-sim"
    assert {p.name for p in folder.iterdir()} == FILES
    assert re.findall(r"^\[(\d)/9\] ([\w-]+) … \d+\.\d\d s, \d+ nodes changed$", done.err, re.M) == [
        (str(i), name) for i, name in enumerate(PASSES, 1)
    ]
    assert len(done.err.splitlines()) == len(PASSES)
    assert "not measured" in done.out
    assert done.out.splitlines()[-1] == "written    build/model-loihi2-sim"


def test_the_last_screen_has_at_most_fifteen_lines_and_the_figures_of_the_report(compile_, model, data, tmp_path):
    done = compile_(model, "--eval", data, "--eval-samples", 30, "-o", "out", "-q")
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) <= 15
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    accuracy = report["accuracy"]
    assert [row["pass"] for row in accuracy["passes"]] == ["source", *PASSES]
    assert accuracy["samples"] == 30
    shown = f"{100 * accuracy['source']:.2f} % float -> {100 * accuracy['program']:.2f} % program"
    assert shown in done.out
    assert f"{report['totals']['spikes_per_sample']:,.1f} spikes" in done.out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "layers.csv").read_text())))
    assert [r["name"] for r in rows] == [layer["name"] for layer in report["layers"]]


def test_json_is_all_that_stdout_holds(compile_, model, data, tmp_path):
    shown = ("--time-passes", "--print-ir-after", "all", "-v")
    done = compile_(model, "--json", "--eval", data, "--eval-samples", 5, "-o", "out", *shown)
    assert done.code == 0
    assert json.loads(done.out) == json.loads((tmp_path / "out" / "report.json").read_text())
    assert "after place:" in done.err


def test_verbose_tells_what_each_pass_measured(compile_, model, data):
    done = compile_(model, "-v", "--eval", data, "--eval-samples", 5)
    lines = done.err.splitlines()
    assert len(lines) == len(PASSES)
    assert all(re.search(r"; accuracy [\d.]+, spikes \d+, max_count_error \d+$", line) for line in lines)


def test_what_passes_do_can_be_seen(compile_, model, tmp_path):
    done = compile_(model, "--time-passes", "--print-ir-after", "quantise", "--save-ir", "-q", "-o", "out")
    assert done.code == 0
    assert re.findall(r"^([\w-]+) +\d+\.\d{4} s$", done.out, re.M) == PASSES
    assert done.out.count("after quantise:") == 1
    stages = ["source", *PASSES]
    names = [f"{i:02d}-{name}.{end}" for i, name in enumerate(stages) for end in ("nir", "txt")]
    assert sorted(p.name for p in (tmp_path / "out" / "ir").iterdir()) == names
    assert nirfile.read(tmp_path / "out" / "ir" / "00-source.nir").populations == ("1", "3", "7")
    assert next((tmp_path / "out" / "ir").glob("*-quantise.txt")).read_text() in done.out


def test_passes_can_be_chosen_and_stopped(compile_, model, tmp_path):
    chosen = ",".join(PASSES).replace("quantise", "quantise{weight-bits=3}")
    assert compile_(model, "--passes", chosen, "-q", "-o", "out").code == 0
    weights = np.load(tmp_path / "out" / "program.npz")["2.weight"]
    assert 2 < len(np.unique(weights)) <= 8
    done = compile_(model, "--stop-after", "quantise", "-o", "stopped")
    assert done.code == 0
    assert len(re.findall(r"^\[", done.err, re.M)) == 1 + PASSES.index("quantise")
    assert "stopped after quantise: nothing written" in done.err
    assert "written" not in done.out
    assert not (tmp_path / "stopped").exists()


def test_twice_is_the_same_to_the_byte(compile_, listed, model, data, tmp_path):
    args = ("--eval", data, "--eval-samples", 5, "--calibration", data, "--calibration-samples", 5, "--save-ir", "-q")
    first = compile_(model, *args, "-o", "first")
    assert first.code == 0
    kept = listed(tmp_path / "first")
    (tmp_path / "elsewhere").mkdir()
    again = compile_(model, *args, "-o", "elsewhere/second", PYTHONHASHSEED="7")
    assert again.code == 0
    assert listed(tmp_path / "elsewhere" / "second") == kept
    assert compile_(model, *args, "-o", "first").code == 0
    assert listed(tmp_path / "first") == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "first"]


def test_the_gate(compile_, refused, model, data):
    gate = ("--eval", data, "--eval-samples", 40, "--max-drop", 2)
    said = refused(4, "D2E-GATE-001", model, *gate, "--weight-bits", 2, "--scale", "max", "-o", "out")
    assert "points of accuracy" in said
    assert compile_(model, *gate, "-q").code == 0


def test_check_writes_nothing(compile_, model, tmp_path):
    done = compile_(model, "--check")
    assert (done.code, done.out, done.err) == (0, "errors: 0, warnings: 0\n", "")
    done = compile_(model, "--check", "--json", "--print-ir-after", "place")
    assert (done.code, json.loads(done.out)) == (0, [])
    assert not list(tmp_path.iterdir())


def test_check_lists_what_it_found(compile_, d2e, broken, tmp_path):
    chip = ("--target", "loihi2")
    done = compile_(broken / "burst.pt", "--check", *chip)
    assert (done.code, done.err) == (3, "")
    assert done.out.splitlines()[0].startswith("error   D2E-LOIHI-003 (2): resets to a value after a burst")
    assert done.out.splitlines()[-1] == "errors: 1, warnings: 0"
    machine = d2e("check", broken / "burst.pt", "--json", *chip)
    assert (machine.code, machine.err) == (3, "")
    assert [(f["code"], f["node"], f["severity"]) for f in json.loads(machine.out)] == [("D2E-LOIHI-003", "2", "error")]
    fits = compile_(broken / "burst.pt", "--check", "--json", "--eval", "nowhere.npz")
    assert fits.code == 2
    assert not list(tmp_path.iterdir())


def test_d2e_compile_is_d2e_compile(compile_, d2e, model):
    assert compile_(model, "--json", "-q", "-o", "out") == d2e("compile", model, "--json", "-q", "-o", "out")


def test_every_option_is_a_keyword_of_the_function():
    options = set(inspect.signature(cli.compile_command).parameters) - {"check", "as_json", "quiet", "verbose"}
    keywords = set(inspect.signature(package.compile).parameters) - {"listen"}
    assert options == keywords
    defaults = {k: p.default for k, p in inspect.signature(cli.compile_command).parameters.items() if k in keywords}
    defaults["weight_bits"] = int(defaults["weight_bits"])  # on the command line a text, for it may be a table
    stated = inspect.signature(package.compile).parameters
    assert {k: v for k, v in defaults.items() if k != "model"} == {
        k: stated[k].default for k in defaults if k != "model"
    }
    own = {"as_json", "against_source", "data", "samples"}
    assert set(inspect.signature(cli.check_command).parameters) <= options | own


def test_a_factory_and_an_exported_program_compile_without_a_word_of_the_libraries(compile_, tmp_path):
    (tmp_path / "shop.py").write_text(
        "import warnings, torch\nfrom torch import nn\nimport d2e.nn as dn\n"
        "def net():\n    warnings.warn('a library complains')\n    torch.manual_seed(0)\n    print('chatter')\n"
        "    return dn.Sequential(nn.Linear(6, 4), dn.LIF(0.9, reset='zero')), "
        "{'input_shape': (6,), 'time_steps': 5}\n"
    )
    done = compile_("shop:net", "--json", "-q")
    assert (done.code, done.err) == (0, "chatter\n")
    assert json.loads(done.out)["target"] == "loihi2-sim"
    assert (tmp_path / "build" / "net-loihi2-sim" / "manifest.json").is_file()
    exported = torch.export.export(nn.Sequential(torch.nn.Linear(6, 4), nn.IF()), (torch.zeros(1, 5, 6),))
    torch.export.save(exported, tmp_path / "net.pt2")
    done = compile_("net.pt2", "--time-steps", 5, "-q")
    assert (done.code, done.err) == (0, "")


def test_a_nir_file_compiles_once_its_choices_are_stated(compile_, broken):
    stated = ("--profile", "nir", "--dt", "1e-3", "--reset", "zero", "--fire", "gt", "--max-spikes", 1)
    done = compile_(broken / "open.nir", *stated, "--time-steps", 4, "-q")
    assert (done.code, done.err) == (0, "")

"""The digits' vision transformer in one step: nearly the ANN, on Loihi 2's arithmetic and in Lava, by its own commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import d2e
from d2e.ir import Attention, Network, UnsupportedError, reference

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "vision_transformer"
FACTORY = "examples.vision_transformer.train:build"
FILES = {"calibration": EXAMPLE / "calibration.npz", "eval": EXAMPLE / "test.npz"}
ONE_POINT = 0.0101


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(EXAMPLE / "test.npz") as data:
        return data["x"]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield d2e.convert(FACTORY, method="single-step", **FILES)


@pytest.fixture(scope="module")
def program(network: Network) -> d2e.Program:
    return d2e.compile(network, burst="graded", **FILES)


def test_one_step_is_nearly_the_ann(network, images):
    facts = network.metadata["conversion"]
    assert facts["accuracy"]["samples"] == len(images) == 360
    assert facts["accuracy"]["ann"] > 0.97
    assert abs(facts["accuracy"]["snn"] - facts["accuracy"]["ann"]) <= ONE_POINT
    assert facts["kl"] < 0.002
    assert set(facts["attention"]) == {n for n in network.hosts if isinstance(network.nodes[n], Attention)}
    assert all(0 < share < 0.5 for each in facts["attention"].values() for share in each["silent"].values())


def test_the_chips_arithmetic_keeps_it(network, program):
    accuracy, report = program.report["accuracy"], program.report
    facts = network.metadata["conversion"]["accuracy"]
    assert accuracy["ann"] == facts["ann"]
    assert abs(accuracy["source"] - facts["snn"]) <= 1.01 / 360, "single precision and double: a tie may turn"
    assert abs(accuracy["program"] - accuracy["ann"]) <= ONE_POINT
    assert len(report["boundaries"]) == 8
    assert report["fit"]["cores"]["used"] <= report["fit"]["cores"]["limit"]
    assert 0 < sum(row.get("macs", 0) for row in report["host"]) < report["totals"]["synops_per_sample"]


@pytest.mark.parametrize("form", ["graded", "auto"])
def test_every_form_and_engine_sends_the_same(network, program, form, images):
    other = program if form == "graded" else d2e.compile(network, burst=form, calibration=FILES["calibration"])
    assert_alike(program, other, images)


def test_replicas_send_the_same_where_few_levels_leave_room_for_them(images, monkeypatch):
    """The steps of 32 levels of GELU take more convolutions than a core may hold."""
    monkeypatch.chdir(ROOT)
    few, many = (d2e.convert(FACTORY, method="single-step", levels=levels, calibration=FILES["calibration"],
                             calibration_samples=64) for levels in (4, 32))
    with pytest.raises(UnsupportedError) as caught:
        d2e.compile(many, burst="replicas", calibration=FILES["calibration"])
    assert (caught.value.code, caught.value.findings[0].node) == ("D2E-LOIHI-016", "blocks.0.1.body.3")
    graded, replicas = (d2e.compile(few, burst=form, calibration=FILES["calibration"]) for form in ("graded", "replicas"))
    assert_alike(graded, replicas, images)


def assert_alike(one, other, images):
    wanted, found = one.run(images[:6]), other.run(images[:6], engine="reference")
    np.testing.assert_array_equal(found.output, wanted.output)
    for name, counts in wanted.counts.items():
        np.testing.assert_array_equal(found.counts[name], counts, err_msg=name)


def test_spikes_are_nearly_those_of_the_float_network(network, program, images):
    source, found = reference.run(network, images[:32, None]), program.run(images[:32])
    sending = [name for name, counts in source.counts.items() if counts.any()]
    assert len(sending) == 11
    for name in sending:
        counts = source.counts[name]
        assert np.abs(found.counts[name] - counts).mean() < 0.12 * counts.mean(), name


@pytest.mark.lava
def test_lava_sends_the_same(program, images, lava_python, monkeypatch):
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    ours = program.run(images[:1], record="spikes")
    lava = program.run(images[:1], record="spikes", engine="loihi2-lava")
    np.testing.assert_array_equal(lava.output, ours.output)
    for name, spikes in ours.spikes.items():
        np.testing.assert_array_equal(lava.spikes[name], spikes, err_msg=name)
        np.testing.assert_array_equal(lava.counts[name], ours.counts[name], err_msg=name)


def test_its_commands_run_as_they_are_written(tmp_path):
    """With few images; the folder above examples/ is the current one."""
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "vision_transformer")
    text = (EXAMPLE / "train.py").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^    (d2e.*)$", text, re.M)]
    assert [command[0] for command in commands] == ["d2e", "d2e-compile", "d2e"]
    more = {"convert": ["--calibration-samples", "64", "--levels", "8", "--eval-samples", "60"], "run": ["--samples", "5"]}
    for program, *arguments in commands:
        path = str(Path(sysconfig.get_path("scripts")) / program)
        extra = more.get(arguments[0], ["--eval-samples", "30"])
        done = subprocess.run([path, *arguments, *extra], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("loihi2-sim: 5 samples, accuracy ")


def test_the_factory_needs_no_scikit_learn():
    """And its model is the one that was measured: out of training."""
    script = ("import sys; sys.modules['sklearn'] = None\n"
              "from examples.vision_transformer.train import build\nmodel, facts = build()\n"
              "assert not model.training and facts['input_shape'] == (1, 8, 8)")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_weights_are_those_of_the_accuracy(images):
    sys.path.insert(0, str(ROOT))
    try:
        from examples.vision_transformer.train import build
    finally:
        sys.path.remove(str(ROOT))
    with np.load(EXAMPLE / "test.npz") as data, torch.no_grad():
        right = build()[0](torch.from_numpy(images)).argmax(dim=1).numpy() == data["y"]
    assert right.sum() == 355

"""The programs on models of real values: images as data, the flags that say how they are encoded, and their faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import d2e.nn as dn


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A model of constant current and labelled images for it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), dn.IF(), nn.Flatten(), nn.Linear(64, 3), dn.IF(reset="zero")]
    dn.save(dn.Sequential(*layers), tmp_path / "model.pt", input_shape=(1, 4, 4), time_steps=4)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", x=rng.random((30, 1, 4, 4)).astype(np.float32), y=rng.integers(0, 3, 30))
    return tmp_path / "model.pt", tmp_path / "images.npz"


def test_a_model_of_constant_current(compile_, d2e, images, tmp_path):
    model, data = images
    options = ("--coding", "direct", "--calibration", data, "--eval", data, "-o", "out", "-q")
    done = compile_(model, *options)
    assert (done.code, done.err) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = {row["pass"]: row for row in report["accuracy"]["passes"]}
    assert rows["source"]["accuracy"] == rows["check-rules"]["accuracy"]
    assert "encode-input" in rows
    again = d2e("run", "out", "--data", data, "--json")
    assert again.code == 0
    assert json.loads(again.out)["accuracy"] == report["accuracy"]["program"]


def test_spikes_of_an_encoder(compile_, images, tmp_path):
    model, data = images
    done = compile_(model, "--encoder", "bernoulli{seed=5}", "--input-range", "0,1", "--eval", data, "-o", "out", "-q")
    assert (done.code, done.err) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["passes"][0]["spikes"] > 0
    options = json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]
    assert (options["encoder"], options["input_range"]) == ("bernoulli{seed=5}", [0.0, 1.0])


def test_a_checkpoint_with_its_encoder_needs_no_option(compile_, d2e, images, tmp_path):
    model, data = images
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), dn.IF(reset="zero"), nn.Flatten(), nn.Linear(64, 3), dn.IF(reset="zero")]
    dn.save(dn.Sequential(*layers), model, input_shape=(1, 4, 4), time_steps=4, encoder="ttfs{latch}")
    done = compile_(model, "--eval", data, "-o", "out", "-q")
    assert (done.code, done.err) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0 < report["totals"]["input_events_per_sample"] <= 16  # an event per pixel at most
    again = d2e("run", "out", "--data", data, "--json")
    assert json.loads(again.out)["accuracy"] == report["accuracy"]["program"]
    done = compile_(model, "--encoder", "phase{latch}", "-o", "out", "-q")
    assert (done.code, "D2E-ENC-006" in done.err) == (2, True)


def test_check_takes_what_real_values_need(d2e, images):
    model, _ = images
    done = d2e("check", model, "--encoder", "direct", "--input-range", "-1,1")
    assert done.code == 0
    assert "errors: 0" in done.out


@pytest.mark.parametrize(("options", "code"), [
    (("--coding", "direct"), "D2E-ENC-004"), (("--encoder", "morse"), "D2E-ENC-006"),
    (("--coding", "direct", "--input-range", "1"), "D2E-ENC-006"),
    (("--coding", "direct", "--input-range", "a,b"), "D2E-USE-001"),
    (("--coding", "direct", "--input-range", "0,1", "--input-bits", "40"), "D2E-ENC-006"),
    (("--encoder", "ttfs", "--coding", "direct"), "D2E-ENC-006"),
])
def test_faults_are_one_sentence(refused, images, options, code):
    refused(2, code, images[0], *options)

"""The commands on a network of which a part runs on the host: compile, run, inspect, check, and what does not go with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.compiler.hosted.networks import transformer

from d2e.compiler.measure import classify
from d2e.ir import nirfile, reference


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.nir and test.npz."""
    folder, network = tmp_path_factory.mktemp("hosted"), transformer()
    nirfile.write(network, folder / "net.nir")
    x = np.random.default_rng(0).normal(size=(20, 1, 4, 4))
    np.savez(folder / "test.npz", x=x, y=classify(network, reference.run(network, x[:, None]).output))
    np.savez(folder / "plain.npz", x=x)
    return folder


def test_compile_run_and_inspect(files, compile_, d2e, tmp_path):
    done = compile_(files / "net.nir", "--calibration", files / "plain.npz", "--eval", files / "test.npz", "-o", "p")
    assert done.code == 0, done.err
    assert "100.00 % float -> " in done.out
    assert "on host    1 permute, 3 add" in done.out
    assert done.out.endswith("written    p\n")
    ran = d2e("run", "p", "--data", files / "test.npz", "--samples", 5, "-o", "out.npz")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("loihi2-sim: 5 samples, accuracy ")
    with np.load(tmp_path / "out.npz") as found:
        assert found["output"].shape == (5, 1, 3)
        assert found["counts/gelu"].shape == (5, 4, 12)
    told = json.loads(d2e("run", "p", "--data", files / "test.npz", "--engine", "reference", "--json").out)
    assert (told["engine"], told["samples"]) == ("reference", 20)
    shown = d2e("inspect", "p", "--network")
    assert shown.code == 0, shown.err
    assert shown.out.startswith("p\ntarget ")
    assert "%attend = attention(heads=2" in shown.out
    assert d2e("inspect", "p", "-o", "back.nir").code == 0
    assert nirfile.read(tmp_path / "back.nir").same(transformer())
    assert json.loads((tmp_path / "p" / "report.json").read_text())["boundaries"][0]["out_of"] == "patch.in"
    assert "D2E-USE-016" in d2e("run", "p", "--events", files / "plain.npz").err


def test_the_report_as_json(files, compile_):
    done = compile_(files / "net.nir", "--calibration", files / "plain.npz", "--json", "-q", "-o", "p")
    assert done.code == 0, done.err
    assert {row["kind"] for row in json.loads(done.out)["host"]} == {
        "permute", "add", "layer_norm", "attention", "mean", "levels"}


def test_check_says_what_would_stop_it(files, d2e, compile_):
    done = d2e("check", files / "net.nir", "--input-range=-3,3")
    assert (done.code, done.out) == (0, "errors: 0, warnings: 0\n"), done.err
    done = d2e("check", files / "net.nir")
    assert done.code != 0
    assert "D2E-ENC-004" in done.out + done.err
    done = d2e("check", files / "net.nir", "--input-range=-3,3", "--target", "speck2f-sim")
    assert done.code == 3
    assert done.out.startswith("error   D2E-SPECK-")
    assert compile_(files / "net.nir", "--calibration", files / "plain.npz", "--check").code == 0


@pytest.mark.parametrize("option", [
    "--budget 4", "--weight-bits auto", "--passes canonicalise", "--stop-after quantise", "--print-ir-after all",
    "--save-ir", "--time-passes",
])
def test_options_of_one_pipeline_are_refused(files, refused, option):
    line = refused(2, "D2E-USE-019", files / "net.nir", "--calibration", files / "plain.npz", *option.split())
    assert option.split()[0].removeprefix("--") in line

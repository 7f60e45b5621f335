"""The example of Adaptive Calibration: an ordinary ReLU network, converted without training, on both chips' arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import d2e
from d2e.compiler.frontends.files import opened
from d2e.ir import IF, EarlyExit, Network, UnsupportedError

EXAMPLE = Path(__file__).parents[2] / "examples" / "adaptive_calibration"
STEPS, BURST = 4, 4
ONE_IMAGE = 1.01 / 360
"""Conversion computes in single precision: a rounding may turn an answer."""


def convert(**options: object) -> Network:
    given = {"time_steps": STEPS, "max_burst": BURST, "eval": EXAMPLE / "test.npz", **options}
    return d2e.convert(EXAMPLE / "model.pt", calibration=EXAMPLE / "calibration.npz", **given)


def compile_(network: Network, target: str = "loihi2-sim", **options: object) -> d2e.Program:
    given = {"calibration": EXAMPLE / "calibration.npz", "eval": EXAMPLE / "test.npz", **options}
    return d2e.compile(network, target, **given)


@pytest.fixture(scope="module")
def network() -> Network:
    return convert()


@pytest.fixture(scope="module")
def hasty() -> Network:
    """It may exit early; the images behind the first 256 say when."""
    return convert(calibration_samples=256, early_exit=0.5)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(EXAMPLE / "test.npz") as data:
        return data["x"]


def test_the_files_are_small_and_what_they_say():
    assert all(path.stat().st_size < 300_000 for path in EXAMPLE.iterdir() if path.suffix in (".pt", ".npz"))
    with np.load(EXAMPLE / "calibration.npz") as data:
        assert (list(data), data["x"].shape) == (["x"], (600, 1, 8, 8))
        seen = {image.tobytes() for image in data["x"]}
    with np.load(EXAMPLE / "test.npz") as data:
        assert not seen & {image.tobytes() for image in data["x"]}
        assert (data["x"].min(), data["x"].max()) == (0, 1)


def test_four_steps_of_bursts_are_as_good_as_the_ann(network, images):
    found = network.metadata["conversion"]["accuracy"]
    model = opened(EXAMPLE / "model.pt", allow_pickle=False)["model"]
    with torch.no_grad(), np.load(EXAMPLE / "test.npz") as data:
        right = (model(torch.from_numpy(images)).argmax(dim=1).numpy() == data["y"]).mean()
    assert found["ann"] == right >= 0.99
    assert abs(found["snn"] - found["ann"]) <= 0.01
    neurons = [network.neuron(name) for name in network.populations][:-1]
    assert all((n.max_spikes, n.reset) == (BURST, "subtract") for n in neurons)
    assert sum(edge.target == "3" for edge in network.edges) == 2, "the residual block is there"


@pytest.mark.parametrize("burst", ["graded", "replicas", "auto"])
def test_the_chips_arithmetic_keeps_it(network, burst):
    report = compile_(network, burst=burst).report
    accuracy = report["accuracy"]
    assert accuracy["ann"] == network.metadata["conversion"]["accuracy"]["ann"]
    assert accuracy["source"] == pytest.approx(network.metadata["conversion"]["accuracy"]["snn"], abs=ONE_IMAGE)
    assert abs(accuracy["program"] - accuracy["source"]) <= 0.01
    ann, source, program = (f"{100 * accuracy[key]:.2f} %" for key in ("ann", "source", "program"))
    assert f"{ann} ANN -> {source} float -> {program} program" in report.text()
    assert report["fit"]["cores"]["used"] <= report["fit"]["cores"]["limit"]


def normalised_entropy(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1) / np.log(p.shape[-1])


def test_early_answers_are_those_of_the_full_run(hasty, images):
    program = compile_(hasty, burst="graded")
    rule = program.network.output.exit
    assert isinstance(rule, EarlyExit)
    evidence = program.run(images, early_exit=False).output
    shown = np.arange(1, STEPS + 1)[:, None]
    may = normalised_entropy(evidence * rule.scale / shown) <= rule.bounds
    may[:, -1] = True
    steps = may.argmax(axis=1) + 1
    found = program.run(images)
    np.testing.assert_array_equal(found.steps, steps)
    np.testing.assert_array_equal(found.output[:, -1], evidence[np.arange(len(images)), steps - 1])
    report = program.report
    assert report["early_exit"]["mean_steps"] == steps.mean() < STEPS
    assert report["accuracy"]["source"] == pytest.approx(hasty.metadata["conversion"]["accuracy"]["snn"], abs=ONE_IMAGE)
    assert abs(report["accuracy"]["program"] - report["accuracy"]["source"]) <= 0.01
    assert report["early_exit"]["accuracy_full"] - report["accuracy"]["program"] <= 0.02


@pytest.mark.lava
@pytest.mark.parametrize(("kind", "burst"), [("network", "graded"), ("network", "replicas"), ("hasty", "graded")])
def test_lava_fires_the_same_spikes(kind, burst, images, lava_python, monkeypatch, request):
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    program = compile_(request.getfixturevalue(kind), burst=burst, eval=None)
    ours = program.run(images[:6], record="state")
    lava = program.run(images[:6], record="state", engine="loihi2-lava")
    np.testing.assert_array_equal(lava.output, ours.output)
    np.testing.assert_array_equal(lava.steps, ours.steps)
    for name, spikes in ours.spikes.items():
        np.testing.assert_array_equal(lava.spikes[name], spikes)
        np.testing.assert_array_equal(lava.counts[name], ours.counts[name])
    assert ours.spikes["3"].max() > 1, "there are bursts"


# --------------------------------------------------------------------------- Speck


def test_speck_has_no_membrane_to_read(network):
    """What a conversion writes ends in an integrating readout; the error names it and the way out."""
    with pytest.raises(UnsupportedError) as caught:
        compile_(network, "speck2f-sim")
    assert (caught.value.code, caught.value.node) == ("D2E-SPECK-003", "readout")
    assert "IF and count its spikes" in caught.value.hint


def spiking_readout(network: Network) -> Network:
    """Its readout's neurons fire, and the host counts."""
    li = network.neuron("readout")
    fires = IF(shape=li.shape, threshold=np.float64(1.0), bias=li.bias, v_init=np.float64(0.5), max_spikes=0)
    return network.with_nodes({"readout": fires, network.outputs[0]: replace(network.output, readout="count")})


def test_single_spikes_in_more_steps_go_to_speck():
    """With a readout that fires, of a network without bursts; the chip sends one spike per event."""
    network = spiking_readout(convert(time_steps=32, max_burst=1, eval=None))
    report = compile_(network, "speck2f-sim", encoder="rate", eval_samples=200).report
    assert report["accuracy"]["source"] >= 0.985
    assert abs(report["accuracy"]["program"] - report["accuracy"]["source"]) <= 0.025
    assert report["fit"]["cores"]["used"] == 5

"""The digits of Adaptive Calibration in one step: coarse levels from few images, on Loihi 2's arithmetic and in Lava."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import d2e
from d2e.ir import Network, reference

EXAMPLE = Path(__file__).parents[2] / "examples" / "adaptive_calibration"
LEVELS, FORMS = 8, ("graded", "replicas")
ONE_POINT = 0.0101
LAYERS = ("1", "2.body.1", "3", "6")


def convert(**options: object) -> Network:
    return d2e.convert(EXAMPLE / "model.pt", method="single-step", calibration=EXAMPLE / "calibration.npz",
                       calibration_samples=48, levels=LEVELS, **options)


def compile_(network: Network, **options: object) -> d2e.Program:
    return d2e.compile(network, "loihi2-sim", calibration=EXAMPLE / "calibration.npz", **options)


@pytest.fixture(scope="module", params=["fitted", "uniform"])
def network(request: pytest.FixtureRequest) -> Network:
    return convert(spacing=request.param, eval=EXAMPLE / "test.npz")


@pytest.fixture(scope="module")
def programs(network: Network) -> dict[str, d2e.Program]:
    return {form: compile_(network, burst=form, eval=EXAMPLE / "test.npz") for form in FORMS}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(EXAMPLE / "test.npz") as data:
        return data["x"]


def test_one_step_of_coarse_levels_is_nearly_the_ann(network):
    facts = network.metadata["conversion"]
    assert facts["accuracy"]["samples"] == 360
    assert abs(facts["accuracy"]["snn"] - facts["accuracy"]["ann"]) <= ONE_POINT
    assert network.input.time_steps == 1
    for name in LAYERS:
        node = network.neuron(name)
        assert (node.decay_mem, node.reset, len(node.levels)) == (0, "none", LEVELS)
        assert all(int(b - a).bit_count() == 1 for a, b in pairwise([0, *node.payloads.tolist()]))


def test_the_chips_arithmetic_keeps_it(network, programs):
    for program in programs.values():
        report = program.report
        accuracy = report["accuracy"]
        assert accuracy["ann"] == network.metadata["conversion"]["accuracy"]["ann"]
        assert abs(accuracy["source"] - network.metadata["conversion"]["accuracy"]["snn"]) <= 1.01 / 360
        assert abs(accuracy["program"] - accuracy["source"]) <= ONE_POINT
        assert abs(accuracy["program"] - accuracy["ann"]) <= ONE_POINT
        assert report["fit"]["cores"]["used"] <= report["fit"]["cores"]["limit"]


def test_folding_is_exact_and_the_drift_is_what_the_rows_say(network, programs, images):
    rows = {row["pass"]: row for row in programs["graded"].report["accuracy"]["passes"]}
    assert rows["fold-thresholds"]["max_count_error"] <= rows["encode-input"]["max_count_error"] + 1, "a tie may turn"
    source, found = reference.run(network, images[:, None]), programs["graded"].run(images)
    errors = [np.abs(found.counts[name] - source.counts[name]) for name in LAYERS]
    assert rows["quantise"]["max_count_error"] == max(error.max() for error in errors) > 0
    assert rows["quantise"]["spikes"] == pytest.approx(sum(found.counts[name].sum() for name in LAYERS) / len(images))
    assert sum(error.mean() for error in errors) < 0.08 * sum(source.counts[name].mean() for name in LAYERS)


def test_both_forms_send_the_same(programs, images):
    graded, replicas = (programs[form].run(images, record="spikes") for form in FORMS)
    np.testing.assert_array_equal(replicas.output, graded.output)
    for name in LAYERS:
        np.testing.assert_array_equal(replicas.spikes[name], graded.spikes[name])
        assert graded.spikes[name].max() == LEVELS
    assert programs["replicas"].report["fit"]["cores"]["used"] > programs["graded"].report["fit"]["cores"]["used"]


def test_an_image_a_step_gets_the_answers_of_each_alone(programs, images):
    """A pipeline: nothing is left of an image when the next comes."""
    alone = programs["graded"].run(images[:12])
    lowered = programs["graded"].network
    piped = lowered.with_nodes({lowered.inputs[0]: replace(lowered.input, time_steps=4)})
    trace = reference.run(piped, images[:12].reshape(3, 4, *images.shape[1:]))
    np.testing.assert_array_equal(trace.output.reshape(12, -1), alone.output.reshape(12, -1))


@pytest.mark.lava
@pytest.mark.parametrize("form", FORMS)
def test_lava_sends_the_same(programs, form, images, lava_python, monkeypatch):
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    ours = programs[form].run(images[:4], record="state")
    lava = programs[form].run(images[:4], record="state", engine="loihi2-lava")
    np.testing.assert_array_equal(lava.output, ours.output)
    for name, spikes in ours.spikes.items():
        np.testing.assert_array_equal(lava.spikes[name], spikes)
        np.testing.assert_array_equal(lava.counts[name], ours.counts[name])
    assert max(ours.spikes[name].max() for name in LAYERS) == LEVELS

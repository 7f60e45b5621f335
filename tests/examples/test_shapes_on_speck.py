"""The example of the event camera, from its trained model to the chip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples.shapes import events as camera

import d2e
from d2e.compiler.program import Program

EXAMPLE = Path(__file__).parents[2] / "examples" / "shapes"


@pytest.fixture(scope="module")
def program() -> Program:
    return d2e.compile(EXAMPLE / "model.pt", "speck2f-sim", calibration=EXAMPLE / "calibration.npz",
                       eval=EXAMPLE / "test.npz")


def test_the_files_are_small_and_held_out():
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.suffix in (".pt", ".npz")) < 400_000
    with np.load(EXAMPLE / "test.npz") as data:
        assert np.bincount(data["y"]).tolist() == [15] * 8, "chance is 12.5 %"
        frames, labels = camera.dataset(4, 2, 20)
        changed = (frames != data["x"][:4]).mean()  # another processor may round an event into the next step
        assert changed < 1e-3
        assert labels.tolist() == data["y"][:4].tolist()


def test_the_chip_keeps_the_accuracy(program):
    accuracy = program.report["accuracy"]
    assert accuracy["source"] >= 0.95
    assert accuracy["program"] >= accuracy["source"] - 0.025


def test_it_fits_and_nothing_of_it_is_approximate_but_the_order_of_events(program):
    assert program.report["warnings"] == []
    assert program.report["fit"]["cores"]["used"] == 4


def test_every_layer_drifts_a_little(program):
    """Spikes leave before the inhibition of the same step arrives: more of them, in every layer."""
    for row in program.report["layers"]:
        assert 0 < row["drift"] < 0.25, row["name"]
        assert row["spikes_per_sample"] > row["spikes_source_per_sample"] > 10


def test_trained_on_steps_and_chip_it_also_classifies_timed_events(program):
    right, output = 0, list(program.populations)[-1]
    for number, shape in enumerate(camera.SHAPES):
        path = EXAMPLE / "recordings" / f"{shape}.npz"
        done = program.stream(path)
        with np.load(path) as recording:
            assert done.events == len(recording["t"])
        assert sum(done.synops.values()) > 100_000
        right += int(done.counts[output].argmax()) == number
    assert right >= 7

"""A recurrent network of snnTorch, through its factory: the same spikes, and the same accuracy on the chip's arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import snntorch  # noqa: F401  # the example needs it; a missing one fails here

import d2e
from d2e.compiler.frontends import against

ROWS = Path(__file__).parents[2] / "examples" / "rows"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's folder, as a user stands in it."""
    monkeypatch.chdir(ROWS)
    return ROWS


@pytest.mark.usefixtures("here")
def test_snntorch_fires_the_same_spikes() -> None:
    """Every neuron, every step, recurrent ones included."""
    found = against.check_source("rows:build", "test.npz", samples=100)
    assert found.agreement == 1.0
    assert all(theirs > 1000 for theirs, _ in found.spikes.values())


@pytest.fixture
def program(here: Path) -> d2e.Program:
    return d2e.compile("rows:build", calibration="calibration.npz", eval="test.npz")


def test_accuracy_stays_within_a_point(program: d2e.Program) -> None:
    """In the simulator, over all 360 digits."""
    accuracy = program.report["accuracy"]
    assert accuracy["source"] > 0.88
    assert abs(accuracy["program"] - accuracy["source"]) <= 0.01


@pytest.mark.lava
def test_lava_fires_the_same_spikes(program: d2e.Program, lava_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the simulator says of accuracy, Lava says too: the outputs are equal."""
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    frames = np.load(ROWS / "test.npz")["x"][:120].astype(np.int64)
    lava = program.run(frames, engine="loihi2-lava")
    assert lava.output.sum() > 1000
    assert (lava.output == program.run(frames).output).all()

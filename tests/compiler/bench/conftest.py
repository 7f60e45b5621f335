"""The shipped networks as programs, and a bench that is as quick as tests want it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import d2e
from d2e.compiler.bench import seat

EXAMPLES = Path(__file__).parents[3] / "examples"
DIGITS, SHAPES = EXAMPLES / "digits", EXAMPLES / "shapes"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> d2e.Program:
    """The digits network for loihi2-sim, saved and loaded."""
    program = d2e.compile(DIGITS / "model.pt", calibration=DIGITS / "calibration.npz")
    return d2e.load(program.save(tmp_path_factory.mktemp("programs") / "digits"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> d2e.Program:
    """The shapes network for speck2f-sim, saved and loaded."""
    program = d2e.compile(SHAPES / "model.pt", target="speck2f-sim", calibration=SHAPES / "calibration.npz")
    return d2e.load(program.save(tmp_path_factory.mktemp("programs") / "shapes"))


@pytest.fixture(scope="session")
def data() -> tuple[Any, Any]:
    """96 digits and their labels."""
    with np.load(DIGITS / "test.npz") as kept:
        return kept["x"][:96], kept["y"][:96]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "REOPEN_S", 0.1)


def spikes(bench: d2e.Bench) -> list[tuple[Any, ...]]:
    """What does not change from run to run: per sample the prediction, spikes, operations and every count."""
    return [(r["sample"], r["prediction"], r["spikes"], r.get("synops"), r["counts_sha256"]) for r in bench.rows]

"""The digits example on Speck: networks with biases, trained in steps, that never saw the chip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import d2e
from d2e.compiler.report.report import Report

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"


def frames(name: str) -> tuple[np.ndarray, ...]:
    with np.load(EXAMPLE / name) as data:
        return tuple(data[key] for key in ("x", "y") if key in data)


def images(name: str) -> tuple[np.ndarray, ...]:
    """The images that the frames were made of, pixels from 0 to 1."""
    x, *labels = frames(name)
    return (x.sum(axis=1) / 16, *labels)


CASES = {
    "model.pt": ("model.pt", None, frames, ""),
    "model.pt, images as rates": ("model.pt", "rate", images, ""),
    "burst.pt": ("burst.pt", None, frames, "burst-"),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def report(request: pytest.FixtureRequest) -> Report:
    model, encoder, read, prefix = request.param
    return d2e.compile(
        EXAMPLE / model, "speck2f-sim", encoder=encoder, calibration=read(f"{prefix}calibration.npz")[0],
        eval=read(f"{prefix}test.npz"),
    ).report


def test_hardly_any_digit_is_lost(report):
    accuracy = report["accuracy"]
    assert accuracy["source"] >= 0.97
    assert accuracy["program"] >= accuracy["source"] - 0.01
    assert report["fit"]["cores"]["used"] == 3


def test_the_output_drifts_most(report):
    """A dense layer without a floor: its spikes leave before the inhibition that would have held them back arrives."""
    drift = {row["name"]: row["drift"] for row in report["layers"]}
    *hidden, last = drift.values()
    assert max(map(abs, hidden)) < 0.25
    assert last > 1


def test_the_biases_are_called_what_they_become(report):
    leaking = [w["node"] for w in report["warnings"] if w["code"] == "D2E-SPECK-023"]
    assert leaking == [row["name"] for row in report["layers"]]

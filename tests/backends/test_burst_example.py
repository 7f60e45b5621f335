"""The burst example in both forms: the same predictions, in the reference, the simulator and Lava."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import d2e
from d2e.compiler.program import Program

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
FORMS = ("replicas", "graded")


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    return {
        burst: d2e.compile(
            EXAMPLE / "burst.pt", burst=burst, calibration=EXAMPLE / "burst-calibration.npz",
            eval=EXAMPLE / "burst-test.npz",
        )
        for burst in FORMS
    }


def frames(samples: int | None = None) -> np.ndarray:
    with np.load(EXAMPLE / "burst-test.npz") as data:
        return np.asarray(data["x"][:samples])


def test_both_forms_predict_the_same(programs: dict[str, Program]) -> None:
    found = {burst: program.run(frames(), record="spikes") for burst, program in programs.items()}
    a, b = found["replicas"], found["graded"]
    assert np.array_equal(a.output, b.output)
    assert a.counts.keys() == b.counts.keys() == programs["graded"].populations.keys()
    for name in a.counts:
        assert a.spikes[name].max() > 1
        assert np.array_equal(a.spikes[name], b.spikes[name])
    accuracies = {program.report["accuracy"]["program"] for program in programs.values()}
    assert len(accuracies) == 1
    assert min(accuracies) >= 0.97


def test_the_report_shows_what_each_form_costs(programs: dict[str, Program]) -> None:
    """Four replicas have four times the neurons; a burst that travels as one graded spike counts once."""
    rows = {burst: {r["name"]: r for r in program.report["layers"]} for burst, program in programs.items()}
    for name in programs["graded"].populations:
        a, b = rows["replicas"][name], rows["graded"][name]
        assert (a["form"], b["form"]) == ("4 replicas", "graded")
        assert a["neurons"] == 4 * b["neurons"]
        assert a["cores"] > b["cores"] >= 1
        assert a["spikes_per_sample"] > b["spikes_per_sample"] > 0
        assert a["synops_per_sample"] > b["synops_per_sample"] > 0
    result = programs["graded"].run(frames(), record="spikes")
    for name, spikes in result.spikes.items():
        messages = float((spikes != 0).sum()) / len(spikes)
        assert rows["graded"][name]["spikes_per_sample"] == pytest.approx(messages)


@pytest.mark.lava
@pytest.mark.parametrize("burst", FORMS)
def test_every_engine_agrees(
    burst: str, programs: dict[str, Program], lava_python: Path, tmp_path: Path
) -> None:
    loaded = d2e.load(programs[burst].save(tmp_path / "program"))
    expected = programs[burst].run(frames(4), engine="reference", record="state")
    for engine in ("loihi2-sim", "loihi2-lava"):
        found = loaded.run(frames(4), engine=engine, record="state")
        for kind in ("counts", "spikes", "u", "v"):
            for name, values in getattr(expected, kind).items():
                assert np.array_equal(values, getattr(found, kind)[name]), (engine, kind, name)
        assert np.array_equal(expected.output, found.output), engine

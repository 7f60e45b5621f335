"""The whole path on models: compiled, measured, saved, loaded, and identical in the reference, the simulator and Lava."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.models.random_models import KINDS, random_model
from tests.models.train import rows

import d2e
from d2e.backends.loihi2.lava.engine import run_many
from d2e.compiler.paths import paths_into
from d2e.compiler.program import Program
from d2e.ir import UnsupportedError, reference
from d2e.ir.reference import Trace

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

ROOT = Path(__file__).parents[2]
QUICK = 12
WHOLE = int(os.environ.get("D2E_LAVA_MODELS", "72"))
SAMPLES = 3


@dataclass(frozen=True)
class Case:
    """A trained model.

    Attributes:
        source: what d2e.compile takes.
        floor: least accuracy of the float model on the 360 held-out digits.
        drop: most percentage points that the program may lose.
        count_error: largest difference of a neuron's spike count in any sample.
    """

    source: str
    floor: float
    drop: float
    count_error: int


CASES = {
    "digits": Case(str(ROOT / "examples/digits/model.pt"), 0.97, 0.5, 3),
    "leaky": Case(str(ROOT / "tests/models/leaky.pt"), 0.97, 0.5, 8),
    "recurrent": Case(str(ROOT / "tests/models/recurrent.pt"), 0.95, 1.5, 6),
    "residual": Case("tests.models.residual:build", 0.96, 0.5, 4),
}


def frames(name: str, file: str) -> np.ndarray:
    """Frames of the example's data set, coded for the model."""
    with np.load(ROOT / "examples/digits" / file) as data:
        spikes: np.ndarray = data["x"]
    return rows(spikes.sum(axis=1)[:, 0]) if name == "recurrent" else spikes


@pytest.fixture(scope="module", params=CASES)
def compiled(request: pytest.FixtureRequest) -> tuple[str, Program]:
    """A model, compiled with calibration and measured on the held-out digits."""
    name = request.param
    with np.load(ROOT / "examples/digits/test.npz") as data:
        labels = data["y"]
    program = d2e.compile(
        CASES[name].source, target="loihi2-sim", calibration=frames(name, "calibration.npz"),
        eval=(frames(name, "test.npz"), labels),
    )
    return name, program


def differences(expected: Trace | d2e.Result, found: Trace | d2e.Result, populations: Sequence[str]) -> list[str]:
    """What is not identical, as ``kind/population``."""
    pairs = [
        (f"{what}/{name}", getattr(expected, what)[name], getattr(found, what)[name])
        for name in populations for what in ("spikes", "u", "v", "counts")
    ]
    pairs.append(("output", expected.output, found.output))
    return [name for name, a, b in pairs if a.shape != b.shape or not np.array_equal(a, b)]


def test_accuracy_survives(compiled: tuple[str, Program]) -> None:
    name, program = compiled
    case, accuracy = CASES[name], program.report["accuracy"]
    assert accuracy["samples"] == 360
    assert accuracy["source"] >= case.floor
    assert 100 * (accuracy["source"] - accuracy["program"]) <= case.drop


def test_only_rounding_changes_counts(compiled: tuple[str, Program]) -> None:
    """Passes before quantise change no count of any neuron in any sample, those after it none again."""
    name, program = compiled
    table = {row["pass"]: row for row in program.report["accuracy"]["passes"]}
    exact = ("source", "discretise", "canonicalise", "check-rules", "encode-input", "fold-thresholds")
    assert {table[p]["max_count_error"] for p in exact} == {0}
    rounded = [table[p] for p in ("quantise", "map-neurons", "place")]
    assert 0 < rounded[0]["max_count_error"] <= CASES[name].count_error
    assert rounded[0]["spikes"] == pytest.approx(table["source"]["spikes"], rel=0.02)
    assert all({**row, "pass": ""} == {**rounded[0], "pass": ""} for row in rounded)


def test_models_hold_what_they_are_for(compiled: tuple[str, Program]) -> None:
    """One leaks with hard resets and pools, one recurs, one skips past a population."""
    name, program = compiled
    source = program.source
    assert source is not None
    neurons = [source.neuron(n) for n in source.populations]
    leaky = all(n.kind == "lif" and n.reset == "zero" for n in neurons)
    assert leaky == (name == "leaky")
    assert any(n.kind == "avg_pool2d" for n in source.nodes.values()) == (name == "leaky")
    assert any(e.recurrent for e in source.edges) == (name == "recurrent")
    assert source.output.readout == ("last" if name == "recurrent" else "count")
    sources = [{path.source for path in paths_into(source, n)} for n in source.populations]
    assert (max(map(len, sources)) == 2) == (name in ("recurrent", "residual"))


@pytest.mark.lava
def test_loaded_program_is_identical_in_all_engines(
    compiled: tuple[str, Program], lava_python: Path, tmp_path: Path
) -> None:
    name, program = compiled
    loaded = d2e.load(program.save(tmp_path / "program"))
    x = frames(name, "test.npz")[:SAMPLES]
    expected = program.run(x, engine="reference", record="state")
    populations = list(program.populations)
    assert all(expected.counts[n].any() for n in populations if program.populations[n] != "li")
    for each, engine in ((program, "loihi2-sim"), (loaded, "loihi2-sim"), (loaded, "loihi2-lava")):
        assert not differences(expected, each.run(x, engine=engine, record="state"), populations), engine


@pytest.mark.lava
def test_saved_folder_runs_without_d2e(compiled: tuple[str, Program], lava_python: Path, tmp_path: Path) -> None:
    """target/ alone, moved elsewhere, in an environment that knows neither d2e nor this repository."""
    name, program = compiled
    program.save(tmp_path / "program")
    shutil.move(tmp_path / "program" / "target", tmp_path / "alone")
    shutil.rmtree(tmp_path / "program")
    x = frames(name, "test.npz")[:SAMPLES]
    np.save(tmp_path / "frames.npy", x)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(lava_python), *arguments], cwd=tmp_path, env={"PATH": os.defpath, "HOME": str(tmp_path)}, timeout=120,
            capture_output=True, text=True, check=False,
        )

    assert "No module named 'd2e'" in call("-c", "import d2e").stderr
    done = call("alone/run.py", "--input", "frames.npy", "--output", "result.npz")
    assert done.returncode == 0, done.stderr
    expected = program.run(x)
    with np.load(tmp_path / "result.npz") as result:
        assert np.array_equal(result["output"], expected.output)
        for population in program.populations:
            assert np.array_equal(result[f"counts/{population}"], expected.counts[population])


# --------------------------------------------------------------------------- random models


def compare(seeds: range, folder: Path, python: Path) -> None:
    """Every population of the compiled network, helpers included; few bits may silence a layer, which is refused."""
    programs, jobs = {}, []
    for seed in seeds:
        model = random_model(seed)
        try:
            programs[seed] = d2e.compile(model.module, **model.options)
        except UnsupportedError as error:
            if not error.code.startswith("D2E-QUANT"):
                raise
            continue
        programs[seed].save(folder / str(seed))
        jobs.append((folder / str(seed) / "target", model.frames[:2]))
    assert len(programs) >= 0.9 * len(seeds)
    wrong = {}
    traces = run_many(jobs, record="state", python=python)
    for (seed, program), (_, x), found in zip(programs.items(), jobs, traces, strict=True):
        network = program.network
        expected = reference.run(network, x, "state")
        simulated = program.target.run(network, x, engine="loihi2-sim", record="state", folder=None)
        differing = {
            "loihi2-sim": differences(expected, simulated, network.populations),
            "loihi2-lava": differences(expected, found, network.populations),
        }
        if any(differing.values()):
            wrong[f"{seed} ({KINDS[seed % len(KINDS)].__name__})"] = differing
    assert not wrong


@pytest.mark.lava
def test_random_models_are_identical(tmp_path: Path, lava_python: Path) -> None:
    compare(range(QUICK), tmp_path, lava_python)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, WHOLE, 20))
def test_more_random_models_are_identical(first: int, tmp_path: Path, lava_python: Path) -> None:
    compare(range(first, min(first + 20, WHOLE)), tmp_path, lava_python)


def test_random_models_reach_every_form() -> None:
    """All widths, kinds of neuron and resets; nearly every population fires."""
    seen: set[object] = set()
    fired = total = 0
    for seed in range(WHOLE):
        model = random_model(seed)
        source = d2e.compile(model.module, stop_after="discretise", **model.options).network
        neurons = [source.neuron(n) for n in source.populations]
        seen |= {(n.kind, n.reset) for n in neurons} | {model.options["weight_bits"]}
        seen |= {"recurrent" for e in source.edges if e.recurrent}
        counts = reference.run(source, model.frames).counts
        fired += sum(bool(counts[n].any()) for n in counts)
        total += len(neurons)
    wanted = {(kind, reset) for kind in ("if", "lif", "cuba_lif") for reset in ("subtract", "zero", "value")}
    assert seen >= wanted | set(range(2, 9)) | {"recurrent"}
    assert fired > 0.9 * total

"""The package on the way to a chip: stand-ins for Intel's lava-loihi, Lava's own models of the chip behind them.

No test here has met a chip. What is held: the adapters, the shared and the single runs, the profiler's questions, and
that all spikes are plain ones, which a chip with stock neurons needs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.backends.lava.form_networks import random_forms
from tests.backends.lava.lowered_networks import lif, random_lowered, whole

from d2e.backends.loihi2.forms import is_graded, replicas
from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import read_trace
from d2e.ir import LI, Input, Linear, Network, Output, chain
from d2e.ir.reference import run

pytestmark = pytest.mark.lava
STAND_IN = Path(__file__).parent / "loihi_stand_in"


def on_chip(
    jobs: Sequence[tuple[Path, np.ndarray]], python: Path, *options: str, stand_in: Path = STAND_IN
) -> list[dict[str, np.ndarray]]:
    """``run.py --hardware`` with the stand-ins installed; each result, and what was said."""
    listed = []
    for folder, frames in jobs:
        np.save(folder / "frames.npy", frames)
        files = {"input": folder / "frames.npy", "output": folder / "result.npz"}
        listed.append({"folder": str(folder), **{key: str(path) for key, path in files.items()}})
    (jobs[0][0] / "jobs.json").write_text(json.dumps(listed))
    done = subprocess.run(
        [str(python), "run.py", "--hardware", "--jobs", "jobs.json", *options], cwd=jobs[0][0], check=False,
        env={**os.environ, "PYTHONPATH": str(stand_in), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results = []
    for folder, _ in jobs:
        with np.load(folder / "result.npz") as result:
            results.append({**result, "stderr": np.array(done.stderr)})
    return results


def for_chips(draw: range) -> dict[str, tuple[Network, np.ndarray]]:
    """Networks of stock neurons that end with spikes."""
    found = {}
    for seed in draw:
        for name, (network, frames) in {"plain": random_lowered(seed), "forms": random_forms(seed)}.items():
            nodes = [network.neuron(n) for n in network.populations]
            if not any(is_graded(n) or isinstance(n, LI) for n in nodes):
                found[f"{name} {seed}"] = network, np.concatenate([frames, frames[:, ::-1]])
    return found


def test_the_readout_is_that_of_the_reference(tmp_path: Path, lava_python: Path) -> None:
    networks = for_chips(range(14))
    together = shared = 0
    for name, (network, frames) in networks.items():
        emit(network, tmp_path / name, time_steps=frames.shape[1])
    results = on_chip([(tmp_path / name, frames) for name, (_, frames) in networks.items()], lava_python)
    for (name, (network, frames)), result in zip(networks.items(), results, strict=True):
        expected = run(network, frames)
        assert np.array_equal(result["output"], expected.output), name
        for key in result:
            if key.startswith("counts/"):
                assert np.array_equal(result[key], expected.counts[key.removeprefix("counts/")]), (name, key)
        together += bool(result["one_run"].all())
        shared += any(len(names) > 1 for names in replicas(network).values())
    assert len(networks) >= 12
    assert together >= 1
    assert shared >= 3


@pytest.fixture
def simple(tmp_path: Path) -> tuple[Path, np.ndarray]:
    network = chain([
        ("in", Input(shape=(4,))), ("a", Linear(weight=whole(np.full((5, 4), 20)))), ("p", lif((5,), threshold=whole(60))),
        ("out", Output(shape=(5,))),
    ])  # fmt: skip
    emit(network, tmp_path, time_steps=6)
    return tmp_path, np.ones((3, 6, 4), int)


def test_the_profiler_is_asked_for_what_it_offers(simple: tuple[Path, np.ndarray], lava_python: Path) -> None:
    (result,) = on_chip([simple], lava_python, "--fresh")
    assert {key for key in result if key.startswith("profile/")} == {"profile/execution_time", "profile/energy"}
    assert result["profile/execution_time"].shape[0] == 3
    assert (result["profile/energy"] == 2.0 * result["profile/execution_time"].shape[1]).all()
    assert "memory_probe is not available" in str(result["stderr"])
    trace = read_trace(simple[0] / "result.npz")
    assert trace.profile["energy"].tolist() == result["profile/energy"].tolist()
    assert set(trace.counts) == {"p"}


def test_no_profile_on_request(simple: tuple[Path, np.ndarray], lava_python: Path) -> None:
    (result,) = on_chip([simple], lava_python, "--no-profile")
    assert result["one_run"].all()
    assert not any(key.startswith("profile/") for key in result)


def test_without_a_profiler_the_run_goes_on(
    simple: tuple[Path, np.ndarray], lava_python: Path, tmp_path: Path
) -> None:
    other = tmp_path / "no_profiler"
    for path in STAND_IN.rglob("*.py"):
        if "profiler" not in path.name:
            target = other / path.relative_to(STAND_IN)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path.read_text())
    (result,) = on_chip([simple], lava_python, stand_in=other)
    assert "nothing is measured" in str(result["stderr"])
    assert "output" in result

"""Running a package: as a user would, when Lava fails, when it takes too long, when the input is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.backends.lava.lowered_networks import Builder, lif, random_lowered, whole

from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import run_lava, run_many
from d2e.ir import (
    IF,
    LI,
    FixedPoint,
    Input,
    InternalError,
    Linear,
    Network,
    Neuron,
    Output,
    UnsupportedError,
    UsageError,
    chain,
)
from d2e.ir.reference import run

pytestmark = pytest.mark.lava


@pytest.fixture
def two_layers(tmp_path: Path) -> tuple[Path, Network, np.ndarray]:
    b = Builder(np.random.default_rng(5))
    entry = b.input((4,), payload=1)
    first = b.add("first", Linear(weight=whole(np.full((5, 4), 20))), entry)
    hidden = b.add("hidden", lif((5,), threshold=whole(30), bias=whole(7)), first, shape=(5,))
    second = b.add("second", Linear(weight=whole(np.full((3, 5), 9))), hidden)
    network, frames = b.finish(b.add("last", lif((3,), threshold=whole(30)), second, shape=(3,)), steps=6)
    emit(network, tmp_path / "target", time_steps=6)
    return tmp_path / "target", network, frames


def test_run_py_alone(
    two_layers: tuple[Path, Network, np.ndarray], lava_python: Path, tmp_path: Path
) -> None:
    """What a user without d2e does: python run.py --input --output."""
    folder, network, frames = two_layers
    np.save(tmp_path / "frames.npy", frames)
    command = [str(lava_python), "run.py", "--input", str(tmp_path / "frames.npy"), "--output",
               str(tmp_path / "result.npz")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    expected = run(network, frames)
    with np.load(tmp_path / "result.npz") as result:
        assert set(result.files) == {"output", "one_run", *(f"counts/{n}" for n in network.populations)}
        assert (result["output"] == expected.output).all()
        assert all((result[f"counts/{n}"] == expected.counts[n]).all() for n in network.populations)


def test_record_says_what_comes_back(two_layers: tuple[Path, Network, np.ndarray], lava_python: Path) -> None:
    folder, network, frames = two_layers
    traces = [run_lava(folder, frames, record=r, python=lava_python) for r in ("counts", "spikes", "state")]
    assert [bool(t.spikes) for t in traces] == [False, True, True]
    assert [bool(t.v) for t in traces] == [False, False, True]
    expected = run(network, frames, "state")
    assert all((t.output == expected.output).all() for t in traces)


def test_other_lengths_than_the_one_emitted_for(lava_python: Path, tmp_path: Path) -> None:
    jobs, expected = [], []
    for seed, steps in ((3, 1), (6, 1), (7, 30)):
        network, frames = random_lowered(seed)
        longer = np.concatenate([frames] * 30, axis=1)[:, :steps]
        emit(network, tmp_path / str(seed), time_steps=5)
        jobs.append((tmp_path / str(seed), longer))
        expected.append(run(network, longer, "state"))
    for found, reference in zip(run_many(jobs, record="state", python=lava_python), expected, strict=True):
        assert all((found.v[n] == reference.v[n]).all() for n in reference.v)


def test_lavas_traceback_is_shown_and_nothing_hangs(
    two_layers: tuple[Path, Network, np.ndarray], lava_python: Path
) -> None:
    """A wrong type in a model makes bare Lava wait for ever without a word."""
    folder, _, frames = two_layers
    text = (folder / "network.py").read_text()
    (folder / "network.py").write_text(text.replace("dv=0", "dv=0.5", 1))
    with pytest.raises(InternalError, match="TypeError") as caught:
        run_lava(folder, frames, time_out=60.0, python=lava_python)
    assert "lif/models.py" in str(caught.value)


def test_time_out(two_layers: tuple[Path, Network, np.ndarray], lava_python: Path) -> None:
    folder, _, frames = two_layers
    endless = np.concatenate([frames] * 20000, axis=1)
    with pytest.raises(UnsupportedError, match="D2E-LAVA-003"):
        run_lava(folder, endless, time_out=1.0, python=lava_python)


@pytest.mark.parametrize("frames", [
    np.zeros((1, 6, 5), int), np.full((1, 6, 4), 2), np.full((1, 6, 4), 0.5), np.full((1, 6, 4), -1),
])  # fmt: skip
def test_frames_that_do_not_fit(
    frames: np.ndarray, two_layers: tuple[Path, Network, np.ndarray], lava_python: Path
) -> None:
    with pytest.raises(UsageError, match="input"):
        run_lava(two_layers[0], frames, python=lava_python)


def test_hardware_without_intels_software(
    two_layers: tuple[Path, Network, np.ndarray], lava_python: Path
) -> None:
    done = subprocess.run(
        [str(lava_python), "run.py", "--hardware"], cwd=two_layers[0], capture_output=True, text=True,
        timeout=120, check=False,
    )
    assert done.returncode == 5
    assert len(done.stderr.strip().splitlines()) == 1
    assert "lava-loihi" in done.stderr


@pytest.mark.parametrize(("node", "words"), [
    (IF(shape=(2,), arithmetic=FixedPoint(), threshold=whole(9), max_spikes=4), ("'p'", "microcode")),
    (LI(shape=(2,), arithmetic=FixedPoint(), reset="zero", fire="gt", threshold=whole(1), decay_syn=whole(0),
        decay_mem=whole(4096)), ("'p'", "reads out v")),
])  # fmt: skip
def test_what_no_chip_runs_is_told_before_anything_else(
    node: Neuron, words: tuple[str, ...], lava_python: Path, tmp_path: Path
) -> None:
    network = chain([
        ("in", Input(shape=(3,))), ("a", Linear(weight=whole(np.ones((2, 3))))), ("p", node),
        ("out", Output(shape=(2,))),
    ])  # fmt: skip
    emit(network, tmp_path, time_steps=3)
    with pytest.raises(UnsupportedError, match="D2E-HW-002") as caught:
        run_lava(tmp_path, np.ones((1, 3, 3), int), python=lava_python, hardware=True)
    assert all(word in str(caught.value) for word in words)

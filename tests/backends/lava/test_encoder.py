"""The encoder in the emitted package: the same file as d2e's own, applied by run.py alone."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import d2e
from d2e.ir import IF, Encoder, Input, Linear, Network, Output, chain, encoding

IMAGES = np.random.default_rng(0).uniform(-0.2, 1.2, (4, 6))


def network(kind: Any, **source: Any) -> Network:
    rng = np.random.default_rng(1)
    options: dict[str, Any] = {
        "time_steps": 5, "max_payload": 3, "encoder": Encoder(kind, np.array(rng.uniform(0.2, 0.4, 6)), seed=7),
    }
    return chain([
        ("in", Input(shape=(6,), **options | source)), ("fc", Linear(weight=rng.normal(0.1, 0.5, (4, 6)))),
        ("n", IF(shape=(4,), reset="zero")), ("out", Output(shape=(4,))),
    ])


def facts(folder: Path) -> Any:
    """ENCODER of a package."""
    tree = ast.parse((folder / "target" / "network.py").read_text())
    return next(
        ast.literal_eval(node.value) for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "ENCODER"
    )


@pytest.mark.parametrize("kind", encoding.KINDS)
def test_the_package_holds_the_encoder(kind: str, tmp_path: Path) -> None:
    program = d2e.compile(network(kind), output=str(tmp_path / "p"))
    assert (tmp_path / "p" / "target" / "encoder.py").read_bytes() == Path(encoding.__file__).read_bytes()
    stated = facts(tmp_path / "p")
    own = program.network.input.encoder
    assert own is not None
    assert own.scale is not None
    assert (stated["kind"], stated["seed"], stated["latch"], stated["time_steps"]) == (kind, 7, False, 5)
    np.testing.assert_array_equal(stated["scale"], own.scale)


def test_a_latch_that_stays_on_the_host_is_the_packages(tmp_path: Path) -> None:
    source = network("ttfs", encoder=Encoder("ttfs", np.array(0.3), latch=True))
    for soft_reset, on_host in (("exact", False), ("fallback", True)):
        d2e.compile(source, soft_reset=soft_reset, output=str(tmp_path / soft_reset))
        assert facts(tmp_path / soft_reset)["latch"] is on_host


def test_a_package_without_encoder_says_so(tmp_path: Path) -> None:
    d2e.compile(network("rate", encoder=None), output=str(tmp_path / "p"))
    assert facts(tmp_path / "p") is None


@pytest.mark.lava
@pytest.mark.parametrize("kind", ["direct", "bernoulli", "ttfs-strict-latched"])
def test_run_py_encodes_real_values(kind: str, lava_python: Path, tmp_path: Path) -> None:
    kind, _, latch = kind.partition("-latched")
    scale = np.array(np.random.default_rng(1).uniform(0.2, 0.4, 6))
    encoder = Encoder(kind, scale, seed=7, latch=bool(latch))  # type: ignore[arg-type]
    program = d2e.compile(network(kind, encoder=encoder), output=str(tmp_path / "p"))
    given = {"images": IMAGES, "frames": np.repeat(IMAGES[:, None].astype(np.float32), 5, axis=1)}
    for name, frames in given.items():
        np.save(tmp_path / f"{name}.npy", frames)
        command = [str(lava_python), "run.py", "--input", tmp_path / f"{name}.npy", "--output", tmp_path / "result.npz"]
        subprocess.run(command, cwd=tmp_path / "p" / "target", check=True, capture_output=True, timeout=120)
        expected = program.run(frames)
        assert expected.output.any()
        with np.load(tmp_path / "result.npz") as result:
            np.testing.assert_array_equal(result["output"], expected.output)


@pytest.mark.lava
def test_run_py_refuses_what_it_cannot_encode(lava_python: Path, tmp_path: Path) -> None:
    d2e.compile(network("ttfs"), output=str(tmp_path / "p"))
    changing = np.random.default_rng(0).random((2, 5, 6))
    for frames, message in ((changing, "must hold integers"), (IMAGES[:, :5], "is not [batch, time, 6]"),
                            (IMAGES * np.nan, "is not [batch, time, 6]")):
        np.save(tmp_path / "frames.npy", frames)
        command = [str(lava_python), "run.py", "--input", tmp_path / "frames.npy", "--output", tmp_path / "result.npz"]
        done = subprocess.run(command, cwd=tmp_path / "p" / "target", check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr

"""The emitted package: equal bytes for equal networks, nothing of this machine in it, limits are told."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from tests.backends.lava.lowered_networks import KINDS, lif, random_lowered, whole

from d2e.backends.loihi2.lava.emit import emit
from d2e.ir import (
    IF,
    LI,
    Affine,
    Conv2d,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    Network,
    Node,
    Output,
    Scale,
    UnsupportedError,
    chain,
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def small(*synapses: tuple[str, Node], entry: Input | None = None) -> Network:
    return chain([
        ("in", entry or Input(shape=(3,))), *synapses, ("p", lif((2,), threshold=whole(5))),
        ("out", Output(shape=(2,))),
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_same_bytes_twice_and_python_that_parses(seed: int, tmp_path: Path) -> None:
    network, frames = random_lowered(seed)
    for name in ("one", "two"):
        emit(network, tmp_path / name, time_steps=frames.shape[1])
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert set(files(tmp_path / "one")) == {
        "network.py", "weights.npz", "run.py", "samples.py", "chip.py", "encoder.py", "_shim.py", "processes/__init__.py",
        "processes/graded.py", "processes/recorder.py",
    }
    text = (tmp_path / "one" / "network.py").read_text()
    ast.parse(text)
    assert str(tmp_path) not in text


def test_package_needs_nothing_of_d2e(tmp_path: Path) -> None:
    network, frames = random_lowered(1)
    emit(network, tmp_path, time_steps=frames.shape[1])
    imported = set()
    for path in tmp_path.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    assert imported & {"lava", "processes"} == {"lava", "processes"}
    assert not imported & {"d2e", "torch", "nir", "ir", "backends"}


def test_facts_of_the_schedule(tmp_path: Path) -> None:
    network = chain([
        ("in", Input(shape=(3,))), ("a", Linear(weight=whole(np.ones((4, 3))))),
        ("p", lif((4,), threshold=whole(2))), ("b", Linear(weight=whole(np.ones((2, 4))))),
        ("q", lif((2,), threshold=whole(2))), ("out", Output(shape=(2,))),
    ])  # fmt: skip
    facts = emit(network, tmp_path, time_steps=7)
    assert facts == {
        "latency_steps": 2, "depth": {"p": 1, "q": 2}, "lava_steps": 9, "processes": 5, "relays": 0,
        "host_start": [], "graded": [], "one_run": "0 blank frames between samples",
    }


def test_names_that_are_no_python_names(tmp_path: Path) -> None:
    eye = Linear(weight=whole(np.eye(2)))
    network = chain([
        ("in", Input(shape=(np.int64(2),))), ("0.weight", eye), ("lambda", lif((2,), threshold=whole(2))),
        ("LIF", eye), ("steps", lif((2,), threshold=whole(2))), ("out", Output(shape=(2,))),
    ])  # fmt: skip
    emit(network, tmp_path, time_steps=2)
    text = (tmp_path / "network.py").read_text()
    ast.parse(text)
    assert "int64" not in text
    assert "'lambda': lambda_2," in text
    assert "'steps': steps_2," in text


@pytest.mark.parametrize(("network", "code"), [
    (small(("a", Affine(weight=whole(np.ones((2, 3))), bias=whole([1, 1])))), "D2E-LAVA-012"),
    (small(("a", Linear(weight=whole([[1, 0, 40001], [1, 1, -1]])))), "D2E-LAVA-013"),
    (small(("a", Linear(weight=whole(np.full((2, 3), 127)))), entry=Input(shape=(3,), max_payload=2**16)),
     "D2E-LAVA-014"),
    (small(("a", Linear(weight=whole(np.ones((2, 3))))), entry=Input(shape=(3,), coding="direct")),
     "D2E-LAVA-012"),
    (small(("a", Linear(weight=whole(np.ones((4, 3))))), ("r", LI(shape=(4,), arithmetic=FixedPoint())),
           ("b", Linear(weight=whole(np.ones((2, 4)))))), "D2E-LAVA-012"),
    (small(("f", Flatten(end_dim=0)), ("a", Linear(weight=whole(np.ones((2, 3))))), ("b", Flatten()),
           entry=Input(shape=(1, 3))), "D2E-LAVA-012"),
])  # fmt: skip
def test_what_lava_cannot_hold_is_refused(network: Network, code: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        emit(network, tmp_path / "target", time_steps=4)
    assert caught.value.code == code
    assert not (tmp_path / "target").exists()


def test_payloads_of_graded_neurons_count_in_the_bounds(tmp_path: Path) -> None:
    burst = IF(shape=(2,), arithmetic=FixedPoint(), threshold=whole(1), max_spikes=2**16)
    network = small(
        ("a", Linear(weight=whole(np.ones((2, 3))))), ("burst", burst), ("b", Linear(weight=whole(np.full((2, 2), 127)))),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="D2E-LAVA-014"):
        emit(network, tmp_path, time_steps=4)


@pytest.mark.parametrize(("step", "convolutions"), [(2, 1), (9, 4), (20, None)])
def test_a_levels_step_is_in_the_weights(step: int, convolutions: int | None, tmp_path: Path) -> None:
    """Lava's Conv has no exponent: beyond 8 bits several stand for one, up to a sane number."""
    node = Conv2d(weight=whole(np.full((1, 1, 2, 2), 107)))
    network = chain([
        ("in", Input(shape=(1, 3, 3))), ("a", Scale(scale=whole(1))), ("m.1", lif((1, 3, 3), threshold=whole(0))),
        ("m.1.level", Scale(scale=whole(step))), ("c", node), ("p", lif((1, 2, 2), threshold=whole(50))),
        ("out", Output(shape=(1, 2, 2))),
    ])  # fmt: skip
    if convolutions is None:
        with pytest.raises(UnsupportedError, match="D2E-LAVA-013"):
            emit(network, tmp_path, time_steps=4)
        return
    emit(network, tmp_path, time_steps=4)
    assert (tmp_path / "network.py").read_text().count(" Conv(") == convolutions
    with np.load(tmp_path / "weights.npz") as arrays:
        assert sum(int(arrays[k].sum()) for k in arrays if k.startswith("c")) == 4 * 107 * step


def test_a_convolution_with_a_bias_is_refused(tmp_path: Path) -> None:
    network = chain([
        ("in", Input(shape=(1, 2, 2))), ("a", Conv2d(weight=whole(np.ones((1, 1, 1, 1))), bias=whole([1]))),
        ("p", lif((1, 2, 2), threshold=whole(5))), ("out", Output(shape=(1, 2, 2))),
    ])  # fmt: skip
    with pytest.raises(UnsupportedError, match="D2E-LAVA-012"):
        emit(network, tmp_path, time_steps=4)

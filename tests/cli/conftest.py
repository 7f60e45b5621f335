"""The installed programs as users call them, the shipped example, and files that no user should have."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import nn

import d2e.nn as dn
from d2e import cli

PROGRAMS = Path(sysconfig.get_path("scripts"))
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@dataclass(frozen=True)
class Done:
    """What a program did."""

    code: int
    out: str
    err: str


def call(program: str, *args: object, cwd: Path, **env: str) -> Done:
    """Run an installed program; an environment variable given as "" is unset."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "D2E_", "PYTEST"))}
    kept = {k: v for k, v in {**inherited, **env}.items() if v}
    done = subprocess.run(
        [str(PROGRAMS / program), *map(str, args)], cwd=cwd, env=kept, capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL, check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with None."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))
    }


@pytest.fixture
def compile_(tmp_path: Path) -> Callable[..., Done]:
    return lambda *args, **env: call("d2e-compile", *args, cwd=tmp_path, **env)


@pytest.fixture
def d2e(tmp_path: Path) -> Callable[..., Done]:
    return lambda *args, **env: call("d2e", *args, cwd=tmp_path, **env)


@pytest.fixture(scope="session")
def programs() -> Path:
    return PROGRAMS


@pytest.fixture
def listed() -> Callable[[Path], dict[str, bytes | None]]:
    return listing


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """``refused(exit code, code, *args)``: one sentence says so, and nothing is left behind.

    Runs in this process what the executables call: there are many faults, and importing torch takes its time.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)}
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def check(exit_code: int, code: str, *args: object, program: str = "d2e-compile", **env: str) -> str:
        before = listing(tmp_path)
        monkeypatch.setattr(sys, "argv", [program, *map(str, args)])
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            (cli.main if program == "d2e" else cli.compile_main)()
        out, err = capfd.readouterr()
        errors = [line for line in err.splitlines() if not line.startswith("[")]
        assert (ended.value.code, out, len(errors)) == (exit_code, "", 1), err
        assert errors[0].startswith(f"error: {code}: ")
        assert listing(tmp_path) == before
        return errors[0]

    yield check
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def model() -> Path:
    return DIGITS / "model.pt"


@pytest.fixture(scope="session")
def data() -> Path:
    return DIGITS / "test.npz"


@pytest.fixture(scope="session")
def program(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled and measured on 30 digits."""
    folder = tmp_path_factory.mktemp("compiled")
    args = ("--eval", data, "--eval-samples", 30, "-o", "program", "-q")
    done = call("d2e-compile", model, *args, cwd=folder)
    assert done.code == 0, done.err
    return folder / "program"


class Bomb:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture(scope="session")
def broken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models and data with one thing wrong each."""
    folder = tmp_path_factory.mktemp("broken")
    whole = model.read_bytes()
    (folder / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "text.pt").write_text("conv1: 16 channels\n")
    (folder / "empty.pt").touch()
    (folder / "folder.pt").mkdir()
    (folder / "bomb.pt").write_bytes(pickle.dumps({"d2e": {}, "model": Bomb(folder / "exploded")}, 2))
    torch.save({"d2e": {"schema": 1}, "model": Bomb(folder / "exploded")}, folder / "bomb_zip.pt")
    torch.manual_seed(0)
    layers: dict[str, list[nn.Module]] = {
        "maxpool": [nn.Conv2d(1, 4, 3), dn.IF(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2), dn.IF()],
        "relu": [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2), dn.IF()],
        "nan": [nn.Flatten(), nn.Linear(64, 2), dn.IF()],
        "ends_in_linear": [nn.Flatten(), nn.Linear(64, 8), dn.IF(), nn.Linear(8, 2)],
        "burst": [nn.Flatten(), nn.Linear(64, 2), dn.IF(max_spikes=3, reset="zero")],
        "multi_threshold": [nn.Flatten(), nn.Linear(64, 2), dn.MultiThreshold([0.5, 1.0], reset="zero")],
    }
    for name, parts in layers.items():
        net = dn.Sequential(*parts)
        if name == "nan":
            with torch.no_grad():
                next(net.parameters())[0, 0] = float("nan")
        dn.save(net, folder / f"{name}.pt", input_shape=(1, 8, 8), time_steps=16)
    _nir_files(folder)
    _data_files(folder)
    return folder


def _nir_files(folder: Path) -> None:
    one = np.ones(2)
    graph = nir.NIRGraph.from_list(
        nir.Input({"input": np.array([3])}), nir.Linear(np.ones((2, 3))),
        nir.LIF(tau=2 * one, r=one, v_leak=0 * one, v_threshold=one), nir.Output({"output": np.array([2])}),
    )
    nir.write(folder / "open.nir", graph)
    (folder / "truncated.nir").write_bytes((folder / "open.nir").read_bytes()[:900])


def _data_files(folder: Path) -> None:
    x, y = np.zeros((4, 16, 1, 8, 8), np.uint8), np.arange(4)
    arrays: dict[str, dict[str, np.ndarray]] = {
        "frames_9x9": {"x": np.zeros((4, 16, 1, 9, 9), np.uint8), "y": y}, "labels_12": {"x": x, "y": y + 9},
        "labels_negative": {"x": x, "y": y - 1}, "labels_few": {"x": x, "y": y[:3]}, "no_x": {"frames": x, "y": y},
        "no_time": {"x": x[:, 0], "y": y}, "no_samples": {"x": x[:0], "y": y[:0]}, "twos": {"x": x + 2, "y": y},
        "halves": {"x": x + 0.5, "y": y}, "nans": {"x": x + np.nan, "y": y}, "steps_8": {"x": x[:, :8], "y": y},
        "objects": {"x": np.array([None] * 4)}, "text": {"x": np.array(["a"] * 4)},
    }
    for name, table in arrays.items():
        np.savez(folder / f"{name}.npz", **table)
    (folder / "none.npz").write_bytes(b"not a zip")

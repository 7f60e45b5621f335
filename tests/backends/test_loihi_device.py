"""Loihi 2 as a device, up to where Intel's software would take over; and which core each neuron is on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import d2e
from d2e.backends.loihi2 import device
from d2e.backends.loihi2.lava import engine
from d2e.backends.loihi2.lava.engine import LavaTrace
from d2e.ir import MissingError, reference

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def program() -> d2e.Program:
    return d2e.compile(DIGITS / "model.pt", calibration=DIGITS / "calibration.npz")


def test_what_is_missing_is_told_without_lava(program, monkeypatch, tmp_path):
    def nowhere() -> Path:
        raise MissingError("D2E-LAVA-001", "the Lava environment is not installed")

    monkeypatch.setattr(device.env, "find", nowhere)
    assert device.missing().code == "D2E-LAVA-001"
    monkeypatch.setattr(device.env, "find", lambda: tmp_path / "bin" / "python")
    assert device.missing().code == "D2E-HW-001"
    assert not program.target.devices()[0].ready
    with pytest.raises(MissingError, match="lava-loihi"):
        device.LoihiDevice().open()
    (tmp_path / "lib" / "python3.10" / "site-packages" / "lava" / "magma" / "core" / "model" / "nc").mkdir(parents=True)
    assert device.missing() is None
    device.LoihiDevice().open()


def test_a_batch_goes_to_the_emitted_package_and_power_is_the_profilers(program, monkeypatch):
    asked: list[dict[str, Any]] = []

    def chip(folder: Path, frames: Any, **options: Any) -> LavaTrace:
        asked.append({"files": {p.name for p in folder.iterdir()}, **options})
        trace = reference.run(program.network, frames)
        watts = {"static_power": np.full((1, 2), 0.2), "power": np.full((1, 2), 0.6 + len(asked) / 10),
                 "dynamic_power": np.full((1, 2), 0.5)}
        return LavaTrace(trace.output, {"7": trace.counts["7"]}, profile=watts)

    monkeypatch.setattr(device, "run_lava", chip)
    monkeypatch.setattr(device, "missing", lambda: None)
    with np.load(DIGITS / "test.npz") as kept:
        frames, labels = kept["x"][:6], kept["y"][:6]
    found = d2e.bench(program, (frames, labels), device="loihi2:ncl-05", batch=3, warm_up=0)
    assert [(each["hardware"], each["board"], each["time_out"]) for each in asked] == [(True, "ncl-05", 606.0)] * 2
    assert {"run.py", "network.py"} <= asked[0]["files"]
    (board,) = found["devices"]
    assert board["power"]["rails"] == {"chip": {
        "idle": pytest.approx(0.2), "total": pytest.approx(0.75), "dynamic": pytest.approx(0.5),
        "unit": "Intel's profiler's"}}
    assert found["activity"] == {"label": "measured on the device", "spikes_per_sample": pytest.approx(
        program.run(frames).counts["7"].sum() / 6), "steps_per_sample": 16.0, "layers": [
            {"name": "7", "spikes_per_sample": pytest.approx(program.run(frames).counts["7"].sum() / 6)}]}
    compared = d2e.bench(program, (frames, labels), compare=("loihi2-sim", "loihi2:0"), warm_up=0)["compare"]
    assert (compared["counts_of"], compared["counts_equal"], compared["promised"]) == ("the output", 6, False)


def test_the_name_of_a_board_reaches_the_environment(monkeypatch, tmp_path):
    code, said = engine.run_apart(["/bin/sh", "-c", "echo $BOARD >&2"], tmp_path, 10.0, {"BOARD": "ncl-05"})
    assert (code, said) == (0, "ncl-05")


def test_every_neuron_has_the_core_of_the_table():
    from torch import nn

    from d2e.nn import IF, Sequential

    wide = d2e.compile(Sequential(nn.Conv2d(2, 24, 3, padding=1), IF(), nn.Conv2d(24, 32, 3, stride=2), IF()),
                       input_shape=(2, 24, 24), time_steps=2)
    table = wide.network.metadata["placement"]["cores"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    cores = wide.target.core_of(wide.network)
    assert len(rows) > 3
    assert cores.keys() == set(wide.network.populations)
    every = np.concatenate([each.reshape(-1) for each in cores.values()])
    assert {row["core"]: row["neurons"] for row in rows} == dict(zip(*np.unique(every, return_counts=True), strict=True))

"""deploy.py as a user runs it, with a strict stand-in for samna: no test here has met a board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.backends.speck.board_configurations import chain, frames_for, with_camera

from d2e.backends.speck.configuration import Configuration, Destination
from d2e.backends.speck.emission.emit import emit
from d2e.backends.speck.events import from_frames
from d2e.backends.speck.simulator.reference import Chip
from d2e.backends.speck.simulator.reference import run as simulate
from d2e.ir.encoding import Encoder

STAND_IN = Path(__file__).parent / "samna_stand_in"
LEAD_US = 100_000
RAILS = ("io", "ram", "logic", "pixel_digital", "pixel_analog")
IDLE_W = (6.0e-5, 5.0e-5, 3.6e-4, 8.0e-5, 6.0e-4)


class Deployed:
    """A target folder beside a stand-in board that answers with given spikes."""

    def __init__(self, folder: Path, configuration: Configuration, devices: tuple[str, ...] = ("Speck2fDevKit",)) -> None:
        self.folder, self.configuration = folder, configuration
        emit(configuration, folder)
        self.answers: dict[str, np.ndarray] = {}
        self.setup = {"devices": devices, "answers": str(folder / "answers.npz"), "log": str(folder / "log.json")}

    def run(self, *options: str, samna: bool = True) -> subprocess.CompletedProcess[str]:
        """``python deploy.py`` with an interpreter that has numpy, and the stand-in if asked for."""
        np.savez(self.folder / "answers.npz", **self.answers)  # type: ignore[arg-type]
        (self.folder / "setup.json").write_text(json.dumps(self.setup))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"SAMNA_STAND_IN": str(self.folder / "setup.json"), "PYTHONDONTWRITEBYTECODE": "1"}
        if samna:
            environment["PYTHONPATH"] = str(STAND_IN)
        return subprocess.run([sys.executable, "deploy.py", *options], cwd=self.folder, env=environment, check=False,
                              capture_output=True, text=True, timeout=120)

    def result(self, *options: str) -> dict[str, np.ndarray]:
        done = self.run("--output", "result.npz", *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        with np.load(self.folder / "result.npz") as result:
            return dict(result)

    @property
    def log(self) -> dict[str, Any]:
        logged: dict[str, Any] = json.loads((self.folder / "log.json").read_text())
        return logged


@pytest.fixture
def answered(tmp_path: Path) -> tuple[Deployed, np.ndarray, dict[str, np.ndarray]]:
    """A chain whose board answers with random spikes; frames, and what the answers are as spikes per step."""
    deployed = Deployed(tmp_path / "target", chain(readout=True))
    frames = frames_for(deployed.configuration, batch=2, steps=4)
    rng = np.random.default_rng(1)
    told = {name: np.zeros((2, 4, *p.shape), np.int64) for name, p in deployed.configuration.populations.items()}
    for sample in range(2):
        for name, placed in deployed.configuration.populations.items():
            for part in placed.parts:
                _, width, height = deployed.configuration.cnn_layers[part.layer].dimensions.output_shape
                rows = []
                for t in np.sort(rng.integers(0, 4 * 2000, 30)):
                    feature, y, x = rng.integers(part.count), rng.integers(height), rng.integers(width)
                    rows.append([t, part.spread * feature, y, x])
                    features = sum(p.count for p in placed.parts)
                    whole = told[name][sample, t // 2000].reshape(features, height, width)
                    whole[part.first + feature, y, x] += 1
                deployed.answers[f"{sample}/{part.layer}"] = np.array(rows)
    np.save(deployed.folder / "frames.npy", frames)
    return deployed, frames, told


def test_spikes_come_back_as_arrays_of_the_network(answered: tuple[Deployed, np.ndarray, dict[str, np.ndarray]]) -> None:
    deployed, _, told = answered
    result = deployed.result("--input", "frames.npy", "--monitor", "all", "--record", "spikes")
    assert np.array_equal(result["output"], told["out"])
    for name, expected in told.items():
        assert np.array_equal(result[f"spikes/{name}"], expected), name
        assert np.array_equal(result[f"counts/{name}"], expected.sum(axis=1)), name
    written = deployed.log["applied"][0]
    assert (written["readout"]["enable"], written["readout"]["readout_configuration_sel"]) == (True, 3)
    assert written["cnn_layers"][6]["destinations"][0]["layer"] == 12
    last = [deployed.answers[f"{sample}/6"][:, 0].max() for sample in range(2)]
    assert np.array_equal(result["last_spike_us"], last)
    assert result["wall_s"].shape == (2,)
    assert not [key for key in result if key.startswith("power")]


def predicted(configuration: Configuration, frames: np.ndarray) -> dict[str, np.ndarray]:
    """What the chip's rules say that a board answers: ``SAMPLE/CORE`` -> rows of (microseconds, feature, y, x)."""
    rows: dict[str, list[list[int]]] = {f"{i}/{core}": [] for i in range(len(frames)) for core in configuration.cnn_layers}
    for i, sample in enumerate(frames):
        chip = Chip(configuration)
        for t, step in enumerate(sample):
            chip.edge()
            events = from_frames(step[None], step_us=2000)
            for moment, *event in zip(events.timestamp, events.feature, events.y, events.x, strict=True):
                chip.sent.clear()
                chip.send(tuple(map(int, event)))  # type: ignore[arg-type]
                for number, spike in chip.sent:
                    rows[f"{i}/{number}"].append([2000 * t + int(moment) + 3, *spike])
    return {key: np.array(found, np.int64).reshape(-1, 4) for key, found in rows.items()}


@pytest.mark.parametrize("options", [{}, {"biases": True}, {"readout": True}, {"whole": True}], ids=str)
def test_a_board_that_follows_the_rules_gives_the_result_of_the_simulator(tmp_path: Path, options: dict[str, bool]) -> None:
    configuration = chain(7, **options)
    deployed = Deployed(tmp_path / "target", configuration)
    frames = frames_for(configuration, batch=2, steps=6, seed=7)
    np.save(deployed.folder / "frames.npy", frames)
    deployed.answers = predicted(configuration, frames)
    result = deployed.result("--input", "frames.npy", "--monitor", "all", "--record", "spikes")
    expected = simulate(configuration, frames, "spikes")
    assert expected.output.sum() > 10
    assert np.array_equal(result["output"], expected.output)
    for name, spikes in expected.spikes.items():
        assert np.array_equal(result[f"spikes/{name}"], spikes), name
        assert np.array_equal(result[f"counts/{name}"], expected.counts[name]), name


def test_only_the_output_is_monitored_unless_all_is_asked_for(
    answered: tuple[Deployed, np.ndarray, dict[str, np.ndarray]]
) -> None:
    deployed, _, told = answered
    result = deployed.result("--input", "frames.npy")
    assert np.array_equal(result["output"], told["out"])
    assert sorted(result) == ["counts/out", "last_spike_us", "output", "wall_s"]
    assert [layer["monitor_enable"] for layer in deployed.log["applied"][0]["cnn_layers"]] == [i == 6 for i in range(9)]


def test_every_event_arrives_in_order_with_its_address_and_time(
    answered: tuple[Deployed, np.ndarray, dict[str, np.ndarray]]
) -> None:
    deployed, frames, _ = answered
    deployed.result("--input", "frames.npy")
    for sample, sent in zip(frames, deployed.log["inputs"], strict=True):
        events = from_frames(sample, step_us=2000)
        assert len(events) == sample.sum()
        assert np.array_equal(sent, np.stack(
            [events.timestamp + LEAD_US, np.full(len(events), 3), events.feature, events.y, events.x], axis=1))


def test_events_of_two_destinations_are_pooled_and_shifted_on_the_host(tmp_path: Path) -> None:
    goals = (Destination(3, 2, 1), Destination(3, 8))
    configuration = chain(space=(1, 17, 13), shape=(1, 17, 13), destinations=goals)
    deployed = Deployed(tmp_path / "target", configuration)
    deployed.answers["0/6"] = np.array([[10, 1, 1, 0]])
    np.savez(deployed.folder / "events.npz", t=[5, 9], x=[0, 10], y=[16, 3], p=[0, 0])
    result = deployed.result("--input", "events.npz")
    assert deployed.log["inputs"] == [[
        [LEAD_US + 5, 3, 0, 2, 0],  # row 16 // 2 is no row of the core's map: nothing is sent there
        [LEAD_US + 9, 3, 1, 1, 5], [LEAD_US + 9, 3, 0, 0, 1],
    ]]
    assert result["output"].shape == (1, 1, 10)
    assert result["output"].sum() == 1


def test_samples_of_events_and_their_steps(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "target", chain())
    deployed.answers = {"0/6": np.array([[1999, 4, 1, 0], [2000, 4, 1, 0]]), "1/6": np.array([[9_999, 0, 0, 0]])}
    np.savez(deployed.folder / "events.npz", t=[0, 5000, 3], x=[0, 1, 2], y=[0, 1, 2], p=[0, 1, 1], sample=[0, 0, 1])
    result = deployed.result("--input", "events.npz")
    expected = np.zeros((2, 3, 10), np.int64)
    expected[0, 0, 9] = expected[0, 1, 9] = expected[1, 2, 0] = 1  # what comes after the last step counts for the last
    assert np.array_equal(result["output"], expected)
    assert [[e[0] - LEAD_US for e in sent] for sent in deployed.log["inputs"]] == [[0, 5000], [3]]


@pytest.mark.parametrize(("order", "latch"), [("mixed", False), ("raster", False), ("mixed", True)])
def test_real_values_are_encoded_as_d2e_encodes_them(tmp_path: Path, order: str, latch: bool) -> None:
    facts = {"kind": "ttfs" if latch else "rate", "scale": 0.25, "seed": 3, "latch": latch}
    configuration = replace(chain(encoder=facts, time_steps=4), notes={"events": order})
    deployed = Deployed(tmp_path / "target", configuration)
    images = np.random.default_rng(0).random((2, 2, 8, 6))
    np.savez(deployed.folder / "images.npz", x=images, y=[0, 1])
    deployed.result("--input", "images.npz")
    own = Encoder("ttfs" if latch else "rate", np.array(0.25), 3, latch)
    payloads = own.encode(own.spread(images, 4), 0, 3)
    for sample, sent in zip(payloads, deployed.log["inputs"], strict=True):
        events = from_frames(sample, step_us=2000, order=order)
        assert len(events) > 100
        assert [row[2:] for row in sent] == np.stack([events.feature, events.y, events.x], axis=1).tolist()
        assert [row[0] - LEAD_US for row in sent] == events.timestamp.tolist()


def test_a_recording_as_tonic_has_it(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "target", chain())
    recording = np.zeros(3, [("x", "i2"), ("y", "i2"), ("p", "i1"), ("t", "i8")])
    recording["t"], recording["p"], recording["x"], recording["y"] = [1, 2, 2], [-1, 1, -1], [5, 0, 0], [0, 7, 1]
    np.save(deployed.folder / "recording.npy", recording)
    deployed.result("--input", "recording.npy")
    assert deployed.log["inputs"] == [[
        [LEAD_US + 1, 3, 0, 0, 5], [LEAD_US + 2, 3, 1, 7, 0], [LEAD_US + 2, 3, 0, 1, 0],
    ]]


def test_what_is_written_to_the_chip_is_what_the_file_says(tmp_path: Path) -> None:
    """Attribute by attribute; what the file leaves out is zeros, or samna's default."""
    deployed = Deployed(tmp_path / "target", with_camera(4))
    np.save(deployed.folder / "frames.npy", frames_for(deployed.configuration, batch=1))
    deployed.result("--input", "frames.npy", "--monitor", "all")
    blocks = json.loads((deployed.folder / "speck_config.json").read_text())["configuration"]
    written = deployed.log["applied"][0]
    for core, (wanted, layer) in enumerate(zip(blocks["cnn_layers"], written["cnn_layers"], strict=True)):
        if wanted is None:
            assert layer["weights"] == []
            assert not any(d["enable"] for d in layer["destinations"])
            continue
        shape = wanted["dimensions"]["output_shape"]
        zeros = np.zeros((shape["feature_count"], shape["size"]["x"], shape["size"]["y"]), int).tolist()
        for place, destination in enumerate(wanted.pop("destinations")):
            assert layer["destinations"][place] == destination
        assert layer["monitor_enable"], core
        assert layer["biases"] == [0] * shape["feature_count"]
        assert layer["neurons_initial_value"] == wanted.get("neurons_initial_value", zeros)
        assert {key: layer[key] for key in wanted if key != "monitor_enable"} == {
            key: value for key, value in wanted.items() if key != "monitor_enable"}
    assert "neurons_initial_value" in blocks["cnn_layers"][3]
    assert written["dvs_layer"]["cut"] == {"x": 12, "y": 17}
    assert written["dvs_layer"]["destinations"][0] == {"layer": 3, "enable": True}
    assert not written["dvs_layer"]["pass_sensor_events"]


def test_every_sample_starts_from_rest_and_the_watch_from_zero(
    answered: tuple[Deployed, np.ndarray, dict[str, np.ndarray]]
) -> None:
    deployed, _, _ = answered
    deployed.result("--input", "frames.npy", "--device", "speck2fdevkit:0")
    sample = ["apply", "watch reset", "watch start", "write", "watch stop"]
    assert deployed.log["calls"] == [["open", "Speck2fDevKit", 0], *sample, *sample, "close"]


def test_biases_run_on_the_slow_clock(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "target", chain(biases=True))
    np.save(deployed.folder / "frames.npy", frames_for(deployed.configuration, batch=1, steps=2))
    deployed.result("--input", "frames.npy")
    log = deployed.log
    assert log["calls"][1:4] == ["apply", ["slow_clk", True], ["slow_clk_rate", 500.0]]
    core = deployed.configuration.cnn_layers[3]
    assert core.biases is not None
    assert log["applied"][0]["cnn_layers"][3]["biases"] == core.biases.tolist()
    assert log["applied"][0]["cnn_layers"][3]["leak_enable"]
    assert not log["applied"][0]["cnn_layers"][0]["leak_enable"]
    assert max(e[0] for e in log["inputs"][0]) < LEAD_US + 4000
    deployed.result("--input", "frames.npy", "--slow-clock", "10")
    assert ["slow_clk_rate", 10.0] in deployed.log["calls"]
    assert LEAD_US + 100_000 < max(e[0] for e in deployed.log["inputs"][0]) < LEAD_US + 200_000


def test_power_is_averaged_per_rail(answered: tuple[Deployed, np.ndarray, dict[str, np.ndarray]]) -> None:
    deployed, frames, _ = answered
    np.save(deployed.folder / "frames.npy", np.repeat(frames, 25, axis=1))
    result = deployed.result("--input", "frames.npy", "--power")
    assert tuple(result["power/rails"]) == RAILS
    assert np.allclose(result["power/idle"], IDLE_W, rtol=1e-12)
    assert np.all(result["power/measurements"] == result["power/measurements"][0])
    assert 30 <= result["power/measurements"][0] <= 40  # two samples of just under 0.2 s, 100 Hz
    odd = result["power/measurements"][0] % 2 / result["power/measurements"][0]
    assert np.allclose(result["power/total"], np.array(IDLE_W) * (1 + 0.5 * odd) + 1e-3, rtol=0.05)
    assert np.allclose(result["power/dynamic"], result["power/total"] - result["power/idle"])
    calls = deployed.log["calls"]
    assert calls[:4] == [["open", "Speck2fDevKit", 0], "apply", "power start", "power stop"]
    assert calls[4:9] == ["watch reset", "watch start", "write", "power start", "power stop"]


def test_the_camera_is_switched_on_for_its_seconds_alone(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "target", with_camera())
    result = deployed.result("--camera", "0.5", "--power")
    assert result["output"].shape == (1, 250, 10)
    assert result["power/measurements"].tolist() == [50] * 5
    calls = deployed.log["calls"]
    assert calls[4:] == ["watch reset", "watch start", "apply", "power start", "power stop", "apply", "watch stop", "close"]
    assert [each["dvs_layer"]["pass_sensor_events"] for each in deployed.log["applied"]] == [False, True, False]
    without = Deployed(tmp_path / "host", chain())
    assert "compile it with {input=camera}" in one_sentence(without.run("--camera", "1", "--output", "r.npz"), 2)


# --------------------------------------------------------------------------- what goes wrong


def one_sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    text = done.stderr.strip()
    assert len(text.splitlines()) == 1
    return text


def test_without_samna(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "target", chain())
    np.save(deployed.folder / "frames.npy", frames_for(deployed.configuration))
    text = one_sentence(deployed.run("--input", "frames.npy", "--output", "r.npz", samna=False), 5)
    assert "samna is not installed" in text
    assert "stub" in text
    assert "samna is not installed" in one_sentence(deployed.run("--check", samna=False), 5)


@pytest.mark.parametrize(("devices", "options", "expected"), [
    ((), (), "(found: none)"),
    (("Davis346", "Speck2eDevKit"), (), "(found: Davis346, Speck2eDevKit)"),
    (("Speck2fDevKit",), ("--device", "speck2fdevkit:1"), "'speck2fdevkit:1'"),
    (("Speck2fBusy",), (), "cannot be opened"),
])
def test_without_a_board(tmp_path: Path, devices: tuple[str, ...], options: tuple[str, ...], expected: str) -> None:
    deployed = Deployed(tmp_path / "target", chain(), devices)
    np.save(deployed.folder / "frames.npy", frames_for(deployed.configuration))
    assert expected in one_sentence(deployed.run("--input", "frames.npy", "--output", "r.npz", *options), 5)


def test_a_configuration_that_samna_refuses(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "target", chain())
    assert deployed.run("--check").stdout == "the configuration is valid\n"
    path = deployed.folder / "speck_config.json"
    config = json.loads(path.read_text())
    config["configuration"]["cnn_layers"][5]["threshold_low"] = 0
    path.write_text(json.dumps(config))
    text = one_sentence(deployed.run("--check"), 3)
    assert "cnn_layers[5]: threshold_low must be within -32768 and -1" in text
    config["configuration"]["cnn_layers"][5]["weights"][0][0][0][0] = 128
    path.write_text(json.dumps(config))
    assert "128" in one_sentence(deployed.run("--check"), 3)
    config["configuration"]["cnn_layers"][5]["kill_bit"] = 1
    path.write_text(json.dumps(config))
    np.save(deployed.folder / "frames.npy", frames_for(deployed.configuration))
    one_sentence(deployed.run("--input", "frames.npy", "--output", "r.npz"), 3)
    assert deployed.log["calls"][-1] == "close"


@pytest.mark.parametrize(("arrays", "expected"), [
    ({"x": np.zeros((2, 3, 2, 8, 7), int)}, "input of shape [2, 3, 2, 8, 7] is not [batch, time, 2, 8, 6]"),
    ({"x": np.full((1, 1, 2, 8, 6), 4)}, "integers from 0 to 3"),
    ({"x": np.full((1, 1, 2, 8, 6), 0.5)}, "integers from 0 to 3"),
    ({"x": np.full((1, 1, 2, 8, 6), np.nan)}, "integers from 0 to 3"),
    ({"x": np.zeros((1, 0, 2, 8, 6))}, "no frame"),
    ({"t": [0], "x": [0]}, "y is missing"),
    ({"t": [0], "x": [6], "y": [0]}, "x of the events reaches from 6 to 6, not 0 to 5"),
    ({"t": [3, 2], "x": [0, 0], "y": [0, 0]}, "t must not fall"),
    ({"t": [0.5], "x": [0], "y": [0]}, "must be integers"),
    ({"t": np.zeros(0, int), "x": np.zeros(0, int), "y": np.zeros(0, int)}, "no event"),
])
def test_wrong_input(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    deployed = Deployed(tmp_path / "target", chain())
    np.savez(deployed.folder / "in.npz", **arrays)
    assert expected in one_sentence(deployed.run("--input", "in.npz", "--output", "r.npz"), 2)


def test_wrong_calls(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "target", chain())
    assert "nowhere.npy cannot be read" in one_sentence(deployed.run("--input", "nowhere.npy", "--output", "r.npz"), 2)
    (deployed.folder / "broken.npz").write_bytes(b"no array")
    assert "no whole .npy" in one_sentence(deployed.run("--input", "broken.npz", "--output", "r.npz"), 2)
    np.save(deployed.folder / "frames.npy", frames_for(deployed.configuration))
    assert "cannot be written" in one_sentence(deployed.run("--input", "frames.npy", "--output", "no/r.npz"), 2)
    for options in ((), ("--slow-clock", "0"), ("--board", "other")):
        done = deployed.run(*options)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr

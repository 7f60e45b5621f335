"""d2e runs boards: the vendor's behind the protocol, on the stand-in for samna, with d2e's errors."""

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
from tests.backends.speck.board_configurations import branches, chain, frames_for, with_camera

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.device.protocol import Board
from d2e.backends.speck.device.run import monitored, places, run_on_board
from d2e.backends.speck.device.samna import SamnaBoard, require
from d2e.backends.speck.device.simulated import SimulatedBoard
from d2e.backends.speck.events import from_frames
from d2e.backends.speck.simulator.run import Simulator
from d2e.ir import MissingError, UsageError

STAND_IN = Path(__file__).parent / "samna_stand_in"
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.device.run import run_on_board
from d2e.backends.speck.device.samna import SamnaBoard, require
from d2e.ir import D2EError
require()
assert "samna" not in sys.modules
board = SamnaBoard("speck2f", power=True)
try:
    configuration = Configuration.from_json(Path("config.json").read_text())
    trace = run_on_board(board, configuration, np.load("frames.npy"), "spikes")
except D2EError as error:
    print(error.code, error.exit_code, error)
else:
    counts = {f"board/{core}": values for core, values in board.counts().items()}
    np.savez("trace.npz", output=trace.output, **{f"counts/{n}": a for n, a in trace.counts.items()},
             **{f"spikes/{n}": a for n, a in trace.spikes.items()}, **counts)
    print(sorted(board.power()), round(board.power()["ram"].idle * 1e6))
"""


def on_stand_in(
    folder: Path, configuration: Configuration, frames: np.ndarray, answers: dict[str, np.ndarray],
    devices: tuple[str, ...] = ("Speck2fModuleDevKit",),
) -> str:
    """What the script prints, run in an interpreter with the stand-in for samna."""
    (folder / "config.json").write_text(configuration.to_json())
    np.save(folder / "frames.npy", frames)
    np.savez(folder / "answers.npz", **answers)  # type: ignore[arg-type]
    (folder / "setup.json").write_text(
        json.dumps({"devices": devices, "answers": str(folder / "answers.npz"), "log": str(folder / "log.json")}))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(STAND_IN), "SAMNA_STAND_IN": str(folder / "setup.json")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_run_on_a_board_is_a_run(tmp_path: Path) -> None:
    configuration = chain()
    frames = frames_for(configuration, batch=2, steps=3)
    answers = {
        "0/3": np.array([[0, 1, 2, 3], [2000, 1, 2, 3], [5999, 3, 7, 5]]), "0/5": np.array([[100, 3, 2, 1]]),
        "1/0": np.array([[4000, 1, 0, 0]]), "1/6": np.array([[6100, 4, 1, 0]]),
    }
    printed = on_stand_in(tmp_path, configuration, frames, answers)
    assert printed == "['io', 'logic', 'pixel_analog', 'pixel_digital', 'ram'] 50"
    with np.load(tmp_path / "trace.npz") as trace:
        spikes = {name: np.zeros((2, 3, *placed.shape), np.int64) for name, placed in configuration.populations.items()}
        spikes["a"][0, 0, 1, 2, 3] = spikes["a"][0, 1, 1, 2, 3] = spikes["a"][0, 2, 3, 7, 5] = 1
        spikes["b"][0, 0, 5, 2, 1] = spikes["b"][1, 2, 1, 0, 0] = spikes["out"][1, 2, 9] = 1
        assert np.array_equal(trace["output"], spikes["out"])
        for name, expected in spikes.items():
            assert np.array_equal(trace[f"spikes/{name}"], expected), name
            assert np.array_equal(trace[f"counts/{name}"], expected.sum(axis=1)), name
        assert {key for key in trace if key.startswith("board/")} == {"board/0", "board/3", "board/5", "board/6"}
        assert trace["board/0"].shape == (2, 3, 2)  # of the sample streamed last
        assert (trace["board/0"].sum(), trace["board/0"][1, 0, 0], trace["board/3"].sum()) == (1, 1, 0)
    sent = json.loads((tmp_path / "log.json").read_text())["inputs"]
    assert [len(each) for each in sent] == [int(sample.sum()) for sample in frames]


CASES = {
    "chain": chain(), "biases": chain(1, biases=True), "readout": chain(2, readout=True), "whole": chain(3, whole=True),
    "camera": with_camera(4), "branches": branches(), "one millisecond": chain(5, dt=None),
    "raster": replace(chain(6), notes={"events": "raster"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", ["depth", "breadth"])
def test_the_simulated_board_runs_frames_as_the_simulator(case: str, order: Any) -> None:
    configuration = CASES[case]
    frames = frames_for(configuration, batch=3, steps=5, seed=1)
    expected = Simulator(configuration, order=order, events=configuration.notes.get("events", "mixed")).run(frames, "spikes")
    found = run_on_board(SimulatedBoard(order), configuration, frames, "spikes")
    assert expected.output.sum() > 10
    assert np.array_equal(found.output, expected.output)
    for name, spikes in expected.spikes.items():
        assert np.array_equal(found.spikes[name], spikes), name
        assert np.array_equal(found.counts[name], expected.counts[name]), name
    counted = run_on_board(SimulatedBoard(order), configuration, frames, monitor="output")
    assert np.array_equal(counted.output, expected.output)
    assert (list(counted.counts), counted.spikes) == ([configuration.output], {})


def test_the_simulated_board_keeps_to_the_protocol() -> None:
    configuration = monitored(chain(), ["b"])
    board: Board = SimulatedBoard()
    board.open()
    board.configure(configuration)
    events = from_frames(frames_for(configuration, batch=1)[0], step_us=2000)
    heard = board.stream(events)
    assert heard.keys() == board.counts().keys() == {0, 5}
    for core, spikes in heard.items():
        counts = np.zeros_like(board.counts()[core])
        np.add.at(counts, (spikes.feature, spikes.y, spikes.x), 1)
        assert np.array_equal(counts, board.counts()[core])
        assert set(spikes.timestamp.tolist()) <= set(events.timestamp.tolist())
    assert board.power() is None
    board.close()


def test_samna_is_looked_up_and_not_imported() -> None:
    for call in (require, SamnaBoard("speck2f").open):
        with pytest.raises(MissingError, match=r"D2E-SPECK-070: samna is not installed .*stub") as found:
            call()
        assert found.value.exit_code == 5
    assert "samna" not in sys.modules


def test_the_faults_of_boards(tmp_path: Path) -> None:
    configuration = chain()
    frames = frames_for(configuration, batch=1, steps=2)
    told = on_stand_in(tmp_path, configuration, frames, {}, ("Speck2eDevKit",))
    assert told.startswith("D2E-SPECK-071 5 D2E-SPECK-071: no board 'speck2f' is free (found: Speck2eDevKit)")
    bad = replace(configuration.cnn_layers[6], threshold_low=0)
    told = on_stand_in(tmp_path, replace(configuration, cnn_layers={**configuration.cnn_layers, 6: bad}), frames, {})
    assert told.startswith("D2E-SPECK-072 3 D2E-SPECK-072: samna says that the configuration is not valid: cnn_layers[6]")
    assert json.loads((tmp_path / "log.json").read_text())["calls"][-1] == "close"


def test_a_board_sends_no_states() -> None:
    with pytest.raises(UsageError, match="D2E-SPECK-073"):
        run_on_board(SamnaBoard("speck2f"), chain(), np.zeros((1, 1, 2, 8, 6), int), "state")


def test_what_is_heard() -> None:
    configuration = chain(readout=True)
    heard = monitored(configuration, ["b"])
    assert {i: layer.monitor_enable for i, layer in heard.cnn_layers.items()} == {3: False, 0: True, 5: True, 6: False}
    found = places(configuration, ["b", "out"])
    assert found["b"].parts == ((0, 0, 2, 1), (5, 2, 4, 1))
    assert found["b"].size == (3, 2)
    assert found["out"] == ((10,), (2, 1), ((6, 0, 5, 4),))

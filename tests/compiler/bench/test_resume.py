"""A run that was cut off goes on with the rest, to the result of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.compiler.bench.conftest import SHAPES, spikes

import d2e
from d2e.compiler.bench.kept import Kept
from d2e.compiler.bench.result import Bench, Unwritten
from d2e.ir import MissingError, UsageError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_batch_is_a_line(digits, data, tmp_path):
    whole = d2e.bench(digits, data, batch=16, resume=tmp_path / "kept")
    head, *rest = lines(tmp_path / "kept")
    assert head["bench"] == {"program": whole["program"]["sha256"], "data": whole["data"]["sha256"], "engine": "loihi2-sim",
                             "batch": 16, "samples": 96, "peaks": False}
    assert [(each["repeat"], each["batch"], len(each["predictions"])) for each in rest] == [(0, i, 16) for i in range(6)]
    calls: list[Any] = []
    again = d2e.bench(digits, data, batch=16, resume=tmp_path / "kept", listen=lambda *a: calls.append(a))
    assert (spikes(again), calls) == (spikes(whole), [])
    assert "throughput_per_s" not in again["times"]
    twice = d2e.bench(digits, data, batch=16, repeat=2, resume=tmp_path / "kept", listen=lambda *a: calls.append(a))
    assert (spikes(twice), len(calls), twice["times"]["batches"]) == (spikes(whole), 6, 12)


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_line_that_was_cut_off_is_run_again(cut, digits, data, tmp_path):
    whole = d2e.bench(digits, data, batch=32, resume=tmp_path / "kept")
    os.truncate(tmp_path / "kept", (tmp_path / "kept").stat().st_size - cut)
    calls: list[Any] = []
    again = d2e.bench(digits, data, batch=32, resume=tmp_path / "kept", listen=lambda *a: calls.append(a))
    assert (spikes(again), len(calls)) == (spikes(whole), 1)
    assert len(lines(tmp_path / "kept")) == 4


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_file_whose_first_line_was_cut_off_is_begun_again(cut, digits, data, tmp_path):
    kept = tmp_path / "kept"
    d2e.bench(digits, data, batch=32, resume=kept)
    first, end, _ = kept.read_text().partition("\n")
    kept.write_text(first[: len(first) - cut])
    assert d2e.bench(digits, data, batch=32, resume=kept)["complete"]
    assert (kept.read_text().partition("\n")[:2], len(lines(kept))) == ((first, end), 4)
    kept.write_text("x" + first[:40])
    with pytest.raises(UsageError, match="keeps no results"):
        d2e.bench(digits, data, batch=32, resume=kept)


def test_a_file_that_cannot_be_written(digits, data, tmp_path, monkeypatch):
    """A whole one is read as it is, one that was cut off is not; a disk that is full ends the run and says what is kept."""
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    kept, told = tmp_path / "kept", list[str]()
    whole = d2e.bench(digits, data, batch=16, resume=kept)
    with monkeypatch.context() as patched:
        patched.setattr(os, "truncate", refuse)
        assert spikes(d2e.bench(digits, data, batch=16, resume=kept)) == spikes(whole)
        kept.write_bytes(kept.read_bytes()[:-9])
        with pytest.raises(UsageError) as caught:
            d2e.bench(digits, data, batch=16, resume=kept)
        assert caught.value.code == "D2E-FILE-011"
    kept.unlink()
    write = Kept._write

    def full(self: Kept, entry: Any) -> None:
        if entry.get("batch") == 3:
            with kept.open("a") as file:
                file.write('{"repeat": 0, "bat')
            raise UsageError("D2E-FILE-011", "nothing can be written: no space left")
        write(self, entry)

    monkeypatch.setattr(Kept, "_write", full)
    with pytest.raises(UsageError):
        d2e.bench(digits, data, batch=16, resume=kept, tell=told.append)
    assert told == [f"the run was cut off: 48 of 96 samples are done (0-47), kept in {kept}"]
    monkeypatch.undo()
    assert spikes(d2e.bench(digits, data, batch=16, resume=kept)) == spikes(whole)
    assert [each["batch"] for each in lines(kept)[1:]] == [0, 1, 2, 3, 4, 5]


def test_figures_that_cannot_be_written_are_told(digits, data, tmp_path, monkeypatch):
    def full(*_):
        raise UsageError("D2E-FILE-011", "nothing can be written to out: No space left on device")

    monkeypatch.setattr(Bench, "save", full)
    told: list[str] = []
    options: dict[str, Any] = {"batch": 16, "output": tmp_path / "out", "tell": told.append}
    with pytest.raises(Unwritten) as caught:
        d2e.bench(digits, data, **options)
    assert (caught.value.code, caught.value.bench["samples"], told) == ("D2E-FILE-011", 96, [])
    with pytest.raises(MissingError) as lost:
        d2e.bench(digits, data, device="sim:0{fail=after:3}", **options)
    assert lost.value.code == "D2E-BENCH-007"  # what ended the run, not what came of it
    assert told[-1] == ("the run was cut off: 32 of 96 samples are done (0-31), not kept: no --resume file was named; "
                        "nothing can be written to out: No space left on device")


def test_files_of_other_runs_are_refused(digits, shapes, data, tmp_path):
    d2e.bench(digits, data, batch=32, resume=tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    for program, given, options, other in (
        (digits, data, {"batch": 16}, "batch"), (digits, (data[0][:64], data[1][:64]), {"batch": 32}, "data, samples"),
        (digits, data, {"batch": 32, "device": "sim:0"}, "engine"), (digits, data, {"batch": 32, "peaks": True}, "peaks"),
        (shapes, np.zeros((96, 20, 2, 32, 32), np.uint8), {"batch": 32}, "data, engine, program"),
    ):
        with pytest.raises(UsageError, match=f"another run: {other} differ") as caught:
            d2e.bench(program, given, resume=tmp_path / "kept", **options)
        assert caught.value.code == "D2E-BENCH-006"
    d2e.bench(shapes, SHAPES / "recordings", window_us=1000, resume=tmp_path / "events")
    with pytest.raises(UsageError, match="window_us differ"):
        d2e.bench(shapes, SHAPES / "recordings", window_us=500, resume=tmp_path / "events")
    (tmp_path / "notes").write_text("mine\n")
    with pytest.raises(UsageError, match="keeps no results") as caught:
        d2e.bench(digits, data, resume=tmp_path / "notes")
    assert ((tmp_path / "kept").read_bytes(), (tmp_path / "notes").read_text()) == (before, "mine\n")
    with pytest.raises(UsageError) as caught:
        d2e.bench(digits, data, resume=tmp_path / "no folder" / "kept")
    assert caught.value.code == "D2E-FILE-011"


SCRIPT = """
import sys, numpy as np, d2e
x = np.load("x.npy"); y = np.load("y.npy")
d2e.bench(sys.argv[1], (x, y), batch=4, device="sim:0{slow=100ms}", resume="kept", tell=lambda s: print(s, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on(number, digits, data, tmp_path):
    np.save(tmp_path / "x.npy", data[0])
    np.save(tmp_path / "y.npy", data[1])
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(digits.folder)], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    kept = tmp_path / "kept"
    while not (kept.exists() and kept.read_bytes().count(b"\n") > 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    done = kept.read_bytes().count(b"\n") - 1
    assert 3 <= done < 24
    if number == signal.SIGINT:
        last = 4 * done - 1
        assert said == f"the run was cut off: {4 * done} of 96 samples are done (0-{last}), kept in kept\n"
    calls: list[Any] = []
    told: list[str] = []
    rest = d2e.bench(digits, data, batch=4, device="sim:1", resume=kept, listen=lambda *a: calls.append(a), tell=told.append)
    assert spikes(rest) == spikes(d2e.bench(digits, data))
    assert len(calls) == 24 - done
    assert told == [f"{done} batches are done already, kept in {kept}"]

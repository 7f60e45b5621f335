"""Boards that fail, stall and come back; batches that are handed out, and never held in number."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.bench.conftest import spikes

import d2e
from d2e.backends.loihi2.targets import Loihi2Target
from d2e.compiler.bench import seat
from d2e.compiler.bench.devices import EngineDevice, listed, make, name_of, names, there
from d2e.compiler.bench.fleet import Feed, NoDevice
from d2e.compiler.bench.job import Batch
from d2e.compiler.bench.samples import Samples
from d2e.compiler.device import Power, Ran
from d2e.compiler.target import find
from d2e.ir import MissingError, UsageError


@pytest.fixture(scope="module")
def alone(digits, data):
    """On one engine, in one go."""
    return d2e.bench(digits, data, batch=8)


REHEARSED = {
    "two": ("sim:0,sim:1", None, []),
    "one goes away for good": ("sim:0{fail=after:2},sim:1", None, ["sim:0 failed"]),
    "the only one comes back": ("sim:0{fail=after:2,back=10ms}", None, ["sim:0 failed"]),
    "one stalls, the other takes over": ("sim:0{stall=60s:after:2},sim:1{slow=20ms}", 2.0, ["sim:0 has stalled"]),
    "the only one stalls and is back": ("sim:0{stall=3s:after:2}", 2.0, ["sim:0 has stalled", "sim:0 is back"]),
    "slow ones": ("sim:0{slow=30ms},sim:1", None, []),
}


@pytest.mark.parametrize("case", REHEARSED)
def test_nothing_is_lost_and_nothing_twice(case, digits, data, alone):
    devices, time_out, notes = REHEARSED[case]
    told: list[str] = []
    found = d2e.bench(digits, data, devices=devices, batch=8, time_out=time_out, tell=told.append)
    assert found["complete"]
    assert spikes(found) == spikes(alone)
    assert sum(each["samples"] for each in found["devices"]) == 96
    for note in notes:
        assert any(each.startswith(note) for each in told), told
    if case == "slow ones":
        slow, quick = (next(d["batches"] for d in found["devices"] if d["name"] == n) for n in ("sim:0", "sim:1"))
        assert quick > slow


@pytest.mark.parametrize(("devices", "time_out", "why"), [
    ("sim:0{fail=after:3}", None, "sim:0 is dropped: D2E-BENCH-008: the simulated board sim:0 went away, as it was told"),
    ("sim:0{fail=after:3},sim:1{fail=after:3}", None, "sim:1 is dropped"),
    ("sim:0{stall=60s:after:3}", 1.0, "no answer for another 1 s"),
])
def test_without_a_device_the_run_stops_and_keeps_what_is_done(devices, time_out, why, digits, data, alone, tmp_path):
    told: list[str] = []
    options: dict[str, Any] = {"batch": 8, "resume": tmp_path / "kept.jsonl"}
    with pytest.raises(NoDevice, match="no device is left") as caught:
        d2e.bench(digits, data, devices=devices, time_out=time_out, tell=told.append, output=tmp_path / "part", **options)
    assert (caught.value.code, caught.value.exit_code) == ("D2E-BENCH-007", 5)
    assert why in str(caught.value)
    done = 16 * len(names(devices))
    which = re.match(rf"the run was cut off: {done} of 96 samples are done \(([\d, -]+)\), kept in ", told[-1])
    spans = [[int(n) for n in span.split("-")] for span in which[1].split(", ")]  # which of them, two boards settle
    assert sum(last - first + 1 for first, last in spans) == done
    assert len(names(devices)) > 1 or spans == [[0, done - 1]]
    assert len((tmp_path / "part" / "samples.csv").read_text().splitlines()) == 1 + done
    again = d2e.bench(digits, data, devices="sim:7", **options)
    assert spikes(again) == spikes(alone)


# --------------------------------------------------------------------------- back-pressure


def numbered(count: int) -> Iterator[Batch]:
    for i in range(count):
        yield Batch(0, i, i, np.zeros((1, 1, 1)), None, None)


@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_at_most_so_many_batches_are_held(count, ahead, devices, random):
    held, most = 0, 0
    lock = threading.Lock()

    def counted() -> Iterator[Batch]:
        nonlocal held, most
        for batch in numbered(count):
            with lock:
                held += 1
                most = max(most, held)
            yield batch

    feed, done = Feed(counted(), ahead), []
    sometimes = {i: random.random() < 0.3 for i in range(count)}

    def device() -> None:
        nonlocal held
        while (batch := feed.take()) is not None:
            if sometimes.pop(batch.number, False):
                feed.back(batch)
                continue
            with lock:
                held -= 1
            done.append(batch.number)
            assert feed.finished(batch)

    threads = [threading.Thread(target=device) for _ in range(devices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(count))
    assert most <= ahead + devices
    assert feed.over


def test_a_slow_device_is_not_flooded(digits, data, monkeypatch):
    from d2e.compiler.bench import api

    opened, read, finished, most = api.open_samples, [], [], []

    def watched(*args: Any, **options: Any) -> Samples:
        found = opened(*args, **options)

        def get(start: int, stop: int) -> Any:
            read.append(start)
            most.append(len(read) - len(finished))
            return found.read(start, stop)

        return replace(found, read=get)

    monkeypatch.setattr(api, "open_samples", watched)
    d2e.bench(digits, data, device="sim:0{slow=5ms}", batch=4, ahead=3, listen=lambda done, *_: finished.append(done))
    assert len(read) == len(finished) == 24
    assert max(most) <= 3 + 1 + 1  # ready, with the device, and done but not told yet


def test_a_batch_that_is_done_twice_counts_once():
    feed = Feed(numbered(1), 1)
    batch = feed.take()
    feed.back(batch)
    assert feed.finished(batch)
    assert not feed.finished(batch)
    assert feed.take() is None
    assert feed.over


# --------------------------------------------------------------------------- a target of one's own


class Meter(EngineDevice):
    """A device that measures power and the time of each sample."""

    def run(self, frames: Any, record: Any) -> Ran:
        return Ran(super().run(frames, record).trace, np.arange(1, 1 + len(frames)) / 1000)

    def power(self) -> dict[str, Power]:
        return {"core": Power(0.25, 1.0, 0.75)}


@dataclass(frozen=True)
class Lab(Loihi2Target):
    """A third party's chip."""

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("lab",)

    def device(self, kind: str, which: str) -> Any:
        return Meter(self, "loihi2-sim") if kind == "lab" else None


def test_a_third_partys_devices(digits, data):
    lab = replace(digits, target=Lab("loihi2-sim", "of our own", ("loihi2-sim", "reference")))
    found = d2e.bench(lab, data, device="lab:rack-3", batch=10)
    assert spikes(found) == spikes(d2e.bench(digits, data))
    assert (found["engine"]["label"], "bit_exact_with" in found["engine"]) == ("measured on the device", False)
    (device,) = found["devices"]
    assert device["name"] == "lab:rack-3"
    assert device["power"] == {"label": "measured on the device", "rails": {
        "core": {"idle": 0.25, "total": 1.0, "dynamic": 0.75, "unit": "W"}}}
    assert found.rows[12]["latency_ms"] == 3.0
    assert found["times"]["sample_ms"]["p50"] == 5.0
    assert "power      lab:rack-3: core 1 (0.75 dynamic) W (measured on the device)" in found.text()
    assert "lab:0" not in listed(there(find("loihi2-sim")))


def test_an_engine_raises_its_own_faults(digits, data):
    @dataclass(frozen=True)
    class Broken(Loihi2Target):
        def run(self, *_: Any, **__: Any) -> Any:
            raise MissingError("D2E-HW-001", "it went away")

    broken = replace(digits, target=Broken("loihi2-sim", "", ("loihi2-sim",)))
    with pytest.raises(MissingError, match="it went away"):
        d2e.bench(broken, data)
    told: list[str] = []
    with pytest.raises(NoDevice, match="sim:0 is dropped: D2E-HW-001: it went away"):
        d2e.bench(broken, data, device="sim:0", tell=told.append)


def test_faults_of_the_data_end_the_run(digits, data):
    frames = data[0].astype(int)
    frames[70, 3] = 2
    for options in ({}, {"devices": "sim:0,sim:1"}):
        with pytest.raises(UsageError) as caught:
            d2e.bench(digits, frames, batch=8, **options)
        assert caught.value.code == "D2E-INPUT-003"


def test_a_time_limit_ends_it(digits, data, tmp_path):
    told: list[str] = []
    options: dict[str, Any] = {"batch": 8, "resume": tmp_path / "kept", "device": "sim:0{slow=200ms}"}
    found = d2e.bench(digits, data, time_limit=1.0, tell=told.append, **options)
    assert 0 < found["samples"] < 96
    assert not found["complete"]
    assert told[-1].startswith(f"the time limit is reached: {found['samples']} of 96 samples are done (0-")
    rest = d2e.bench(digits, data, **options)
    assert rest["complete"]
    assert spikes(rest)[: found["samples"]] == spikes(found)


# --------------------------------------------------------------------------- names


def test_names():
    found = names("sim:0{fail=after:3,back=2s}, sim:1,speck2f:speck2fdevkit:1")
    assert [name.label for name in found] == ["sim:0", "sim:1", "speck2f:speck2fdevkit:1"]
    assert found[0].faults == {"fail": 3, "back": 2.0}
    assert name_of("sim{stall=20ms:after:1,slow=1}").faults == {"stall": (0.02, 1), "slow": 1.0}
    assert name_of("loihi2").label == "loihi2:0"
    assert [n.label for n in names(["sim:a", "sim:b"])] == ["sim:a", "sim:b"]


@pytest.mark.parametrize("text", [
    "sim:0{fail=3}", "sim:0{stall=later}", "sim:0{explode=yes}", "sim:0{slow=-1}", "sim:0,sim:0", "", "sim:0}",
    "speck2f:0{slow=1}", "sim:0{slow=inf}", "sim:0{fail=after:x}",
])
def test_names_that_are_none(text):
    with pytest.raises(UsageError) as caught:
        names(text)
    assert caught.value.code == "D2E-BENCH-002"


def test_devices_are_listed_without_any_library():
    import sys

    found = {each.name: each for each in there()}
    assert found["sim:0"].ready
    assert not found["speck2f:0"].ready
    assert {"speck2e:0", "loihi2:0"} <= found.keys()
    assert not {"samna", "lava"} & sys.modules.keys()
    with pytest.raises(UsageError, match="no devices 'speck2f'"):
        make(name_of("speck2f:0"), find("loihi2-sim"))


def test_boards_that_are_not_there(digits, shapes, data):
    for program, device, code in ((digits, "loihi2:0", "D2E-(HW|LAVA)-001"), (shapes, "speck2f:0", "D2E-SPECK-070")):
        given = data if program is digits else np.zeros((2, 20, 2, 32, 32), int)
        with pytest.raises(NoDevice, match=code):
            d2e.bench(program, given, device=device)


def test_a_call_that_hangs_keeps_no_program_from_ending():
    caller = seat._Caller("test")
    hanging = caller.call(lambda: time.sleep(3600))
    with pytest.raises(TimeoutError):
        hanging.result(timeout=0.01)
    assert all(t.daemon for t in threading.enumerate() if t.name == "test")

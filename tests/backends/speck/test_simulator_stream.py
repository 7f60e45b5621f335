"""Timed events: recordings as they come, and the work that they cause in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.backends.speck.simulator_configurations import one_core, pointwise

from d2e.backends.speck import aer
from d2e.backends.speck.events import Events
from d2e.backends.speck.simulator.run import Simulator
from d2e.ir import UsageError

SPACE = (2, 4, 6)


def recording(**columns: Any) -> np.ndarray:
    """A structured array of these columns, in the order given."""
    array = np.zeros(len(next(iter(columns.values()))), [(name, np.asarray(c).dtype) for name, c in columns.items()])
    for name, column in columns.items():
        array[name] = column
    return array


GOOD = {"t": [0, 5, 5, 9], "x": [5, 0, 1, 2], "y": [3, 0, 1, 2], "p": [1, 0, 1, 0]}


def assert_good(events: Events) -> None:
    found = (events.timestamp, events.x, events.y, events.feature)
    assert [a.tolist() for a in found] == list(GOOD.values())
    assert [a.dtype for a in found] == [np.int64, np.int32, np.int32, np.int32]


def test_columns_in_any_order_and_under_their_usual_names() -> None:
    t, x, y, p = (np.array(column) for column in GOOD.values())
    assert_good(aer.from_array(recording(**GOOD), SPACE))
    assert_good(aer.from_array(recording(x=x.astype("i2"), y=y.astype("u1"), p=p.astype(bool), timestamp=t), SPACE))
    assert_good(aer.from_array({"polarity": 2 * p - 1, "ts": t, "y": y, "x": x}, SPACE))
    merged = aer.from_array(recording(t=t, x=x, y=y, p=p), (1, 4, 6))
    assert merged.feature.tolist() == [0] * 4
    assert aer.from_array(recording(t=t, x=x, y=y), (1, 4, 6)).x.tolist() == GOOD["x"]


def test_files(tmp_path: Path) -> None:
    array = recording(**GOOD)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", events=array)
    np.savez(tmp_path / "c.npz", **{name: array[name] for name in ("p", "x", "t", "y")})
    for name in ("a.npy", "b.npz", "c.npz"):
        assert_good(aer.read(tmp_path / name, SPACE))
    (tmp_path / "d.npy").write_bytes(b"no array")
    for name in ("d.npy", "missing.npy"):
        with pytest.raises(UsageError, match="D2E-DATA-001"):
            aer.read(tmp_path / name, SPACE)


@pytest.mark.parametrize(("changed", "message"), [
    ({"p": None}, "D2E-SPECK-062: the events have no column p .they have t, x, y."),
    ({"t": [0.0, 1.0, 2.0, 3.0]}, "D2E-SPECK-062: the column timestamp"),
    ({"x": [1.5, 1.0, 1.0, 1.0]}, "D2E-SPECK-062: the column x"),
    ({"t": [0, 5, 4, 9]}, "D2E-SPECK-063: the timestamps of the events fall after event 1"),
    ({"t": [-1, 5, 5, 9]}, "D2E-SPECK-063: the timestamps of the events begin at -1"),
    ({"x": [5, 6, 1, 7]}, "D2E-SPECK-064: 2 of 4 events are outside the input: the first is event 1 with x 6"),
    ({"y": [3, 0, 1, -1]}, "D2E-SPECK-064: 1 of 4 .* event 3 with y -1"),
    ({"p": [0, 1, 2, 0]}, "D2E-SPECK-064: 1 of 4 .* event 2 with feature 2"),
])
def test_what_does_not_fit_is_told(changed: dict[str, Any], message: str) -> None:
    columns = {name: column for name, column in {**GOOD, **changed}.items() if column is not None}
    with pytest.raises(UsageError, match=message):
        aer.from_array(recording(**columns), SPACE)


def test_an_array_without_columns_is_told() -> None:
    with pytest.raises(UsageError, match="D2E-SPECK-062: the events have no column t, y, x, p"):
        aer.from_array(np.zeros((4, 4), np.int64), SPACE)


def test_a_stream_checks_its_events() -> None:
    simulator = Simulator(one_core(pointwise([1, 1], 1, shape=(6, 4))))
    with pytest.raises(UsageError, match="D2E-SPECK-064"):
        simulator.stream(Events(*(np.array([n]) for n in (0, 0, 4, 0))))
    with pytest.raises(UsageError, match="D2E-SPECK-063"):
        simulator.stream(Events(np.array([3, 2]), *(np.zeros(2, np.int32) for _ in range(3))))


def test_no_events() -> None:
    found = Simulator(one_core(pointwise([1, 1], 1, shape=(6, 4)))).stream(aer.from_array(recording(**GOOD)[:0], SPACE))
    assert (found.duration_us, len(found.output), found.synops) == (0, 0, {"only": 0})
    assert found.cores[3].peak_synops_per_s == 0


def test_peak_of_synops() -> None:
    """The busiest window of input time: 3 events from 1000 to 1999, one synaptic operation each."""
    times = np.array([0, 10, 1000, 1500, 1999, 2000, 9000])
    events = Events(times, *(np.zeros(len(times), np.int32) for _ in range(3)))
    simulator = Simulator(one_core(pointwise([1], 100)))
    found = simulator.stream(events)
    assert found.cores[3].synops == found.synops["only"] == 7
    assert found.cores[3].peak_synops_per_s == 3000
    assert found.duration_us == 9000
    assert simulator.stream(events, window_us=10_000).cores[3].peak_synops_per_s == 700
    assert simulator.stream(events, window_us=20).cores[3].peak_synops_per_s == 100_000

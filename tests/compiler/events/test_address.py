"""Address events and frames of counts: columns, binning as tonic bins, and there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from d2e.compiler.events import events_of, frames_of
from d2e.compiler.events.address import DTYPE, checked
from d2e.ir import UsageError

SHAPE = (2, 5, 6)


def some(count: int = 300, seed: int = 0, shape: tuple[int, int, int] = SHAPE, until: int = 10_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.empty(count, DTYPE)
    found["t"] = np.sort(rng.integers(until // 3, until, count))
    for name, size in zip("pyx", shape, strict=True):
        found[name] = rng.integers(0, size, count)
    return found


def test_frames_count_events_per_step_polarity_and_pixel():
    """Steps of 10 us from 0: the second begins at 10; what is at 30 or later is outside."""
    rows = [(0, 1, 2, 1), (9, 1, 2, 1), (10, 1, 2, 0), (29, 5, 4, 1), (30, 0, 0, 0)]
    frames = frames_of(np.array(rows, DTYPE), SHAPE, 3, step_us=10, start=0)
    expected = np.zeros((3, *SHAPE), np.int64)
    expected[0, 1, 2, 1], expected[1, 0, 2, 1], expected[2, 1, 4, 5] = 2, 1, 1
    assert np.array_equal(frames, expected)


def test_equal_windows_leave_out_what_is_behind_the_last():
    """From 5 to 26 in 4 steps: 21 // 4 = 5 us each, up to below 25."""
    found = {"t": np.array([5, 9, 10, 24, 25, 26]), "x": np.zeros(6, int), "y": np.zeros(6, int), "p": np.zeros(6, int)}
    assert frames_of(found, (2, 1, 1), 4)[:, 0, 0, 0].tolist() == [2, 1, 0, 1]


@given(st.integers(0, 50), st.integers(1, 400), st.integers(1, 12), st.integers(100, 2000) | st.none())
def test_frames_are_those_of_tonic(seed, count, steps, step_us):
    to_frame = pytest.importorskip("tonic.transforms").ToFrame
    found = some(count, seed)
    if step_us is None and found["t"][-1] - found["t"][0] < steps:
        return
    start = int(found["t"][0])
    binned = to_frame((6, 5, 2), n_time_bins=steps) if step_us is None else to_frame(
        (6, 5, 2), time_window=step_us, start_time=start, end_time=start + steps * step_us)
    assert np.array_equal(frames_of(found, SHAPE, steps, step_us=step_us), binned(found.copy()))


@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)),
              elements=st.integers(0, 5)), st.integers(1, 3000))
def test_frames_to_events_and_back(frames, step_us):
    found = events_of(frames, step_us)
    assert found.dtype == DTYPE
    assert (np.diff(found["t"]) >= 0).all()
    if len(found):
        assert np.array_equal(frames_of(found, frames.shape[1:], len(frames), step_us=step_us, start=0), frames)


def test_events_are_spread_over_their_step():
    frames = np.zeros((2, 2, 1, 2), np.uint8)
    frames[1, 1, 0, 1], frames[1, 0, 0, 0] = 3, 1
    assert events_of(frames, 1000).tolist() == [(1000, 0, 0, 0), (1250, 1, 0, 1), (1500, 1, 0, 1), (1750, 1, 0, 1)]


@given(st.integers(0, 20), st.integers(1, 3), st.integers(1, 2))
def test_downsampling_and_one_polarity_are_sums(seed, factor, polarities):
    sensor = (2, 5 * factor, 6 * factor)
    found = some(200, seed, sensor)
    whole = frames_of(found, sensor, 4)
    small = frames_of(found, (polarities, 5, 6), 4, downsample=factor)
    pooled = whole.reshape(4, 2, 5, factor, 6, factor).sum(axis=(3, 5))
    assert np.array_equal(small, pooled if polarities == 2 else pooled.sum(axis=1, keepdims=True))


def test_columns_have_several_names_and_off_may_be_minus_one():
    found = some(50)
    frames = frames_of(found, SHAPE, 3)
    other = {"timestamp": found["t"], "polarity": found["p"] * 2 - 1, "y": found["y"], "x": found["x"].astype(np.uint16)}
    assert np.array_equal(frames_of(other, SHAPE, 3), frames)
    xytp = found[["x", "y", "t", "p"]].astype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
    assert np.array_equal(frames_of(xytp, SHAPE, 3), frames)
    assert checked(xytp, SHAPE).dtype == DTYPE


def test_one_polarity_needs_no_column_for_it():
    found = {name: some(20)[name] for name in "txy"}
    assert frames_of(found, (1, 5, 6), 2).shape == (2, 1, 5, 6)


def change(name: str, values: object) -> dict[str, np.ndarray]:
    found = {key: some(5)[key] for key in "txyp"}
    return found | {name: np.asarray(values)}


@pytest.mark.parametrize(("events", "code", "words"), [
    ({"x": np.zeros(3, int), "y": np.zeros(3, int)}, "005", "no column t, p .they have x, y"),
    (np.zeros(3), "005", "they have none"),
    (change("t", np.arange(5.0)), "005", r"column t of the events is float64\[5\]"),
    (change("x", [1, 2]), "005", r"column x of the events is int64\[2\]"),
    (change("t", [3, 1, 4, 5, 6]), "006", "fall after number 0"),
    (change("t", [-1, 1, 4, 5, 6]), "006", "begin at -1"),
    (change("t", [7, 7, 7, 8, 8]), "006", "last 1 us"),
    (change("x", [0, 1, 6, 2, 7]), "007", r"2 of 5 of the events are outside \[2, 5, 6\]: the first is number 2 with x 6"),
    (change("y", [0, 1, -1, 2, 3]), "007", "number 2 with y -1"),
    (change("p", [0, 1, 2, 1, 0]), "007", "number 2 with p 2"),
    (some(0), "006", "there is none of the events"),
])
def test_bad_events(events, code, words):
    with pytest.raises(UsageError, match=words) as caught:
        frames_of(events, SHAPE, 3)
    assert caught.value.code == f"D2E-EVT-{code}"


@pytest.mark.parametrize("option", [
    {"shape": (3, 5, 6)}, {"shape": (5, 6)}, {"shape": (2, 0, 6)}, {"shape": 4}, {"time_steps": 0}, {"time_steps": 2.0},
    {"time_steps": None}, {"step_us": 0}, {"step_us": 1.5}, {"start": 0}, {"start": 0.5, "step_us": 10}, {"downsample": 0},
    {"downsample": True},
])
def test_options_out_of_range(option):
    with pytest.raises(UsageError, match=next(iter(option))) as caught:
        frames_of(some(), **{"shape": SHAPE, "time_steps": 3} | option)
    assert caught.value.code == "D2E-EVT-008"


@pytest.mark.parametrize(("frames", "step_us"), [
    (np.zeros((1, 2, 2), int), 10), (np.zeros((1, 2, 2, 2)), 10), (np.full((1, 2, 2, 2), -1), 10),
    (np.zeros((1, 2, 2, 2), int), 0), (np.zeros((0, 2, 2, 2), int), 10),
])
def test_what_are_no_frames_of_counts(frames, step_us):
    with pytest.raises(UsageError, match="no counts") as caught:
        events_of(frames, step_us)
    assert caught.value.code == "D2E-EVT-008"

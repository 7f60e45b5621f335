"""The event camera of examples/shapes: what it sees of scenes whose events are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from examples.shapes import events as camera
from examples.shapes.events import Events, Scene

MIDDLE = camera.SIZE // 2


def bar(**changes: float) -> Scene:
    """An upright bar that crosses the sensor's middle from left to right, at 0.16 pixels per millisecond."""
    scene = {"radius": 8.0, "travel": 16.0, "heading": 0.0, "bend": 0.0, "angle": np.pi / 2, "spin": 0.0, "contrast": 1.05}
    return Scene("bar", centre=(0.0, 0.0), **{**scene, **changes})


def seen(scene: Scene) -> Events:
    return camera.camera(camera.log_intensity(scene))


def at(found: Events, x: int, y: int) -> np.ndarray:
    """Polarities of one pixel, in the order of time."""
    return found.p[(found.x == x) & (found.y == y)]


def test_the_same_seed_makes_the_same_recordings():
    (a, labels), (b, _), (c, _) = (camera.recordings(10, seed) for seed in (3, 3, 4))
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    for one, other, different in zip(a, b, c, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(vars(one).values(), vars(other).values(), strict=True))
        assert len(one) != len(different) or not np.array_equal(one.t, different.t)
    assert not np.array_equal(a[0].t, a[8].t), "samples of a class differ"


@pytest.mark.parametrize("shape", camera.SHAPES)
def test_nothing_moves_nothing_is_sent(shape):
    scene = Scene(shape, 7.0, (0.0, 0.0), travel=0.0, heading=0.0, bend=0.0, angle=0.4, spin=0.0, contrast=1.0)
    assert np.ptp(camera.log_intensity(scene)) > 0.9, "there is something to see"
    assert len(seen(scene)) == 0


@pytest.mark.parametrize(("contrast", "order"), [(0.9, [1, 1, 1, 1, 0, 0, 0, 0]), (-0.9, [0, 0, 0, 0, 1, 1, 1, 1])])
def test_a_bright_edge_is_on_before_off_and_a_dark_one_off_before_on(contrast, order):
    """A pixel that the whole bar crosses steps up by its contrast and down again, an event per threshold of 0.2."""
    found = seen(bar(contrast=contrast))
    for x in (MIDDLE - 3, MIDDLE, MIDDLE + 2):
        assert at(found, x, MIDDLE).tolist() == order


@pytest.mark.parametrize(("contrast", "each"), [(0.21, 1), (0.41, 2), (0.81, 4), (1.01, 5)])
def test_events_grow_with_contrast(contrast, each):
    found = seen(bar(contrast=contrast))
    assert all((at(found, x, MIDDLE) == p).sum() == each for x in (MIDDLE - 2, MIDDLE) for p in (0, 1))


def test_timestamps_follow_the_edge():
    """The first event of a pixel's column comes when the bar's front reaches it: 16 pixels in 100 ms."""
    found = seen(bar())
    assert (np.diff(found.t) >= 0).all()
    assert found.t.min() >= 0
    assert found.t.max() < camera.DURATION_US
    columns = np.arange(MIDDLE - 4, MIDDLE + 4)
    first = np.array([found.t[(found.x == x) & (found.y == MIDDLE)].min() for x in columns])
    assert np.polyfit(columns, first, 1)[0] == pytest.approx(camera.DURATION_US / 16, rel=0.02)


def test_finer_rendering_changes_hardly_any_event():
    scene = bar(spin=0.5, bend=1.0, heading=1.0)
    coarse, fine = camera.camera(camera.log_intensity(scene)), camera.camera(camera.log_intensity(scene, 1201))
    assert abs(len(coarse) - len(fine)) <= 0.02 * len(fine)


def test_frames_hold_every_event_in_its_step():
    recording = camera.recordings(1, 0)[0][0]
    counted = camera.frames(recording, 20)
    assert (counted.shape, counted.dtype) == ((20, 2, 32, 32), np.uint8)
    assert counted.sum() == len(recording)
    step = recording.t // 5000
    assert counted.sum(axis=(1, 2, 3)).tolist() == np.bincount(step, minlength=20).tolist()
    first = tuple(int(getattr(recording, key)[0]) for key in ("p", "y", "x"))
    assert counted[(int(step[0]), *first)] >= 1


def test_noise_comes_at_its_rate_from_everywhere():
    rng = np.random.default_rng(0)
    found = [camera.noise(rng) for _ in range(200)]
    expected = camera.NOISE_HZ * camera.SIZE**2 * camera.DURATION_US * 1e-6
    assert np.mean([len(n) for n in found]) == pytest.approx(expected, rel=0.05)
    assert {int(x) for n in found for x in n.x} == set(range(camera.SIZE))
    assert np.mean(np.concatenate([n.p for n in found])) == pytest.approx(0.5, abs=0.03)

"""The simulated event camera: hand-computed cases, the equation it keeps, what is random and what is not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from d2e.compiler.events import Camera
from d2e.compiler.events.motion import positions
from d2e.ir import UsageError

RIGHT = ((0.0, 0.0), (1.0, 0.0))
LEFT = ((1.0, 0.0), (0.0, 0.0))
OFF, ON = 0, 1
EDGE = np.array([[[0.0, 0.0, 1.0, 1.0]] * 3])
"""Dark on the left, bright on the right: [1, 3, 4]."""
ONE_PIXEL = Camera(motion=RIGHT, amplitude=1.0, contrast=1.0, eps=math.exp(-3.5) / (1 - math.exp(-3.5)))
"""Moves right by a pixel; from black to white is 3.5 of log intensity."""


def total(frames: np.ndarray) -> np.ndarray:
    """Events over all steps, [n, 2, H, W]."""
    return frames.sum(axis=1, dtype=np.int64)


def shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The definition in words, pixel by pixel: bilinear, the edge goes on beyond the image."""
    height, width = image.shape
    seen = np.empty(image.shape)
    for row in range(height):
        for column in range(width):
            left, top = math.floor(column + x), math.floor(row + y)
            value = 0.0
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                share = (1 - abs(row + y - top - i)) * (1 - abs(column + x - left - j))
                value += share * image[min(max(top + i, 0), height - 1), min(max(left + j, 0), width - 1)]
            seen[row, column] = value
    return seen


def by_hand(camera: Camera, image: np.ndarray, steps: int) -> np.ndarray:
    """The docstring's pixel, one at a time, one event at a time, without mismatch, noise or limit."""
    off = camera.contrast if camera.contrast_off is None else camera.contrast_off
    path = positions(camera.motion, camera.amplitude, steps * camera.substeps + 1)
    logs = np.log(camera.eps + np.array([shifted(image, x, y) for x, y in path]))
    sent = np.zeros((steps, 2, *image.shape), np.int64)
    for row, column in np.ndindex(image.shape):
        level = logs[0, row, column]
        for k, now in enumerate(logs[1:, row, column]):
            while now >= level + (1 - 1e-9) * camera.contrast:
                level += camera.contrast
                sent[k // camera.substeps, ON, row, column] += 1
            while now <= level - (1 - 1e-9) * off:
                level -= off
                sent[k // camera.substeps, OFF, row, column] += 1
    return sent


def test_an_edge_that_moves_by_a_pixel_sends_where_it_passes():
    """The camera moves right, so the edge moves left: the column before it becomes bright, 3 whole thresholds."""
    frames = ONE_PIXEL.record(EDGE, 4)
    assert (frames.shape, frames.dtype) == ((1, 4, 2, 3, 4), np.uint8)
    assert total(frames)[0, ON].tolist() == [[0, 3, 0, 0]] * 3
    assert not frames[:, :, OFF].any()
    back = replace(ONE_PIXEL, motion=LEFT).record(EDGE, 4)
    assert total(back)[0, OFF].tolist() == [[0, 3, 0, 0]] * 3
    assert not back[:, :, ON].any()


def test_the_events_come_in_the_step_in_which_the_level_is_crossed():
    """Intensity rises evenly: it is e, e^2, e^3 times that of black after 0.054, 0.199 and 0.594 of the path."""
    assert ONE_PIXEL.record(EDGE, 10)[0, :, ON, 0, 1].tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 0, 0]


def test_an_image_stands_still_sends_nothing():
    image = np.random.default_rng(0).random((2, 5, 6))
    assert not Camera(motion="still").record(image, 3).any()
    assert not Camera(amplitude=0.0).record(image, 3).any()
    assert not Camera(amplitude=5.0).record(np.full((1, 5, 6), 0.7), 3).any(), "nothing to see beyond a plain image's edge"


@pytest.mark.parametrize(("contrast", "events"), [(0.5, 7), (1.0, 3), (2.0, 1), (3.6, 0)])
def test_twice_the_contrast_half_the_events(contrast, events):
    assert total(replace(ONE_PIXEL, contrast=contrast).record(EDGE, 4))[0, ON, 0, 1] == events


def test_thresholds_of_both_polarities():
    camera = replace(ONE_PIXEL, motion=(*RIGHT, (0.0, 0.0)), contrast=1.0, contrast_off=0.6)
    found = total(camera.record(EDGE, 6))[0, :, 0, 1]
    assert found.tolist() == [5, 3], "3.5 up, three ONs; down from the third level, 3.0: five OFFs of 0.6"


@pytest.mark.parametrize("camera", [
    Camera(), Camera(motion="circle", amplitude=1.5, substeps=3),
    Camera(contrast=0.07, contrast_off=0.2, amplitude=6.3, eps=0.02),
    Camera(motion=((0.3, -0.2), (-2.0, 1.0)), amplitude=2.0, substeps=2),
])
def test_it_is_the_pixel_of_the_definition(camera):
    image = np.random.default_rng(3).random((2, 6, 7))
    assert np.array_equal(camera.record(image, 4), [by_hand(camera, one, 4) for one in image])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Camera, np.ndarray, int]:
    point = st.tuples(st.floats(-1, 1), st.floats(-1, 1))
    camera = Camera(
        contrast=draw(st.floats(0.1, 2)), contrast_off=draw(st.none() | st.floats(0.1, 2)),
        motion=draw(st.sampled_from(("saccade", "circle")) | st.lists(point, min_size=2, max_size=4).map(tuple)),
        amplitude=draw(st.floats(0, 4)), substeps=draw(st.integers(1, 5)), eps=draw(st.floats(0.01, 1)),
        mismatch=draw(st.sampled_from((0.0, 0.2))), seed=draw(st.integers(0, 5)),
    )
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)))
    return camera, draw(arrays(np.float64, shape, elements=st.floats(0, 1))), draw(st.integers(1, 4))


@given(scenes())
def test_events_times_contrast_are_the_change_of_log_intensity(scene):
    camera, images, steps = scene
    found = total(camera.record(images, steps)).astype(float)
    off, on = camera.thresholds(*images.shape[1:])
    first, *_, last = positions(camera.motion, camera.amplitude, steps * camera.substeps + 1)
    for image, (darker, brighter) in zip(images, found, strict=True):
        seen = [np.log(camera.eps + shifted(image, *at)) for at in (first, last)]
        rest = seen[1] - seen[0] - (on * brighter - off * darker)
        assert (rest < on + 1e-9).all()
        assert (rest > -off - 1e-9).all()


@given(scenes(), st.integers(0, 3))
def test_a_sample_is_recorded_alike_wherever_it_stands(scene, before):
    camera, images, steps = scene
    camera = replace(camera, noise=0.3)
    others = np.random.default_rng(before).random((before, *images.shape[1:]))
    assert np.array_equal(camera.record(np.concatenate([others, images]), steps)[before:], camera.record(images, steps))


def test_the_reverse_of_an_edges_motion_swaps_the_polarities():
    rows = np.linspace(0, 1, 9)[:, None] * np.ones(9)
    image = np.stack([rows, rows.T])
    there = Camera(motion=((0.0, 0.0), (2.0, 2.0)), contrast=0.13)
    back = replace(there, motion=((2.0, 2.0), (0.0, 0.0)))
    a, b = total(there.record(image, 4)), total(back.record(image, 4))
    assert np.array_equal(a[:, ON], b[:, OFF])
    assert a[:, ON].sum() > 100
    assert a[:, OFF].sum() == b[:, ON].sum() == 0


def test_a_pixel_at_its_limit_rests_until_the_step_ends():
    """Seven thresholds of 0.5: after 0.020, 0.054, 0.108, 0.199, 0.348, 0.594 and 1.0 of the path.

    With a limit of 2 the pixel sees 2.004 when it wakes at 0.2, and reaches 2.504 and 3.004 after 0.350 and 0.597. With 1 it
    rests until 0.2 and until 0.4, where it sees 2.629, and reaches 3.129 after 0.680.
    """
    for limit, events in ((255, [4, 1, 1, 0, 1]), (2, [2, 1, 1, 0, 0]), (1, [1, 1, 0, 1, 0])):
        frames = replace(ONE_PIXEL, contrast=0.5, limit=limit).record(EDGE, 5)
        assert frames[0, :, ON, 0, 1].tolist() == events


def test_noise_comes_at_its_rate_in_both_polarities():
    frames = Camera(motion="still", noise=0.04, seed=3).record(np.random.default_rng(0).random((20, 12, 12)), 10)
    assert frames.max() == 1
    assert frames.sum() / (20 * 10 * 144) == pytest.approx(0.04, rel=0.1)
    assert frames[:, :, ON].sum() / frames.sum() == pytest.approx(0.5, abs=0.05)
    assert len({frame.tobytes() for frame in frames}) == 20, "samples differ"
    limited = Camera(noise=1.0, limit=1).record(np.random.default_rng(0).random((2, 12, 12)), 4)
    assert limited.max() == 1


def test_mismatch_belongs_to_the_camera_not_to_the_sample():
    camera = Camera(mismatch=0.3, seed=1)
    off, on = camera.thresholds(30, 40)
    assert on.mean() == pytest.approx(0.2, rel=0.05)
    assert on.std() == pytest.approx(0.06, rel=0.1)
    assert not np.array_equal(off, on)
    assert min(off.min(), on.min()) >= 0.02
    assert np.array_equal(camera.thresholds(30, 40), (off, on))
    assert not np.array_equal(replace(camera, seed=2).thresholds(30, 40)[1], on)


def test_colours_are_seen_by_their_brightness():
    rng = np.random.default_rng(0)
    image = rng.random((2, 3, 6, 6))
    grey = 0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2]
    assert np.array_equal(Camera().record(image, 4), Camera().record(grey, 4))
    assert np.array_equal(Camera().record(grey[:, None], 4), Camera().record(grey, 4))
    assert Camera().record(np.ones((1, 3, 4, 4)), 2).shape == (1, 2, 2, 4, 4)


def test_the_saccades_go_along_a_triangle_and_back():
    path = positions("saccade", 4.0, 7)
    assert np.allclose(path, [[-2, -2], [-1, 0], [0, 2], [1, 0], [2, -2], [0, -2], [-2, -2]])
    circle = positions("circle", 2.0, 5)
    assert np.allclose(circle, [[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]])


@pytest.mark.parametrize("option", [
    {"contrast": 0.0}, {"contrast": -1.0}, {"contrast": math.nan}, {"contrast_off": 0.0}, {"eps": 0.0}, {"mismatch": -0.1},
    {"noise": 1.5}, {"limit": 0}, {"limit": 256}, {"limit": 2.0}, {"substeps": 0}, {"amplitude": -1.0}, {"seed": -1},
    {"seed": True}, {"motion": "drift"}, {"motion": ((0, 0),)}, {"motion": ((0, 0), (1,))},
    {"motion": ((0, 0), (1, math.inf))}, {"motion": None}, {"contrast": "0.2"},
])
def test_options_out_of_range(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} .*of the camera") as caught:
        Camera(**option)
    assert caught.value.code == "D2E-EVT-001"


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, None])
def test_steps_out_of_range(steps):
    with pytest.raises(UsageError, match="time_steps") as caught:
        Camera().record(EDGE, steps)
    assert caught.value.code == "D2E-EVT-001"


@pytest.mark.parametrize(("images", "words"), [
    (np.full((1, 4, 4), 1.01), "reach from 1.01"), (np.full((1, 4, 4), -0.1), "reach from -0.1"),
    (np.full((1, 4, 4), np.nan), "reach from nan"), (np.zeros((1, 4, 4), np.uint8), "uint8"),
    (np.zeros((4, 4)), "shape"), (np.zeros((1, 2, 4, 4)), "shape"), (np.zeros((0, 4, 4)), "shape"), (["a"], "<U1"),
])
def test_what_is_no_image(images, words):
    with pytest.raises(UsageError, match=words) as caught:
        Camera().record(images, 2)
    assert caught.value.code == "D2E-EVT-002"

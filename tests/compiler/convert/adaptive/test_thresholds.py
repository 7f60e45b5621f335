"""Eq. 8: the closed form is what a burst neuron sends; thresholds have the least error of their grids."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compiler.convert.networks import dyadic, random_plan, skeleton_of, state_of

from d2e.compiler.convert.adaptive import thresholds
from d2e.compiler.convert.adaptive.build import network_of
from d2e.compiler.convert.adaptive.engine import Burst
from d2e.ir import IF, LI, Input, Output, reference
from d2e.ir.network import chain

SETTINGS = [(1, 1), (4, 1), (4, 3), (8, 15)]
"""T and phi."""


@given(
    values=st.lists(st.integers(-40, 200), min_size=1, max_size=12), exponent=st.integers(-3, 5),
    steps=st.integers(1, 12), most=st.integers(1, 20),
)
def test_burst_clip_floor_is_the_mean_payload_of_constant_inputs(values, exponent, steps, most):
    theta, x = np.array(2.0**exponent), np.array([values], float)
    shape = x.shape[1:]
    network = chain([
        ("input", Input(shape=shape, coding="direct", time_steps=steps)),
        ("neurons", IF(shape=shape, threshold=theta, amplitude=theta, v_init=theta / 2, max_spikes=most)),
        ("sum", LI(shape=shape)), ("output", Output(shape=shape, readout="last")),
    ])
    mean = reference.run(network, x).output[:, -1] / steps
    np.testing.assert_array_equal(thresholds.burst_clip_floor(x, theta, steps, most), mean)
    assert (mean[x <= 0] == 0).all()
    assert (mean <= most * theta).all()


def grid_of(top, most):
    """Thresholds from twice the largest activation over phi down by eighths of octaves."""
    return [top / most * 2.0 ** (-k / 8) for k in range(-8, 40)]


def error_of(rows, theta, steps, most):
    total = 0.0
    for a in rows.ravel():
        count = min(max(math.floor(steps * a / theta + 0.5), 0), most * steps)
        total += (count * theta / steps - a) ** 2
    return total


def some_activations(channels=3):
    rng = np.random.default_rng(1)
    return np.maximum(rng.normal(0.2, 1.0, (60, channels)), 0) * np.array([0.1, 1.0, 30.0])[:channels]


@pytest.mark.parametrize(("steps", "most"), SETTINGS)
def test_eq8_has_the_least_error_of_its_grid_in_every_channel(steps, most):
    rows = some_activations()
    for c, theta in enumerate(thresholds.eq8(rows, steps, most)):
        grid = grid_of(rows[:, c].max(), most)
        assert np.isclose(grid, theta, rtol=1e-12).any()
        least = min(error_of(rows[:, c], each, steps, most) for each in grid)
        assert error_of(rows[:, c], theta, steps, most) == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize(("steps", "most"), SETTINGS)
def test_eq8_per_layer_has_the_least_error_over_all_channels(steps, most):
    rows = some_activations()
    found = thresholds.eq8(rows, steps, most, per_layer=True)
    assert found.shape == (3,)
    assert len(set(found)) == 1
    grid = grid_of(rows.max(), most)
    assert np.isclose(grid, found[0], rtol=1e-12).any()
    least = min(error_of(rows, each, steps, most) for each in grid)
    assert error_of(rows, found[0], steps, most) == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_dead_channels_get_the_largest_threshold_of_the_others(per_layer, kind):
    rows = some_activations().astype(kind)
    rows[:, 1] = 0
    found = thresholds.eq8(rows, 4, 3, per_layer=per_layer)
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert found[1] == max(found[0], found[2])
    np.testing.assert_array_equal(thresholds.eq8(0 * rows, 4, 3, per_layer=per_layer), [1, 1, 1])


def test_a_channel_that_only_skipped_rows_use_has_a_threshold():
    rows = np.zeros((3 << 15, 2), np.float32)
    rows[:, 0], rows[1, 1] = 1, 5
    found = thresholds.eq8(rows, 4, 3)
    assert np.isfinite(found).all()
    assert (found > 0).all()


# --------------------------------------------------------------------------- on what neurons receive


def some_drive(channels=2, samples=5, steps=4, early=0.0):
    rng = np.random.default_rng(2)
    drive = rng.normal(0.4, 1.0, (channels, steps, samples)) * np.array([1.0, 20.0])[:channels, None, None]
    return thresholds.Sampled(drive, np.maximum(drive.mean(1), 0), early)


def run_plainly(sampled, channel, theta, hold, most):
    """(mean squared error, of earlier steps too; mean spikes): a neuron gets what it is held back by over all steps."""
    error, spikes = 0.0, 0
    drive, target = sampled.drive[channel].T.tolist(), sampled.target[channel].tolist()
    for currents, wanted in zip(drive, target, strict=True):
        v, sent = theta / 2 - hold * theta, 0
        for t, current in enumerate(currents, 1):
            v += current + hold * theta / len(currents)
            n = min(max(math.floor(v / theta), 0), most)
            v -= n * theta
            sent += n
            weight = 1.0 if t == len(currents) else sampled.early / (len(currents) - 1)
            error += weight * ((sent * theta - wanted * t) / len(currents)) ** 2
        spikes += sent
    return error / len(drive), spikes / len(drive)


@pytest.mark.parametrize(("early", "steps"), [(0.0, 4), (0.2, 4), (0.2, 1)])
def test_figures_are_those_of_a_plain_loop(early, steps):
    sampled = some_drive(early=early, steps=steps)
    candidates, holds = np.array([[0.3, 0.7, 1.1], [5.0, 9.0, 21.0]]), [0.0, 0.5, 1.5]
    wanted = [[[run_plainly(sampled, c, v, h, 3) for h in holds] for v in row] for c, row in enumerate(candidates)]
    np.testing.assert_allclose(np.stack(sampled.figures(candidates, holds, 3), axis=-1), wanted, rtol=1e-9)


def around_of(around, c):
    """Thresholds from half to eight times as large."""
    return [around[c] * 2.0 ** (k / 8) for k in range(-8, 25)]


@pytest.mark.parametrize("holds", [(0.0,), (0.0, 0.5, 1.0)])
def test_on_drive_has_the_least_error_of_its_grid(holds):
    sampled, around = some_drive(samples=40), np.array([0.5, 8.0])
    found = thresholds.on_drive(sampled, around, 3, holds)
    assert (found.most, found.ratio) == (3, 1.0)
    for c in range(2):
        grid = {(v, h): run_plainly(sampled, c, v, h, 3)[0] for v in around_of(around, c) for h in holds}
        assert (found.threshold[c], found.hold[c]) in grid
        assert grid[found.threshold[c], found.hold[c]] == pytest.approx(min(grid.values()), rel=1e-9)


@pytest.mark.parametrize("price", [0.0, 0.01, 0.3])
def test_with_a_price_error_and_spikes_are_weighed(price):
    sampled, around, holds = some_drive(samples=40), np.array([0.5, 8.0]), (0.0, 0.5)
    importance, prices = np.array([1.0, 0.02]), price * np.array([1.0, 2.0])
    found = thresholds.on_drive(sampled, around, 4, holds, importance=importance, price=prices)
    plain = thresholds.on_drive(sampled, around, 4, holds)

    def loss(c, theta, hold, most):
        error, spikes = run_plainly(sampled, c, theta, hold, most)
        return importance[c] * error + prices[c] * spikes

    own = [(found.threshold[c], found.hold[c]) for c in range(2)]
    for c in range(2):
        assert loss(c, *own[c], 4) == pytest.approx(
            min(loss(c, v, h, 4) for v in around_of(around, c) for h in holds), rel=1e-9)
    whole = [sum(loss(c, *own[c], most) for c in range(2)) for most in range(1, 5)]
    assert found.most == next(most for most, each in enumerate(whole, 1) if each <= 1.01 * whole[-1] + 1e-15)
    assert found.ratio == pytest.approx(np.exp(np.log(found.threshold / plain.threshold).mean()))
    assert (found.ratio > 1) == (price > 0)


def test_one_threshold_and_hold_for_all_channels():
    sampled, around, holds = some_drive(samples=40), np.array([4.0, 4.0]), (0.0, 0.5)
    found = thresholds.on_drive(sampled, around, 3, holds, per_layer=True)
    assert len(set(found.threshold)) == len(set(found.hold)) == 1
    grid = [(v, h) for v in around_of(around, 0) for h in holds]
    errors = {at: sum(run_plainly(sampled, c, *at, 3)[0] for c in range(2)) for at in grid}
    assert errors[found.threshold[0], found.hold[0]] == pytest.approx(min(errors.values()), rel=1e-9)


def test_channels_that_never_fire_keep_a_threshold():
    drive = some_drive().drive
    silent = thresholds.Sampled(-np.abs(drive), np.zeros((2, drive.shape[2])))
    found = thresholds.on_drive(silent, np.array([0.5, 8.0]), 3, (0.0, 1.0))
    assert np.isfinite(found.threshold).all()
    assert (found.threshold > 0).all()
    assert np.isfinite(found.hold).all()


@pytest.mark.parametrize("hold", [0.25, 0.5, 2.0])
def test_a_hold_is_given_back_over_all_steps(hold):
    model, images = dyadic("mlp")
    skeleton, steps = skeleton_of("mlp", model), 8
    plan = random_plan(skeleton, 3)
    theta = np.full(12, 0.5)
    charges, first = [], []
    for h in (0.0, hold):
        neurons = Burst(theta, (0.5 - h) * theta, h * theta / steps, 3)
        trace = reference.run(network_of(state_of(skeleton, {**plan, "a": neurons}), steps), images, "state")
        charges.append(trace.v["a"][:, -1] + theta * trace.spikes["a"].sum(1))
        first.append(trace.spikes["a"][:, 0].sum())
    np.testing.assert_array_equal(charges[1], charges[0])
    assert first[1] < first[0]

"""Staircases: what they send, and that fitted ones are the best there are, by brute force."""

from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from tests.compiler.convert.single_step.stairs import random_stairs, stepped

from d2e.compiler.convert.adaptive.thresholds import burst_clip_floor
from d2e.compiler.convert.single_step import staircase
from d2e.compiler.convert.single_step.staircase import MOST_LEVELS, Sampled, Staircase, fitted, sent_by, uniform

# --------------------------------------------------------------------------- what they send


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("most", "sort"), [
    *((most, "relu") for most in (1, 2, 7, 16, MOST_LEVELS)), (1, "signed"), (16, "signed"), (7, "falls")])
def test_a_staircase_sends_what_its_definition_says_levels_met_exactly_included(most, sort, kind):
    stairs = random_stairs(5, most, seed=most, kind=sort)
    on = np.concatenate([stairs.levels[:, None] * stairs.scale + by for by in (-1 / 64, 0, 1 / 64)]).astype(kind)
    z = np.concatenate([on, -on, np.random.default_rng(0).integers(-64, 64 * most, (200, 5)).astype(kind) / 64])
    n, sent = sent_by(stairs, z)
    wanted, payload = stepped(replace(stairs, shift=np.zeros(5)), z)
    np.testing.assert_array_equal(n, wanted)
    np.testing.assert_array_equal(sent, payload)
    assert (n.dtype, sent.dtype) == (np.uint8, kind)
    assert set(n.ravel()) == set(range(most + 1))


def test_a_staircase_without_steps_is_silent():
    n, sent = sent_by(Staircase(np.ones(2), np.zeros(0), np.zeros(0, int), 1.0, np.zeros(2)), np.full((3, 2), 9.0))
    assert not n.any()
    assert not sent.any()


@pytest.mark.parametrize("most", [1, 4, 32, MOST_LEVELS])
@pytest.mark.parametrize("rounds", [True, False])
def test_uniform_ones_round_to_the_nearest_level_or_to_the_one_below(most, rounds):
    scale = np.array([0.25, 1.0, 8.0])
    z = np.random.default_rng(0).integers(-32, 40 * most, (300, 3)) / 32 * scale
    half = 0.5 if rounds else 0.0
    wanted = np.clip(np.floor(z / scale + half), 0, most) * scale
    stairs = uniform(scale, most, rounds=rounds)
    np.testing.assert_array_equal(sent_by(stairs, z)[1], wanted)
    np.testing.assert_array_equal(stairs.amplitude, scale)
    if rounds:
        np.testing.assert_array_equal(wanted, burst_clip_floor(z, scale, 1, most))


def test_what_a_staircase_costs_is_what_is_printed():
    sampled, stairs = relu(channels=3, price=0.01), random_stairs(3, 5)
    n, sent = stepped(replace(stairs, shift=np.zeros(3)), sampled.z)
    wanted = sampled.importance * ((sent - sampled.target) ** 2).mean(axis=0) + sampled.price * n.mean(axis=0)
    np.testing.assert_allclose(sampled.cost(stairs), wanted, rtol=1e-12)


# --------------------------------------------------------------------------- the best path


def every_path(cells, tail, most, rest=0):
    """Costs of all staircases: where levels begin, and payloads by steps of powers of two, down too where rest is not 0."""
    kinds, bins = cells.shape
    powers = [sign * 2**i for i in range(kinds.bit_length()) for sign in ([1, -1] if rest else [1])]
    for n in range(most + 1):
        for steps in product(powers, repeat=n):
            what = rest + np.cumsum(steps, dtype=int)
            if ((what >= 0) & (what < kinds)).all():
                for where in combinations(range(1, bins), n):
                    yield cost_of(cells, tail, where, what, rest)


def cost_of(cells, tail, where, what, rest=0):
    sends = np.full(cells.shape[1], rest)
    for begin, payload in zip(where, what, strict=True):
        sends[begin:] = payload
    return cells[sends, np.arange(len(sends))].sum() + sum(tail[begin] for begin in where)


@pytest.mark.parametrize("price", [0.0, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("rising", [True, False], ids=["an activation", "anything"])
def test_no_staircase_beats_the_path(rising, most, price):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        bins, kinds = int(rng.integers(3, 7)), int(rng.integers(2, 9))
        cells = rng.uniform(0, 1, (kinds, bins))
        if rising:
            cells = rng.uniform(0.5, 2, bins) * (np.arange(kinds)[:, None] - np.sort(rng.uniform(-1, kinds, bins))) ** 2
        tail = price * np.cumsum(rng.uniform(0, 1, bins))[::-1]
        loss, where, what = staircase._path(cells, tail, most)
        assert loss == pytest.approx(min(every_path(cells, tail, most)), rel=1e-9)
        assert cost_of(cells, tail, where, what) == pytest.approx(loss, rel=1e-9)
        assert len(where) <= most
        assert all(a < b for a, b in pairwise(where))
        assert all((b - a).bit_count() == 1 for a, b in pairwise([0, *what.tolist()]))


@pytest.mark.parametrize("price", [0.0, 0.3])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_staircase_that_may_fall_beats_the_path(most, price):
    fell = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        bins, kinds = int(rng.integers(3, 6)), int(rng.integers(3, 7))
        rest, cells = int(rng.integers(1, kinds)), rng.uniform(0, 1, (kinds, bins))
        tail = price * np.cumsum(rng.uniform(0, 1, bins))[::-1]
        loss, where, what = staircase._path(cells, tail, most, rest)
        assert loss == pytest.approx(min(every_path(cells, tail, most, rest)), rel=1e-9)
        assert cost_of(cells, tail, where, what, rest) == pytest.approx(loss, rel=1e-9)
        assert all(a < b for a, b in pairwise(where))
        steps = [int(b - a) for a, b in pairwise([rest, *what.tolist()])]
        assert all(abs(step).bit_count() == 1 for step in steps)
        fell += sum(step < 0 for step in steps)
    assert fell > 0


def test_more_levels_on_the_same_grid_never_cost_more():
    rng = np.random.default_rng(0)
    cells = (np.arange(20)[:, None] * 0.1 - np.sort(rng.uniform(-0.3, 2, 40))) ** 2
    losses = [staircase._path(cells, np.zeros(40), most)[0] for most in range(1, 25)]
    assert all(b <= a + 1e-12 for a, b in pairwise(losses))
    assert losses[-1] < losses[0] / 10


# --------------------------------------------------------------------------- fitted to samples


def relu(channels=2, samples=600, seed=0, price=0.0, cap=np.inf, spread=1.0, kind=np.float64):
    """What neurons receive is what the ANN's do but for some error; importances of their own."""
    rng = np.random.default_rng(seed)
    scale = spread ** np.arange(channels)
    z = rng.normal(0.3, 1.0, (samples, channels))
    target = np.clip(z + 0.1 * rng.normal(size=z.shape), 0, cap)
    importance = rng.uniform(0.5, 2.0, channels)
    return Sampled((z * scale).astype(kind), (target * scale).astype(kind), importance / scale**2, price * importance)


def tops(sampled):
    return np.maximum(sampled.target.max(axis=0).astype(float), 1e-9)


SAMPLES = {
    "relu": relu(), "single precision": relu(kind=np.float32), "priced": relu(price=0.02), "relu6": relu(cap=0.8),
    "scales": relu(channels=4, spread=1e3), "one channel": relu(channels=1), "few": relu(samples=3),
    "heavy": Sampled(np.exp(2 * relu().z), np.exp(2 * relu().z), np.ones(2), np.zeros(2)),
    "all equal": Sampled(np.full((50, 2), 0.7), np.full((50, 2), 0.7), np.ones(2), np.zeros(2)),
    "one": Sampled(np.array([[0.3]]), np.array([[0.4]]), np.ones(1), np.zeros(1)),
}


@pytest.mark.parametrize(("name", "most"), [
    *product(SAMPLES, (1, 2, 5, 16, 60)), ("heavy", MOST_LEVELS), ("few", MOST_LEVELS), ("one", MOST_LEVELS)])
def test_a_fitted_one_is_fit_for_a_chip(name, most):
    sampled = SAMPLES[name]
    stairs = fitted(sampled, tops(sampled), most)
    assert 1 <= stairs.most == len(stairs.payloads) <= most
    assert np.isfinite(stairs.levels).all()
    assert stairs.levels[0] > 0
    assert (np.diff(stairs.levels) > 0).all()
    assert all((b - a).bit_count() == 1 for a, b in pairwise([0, *stairs.payloads.tolist()]))
    assert stairs.payloads[-1] <= 255
    assert 0 < stairs.unit < np.inf
    assert sampled.cost(stairs).sum() < (sampled.importance * (sampled.target.astype(float) ** 2).mean(axis=0)).sum()


def grid_staircases(sampled, scale, most, count, seed=0):
    """Staircases at random of those that `fitted` chooses among: its edges, its units, steps of powers of two."""
    rng = np.random.default_rng(seed)
    a = sampled.target / scale
    edges, top = staircase._edges(sampled.z / scale, a), np.quantile(a[a > 0], 0.9995)
    for _ in range(count):
        share, n = rng.choice([1.0, 0.75, 0.5, 0.375, 0.25]), int(rng.integers(1, most + 1))
        limit = int(np.ceil(1.2 * most / share))
        payloads = np.cumsum(2 ** rng.integers(0, 1 + int(np.log2(max(1, limit / n))), n))
        payloads = payloads[payloads <= limit]
        levels = np.sort(rng.choice(edges, len(payloads), replace=False))
        yield Staircase(scale, levels, payloads, top / most * share, np.zeros(len(scale)))


def improved(sampled, stairs, edges):
    """The same with each level in turn where it costs least."""
    for i in range(stairs.most):
        low, high = (stairs.levels[i - 1] if i else 0.0), (stairs.levels[i + 1] if i + 1 < stairs.most else np.inf)
        tried = [replace(stairs, levels=np.concatenate([stairs.levels[:i], [edge], stairs.levels[i + 1 :]]))
                 for edge in edges if low < edge < high]
        stairs = min(tried, key=lambda each: sampled.cost(each).sum(), default=stairs)
    return stairs


@pytest.mark.parametrize("most", [1, 3, 8])
@pytest.mark.parametrize("name", ["relu", "priced", "relu6", "scales", "few"])
def test_no_staircase_on_its_grid_costs_less(name, most):
    sampled = SAMPLES[name]
    scale = tops(sampled)
    least = sampled.cost(fitted(sampled, scale, most)).sum()
    drawn = sorted(grid_staircases(sampled, scale, most, 100), key=lambda each: sampled.cost(each).sum())
    edges = staircase._edges(sampled.z / scale, sampled.target / scale)
    others = [*drawn, improved(sampled, drawn[0], edges[:: max(1, len(edges) // 40)])]
    assert least <= min(sampled.cost(each).sum() for each in others) * (1 + 1e-9)
    assert sampled.cost(drawn[-1]).sum() > 1.5 * least


@pytest.mark.parametrize("most", [2, 8, 32])
@pytest.mark.parametrize("name", ["relu", "priced", "relu6", "scales"])
def test_it_costs_no_more_than_the_uniform_one_with_levels_on_the_edges(name, most):
    """The uniform one that reaches as high is among those it chooses from, but for its levels: these go to the next edge."""
    sampled = SAMPLES[name]
    scale = tops(sampled)
    a = sampled.target / scale
    edges, top = staircase._edges(sampled.z / scale, a), np.quantile(a[a > 0], 0.9995)
    even = uniform(scale * top / most, most)
    on_edges = np.unique(edges[np.abs(edges - even.levels[:, None] * top / most).argmin(axis=1)])
    assert len(on_edges) == most
    snapped = Staircase(scale, on_edges, even.payloads, top / most, even.shift)
    found = sampled.cost(fitted(sampled, scale, most)).sum()
    assert found <= sampled.cost(snapped).sum() * (1 + 1e-9)
    assert found <= sampled.cost(even).sum() * 1.01, "edges are close enough for the uniform one as it is"


@pytest.mark.parametrize("name", ["relu", "priced", "relu6", "scales"])
def test_twice_as_many_levels_never_cost_more(name):
    """Units of N levels, or half of them, are units of 2 N; as long as payloads have room below 256."""
    sampled = SAMPLES[name]
    costs = [sampled.cost(fitted(sampled, tops(sampled), most)).sum() for most in (1, 2, 4, 8, 16, 32)]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(costs))
    assert costs[-1] < costs[0]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_higher_price_crosses_fewer_thresholds(kind):
    paid, errors = [], []
    for price in (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 100.0):
        sampled = relu(channels=3, price=price, kind=kind)
        n, sent = sent_by(fitted(sampled, tops(relu(channels=3)), 8), sampled.z)
        paid.append((sampled.importance * n.mean(axis=0)).sum())
        errors.append((sampled.importance * ((sent - sampled.target) ** 2).mean(axis=0)).sum())
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(paid))
    assert all(b >= a * (1 - 1e-6) for a, b in pairwise(errors))
    assert paid[0] > 2 * paid[4] > 0
    assert paid[-1] == 0, "a population that costs more than it is worth is silent"


def test_what_can_be_said_without_error_is():
    """Activations of four values, on the grid of three levels."""
    target = np.random.default_rng(0).choice([0.0, 0.25, 0.5, 0.75], (200, 2))
    sampled = Sampled(target, target, np.ones(2), np.zeros(2))
    stairs = fitted(sampled, np.ones(2), 3)
    assert sampled.cost(stairs).sum() < 1e-20
    np.testing.assert_array_equal(sent_by(stairs, target)[0], target * 4)


def test_the_cap_of_an_activation_is_the_highest_that_is_sent():
    rng = np.random.default_rng(0)
    z = rng.normal(3.0, 4.0, (2000, 2))
    sampled = Sampled(z, np.clip(z, 0, 6), np.ones(2), np.zeros(2))
    for most in (4, 8, 16):
        stairs = fitted(sampled, tops(sampled), most)
        sent = sent_by(stairs, np.array([[6.0, 60.0]]))[1]
        np.testing.assert_allclose(sent, 6.0, atol=stairs.unit * 6)
        assert stairs.levels[-1] * 6 < 6


@pytest.mark.parametrize("name", ["relu", "priced", "relu6"])
def test_a_channel_of_another_scale_makes_no_difference(name):
    """One of the channels 1,024 times as large, its errors as much less important: the same staircase."""
    one, by = SAMPLES[name], np.array([1.0, 1024.0])
    other = Sampled(one.z * by, one.target * by, one.importance / by**2, one.price)
    first, second = fitted(one, tops(one), 6), fitted(other, tops(other), 6)
    np.testing.assert_array_equal(second.levels, first.levels)
    np.testing.assert_array_equal(second.payloads, first.payloads)
    np.testing.assert_array_equal(second.amplitude, first.amplitude * by)
    np.testing.assert_allclose(other.cost(second), one.cost(first), rtol=1e-12)


def test_an_important_channel_decides():
    """Two channels that want other levels."""
    z = np.random.default_rng(0).uniform(0, 1, (500, 2))
    target = np.stack([np.where(z[:, 0] >= 0.25, 1.0, 0.0), np.where(z[:, 1] >= 0.75, 1.0, 0.0)], axis=1)
    for first, level in ((100.0, 0.25), (0.01, 0.75)):
        stairs = fitted(Sampled(z, target, np.array([first, 1.0]), np.zeros(2)), np.ones(2), 1)
        assert stairs.levels[0] == pytest.approx(level, abs=0.02)


def test_a_channel_that_never_fires_stays_silent_and_changes_nothing():
    one = relu(price=0.001)
    silent = Sampled(np.hstack([one.z, -np.abs(one.z[:, :1])]), np.hstack([one.target, 0 * one.z[:, :1]]),
                     np.append(one.importance, 1.0), np.append(one.price, 0.1))
    scale = np.append(tops(one), 1.0)
    first, second = fitted(one, tops(one), 6), fitted(silent, scale, 6)
    np.testing.assert_array_equal(second.levels, first.levels)
    np.testing.assert_array_equal(second.payloads, first.payloads)
    assert not sent_by(second, silent.z)[0][:, 2].any()


@pytest.mark.parametrize("sampled", [
    Sampled(np.abs(relu().z), 0 * relu().z, np.ones(2), np.zeros(2)),
    Sampled(-np.abs(relu().z), np.abs(relu().z), np.ones(2), np.zeros(2)),
    Sampled(0 * relu().z, np.abs(relu().z), np.ones(2), np.zeros(2)),
    relu(price=1e6), Sampled(relu().z, relu().target, np.zeros(2), np.ones(2)),
], ids=["nothing to say", "nothing but inhibition", "nothing received", "dear", "worthless"])
def test_what_had_better_be_silent_has_a_level_that_it_does_not_reach(sampled):
    stairs = fitted(sampled, np.ones(2), 4)
    assert stairs.most == 1
    assert stairs.payloads[0] == 1
    assert np.isfinite(stairs.levels[0])
    assert not sent_by(stairs, sampled.z)[0].any()


# --------------------------------------------------------------------------- of both signs, and that fall


@pytest.mark.parametrize("most", [1, 4, 16])
def test_a_signed_one_is_that_of_the_absolute_values(most):
    one = relu()
    sign = np.random.default_rng(1).choice([-1.0, 1.0], one.z.shape)
    z, target = np.abs(one.z), one.target
    first = fitted(Sampled(z, target, one.importance, one.price), tops(one), most)
    second = fitted(Sampled(sign * z, sign * target, one.importance, one.price), tops(one), most, signed=True)
    np.testing.assert_array_equal(second.levels, first.levels)
    np.testing.assert_array_equal(second.payloads, first.payloads)
    np.testing.assert_array_equal(sent_by(second, sign * z)[1], sign * sent_by(first, z)[1])
    np.testing.assert_array_equal(sent_by(second, sign * z)[0], sent_by(first, z)[0])


def gelu(price=0.0, samples=800):
    z = np.random.default_rng(0).normal(0, 1.5, (samples, 2))
    target = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    return Sampled(z, target, np.ones(2), np.full(2, price))


@pytest.mark.parametrize("price", [0.0, 0.01])
@pytest.mark.parametrize("most", [2, 8, 32])
def test_one_that_may_fall_goes_below_0_where_its_activation_does(most, price):
    sampled = gelu(price)
    scale = tops(sampled)
    stairs = fitted(sampled, scale, most, falls=True)
    assert 1 <= stairs.most <= most
    assert (np.diff(stairs.levels) > 0).all()
    assert all(abs(b - a).bit_count() == 1 for a, b in pairwise([0, *stairs.payloads.tolist()]))
    assert np.abs(stairs.payloads).max() <= 255
    assert sampled.cost(stairs).sum() <= sampled.cost(fitted(sampled, scale, most)).sum() * 1.05
    if price == 0 and most >= 8:
        assert stairs.payloads.min() < 0
        assert stairs.levels[0] < 0
        assert sampled.cost(stairs).sum() < 0.9 * sampled.cost(fitted(sampled, scale, most)).sum()


def test_a_rectifier_that_may_fall_does_not():
    """Where nothing is below 0 the two are the same search, but for steps down that would not help."""
    for name in ("relu", "relu6"):
        sampled = SAMPLES[name]
        free, rising = (fitted(sampled, tops(sampled), 6, falls=falls) for falls in (True, False))
        np.testing.assert_array_equal(free.payloads, rising.payloads)
        np.testing.assert_array_equal(free.levels, rising.levels)

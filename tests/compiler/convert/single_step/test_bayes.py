"""Scales by Bayesian optimisation: never worse than none, within a budget, the same for the same seed."""

import math

import numpy as np
import optuna
import pytest
from tests.compiler.convert.networks import activations, certain, skeleton_of

from d2e.compiler.convert.single_step import bayes
from d2e.compiler.convert.single_step.bayes import scaled
from d2e.compiler.convert.single_step.calibrate import Calibrator, Options

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def given():
    """A calibrator with coarse levels, its network, held images and the ANN's answers on them."""
    model, images = certain("mlp", 10.0)
    found = Calibrator(skeleton_of("mlp", model), images[:72], Options(fitted=False))
    return found, found.every(3), images[72:], activations("mlp", model, images[72:])[2]


def scales(state, before):
    return {key: state.plan[key].scale / before.plan[key].scale for key in before.plan}


@pytest.mark.parametrize("price", [0.0, 0.1, 3.0])
def test_it_is_never_worse_than_the_network_it_starts_from(given, price):
    found, state, held, logits = given

    def loss(each):
        kl, synops, *_ = found.row(each, held, logits)
        return kl + price * synops / found.most_synops

    better = scaled(found, state, held, logits, price, 0)
    assert loss(better) < loss(state)
    for factor in scales(better, state).values():
        assert np.ptp(factor) < 1e-12, "one for all channels of a layer"
        assert bayes.LOW <= factor[0] <= bayes.HIGH
        assert factor[0] != 1


def test_a_price_makes_scales_larger(given):
    found, state, held, logits = given
    cheap, dear = (scaled(found, state, held, logits, price, 0) for price in (0.0, 3.0))
    assert found.row(dear, held, logits)[1] < 0.9 * found.row(cheap, held, logits)[1]


def test_the_same_seed_gives_the_same_scales_and_another_does_not(given):
    found, state, held, logits = given
    first, again, other = (scales(scaled(found, state, held, logits, 0.0, seed), state) for seed in (3, 3, 4))
    assert all((first[key] == again[key]).all() for key in first)
    assert any((first[key] != other[key]).any() for key in first)


@pytest.mark.parametrize("share", [0.99, 0.9])
def test_what_needs_more_synops_is_not_taken(given, share):
    found, state, held, logits = given
    free = found.row(scaled(found, state, held, logits, 0.0, 0), held, logits)
    kept = found.row(scaled(found, state, held, logits, 0.0, 0, most=share * free[1]), held, logits)
    assert kept[1] <= share * free[1]
    assert kept[0] > free[0]


def test_where_nothing_else_is_within_the_limit_all_stays(given, monkeypatch):
    found, state, held, logits = given
    rows = []

    def row(*_):
        rows.append(1)
        return [1.0 / len(rows), 5.0 if len(rows) == 1 else 6.0]

    monkeypatch.setattr(found, "row", row)
    kept = scaled(found, state, held, logits, 0.0, 0, most=5.0)
    assert len(rows) == bayes.TRIALS
    assert all((factor == 1).all() for factor in scales(kept, state).values())


def test_it_tells_how_far_it_is_and_leaves_optuna_as_it_was(given):
    told, before = [], optuna.logging.get_verbosity()
    found, state, held, logits = given
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        scaled(found, state, held, logits, 0.0, 0, lambda *row: told.append(row), most=math.inf)
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    finally:
        optuna.logging.set_verbosity(before)
    assert told == [(i + 1, bayes.TRIALS, "scales") for i in range(bayes.TRIALS)]

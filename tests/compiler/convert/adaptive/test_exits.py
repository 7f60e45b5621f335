"""Bounds of early exits, on evidence that is made up: what changes stays under what is allowed, more allowed saves more."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2e.compiler.convert.adaptive import exits

LIMITED = ("calibrated", "fixed", "eq17-text")
ALLOWED = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def evidence(seed, count=300, steps=6, classes=5):
    """Summed logits: of some samples clear from the first step on, of others never."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, steps, classes))
    logits[np.arange(count), :, rng.integers(0, classes, count)] += rng.uniform(0.2, 3, count)[:, None]
    return np.cumsum(logits, axis=1)


def entropies(found):
    """H of Eq. 16 with the minus that it lacks, [M, T]."""
    z = found / np.arange(1, found.shape[1] + 1)[:, None]
    p = np.exp(z - z.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=2) / np.log(p.shape[2])


def outcome(found, rule):
    """(mean steps, share of changed answers)."""
    steps, answers = rule.steps(found, "last"), found.argmax(axis=2)
    return steps.mean(), (answers[np.arange(len(found)), steps - 1] != answers[:, -1]).mean()


def margin(most, count):
    """What is allowed, less its standard error."""
    return max(0.0, most - (most / count) ** 0.5)


@pytest.mark.parametrize("rule", LIMITED)
@pytest.mark.parametrize("seed", range(3))
def test_fewer_answers_change_than_are_allowed(seed, rule):
    found = evidence(seed)
    used = {most: outcome(found, exits.calibrate(found, most, rule))[1] for most in ALLOWED}
    assert all(changed <= margin(most, len(found)) for most, changed in used.items())
    assert used[0.2] > 0.5 * margin(0.2, len(found))


@pytest.mark.parametrize("rule", exits.RULES)
def test_more_allowed_never_takes_more_steps(rule):
    for seed in range(4):
        found = evidence(seed)
        steps = [outcome(found, exits.calibrate(found, most, rule))[0] for most in ALLOWED]
        assert all(a >= b for a, b in pairwise(steps))
        assert (steps[0] > steps[-1]) == (rule != "eq17-code")


def test_a_bound_per_step_saves_more_than_one_for_all():
    for seed in range(4):
        found = evidence(seed)
        own, same = (outcome(found, exits.calibrate(found, 0.1, rule))[0] for rule in ("calibrated", "fixed"))
        assert own < same < found.shape[1]


TABLES = st.integers(1, 4).flatmap(lambda steps: st.lists(
    st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=steps, max_size=steps), min_size=1, max_size=12))


@given(table=TABLES, size=st.sampled_from([1.0, 2000.0]), most=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
       rule=st.sampled_from(exits.RULES))
def test_it_holds_with_equal_entropies_and_with_certainty(table, size, most, rule):
    """Small integers make ties; large ones entropies of exactly 0."""
    found = size * np.cumsum(np.array(table, float), axis=1)
    calibrated = exits.calibrate(found, most, rule)
    assert calibrated.rule == rule
    assert calibrated.bounds.shape == (found.shape[1],)
    assert calibrated.bounds[-1] == -1
    assert (calibrated.bounds <= 1).all()
    if rule != "eq17-code":
        assert outcome(found, calibrated)[1] <= margin(most, len(found))


@pytest.mark.parametrize("rule", LIMITED)
def test_nothing_allowed_lets_right_ones_go_and_no_wrong_one(rule):
    found = evidence(0)
    steps, changed = outcome(found, exits.calibrate(found, 0.0, rule))
    assert changed == 0
    assert steps < found.shape[1]


def test_samples_of_equal_entropy_stay_together():
    """Ten are clear and right; of two that look alike one is wrong."""
    clear, unsure = [9.0, 0.0], [1.0, 0.0]
    logits = [[[9.0 + i, 0.0], clear] for i in range(10)] + [[unsure, clear], [unsure, [0.0, 9.0]]]
    found = np.cumsum(np.array(logits), axis=1)
    calibrated = exits.calibrate(found, 0.0)
    np.testing.assert_array_equal(calibrated.steps(found, "last"), [1] * 10 + [2, 2])


def test_what_all_exit_at_they_exit_at_in_another_precision():
    """Silent networks give all samples the same evidence: a bias."""
    logits = np.tile(np.array([0.3, -1.2, 0.1]), (20, 4, 1))
    found = np.cumsum(logits, axis=1)
    rule = exits.calibrate(found.astype(np.float32), 0.5)
    for size in (1.0, 1 - 1e-7, 1 + 1e-7):
        np.testing.assert_array_equal(rule.steps(size * found, "last"), [1] * 20)


def test_nothing_exits_where_a_wrong_answer_is_certain():
    found = np.cumsum(np.array([[[4000.0, 0.0], [-9000.0, 0.0]]] * 3), axis=1)
    for rule in LIMITED:
        np.testing.assert_array_equal(exits.calibrate(found, 0.0, rule).steps(found, "last"), [2] * 3)


def alpha(found):
    """Eq. 17: 0.6 + 0.4 exp(E_min - E_t), E_t the mean entropy of what is right at t."""
    answers = found.argmax(axis=2)
    right = answers == answers[:, -1:]
    mean = np.array([entropies(found)[right[:, t], t].mean() for t in range(found.shape[1])])
    return 0.6 + 0.4 * np.exp(mean.min() - mean)


def test_eq17_as_coded_is_the_formula_whatever_changes():
    found = evidence(1)
    rule = exits.calibrate(found, 0.0, "eq17-code")
    np.testing.assert_allclose(rule.bounds[:-1], 1 - alpha(found)[:-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(exits.calibrate(found, 1.0, "eq17-code").bounds, rule.bounds)
    out = 1 - entropies(found) >= alpha(found)
    out[:, -1] = True
    np.testing.assert_array_equal(rule.steps(found, "last"), out.argmax(axis=1) + 1)


def test_eq17_as_written_has_bounds_in_proportion_to_alpha():
    found = evidence(1)
    bounds = exits.calibrate(found, 0.1, "eq17-text").bounds[:-1]
    shares = bounds / alpha(found)[:-1]
    np.testing.assert_allclose(shares, shares[0], rtol=1e-9)
    assert 0.1 < shares[0] < 1

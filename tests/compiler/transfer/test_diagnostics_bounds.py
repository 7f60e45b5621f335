"""The bound of Theorem 1 for soft accuracies, its counter-examples for top-1, the two-sample bound, the correlation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from d2e.compiler.transfer.bounds import compare, pearson, two_sample_bound

WIDE = st.floats(-60, 60, width=32)


@st.composite
def answers(draw):
    n, classes = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    teacher = draw(arrays(np.float32, (n, classes), elements=WIDE))
    scale = draw(st.sampled_from([0.0, 1e-9, 1e-4, 1.0]))
    student = teacher + scale * draw(arrays(np.float32, (n, classes), elements=WIDE))
    return teacher, student, draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))


@given(answers())
def test_the_bound_holds_for_any_logits_and_each_step_of_its_proof(given_):
    found = compare(*given_)
    assert found.holds
    assert found.soft_gap <= found.tv + 1e-9 <= found.bound + 2e-9
    assert found.kl >= 0


def test_figures_of_two_samples_by_hand():
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.6, 0.4]])
    found = compare(np.log(p), np.log(q), np.array([0, 1]))
    each = (p * np.log(p / q)).sum(axis=1)
    assert found.kl == pytest.approx(each.mean())
    assert found.kl_error == pytest.approx(abs(each[0] - each[1]) / 2)
    assert found.bound == pytest.approx(math.sqrt(each.mean() / 2))
    assert found.bound_error == pytest.approx(found.kl_error / (4 * found.bound))
    assert (found.teacher_soft_accuracy, found.soft_accuracy) == pytest.approx((0.3, 0.325))
    assert found.soft_gap == pytest.approx(0.025)
    assert found.tv == pytest.approx((0.25 + 0.3) / 2)
    assert (found.teacher_accuracy, found.accuracy, found.top1_gap) == (0.5, 0.0, 0.5)


def test_top1_may_flip_at_next_to_no_divergence():
    found = compare(np.array([[1e-6, 0.0]]), np.array([[0.0, 1e-6]]), np.array([0]))
    assert found.top1_gap == 1
    assert found.bound < 1e-5
    assert found.holds


def test_equal_answers_and_a_single_sample_leave_errors_absent():
    facts = compare(np.array([[3.0, 1.0]]), np.array([[3.0, 1.0]]), np.array([0])).facts()
    assert facts["kl"] == facts["bound"] == facts["soft_gap"] == 0
    assert not facts.keys() & {"kl_error", "bound_error"}


def test_logits_that_are_no_numbers_do_not_hold():
    assert not compare(np.array([[1.0, 0.0]]), np.array([[np.nan, 0.0]]), np.array([0])).holds


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_two_sample_bound_stays_below_the_total_variation(shift):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3000, 3)), rng.normal(size=(1000, 3))
    b[:, 1] += shift
    found = two_sample_bound(a, b, seed=1)
    exact = math.erf(shift / math.sqrt(8))  # of two normals at that distance
    assert found.lower_bound <= exact + 3 * found.error
    assert found.lower_bound >= exact - 3 * found.error - 0.02
    assert (found.bound, found.held) == (None, 2000)
    assert two_sample_bound(a, b, seed=1) == found


def test_sources_that_differ_entirely_have_a_total_variation_of_one():
    rng = np.random.default_rng(0)
    images, events = rng.random((200, 4)), (rng.random((200, 4)) > 0.5).astype(float) + 3
    assert two_sample_bound(images, events).lower_bound == 1


def test_correlation_and_where_there_is_none():
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert pearson([1, 2, 3, 5], [4, 1, 2, 0]) == pytest.approx(np.corrcoef([1, 2, 3, 5], [4, 1, 2, 0])[0, 1])
    assert pearson([1, 2], [2, 4]) is None
    assert pearson([1, 1, 1], [2, 4, 6]) is None
    assert pearson([1, math.nan, 2], [2, 4, 6]) is None

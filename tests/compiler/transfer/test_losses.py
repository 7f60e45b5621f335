"""Each divergence against its equation in numpy; what is zero where student and teacher agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from d2e.compiler.transfer.losses import DIVERGENCES

LOGITS = hnp.arrays(np.float64, (5, 4), elements=st.floats(-6, 6))
TAUS = st.sampled_from([0.5, 1.0, 2.0, 4.0])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p) - np.log(q))).sum(axis=1).mean())


EQUATIONS = {
    "forward-kl": lambda p, q, tau: tau**2 * kl(p, q),
    "reverse-kl": lambda p, q, tau: tau**2 * kl(q, p),
    "symmetric-kl": lambda p, q, tau: tau**2 * (kl(p, q) + kl(q, p)) / 2,
    "mse": lambda p, q, tau: ((p - q) ** 2).sum(axis=1).mean(),
    "l1": lambda p, q, tau: np.abs(p - q).sum(axis=1).mean(),
}


@pytest.mark.parametrize("name", DIVERGENCES)
@given(teacher=LOGITS, student=LOGITS, tau=TAUS)
def test_a_divergence_is_its_equation(name, teacher, student, tau):
    found = DIVERGENCES[name](torch.from_numpy(teacher), torch.from_numpy(student), tau)
    assert found.item() == pytest.approx(EQUATIONS[name](softmax(teacher / tau), softmax(student / tau), tau), abs=1e-10)


@pytest.mark.parametrize("name", DIVERGENCES)
@given(logits=LOGITS, tau=TAUS, more=st.floats(-5, 5))
def test_equal_answers_have_none(name, logits, tau, more):
    """Logits that differ by a constant are equal answers."""
    found = DIVERGENCES[name](torch.from_numpy(logits), torch.from_numpy(logits + more), tau)
    assert found.item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_student_is_drawn_to_the_teacher(name):
    teacher, student = torch.tensor([[1.0, 0.0, -1.0]]), torch.zeros(1, 3, requires_grad=True)
    DIVERGENCES[name](teacher, student, 2.0).backward()
    assert student.grad is not None
    assert student.grad[0, 0] < 0 < student.grad[0, 2]


def test_certain_answers_have_finite_divergences():
    sure, other = torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]])
    for divergence in DIVERGENCES.values():
        assert torch.isfinite(divergence(sure, other, 1.0))


def test_one_way_is_not_the_other():
    teacher, student = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    found = {name: divergence(teacher, student, 1.0).item() for name, divergence in DIVERGENCES.items()}
    assert len({round(value, 6) for value in found.values()}) == len(found)

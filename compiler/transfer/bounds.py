"""How far a student's answers are from its teacher's, and what bounds the difference: Theorem 1 in the form that holds.

As published (arXiv 2605.07207) the theorem speaks of accuracies and adds 2 TV(X, S), the distance between images and events.
Pinsker's and Jensen's inequalities bound probabilities, so it holds of soft accuracies; the best class may flip at any
divergence. And TV(X, S) is 1 where X has a density and S is a set of spikes, which says nothing; where S = encoder(X),
both accuracies are expectations over the same images, and the term is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from d2e.compiler.convert.evaluate import log_softmax
from d2e.ir.nodes import Array

TOLERANCE = 1e-9
"""By how much rounding may put a soft gap above its bound."""
_PENALTY = 1e-2


@dataclass(frozen=True)
class Comparison:
    """A student beside its teacher on the same samples, the student's input a function of the teacher's.

    Attributes:
        samples: how many.
        accuracy, teacher_accuracy: share of samples whose most probable class is the label.
        soft_accuracy, teacher_soft_accuracy: mean probability of the label.
        kl: mean KL(teacher || student), nats.
        kl_error: its standard error; None for one sample.
        bound: sqrt(kl / 2), an upper bound of ``soft_gap`` and of ``tv``.
        bound_error: standard error of the bound, to first order kl_error / (4 bound); None where it is not defined.
        soft_gap: |teacher's soft accuracy - student's|.
        top1_gap: |teacher's accuracy - student's|, which nothing bounds.
        tv: mean total variation between the two answers, half the sum of |p - q|.
        holds: soft_gap <= bound + `TOLERANCE`. On the same samples it must; False tells of logits that are no numbers.
    """

    samples: int
    accuracy: float
    teacher_accuracy: float
    soft_accuracy: float
    teacher_soft_accuracy: float
    kl: float
    kl_error: float | None
    bound: float
    bound_error: float | None
    soft_gap: float
    top1_gap: float
    tv: float
    holds: bool

    def facts(self) -> dict[str, Any]:
        """As the report takes it: what is not known is absent."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def compare(teacher: Array, student: Array, labels: Array) -> Comparison:
    """Compare the answers to the same samples (Theorem 1 for soft accuracies).

    With p, q the softmax of teacher and student and y the label, per sample, then in the mean over samples::

        |E p_y - E q_y| <= E |p_y - q_y| <= E TV(p, q) <= E sqrt(KL(p || q) / 2) <= sqrt(E KL(p || q) / 2)

    Args:
        teacher, student: logits [n, classes], at least one sample.
        labels: [n] class indices.
    """
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    p, q = np.exp(log_p), np.exp(log_q)
    each = _divergences(p, q, log_p - log_q)
    n, rows, y = len(labels), np.arange(len(labels)), np.asarray(labels, np.int64)
    hard = [float((logits.argmax(axis=1) == y).mean()) for logits in (teacher, student)]
    soft = [float(part[rows, y].mean()) for part in (p, q)]
    kl = float(each.mean())
    error = float(each.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    bound, gap = math.sqrt(kl / 2), abs(soft[0] - soft[1])
    spread = error / (4 * bound) if error is not None and bound else None
    return Comparison(
        n, hard[1], hard[0], soft[1], soft[0], kl, error, bound, spread, gap,
        abs(hard[0] - hard[1]), float(np.abs(p - q).sum(axis=1).mean() / 2), gap <= bound + TOLERANCE,
    )


def _divergences(p: Array, q: Array, d: Array) -> Array:
    """KL per sample as the sum of p d - p + q, d = log(p / q): no term is below 0, so small ones do not cancel."""
    near = np.abs(d) < 1
    terms = np.where(near, p * (d + np.expm1(-np.where(near, d, 0.0))), p * d - p + q)
    return np.asarray(np.maximum(terms, 0.0).sum(axis=1))


@dataclass(frozen=True)
class TwoSample:
    """A lower bound of the total variation between two sources, from a classifier that tells them apart.

    Attributes:
        lower_bound: max(0, 2 accuracy - 1).
        error: standard error of 2 accuracy - 1.
        accuracy: on held-out samples, the mean over the two sources.
        held: held-out samples of both sources.
        bound: of the soft gap: unavailable, because no upper bound of the total variation is known.
        note: says so.
    """

    lower_bound: float
    error: float
    accuracy: float
    held: int
    bound: None = None
    note: str = "a lower bound, by a classifier on held-out samples; the bound of Theorem 1 is unavailable"


def two_sample_bound(direct_features: Array, event_features: Array, seed: int = 0) -> TwoSample:
    """How different two sets of other samples are at least: for real events, which are no function of the images.

    For every classifier, and so for this logistic regression, 2 accuracy - 1 <= TV between the sources, its accuracy the
    mean of those on either source. Whatever the features are, TV between the inputs is no less than TV between them.

    Args:
        direct_features: [n, features], such as an image, or logits; two or more samples, as of the events.
        event_features: [m, features] of the same kind, such as events summed over time.
        seed: of the split in halves: one is learned from, on the other accuracy is measured.
    """
    rng = np.random.default_rng(seed)
    learned, held = [], []
    for label, given in enumerate((direct_features, event_features)):
        rows = np.asarray(given, np.float64).reshape(len(given), -1)
        rows = rows[rng.permutation(len(rows))]
        half = len(rows) // 2
        learned.append((rows[:half], np.full(half, label)))
        held.append(rows[half:])
    x = np.concatenate([rows for rows, _ in learned])
    center, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1.0
    weight, offset = _logistic((x - center) / spread, np.concatenate([labels for _, labels in learned]))
    shares = []
    for label, rows in enumerate(held):
        says = ((rows - center) / spread) @ weight + offset > 0
        shares.append(float((says == bool(label)).mean()))
    accuracy = sum(shares) / 2
    error = math.sqrt(sum(share * (1 - share) / len(rows) for share, rows in zip(shares, held, strict=True)))
    return TwoSample(max(0.0, 2 * accuracy - 1), error, accuracy, sum(map(len, held)))


def _logistic(x: Array, labels: Array) -> tuple[Array, float]:
    """Weights and offset of the logistic regression of least penalised cross-entropy."""
    import torch

    rows, wanted = torch.from_numpy(x), torch.from_numpy(labels.astype(np.float64))
    share = torch.where(wanted > 0, 0.5 / wanted.mean().clamp(min=1e-9), 0.5 / (1 - wanted.mean()).clamp(min=1e-9))
    values = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        answers = rows @ values[:-1] + values[-1]
        each = torch.nn.functional.binary_cross_entropy_with_logits(answers, wanted, weight=share)
        total = each + _PENALTY * values[:-1].square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = values.detach().numpy()
    return found[:-1], float(found[-1])


def pearson(kl: Sequence[float], gap: Sequence[float]) -> float | None:
    """Correlation of divergence and gap over epochs, -1..1.

    Returns:
        None where it is not defined or says nothing: for fewer than three epochs, equal values, or ones that are no numbers.
    """
    if len(kl) < 3:
        return None
    x, y = (np.asarray(values, np.float64) - np.mean(values) for values in (kl, gap))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    if not scale or not math.isfinite(scale):
        return None
    return float(np.clip(x @ y / scale, -1.0, 1.0))

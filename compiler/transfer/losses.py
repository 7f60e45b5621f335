"""What the student is trained towards: the labels and the teacher's answers.

loss = alpha CE(z_S, y) + (1 - alpha) D(z_T, z_S)      z: logits [batch, classes], over time by the model's readout

Luu et al. 2026, arXiv 2605.07207: alpha = 0.4 and the forward KL; alpha = 1 is their TSF, plain fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def forward_kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """tau**2 KL(softmax(teacher / tau) || softmax(student / tau)), mean over the batch, in nats."""
    p, q = functional.log_softmax(teacher / tau, 1), functional.log_softmax(student / tau, 1)
    return tau**2 * functional.kl_div(q, p, log_target=True, reduction="batchmean")


def reverse_kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """tau**2 KL(student || teacher), likewise."""
    return forward_kl(student, teacher, tau)


def symmetric_kl(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """Mean of both directions."""
    return (forward_kl(teacher, student, tau) + reverse_kl(teacher, student, tau)) / 2


def mse(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """Squared distance of the softened probabilities, summed over classes, mean over the batch."""
    return _distance(teacher, student, tau).square().sum(1).mean()


def l1(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """Absolute distance, likewise: twice the total variation at tau = 1."""
    return _distance(teacher, student, tau).abs().sum(1).mean()


def _distance(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    return torch.softmax(teacher / tau, 1) - torch.softmax(student / tau, 1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward-kl": forward_kl, "reverse-kl": reverse_kl, "symmetric-kl": symmetric_kl, "mse": mse, "l1": l1,
}

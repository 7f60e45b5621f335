"""Small direct-coded networks and images for the tests of the diagnostics."""

import numpy as np
import torch
from torch import nn

import d2e.nn as dn

STEPS = 6


def convolutional(readout: str = "li") -> dn.Sequential:
    torch.manual_seed(1)
    model = dn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), dn.LIF(0.5, 1.2, reset="zero"), nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=False), dn.LIF(0.5, 0.25, reset="zero"), nn.Flatten(), nn.Linear(8 * 9, 12),
        dn.IF(0.2), nn.Linear(12, 3), dn.LI(0.9) if readout == "li" else dn.IF(0.5),
    )
    with torch.no_grad():
        model[0].weight += 0.05
        model[1].running_var.fill_(0.3)
    return model.eval()


def images(n: int = 40) -> np.ndarray:
    return np.random.default_rng(2).random((n, 1, 6, 6)).astype(np.float32)


def direct(shown: np.ndarray) -> np.ndarray:
    return np.broadcast_to(shown[:, None], (len(shown), STEPS, *shown.shape[1:]))


def encoded(shown: np.ndarray) -> np.ndarray:
    """One spike, at a step that says the value."""
    from d2e.ir import Encoder

    return Encoder("ttfs", np.float64(1.0)).encode(direct(shown), 0, 1)

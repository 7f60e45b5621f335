"""A residual network of soft-reset IF neurons; its class is not d2e's, so it is compiled through a factory.

    d2e-compile tests.models.residual:build
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2e import nn as snn

STEPS = 16


class Residual(nn.Module):
    """Stem, block with an identity past one population, block with a 1x1 convolution past one, dense layer."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        wide = 2 * channels
        self.stem = snn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), snn.IF())
        self.inner = snn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), snn.IF())
        self.outer = snn.TimeFolded(nn.Conv2d(channels, channels, 3, padding=1))
        self.joined = snn.IF()
        self.inner2 = snn.Sequential(nn.Conv2d(channels, wide, 3, stride=2, padding=1), snn.IF())
        self.outer2 = snn.TimeFolded(nn.Conv2d(wide, wide, 3, padding=1))
        self.skip2 = snn.TimeFolded(nn.Conv2d(channels, wide, 1, stride=2, bias=False))
        self.joined2 = snn.IF()
        self.head = snn.Sequential(nn.Flatten(), nn.Linear(wide * 16, 10), snn.IF())

    def forward(self, frames: Tensor) -> Tensor:
        first = self.stem(frames)
        second = self.joined(self.outer(self.inner(first)) + first)
        third = self.joined2(self.outer2(self.inner2(second)) + self.skip2(second))
        classes: Tensor = self.head(third)
        return classes


def build() -> tuple[nn.Module, dict[str, Any]]:
    """The trained network and what the compiler must know of it."""
    model = Residual()
    model.load_state_dict(torch.load(Path(__file__).with_name("residual.pt"), weights_only=True))
    return model, {"input_shape": (1, 8, 8), "time_steps": STEPS, "name": "residual"}

"""Small trained-like networks and binary data for the tests of NeuroBench's metrics."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from d2e import nn as snn

STEPS = 5


def dense(**neuron) -> tuple[nn.Module, tuple[int, ...]]:
    return snn.Sequential(
        nn.Linear(12, 9, bias=False), snn.IF(threshold=1.0, **neuron),
        nn.Linear(9, 4, bias=False), snn.IF(threshold=1.0, **neuron),
    ), (12,)


def convolutions(**neuron) -> tuple[nn.Module, tuple[int, ...]]:
    """Strides, groups, dilation and padding."""
    return snn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), snn.IF(threshold=1.0, **neuron),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), snn.IF(threshold=1.0, **neuron),
        nn.Conv2d(6, 4, (3, 1), padding=(2, 0), dilation=(2, 1), bias=False), snn.IF(threshold=1.0, **neuron),
        nn.Flatten(), nn.Linear(4 * 4 * 4, 5, bias=False), snn.IF(threshold=1.0, **neuron),
    ), (2, 8, 8)


def pooled(**neuron) -> tuple[nn.Module, tuple[int, ...]]:
    """Sums of windows, fired again before the next weights."""
    return snn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), snn.IF(threshold=1.0, **neuron),
        snn.SumPool2d(2), snn.IF(threshold=2.0, **neuron),
        nn.Flatten(), nn.Linear(4 * 4 * 4, 5, bias=False), snn.IF(threshold=1.0, **neuron),
    ), (1, 8, 8)


def biased(**neuron) -> tuple[nn.Module, tuple[int, ...]]:
    return snn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1), snn.LIF(decay=0.75, **neuron), nn.Flatten(),
        nn.Linear(18, 4), snn.IF(threshold=1.0, **neuron),
    ), (2, 6)


def frames(shape: tuple[int, ...], samples: int, seed: int = 0, most: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Payloads 0..most [samples, STEPS, *shape] and labels [samples]."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, most + 1, (samples, STEPS, *shape)) * (rng.random((samples, STEPS, *shape)) < 0.4)
    return x, rng.integers(0, 4, samples)


def loader(x: np.ndarray, y: np.ndarray, batch: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=batch)


def scaled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of which some are 0, large enough that every layer fires."""
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape) * 1.5 / fan_in**0.5 + 0.4 / fan_in**0.5)
                layer.weight[torch.rand(layer.weight.shape) < 0.2] = 0
    return model

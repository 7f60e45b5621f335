"""ResNet-20 for CIFAR-10 (He et al. 2016, option-A shortcuts) with published weights, and the images it takes.

``--data DIR`` (or the variable D2E_DATA) holds ``cifar10_test.npz`` and ``cifar10_train_10k.npz`` (x uint8 [n, 32, 32, 3],
y) and ``checkpoints/resnet20-12fca82f.th`` of github.com/akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Shortcut(nn.Module):
    """Every second pixel, and channels of zeros around."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        border = self.planes // 4
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, border, border), "constant", 0)


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, before: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential() if stride == 1 else Shortcut(planes)

    def forward(self, x: Tensor) -> Tensor:
        found = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(found)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Images [n, 3, 32, 32] with values 0..1 to 10 logits; the normalisation is its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(3, eps=0.0, affine=False)
        self.normalise.running_mean = torch.tensor(MEAN)
        self.normalise.running_var = torch.tensor(STD) ** 2
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(*(Block(32 if i else 16, 32, 1 if i else 2) for i in range(3)))
        self.layer3 = nn.Sequential(*(Block(64 if i else 32, 64, 1 if i else 2) for i in range(3)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found = functional.relu(self.bn1(self.conv1(self.normalise(x))))
        found = self.layer3(self.layer2(self.layer1(found)))
        return self.linear(functional.avg_pool2d(found, found.size()[3]).view(found.size(0), -1))


def folder(given: str | None) -> Path:
    """Where the data are."""
    found = given or os.environ.get("D2E_DATA")
    if not found:
        raise SystemExit(__doc__)
    return Path(found)


def trained(data: Path) -> ResNet20:
    """The network with the published weights."""
    state = torch.load(data / "checkpoints" / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet20()
    found = model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()}, strict=False)
    assert not found.unexpected_keys
    assert all(key.startswith("normalise.") for key in found.missing_keys)
    return model.eval()


def images(data: Path, name: str, count: int | None = None) -> tuple[Any, Any]:
    """Images [n, 3, 32, 32] with values 0..1 and labels of ``train_10k`` or ``test``."""
    with np.load(data / f"cifar10_{name}.npz") as file:
        x, y = file["x"][:count], file["y"][:count]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32) / np.float32(255), y.astype(np.int64)


def build() -> tuple[nn.Module, dict[str, Any]]:
    """For ``d2e convert benchmarks.resnet20:build``; D2E_DATA says where the weights are."""
    return trained(folder(None)), {"input_shape": (3, 32, 32)}

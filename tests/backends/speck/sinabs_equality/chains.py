"""Chains of layers written as text, built as a model of sinabs and as one of d2e with the same weights.

``2x16x16 c8k3s2,1p1b a2 l10``: the input; a convolution to 8 features, kernel 3, stride 2 down and 1 across, padding 1, with
bias; average pooling by 2 (``s2``: sum pooling); a fully connected layer to 10. Neurons follow every c and l.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import sinabs.activation
import sinabs.layers
import torch
from torch import nn

import d2e.nn

_TOKEN = re.compile(r"c(?P<conv>\d+)k(?P<kernel>\d+)(?:s(?P<stride>[\d,]+))?(?:p(?P<padding>[\d,]+))?(?P<bias>b?)"
                    r"|l(?P<dense>\d+)(?P<dense_bias>b?)|(?P<pool>[as])(?P<size>\d+)")


@dataclass(frozen=True)
class Chain:
    """A network.

    Attributes:
        text: see above.
        camera: the chip's own camera is its input.
        threshold, v_min, reset: of every neuron; reset is "subtract" or "zero".
        seed: of the weights.
    """

    text: str
    camera: bool = False
    threshold: float = 1.0
    v_min: float | None = -1.0
    reset: str = "subtract"
    seed: int = 0

    def __str__(self) -> str:
        options = {"camera": False, "threshold": 1.0, "v_min": -1.0, "reset": "subtract"}
        return " ".join([self.text, *(f"{k}={getattr(self, k)}" for k, v in options.items() if getattr(self, k) != v)])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = map(int, self.text.split()[0].split("x"))
        return channels, height, width

    def modules(self) -> list[nn.Module | str]:
        """The torch layers with their weights; "neuron", "s2" … where the two libraries have modules of their own."""
        generator = torch.Generator().manual_seed(self.seed)
        frame = torch.zeros(1, *self.input_shape)
        found: list[nn.Module | str] = []
        for word in self.text.split()[1:]:
            token = _TOKEN.fullmatch(word)
            assert token, word
            layer: nn.Module
            if token["pool"]:
                size = int(token["size"])
                layer = nn.AvgPool2d(size)
                found.append(layer if token["pool"] == "a" else word)
                frame = layer(frame)
                continue
            if token["conv"]:
                layer = nn.Conv2d(
                    frame.shape[1], int(token["conv"]), int(token["kernel"]), stride=_pair(token["stride"], 1),
                    padding=_pair(token["padding"], 0), bias=bool(token["bias"]),
                )
            else:
                if frame.ndim > 2:
                    found.append(nn.Flatten())
                    frame = frame.flatten(1)
                layer = nn.Linear(frame.shape[1], int(token["dense"]), bias=bool(token["dense_bias"]))
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.normal_(0.2 / fan_in**0.5, 1 / fan_in**0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(-0.02, 0.05, generator=generator)
            frame = layer(frame)
            found += [layer, "neuron"]
        return found

    def sinabs_model(self) -> nn.Sequential:
        reset: Any = sinabs.activation.MembraneSubtract() if self.reset == "subtract" else sinabs.activation.MembraneReset()
        made: list[nn.Module] = []
        for module in self.modules():
            if module == "neuron":
                module = sinabs.layers.IAFSqueeze(
                    batch_size=1, spike_threshold=torch.tensor(self.threshold), min_v_mem=self.v_min, reset_fn=reset)
            elif isinstance(module, str):
                module = sinabs.layers.SumPool2d(int(module[1:]))
            made.append(module)
        return nn.Sequential(*made)

    def d2e_model(self) -> nn.Sequential:
        made: list[nn.Module] = []
        for module in self.modules():
            if module == "neuron":
                module = d2e.nn.IF(self.threshold, self.reset, max_spikes=0, v_min=self.v_min)
            elif isinstance(module, str):
                module = d2e.nn.SumPool2d(int(module[1:]))
            made.append(module)
        return nn.Sequential(*made)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """(weight, bias) of every layer in floating point, times what an average pooling before it divides by."""
        found, factor = [], 1.0
        for module in self.modules():
            if isinstance(module, nn.AvgPool2d):
                factor /= int(module.kernel_size) ** 2
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                bias = None if module.bias is None else module.bias.detach().double().numpy()
                found.append((module.weight.detach().double().numpy() * factor, bias))
                factor = 1.0
        return found


def _pair(text: str | None, default: int) -> tuple[int, int]:
    values = [default] if text is None else [int(v) for v in text.split(",")]
    return values[0], values[-1]


def random_chain(seed: int) -> Chain:
    """A chain of 1 to 9 layers that sinabs builds and that fits."""
    rng = np.random.default_rng(seed)
    channels, size = int(rng.integers(1, 3)), [int(rng.integers(12, 49)), int(rng.integers(12, 49))]
    words = ["x".join(map(str, (channels, *size)))]
    for _ in range(int(rng.integers(1, 9))):
        kernel = int(rng.integers(1, min(7, *size) + 1))
        stride = [int(rng.choice([1, 2, 4], p=[0.7, 0.2, 0.1])) for _ in size]
        padding = [int(rng.integers(0, min(3, kernel - 1) + 1)) for _ in size]
        new = [(n + 2 * p - kernel) // s + 1 for n, p, s in zip(size, padding, stride, strict=True)]
        bias = "b" * int(rng.random() < 0.3)
        words.append(f"c{rng.integers(2, 9)}k{kernel}s{stride[0]},{stride[1]}p{padding[0]},{padding[1]}{bias}")
        size = new
        if rng.random() < 0.4 and min(size) >= 4:
            pool = int(rng.choice([2, 4]))
            words.append(f"{rng.choice(['a', 's'])}{pool}")
            size = [n // pool for n in size]
        if min(size) < 2:
            break
    if words[-1][0] in "as":
        words.pop()
    elif size[0] == size[1] <= 16:
        words.append(f"l{rng.integers(2, 12)}")
    return Chain(
        " ".join(words), threshold=float(rng.choice([1.0, 0.7, 1.6])), v_min=float(rng.choice([-1.0, -0.5, -2.0])),
        reset=str(rng.choice(["subtract", "zero"], p=[0.8, 0.2])), seed=seed,
    )

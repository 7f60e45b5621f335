"""Random models of d2e.nn with weights that make them fire: what a user may train, in every form Loihi 2 takes.

``random_model(seed)`` is the same model everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2e import nn as snn

THETA = 1.0


@dataclass(frozen=True)
class RandomModel:
    """A model, frames [batch, time, *shape] for it, and the options to compile it with."""

    module: nn.Module
    frames: np.ndarray
    options: dict[str, Any]


class Skip(nn.Module):
    """Two ways from one frame into one population."""

    def __init__(self, long: nn.Module, short: nn.Module, join: nn.Module) -> None:
        super().__init__()
        self.long, self.short, self.join = long, short, join

    def forward(self, frames: Tensor) -> Tensor:
        joined: Tensor = self.join(self.long(frames) + self.short(frames))
        return joined


class Grower:
    """Appends modules behind frames that it carries along, so that weights suit what arrives."""

    def __init__(self, seed: int, *shape: int) -> None:
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.payload = int(self.pick(1, 1, 1, 7))
        batch, steps = int(self.rng.integers(2, 5)), int(self.rng.integers(5, 13))
        spikes = self.rng.random((batch, steps, *shape)) < self.rng.uniform(0.2, 0.7)
        self.entry = (self.rng.integers(1, self.payload + 1, spikes.shape) * spikes).astype(np.int64)
        self.frames = torch.from_numpy(self.entry).float()
        self.modules: list[nn.Module] = []

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.frames.shape[2:])

    def add(self, *modules: nn.Module) -> None:
        for module in modules:
            self.modules.append(module)
            with torch.no_grad():
                self.frames = snn.Sequential(module).eval()(self.frames)

    # ----- layers

    def suited(self, layer: Any, frames: Tensor) -> Any:
        """``layer`` with its weights such that one current in five exceeds a random share of the threshold."""
        with torch.no_grad():
            if layer.bias is not None:
                layer.bias.zero_()
            reach = float(torch.quantile(snn.Sequential(layer)(frames), 0.8))
            if reach < 0:
                layer.weight.neg_()
                reach = float(torch.quantile(snn.Sequential(layer)(frames), 0.8))
            layer.weight *= THETA * self.rng.uniform(0.4, 1.2) / max(reach, 0.05)
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(self.rng.uniform(-0.1, 0.15, layer.bias.shape) * THETA))
        return layer

    def linear(self, out: int) -> Any:
        layer = nn.Linear(self.shape[0], out, bias=self.chance(0.6))
        return self.suited(layer, self.frames)

    def conv(self, out: int | None = None, plain: bool = False) -> Any:
        channels, height, width = self.shape
        groups = 1 if plain else int(self.pick(*[g for g in (1, 1, 2, channels) if channels % g == 0]))
        out = out or groups * int(self.rng.integers(1, 4))
        kernel = (3, 3) if plain else (int(self.rng.integers(1, 4)), int(self.rng.integers(1, 4)))
        options: dict[str, Any] = {"padding": "same"}
        if not plain and self.chance(0.6):
            options = {"padding": int(self.rng.integers(0, 2)), "stride": int(self.rng.integers(1, 3))}
            options["dilation"] = 2 if min(height, width) > 4 and self.chance(0.3) else 1
        layer = nn.Conv2d(channels, out, kernel, groups=groups, bias=self.chance(0.6), **options)
        return self.suited(layer, self.frames)

    def normed(self, layer: Any) -> Any:
        """The layer, now and then with a BatchNorm that has seen these frames."""
        if self.chance(0.5):
            return layer
        norm = nn.BatchNorm2d(layer.weight.shape[0], momentum=None)
        with torch.no_grad():
            snn.Sequential(layer, norm).train()(self.frames)
            norm.weight.uniform_(0.4, 1.2)
            norm.bias.uniform_(-0.1, 0.4)
        return nn.Sequential(layer, norm).eval()

    def neuron(self, last: bool = False) -> snn.Neuron:
        """Any neuron that the chip takes; thresholds near ``THETA``, per channel unless it is the last."""
        rng = self.rng
        options: dict[str, Any] = {"reset": self.pick("subtract", "zero"), "fire": self.pick("ge", "ge", "gt")}
        options["threshold"] = rng.uniform(0.6, 1.5) * THETA
        if self.chance(0.2) and self.frames.ndim > 2 and not last:
            channels = rng.uniform(0.6, 1.5, (self.width, *([1] * (self.axes - 1)))) * THETA
            options["threshold"] = torch.from_numpy(channels).float()
        if options["reset"] == "zero" and self.chance(0.2):
            options |= {"reset": "value", "v_reset": -0.25 * THETA}
        for name, value in (("gain", 1.5), ("v_init", 0.5 * THETA), ("bias", 0.1 * THETA), ("amplitude", 2.0)):
            if self.chance(0.1):
                options[name] = value
        decays = float(rng.uniform(0.1, 0.8)), float(rng.uniform(0.5, 0.97))
        kind = self.pick("if", "lif", "lif", "cuba")
        if kind == "if":
            return snn.IF(**options)
        return snn.LIF(decays[1], **options) if kind == "lif" else snn.CubaLIF(*decays, **options)

    def layer(self, synapse: nn.Module, last: bool = False) -> None:
        """A synapse and its neurons."""
        self.neurons_for(synapse)
        self.add(synapse, self.neuron(last))

    def neurons_for(self, synapse: nn.Module) -> None:
        with torch.no_grad():
            shape = snn.Sequential(synapse).eval()(self.frames).shape[2:]
        self.width, self.axes = shape[0], len(shape)

    def classes(self) -> RandomModel:
        """A dense layer at the end, now and then read out as a membrane."""
        if len(self.shape) > 1:
            self.add(nn.Flatten())
        if self.chance(0.25):
            self.add(self.linear(4), snn.LI(float(self.rng.uniform(0.5, 1.0)), decay_syn=float(self.pick(0.0, 0.5))))
        else:
            self.layer(self.linear(4), last=True)
        options = {
            "input_shape": self.entry.shape[2:], "time_steps": self.entry.shape[1], "max_payload": self.payload,
            "weight_bits": int(self.rng.integers(2, 9)), "scale": self.pick("auto", "max", "percentile", "mse"),
        }
        if self.chance(0.5):
            options["calibration"] = self.entry
        return RandomModel(snn.Sequential(*self.modules).eval(), self.entry, options)


# --------------------------------------------------------------------------- kinds of models


def dense(seed: int) -> RandomModel:
    g = Grower(seed, 9)
    for _ in range(int(g.rng.integers(1, 4))):
        g.layer(g.linear(int(g.rng.integers(4, 12))))
    return g.classes()


def convolutions(seed: int) -> RandomModel:
    g = Grower(seed, 1 + seed % 3, 7, 8)
    for _ in range(2):
        g.layer(g.normed(g.conv()))
    return g.classes()


def pooled(seed: int) -> RandomModel:
    """Pooling before a population, after one, and right behind the input."""
    g = Grower(seed, 2, 8, 8)
    pool = g.pick(nn.Identity(), nn.AvgPool2d(2), nn.AvgPool2d(3, stride=1), None)
    if pool is None:
        g.add(g.pick(nn.AvgPool2d(2), snn.SumPool2d(2)))
        pool = nn.Identity()
    g.layer(nn.Sequential(g.normed(g.conv(plain=True)), pool))
    g.add(nn.AvgPool2d(2))
    g.layer(g.conv(plain=True))
    if g.chance(0.4):
        g.add(g.pick(nn.AvgPool2d(2), snn.SumPool2d(2)))
    return g.classes()


def line(seed: int) -> RandomModel:
    """Convolutions over [channels, length]."""
    g = Grower(seed, 2, 12)
    for _ in range(2):
        layer = nn.Conv1d(g.shape[0], 4, int(g.rng.integers(1, 4)), stride=int(g.pick(1, 2)), bias=g.chance(0.6))
        g.layer(g.suited(layer, g.frames))
    return g.classes()


def recurrent(seed: int) -> RandomModel:
    """A dense layer that hears itself, perhaps two."""
    g = Grower(seed, 7)
    for _ in range(int(g.pick(1, 1, 2))):
        size = int(g.rng.integers(5, 12))
        synapse = g.linear(size)
        g.neurons_for(synapse)
        g.add(synapse, snn.Recurrent(g.neuron(), nn.Linear(size, size, bias=g.chance(0.5))))
    return g.classes()


def recurrent_map(seed: int) -> RandomModel:
    """A convolution that hears itself."""
    g = Grower(seed, 2, 5, 6)
    synapse = g.conv(out=3, plain=True)
    g.neurons_for(synapse)
    g.add(synapse, snn.Recurrent(g.neuron(), nn.Conv2d(3, 3, 3, padding="same", bias=g.chance(0.5))))
    return g.classes()


def residual(seed: int) -> RandomModel:
    """A skip past one or two populations: identity or 1x1 convolution."""
    g = Grower(seed, 2, 6, 6)
    g.layer(g.conv(out=3, plain=True))
    inside: list[nn.Module] = []
    before = g.frames
    for _ in range(int(g.pick(1, 2))):
        synapse = g.conv(out=3, plain=True)
        g.neurons_for(synapse)
        inside += [synapse, g.neuron()]
        with torch.no_grad():
            g.frames = snn.Sequential(*inside[-2:])(g.frames)
    inside.append(g.conv(out=3, plain=True))
    g.frames = before
    short = g.pick(nn.Identity(), nn.Conv2d(3, 3, 1, bias=False))
    g.add(Skip(snn.Sequential(*inside), snn.TimeFolded(short), g.neuron()))
    return g.classes()


KINDS: tuple[Callable[[int], RandomModel], ...] = (
    dense, convolutions, pooled, recurrent, residual, line, convolutions, recurrent_map, pooled, residual, dense, recurrent,
)


def random_model(seed: int) -> RandomModel:
    """The model of a seed; its kind is that of the seed modulo the number of kinds."""
    return KINDS[seed % len(KINDS)](seed)

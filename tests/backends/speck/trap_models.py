"""Small models of what other tools let pass, write wrongly or refuse, for test_traps.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from d2e import nn as snn


def neuron(**options: Any) -> snn.IF:
    return snn.IF(**{"max_spikes": 0, "v_min": -1.0, **options})


def conv(*args: Any, **options: Any) -> nn.Conv2d:
    """A convolution without bias unless stated, its weights drawn with a fixed seed and never above the threshold."""
    layer = nn.Conv2d(*args, **{"bias": False, **options})
    return filled(layer)


def dense(inputs: int, outputs: int) -> nn.Linear:
    return filled(nn.Linear(inputs, outputs, bias=False))


def filled(layer: Any) -> Any:
    generator = torch.Generator().manual_seed(layer.weight.numel())
    with torch.no_grad():
        layer.weight.uniform_(-0.3, 0.5, generator=generator)
    return layer


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


class Branches(nn.Module):
    """One layer whose spikes go to ``count`` layers; their maps meet in one population."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first = snn.Sequential(conv(1, 2, 3), neuron())
        self.branches = nn.ModuleList(snn.Sequential(conv(2, 2, 3), neuron()) for _ in range(count))
        self.last = snn.Sequential(conv(2, 2, 1), neuron())

    def forward(self, frames: Tensor) -> Tensor:
        first = self.first(frames)
        total = self.branches[0](first)
        for branch in list(self.branches)[1:]:
            total = total + branch(first)
        joined: Tensor = self.last(total)
        return joined


class TwoPools(nn.Module):
    """Two branches averaged over windows of different sizes that meet at one population."""

    def __init__(self) -> None:
        super().__init__()
        self.first = snn.Sequential(conv(1, 2, 3, padding=1), neuron())
        self.fine = snn.Sequential(conv(2, 2, 3, padding=1, stride=2), neuron())
        self.pools = nn.ModuleList([snn.TimeFolded(nn.AvgPool2d(4)), snn.TimeFolded(nn.AvgPool2d(2))])
        self.maps = nn.ModuleList([snn.TimeFolded(conv(2, 3, 1)), snn.TimeFolded(conv(2, 3, 1))])
        self.joined = neuron()

    def forward(self, frames: Tensor) -> Tensor:
        first = self.first(frames)
        joined: Tensor = self.joined(
            self.maps[0](self.pools[0](first)) + self.maps[1](self.pools[1](self.fine(first))))
        return joined


class Recurrence(nn.Sequential):
    """A population that hears itself."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), dense(16, 4), snn.Recurrent(snn.IF(), dense(4, 4)))


@dataclass(frozen=True)
class Trap:
    """A model the chip cannot hold.

    Attributes:
        code, says: of the error; ``says`` is a pattern for its sentence, with the limit.
        node: that the error must name; None: it is about the whole network.
        options: of `d2e.compile`.
    """

    model: Callable[[], nn.Module]
    input_shape: Sequence[int]
    code: str
    says: str
    node: str | None
    options: dict[str, Any] = field(default_factory=dict)


def deep() -> nn.Module:
    return chain(*(layer for _ in range(10) for layer in (conv(1, 1, 1), neuron())))


TRAPS: dict[str, Trap] = {
    "kernel above 16": Trap(
        lambda: chain(conv(1, 2, 17), neuron()), (1, 20, 20), "D2E-SPECK-010", "kernel of 17 x 17.*limit is 16", "0"),
    "dense layer on a map above 16": Trap(
        lambda: chain(conv(1, 2, 3), neuron(), nn.Flatten(), dense(2 * 18 * 18, 4), neuron()), (1, 20, 20),
        "D2E-SPECK-010", "kernel of 18 x 18.*limit is 16", "3"),
    "stride 3": Trap(
        lambda: chain(conv(1, 2, 3, stride=3), neuron()), (1, 12, 12), "D2E-SPECK-011", "stride 3.*1, 2, 4, 8", "0"),
    "padding above 7": Trap(
        lambda: chain(conv(1, 2, 9, padding=8), neuron()), (1, 12, 12), "D2E-SPECK-012", "padding 8.*limit is 7", "0"),
    "pooling by 3": Trap(
        lambda: chain(conv(1, 2, 3), neuron(), snn.SumPool2d(3), conv(2, 2, 1), neuron()), (1, 14, 14),
        "D2E-SPECK-011", "stride 3.*1, 2, 4, 8", "3"),
    "output map above 64": Trap(
        lambda: chain(conv(1, 2, 3), neuron()), (1, 70, 70), "D2E-SPECK-014", "68 x 68.*limit is 64 x 64", "1"),
    "input map above 128": Trap(
        lambda: chain(conv(1, 1, 4, stride=4), neuron()), (1, 132, 132), "D2E-SPECK-014", "132 x 132.*128 x 128", "1"),
    "features above 1024": Trap(
        lambda: chain(conv(1, 1025, 1), neuron()), (1, 2, 2), "D2E-SPECK-015", "1025.*limit is 1024", "1"),
    "no neurons at the end": Trap(
        lambda: chain(conv(1, 2, 3), neuron(), conv(2, 2, 3)), (1, 8, 8), "D2E-SPECK-002", "without neurons", "2"),
    "pooling at the end": Trap(
        lambda: chain(conv(1, 2, 3), neuron(), snn.SumPool2d(2)), (1, 8, 8), "D2E-SPECK-002", "without neurons", "2"),
    "leaky neurons": Trap(
        lambda: chain(conv(1, 2, 3), snn.LIF(0.9)), (1, 8, 8), "D2E-SPECK-004", "0.9.*without decay", "1"),
    "synaptic current": Trap(
        lambda: chain(conv(1, 2, 3), snn.CubaLIF(0.5, 1.0)), (1, 8, 8), "D2E-SPECK-004", "current.*without decay", "1"),
    "membrane readout": Trap(
        lambda: chain(nn.Flatten(), dense(16, 2), snn.LI(1.0)), (1, 4, 4), "D2E-SPECK-003", "membrane", "2"),
    "no reset": Trap(
        lambda: chain(conv(1, 2, 3), snn.IF(reset="none")), (1, 8, 8), "D2E-SPECK-005", "never resets", "1"),
    "another amount per spike than the threshold": Trap(
        lambda: chain(conv(1, 2, 3), snn.IF(reset_by=0.5)), (1, 8, 8), "D2E-SPECK-005", "take the threshold", "1"),
    "refractory period": Trap(
        lambda: chain(conv(1, 2, 3), snn.IF(refractory=2)), (1, 8, 8), "D2E-SPECK-006", "refractory", "1"),
    "recurrence": Trap(Recurrence, (1, 4, 4), "D2E-SPECK-008", "no steps", "2.layer"),
    "signed input": Trap(
        lambda: chain(conv(1, 2, 3), neuron()), (1, 8, 8), "D2E-SPECK-001", "no sign", "input", {"coding": "signed"}),
    "bias that varies within a feature": Trap(
        lambda: chain(conv(1, 2, 3), neuron(bias=torch.linspace(0, 1, 72).reshape(2, 6, 6))), (1, 8, 8),
        "D2E-SPECK-017", "bias varies within a feature", "1"),
    "camera of 3 features": Trap(
        lambda: chain(conv(3, 2, 3), neuron()), (3, 8, 8), "D2E-SPECK-030", "1 or 2 features", "input",
        {"target": "speck2f-sim{input=camera}"}),
    "readout of 16 classes": Trap(
        lambda: chain(nn.Flatten(), dense(16, 16), neuron()), (1, 4, 4), "D2E-SPECK-031", "16 classes.*has 15", "output",
        {"target": "speck2f-sim{readout=pins}"}),
    "fan-out of 3": Trap(
        lambda: Branches(3), (1, 12, 12), "D2E-SPECK-053", "3 destinations, and can have 2", "first.1"),
    "ten layers": Trap(
        lambda: chain(*(layer for _ in range(10) for layer in (conv(1, 1, 1), neuron()))), (1, 4, 4), "D2E-SPECK-052",
        "10 cores, there are 9", None),
    "kernels above every core": Trap(
        lambda: chain(conv(1, 512, 1), neuron(), conv(512, 512, 3, padding=1), neuron()), (1, 4, 4), "D2E-SPECK-050",
        "4096Ki kernel words, the largest core has 64Ki", "3"),
    "neurons above every core": Trap(
        lambda: chain(conv(1, 128, 3, padding=1), neuron()), (1, 64, 64), "D2E-SPECK-050",
        "512Ki neuron words, the largest core has 64Ki", "1"),
}

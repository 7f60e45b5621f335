"""snnTorch on the benchmark's networks: `Leaky` with beta 1 and subtraction (fires at ``v > 1``).

snnTorch subtracts the threshold at the start of the next step; with beta 1 the spikes are those of a soft
reset in the same step. `surrogate_disable` spares the autograd function of the surrogate gradient.
"""

from __future__ import annotations

from typing import Any

import snntorch  # type: ignore[import-not-found,unused-ignore]
import torch
from common import Engine, main
from torch import nn


def leaky() -> nn.Module:
    neuron: nn.Module = snntorch.Leaky(beta=1.0, reset_mechanism="subtract", surrogate_disable=True)
    return neuron


def at_rest(neuron: Any) -> torch.Tensor:
    """The membrane potential before the first step."""
    membrane: torch.Tensor = neuron.reset_mem()
    return membrane


def layers(network: str) -> list[nn.Module]:
    if network == "mlp":
        return [nn.Linear(784, 256, bias=False), nn.Linear(256, 10, bias=False)]
    return [
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.Sequential(nn.Flatten(), nn.Linear(6272, 10, bias=False)),
    ]


class TimeLoop(nn.Module):
    """The loop of snnTorch's tutorials: every step through all layers."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.synapses = nn.ModuleList(layers(network))
        self.neurons = nn.ModuleList(leaky() for _ in self.synapses)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output spikes [T, B, 10]."""
        membranes = [at_rest(neuron) for neuron in self.neurons]
        outputs = []
        for s in x:
            for i, (synapse, neuron) in enumerate(zip(self.synapses, self.neurons, strict=True)):
                s, membranes[i] = neuron(synapse(s), membranes[i])
            outputs.append(s)
        return torch.stack(outputs)


class LayerByLayer(TimeLoop):
    """Every layer through all steps: time folded into the batch for the synapses, a loop over the neurons."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output spikes [T, B, 10]."""
        for synapse, neuron in zip(self.synapses, self.neurons, strict=True):
            current = synapse(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            membrane = at_rest(neuron)
            outputs = []
            for i in current:
                s, membrane = neuron(i, membrane)
                outputs.append(s)
            x = torch.stack(outputs)
        return x


def engines(network: str) -> list[Engine]:
    built = {"time loop": TimeLoop(network), "layer by layer": LayerByLayer(network)}
    return [Engine(variant, net, net, list(net.neurons)) for variant, net in built.items()]


if __name__ == "__main__":
    main("snntorch", engines)

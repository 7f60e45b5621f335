"""SpikingJelly on the benchmark's networks: soft-reset `IFNode` (fires at ``v >= 1``) in multi-step mode."""

from __future__ import annotations

from typing import Any

import torch
from common import Engine, main
from spikingjelly.activation_based import functional, layer, neuron  # type: ignore[import-not-found,unused-ignore]
from torch import nn


def network_of(network: str) -> nn.Sequential:
    if network == "mlp":
        return nn.Sequential(
            layer.Linear(784, 256, bias=False),
            neuron.IFNode(v_threshold=1.0, v_reset=None),
            layer.Linear(256, 10, bias=False),
            neuron.IFNode(v_threshold=1.0, v_reset=None),
        )
    return nn.Sequential(
        layer.Conv2d(1, 16, 3, padding=1, bias=False),
        neuron.IFNode(v_threshold=1.0, v_reset=None),
        layer.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        neuron.IFNode(v_threshold=1.0, v_reset=None),
        layer.Flatten(),
        layer.Linear(6272, 10, bias=False),
        neuron.IFNode(v_threshold=1.0, v_reset=None),
    )


def engines(network: str) -> list[Engine]:
    net = network_of(network)
    functional.set_step_mode(net, "m")

    def run(x: torch.Tensor) -> Any:
        functional.reset_net(net)
        return net(x)

    return [Engine("multi-step", net, run, [m for m in net if isinstance(m, neuron.IFNode)])]


if __name__ == "__main__":
    main("spikingjelly", engines)

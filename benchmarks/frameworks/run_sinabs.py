"""sinabs on the benchmark's networks: `IAFSqueeze` with single spikes and subtraction (fires at ``v >= 1``).

Only ``sinabs`` and ``sinabs.layers`` are imported: ``sinabs.backend`` needs samna, on PyPI an installer.
"""

from __future__ import annotations

from typing import Any

import sinabs  # type: ignore[import-not-found,unused-ignore]
import sinabs.layers  # type: ignore[import-not-found,unused-ignore]
import torch
from common import STEPS, Engine, main
from sinabs.activation import SingleSpike  # type: ignore[import-not-found,unused-ignore]
from torch import nn


def engines(network: str) -> list[Engine]:
    def iaf() -> nn.Module:
        neuron: nn.Module = sinabs.layers.IAFSqueeze(num_timesteps=STEPS[network], spike_fn=SingleSpike)
        return neuron

    if network == "mlp":
        net = nn.Sequential(nn.Linear(784, 256, bias=False), iaf(), nn.Linear(256, 10, bias=False), iaf())
    else:
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            iaf(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            iaf(),
            nn.Flatten(),
            nn.Linear(6272, 10, bias=False),
            iaf(),
        )

    def run(x: torch.Tensor) -> Any:
        sinabs.reset_states(net)
        return net(x.flatten(0, 1))

    neurons = [m for m in net if isinstance(m, sinabs.layers.IAFSqueeze)]
    return [Engine("squeezed", net, run, neurons, layout="BT")]


if __name__ == "__main__":
    main("sinabs", engines)

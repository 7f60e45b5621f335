"""Norse on the benchmark's networks; it fires at ``v > 1``.

Soft reset exists only for its leaky neurons, which compute ``v += a * (I - v)``, a = dt / tau. With weights
times 2**40 and a = 2**-40 the leak is below float32's resolution: an IF neuron, at the cost of a leaky one.
`IAF`, without a leak, has hard reset only; it is the cheaper neuron, but makes another network.
"""

from __future__ import annotations

from collections.abc import Callable

import norse.torch as snn  # type: ignore[import-not-found,unused-ignore]
import torch
from common import STEPS, Engine, main
from norse.torch.functional.lif_box import (  # type: ignore[import-not-found,unused-ignore]
    LIFBoxFeedForwardState,
    lif_box_feed_forward_step,
)
from norse.torch.module.snn import SNN  # type: ignore[import-not-found,unused-ignore]
from torch import nn

LEAK = 2.0**-40
Lift = Callable[[nn.Module], nn.Module]


def soft_reset() -> nn.Module:
    p = snn.LIFBoxParameters(
        tau_mem_inv=torch.tensor(1.0), method="heaviside", reset_method=snn.reset_subtract
    )
    at_rest = LIFBoxFeedForwardState(v=torch.zeros(()))
    neuron: nn.Module = SNN(lif_box_feed_forward_step, lambda _: at_rest, p, dt=LEAK)
    return neuron


def hard_reset() -> nn.Module:
    neuron: nn.Module = snn.IAF(snn.IAFParameters(method="heaviside"))
    return neuron


def folded(module: nn.Module, network: str) -> nn.Module:
    """A module applied once, with time folded into the batch."""
    return nn.Sequential(nn.Flatten(0, 1), module, nn.Unflatten(0, (STEPS[network], -1)))


def network_of(network: str, neuron: Callable[[], nn.Module], lift: Lift) -> nn.Module:
    if network == "mlp":
        net: nn.Module = snn.SequentialState(
            nn.Linear(784, 256, bias=False), neuron(), nn.Linear(256, 10, bias=False), neuron()
        )
        return net
    net = snn.SequentialState(
        lift(nn.Conv2d(1, 16, 3, padding=1, bias=False)),
        neuron(),
        lift(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)),
        neuron(),
        nn.Flatten(2),
        nn.Linear(6272, 10, bias=False),
        neuron(),
    )
    return net


def engines(network: str) -> list[Engine]:
    lifts: dict[str, Lift] = {"folded": lambda module: folded(module, network)}
    if network == "cnn":
        lifts = {"Lift": snn.Lift, **lifts}
    built = []
    kinds = (("LIFBox soft reset", soft_reset, 1 / LEAK), ("IAF hard reset", hard_reset, 1.0))
    for name, neuron, gain in kinds:
        for how, lift in lifts.items():
            net = network_of(network, neuron, lift)
            neurons = [m for m in net.children() if isinstance(m, SNN)]
            built.append(Engine(f"{name}, {how}", net, net, neurons, input_gain=gain))
    return built


if __name__ == "__main__":
    main("norse", engines)

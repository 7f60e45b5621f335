"""A framework's model beside the network read from it, for the tests of frameworks whose layers take all steps at once."""

from __future__ import annotations

import numpy as np
from torch import nn

from d2e.compiler.frontends.against import Comparison, compare
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import LI, Network


def frames_of(network: Network, seed: int, samples: int = 3, *, steps: int) -> np.ndarray:
    """Random spikes [samples, steps, *shape], of the network's own number of steps where it has one."""
    own = network.input.time_steps or steps
    return np.random.default_rng(seed).binomial(1, 0.35, (samples, own, *network.input.shape)).astype(np.int64)


def agrees(model: nn.Module, shape: tuple[int, ...], layout: str, seed: int = 0, *, steps: int) -> Comparison:
    """Every population fires, and its spikes are the framework's."""
    network = from_torch(model, shape)
    assert network.metadata["layout"] == layout
    found = compare(model, network, frames_of(network, seed, steps=steps))
    assert found.agreement >= 0.9999, found.first
    assert set(found.populations) == set(network.populations)
    for name, (theirs, ours) in found.spikes.items():
        if not isinstance(network.neuron(name), LI):
            assert min(theirs, ours) > 20, f"{name} is silent"
    return found

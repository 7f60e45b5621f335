"""snnTorch's neurons beside ours: every option, every neuron, every step."""

from __future__ import annotations

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import surrogate
from torch import nn

from d2e.compiler.frontends import against
from d2e.compiler.frontends.torch_fx import from_torch

STEPS = 40


class Loop(nn.Module):
    """A neuron between two layers, called step by step with its states inside."""

    def __init__(self, lif, inputs=8, hidden=16):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(inputs, hidden), lif
        self.fc2, self.lif2 = nn.Linear(hidden, 5), snntorch.Leaky(beta=0.8, threshold=0.5)

    def forward(self, x):
        states = _states(self.lif1.reset_mem(), x, self.fc1.out_features)
        mem2 = self.lif2.reset_mem()
        sent = []
        for step in range(x.size(0)):
            spk, *states = self.lif1(self.fc1(x[step]), *states)
            if len(states) < self.wanted:
                states = [spk, *states]
            spk2, mem2 = self.lif2(self.fc2(spk), mem2)
            sent.append(spk2)
        return torch.stack(sent)

    @property
    def wanted(self):
        return {"RLeaky": 2, "RSynaptic": 3}.get(type(self.lif1).__name__, 0)


def _states(given, x, hidden):
    count = len(given) if isinstance(given, tuple) else 1
    return [torch.zeros(x.size(1), hidden) for _ in range(count)]


def strong(model, factor=3.0):
    """More weight, so that neurons fire often."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.weight *= factor
    return model


def frames_of(shape, seed=0, steps=STEPS, batch=4):
    return (np.random.default_rng(seed).random((batch, steps, *shape)) < 0.5).astype(float)


def assert_same(model, shape, frames, layout, least=20):
    network = from_torch(model, shape)
    found = against.compare(model, network, frames)
    assert network.metadata["layout"] == layout
    assert found.agreement >= against.ENOUGH, found.first
    for name, (theirs, ours) in found.spikes.items():
        assert theirs > least, name
        assert abs(theirs - ours) <= 1 + theirs * 1e-3
    return network


PER_NEURON = torch.linspace(0.3, 0.95, 16)
NEURONS = {
    "leaky": lambda **o: snntorch.Leaky(beta=0.9, **o),
    "synaptic": lambda **o: snntorch.Synaptic(alpha=0.7, beta=0.8, **o),
    "lapicque": lambda **o: snntorch.Lapicque(beta=0.9, threshold=0.3, **o),
    "rleaky": lambda **o: snntorch.RLeaky(beta=0.9, linear_features=16, **o),
    "rsynaptic": lambda **o: snntorch.RSynaptic(alpha=0.5, beta=0.8, linear_features=16, **o),
}


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", NEURONS)
def test_every_reset_of_every_neuron(kind, reset):
    """Delayed, as snnTorch has it by default."""
    torch.manual_seed(len(kind))
    model = strong(Loop(NEURONS[kind](reset_mechanism=reset)))
    assert_same(model, (8,), frames_of((8,)), "time-batch")


@pytest.mark.parametrize("reset", ["zero", "none"])
@pytest.mark.parametrize("kind", ["leaky", "synaptic", "rleaky"])
def test_a_reset_in_the_same_step(kind, reset):
    torch.manual_seed(len(kind))
    model = strong(Loop(NEURONS[kind](reset_mechanism=reset, reset_delay=False)))
    assert_same(model, (8,), frames_of((8,)), "time-batch")


OPTIONS = {
    "beta per neuron": lambda: snntorch.Leaky(beta=PER_NEURON),
    "learnable": lambda: snntorch.Leaky(beta=torch.tensor(0.7), learn_beta=True, threshold=0.8, learn_threshold=True),
    "beta above 1": lambda: snntorch.Leaky(beta=1.3),
    "beta below 0": lambda: snntorch.Leaky(beta=-0.2),
    "threshold per neuron": lambda: snntorch.Leaky(beta=0.9, threshold=PER_NEURON + 0.2),
    "graded": lambda: snntorch.Leaky(beta=0.9, graded_spikes_factor=0.6, learn_graded_spikes_factor=True),
    "graded per neuron": lambda: snntorch.Leaky(beta=0.9, graded_spikes_factor=PER_NEURON),
    "surrogate": lambda: snntorch.Leaky(beta=0.9, spike_grad=surrogate.fast_sigmoid(slope=25)),
    "no surrogate": lambda: snntorch.Leaky(beta=0.9, surrogate_disable=True),
    "alpha per neuron": lambda: snntorch.Synaptic(alpha=PER_NEURON, beta=PER_NEURON.flip(0), learn_alpha=True),
    "alpha 0": lambda: snntorch.Synaptic(alpha=0.0, beta=0.9),
    "R and C": lambda: snntorch.Lapicque(R=5.1, C=0.8, time_step=0.5),
    "beta and R": lambda: snntorch.Lapicque(beta=0.8, R=2.0, time_step=0.1),
    "one to one": lambda: snntorch.RLeaky(beta=0.9, all_to_all=False, V=-0.4),
    "one to one per neuron": lambda: snntorch.RLeaky(beta=0.9, all_to_all=False, V=PER_NEURON - 0.6),
    "fixed recurrence": lambda: snntorch.RSynaptic(alpha=0.6, beta=0.9, linear_features=16, learn_recurrent=False),
    "ignored option": lambda: snntorch.RSynaptic(
        alpha=0.6, beta=0.9, linear_features=16, reset_delay=False),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options(option):
    torch.manual_seed(1)
    model = strong(Loop(OPTIONS[option]()), 6.0 if "beta" in option or "C" in option else 3.0)
    assert_same(model, (8,), frames_of((8,), steps=100), "time-batch")


@settings(max_examples=30, deadline=None)
@given(
    beta=st.floats(0, 1), alpha=st.floats(0, 1), threshold=st.floats(0.1, 2), seed=st.integers(0, 1000),
    reset=st.sampled_from(["subtract", "zero", "none"]), synaptic=st.booleans(),
)
def test_random_neurons(beta, alpha, threshold, seed, reset, synaptic):
    """Any decay and threshold."""
    torch.manual_seed(seed)
    own = {"beta": beta, "threshold": threshold, "reset_mechanism": reset}
    model = strong(Loop(snntorch.Synaptic(alpha=alpha, **own) if synaptic else snntorch.Leaky(**own)))
    found = against.compare(model, from_torch(model, (8,)), frames_of((8,), seed))
    assert found.agreement >= against.ENOUGH, found.first

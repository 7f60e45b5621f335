"""snnTorch's neurons beside ours: every option, every neuron, every step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import surrogate
from torch import nn

import d2e
from d2e.compiler.frontends import against
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import UnsupportedError, UsageError

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
    "beta with a batch axis": lambda: snntorch.Leaky(beta=PER_NEURON[None], threshold=PER_NEURON[None] + 0.2),
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


def test_a_reset_by_the_threshold_in_the_same_step():
    """Equal while no membrane passes twice the threshold; else snnTorch fires less, which a warning says beforehand."""
    torch.manual_seed(0)
    model = Loop(snntorch.Leaky(beta=0.9, reset_delay=False, threshold=1.5))
    network = assert_same(strong(model, 1.5), (8,), frames_of((8,)), "time-batch", least=2)
    warnings = network.metadata["warnings"]
    assert [(w["code"], w["node"]) for w in warnings] == [("D2E-LAYER-011", "lif1")]
    found = against.compare(strong(model, 10), from_torch(model, (8,)), frames_of((8,)))
    theirs, ours = found.spikes["lif1"]
    assert theirs < ours
    assert found.first.population == "lif1"


class Conv(nn.Module):
    """A static image through a convolution, functional pooling and a view, as tutorial 6 has it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(2, 6, 3), snntorch.Leaky(beta=0.8, spike_grad=surrogate.fast_sigmoid())
        self.bn = nn.BatchNorm2d(6)
        self.conv2, self.lif2 = nn.Conv2d(6, 8, 3, bias=False), snntorch.Synaptic(alpha=0.5, beta=0.8)
        self.fc, self.lif3 = nn.Linear(8 * 4, 5), snntorch.Leaky(beta=0.9, threshold=0.4)

    def forward(self, x):
        mem1, (syn2, mem2), mem3 = self.lif1.init_leaky(), self.lif2.init_synaptic(), self.lif3.init_leaky()
        spikes, membranes = [], []
        for _ in range(25):
            spk1, mem1 = self.lif1(self.bn(self.conv1(x)), mem1)
            spk2, syn2, mem2 = self.lif2(nn.functional.avg_pool2d(self.conv2(spk1), 2), syn2, mem2)
            spk3, mem3 = self.lif3(self.fc(spk2.view(x.size(0), -1)), mem3)
            spikes.append(spk3)
            membranes.append(mem3)
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


def test_a_convolutional_network():
    """Of a static image, with batch normalisation."""
    torch.manual_seed(0)
    model = strong(Conv(), 2.0)
    frames = np.repeat(frames_of((2, 8, 8), steps=1), 25, axis=1)
    network = assert_same(model, (2, 8, 8), frames, "image")
    assert network.input.time_steps == 25
    assert set(network.populations) == {"lif1", "lif2", "lif3"}


def test_a_recurrent_convolution():
    torch.manual_seed(0)
    model = strong(nn.Sequential(
        nn.Conv2d(2, 6, 3), snntorch.RLeaky(beta=0.8, conv2d_channels=6, kernel_size=3, init_hidden=True), nn.Flatten(),
        nn.Linear(96, 4), snntorch.RSynaptic(alpha=0.5, beta=0.8, linear_features=4, init_hidden=True, threshold=0.5)))
    assert_same(model, (2, 6, 6), frames_of((2, 6, 6)), "step")


def trained(make, seed=0, steps=10):
    """A model after a few steps of training on noise."""
    torch.manual_seed(seed)
    model = strong(make(), 4.0)
    data = torch.rand(20, 16, 8).round()
    labels = torch.randint(5, (16,))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data).sum(0), labels)
        loss.backward()
        optimizer.step()
    return model


TRAINED = {
    "leaky": lambda: Loop(snntorch.Leaky(beta=PER_NEURON.clone(), learn_beta=True, learn_threshold=True)),
    "synaptic": lambda: Loop(snntorch.Synaptic(alpha=0.5, beta=0.9, learn_alpha=True, learn_beta=True)),
    "recurrent": lambda: Loop(snntorch.RLeaky(beta=0.8, linear_features=16)),
    "recurrent synaptic": lambda: Loop(snntorch.RSynaptic(alpha=0.4, beta=0.8, linear_features=16)),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_trained_models(kind):
    """Weights, decays and thresholds that training moved; the model's own training goes on undisturbed."""
    model = trained(TRAINED[kind])
    assert model.training
    assert_same(model, (8,), frames_of((8,), seed=1), "time-batch")
    assert model.training


def reset_later():
    lif = snntorch.Leaky(beta=0.9)
    lif.reset_mechanism = "zero"
    return lif


REFUSED = {
    "inhibition": (lambda: snntorch.Leaky(beta=0.9, inhibition=True), "D2E-LAYER-005", "inhibition"),
    "state_quant": (lambda: snntorch.Leaky(beta=0.9, state_quant=torch.round), "D2E-LAYER-005", "state_quant"),
    "forward of the surrogate": (
        lambda: snntorch.Leaky(beta=0.9, spike_grad=torch.sigmoid), "D2E-LAYER-005", "spike_grad sends"),
    "reset changed later": (lambda: reset_later(), "D2E-LAYER-005", "another reset_mechanism than 'zero'"),
    "alpha": (lambda: snntorch.Alpha(alpha=0.9, beta=0.8), "D2E-LAYER-008", "two synaptic currents"),
    "lstm": (lambda: snntorch.SLSTM(16, 16), "D2E-LAYER-008", "gates"),
    "negative decay": (lambda: snntorch.Lapicque(beta=0.2), "D2E-LAYER-005", "1 - time_step / RC"),
    "no leak in an RC circuit": (lambda: snntorch.Lapicque(beta=1.0), "D2E-LAYER-005", "of the input"),
    "no threshold": (lambda: snntorch.Leaky(beta=0.9, threshold=0.0), "D2E-LAYER-005", "threshold"),
    "even kernel": (
        lambda: snntorch.RLeaky(beta=0.9, conv2d_channels=2, kernel_size=2), "D2E-LAYER-005", "recurrent layer"),
}


@pytest.mark.filterwarnings("ignore:Inhibition")
@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_form_is_refused(what):
    """With a sentence, the place and the way out."""
    make, code, words = REFUSED[what]
    lif = make()
    lif.init_hidden = True
    before = nn.Conv2d(2, 2, 3) if what == "even kernel" else nn.Linear(8, 16)
    with pytest.raises(UnsupportedError) as caught:
        from_torch(nn.Sequential(before, lif), (2, 8, 8) if what == "even kernel" else (8,))
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.findings[0].node in ("1", "1.recurrent")
    assert caught.value.findings[0].hint


def hidden(beta, bias=True):
    torch.manual_seed(0)
    return strong(nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=bias), snntorch.Leaky(beta=beta, init_hidden=True), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(72, 5, bias=bias), snntorch.Leaky(beta=beta, init_hidden=True, output=True)))


def test_the_default_neuron_compiles_for_loihi():
    """Scalar beta, subtraction one step later: the chip's own neuron, with the drift of every pass in the report."""
    frames = frames_of((2, 8, 8), steps=20).astype(int)
    program = d2e.compile(
        hidden(0.9), "loihi2-sim", input_shape=(2, 8, 8), time_steps=20, calibration=frames, eval=(frames, np.arange(4)))
    passes = [row["pass"] for row in program.report["accuracy"]["passes"]]
    assert (passes[0], passes[-1]) == ("source", "place")
    assert {p: f["form"] for p, f in program.network.metadata["forms"].items()} == {"1": "stock", "5": "stock"}
    drifts = {row["name"]: row["drift"] for row in program.report["layers"] if "drift" in row}
    assert set(drifts) == {"1", "5"}
    assert all(abs(drift) < 0.1 for drift in drifts.values())
    found = program.run(frames)
    expected = against.spikes_of_source(hidden(0.9), from_torch(hidden(0.9), (2, 8, 8)), frames)
    assert found.counts["1"].sum() == pytest.approx(expected["1"].sum(), rel=0.05)


def test_speck_takes_what_does_not_leak():
    """Its neurons have no decay: beta=1 compiles, 0.9 is refused by name."""
    frames = frames_of((2, 8, 8), steps=20).astype(int)
    program = d2e.compile(
        hidden(1.0, bias=False), "speck2f-sim", input_shape=(2, 8, 8), time_steps=20, calibration=frames)
    assert program.run(frames).counts["1"].sum() > 100
    with pytest.raises(UnsupportedError, match=r"D2E-SPECK-004: leaks \(it keeps 0.9 of its state per step\)"):
        d2e.compile(hidden(0.9, bias=False), "speck2f-sim", input_shape=(2, 8, 8), time_steps=20, calibration=frames)


def test_files(tmp_path):
    """A pickle of a snnTorch model is refused by the class it holds; the way out is a factory."""
    path = tmp_path / "model.pt"
    torch.save(nn.Sequential(nn.Linear(8, 4), snntorch.Leaky(beta=0.9, surrogate_disable=True, init_hidden=True)), path)
    with pytest.raises(UsageError, match=r"D2E-LOAD-006.*snntorch\._neurons\.leaky\.Leaky.*pkg\.module:factory"):
        load_model(path, input_shape=(8,))
    assert load_model(path, input_shape=(8,), allow_pickle=True).populations == ("1",)


def test_snntorch_is_never_imported():
    """The rows go by name."""
    code = "import sys, d2e.compiler.frontends.files, d2e.compiler.frontends.loops; sys.exit('snntorch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", NEURONS)
def test_every_neuron_compiles_for_loihi(kind, reset):
    """The lost step of "zero" and the recurrent layers included; spikes stay within 5 % of the source's."""
    torch.manual_seed(0)
    model, frames = strong(Loop(NEURONS[kind](reset_mechanism=reset))), frames_of((8,)).astype(int)
    program = d2e.compile(model, input_shape=(8,), time_steps=STEPS, calibration=frames, eval=(frames, np.arange(4)))
    drifts = {row["name"]: row["drift"] for row in program.report["layers"] if "drift" in row}
    assert set(drifts) == {"lif1", "lif2"}
    assert all(abs(drift) < 0.05 for drift in drifts.values())

"""Models that loop over time: as snnTorch's tutorials write them, and what cannot be folded."""

from __future__ import annotations

import numpy as np
import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import spikegen, utils
from spikingjelly.activation_based import layer, neuron
from torch import nn
from torch.nn import functional

from d2e.compiler.frontends import against
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import LI, UnsupportedError, reference


class Base(nn.Module):
    """Two layers of neurons; the loops of the subclasses call `step`."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(3)
        self.fc1, self.lif1 = nn.Linear(6, 20), snn.Leaky(beta=0.9, **options)
        self.fc2, self.lif2 = nn.Linear(20, 4), snn.Leaky(beta=0.8, **options)
        with torch.no_grad():
            self.fc1.weight *= 4
            self.fc2.weight *= 4

    def step(self, x, mem1, mem2):
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return spk2, mem1, mem2


class TimeFirst(Base):
    """Tutorial 5, over x[step]."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class MembraneFirst(TimeFirst):
    """The spikes are the output wherever they stand."""

    def forward(self, x):
        return tuple(reversed(super().forward(x)))


class BatchFirst(Base):
    """[batch, time, features], summed."""

    def forward(self, x):
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        total = 0
        for step in range(x.shape[1]):
            spk2, mem1, mem2 = self.step(x[:, step], mem1, mem2)
            total = total + spk2
        return total


class Iterated(Base):
    """Over the tensor itself, after a permutation, written into one tensor."""

    def forward(self, x):
        mem1, mem2 = None, None
        x = x.permute(1, 0, 2)
        out = torch.zeros(len(x), x.size(1), 4)
        for step, frame in enumerate(x):
            spk2, mem1, mem2 = self.step(frame.float(), mem1, mem2)
            out[step] = spk2
        return out.mean(0)


class Static(Base):
    """Tutorial 5 for images: the same x in every step, with a fixed number of steps."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for _ in range(30):
            spk2, mem1, mem2 = self.step(x.flatten(1), mem1, mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Hoisted(Base):
    """The first layer before the loop."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        current, rec = self.fc1(x), []
        for _ in range(30):
            spk1, mem1 = self.lif1(current, mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec += [spk2]
        return torch.stack(rec).sum(dim=0)


class Counted(Base):
    """A fixed number of steps over a sequence, longer than the first example."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for step in range(50):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Last(Base):
    """Only the last step's spikes."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
        return spk2


class Lists(Base):
    """Lists in a dictionary."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = {"mem": [], "spk": []}
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            rec["mem"].append(mem2)
            rec["spk"].append(spk2)
        return rec


class OneStep(Base):
    """One step per call; the states stay inside the neurons."""

    def __init__(self):
        super().__init__(init_hidden=True)

    def forward(self, x):
        return self.lif2(self.fc2(self.lif1(self.fc1(x))))


class Named(Base):
    """Everything by name, in another order."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(mem=mem1, input_=self.fc1(input=x[step]))
            spk2, mem2 = self.lif2(mem=mem2, input_=torch.add(self.fc2(spk1), other=0.5 * self.fc2(spk1)))
            rec.append(spk2)
        return torch.stack(tensors=rec, dim=1)


class HiddenLoop(OneStep):
    """utils.reset and states inside."""

    def forward(self, x):
        utils.reset(self)
        return torch.stack([super(HiddenLoop, self).forward(x[step]) for step in range(x.size(0))])


def sequential():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(6, 20), snn.Leaky(beta=0.9, init_hidden=True), nn.Dropout(0.5), nn.Linear(20, 4, bias=False),
        snn.Leaky(beta=0.8, threshold=0.5, init_hidden=True, output=True))
    with torch.no_grad():
        net[0].weight *= 4
        net[3].weight *= 10
    return net


class AroundSequential(nn.Module):
    """Tutorial 6: a Sequential called in a loop."""

    def __init__(self):
        super().__init__()
        self.net = sequential()

    def forward(self, data):
        utils.reset(self.net)
        rec = []
        for step in range(data.size(0)):
            spk, _mem = self.net(data[step])
            rec.append(spk)
        return torch.stack(rec)


class FedBack(Base):
    """A recurrence written by hand, with a bias."""

    def __init__(self):
        super().__init__()
        self.back = nn.Linear(20, 20)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk1 = torch.zeros(x.size(1), 20)
        rec = []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]) + self.back(spk1), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class FedBackPlain(FedBack):
    """Spikes come back without a layer, from the layer above, and with a layer that reads both steps."""

    def __init__(self):
        super().__init__()
        self.down = nn.Linear(4, 20, bias=False)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk1, spk2 = torch.zeros(x.size(1), 20), torch.zeros(x.size(1), 4)
        rec = []
        for step in range(x.size(0)):
            before = spk1
            spk1, mem1 = self.lif1(self.fc1(x[step]) + self.down(spk2) - 0.5 * spk1, mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1 + before), mem2)
            rec.append(spk2)
        return torch.stack(rec)


MODELS = {
    "time first": (TimeFirst, "time-batch", None, "count"), "membrane first": (MembraneFirst, "time-batch", None, "count"),
    "batch first": (BatchFirst, "batch-time", None, "count"), "iterated": (Iterated, "batch-time", None, "mean"),
    "static": (Static, "image", 30, "count"), "hoisted": (Hoisted, "image", 30, "count"),
    "counted": (Counted, "time-batch", 50, "count"), "last": (Last, "time-batch", None, "last"),
    "named": (Named, "time-batch", None, "count"), "lists": (Lists, "time-batch", None, "count"),
    "one step": (OneStep, "step", None, "count"), "hidden": (HiddenLoop, "time-batch", None, "count"),
    "sequential": (sequential, "step", None, "count"), "around sequential": (AroundSequential, "time-batch", None, "count"),
    "fed back": (FedBack, "time-batch", None, "count"), "fed back plain": (FedBackPlain, "time-batch", None, "count"),
}


@pytest.mark.parametrize("name", MODELS)
def test_loops(name):
    """The network's spikes are the model's, and it takes frames and counts as the model does."""
    make, layout, steps, readout = MODELS[name]
    model = make()
    network = from_torch(model, (6,))
    assert network.metadata["layout"] == layout
    assert network.input.time_steps == steps
    assert network.output.readout == readout
    frames = (np.random.default_rng(0).random((5, steps or 30, 6)) < 0.5).astype(float)
    if layout == "image":
        frames[:] = frames[:, :1]
    found = against.compare(model, network, frames)
    assert found.agreement >= against.ENOUGH, found.first
    assert len(found.populations) == 2
    assert all(theirs > 50 for theirs, _ in found.spikes.values())


class Membrane(Base):
    """The membrane of a last layer that never resets is the output."""

    def __init__(self):
        super().__init__()
        self.lif2 = snn.Synaptic(alpha=0.6, beta=0.8, reset_mechanism="none")

    def forward(self, x):
        mem1, (syn2, mem2) = self.lif1.reset_mem(), self.lif2.reset_mem()
        rec = []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            _, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            rec.append(mem2)
        return torch.stack(rec).mean(0)


def test_a_membrane_is_a_readout():
    """It becomes an LI; the model's own mean over time is what comes out of the reference."""
    model = Membrane()
    network = from_torch(model, (6,))
    assert isinstance(network.nodes["lif2"], LI)
    assert network.output.readout == "mean"
    frames = (np.random.default_rng(0).random((5, 30, 6)) < 0.5).astype(float)
    found = reference.run(network, frames)
    with torch.no_grad():
        expected = model(torch.tensor(frames).float().transpose(0, 1)).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found.output.mean(1), expected, atol=1e-4)
    assert found.counts["lif1"].sum() > 50


class MembraneOfSpikes(TimeFirst):
    def forward(self, x):
        return super().forward(x)[1]


class Trace(Base):
    """A filter of spikes is a state of the loop, not of a neuron."""

    def forward(self, x):
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        trace, rec = torch.zeros(x.size(1), 20), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            trace = 0.5 * trace + spk1
            spk2, mem2 = self.lif2(self.fc2(trace), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Damped(Base):
    """The loop changes a state."""

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            mem1 = mem1 * 0.5
            rec.append(spk2)
        return torch.stack(rec)


class DampedInPlace(Base):
    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            mem1.mul_(0.5)
            rec.append(spk2)
        return torch.stack(rec)


class Started(Base):
    """A state that does not start at zero."""

    def forward(self, x):
        mem1, mem2, rec = torch.full((x.size(1), 20), 0.5), None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Swapped(Base):
    def __init__(self):
        super().__init__()
        self.lif2 = snn.Synaptic(alpha=0.6, beta=0.8)

    def forward(self, x):
        mem1, (syn2, mem2) = self.lif1.reset_mem(), self.lif2.reset_mem()
        rec = []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2, syn2 = self.lif2(self.fc2(spk1), syn2, mem2)
            rec.append(spk2)
        return torch.stack(rec)


class MembraneUsed(Base):
    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            _, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(mem1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Alternating(Base):
    """Every second step skips the input."""

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            current = self.fc1(x[step]) if step % 2 else self.fc1(0.5 * x[step])
            spk1, mem1 = self.lif1(current, mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Late(Base):
    """Reads the frame of the step before."""

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[max(step - 1, 0)], mem1, mem2)
            rec.append(spk2)
        return torch.stack(rec)


class DataDependent(Base):
    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            if spk2.sum() > 3:
                break
            rec.append(spk2)
        return torch.stack(rec)


class Twice(Base):
    def forward(self, x):
        mem2, rec = None, []
        for step in range(x.size(0)):
            spk1, _ = self.lif1(self.fc1(x[step]))
            spk1, _ = self.lif1(spk1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class TwiceAll(Base):
    """One neuron for both layers."""

    def __init__(self):
        super().__init__()
        self.lif2 = self.lif1
        self.fc2 = nn.Linear(20, 20)

    def forward(self, x):
        rec = []
        for step in range(x.size(0)):
            spk1, _ = self.lif1(self.fc1(x[step]))
            spk2, _ = self.lif2(self.fc2(spk1))
            rec.append(spk2)
        return torch.stack(rec)


class OwnLeaky(snn.Leaky):
    def forward(self, input_, mem=None):
        return super().forward(2 * input_, mem)


class OwnStep(TimeFirst):
    """A neuron whose step is the user's."""

    def __init__(self):
        super().__init__()
        self.lif1 = OwnLeaky(beta=0.9)


class Pooled(Base):
    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(functional.max_pool1d(self.fc1(x[step]), 3, 1, 1), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Mixed(Base):
    """The sum of two layers' spikes."""

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2 + spk1[:, :4])
        return torch.stack(rec)


class Parameter(Base):
    """A gain that is no layer."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((6,), 2.0))

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step] * self.gain, mem1, mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Encoded(Base):
    """Rates become random spikes inside the model, as tutorial 1 makes them."""

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for frame in spikegen.rate(x, num_steps=10):
            spk2, mem1, mem2 = self.step(frame, mem1, mem2)
            rec.append(spk2)
        return torch.stack(rec)


class Classes(TimeFirst):
    def forward(self, x):
        return super().forward(x)[0].sum(0).argmax(1)


class BurnIn(Base):
    """The first steps are not counted."""

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            if step > 1:
                rec.append(spk2)
        return torch.stack(rec)


REFUSED = {
    TwiceAll: ("D2E-LAYER-007", "used 10 times in 5 steps"), OwnStep: ("D2E-LAYER-006", "cannot compile OwnLeaky"),
    Encoded: ("D2E-LAYER-009", "makes spikes of real values"), Classes: ("D2E-TRACE-005", "does not return"),
    BurnIn: ("D2E-TRACE-005", "does not return"),
    MembraneOfSpikes: ("D2E-TRACE-005", "which its spikes reset"), Trace: ("D2E-TRACE-003", "sent in step"),
    Damped: ("D2E-TRACE-004", "not its own"), DampedInPlace: ("D2E-TRACE-004", "changes a state"),
    Started: ("D2E-TRACE-004", "not its own"), Swapped: ("D2E-TRACE-004", "not its own"),
    MembraneUsed: ("D2E-TRACE-004", "uses its state"), Alternating: ("D2E-TRACE-003", "something else than step"),
    Late: ("D2E-TRACE-003", "does not read the frame"), DataDependent: ("D2E-TRACE-001", "depends on data"),
    Twice: ("D2E-LAYER-007", "used twice"), Pooled: ("D2E-LAYER-001", "maximum"),
    Mixed: ("D2E-TRACE-005", "does not return"),
    Parameter: ("D2E-LAYER-006", "neither the frame"),
}


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.__name__)
def test_what_cannot_be_folded_is_refused(model):
    """With a code, the place and the way out; the model stays as it was."""
    code, words = REFUSED[model]
    module = model()
    module.train()
    with pytest.raises(UnsupportedError) as caught:
        from_torch(module, (6,))
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.findings[0].hint
    assert module.training
    assert module.lif1.training
    assert not module.lif1._forward_hooks


def test_the_wrong_shape_says_so():
    """The framework's own words, with the frames it was given."""
    with pytest.raises(UnsupportedError, match=r"D2E-TRACE-006.*\[time, batch, 7\]: RuntimeError: mat1 and mat2") as caught:
        from_torch(TimeFirst(), (7,))
    assert caught.value.findings[0].hint


class Read(Base):
    """What `read` makes of the spikes of every step."""

    def __init__(self, read, stack):
        super().__init__()
        self.read, self.stack = read, stack

    def forward(self, x):
        mem1, mem2, rec = None, None, []
        for step in range(x.size(0)):
            spk2, mem1, mem2 = self.step(x[step], mem1, mem2)
            rec.append(spk2)
        return self.read(torch.stack(rec) if self.stack else rec)


def accumulated(spikes, keep=1.0, each=1.0):
    total = torch.zeros(spikes[0].shape)
    for spike in spikes:
        total = keep * total + each * spike if keep != 1 else total + spike * each
    return total


READOUTS = {
    "sum": (lambda s: s.sum(dim=0), "count"), "mean": (lambda s: s.mean(0), "mean"),
    "max": (lambda s: s.max(dim=0)[0], "max"), "last": (lambda s: s[-1], "last"),
    "share": (lambda s: s.sum(0) / len(s), "mean"), "softmax": (lambda s: torch.softmax(s.sum(0), 1), "count"),
    "swapped": (lambda s: s.transpose(0, 1), "count"), "added": (accumulated, "count"),
    "added shares": (lambda s: accumulated(s, each=0.1), "count"),
}


@pytest.mark.parametrize("how", READOUTS)
def test_how_a_class_is_read(how):
    """The readout is the model's; a flag overrides it."""
    read, readout = READOUTS[how]
    model = Read(read, stack="added" not in how)
    assert from_torch(model, (6,)).output.readout == readout
    assert from_torch(model, (6,), readout="first").output.readout == "first"


OTHER_READOUTS = {
    "leaky sum": lambda s: accumulated(s, keep=0.9), "negated": lambda s: -s.sum(0), "over classes": lambda s: s.sum(2),
    "two steps": lambda s: s[0] + s[-1], "factor below 0": lambda s: -1 * s.sum(0),
}


@pytest.mark.parametrize("how", OTHER_READOUTS)
def test_other_readouts_are_refused(how):
    """They weigh steps or classes in ways no readout of d2e does."""
    with pytest.raises(UnsupportedError) as caught:
        from_torch(Read(OTHER_READOUTS[how], stack=how != "leaky sum"), (6,))
    assert caught.value.code in ("D2E-TRACE-005", "D2E-TRACE-003")
    assert caught.value.findings[0].hint


class Rates(nn.Module):
    """SpikingJelly's tutorial: an image shown for some steps, the firing rate returned."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            layer.Linear(6, 20), neuron.IFNode(), layer.Linear(20, 4), neuron.IFNode(v_threshold=0.5))
        with torch.no_grad():
            self.layers[0].weight *= 4

    def forward(self, x):
        rate = 0.0
        for _ in range(25):
            rate += self.layers(x)
        return rate / 25


def test_cells_of_another_framework():
    """Their states stay inside."""
    model = Rates()
    network = from_torch(model, (6,))
    assert network.metadata["layout"] == "image"
    assert (network.input.time_steps, network.output.readout) == (25, "count")
    frames = np.repeat((np.random.default_rng(0).random((5, 1, 6)) < 0.5).astype(float), 25, axis=1)
    found = against.compare(model, network, frames)
    assert found.agreement >= against.ENOUGH, found.first
    assert all(theirs > 50 for theirs, _ in found.spikes.values())


class Wired(nn.Module):
    """Layers with random wires between them: forward in the same step, back from the step before."""

    def __init__(self, seed, layers, wires, resets):
        super().__init__()
        torch.manual_seed(seed)
        self.count, self.wires = layers, wires
        self.first = nn.Linear(6, 8)
        self.lifs = nn.ModuleList(
            snn.Leaky(beta=0.7 + 0.05 * i, threshold=0.6, reset_mechanism=resets[i % len(resets)]) for i in range(layers))
        self.between = nn.ModuleDict({f"{a}to{b}": nn.Linear(8, 8, bias=a < b) for a, b in wires})
        with torch.no_grad():
            self.first.weight *= 3
            for layer in self.between.values():
                layer.weight *= 2

    def forward(self, x):
        states = [lif.reset_mem() for lif in self.lifs]
        before = [torch.zeros(x.size(1), 8) for _ in self.lifs]
        rec = []
        for frame in x:
            sent = []
            for i, lif in enumerate(self.lifs):
                current = self.first(frame)
                for a, b in self.wires:
                    if b == i:
                        current = current + self.between[f"{a}to{b}"](sent[a] if a < i else before[a])
                spk, states[i] = lif(current, states[i])
                sent.append(spk)
            before = sent
            rec.append(sent[-1])
        return torch.stack(rec)


@st.composite
def wirings(draw):
    layers = draw(st.integers(1, 4))
    ends = st.tuples(st.integers(0, layers - 1), st.integers(0, layers - 1))
    wires = draw(st.lists(ends, max_size=6, unique=True))
    chain = [(i, i + 1) for i in range(layers - 1)]
    return layers, [*chain, *(wire for wire in wires if wire not in chain)]


@settings(max_examples=25, deadline=None)
@given(wiring=wirings(), seed=st.integers(0, 99), resets=st.lists(
    st.sampled_from(["subtract", "zero", "none"]), min_size=1, max_size=2))
def test_random_wiring(wiring, seed, resets):
    """Any network of neurons that act on each other in this step or the next."""
    layers, wires = wiring
    model = Wired(seed, layers, wires, resets)
    network = from_torch(model, (6,))
    back = {(f"lifs.{a}", f"between.{a}to{b}") for a, b in wires if a >= b}
    assert {(e.source, e.target) for e in network.edges if e.recurrent} == back
    found = against.compare(model, network, (np.random.default_rng(seed).random((3, 30, 6)) < 0.5).astype(float))
    assert found.agreement >= against.ENOUGH, found.first
    assert len(found.populations) == layers

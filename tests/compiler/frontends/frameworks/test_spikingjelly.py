"""SpikingJelly's own run beside the reference on the network read from it: every neuron, layer, container and step mode."""

import operator
import sys
import textwrap
from collections import OrderedDict
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate
from spikingjelly.activation_based.nir_exchange import export_to_nir
from torch import nn

import d2e
from d2e.compiler.frontends.against import ENOUGH, compare, spikes_of_source
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.frameworks import spikingjelly as rows
from d2e.compiler.frontends.tensors import dotted
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import reference
from d2e.ir.errors import UnsupportedError, UsageError
from d2e.ir.nodes import LIF

DOWNLOADS = ModuleType("torchvision.models.utils")
DOWNLOADS.load_state_dict_from_url = None
with mock.patch.dict(sys.modules, {name: DOWNLOADS for name in ("torchvision", "torchvision.models", DOWNLOADS.__name__)}):
    from spikingjelly.activation_based.model import sew_resnet, spiking_resnet  # take only a download from torchvision


def frames(shape, batch=3, steps=12, seed=0):
    return (np.random.default_rng(seed).random((batch, steps, *shape)) < 0.5).astype(np.int64)


def settle(net, gain=2.0):
    """Weights that make spikes, BatchNorm with statistics, evaluation mode; the states are forgotten."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                module.weight *= gain
            elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.7, 1.5)
                nn.init.uniform_(module.bias, 0.0, 0.5)
    return net.eval()


def check(net, shape, layout, given=None, populations=None):
    """Both fire the same spikes, and every population fires some but not always."""
    network = from_torch(net, shape, coding="direct" if given is not None else "spikes")
    given = frames(shape) if given is None else given
    found = compare(net, network, given)
    assert network.metadata["layout"] == layout
    assert found.agreement >= ENOUGH, found
    assert set(found.populations) == set(network.populations)
    assert populations is None or list(network.populations) == populations
    sent = spikes_of_source(net, network, given)
    for name, (theirs, ours) in found.spikes.items():
        assert abs(theirs - ours) <= 1e-4 * found.populations[name][1]
        assert 0.005 < (sent[name] != 0).mean() < 0.98, (name, ours)
    return network


LAYOUTS = {"s": "step", "m": "time-batch"}
NEURONS = {
    "if": lambda: neuron.IFNode(),
    "if soft": lambda: neuron.IFNode(0.7, None),
    "if reset to a value": lambda: neuron.IFNode(0.7, -0.3),
    "if stored": lambda: neuron.IFNode(0.7, None, surrogate.ATan(), True, store_v_seq=True),
    "if half": lambda: neuron.HalfThresholdIFNode(0.8),
    "if simple": lambda: neuron.SimpleIFNode(0.5, 0.2),
    "lif": lambda: neuron.LIFNode(v_threshold=0.5),
    "lif soft": lambda: neuron.LIFNode(3.0, True, 0.3, None),
    "lif reset to a value": lambda: neuron.LIFNode(1.7, True, 0.4, -0.2, store_v_seq=True),
    "lif whole input": lambda: neuron.LIFNode(2.5, False, 0.7),
    "lif whole input soft": lambda: neuron.LIFNode(3.0, False, 0.7, None),
    "lif whole input reset to a value": lambda: neuron.LIFNode(1.7, False, 0.4, 0.1, surrogate.Erf()),
    "lif simple": lambda: neuron.SimpleLIFNode(2.0, True, 0.5, 0.2),
    "lif simple whole input": lambda: neuron.SimpleLIFNode(2.0, False, 0.9, -0.2),
    "plif": lambda: neuron.ParametricLIFNode(2.7, True, 0.4, 0.1),
    "plif soft": lambda: neuron.ParametricLIFNode(1.4, True, 0.4, None, surrogate.PiecewiseQuadratic()),
    "plif whole input": lambda: neuron.ParametricLIFNode(2.7, False, 0.6, -0.1),
    "cuba": lambda: neuron.CUBALIFNode(0.3, 0.8, 0.9),
    "cuba soft": lambda: neuron.CUBALIFNode(0.2, 0.6, 0.9, None),
    "cuba reset to a value": lambda: neuron.CUBALIFNode(0.5, 0.75, 0.6, -0.4),
    "ternary": lambda: neuron.TernaryIFNode(0.9),
    "ternary soft": lambda: neuron.TernaryIFNode(0.7, None),
    "ternary leaky": lambda: neuron.TernaryLIFNode(1.7, True, 0.4, 0.1),
    "ternary leaky whole input": lambda: neuron.TernaryLIFNode(2.0, False, 0.8, None),
    "ilif": lambda: neuron.ILIFNode(),
    "ilif of two": lambda: neuron.ILIFNode(2.0, 0.6, surrogate.MultiLevelSpikeCount(2)),
    "ilif of one": lambda: neuron.ILIFNode(1.5, 0.8, surrogate.MultiLevelSpikeCount(1), store_v_seq=True),
}


def test_the_tables_hold_every_class_and_no_other():
    named = (*rows.ROWS, *rows.LIKE_TORCH, *rows.CONTAINERS)
    for name in named:
        module, _, cls = name.rpartition(".")
        assert issubclass(getattr(sys.modules[module], cls), nn.Module), name
    for package in (neuron, layer):
        for cls in vars(package).values():
            if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__.startswith(package.__name__):
                assert dotted(cls) in named


@pytest.mark.parametrize("mode", LAYOUTS)
@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_in_both_step_modes(name, mode):
    make = NEURONS[name]
    torch.manual_seed(len(name))
    net = nn.Sequential(layer.Linear(9, 40), make(), layer.Dropout(0.4), layer.Linear(40, 30, bias=False), make())
    functional.set_step_mode(settle(net), mode)
    check(net, (9,), LAYOUTS[mode], frames((9,), batch=6, steps=30), populations=["1", "4"])


def test_a_learned_time_constant_is_read():
    net = nn.Sequential(layer.Linear(9, 40), neuron.ParametricLIFNode(2.0, v_threshold=0.4))
    settle(net)
    with torch.no_grad():
        net[1].w.fill_(1.3)
    network = check(net, (9,), "step")
    kept = float(network.neuron("1").decay_mem)
    assert kept == pytest.approx(1 - 1 / (1 + np.exp(-1.3)), rel=1e-6)


def test_the_step_of_a_lif_is_stated_term_by_term():
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(3, 2), neuron.LIFNode(4.0, True, 0.5, -0.25))
    node = from_torch(net, (3,)).neuron("1")
    assert isinstance(node, LIF)
    stated = {name: float(getattr(node, name)) for name in ("decay_mem", "gain", "bias", "v_reset", "v_init", "threshold")}
    assert stated == {
        "decay_mem": 0.75, "gain": 0.25, "bias": -0.0625, "v_reset": -0.25, "v_init": -0.25, "threshold": 0.5,
    }
    assert (node.reset, node.reset_when, node.fire, node.max_spikes) == ("value", "same", "ge", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.9])
def test_reaching_the_threshold_exactly_is_a_spike_in_the_precision_of_the_model(threshold, dtype):
    net = nn.Sequential(layer.Linear(1, 1, bias=False), neuron.IFNode(threshold)).to(dtype)
    with torch.no_grad():
        net[0].weight.fill_(threshold)
    found = compare(net, from_torch(net, (1,)), np.ones((1, 4, 1), np.int64))
    assert found.spikes == {"1": (4.0, 4.0)}


def test_integer_neurons_send_counts():
    torch.manual_seed(3)
    net = settle(nn.Sequential(layer.Linear(9, 40), neuron.ILIFNode(), layer.Linear(40, 10), neuron.ILIFNode()), 3.0)
    network = check(net, (9,), "step")
    sent = spikes_of_source(net, network, frames((9,)))
    assert network.neuron("1").max_spikes == 4
    assert set(np.unique(sent["1"])) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert set(np.unique(sent["3"])) >= {0.0, 1.0, 2.0, 3.0}


def convolutional(make):
    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), make(), layer.AvgPool2d(2),
        layer.Conv2d(8, 12, 3, stride=2, padding=1, groups=2), layer.BatchNorm2d(12), make(), layer.Dropout2d(0.2),
        layer.AdaptiveAvgPool2d((1, 2)), layer.Flatten(), layer.Linear(24, 10), layer.BatchNorm1d(10), make(),
    )


@pytest.mark.parametrize("mode", LAYOUTS)
def test_a_convolutional_net(mode):
    torch.manual_seed(5)
    net = settle(convolutional(lambda: neuron.LIFNode(v_threshold=0.4)))
    functional.set_step_mode(net, mode)
    check(net, (2, 12, 16), LAYOUTS[mode])


@pytest.mark.parametrize("mode", LAYOUTS)
def test_a_net_over_one_axis(mode):
    torch.manual_seed(5)
    net = nn.Sequential(
        layer.Conv1d(3, 8, 3, padding=2, dilation=2), layer.BatchNorm1d(8), neuron.IFNode(0.8), layer.Flatten(1, 2),
        layer.Linear(8 * 14, 12), neuron.CUBALIFNode(),
    )
    functional.set_step_mode(settle(net), mode)
    check(net, (3, 14), LAYOUTS[mode])


def test_real_frames_shown_at_every_step():
    torch.manual_seed(6)
    net = settle(convolutional(lambda: neuron.IFNode(1.0, None)))
    functional.set_step_mode(net, "m")
    image = np.random.default_rng(0).random((4, 1, 2, 12, 16), np.float32)
    check(net, (2, 12, 16), "time-batch", np.repeat(image, 8, axis=1))


class Own(nn.Module):
    """Layers of torch in a forward that folds time into the batch, as SpikingJelly's examples do."""

    def __init__(self, folding):
        super().__init__()
        self.conv, self.norm, self.fire = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), neuron.LIFNode(v_threshold=0.3)
        self.fc, self.last, self.folding = nn.Linear(6 * 4 * 6, 10), neuron.IFNode(), folding

    def forward(self, x):
        if self.folding == "function":
            x = functional.seq_to_ann_forward(x, [self.conv, self.norm])
        elif self.folding == "own":
            time, batch = x.shape[:2]
            x = self.norm(self.conv(x.flatten(0, 1)))
            x = x.unflatten(0, (time, batch))
        else:
            x = self.norm(self.conv(x))
        x = self.fire(x)
        x = torch.flatten(x, 1) if self.folding is None else torch.flatten(x, 2)
        return self.last(self.fc(x))


@pytest.mark.parametrize(("folding", "mode"), [("function", "m"), ("own", "m"), (None, "s")])
def test_a_forward_of_its_own(folding, mode):
    torch.manual_seed(7)
    net = settle(Own(folding))
    functional.set_step_mode(net, mode)
    check(net, (2, 6, 8), LAYOUTS[mode], populations=["fire", "last"])


class Shown(nn.Module):
    """An image at every step, the mean of the spikes at the end: SpikingJelly's conv_fashion_mnist.py without its maxima."""

    def __init__(self, show, end="mean"):
        super().__init__()
        self.conv_fc = nn.Sequential(
            layer.Conv2d(1, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6), neuron.IFNode(), layer.AvgPool2d(2, 2),
            layer.Flatten(), layer.Linear(96, 20, bias=False), neuron.IFNode(0.5), layer.VotingLayer(4),
        )
        functional.set_step_mode(self, "m")
        self.still, self.show, self.end = nn.Conv2d(1, 1, 1), show, end

    def forward(self, x):
        if self.show == "expand":
            x = x.unsqueeze(0).expand(7, -1, -1, -1, -1)
        elif self.show == "expand to sizes":
            x = torch.unsqueeze(x, 0).expand([7, x.shape[0], *(x.shape[i] for i in (1, 2, 3))])
        else:
            x = self.still(x).unsqueeze(dim=0).repeat(7, 1, 1, 1, 1)
        x = self.conv_fc(x)
        return x.mean(0) if self.end == "mean" else x.sum(dim=0) if self.end == "count" else x[-1]


@pytest.mark.parametrize(("show", "end"), [("expand", "mean"), ("expand to sizes", "last"), ("repeat", "count")])
def test_an_image_shown_by_the_model(show, end):
    torch.manual_seed(15)
    net = settle(Shown(show, end), 3.0)
    image = np.random.default_rng(0).random((4, 1, 1, 8, 8), np.float32)
    network = check(net, (1, 8, 8), "image", np.repeat(image, 7, axis=1), populations=["conv_fc.2", "conv_fc.6"])
    assert network.input.time_steps == 7
    assert network.output.readout == end
    output = reference.run(network, np.repeat(image, 7, axis=1)).output
    ours = {"mean": output.mean(1), "count": output.sum(1), "last": output[:, -1]}[end]
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.as_tensor(image[:, 0])).numpy(), ours, atol=1e-6)


@pytest.mark.parametrize("mode", LAYOUTS)
def test_delays_and_votes(mode):
    torch.manual_seed(16)
    net = settle(nn.Sequential(
        layer.Linear(9, 30), neuron.IFNode(), layer.Delay(2), layer.Linear(30, 20), neuron.IFNode(), layer.Delay(0),
        layer.VotingLayer(3),
    ))
    functional.set_step_mode(net, mode)
    network = check(net, (9,), LAYOUTS[mode])
    assert network.output.shape == (6,)


def test_containers_call_their_modules_step_by_step():
    torch.manual_seed(8)
    net = nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.AvgPool2d(2)), neuron.IFNode(0.4, step_mode="m"),
        layer.MultiStepContainer(nn.Flatten(), nn.Linear(6 * 2 * 3, 20), neuron.LIFNode(v_threshold=0.4)),
        layer.StepModeContainer(False, "m", nn.Linear(20, 20)), neuron.LIFNode(v_threshold=0.3, step_mode="m"),
        layer.StepModeContainer(True, "m", nn.Sequential(nn.Linear(20, 10), neuron.CUBALIFNode())),
    )
    check(settle(net), (2, 6, 8), "time-batch", populations=["1", "2.2", "4", "5.0.1"])


@pytest.mark.parametrize("steps", [1, 9])
def test_a_container_alone(steps):
    torch.manual_seed(9)
    net = layer.MultiStepContainer(nn.Flatten(), nn.Linear(12, 20), neuron.IFNode(0.5))
    settle(net)
    check(net, (3, 4), "time-batch", frames((3, 4), steps=steps), populations=["2"])


@pytest.mark.parametrize("mode", LAYOUTS)
def test_recurrent_containers(mode):
    torch.manual_seed(10)
    net = nn.Sequential(
        layer.Linear(9, 30),
        layer.LinearRecurrentContainer(neuron.LIFNode(v_threshold=0.4), 30, 30),
        layer.LinearRecurrentContainer(nn.Sequential(nn.Linear(30, 20), neuron.CUBALIFNode()), 30, 20, bias=False),
        layer.Linear(20, 16),
        layer.ElementWiseRecurrentContainer(neuron.IFNode(1.5), operator.add),
        layer.ElementWiseRecurrentContainer(neuron.IFNode(1.5, None), lambda x, y: y + x),
    )
    functional.set_step_mode(settle(net), mode)
    network = check(
        net, (9,), LAYOUTS[mode],
        populations=["1.sub_module", "2.sub_module.1", "4.sub_module", "5.sub_module"],
    )
    assert sum(edge.recurrent for edge in network.edges) == 4


def small_resnet(package, step_mode="s", **options):
    """A residual net whose stem takes no maximum."""
    kind = package.SEWResNet if package is sew_resnet else package.SpikingResNet
    net = kind(package.BasicBlock, [1, 1, 1, 1], num_classes=10, spiking_neuron=neuron.IFNode, **options)
    net.maxpool = layer.AvgPool2d(2)
    functional.set_step_mode(net, step_mode)
    return net


@pytest.mark.parametrize("mode", LAYOUTS)
@pytest.mark.parametrize(("package", "options"), [(sew_resnet, {"cnf": "ADD"}), (spiking_resnet, {})])
def test_residual_networks(package, options, mode):
    torch.manual_seed(11)
    net = settle(small_resnet(package, mode, v_threshold=0.5, **options), 1.2)
    given = frames((3, 32, 32), batch=1, steps=4)
    network = from_torch(net, (3, 32, 32))
    found = compare(net, network, given)
    assert network.metadata["layout"] == LAYOUTS[mode]
    assert found.agreement >= ENOUGH
    assert len(found.populations) == (12 if package is sew_resnet else 9)
    assert all(ours > 0 for _, ours in found.spikes.values())


def trained(make):
    """(net, frames, labels): two rates of spikes told apart, trained with SpikingJelly's surrogate gradients."""
    torch.manual_seed(12)
    net = nn.Sequential(layer.Linear(16, 40), make(), layer.Linear(40, 2), make())
    functional.set_step_mode(net, "m")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 128)
    rates = np.where(np.arange(16) < 8, 0.2, 0.6)
    given = (rng.random((128, 20, 16)) < np.where(labels[:, None], rates, rates[::-1])[:, None]).astype(np.int64)
    x, y = torch.as_tensor(given.swapaxes(0, 1)).float(), torch.as_tensor(labels)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(40):
        functional.reset_net(net)
        loss = nn.functional.cross_entropy(net(x).sum(0), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    functional.reset_net(net)
    return net.eval(), given, labels


TRAINED = {
    "if": lambda: neuron.IFNode(surrogate_function=surrogate.ATan()),
    "lif": lambda: neuron.LIFNode(surrogate_function=surrogate.ATan()),
    "plif soft": lambda: neuron.ParametricLIFNode(v_reset=None, surrogate_function=surrogate.ATan()),
    "ilif": lambda: neuron.ILIFNode(),
    "cuba": lambda: neuron.CUBALIFNode(),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_net(name):
    net, given, labels = trained(TRAINED[name])
    network = check(net, (16,), "time-batch", given)
    sent = spikes_of_source(net, network, given)["3"]
    assert (sent.sum(1).argmax(-1) == labels).mean() > 0.9


@pytest.mark.parametrize(("name", "target", "reached"), [
    ("lif", "loihi2-sim", 0.02), ("ilif", "loihi2-sim", 0.02), ("cuba", "loihi2-sim", 0.02), ("if", "speck2f-sim", None),
])
def test_a_trained_net_compiles_and_says_its_drift_in_every_pass(name, target, reached):
    net, given, labels = trained(TRAINED[name])
    data = (given, labels)
    report = d2e.compile(net, target, input_shape=(16,), time_steps=20, calibration=data, eval=data).report.data
    passes = {row["pass"]: row for row in report["accuracy"]["passes"]}
    assert passes["source"]["spikes"] == passes["fold-thresholds"]["spikes"] > 50
    assert passes["fold-thresholds"]["max_count_error"] == 0
    assert {"quantise", "map-neurons", "place"} < set(passes)
    assert abs(passes["quantise"]["spikes"] / passes["source"]["spikes"] - 1) < 0.02
    assert report["accuracy"]["program"] > report["accuracy"]["source"] - 0.05
    drifts = [row["drift"] for row in report["layers"] if "drift" in row]
    assert len(drifts) == 2
    assert reached is None or max(map(abs, drifts)) < reached


def test_recurrence_and_residuals_compile():
    torch.manual_seed(13)
    net = settle(nn.Sequential(
        layer.Linear(9, 30), layer.LinearRecurrentContainer(neuron.LIFNode(v_threshold=0.4), 30, 30), layer.Linear(30, 16),
        layer.ElementWiseRecurrentContainer(neuron.IFNode(1.5), operator.add),
    ))
    block = sew_resnet.BasicBlock(3, 3, cnf="ADD", spiking_neuron=neuron.IFNode, v_threshold=0.5)
    residual = settle(nn.Sequential(block, layer.Flatten(), layer.Linear(192, 10), neuron.IFNode()))
    for model, shape in ((net, (9,)), (residual, (3, 8, 8))):
        given = frames(shape, batch=8, steps=15)
        program = d2e.compile(model, "loihi2-sim", input_shape=shape, time_steps=15, calibration=given, eval=given)
        spikes = [row["spikes"] for row in program.report.data["accuracy"]["passes"]]
        assert spikes[0] > 50
        assert abs(spikes[-1] / spikes[0] - 1) < 0.05


def test_a_saved_model_needs_trust_or_a_factory(tmp_path, monkeypatch):
    torch.manual_seed(14)
    net = settle(nn.Sequential(layer.Linear(9, 20), neuron.LIFNode(v_threshold=0.4)))
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(UsageError) as refused:
        load_model(tmp_path / "net.pt", input_shape=(9,))
    assert refused.value.code == "D2E-LOAD-006"
    assert "spikingjelly.activation_based.layer.stateless_wrapper.Linear" in str(refused.value)
    network = load_model(tmp_path / "net.pt", input_shape=(9,), allow_pickle=True)
    assert compare(net, network, frames((9,))).agreement == 1
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "models.py").write_text(textwrap.dedent("""
        import torch
        from spikingjelly.activation_based import layer, neuron

        def make():
            net = torch.nn.Sequential(layer.Linear(9, 20), neuron.LIFNode(v_threshold=0.4))
            net.load_state_dict(torch.load("weights.pt"))
            return net
    """))
    monkeypatch.chdir(tmp_path)
    network = load_model("models:make", input_shape=(9,))
    assert compare(net, network, frames((9,))).agreement == 1


EXPORTED = {
    name: NEURONS[name] for name in (
        "if", "if reset to a value", "lif", "lif reset to a value", "lif whole input", "lif whole input reset to a value",
        "plif", "plif whole input", "cuba", "cuba reset to a value",
    )
}


@pytest.mark.parametrize("dt", [None, 1e-3])
@pytest.mark.parametrize("mode", LAYOUTS)
@pytest.mark.parametrize("name", EXPORTED)
def test_files_it_writes_fire_what_the_model_fires(name, mode, dt, tmp_path):
    torch.manual_seed(len(name))
    make = NEURONS[name]
    net = settle(nn.Sequential(OrderedDict(
        conv=layer.Conv2d(2, 6, 3, stride=2), inner=make(), pool=layer.AvgPool2d(2, 2, 0), flat=layer.Flatten(),
        dense=layer.Linear(6 * 2 * 3, 20), last=make(),
    )), 4.0)
    functional.set_step_mode(net, mode)
    given = frames((2, 10, 14), steps=20)
    example = torch.as_tensor(given[:, 0] if mode == "s" else given.swapaxes(0, 1)).float()
    export_to_nir(net, example, tmp_path / "net.nir", **({"dt": dt} if dt else {}))
    network = load_model(tmp_path / "net.nir", profile="spikingjelly", dt=dt)
    native = from_torch(net, (2, 10, 14))
    assert network.populations == native.populations == ("inner", "last")
    assert network.input.shape == (2, 10, 14)
    found = compare(net, network.with_metadata(layout=LAYOUTS[mode]), given)
    assert found.agreement >= ENOUGH, found
    assert all(ours > 0.005 * found.populations[name][1] for name, (_, ours) in found.spikes.items())


def of(module, shape=(6,), mode=None):
    net = nn.Sequential(layer.Linear(6, 6), module) if shape == (6,) else nn.Sequential(module)
    if mode:
        functional.set_step_mode(net, mode)
    return lambda: from_torch(net, shape)


class Folded(nn.Module):
    def __init__(self):
        super().__init__()
        self.fire = neuron.IFNode(step_mode="m")

    def forward(self, x):
        return self.fire(x.flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[1]))


class Clipped(neuron.LIFNode):
    """A charge of its own behind LIFNode's forward."""

    def single_step_functional_forward(self, inputs, states, **kwargs):
        return super().single_step_functional_forward(inputs, (states[0].clip(-1),), **kwargs)


class Mine(neuron.BaseNode):
    def single_step_functional_forward(self, inputs, states, **kwargs):
        return (inputs[0],), states


class Charge(neuron.SimpleIFNode):
    def neuronal_charge(self, x):
        self.v = self.v + x.relu()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.fire = layer.Linear(6, 6), neuron.IFNode(step_mode="m")

    def forward(self, x):
        return self.fire(self.fc(self.fire(x)))


def quiet(module, **values):
    for name, value in values.items():
        setattr(module, name, value)
    return module


def mixed(*modes):
    net = nn.Sequential(layer.Linear(6, 6), *(neuron.IFNode(step_mode=mode) for mode in modes))
    return lambda: from_torch(net, (6,))


REFUSALS = {
    "quadratic": (of(neuron.QIFNode()), "D2E-LAYER-008", "1", "QIFNode charges by a product"),
    "exponential": (of(neuron.EIFNode()), "D2E-LAYER-008", "1", "EIFNode"),
    "Izhikevich": (of(neuron.IzhikevichNode()), "D2E-LAYER-008", "1", "recovery variable"),
    "gated": (of(neuron.GatedLIFNode(4)), "D2E-LAYER-008", "1", "gates"),
    "KLIF": (of(neuron.KLIFNode()), "D2E-LAYER-008", "1", "cuts v at zero"),
    "complementary": (of(neuron.ComplementaryLIFNode()), "D2E-LAYER-008", "1", "second state"),
    "PSN": (of(neuron.PSN(4)), "D2E-LAYER-008", "1", "all steps at once"),
    "sliding PSN": (of(neuron.SlidingPSN(2)), "D2E-LAYER-008", "1", "of the past"),
    "LIAF": (of(neuron.LIAFNode(torch.relu, False)), "D2E-LAYER-008", "1", "an activation"),
    "count within limits": (of(neuron.STBIFNode(1.0, 4, 0)), "D2E-LAYER-008", "1", "counts"),
    "encoder": (of(encoding.PoissonEncoder(), (4, 4)), "D2E-LAYER-009", "0", "the host"),
    "OTTT": (of(neuron.OTTTLIFNode()), "D2E-LAYER-008", "1", "OTTTLIFNode"),
    "not spiking": (of(neuron.NonSpikingLIFNode()), "D2E-LAYER-008", "1", "NonSpikingLIFNode"),
    "own neuron": (of(Mine()), "D2E-LAYER-008", "1", "Mine computes a step of its user's own"),
    "own simple charge": (of(Charge(1.0)), "D2E-LAYER-008", "1", "Charge replaces neuronal_charge of SimpleIFNode"),
    "attention": (of(layer.TemporalWiseAttention(4, 2)), "D2E-LAYER-006", "1", "TemporalWiseAttention"),
    "own charge": (of(Clipped()), "D2E-LAYER-008", "1", "Clipped replaces single_step_functional_forward of LIFNode"),
    "surrogate that sends reals": (
        of(neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False))), "D2E-LAYER-005", "1", "Sigmoid"),
    "surrogate that sends counts": (
        of(neuron.IFNode(surrogate_function=surrogate.MultiLevelSpikeCount(3))), "D2E-LAYER-005", "1", "send 1"),
    "surrogate that rolls dice": (
        of(neuron.IFNode(surrogate_function=surrogate.PoissonPass())), "D2E-LAYER-005", "1", "PoissonPass"),
    "threshold per neuron": (
        of(quiet(neuron.IFNode(), v_threshold=torch.ones(6))), "D2E-LAYER-005", "1", "shape [6]"),
    "precision": (
        of(quiet(neuron.IFNode(), _neuron_precision=(torch.bfloat16, "fp32", "fp32"))), "D2E-LAYER-005", "1", "precision"),
    "maximum": (of(layer.MaxPool2d(2), (1, 4, 4)), "D2E-LAYER-001", "0", "maximum"),
    "group norm": (of(layer.GroupNorm(1, 4), (4, 4, 4)), "D2E-LAYER-003", "0", "statistics"),
    "standardised weights": (of(layer.WSLinear(6, 6)), "D2E-LAYER-006", "1", "WSLinear"),
    "filter": (of(layer.SynapseFilter()), "D2E-LAYER-006", "1", "SynapseFilter"),
    "time last": (of(layer.TLastSeqToANNContainer(nn.Linear(6, 6))), "D2E-LAYER-006", "1", "TLastSeqToANNContainer"),
    "two modes": (mixed("m", "s"), "D2E-LAYER-005", "2", "is in step mode 's', and 1 in step mode 'm'"),
    "layers in another mode": (
        lambda: from_torch(nn.Sequential(layer.Conv1d(2, 2, 1), neuron.IFNode(step_mode="m")), (2, 4)),
        "D2E-LAYER-005", "1", "step mode"),
    "neuron without a memory": (
        of(layer.SeqToANNContainer(nn.Linear(6, 6), neuron.IFNode())), "D2E-LAYER-005", "1.1", "forgets"),
    "neuron on folded time": (lambda: from_torch(Folded(), (6,)), "D2E-LAYER-005", "fire", "forget"),
    "m within a container": (
        of(layer.MultiStepContainer(nn.Sequential(nn.Linear(6, 6), neuron.IFNode(step_mode="m")))),
        "D2E-LAYER-005", "1.0.1", "within a container"),
    "recurrence by product": (
        of(layer.ElementWiseRecurrentContainer(neuron.IFNode(), operator.mul)), "D2E-LAYER-005", "1", "not the sum"),
    "recurrence by maximum": (
        of(layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: torch.relu(x + y))),
        "D2E-LAYER-005", "1", "not the sum"),
    "unknown inside a recurrence": (
        of(layer.LinearRecurrentContainer(nn.Sequential(nn.Tanh()), 6, 6)), "D2E-LAYER-002", "1.sub_module.0", "Tanh"),
    "one neuron in two places": (lambda: from_torch(Twice(), (6,)), "D2E-LAYER-007", "fire", "twice"),
    "SEW by product": (
        lambda: from_torch(small_resnet(sew_resnet, cnf="AND", step_mode="m"), (3, 32, 32)),
        "D2E-LAYER-006", "layer1.0.mul", "product of two tensors"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_has_no_form_is_refused(name):
    read, code, node, message = REFUSALS[name]
    with pytest.raises(UnsupportedError) as refused:
        read()
    assert refused.value.code == code
    assert (refused.value.node or "").startswith(node)
    assert message in str(refused.value)
    assert refused.value.hint

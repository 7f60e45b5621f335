"""load_ann: a trained ReLU network as populations that compute what torch computes."""

import pytest
import torch
from tests.compiler.frontends.ann_networks import MODELS, CifarResNet, assert_same, canonical, settled
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e import ir
from d2e.compiler.frontends.ann import load_ann
from d2e.ir.errors import D2EError, UsageError


@pytest.mark.parametrize("option", ["A", "B"])
def test_cifar_resnet_20(option):
    torch.manual_seed(1)
    model = settled(CifarResNet(3, 4, option), (3, 16, 16))
    network = load_ann(model, input_shape=(3, 16, 16), name="resnet20")
    assert_same(model, network)
    assert len(network.populations) == 19
    assert (network.input.coding, network.output.readout) == ("direct", "last")
    assert dict(network.metadata) == {"source": "torch", "name": "resnet20"}
    for name in network.populations:
        node = network.nodes[name]
        assert (node.kind, node.threshold, node.reset, node.max_spikes) == ("if", 1, "subtract", 0)
        assert node.metadata == {"activation": "relu"}
    if option == "A":
        kernels = [node.weight.shape for node in canonical(network).nodes.values() if node.kind == "conv2d"]
        assert (8, 4, 1, 1) in kernels
        assert (16, 8, 1, 1) in kernels


@pytest.mark.parametrize("name", MODELS)
def test_networks_compute_what_torch_computes(name):
    shape, make, relus = MODELS[name]
    torch.manual_seed(3)
    model = settled(make(), shape)
    network = load_ann(model, input_shape=shape)
    assert_same(model, network)
    assert len(network.populations) == relus


def test_networks_stay_small_in_canonical_form():
    for name in ("basic", "densenet"):
        shape, make, relus = MODELS[name]
        network = canonical(load_ann(make().eval(), input_shape=shape))
        convolutions = [node for node in network.nodes.values() if node.kind == "conv2d"]
        merged = [node.weight.shape for node in convolutions if node.groups == 1 and node.weight.shape[1] != 3]
        assert all(max(kernel) <= 6 for _, _, *kernel in merged)
        assert len(convolutions) <= 3 * relus


def test_one_module_in_many_places_makes_a_population_each():
    shape, make, _ = MODELS["basic"]
    network = load_ann(make().eval(), input_shape=shape)
    assert {"relu", "layer1.0.relu", "layer1.0.relu_2", "layer2.1.relu", "layer2.1.relu_2"} <= set(network.populations)
    caps = {network.nodes[name].metadata.get("cap") for name in network.populations}
    assert caps == {None}


class Activated(nn.Module):
    """A linear layer, an activation and a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.before, self.after, self.function = nn.Linear(5, 40), nn.Linear(40, 4), function

    def forward(self, x):
        return self.after(self.function(self.before(6 * x)))


ACTIVATIONS = [
    (nn.ReLU(), None), (nn.ReLU(inplace=True), None), (nn.ReLU6(), 6.0), (nn.Hardtanh(0, 2.5), 2.5),
    (nn.Hardtanh(0.0, 1), 1.0),
    (functional.relu, None), (lambda x: functional.relu(x, inplace=True), None), (functional.relu_, None),
    (functional.relu6, 6.0), (torch.relu, None), (torch.relu_, None), (lambda x: x.relu(), None),
    (lambda x: x.relu_(), None),
    (lambda x: x.clamp(min=0), None), (lambda x: x.clamp_(0), None), (lambda x: torch.clamp(x, 0, 3), 3.0),
    (lambda x: torch.clamp(x, min=0.0, max=1.5), 1.5), (lambda x: x.clip(0, 2), 2.0), (lambda x: torch.clip(x, min=0), None),
    (lambda x: functional.hardtanh(x, 0, 4), 4.0), (lambda x: functional.hardtanh(x, min_val=0.0), 1.0),
    (lambda x: x.clamp_min(0), None), (lambda x: torch.clamp_min(x, 0), None),
]


@pytest.mark.parametrize(("function", "cap"), ACTIVATIONS)
def test_every_way_to_write_a_relu(function, cap):
    torch.manual_seed(4)
    model = Activated(function).double().eval()
    network = load_ann(model, input_shape=(5,))
    assert_same(model, network)
    (name,) = network.populations
    assert network.nodes[name].metadata == {"activation": "relu", **({} if cap is None else {"cap": cap})}
    assert type(network.nodes[name].metadata.get("cap")) in (type(None), float)


def test_functional_names_stand_below_their_path():
    network = load_ann(nn.Sequential(nn.Sequential(Activated(torch.relu))), input_shape=(5,))
    assert network.populations == ("0.0.relu",)


def test_a_saved_module_a_factory_and_a_network_are_read(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network = load_ann(model, input_shape=(3,), name="small")
    dn.save(model, tmp_path / "model.pt", input_shape=(3,), name="small")
    torch.save(model, tmp_path / "module.pth")
    assert load_ann(tmp_path / "model.pt").same(network)
    assert load_ann(str(tmp_path / "module.pth"), input_shape=[3], name="small").same(network)
    (tmp_path / "ann_factory.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n    return torch.load('module.pth', weights_only=False), {'input_shape': (3,), 'name': 'small'}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_ann("ann_factory:make").same(network)
    assert load_ann(network).same(network)
    assert load_ann(network, name="other").metadata["name"] == "other"
    with pytest.raises(UsageError) as caught:
        load_ann(network, input_shape=(4,))
    assert caught.value.code == "D2E-LOAD-010"


def test_a_spiking_network_is_not_converted_again():
    spiking = ir.Network(
        {"input": ir.Input(shape=(2,)), "a": ir.IF(shape=(2,)), "output": ir.Output(shape=(2,))},
        (ir.Edge("input", "a"), ir.Edge("a", "output")),
    )
    linear = ir.chain([("input", ir.Input(shape=(2,))), ("output", ir.Output(shape=(2,)))])
    for network, code, node in ((spiking, "D2E-CONV-003", "a"), (linear, "D2E-CONV-004", None)):
        with pytest.raises(D2EError) as caught:
            load_ann(network)
        assert (caught.value.code, caught.value.node) == (code, node)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("model.nir", "D2E-LOAD-008"), ("model.net", "D2E-LOAD-008"), ("model.onnx", "D2E-LOAD-001"),
        ("missing.pt", "D2E-LOAD-001"), ("nowhere:make", "D2E-LOAD-012"), (nn.Linear(2, 2), "D2E-LOAD-011"),
        ({"weight": torch.zeros(2)}, "D2E-LOAD-007"), (3, "D2E-LOAD-008"),
        (torch.export.export(nn.ReLU(), (torch.zeros(1, 3),)), "D2E-LOAD-008"),
    ],
    ids=str,
)
def test_what_is_no_ann_is_refused(source, code):
    with pytest.raises(UsageError) as caught:
        load_ann(source)
    assert caught.value.code == code
    assert caught.value.hint

"""What load_ann refuses: all at once, each with its node, its code and the way out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e.compiler.frontends.ann import load_ann
from d2e.ir.errors import D2EError, UnsupportedError


def refused(model, shape=(3, 8, 8)):
    with pytest.raises(UnsupportedError) as caught:
        load_ann(model, input_shape=shape)
    return caught.value


SINGLE, RETRAIN, FINE_TUNE = "single-step", "train again", "fine-tune"


@pytest.mark.parametrize(
    ("layer", "code", "way_out"),
    [
        (nn.GELU(), "D2E-CONV-001", SINGLE), (nn.SiLU(), "D2E-CONV-001", SINGLE), (nn.LayerNorm(8), "D2E-CONV-001", SINGLE),
        (nn.RMSNorm(8), "D2E-CONV-001", SINGLE), (nn.Softmax(1), "D2E-CONV-001", SINGLE),
        (nn.MultiheadAttention(8, 2), "D2E-CONV-001", SINGLE),
        (nn.TransformerEncoderLayer(8, 2), "D2E-CONV-001", SINGLE),
        (nn.LeakyReLU(), "D2E-CONV-001", RETRAIN), (nn.PReLU(), "D2E-CONV-001", RETRAIN),
        (nn.ELU(), "D2E-CONV-001", RETRAIN),
        (nn.Sigmoid(), "D2E-CONV-001", RETRAIN), (nn.Tanh(), "D2E-CONV-001", RETRAIN),
        (nn.Hardswish(), "D2E-CONV-001", RETRAIN), (nn.Hardtanh(), "D2E-CONV-001", RETRAIN),
        (nn.Hardtanh(0.5, 1), "D2E-CONV-001", RETRAIN), (nn.Mish(), "D2E-CONV-001", RETRAIN),
        (nn.LSTM(8, 8), "D2E-CONV-001", "recurrence"), (nn.GRUCell(8, 8), "D2E-CONV-001", "recurrence"),
        (nn.MaxPool2d(2), "D2E-CONV-002", FINE_TUNE), (nn.AdaptiveMaxPool2d(1), "D2E-CONV-002", FINE_TUNE),
        (nn.MaxPool1d(2), "D2E-CONV-002", FINE_TUNE),
        (dn.IF(), "D2E-CONV-003", "directly"), (dn.Recurrent(dn.LIF(0.9), nn.Linear(8, 8)), "D2E-CONV-003", "directly"),
        (nn.GroupNorm(1, 3), "D2E-LAYER-003", "BatchNorm"), (nn.ConvTranspose2d(3, 3, 2), "D2E-LAYER-004", "Linear"),
        (nn.Bilinear(2, 2, 2), "D2E-CONV-001", SINGLE), (nn.PixelShuffle(2), "D2E-LAYER-006", "ReLU"),
        (nn.BatchNorm2d(3, track_running_stats=False), "D2E-LAYER-005", "track_running_stats"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "D2E-LAYER-005", "zeros"),
        (nn.ConstantPad2d(1, 2.0), "D2E-LAYER-005", "zeros"), (nn.BatchNorm2d(4), "D2E-SHAPE-001", ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers(layer, code, way_out):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Sequential(layer), nn.ReLU())
    error = refused(model)
    assert (error.code, error.node) == (code, "1.0")
    assert way_out in (error.hint or "")


class Function(nn.Module):
    """A function behind a layer with ReLU."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function, self.other = nn.Conv2d(3, 3, 1), function, nn.Conv2d(3, 3, 1)
        self.factor = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x):
        return self.other(self.function(torch.relu(self.conv(x))))


@pytest.mark.parametrize(
    ("function", "code", "node", "way_out"),
    [
        (functional.gelu, "D2E-CONV-001", "gelu", SINGLE), (lambda x: x.softmax(-1), "D2E-CONV-001", "softmax", SINGLE),
        (lambda x: x * torch.sigmoid(x), "D2E-CONV-001", "sigmoid", RETRAIN),
        (lambda x: x * x, "D2E-CONV-001", "mul", SINGLE),
        (lambda x: x / x.sum((2, 3), keepdim=True), "D2E-CONV-001", "truediv", SINGLE),
        (lambda x: x @ x, "D2E-CONV-001", "matmul", SINGLE), (lambda x: x**2, "D2E-CONV-001", "pow_1", RETRAIN),
        (lambda x: functional.scaled_dot_product_attention(x, x, x), "D2E-CONV-001", "scaled_dot_product_attention", SINGLE),
        (lambda x: functional.layer_norm(x, (8,)), "D2E-CONV-001", "layer_norm", SINGLE),
        (functional.leaky_relu, "D2E-CONV-001", "leaky_relu", RETRAIN), (torch.tanh, "D2E-CONV-001", "tanh", RETRAIN),
        (lambda x: x.clamp(min=-1), "D2E-CONV-001", "clamp", RETRAIN),
        (lambda x: x.clamp(max=1), "D2E-CONV-001", "clamp", RETRAIN),
        (lambda x: torch.clamp(x, x, x), "D2E-CONV-001", "clamp", RETRAIN),
        (functional.hardtanh, "D2E-CONV-001", "hardtanh", RETRAIN),
        (lambda x: functional.max_pool2d(x, 2), "D2E-CONV-002", "max_pool2d", FINE_TUNE),
        (lambda x: torch.maximum(x, x), "D2E-CONV-002", "maximum", FINE_TUNE),
        (lambda x: x.amax((2, 3)), "D2E-CONV-002", "amax", FINE_TUNE),
        (lambda x: x if x.sum() > 0 else -x, "D2E-TRACE-001", None, ""),
        (lambda x: x.sort(), "D2E-LAYER-006", "sort", "ReLU"),
        (lambda x: x + 1, "D2E-LAYER-006", "add", ""), (lambda x: x[:, 0], "D2E-LAYER-006", "getitem", ""),
        (lambda x: x[:2], "D2E-LAYER-006", "getitem", ""), (lambda x: x.flip(1), "D2E-LAYER-006", "flip", ""),
        (lambda x: x.view(4, -1), "D2E-LAYER-006", "view", ""),
        (lambda x: x.view(x.size(0), 8, 24), "D2E-LAYER-006", "view", ""),
        (lambda x: x.view(x.size(0) * 3, -1), "D2E-LAYER-006", "view", ""),
        (lambda x: x.mean(), "D2E-LAYER-006", "mean", ""),
        (lambda x: x.mean(1), "D2E-LAYER-006", "mean", ""), (lambda x: x.mean((0, 2)), "D2E-LAYER-006", "mean", ""),
        (lambda x: x.squeeze(), "D2E-LAYER-006", "squeeze", ""),
        (lambda x: functional.pad(x, (1, 1), value=2.0), "D2E-LAYER-005", "pad", "value=0"),
        (lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"), "D2E-LAYER-005", "pad", "constant"),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)), "D2E-LAYER-005", "pad", ""),
        (lambda x: torch.cat([x, x], 2), "D2E-LAYER-005", "cat", "channels"),
        (lambda x: torch.cat([x, x]), "D2E-LAYER-005", "cat", "channels"),
        (lambda x: torch.cat([x, x[:, :, ::2]], 1), "D2E-SHAPE-001", "cat", "height"),
        (lambda x: torch.add(x, x[:, :, ::2]), "D2E-SHAPE-001", "add", ""),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 3), "D2E-LAYER-005", "adaptive_avg_pool2d", ""),
    ],
)
def test_functions(function, code, node, way_out):
    error = refused(nn.Sequential(Function(function)))
    assert error.code == code
    assert (error.node or "").startswith(f"0.{node}" if node else "0")
    assert way_out in (error.hint or "")


def test_a_parameter_as_factor_is_named():
    class Scaled(Function):
        def forward(self, x):
            return torch.relu(self.conv(x)) * self.factor

    error = refused(Scaled(None))
    assert [(f.code, f.node) for f in error.findings] == [("D2E-LAYER-006", "factor")]


@pytest.mark.parametrize(
    "last",
    [
        nn.Softmax(-1), nn.LogSoftmax(1), nn.Sigmoid(), lambda x: functional.log_softmax(x, dim=1), torch.sigmoid,
        lambda x: x.softmax(1),
    ],
)
def test_probabilities_at_the_end_are_to_be_left_out(last):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.relu, self.out, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), last

        def forward(self, x):
            return self.last(self.out(self.relu(self.fc(x))))

    error = refused(Model(), (4,))
    assert error.code == "D2E-CONV-001"
    assert "Leave it out" in error.hint


def test_everything_is_told_at_once():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.GELU(), dn.IF(), nn.Conv2d(4, 4, 1), nn.PReLU(), nn.Fold(2, 2),
        nn.Softmax(1),
    )
    with torch.no_grad():
        model[4].bias[1] = float("inf")
    assert [(f.code, f.node) for f in refused(model).findings] == [
        ("D2E-CONV-002", "1"), ("D2E-CONV-001", "2"), ("D2E-CONV-003", "3"), ("D2E-CONV-005", "4"), ("D2E-CONV-001", "5"),
        ("D2E-LAYER-006", "6"), ("D2E-CONV-001", "7"),
    ]


def test_a_layer_called_twice_is_told_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.pool(self.pool(x)))

    assert [(f.code, f.node) for f in refused(Twice()).findings] == [("D2E-CONV-002", "pool")]


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), nn.Flatten()])
def test_a_model_without_relu_is_refused(model):
    error = refused(model, (3,) if isinstance(model, nn.Linear) else (3, 1))
    assert error.code == "D2E-CONV-004"
    assert error.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["0.weight", "0.bias", "1.running_var", "1.bias"])
def test_weights_that_are_no_numbers_are_named(part, value):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    with torch.no_grad():
        model.state_dict()[part].view(-1)[1] = value
    error = refused(model)
    assert (error.code, error.node) == ("D2E-CONV-005", part[0])


def test_a_network_with_weights_that_are_no_numbers_is_refused():
    network = load_ann(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), input_shape=(2,))
    broken = network.with_nodes({"0": replace(network.nodes["0"], bias=np.array([0, np.nan]))})
    with pytest.raises(D2EError) as caught:
        load_ann(broken)
    assert (caught.value.code, caught.value.node) == ("D2E-CONV-005", "0")


class Changed(nn.Module):
    """A ReLU that changes what is read again."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.other, self.relu, self.function = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU(True), function

    def forward(self, x):
        return self.function(self, self.conv(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.other(net.relu(x)) + x, lambda net, x: functional.relu_(x) + net.other(x),
        lambda net, x: net.other(functional.relu(x, inplace=True)) + x, lambda net, x: x.flatten(1).relu_() + x.flatten(1),
        lambda net, x: (net.relu(x), net.other(x))[1], lambda net, x: (x.view(x.size(0), -1).relu_(), net.other(x))[1],
        lambda net, x: (lambda flat: net.relu(x).flatten(1) + flat)(x.flatten(1)),
    ],
)
def test_in_place_on_what_is_read_again(function):
    error = refused(Changed(function))
    assert error.code == "D2E-LAYER-006"
    assert "in place" in error.message

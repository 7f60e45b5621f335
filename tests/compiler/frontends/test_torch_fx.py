"""from_torch: what torch computes is what the network means; what cannot be is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e import ir
from d2e.compiler.frontends.modules import ROWS
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir.errors import D2EError, UnsupportedError, UsageError


def test_the_network_computes_what_torch_computes(example, assert_equal):
    model, shape, frames = example
    assert_equal(model, shape, frames)


def test_random_convolutional_networks(assert_equal):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        groups = int(rng.choice([1, 2]))
        kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
        same = rng.random() < 0.3
        conv = nn.Conv2d(
            2, 4, kernel, stride=1 if same else tuple(int(s) for s in rng.integers(1, 3, 2)),
            padding="same" if same else tuple(int(p) for p in rng.integers(0, 3, 2)),
            dilation=tuple(int(d) for d in rng.integers(1, 3, 2)), groups=groups,
            bias=bool(rng.random() < 0.5),
        )
        reset, most = str(rng.choice(["subtract", "zero"])), int(rng.integers(1, 4))
        neuron = dn.LIF(float(rng.uniform(0.5, 1)), 0.1, reset, most)
        model = dn.Sequential(conv, neuron, nn.Flatten(), nn.LazyLinear(3), dn.LI(0.9)).double()
        frames = (torch.rand(2, 8, 2, 7, 8) < 0.5).double()
        model(frames)
        assert_equal(model, (2, 7, 8), frames)


def test_names_facts_and_precision():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential()
            self.features.add_module("a/b", nn.Linear(2, 3))
            self.input = dn.IF()

        def forward(self, x):
            return self.input(self.features(x))

    model = Net()
    network = from_torch(
        model, [2], time_steps=8, coding="direct", max_payload=3, readout="last", dt=1e-3, name="net"
    )
    assert list(network.nodes) == ["input", "features.a_b", "input_2", "output"]
    assert network.input.same(ir.Input(shape=(2,), time_steps=8, coding="direct", max_payload=3, dt=1e-3))
    assert network.output.readout == "last"
    assert dict(network.metadata) == {"source": "torch", "name": "net"}
    weight = network.nodes["features.a_b"].weight
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, model.features[0].weight.detach().numpy())
    assert from_torch(model.double(), [2]).nodes["features.a_b"].weight.dtype == np.float64


def test_layers_become_the_nodes_that_say_the_same():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), dn.IF(), nn.AvgPool2d(2), dn.SumPool2d(1),
        nn.Flatten(), nn.Dropout(), nn.Linear(18, 4, bias=False), nn.Identity(), nn.BatchNorm1d(4),
        dn.CubaLIF(0.5, 0.9),
        nn.Linear(4, 2, bias=False), dn.LI(0.5),
    )
    kinds = [node.kind for node in from_torch(model, (1, 8, 8)).nodes.values()]
    assert kinds == [
        "input", "conv2d", "if", "avg_pool2d", "sum_pool2d", "flatten", "affine", "cuba_lif", "linear", "li",
        "output",
    ]


class Function(nn.Module):
    """A model around one function of the frame."""

    def __init__(self, function, neuron=None):
        super().__init__()
        self.function, self.first, self.neuron = function, dn.IF(0.7), neuron or dn.IF(0.8)

    def forward(self, x):
        return self.neuron(self.function(self.first(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x, lambda x: torch.add(x, x, alpha=0.5), lambda x: x.add(x), lambda x: x * 0.5 + 2 * x,
        lambda x: x.flatten(2), lambda x: torch.flatten(x, start_dim=2), lambda x: x.flatten(-2, -1),
        lambda x: torch.flatten(x, 2, 3), lambda x: x.contiguous(),
        lambda x: functional.dropout(x, training=False),
    ],
)
def test_functions_in_a_forward_around_neurons(function, assert_equal):
    frames = torch.rand(2, 6, 2, 4, 4, dtype=torch.float64)
    assert_equal(Function(function).double(), (2, 4, 4), frames, coding="direct")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.avg_pool2d(x, 2),
        lambda x: functional.avg_pool2d(x, (2, 1), stride=1, padding=(1, 0)),
        lambda x: functional.adaptive_avg_pool2d(x, 2), lambda x: x.flatten(1), lambda x: torch.flatten(x, 2),
    ],
)
def test_functions_on_folded_frames(function, assert_equal):
    class Frame(nn.Module):
        def forward(self, x):
            return function(x)

    frames = torch.rand(2, 6, 2, 4, 4, dtype=torch.float64)
    assert_equal(Function(dn.TimeFolded(Frame())).double(), (2, 4, 4), frames, coding="direct")


def test_a_skip_around_a_convolution_keeps_its_batch_norm_apart(assert_equal):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = dn.TimeFolded(nn.Conv2d(2, 2, 1)), dn.TimeFolded(nn.BatchNorm2d(2))
            self.neuron = dn.IF(0.5)

        def forward(self, x):
            x = self.conv(x)
            x.add_(self.norm(x))
            return self.neuron(x)

    frames = torch.rand(2, 6, 2, 3, 3, dtype=torch.float64)
    model = Net().double()
    model(frames)
    with pytest.raises(UnsupportedError, match="in place"):
        from_torch(model.eval(), (2, 3, 3))
    Net.forward = lambda self, x: self.neuron(self.conv(x).add_(self.norm(self.conv(x))))
    network = assert_equal(model, (2, 3, 3), frames, coding="direct")
    assert {"conv.layer", "conv.layer_2"} <= network.nodes.keys()
    Net.forward = lambda self, x: (lambda y: self.neuron(y + self.norm(y)))(self.conv(x))
    network = assert_equal(model, (2, 3, 3), frames, coding="direct")
    assert network.nodes["norm.layer"].kind == "conv2d"


def test_a_subclass_follows_its_base_unless_it_computes_something_else():
    class Named(nn.Linear):
        pass

    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    assert from_torch(nn.Sequential(Named(2, 2), dn.IF()), (2,)).nodes["0"].kind == "affine"
    with pytest.raises(UnsupportedError):
        from_torch(nn.Sequential(Doubled(2, 2), dn.IF()), (2,))


def test_rows_can_be_added_by_class_name(monkeypatch):
    class Foreign(nn.Module):
        def forward(self, x):
            return x

    monkeypatch.setitem(
        ROWS, f"{Foreign.__module__}.{Foreign.__qualname__}",
        lambda build, name, module, flow: build.add(name, ir.IF(shape=flow.shape), flow),
    )
    assert from_torch(nn.Sequential(nn.Linear(2, 2), Foreign()), (2,)).nodes["1"].kind == "if"


@pytest.mark.parametrize(
    ("layer", "code", "way_out"),
    [
        (nn.MaxPool2d(2), "D2E-LAYER-001", "AvgPool2d"),
        (nn.AdaptiveMaxPool2d(1), "D2E-LAYER-001", "stride"),
        (nn.ReLU(), "D2E-LAYER-002", "d2e.nn.IF"),
        (nn.GELU(), "D2E-LAYER-002", "d2e.nn.IF"),
        (nn.Softmax(1), "D2E-LAYER-002", "d2e.nn.IF"),
        (nn.LayerNorm(4), "D2E-LAYER-003", "BatchNorm"),
        (nn.GroupNorm(1, 2), "D2E-LAYER-003", "BatchNorm"),
        (nn.InstanceNorm2d(2), "D2E-LAYER-003", "BatchNorm"),
        (nn.Upsample(scale_factor=2), "D2E-LAYER-004", "Linear"),
        (nn.ConvTranspose2d(2, 2, 2), "D2E-LAYER-004", "Linear"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "D2E-LAYER-005", "zeros"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "D2E-LAYER-005", "count_include_pad"),
        (nn.AvgPool2d(3, ceil_mode=True), "D2E-LAYER-005", "ceil_mode"),
        (nn.AdaptiveAvgPool2d(3), "D2E-LAYER-005", "AvgPool2d"),
        (nn.BatchNorm2d(2, track_running_stats=False), "D2E-LAYER-005", "track_running_stats"),
        (nn.LazyConv2d(2, 1), "D2E-LAYER-005", "lazy"),
        (nn.Bilinear(2, 2, 2), "D2E-LAYER-006", "compile"),
        (nn.LSTM(4, 4), "D2E-LAYER-006", "compile"),
        (nn.BatchNorm2d(3), "D2E-SHAPE-001", ""),
        (nn.Conv1d(2, 2, 1), "D2E-SHAPE-001", ""),
        (nn.Linear(32, 2), "D2E-SHAPE-001", "Flatten"),
        (nn.Flatten(0), "D2E-SHAPE-001", "batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_that_do_not_compile_are_named_with_the_way_out(layer, code, way_out):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1), dn.IF()), nn.Sequential(layer))
    with pytest.raises(UnsupportedError) as caught:
        from_torch(model, (2, 4, 4))
    assert (caught.value.code, caught.value.node) == (code, "1.0")
    assert way_out in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (torch.relu, "D2E-LAYER-002"), (functional.relu, "D2E-LAYER-002"),
        (lambda x: x.relu_(), "D2E-LAYER-002"),
        (lambda x: functional.max_pool2d(x, 2), "D2E-LAYER-001"), (lambda x: x.mean(1), "D2E-LAYER-006"),
        (lambda x: x * x, "D2E-LAYER-006"), (lambda x: x + 1, "D2E-LAYER-006"),
        (lambda x: x.reshape(1, -1), "D2E-LAYER-006"), (lambda x: x if x.sum() > 0 else -x, "D2E-TRACE-001"),
        (lambda x: sum(x[:, t] for t in range(x.shape[1])), "D2E-TRACE-001"),
        (lambda x: x + x.flatten(2), "D2E-SHAPE-001"),
    ],
)
def test_functions_that_do_not_compile(function, code):
    with pytest.raises(UnsupportedError) as caught:
        from_torch(nn.Sequential(Function(function)), (2, 4, 4))
    assert caught.value.code == code
    assert caught.value.node.startswith("0")
    assert caught.value.hint


def test_a_neuron_used_twice_is_refused():
    neuron = dn.IF()
    with pytest.raises(UnsupportedError, match="used twice") as caught:
        from_torch(nn.Sequential(nn.Linear(2, 2), neuron, nn.Linear(2, 2), neuron), (2,))
    assert (caught.value.code, caught.value.node) == ("D2E-LAYER-007", "1")


def test_a_linear_layer_used_twice_is_fine(assert_equal):
    torch.manual_seed(1)
    linear = nn.Linear(4, 4)
    model = dn.Sequential(linear, dn.IF(0.2), linear, dn.IF(0.2)).double()
    network = assert_equal(model, (4,), (torch.rand(2, 8, 4) < 0.5).double())
    assert {"0", "0_2"} <= network.nodes.keys()


def test_a_recurrent_layer_must_keep_the_shape():
    with pytest.raises(UnsupportedError, match="keep the shape") as caught:
        from_torch(dn.Recurrent(dn.IF(), nn.Conv2d(2, 3, 1)), (2, 4, 4))
    assert caught.value.node == "0.layer"


def test_models_of_several_tensors_are_refused():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    for model in (Two(), Pair()):
        with pytest.raises(UnsupportedError) as caught:
            from_torch(model, (2,))
        assert caught.value.code == "D2E-TRACE-002"


@pytest.mark.parametrize(
    "facts",
    [
        {"input_shape": ()}, {"input_shape": (0, 2)}, {"input_shape": (2.0,)}, {"time_steps": 0},
        {"coding": "rate"}, {"max_payload": 0}, {"readout": "median"}, {"dt": -1.0},
    ],
)
def test_facts_without_meaning_are_refused(facts):
    with pytest.raises(UsageError) as caught:
        from_torch(dn.IF(), **{"input_shape": (2,), **facts})
    assert caught.value.code == "D2E-LOAD-010"


def test_weights_that_are_not_numbers_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), dn.IF())
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(D2EError) as caught:
        from_torch(model, (2,))
    assert (caught.value.code, caught.value.node) == ("D2E-NODE-002", "0")


def test_a_threshold_of_another_shape_is_refused():
    with pytest.raises(D2EError) as caught:
        from_torch(dn.IF(torch.ones(5)), (2,))
    assert caught.value.code == "D2E-NODE-003"


def test_everything_without_a_form_is_told_at_once():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.pool = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x):
            return torch.sigmoid(self.pool(self.act(self.conv(x))))

    with pytest.raises(UnsupportedError) as caught:
        from_torch(Model(), (1, 8, 8))
    assert [(f.code, f.node) for f in caught.value.findings] == [
        ("D2E-LAYER-002", "act"), ("D2E-LAYER-001", "pool"), ("D2E-LAYER-002", "sigmoid"),
    ]

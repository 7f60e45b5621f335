"""Functions on whole frames (slices, padding, concatenation, means, views): the same numbers in ANNs and spiking models."""

import numpy as np
import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.frontends.ann_networks import assert_same, evaluate
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e.compiler.frontends import against, frames
from d2e.compiler.frontends.ann import load_ann
from d2e.compiler.frontends.builder import Builder
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import Input, UnsupportedError


def made(shape, function, values):
    """What the nodes of ``function(build, flow)`` compute."""
    build = Builder(Input(shape=shape, coding="direct"), {})
    flow = function(build, build.start)
    if flow is build.start:
        return values
    network = build.finish(flow, "last")
    assert network.output.shape == flow.shape
    return evaluate(network, values)


@st.composite
def slices(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    ends = st.one_of(st.none(), st.integers(-9, 9))
    return shape, [slice(draw(ends), draw(ends), draw(st.one_of(st.none(), st.integers(1, 4)))) for _ in shape]


@settings(deadline=None, max_examples=200)
@given(slices())
def test_any_slice_is_exact(example):
    shape, index = example
    values = np.random.default_rng(0).normal(size=(2, *shape))
    wanted = values[(slice(None), *index)]
    kept = [range(n)[entry] for n, entry in zip(shape, index, strict=True)]
    if wanted.size == 0:
        with pytest.raises(UnsupportedError, match="nothing"):
            made(shape, lambda build, flow: frames.select(build, "x", flow, kept), values)
        return
    np.testing.assert_array_equal(made(shape, lambda build, flow: frames.select(build, "x", flow, kept), values), wanted)


@st.composite
def paddings(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    return shape, [(draw(st.integers(-2, 4)), draw(st.integers(-2, 4))) for _ in shape]


@settings(deadline=None, max_examples=200)
@given(paddings())
def test_any_padding_with_zeros_is_exact(example):
    shape, zeros = example
    values = torch.randn(2, *shape, dtype=torch.float64)
    if any(n + min(0, a) + min(0, b) < 0 for n, (a, b) in zip(shape, zeros, strict=True)):
        return  # torch cuts first, and cannot
    if any(n + a + b < 1 for n, (a, b) in zip(shape, zeros, strict=True)):
        with pytest.raises(UnsupportedError, match="nothing"):
            made(shape, lambda build, flow: frames.pad(build, "x", flow, zeros), values)
        return
    wanted = functional.pad(values, [n for pair in zeros[::-1] for n in pair]).numpy()
    found = made(shape, lambda build, flow: frames.pad(build, "x", flow, zeros), values.numpy())
    np.testing.assert_array_equal(found, wanted)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 3), max_size=2))
def test_any_concatenation_of_channels_is_exact(sizes, space):
    shape = (max(sizes), *space)
    values = np.random.default_rng(1).normal(size=(2, *shape))

    def join(build, flow):
        rest = [range(n) for n in space]
        return frames.concat(build, "x", [frames.select(build, "x", flow, [range(n), *rest]) for n in sizes])

    wanted = np.concatenate([values[:, :n] for n in sizes], axis=1)
    np.testing.assert_array_equal(made(shape, join, values), wanted)


def test_whole_slices_and_no_padding_add_nothing():
    build = Builder(Input(shape=(3, 4, 4)), {})
    assert frames.select(build, "x", build.start, [range(3), range(4), range(4)]) is build.start
    assert frames.pad(build, "x", build.start, [(0, 0)] * 3) is build.start
    assert frames.concat(build, "x", [build.start]) is build.start
    assert len(build.nodes) == 1


def test_strides_are_depthwise_and_channels_one_by_one():
    class Shortcut(nn.Module):
        def forward(self, x):
            return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))

    nodes = load_ann(nn.Sequential(Shortcut(), nn.ReLU()), input_shape=(4, 8, 8)).nodes
    assert [(n.weight.shape, n.stride, n.groups) for n in nodes.values() if n.kind == "conv2d"] == [
        ((4, 1, 1, 1), (2, 2), 4), ((8, 4, 1, 1), (1, 1), 1),
    ]


MAPS = [
    lambda x: x[:, :, ::2, ::2], lambda x: x[..., ::2, 1::3], lambda x: x[:, 1:3], lambda x: x[:, ::2, 1:-1, 2:],
    lambda x: x[:, : x.size(1) // 2], lambda x: x[:], lambda x: x[:, -2:, :, :5],
    lambda x: functional.pad(x, (1, 1, 2, 2)), lambda x: functional.pad(x, (1, 0, 0, 2, 1, 3), "constant", 0),
    lambda x: functional.pad(x, (-1, 1, 0, 0)), nn.ZeroPad2d((1, 2, 0, 1)), nn.ConstantPad2d(1, 0.0),
    lambda x: functional.pad(x, [0, 0, 0, 0, x.shape[1] // 4, x.shape[1] // 4]),
    lambda x: torch.cat([x, 2 * x], 1), lambda x: torch.cat((x, x, x[:, :1]), dim=-3), lambda x: torch.concat([x, x], dim=1),
    lambda x: x.mean((2, 3)), lambda x: torch.mean(x, dim=[2, 3], keepdim=True), lambda x: x.mean(3).mean(2),
    lambda x: x.mean([-1, -2]), lambda x: x.mean(-1), lambda x: torch.sum(x, (2, 3)), lambda x: x.sum(dim=2, keepdim=True),
    lambda x: x.view(x.size(0), -1), lambda x: x.reshape(x.shape[0], -1), lambda x: x.view(-1, 4 * 6 * 7),
    lambda x: torch.reshape(x, (x.size(0), x.size(1) * x.size(2), x.size(3))), lambda x: x.view(x.size(0), x.size(1), -1),
    lambda x: x.view(x.shape[:2] + (-1,)),  # noqa: RUF005 - a starred proxy cannot be traced
    lambda x: x.view((x.shape[0], x.shape[1], -1)), lambda x: x.view(x.size()),
    lambda x: functional.avg_pool2d(x, x.size()[2:]), lambda x: functional.avg_pool2d(x, (x.size(2), x.size(3))).flatten(1),
    lambda x: functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), lambda x: functional.adaptive_avg_pool2d(x, (1,
    1)),
    lambda x: torch.squeeze(functional.adaptive_avg_pool2d(x, 1), 3), lambda x: x.mean(2, keepdim=True).squeeze((2, 3)),
]
"""Functions of [batch, 4, 6, 7]."""
SEQUENCES = [
    lambda x: x[:, :, ::2], lambda x: x[:, 1:, 2:-1], lambda x: functional.pad(x, (2, 1)), nn.ZeroPad1d(2),
    lambda x: torch.cat([x, x], 1), lambda x: x.mean(2), lambda x: x.sum(-1), lambda x: x.mean(-1, keepdim=True),
    lambda x: x.view(x.size(0), -1), lambda x: functional.pad(x, (0, 0, 1, 1)),
]
"""Functions of [batch, 4, 6]."""
FEATURES = [
    lambda x: x[:, 2:], lambda x: x[:, ::3], lambda x: torch.cat([x, x], dim=-1), lambda x: torch.cat([x[:, :2], x], 1),
    lambda x: functional.pad(x, (1, 2)), lambda x: x.view(x.size(0), -1),
]
"""Functions of [batch, 5]."""
CASES = [((4, 6, 7), f) for f in MAPS] + [((4, 6), f) for f in SEQUENCES] + [((5,), f) for f in FEATURES]


class Ann(nn.Module):
    """A function between two ReLUs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return torch.relu(self.function(torch.relu(x)))


@pytest.mark.parametrize(("shape", "function"), CASES)
def test_functions_in_an_ann(shape, function):
    torch.manual_seed(5)
    model = Ann(function)
    network = load_ann(model, input_shape=shape)
    merges = all(node.kind != "flatten" or len(network.output.shape) == 1 for node in network.nodes.values())
    assert_same(model, network, merges)


class Frame(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(("shape", "function"), CASES)
def test_functions_on_the_frames_of_a_spiking_model(shape, function, assert_equal):
    torch.manual_seed(6)
    model = dn.Sequential(dn.IF(0.6), Frame(function), dn.IF(0.9)).double()
    assert_equal(model, shape, (torch.rand(2, 6, *shape) < 0.6).double())


class Spiking(nn.Module):
    """A function over batch and time between two neurons."""

    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.second = function, dn.IF(0.6), dn.LIF(0.9, 0.4)

    def forward(self, x):
        return self.second(self.function(self.first(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, :, ::2, ::2], lambda x: x[..., 1:, ::3], lambda x: x[:, :, 1:3], lambda x: x[:, :],
        lambda x: functional.pad(x, (1, 1, 2, 2)), lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1)),
        lambda x: torch.cat([x, x], 2), lambda x: torch.cat([x, x[:, :, :2]], -3), lambda x: x.mean((3, 4)),
        lambda x: x.mean((-1, -2)), lambda x: x.view(x.size(0), x.size(1), -1), lambda x: x.view(-1, x.size(1), 4 * 6 * 7),
        lambda x: x.reshape(x.shape[:2] + (-1,)),  # noqa: RUF005 - a starred proxy cannot be traced
        lambda x: x.mean(-1, keepdim=True).squeeze(4),
    ],
)
def test_functions_over_batch_and_time(function, assert_equal):
    torch.manual_seed(7)
    assert_equal(Spiking(function).double(), (4, 6, 7), (torch.rand(2, 6, 4, 6, 7) < 0.6).double())


def test_a_sequential_with_a_forward_of_its_own_counts_batch_and_time(assert_equal):
    class Own(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x)[:, :, :, 1:, ::3].flatten(2))

    torch.manual_seed(8)
    model = Own(dn.IF(0.6), dn.IF(0.7)).double()
    assert_equal(model, (2, 4, 6), (torch.rand(2, 6, 2, 4, 6) < 0.6).double())


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (lambda x: x[:, ::2], "D2E-LAYER-006"), (lambda x: x[1:], "D2E-LAYER-006"),
        (lambda x: torch.cat([x, x], 1), "D2E-LAYER-005"),
        (lambda x: x.mean(1), "D2E-LAYER-006"), (lambda x: x.mean((1, 3)), "D2E-LAYER-006"),
        (lambda x: x.view(x.size(0), -1), "D2E-LAYER-006"), (lambda x: x.view(x.size(1), x.size(0), -1), "D2E-LAYER-006"),
        (lambda x: x.view(-1, 4, 6 * 7), "D2E-LAYER-006"), (lambda x: functional.pad(x, [0] * 6 + [1, 0]), "D2E-LAYER-005"),
        (lambda x: x.squeeze(1), "D2E-LAYER-006"), (lambda x: x[:, :, 0], "D2E-LAYER-006"),
    ],
)
def test_batch_and_time_stay_as_they_are(function, code):
    with pytest.raises(UnsupportedError) as caught:
        from_torch(Spiking(function), (4, 6, 7))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, ::2, ::2], lambda x: torch.cat([x, x[:, :1]], 1), lambda x: functional.pad(x, (1, 1, 0, 0, 1, 0)),
        lambda x: x.mean((2, 3)), lambda x: x[:, 1:],
    ],
)
def test_functions_in_a_loop_over_time(function):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif1, self.lif2 = snn.Leaky(beta=0.9, threshold=0.8), snn.Leaky(beta=0.8, threshold=0.4)

        def forward(self, x):
            mem1, mem2, sent = self.lif1.init_leaky(), self.lif2.init_leaky(), []
            for step in range(x.size(0)):
                spikes, mem1 = self.lif1(x[step], mem1)
                spikes, mem2 = self.lif2(function(spikes), mem2)
                sent.append(spikes)
            return torch.stack(sent)

    model = Loop()
    network = from_torch(model, (2, 5, 6))
    assert against.compare(model, network, (torch.rand(2, 12, 2, 5, 6) < 0.5).float().numpy()).agreement == 1.0


def test_frames_of_four_axes_are_not_cut():
    build = Builder(Input(shape=(2, 2, 2, 2)), {})
    with pytest.raises(UnsupportedError) as caught:
        frames.select(build, "x", build.start, [range(2), range(2), range(2), range(1)])
    assert caught.value.code == "D2E-LAYER-005"

"""What samna and sinabs leave unchecked, write wrongly or refuse without need: here told in a sentence, or done right."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from tests.backends.speck.trap_models import TRAPS, Branches, Trap, TwoPools, chain, conv, dense, neuron
from torch import nn

import d2e
from d2e import nn as snn
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.layer import Layer
from d2e.backends.speck.lowering import configure, layers
from d2e.compiler.notes import warnings
from d2e.compiler.program import Program
from d2e.ir import UnsupportedError


def compiled(model: nn.Module, *input_shape: int, **options: Any) -> Program:
    return d2e.compile(model, **{"target": "speck2f-sim", "input_shape": input_shape, "time_steps": 6, **options})


def lowered(model: nn.Module, *input_shape: int) -> list[Layer]:
    return layers(compiled(model, *input_shape).network)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
def test_refused(trap: Trap) -> None:
    with pytest.raises(UnsupportedError) as caught:
        compiled(trap.model(), *trap.input_shape, **trap.options)
    error = caught.value
    assert error.code.startswith(trap.code)
    assert re.search(trap.says, error.message), error.message
    assert error.hint
    assert error.node == trap.node


def test_everything_is_told_at_once() -> None:
    model = chain(conv(1, 2, 3, stride=3), snn.LIF(0.9), conv(2, 2, 3, padding=1), snn.IF(refractory=1), conv(2, 2, 3))
    with pytest.raises(UnsupportedError) as caught:
        compiled(model, 1, 12, 12)
    codes = {finding.code for finding in caught.value.findings}
    assert codes >= {"D2E-SPECK-002", "D2E-SPECK-004", "D2E-SPECK-006", "D2E-SPECK-011"}


# --------------------------------------------------------------------------- geometry that is written out, exactly


def _written_out(layer: nn.Conv2d, kernel: int, padding: int) -> np.ndarray:
    """The weights of the same linear map as a dense convolution with a square kernel, tap by tap."""
    full = np.zeros((layer.out_channels, layer.in_channels, kernel, kernel))
    per_group, (dy, dx), (py, px) = layer.in_channels // layer.groups, layer.dilation, layer.padding
    for out in range(layer.out_channels):
        first = out * layer.groups // layer.out_channels * per_group
        for i, j in np.ndindex(*layer.kernel_size):
            tap = layer.weight[out, :, i, j].detach().numpy()
            full[out, first : first + per_group, padding - py + i * dy, padding - px + j * dx] = tap
    return full


@pytest.mark.parametrize(("options", "kernel", "padding"), [
    ({"kernel_size": 3, "dilation": 2, "padding": 2}, 5, 2),
    ({"kernel_size": 3, "groups": 2, "padding": 1}, 3, 1),
    ({"kernel_size": (1, 3), "padding": (0, 1)}, 3, 1),
    ({"kernel_size": (2, 3), "padding": (2, 2), "groups": 4, "dilation": (4, 2)}, 5, 2),
], ids=["dilation", "groups", "rectangular", "all of them"])
def test_any_kernel_is_written_out(options: dict[str, Any], kernel: int, padding: int) -> None:
    layer = conv(4, 4, **options)
    (made,) = lowered(chain(layer, neuron()), 4, 8, 8)
    assert (made.kernel_size, made.padding) == (kernel, (padding, padding))
    assert made.output[1:] == tuple(layer(torch.zeros(1, 4, 8, 8)).shape[2:])
    assert np.array_equal(made.weights, np.rint(_written_out(layer, kernel, padding) * made.threshold_high))


@pytest.mark.parametrize(("maps", "shape"), [
    (conv(4, 4, 3, dilation=2, padding=2), (4, 8, 8)), (conv(4, 4, 3, groups=2, padding=1), (4, 8, 8)),
    (conv(4, 4, (1, 3), padding=(0, 1)), (4, 8, 8)), (chain(nn.Flatten(), dense(2 * 5 * 7, 6)), (2, 5, 7)),
    (chain(nn.AvgPool2d(3, stride=2), conv(2, 3, 1)), (2, 9, 11)), (conv(2, 3, 2, stride=(1, 4)), (2, 6, 9)),
    (chain(snn.SumPool2d(8), conv(1, 8, 1)), (1, 16, 24)),
], ids=["dilation", "groups", "rectangular", "dense, not square", "overlapping pool", "strides", "pool by 8"])
def test_any_map_gives_its_own_spikes(maps: nn.Module, shape: tuple[int, int, int]) -> None:
    """The simulator's spikes beside torch's answer to every event alone, added up in integers."""
    program = compiled(chain(maps, neuron()), *shape, target="speck2f-sim{events=raster}")
    (layer,) = layers(program.network)
    frames = (np.random.default_rng(1).random((6, *shape)) < 0.3).astype(np.int64)
    with torch.no_grad():
        answers = maps(torch.eye(int(np.prod(shape))).reshape(-1, *shape)).numpy()
    weights = np.rint(answers * layer.threshold_high)
    v, counts = np.zeros(answers.shape[1:]), np.zeros(answers.shape[1:])
    for event in (e for frame in frames for e in np.flatnonzero(frame)):
        v = np.maximum(v + weights[event], layer.threshold_low)
        counts += v >= layer.threshold_high
        v -= layer.threshold_high * (v >= layer.threshold_high)
    assert counts.sum() > 10
    assert np.array_equal(program.run(frames[None]).output[0].sum(axis=0), counts)


def test_a_dense_layer_on_a_map_that_is_not_square() -> None:
    head = [nn.Flatten(), dense(2 * 5 * 7, 3), neuron(), dense(3, 2), neuron()]
    first, second, third = lowered(chain(conv(1, 2, 3, padding=1), neuron(), *head), 1, 5, 7)
    assert second.output == (3, 1, 1)
    assert second.input == first.output == (2, 5, 7)
    assert third.input == (3, 1, 1)


@pytest.mark.parametrize(("pool", "window", "step"), [(nn.AvgPool2d(3, stride=2), 3, 2), (snn.SumPool2d(8), 8, 8)])
def test_pooling_the_chip_lacks_becomes_a_stride(pool: nn.Module, window: int, step: int) -> None:
    _, second = lowered(chain(conv(1, 2, 1), neuron(), pool, conv(2, 2, 1), neuron()), 1, 16, 16)
    pooling = second.links[0].pooling
    assert (pooling * second.kernel_size, pooling * second.stride[0], pooling * second.stride[1]) == (window, step, step)
    assert (second.weights == second.weights[:, :, :1, :1]).all()


def test_conflicting_average_pools_keep_their_own_factors() -> None:
    """One scale for both branches would be wrong by a factor of 4."""
    model = TwoPools()
    joined = lowered(model, 1, 16, 16)[-1]
    assert sorted(link.pooling for link in joined.links) == [2, 4]
    for link, pool, each in zip(joined.links, (4, 2), (model.maps[0], model.maps[1]), strict=True):
        kernels = joined.weights[:, link.shift : link.shift + 2, 0, 0] / joined.threshold_high
        wanted = each.layer.weight.detach().numpy()[:, :, 0, 0] / pool**2
        assert link.pooling == pool
        assert np.allclose(kernels, wanted, atol=0.5 / joined.threshold_high)


# --------------------------------------------------------------------------- numbers


def test_no_floor_keeps_the_weights() -> None:
    bounded, free = (lowered(chain(conv(1, 2, 3), neuron(v_min=v_min)), 1, 8, 8)[0] for v_min in (-1.0, None))
    assert np.array_equal(bounded.weights, free.weights)
    assert bounded.threshold_high == free.threshold_high
    assert -32768 <= free.threshold_low < -30000


def test_a_floor_of_zero_becomes_minus_one_with_a_warning() -> None:
    program = compiled(chain(conv(1, 2, 3), neuron(v_min=0.0)), 1, 8, 8)
    (layer,) = layers(program.network)
    assert layer.threshold_low == -1
    assert "D2E-SPECK-022" in _codes(program)


def test_a_large_bias_leaves_the_weights_their_resolution() -> None:
    layer = conv(1, 2, 3, bias=True)
    nn.init.constant_(layer.bias, 2.0)
    plain, biased = (lowered(chain(each, neuron()), 1, 8, 8)[0] for each in (conv(1, 2, 3), layer))
    assert np.array_equal(plain.weights, biased.weights)
    assert biased.bias is not None
    assert biased.bias.tolist() == [2 * biased.threshold_high] * 2


def test_a_state_left_over_from_training_is_not_exported() -> None:
    model = snn.Sequential(conv(1, 2, 3), neuron())
    fresh = configured(model)
    model(torch.ones(1, 5, 1, 8, 8))
    assert configured(model).to_json() == fresh.to_json()
    assert fresh.cnn_layers[min(fresh.cnn_layers)].neurons_initial_value is None


def configured(model: nn.Module, *shape: int, **options: Any) -> Configuration:
    return configure(compiled(model, *(shape or (1, 8, 8)), **options).network)


def test_biases_never_lie_on_cores_whose_leak_is_reported_broken() -> None:
    configuration = configured(chain(
        conv(1, 2, 3, bias=True), neuron(), conv(2, 2, 3), neuron(), conv(2, 2, 3, bias=True), neuron()), 1, 16, 16)
    biased = {core for core, layer in configuration.cnn_layers.items() if layer.biases is not None}
    assert len(biased) == 2
    assert not biased & {0, 1}


def test_batch_norm_is_folded_with_its_epsilon() -> None:
    norm = nn.BatchNorm2d(2, eps=0.5)
    with torch.no_grad():
        assert norm.running_var is not None
        norm.running_var.fill_(0.5)
    (layer,) = lowered(chain(conv(1, 2, 3), norm, neuron()).eval(), 1, 8, 8)
    (plain,) = lowered(chain(conv(1, 2, 3), neuron()), 1, 8, 8)
    ratio = layer.weights.max() / layer.threshold_high / (plain.weights.max() / plain.threshold_high)
    assert ratio == pytest.approx(1.0, rel=0.01)


def test_weights_above_the_threshold_are_told() -> None:
    layer = conv(1, 2, 3)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 3.0
    program = compiled(chain(layer, neuron()), 1, 8, 8)
    assert "D2E-SPECK-020" in _codes(program)


def test_padding_after_an_odd_map_is_told() -> None:
    program = compiled(
        chain(conv(1, 2, 3, padding=1), neuron(), snn.SumPool2d(2), conv(2, 2, 3, padding=1), neuron()), 1, 9, 9)
    assert "D2E-SPECK-025" in _codes(program)


def test_bias_is_told_to_be_approximate() -> None:
    assert "D2E-SPECK-023" in _codes(compiled(chain(conv(1, 2, 3, bias=True), neuron()), 1, 8, 8))


def test_classes_on_the_readout_pins_are_every_fourth_feature() -> None:
    configuration = configured(chain(nn.Flatten(), dense(16, 3), neuron()), 1, 4, 4, target="speck2f-sim{readout=pins}")
    (core,) = configuration.cnn_layers.values()
    assert core.dimensions.output_shape[0] == 9
    assert [feature for feature in range(9) if core.weights[feature].any()] == [0, 4, 8]
    assert [d.layer for d in core.destinations if d.enable] == [12]


def test_two_branches_are_taken() -> None:
    configuration = configured(Branches(2), 1, 12, 12)
    enabled = [[d for d in core.destinations if d.enable] for core in configuration.cnn_layers.values()]
    assert max(map(len, enabled)) == 2


def _codes(program: Program) -> set[str]:
    return {warning["code"] for warning in warnings(program.network)}

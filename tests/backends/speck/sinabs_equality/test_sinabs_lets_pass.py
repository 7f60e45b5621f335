"""The traps are real: what sinabs 3.1.3 writes of networks the chip cannot hold. Ours: test_traps.py, one folder up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sinabs.layers
from torch import nn

DEVICE = "speck2fdevkit"


def neuron(**options: Any) -> nn.Module:
    return sinabs.layers.IAFSqueeze(**{"batch_size": 1, "min_v_mem": -1.0, **options})


def conv(*args: Any, **options: Any) -> nn.Module:
    return nn.Conv2d(*args, bias=False, **options)


@pytest.fixture
def first_core(dynapcnn: Any) -> Callable[..., Any]:
    """``first_core(layers, shape)``: what sinabs writes of the first layer."""

    def core(layers: list[nn.Module], shape: tuple[int, int, int]) -> Any:
        network = dynapcnn.DynapcnnNetwork(nn.Sequential(*layers), input_shape=shape, discretize=True)
        return network.make_config(device=DEVICE).cnn_layers[network.layer2core_map[0]]

    return core


@pytest.mark.parametrize(("layers", "size", "written"), [
    ([conv(1, 2, 17), neuron()], 20, lambda core: core.dimensions.kernel_size == 17),
    ([nn.Flatten(), nn.Linear(324, 4, bias=False), neuron()], 18, lambda core: core.dimensions.kernel_size == 18),
    ([conv(1, 2, 3, stride=3), neuron()], 12, lambda core: core.dimensions.stride.x == 3),
    ([conv(1, 2, 9, padding=8), neuron()], 12, lambda core: core.dimensions.padding.x == 8),
    ([conv(1, 2, 3), neuron(), sinabs.layers.SumPool2d(3), conv(2, 2, 1), neuron()], 14,
     lambda core: core.destinations[0].pooling == 3),
    ([conv(1, 2, 3), neuron()], 70, lambda core: core.dimensions.output_shape.size.x == 68),
    ([conv(1, 1, 4, stride=4), neuron()], 132, lambda core: core.dimensions.input_shape.size.x == 132),
    ([conv(1, 1025, 1), neuron()], 2, lambda core: core.dimensions.output_shape.feature_count == 1025),
    ([conv(1, 2, 3), neuron(min_v_mem=0.0)], 8, lambda core: core.threshold_low == 0),
    ([conv(1, 2, 3), neuron(min_v_mem=None)], 8, lambda core: core.threshold_high == 1),
    # A kernel of 3 x 3 without gaps, on maps of the size that a dilated one has.
    ([conv(1, 2, 3, dilation=2), neuron()], 8,
     lambda core: (core.dimensions.kernel_size, core.dimensions.output_shape.size.x) == (3, 4)),
    # Weights for 1 of the 4 input features.
    ([conv(4, 4, 3, groups=4), neuron()], 8,
     lambda core: (len(core.weights[0]), core.dimensions.input_shape.feature_count) == (1, 4)),
    # The last pooling is gone.
    ([conv(1, 2, 3), neuron(), sinabs.layers.SumPool2d(2)], 8, lambda core: not any(d.enable for d in core.destinations)),
], ids=["kernel", "dense", "stride", "padding", "pooling", "output map", "input map", "features", "floor 0", "no floor",
        "dilation", "groups", "last pooling"])
def test_written_unchecked(
    layers: list[nn.Module], size: int, written: Callable[[Any], bool], first_core: Callable[..., Any]
) -> None:
    channels = next(getattr(layer, "in_channels", 1) for layer in layers)
    assert written(first_core(layers, (channels, size, size)))


@pytest.mark.parametrize(("layers", "size"), [
    ([conv(1, 2, (1, 3)), neuron()], (8, 8)),
    ([conv(1, 2, 3), neuron(), nn.AvgPool2d(3, stride=2), conv(2, 2, 1), neuron()], (8, 8)),
    ([nn.Flatten(), nn.Linear(40, 3, bias=False), neuron()], (5, 8)),
], ids=["rectangular kernel", "overlapping pool", "dense on a map that is not square"])
def test_refused_without_need(layers: list[nn.Module], size: tuple[int, int], first_core: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"same (height and width|as pooling)"):
        first_core(layers, (1, *size))

"""Integers of one synapse: what sinabs' discretisation makes of it, and that ours is at least as near to the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import sinabs.layers
import torch
from torch import nn

import d2e
from d2e.backends.speck.lowering import layers


@dataclass(frozen=True)
class Case:
    """A weight, bias and floor with threshold 1, and the integers (weight, bias, threshold, floor) sinabs writes."""

    weight: float
    sinabs: tuple[int, int, int, int]
    bias: float = 0.0
    v_min: float | None = -1.0
    state: float | None = None


CASES = {
    "plain": Case(0.3, (127, 0, 423, -423)),
    "the largest weight is -1": Case(-1.0, (-127, 0, 127, -127)),
    "a small weight": Case(0.001, (33, 0, 32767, -32767)),
    "no floor": Case(0.3, (0, 0, 1, -32768), v_min=None),
    "a large bias": Case(0.3, (19, 127, 64, -64), bias=2.0),
    "a floor of 0": Case(0.3, (127, 0, 423, 0), v_min=0.0),
    "a left-over state": Case(0.3, (20, 0, 66, -66), state=500.0),
}


def sinabs_integers(dynapcnn: Any, case: Case) -> tuple[int, int, int, int]:
    conv, neuron = nn.Conv2d(1, 1, 1), sinabs.layers.IAFSqueeze(batch_size=1, min_v_mem=case.v_min)
    nn.init.constant_(conv.weight, case.weight)
    nn.init.constant_(conv.bias, case.bias)
    if case.state is not None:
        neuron(torch.zeros(1, 1, 1, 1))
        neuron.v_mem.data.fill_(case.state)
    conv, neuron = dynapcnn.discretize.discretize_conv_spike(conv, neuron, to_int=False)
    return tuple(int(v) for v in (conv.weight, conv.bias, neuron.spike_threshold, neuron.min_v_mem))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_ours_is_at_least_as_near(dynapcnn: Any, case: Case) -> None:
    weight, bias, threshold, floor = sinabs_integers(dynapcnn, case)
    assert (weight, bias, threshold, floor) == case.sinabs
    conv = nn.Conv2d(1, 1, 1, bias=bool(case.bias))
    nn.init.constant_(conv.weight, case.weight)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, case.bias)
    model = nn.Sequential(conv, d2e.nn.IF(1.0, max_spikes=0, v_min=case.v_min))
    program = d2e.compile(model, target="speck2f-sim", input_shape=(1, 4, 4), time_steps=4)
    (ours,) = layers(program.network)
    high = ours.threshold_high
    assert abs(ours.weights.item() / high - case.weight) <= abs(weight / threshold - case.weight)
    own_bias = 0 if ours.bias is None else ours.bias.item()
    assert abs(own_bias / high - case.bias) <= abs(bias / threshold - case.bias)
    assert ours.initial is None
    assert -32768 <= ours.threshold_low <= -1
    if case.v_min:
        assert abs(ours.threshold_low / high - case.v_min) <= abs(floor / threshold - case.v_min)

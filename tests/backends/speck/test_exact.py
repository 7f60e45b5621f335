"""Where events and steps mean the same they give the same: excitation alone, several spikes a step, weights to threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import d2e
from d2e import nn as snn
from d2e.compiler.notes import warnings
from d2e.ir import reference


def _model(draw: st.DrawFn, sign: float) -> tuple[snn.Sequential, tuple[int, ...]]:
    """Two or three layers of several spikes per step, with weights of one sign (or both) up to the threshold."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    height, width, features = draw(st.integers(3, 8)), draw(st.integers(3, 8)), draw(st.integers(1, 3))
    layers: list[nn.Module] = [
        nn.Conv2d(2, features, draw(st.integers(1, 3)), stride=draw(st.integers(1, 2)), padding=1, bias=False,
                  groups=draw(st.sampled_from([1, 2])) if features == 2 else 1),
        snn.IF(threshold=draw(st.sampled_from([0.5, 1.0, 1.7])), max_spikes=0),
    ]
    if draw(st.booleans()):
        layers += [nn.AvgPool2d(2), nn.Conv2d(features, 3, (1, 3), padding=(0, 1), bias=False), snn.IF(max_spikes=0)]
    model = snn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(4, bias=False), snn.IF(max_spikes=0))
    model(torch.zeros(1, 1, 2, height, width))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(sign * parameter.abs().clamp(max=0.5) if sign else parameter.clamp(-0.5, 0.5))
    return model, (2, height, width)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_excitation_alone_is_exact(data: st.DataObject) -> None:
    """Nothing is taken back, no weight exceeds its threshold: every spike of every step is that of the network in steps."""
    model, shape = _model(data.draw, 1.0)
    steps = 4
    frames = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 3, (2, steps, *shape))
    program = d2e.compile(model, target="speck2f-sim", input_shape=shape, time_steps=steps, max_payload=2)
    stepwise = dict(program.stages)["place"]
    assert not [w for w in warnings(stepwise) if w["code"] == "D2E-SPECK-020"]
    expected = reference.run(stepwise, frames, "spikes")
    found = program.run(frames, record="spikes")
    for name, spikes in found.spikes.items():
        assert (spikes == expected.spikes[name]).all(), name


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_simulator_is_the_definition_on_compiled_networks(data: st.DataObject) -> None:
    """Weights of both signs: the fast simulator and the plain reference give the same spikes and states."""
    model, shape = _model(data.draw, 0.0)
    frames = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2, (2, 3, *shape))
    target = data.draw(st.sampled_from(["speck2f-sim", "speck2e-sim{order=breadth}", "speck2f-sim{events=raster}"]))
    program = d2e.compile(model, target=target, input_shape=shape, time_steps=3)
    fast, plain = (program.run(frames, record="state", engine=e) for e in (None, "reference"))
    for name in fast.spikes:
        assert (fast.spikes[name] == plain.spikes[name]).all()
        assert (fast.v[name] == plain.v[name]).all()


@pytest.mark.parametrize("bias", [0.25, -0.25])
def test_leak_is_the_bias_of_a_step(bias: float) -> None:
    """With one event per step and a bias that never crosses the threshold alone, the leak is the bias."""
    model = snn.Sequential(nn.Linear(1, 1), snn.IF(threshold=1.0))
    with torch.no_grad():
        model[0].weight.fill_(0.75)
        model[0].bias.fill_(bias)
    frames = np.ones((1, 12, 1), np.int64)
    program = d2e.compile(model, target="speck2f-sim", input_shape=(1,), time_steps=12)
    expected = reference.run(dict(program.stages)["place"], frames, "spikes")
    assert expected.output.sum() > 3
    assert (program.run(frames, record="spikes").output == expected.output).all()

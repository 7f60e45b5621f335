"""Threshold calibration: rates are met front to back, what must stay does, and the result compiles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.transfer.small import STEPS, convolutional, direct, encoded, images
from torch import nn

import d2e
import d2e.nn as dn
from d2e.compiler.transfer.calibrate import calibrate
from d2e.compiler.transfer.rates import by_channel, channel_rates, rates, spikes


def thresholds(model):
    return {name: value for name, value in model.state_dict().items() if name.endswith("threshold")}


@pytest.mark.parametrize("per", ["channel", "layer"])
def test_rates_on_events_become_those_of_the_teacher(per):
    model, shown = convolutional(), images()
    wanted, start = rates(model, direct(shown)), rates(model, encoded(shown))
    found = rates(calibrate(model, encoded(shown), channel_rates(model, direct(shown)), per), encoded(shown))
    for name in wanted:
        assert found[name] == pytest.approx(wanted[name], abs=0.01)
        assert start[name] < 0.75 * wanted[name]


def test_no_factor_of_a_channel_on_a_grid_comes_nearer_than_bisection():
    torch.manual_seed(0)
    model = dn.Sequential(nn.Linear(5, 4), dn.LIF(0.6, 0.5, reset="zero"), nn.Linear(4, 2), dn.LI(0.9))
    frames = np.random.default_rng(0).random((50, STEPS, 5))
    target = np.array([0.1, 0.3, 0.2, 0.05])
    start = np.abs(channel_rates(model, frames)["1"] - target)
    after = np.abs(channel_rates(calibrate(model, frames, {"1": target}), frames)["1"] - target)
    grid = []
    for factor in np.geomspace(1 / 8, 8, 60):
        model[1].threshold = torch.tensor(0.5 * factor)
        grid.append(np.abs(channel_rates(model, frames)["1"] - target))
    assert (after <= start).all()
    assert (after <= np.min(grid, axis=0) + 0.02).all()


def test_equal_frames_change_nothing_and_calls_agree():
    model, shown = convolutional(), images(12)
    targets = channel_rates(model, direct(shown))
    same = calibrate(model, direct(shown), targets)
    assert all(torch.equal(value, thresholds(model)[name]) for name, value in thresholds(same).items())
    first, second = (calibrate(model, encoded(shown), targets) for _ in range(2))
    assert all(torch.equal(value, thresholds(second)[name]) for name, value in thresholds(first).items())
    assert thresholds(first)["2.threshold"].shape == (6, 1, 1)
    assert thresholds(first)["8.threshold"].shape == (12,)


def test_readout_other_weights_and_the_model_itself_stay():
    model, shown = convolutional("if"), images(12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    found = calibrate(model, encoded(shown), channel_rates(model, direct(shown)))
    assert found.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = [name for name, value in found.state_dict().items()
               if value.shape != before[name].shape or not torch.equal(value, before[name])]
    assert changed == ["2.threshold", "5.threshold", "8.threshold"]


def test_channels_silent_in_the_teacher_keep_their_threshold():
    model, shown = convolutional(), images(12)
    targets = channel_rates(model, direct(shown))
    targets["2"][[0, 3]] = 0
    found = calibrate(model, encoded(shown), targets)[2].threshold.flatten()
    assert (found[[0, 3]] == model[2].threshold).all()
    assert not (found == model[2].threshold).all()


@settings(max_examples=15)
@given(st.sampled_from(["subtract", "zero"]), st.integers(1, 3), st.booleans(), st.booleans())
def test_every_kind_of_neuron_comes_no_further_from_its_target(reset, most, learned, loop):
    torch.manual_seed(0)
    neuron = dn.LIF(0.8, 0.7, reset, most, learn_threshold=learned, amplitude=0.5)
    layer = nn.Linear(4, 4)
    hidden = dn.Recurrent(neuron, layer) if loop else neuron
    model = dn.Sequential(nn.Linear(3, 4), hidden, nn.Linear(4, 2), dn.LI(0.9))
    frames = np.random.default_rng(1).random((20, STEPS, 3)) * 2
    target = np.full(4, 0.2)
    found = calibrate(model, frames, {"any": target}, per="layer")
    before, after = (abs(float(np.mean(next(iter(channel_rates(m, frames).values()))) - 0.2)) for m in (model, found))
    assert after <= before
    assert type(found[1].neuron.threshold if loop else found[1].threshold) is type(neuron.threshold)


def test_multi_threshold_neurons_get_one_factor():
    model = dn.Sequential(nn.Linear(3, 4), dn.MultiThreshold([1.0, 2.0]), nn.Linear(4, 2), dn.LI(0.9))
    frames = np.random.default_rng(1).random((20, STEPS, 3)) * 4
    found = calibrate(model, frames, {"1": np.full(4, 0.3)})
    assert found[1].threshold.numel() == 1
    assert abs(np.mean(channel_rates(found, frames)["1"]) - 0.3) < abs(np.mean(channel_rates(model, frames)["1"]) - 0.3)


def test_a_calibrated_network_compiles_and_fires_as_in_torch():
    model, shown = convolutional(), images(24)
    found = calibrate(model, encoded(shown), channel_rates(model, direct(shown)))
    frames = encoded(shown)
    program = d2e.compile(found, "loihi2-sim", input_shape=(1, 6, 6), time_steps=STEPS, calibration=frames)
    counts = program.run(frames).counts
    for name, own in by_channel(spikes(found, frames), STEPS).items():
        np.testing.assert_allclose(counts[name].reshape(24, len(own), -1).mean(axis=(0, 2)) / STEPS, own, atol=0.06)

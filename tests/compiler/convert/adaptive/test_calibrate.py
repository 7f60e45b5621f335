"""Calibration layer by layer: biases restore means, prefixes stay, the same seed gives the same bits, no labels."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import MODELS, floating, skeleton_of

from d2e.compiler.convert.adaptive.calibrate import LIGHT, PRESETS, Calibration, Calibrator, State
from d2e.compiler.convert.adaptive.engine import evidence, simulate

STEPS = 8


def calibrator(name, options, seed=0, count=64, steps=STEPS, dtype=torch.float32):
    model, images = floating(name, 0, count)
    return Calibrator(skeleton_of(name, model, dtype), images, steps, options, seed)


def bursts(found, most=4):
    return {layer.name: most for layer in found.skeleton.rectifiers}


def assert_same(a, b, names):
    for name in names:
        for key in ("threshold", "start", "shift", "most"):
            np.testing.assert_array_equal(getattr(a.plan[name], key), getattr(b.plan[name], key), err_msg=f"{name} {key}")
    for name in {*names} & a.spikes.keys():
        np.testing.assert_array_equal(a.spikes[name], b.spikes[name], err_msg=name)


def channel_means(found, state, name):
    """(what the spiking network sends, what the ANN sends), mean of each channel."""
    layer = found.skeleton.layers[name]
    sent = layer.per_channel(state.spikes[name].mean(1)).mean(0) * state.plan[name].threshold
    return sent, layer.per_channel(found.sent[name]).mean(0)


# --------------------------------------------------------------------------- biases and starts


def shifted(found, name, by):
    """A state whose first layer sends too much."""
    first = found.skeleton.layers[name]
    state = found.layer(State(found.skeleton), first, 15)
    neurons = replace(state.plan[name], shift=state.plan[name].shift + by)
    return found._corrected(replace(state, plan={}), first, neurons) if by else state


def positive(options, steps):
    """A network in which every neuron is active: positive weights, biases and images."""
    model, images = floating("mlp", 0, 200)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(0.05)
    return Calibrator(skeleton_of("mlp", model), np.abs(images), steps, options)


@pytest.mark.parametrize("correction", ["bias", "potential"])
def test_means_become_those_of_the_ann_where_nothing_saturates(correction):
    none, corrects = replace(LIGHT, bias=False), replace(LIGHT, **{"bias": False, correction: True})
    misses = {}
    for options in (none, corrects):
        found = positive(none, 64)
        state = shifted(found, "a", 0.5)  # nothing makes up for it but the layer after it
        found.options = options
        sent, wanted = channel_means(found, found.layer(state, found.skeleton.layers["b"], 60, 2.0), "b")
        misses[options] = np.abs(sent - wanted) / wanted
    assert misses[none].min() > 0.1
    assert misses[corrects].max() < 2e-3


def test_bias_correction_is_exact_where_the_miss_is_whole_spikes():
    found = positive(replace(LIGHT, bias=False), 64)
    layer = found.skeleton.layers["a"]
    state = found.layer(State(found.skeleton), layer, 60)
    neurons = state.plan["a"]
    ahead = replace(neurons, shift=neurons.shift + 3 * neurons.threshold / 64)
    exact = channel_means(found, state, "a")[0]
    found.sent["a"] = state.spikes["a"].mean(1) * layer.per_neuron(neurons.threshold)
    found.options = LIGHT
    corrected = found._corrected(State(found.skeleton), layer, ahead)
    np.testing.assert_allclose(channel_means(found, corrected, "a")[0], exact, rtol=1e-3)
    np.testing.assert_allclose(corrected.plan["a"].shift, neurons.shift, atol=1e-3 * neurons.threshold.max())


@pytest.mark.parametrize("name", MODELS)
def test_mean_logits_are_those_of_the_ann(name):
    found = calibrator(name, PRESETS["light"], dtype=torch.float64)
    state = found.every(bursts(found))
    logits = evidence(state.skeleton, state.plan, state.spikes, found.images, STEPS)[:, -1] / STEPS
    np.testing.assert_allclose(logits.mean(0), found.sent["readout"].mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "concat"])
def test_logits_come_nearer_to_those_of_the_ann(name):
    errors = {}
    for preset in ("none", "advanced"):
        found = calibrator(name, PRESETS[preset], count=160, steps=2)
        state = found.every(bursts(found, 1))
        logits = evidence(state.skeleton, state.plan, state.spikes, found.images, 2)[:, -1] / 2
        errors[preset] = np.square(logits - found.sent["readout"]).mean()
    assert errors["advanced"] < errors["none"]


# --------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("ratio", [1.0, 1.25])
@pytest.mark.parametrize("hold", [0.0, 1.5])
def test_what_is_held_back_is_given_back(hold, ratio):
    found = calibrator("conv", Calibration(hold=hold, weights=0, bias=False))
    state = found.every(bursts(found), dict.fromkeys(bursts(found), ratio))
    held = []
    for layer in found.skeleton.rectifiers:
        neurons = state.plan[layer.name]
        np.testing.assert_allclose(neurons.start + STEPS * neurons.shift, neurons.threshold / 2, rtol=1e-12)
        held += list(0.5 - neurons.start / neurons.threshold)
    assert max(held) <= hold + 1e-12
    assert (max(held) > 0.2) == (hold > 0)


def test_one_threshold_per_layer():
    found = calibrator("conv", replace(LIGHT, per_layer=True))
    state = found.every(bursts(found))
    assert all(len(set(state.plan[layer.name].threshold)) == 1 for layer in found.skeleton.rectifiers)


def test_ratios_and_bursts_are_each_layer_s_own():
    found = calibrator("conv", LIGHT)
    plain = found.every({"a": 2, "b": 5})
    larger = found.every({"a": 2, "b": 5}, {"b": 1.5})
    assert [plain.plan[name].most for name in "ab"] == [2, 5]
    assert_same(plain, larger, ["a"])
    np.testing.assert_allclose(larger.plan["b"].threshold, 1.5 * plain.plan["b"].threshold)
    assert plain.spikes["b"].max() <= 5


# --------------------------------------------------------------------------- state


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_a_layer_set_anew_is_the_same(name):
    found = calibrator(name, PRESETS["advanced"])
    state = found.every(bursts(found))
    for layer in found.skeleton.rectifiers:
        anew = found.layer(state, layer, 4, with_weights=False)
        assert_same(anew, state, [layer.name])


def test_what_a_state_says_is_what_its_network_does():
    found = calibrator("residual", PRESETS["advanced"])
    state = found.every(bursts(found))
    spikes, _ = simulate(state.skeleton, state.plan, found.images, STEPS)
    assert spikes.keys() == state.spikes.keys()
    for name, n in spikes.items():
        np.testing.assert_array_equal(n, state.spikes[name])


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    options = PRESETS["advanced"]
    first, again, other = (
        calibrator("conv", options, seed).every({"a": 4, "b": 4}) for seed in (3, 3, 4))
    assert_same(first, again, first.plan)
    for name, node in first.skeleton.network.nodes.items():
        assert node.same(again.skeleton.network.nodes[name])
    assert (first.plan["a"].shift != other.plan["a"].shift).any() or (first.plan["b"].shift != other.plan["b"].shift).any()


def test_calibration_takes_images_and_no_labels():
    assert list(inspect.signature(Calibrator).parameters) == ["skeleton", "images", "steps", "options", "seed"]
    assert list(inspect.signature(Calibrator.every).parameters) == ["self", "most", "ratios", "price"]
    assert not {"labels", "label", "y", "targets", "classes"} & vars(calibrator("mlp", LIGHT)).keys()


def test_a_dead_channel_stays_finite_and_silent():
    model, images = floating("mlp", 0, 64)
    with torch.no_grad():
        model.fc1.weight[3], model.fc1.bias[3] = 0.0, -1.0
    for options in PRESETS.values():
        found = Calibrator(skeleton_of("mlp", model), images, STEPS, options)
        neurons = (state := found.every(bursts(found))).plan["a"]
        for values in (neurons.threshold, neurons.start, neurons.shift):
            assert np.isfinite(values).all()
        assert (neurons.threshold > 0).all()
        assert not state.spikes["a"][:, :, 3].any()

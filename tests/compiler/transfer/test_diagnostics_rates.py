"""Rates by hooks against the reference interpreter, collapse, gradients, synops and energy by hand."""

import numpy as np
import pytest
import torch
from tests.compiler.transfer.small import STEPS, convolutional, direct, encoded, images
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.compiler.transfer.energy import direct_rows, event_row, events_per_element, wiring
from d2e.compiler.transfer.gradients import mismatch
from d2e.compiler.transfer.rates import channel_rates, collapse, firing, rates, spikes
from d2e.ir import reference


def test_spikes_are_those_of_the_reference_whatever_the_batch():
    model, frames = convolutional("if").double(), encoded(images(7))
    counts = reference.run(from_torch(model, (1, 6, 6)), frames).counts
    found = spikes(model, frames, batch=3)
    assert found.keys() == counts.keys() == firing(model).keys()
    for name, own in found.items():
        np.testing.assert_allclose(own, counts[name].mean(axis=0), atol=1e-12)
        assert channel_rates(model, frames)[name].shape == own.shape[:1]
        assert channel_rates(model, frames)[name].mean() == pytest.approx(rates(model, frames)[name])
        assert rates(model, frames)[name] == pytest.approx(own.mean() / STEPS)


def test_bursts_levels_and_loops_are_counted_and_membranes_are_not():
    model = dn.Sequential(
        dn.IF(1.0, max_spikes=3, amplitude=0.5), dn.MultiThreshold([1.0, 2.0]), dn.Recurrent(dn.IF(2.0), nn.Linear(1, 1)),
        dn.LI(1.0),
    )
    with torch.no_grad():
        model[2].layer.weight.zero_()
        model[2].layer.bias.zero_()
    frames = np.array([[[3.0], [0.0], [2.0]]])  # bursts of 3, 0, 2; levels 1, 0, 1; a spike at the last
    assert {name: own.item() for name, own in spikes(model, frames).items()} == {"0": 5.0, "1": 2.0, "2.neuron": 1.0}
    assert "" not in firing(model)
    assert [*firing(dn.Recurrent(dn.IF(2.0), nn.Linear(1, 1)))] == ["neuron"]


def test_measuring_leaves_modes_statistics_and_gradients_alone():
    model = convolutional()
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rates(model, encoded(images(4)))
    mismatch(model, direct(images(4)), encoded(images(4)), np.zeros(4, int))
    assert (model.training, model[1].training, model[2].training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_layers_that_collapse_fall_silent_or_saturate_are_named_with_a_remedy():
    teacher = {"a": 0.4, "b": 0.4, "c": 0.4, "d": 0.5, "e": 0.0}
    found = collapse(teacher, {"0.a": 0.3, "0.b": 0.1, "0.c": 0.0, "0.d": 0.99, "0.e": 0.0})
    assert [(row["layer"], row["state"], row.get("ratio")) for row in found] == [
        ("0.b", "collapsed", 0.25), ("0.c", "silent", 0.0), ("0.d", "saturated", 1.98), ("0.e", "silent teacher", None)]
    assert all(row["remedy"] for row in found)
    assert [row["layer"] for row in collapse(teacher, teacher, below=1.0)] == ["e"]
    assert collapse({"a": 0.4}, {"a": 0.1}, below=0.2) == []


def test_one_spike_a_pixel_collapses_the_first_layer():
    model, shown = convolutional(), images()
    found = collapse(rates(model, direct(shown)), rates(model, encoded(shown)))
    assert found[0]["layer"] == "2"
    assert found[0]["ratio"] < 0.5


def test_gradients_of_equal_input_agree_and_of_events_are_those_of_autograd():
    model, shown, labels = convolutional(), images(10), np.arange(10) % 3
    same = mismatch(model, direct(shown), direct(shown), labels, batch=4)
    assert (same["cosine"], same["relative_norm"]) == (pytest.approx(1), 0)
    found = mismatch(model, direct(shown), encoded(shown), labels, batch=4)
    grads = []
    for frames in (direct(shown), encoded(shown)):
        model.zero_grad()
        loss = functional.cross_entropy(model(torch.tensor(frames, dtype=torch.float32)).mean(1), torch.tensor(labels))
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    g, h = grads
    assert found["cosine"] == pytest.approx(float(functional.cosine_similarity(g, h, dim=0)), abs=1e-5)
    assert found["relative_norm"] == pytest.approx(float((h - g).norm() / g.norm()), rel=1e-5)
    assert found["layers"].keys() == {"0", "1", "4", "7", "9"}


def test_a_gradient_of_zero_leaves_the_cosine_absent():
    model = dn.Sequential(nn.Linear(2, 2, bias=False), dn.LI(0.0))
    found = mismatch(model, np.zeros((1, 2, 2)), np.ones((1, 2, 2)), np.array([0]))
    assert (found["direct_norm"], found["event_norm"] > 0) == (0, True)
    assert not found.keys() & {"cosine", "relative_norm"}


def test_synops_and_energy_of_a_convolution_by_hand():
    model = dn.Sequential(nn.Conv2d(1, 2, 3, padding=1), dn.IF(0.5), nn.Flatten(), nn.Linear(18, 4), dn.LI(0.9))
    wires = wiring(model, (1, 3, 3))
    assert wires.input[0].tolist() == [[8, 12, 8], [12, 18, 12], [8, 12, 8]]
    assert wires.mac_first == 98
    events = np.zeros((2, STEPS, 1, 3, 3), int)
    events[0, 1, 0, 1, 1] = events[1, 3, 0, 0, 0] = 1
    assert wires.first(events_per_element(events)) == (18 + 8) / 2
    sent = spikes(model, events)
    assert wires.synops(sent) == pytest.approx(4 * sent["1"].sum())
    every, once = direct_rows("teacher", wires.mac_first, 10.0, STEPS)
    assert every["value_j"] == pytest.approx(4.6e-12 * 98 * STEPS + 9e-12)
    assert once["value_j"] == pytest.approx(4.6e-12 * 98 + 9e-12)
    row = event_row("student", 13.0, 10.0)
    assert row["value_j"] == pytest.approx(0.9e-12 * 23)
    assert {each["label"] for each in (every, once, row)} == {"estimated"}

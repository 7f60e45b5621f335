"""What sets the neurons of one step: scales of least cost, biases that keep means, prices, and which neurons count."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import MODELS, activations, certain, floating, skeleton_of
from tests.compiler.convert.single_step.stairs import in_rows, once

from d2e.compiler.convert.single_step import calibrate
from d2e.compiler.convert.single_step.calibrate import Calibrator, Options, State
from d2e.compiler.convert.single_step.staircase import Sampled
from d2e.compiler.convert.skeleton import activate

pytestmark = pytest.mark.usefixtures("one_core")

KINDS = {
    "fitted": Options(), "round": Options(fitted=False), "floor": Options(fitted=False, rounds=False),
    "fitted, biases as trained": Options(bias=False), "round, biases as trained": Options(fitted=False, bias=False),
}


def calibrator_of(name="conv", options=None, seed=0, make=floating, dtype=torch.float64):
    model, images = make(name, count=96)
    return Calibrator(skeleton_of(name, model, dtype), images, options or Options(), seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_change_of_the_bias_makes_up_for_the_mean_error_as_long_as_that_helps(name, kind):
    found = calibrator_of(name, KINDS[kind])
    state, model = found.every(4), floating(name)[0]
    wanted = activations(name, model, found.images)[1]
    logits = activations(name, model, found.images)[2]
    misses = []
    for layer in found.skeleton.rectifiers:
        stairs = state.plan[layer.name]
        shift, last = 0 * stairs.shift, np.inf
        for _ in range(3):
            before = State(found.skeleton, {**state.plan, layer.name: replace(stairs, shift=shift)}, state.readouts)
            n = once(name, model, before, found.images)[0][layer.name]
            sent = np.concatenate([[0], stairs.payloads])[n] * stairs.unit * layer.as_parameter(stairs.scale)
            missing = in_rows(wanted[layer.name] - sent).reshape(-1, layer.channels).mean(axis=0)
            misses.append(np.abs(missing).max())
            closer = np.abs(missing) < last
            shift = shift + (closer * missing if KINDS[kind].bias else 0 * missing)
            last = np.where(closer, np.abs(missing), 0)
        np.testing.assert_allclose(stairs.shift, shift, atol=1e-9)
    assert max(misses) > 1e-4, "there is something to make up for"
    mean = once(name, model, state, found.images)[1].mean(axis=0)
    if KINDS[kind].bias:
        np.testing.assert_allclose(mean, logits.mean(axis=0), atol=1e-9)
    else:
        assert not state.readouts["readout"].any()


@pytest.mark.parametrize("kind", ["round", "floor"])
@pytest.mark.parametrize("most", [2, 9])
def test_uniform_levels_have_the_distance_of_least_error_that_is_tried(most, kind):
    """In the first layer, whose neurons receive what the ANN's do."""
    found = calibrator_of("conv", KINDS[kind])
    layer, stairs = found.skeleton.rectifiers[0], found.every(most).plan["a"]
    z, target = (layer.per_channel(rows["a"]) for rows in (found.received, found.sent))
    first, half = calibrate.eq8(target, 1, most), 0.5 if kind == "round" else 0.0
    for c, scale in enumerate(stairs.scale):
        tried = first[c] * 2.0 ** (np.arange(-12, 9) / 8)
        errors = [((np.clip(np.floor(z[:, c] / s + half), 0, most) * s - target[:, c]) ** 2).mean() for s in tried]
        assert scale == pytest.approx(tried[np.argmin(errors)])
    assert ((stairs.scale == first).all()) == (kind == "round"), "Eq. 8 rounds"


def test_fitted_levels_miss_less_than_uniform_ones():
    """Of what the first layer sends, weighed by what it costs at the output."""
    for name in MODELS:
        fit, even = (calibrator_of(name, KINDS[kind]) for kind in ("fitted", "round"))
        layer, costs = fit.skeleton.rectifiers[0], []
        z, target = (layer.per_channel(rows["a"]) for rows in (fit.received, fit.sent))
        sampled = Sampled(z, target, fit.importance["a"], np.zeros(layer.channels))
        for found in (fit, even):
            costs.append([sampled.cost(found.every(most).plan["a"]).sum() for most in (2, 4, 8, 16)])
        assert (np.array(costs[0]) < 1.01 * np.array(costs[1])).all(), name
        assert costs[0][-1] < 0.9 * costs[1][-1], name


@pytest.mark.parametrize(("kind", "unit"), [("fitted", 1.0), ("round", 0.001)])
def test_a_price_saves_synops_and_costs_divergence(kind, unit):
    model, images = certain("conv", 20.0)
    found = Calibrator(skeleton_of("conv", model), images, KINDS[kind])
    logits = activations("conv", model, images)[2]
    prices = (None, *(unit * price for price in (0.1, 1.0, 10.0)))
    rows = np.array([found.row(found.every(8, price=price), images, logits) for price in prices])
    assert (np.diff(rows[:, 1]) < 0).all(), "synops"
    assert rows[-1, 0] > 1.1 * rows[0, 0], "divergence"
    assert found.every(8).plan["a"].scale.tolist() == found.every(8, price=0.0).plan["a"].scale.tolist()


@pytest.mark.parametrize("kind", ["fitted", "floor"])
def test_figures_of_a_network_are_those_of_what_it_computes(kind):
    model, images = certain("residual")
    found = Calibrator(skeleton_of("residual", model), images, KINDS[kind])
    state = found.every(5, price=0.01)
    logits = activations("residual", model, images)[2]
    kl, synops, spikes, *own = found.row(state, images, logits)
    counts, answers = once("residual", model, state, images)
    p, q = (torch.from_numpy(z).log_softmax(1).numpy() for z in (logits, answers))
    assert kl == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=1e-9)
    assert own == pytest.approx([counts[key].sum() / len(images) for key in "abcd"])
    assert spikes == pytest.approx(sum(own))
    assert synops == pytest.approx(
        sum((in_rows(counts[key]) * found.skeleton.layers[key].fan_out).sum() for key in "abcd") / len(images))
    assert found.most_synops == sum(found.skeleton.layers[key].fan_out.sum() for key in "abcd")
    assert state.levels == {key: state.plan[key].most for key in "abcd"}
    assert max(state.levels.values()) <= 5


def test_other_scales_keep_the_levels_and_set_biases_anew():
    found = calibrator_of("conv")
    state = found.every(6)
    same, other = found.rescaled(state, {"a": 1.0, "b": 1.0}), found.rescaled(state, {"a": 1.25, "b": 0.5})
    for key, factor in (("a", 1.25), ("b", 0.5)):
        before, after = state.plan[key], other.plan[key]
        np.testing.assert_array_equal(after.scale, factor * before.scale)
        assert (after.levels is before.levels, after.payloads is before.payloads, after.unit) == (True, True, before.unit)
        assert (after.shift != before.shift).any()
        np.testing.assert_array_equal(same.plan[key].shift, before.shift)
    np.testing.assert_array_equal(same.readouts["readout"], state.readouts["readout"])
    assert (other.readouts["readout"] != state.readouts["readout"]).any()


# --------------------------------------------------------------------------- which neurons count


def same(one, other):
    return all((one.plan[key].scale == other.plan[key].scale).all() and
               one.plan[key].levels.tolist() == other.plan[key].levels.tolist() for key in one.plan)


def test_the_seed_draws_neurons_where_there_are_more_than_needed(monkeypatch):
    first, again, other = (calibrator_of(seed=seed) for seed in (0, 0, 1))
    assert same(first.every(4), again.every(4))
    for found in (first, other):
        monkeypatch.setitem(found.__dict__, "importance", {"a": np.ones(4), "b": np.ones(3)})
    assert same(first.every(4), other.every(4)), "all of them are used"
    monkeypatch.setattr(calibrate, "_MOST_ROWS", 200)
    assert same(first.every(4), first.every(4))
    assert not same(first.every(4), other.every(4))


def test_neurons_of_every_column_of_a_map_count(monkeypatch):
    """The width of a map divides the number of samples that are left out: strides would see two columns of it."""
    seen = []

    class Spy(Sampled):
        def __init__(self, z, *rest):
            seen.append(z)
            super().__init__(z, *rest)

    found = calibrator_of("conv")
    rows = found.skeleton.layers["a"].per_channel(found.received["a"])
    monkeypatch.setattr(calibrate, "_MOST_ROWS", len(rows) // 4)
    monkeypatch.setattr(calibrate, "Sampled", Spy)
    found.every(2)
    place = {row.tobytes(): i for i, row in enumerate(rows)}
    drawn = np.array([place[row.tobytes()] for row in seen[0]])
    assert len(set(drawn)) == len(rows) // 4
    assert (np.bincount(drawn % 8, minlength=8) > 0.8 * len(drawn) / 8).all()


def test_received_and_sent_are_the_anns():
    found = calibrator_of("relu6")
    received, sent = activate(found.skeleton, found.images)
    for key in received:
        np.testing.assert_array_equal(found.received[key], received[key])
        np.testing.assert_array_equal(found.sent[key], sent[key])

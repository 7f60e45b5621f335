"""Weight calibration: the ridge regression that numpy.linalg.lstsq solves with augmented rows; it brings inputs nearer."""

import numpy as np
import pytest
from tests.compiler.convert.networks import floating, random_plan, skeleton_of

from d2e.compiler.convert.adaptive import weights
from d2e.compiler.convert.adaptive.engine import simulate
from d2e.compiler.convert.skeleton import activate, frames_of, rows_of

STEPS = 4


def case(name, count, seed=0):
    """A skeleton, neurons too coarse to be exact, their spikes, what the ANN receives, and images."""
    model, images = floating(name, seed, count)
    skeleton = skeleton_of(name, model)
    plan = random_plan(skeleton, 2, exact=False)
    return skeleton, plan, simulate(skeleton, plan, images, STEPS)[0], activate(skeleton, images)[0], images


def calibrated(case, layer, strength=0.01):
    skeleton, plan, spikes, received, images = case
    return weights.calibrated(
        skeleton, plan, skeleton.layers[layer], spikes, received[layer], images, strength, np.random.default_rng(0))


def miss(case, skeleton, layer, shift):
    """ANN input less the mean input from the spiking network, rows [B, N]."""
    _, plan, spikes, received, images = case
    node = skeleton.layers[layer]
    theta = {s: skeleton.layers[s].per_neuron(plan[s].threshold) for s in spikes}
    mean = {s: spikes[s].mean(1) * theta[s] for s in spikes}
    return received[layer] - arriving(skeleton, node, mean, images) - node.bias - node.per_neuron(shift)


def arriving(skeleton, layer, mean, images):
    sent = {s: frames_of(rows, skeleton.layers[s].shape) for s, rows in mean.items()}
    return rows_of(skeleton.arriving(layer, {skeleton.input: skeleton.image_frames(images), **sent}))


def weight_into(skeleton, layer, source):
    (path,) = (p for p in skeleton.layers[layer].paths if p.source == source)
    return skeleton.network.nodes[path.synapses[-1]].weight


@pytest.mark.parametrize("strength", [1e-3, 0.01, 1.0])
@pytest.mark.parametrize(("layer", "source"), [("b", "a"), ("readout", "b")])
def test_a_dense_layer_solves_the_ridge_regression(layer, source, strength):
    found = case("mlp", 200)
    skeleton, plan, spikes, received, _ = found
    changed, shift = calibrated(found, layer, strength)
    x, before = spikes[source].mean(1) * plan[source].threshold, weight_into(skeleton, layer, source)
    y = received[layer] - x @ before.T - skeleton.layers[layer].bias
    ridge = strength * np.square(x).sum(0).mean()
    rows = np.vstack([np.column_stack([x, np.ones(len(x))]), np.diag([*[ridge**0.5] * x.shape[1], (1e-9 * len(x)) ** 0.5])])
    wanted = np.linalg.lstsq(rows, np.vstack([y, np.zeros((x.shape[1] + 1, y.shape[1]))]), rcond=None)[0]
    np.testing.assert_allclose(weight_into(changed, layer, source) - before, wanted[:-1].T, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shift, wanted[-1], rtol=1e-6, atol=1e-9)
    assert np.abs(wanted).max() > 1e-3


@pytest.mark.parametrize(("name", "layer"), [
    ("mlp", "b"), ("mlp", "readout"), ("conv", "b"), ("conv", "readout"), ("residual", "b"), ("residual", "c"),
    ("residual", "d"), ("residual", "readout"), ("concat", "c"), ("concat", "readout"),
])
def test_the_inputs_come_nearer_to_those_of_the_ann(name, layer):
    found = case(name, 160)
    skeleton = found[0]
    changed, shift = calibrated(found, layer)
    assert changed is not skeleton
    assert changed.network.nodes.keys() == skeleton.network.nodes.keys()
    before = np.square(miss(found, skeleton, layer, 0 * shift)).mean()
    assert np.square(miss(found, changed, layer, shift)).mean() < 0.98 * before
    others = [n for n, node in skeleton.network.nodes.items() if not node.same(changed.network.nodes[n])]
    assert len(others) == 1


def test_the_first_skeleton_stays_as_it_is():
    found = case("conv", 80)
    skeleton = found[0]
    kept = skeleton.network
    copies = {n: node.weight.copy() for n, node in kept.nodes.items() if hasattr(node, "weight")}
    calibrated(found, "b")
    assert skeleton.network is kept
    assert all((kept.nodes[n].weight == w).all() for n, w in copies.items())


@pytest.mark.parametrize(("name", "layer", "count"), [("mlp", "b", 23), ("mlp", "readout", 17), ("conv", "readout", 7)])
def test_too_few_samples_leave_weights_as_they_are(name, layer, count):
    found = case(name, count)
    changed, shift = calibrated(found, layer)
    assert changed is found[0]
    assert not shift.any()


@pytest.mark.parametrize(("name", "layer"), [("mlp", "a"), ("conv", "a"), ("relu6", "b")])
def test_the_input_s_and_grouped_maps_stay_as_they_are(name, layer):
    found = case(name, 160)
    changed, shift = calibrated(found, layer)
    assert changed is found[0]
    assert not shift.any()


def test_silent_sources_leave_weights_as_they_are():
    skeleton, plan, spikes, received, images = case("mlp", 160)
    silent = {key: np.zeros_like(n) for key, n in spikes.items()}
    changed, shift = calibrated((skeleton, plan, silent, received, images), "b")
    assert changed is skeleton
    assert not shift.any()

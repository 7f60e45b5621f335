"""Importance is half the diagonal of the exact Fisher information, and what random errors cost."""

import inspect

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import MODELS, certain, skeleton_of, weights_of

from d2e.compiler.convert import importance

FLOOR = 0.05


def log_probabilities(name, model, images, changed=None, error=0.0):
    """Of the ANN in numpy, with an error added to what one population sends."""
    def fire(population, z):
        sent = np.clip(z, 0, 6 if name == "relu6" else None)
        return sent + error if population == changed else sent

    logits = MODELS[name][2](weights_of(model), images, fire)
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def fisher(name, model, images, population, size):
    """Half the diagonal: the mean over images and over all answers of the squared derivative of log p, by differences."""
    p, found = np.exp(log_probabilities(name, model, images)), []
    for unit in 1e-5 * np.eye(size):
        more, less = (log_probabilities(name, model, images, population, sign * unit) for sign in (1, -1))
        found.append(0.5 * (p * np.square((more - less) / 2e-5)).sum(axis=1).mean())
    return np.array(found)


@pytest.mark.parametrize("by", [1.0, 5.0])
def test_it_is_half_the_diagonal_of_the_exact_fisher_information(by):
    model, images = certain("mlp", by, count=3000)
    found = importance.of(skeleton_of("mlp", model), images)
    for name, size in (("a", 12), ("b", 9)):
        exact = fisher("mlp", model, images, name, size)
        np.testing.assert_allclose(found[name], np.maximum(exact, FLOOR * exact.mean()), rtol=0.15)
        assert found[name].sum() == pytest.approx(exact.sum(), rel=0.05)


@pytest.mark.parametrize("name", ["conv", "residual", "relu6"])
def test_small_errors_of_a_channel_cost_so_much_divergence(name):
    model, images = certain(name, count=600)
    skeleton, rng = skeleton_of(name, model), np.random.default_rng(0)
    found, plain, size = importance.of(skeleton, images), log_probabilities(name, model, images), 0.01
    for layer in skeleton.rectifiers:
        costs = []
        for channel in range(layer.channels):
            error = np.zeros((len(images), *layer.shape))
            error[:, channel] = rng.choice([-size, size], error[:, channel].shape)
            changed = log_probabilities(name, model, images, layer.name, error)
            costs.append((np.exp(plain) * (plain - changed)).sum(axis=1).mean() / size**2)
        wanted = np.maximum(costs, FLOOR * np.mean(costs))
        np.testing.assert_allclose(found[layer.name], wanted, rtol=0.25)
        assert found[layer.name].sum() == pytest.approx(wanted.sum(), rel=0.1)


def test_a_channel_without_targets_counts_a_twentieth_of_the_mean():
    model, images = certain("mlp")
    with torch.no_grad():
        model.fc2.weight[:, 3] = 0
    found = importance.of(skeleton_of("mlp", model), images)["a"]
    rest = np.delete(found, 3)
    assert found[3] == pytest.approx(FLOOR * rest.sum() / 12)
    assert found[3] < rest.min()


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    model, images = certain("conv")
    skeleton = skeleton_of("conv", model, torch.float32)
    first, again, other = (importance.of(skeleton, images.astype(np.float32), seed) for seed in (3, 3, 4))
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
        assert (other[name] != values).any()
        assert (values.shape, values.min() > 0) == ((skeleton.layers[name].channels,), True)


def test_it_takes_images_and_no_labels():
    assert list(inspect.signature(importance.of).parameters) == ["skeleton", "images", "seed"]

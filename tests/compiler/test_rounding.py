"""Compensated rounding: what it keeps, on which inputs, and numbers as multiples of one factor."""

from __future__ import annotations

import numpy as np
import pytest

from d2e.compiler import activity
from d2e.compiler.blocks import nearest
from d2e.compiler.passes import rounding
from d2e.compiler.passes.ratios import as_multiples
from d2e.compiler.paths import paths_into
from d2e.ir import IF, Conv2d, Delay, Flatten, Input, Linear, Network, Output, linear
from d2e.ir.network import chain


def correlated(rng: np.random.Generator, samples: int, size: int) -> np.ndarray:
    return rng.normal(0, 1, (samples, 5)) @ rng.normal(0, 1, (5, size)) + rng.normal(0, 0.3, (samples, size))


def test_inputs_that_never_occur_together_are_rounded_each_for_itself() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(0, 1, (6, 30))
    known = rounding.curvature([[np.diag(rng.uniform(0.5, 2, 30))]])
    np.testing.assert_array_equal(rounding.compensated(array, 0.3, -4, 3, known), nearest(array, 0.3, -4, 3))


@pytest.mark.parametrize("size", [30, 70, 200])
def test_what_a_map_delivers_is_kept_better(size: int) -> None:
    rng = np.random.default_rng(size)
    rows, array = correlated(rng, 500, size), rng.normal(0, 1, (8, size))
    known = rounding.curvature([[rows.T @ rows / len(rows)]])
    losses = []
    for integers in (nearest(array, 0.5, -4, 3), rounding.compensated(array, 0.5, -4, 3, known)):
        assert integers.min() >= -4
        assert integers.max() <= 3
        difference = integers * 0.5 - array
        losses.append(known.loss(difference))
        assert losses[-1] == pytest.approx(np.square(rows @ difference.T).mean(axis=0).sum())
    assert losses[1] < 0.5 * losses[0]


def test_weights_on_the_grid_stay() -> None:
    rng = np.random.default_rng(1)
    rows, integers = correlated(rng, 300, 40), rng.integers(-4, 4, (5, 40))
    known = rounding.curvature([[rows.T @ rows / len(rows)]])
    np.testing.assert_array_equal(rounding.compensated(integers * 0.25, 0.25, -4, 3, known), integers)


def test_a_layer_that_saw_nothing_is_rounded_to_the_nearest() -> None:
    array = np.random.default_rng(2).normal(0, 1, (5, 20))
    known = rounding.curvature([[np.zeros((20, 20))]])
    np.testing.assert_array_equal(rounding.compensated(array, 0.3, -4, 3, known), nearest(array, 0.3, -4, 3))


def groups_network() -> tuple[Network, np.ndarray]:
    rng = np.random.default_rng(3)
    network = chain([
        ("input", Input(shape=(4, 5, 5))), ("late", Delay(steps=1)),
        ("conv", Conv2d(weight=rng.normal(0, 1, (6, 2, 3, 3)), groups=2, padding=(1, 1))), ("a", IF(shape=(6, 5, 5))),
        ("flat", Flatten()), ("fc", Linear(weight=rng.normal(0, 1, (7, 150)))), ("b", IF(shape=(7,))),
        ("output", Output(shape=(7,))),
    ])
    return network, (rng.random((5, 7, 4, 5, 5)) < 0.4).astype(np.int64)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_moments_are_those_of_the_inputs_summed_over_windows(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "_AT_ONCE", 1)
    network, frames = groups_network()
    seen = activity.observe(network, frames)
    late = np.concatenate([np.zeros_like(frames[:, :1]), frames[:, :-1]], axis=1)
    node = network.nodes["conv"]
    assert isinstance(node, Conv2d)
    for name, sent in (("a", late), ("b", seen.spikes["a"])):
        (path,) = paths_into(network, name)
        found = activity.moments(network, path, seen, window)
        assert found is not None
        summed = np.add.reduceat(sent, np.arange(0, 7, window), axis=1).reshape(-1, *sent.shape[2:]).astype(float)
        parts = [p.reshape(-1, 18) for p in linear.columns(node, summed)] if name == "a" else [summed.reshape(-1, 150)]
        assert len(found) == len(parts)
        for (moment,), rows in zip(found, parts, strict=True):
            np.testing.assert_allclose(moment, rows.T @ rows / len(rows))


def test_wide_layers_are_rounded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "BLOCK", 64)
    network, frames = groups_network()
    seen = activity.observe(network, frames)
    (path,) = paths_into(network, "b")
    found = activity.moments(network, path, seen, 7)
    assert found is not None
    assert [m.shape[0] for m in found[0]] == [64, 64, 22]
    known, node = rounding.curvature(found), network.nodes["fc"]
    assert isinstance(node, Linear)
    near, kept = nearest(node.weight, 0.5, -4, 3), rounding.compensated(node.weight, 0.5, -4, 3, known)
    assert known.loss(kept * 0.5 - node.weight) < 0.5 * known.loss(near * 0.5 - node.weight)


@pytest.mark.parametrize(("numbers", "integers"), [
    ([0.25, 0.5, 0.75], [1, 2, 3]), ([3.0, 6.0], [1, 2]), ([1 / 3, 0.5], [2, 3]), ([0.0, 0.0], [0, 0]), ([0.0, 5.0], [0, 1]),
    ([-1.0, 2.5], [-2, 5]), ([1.0, 255.0], [1, 255]), (np.float32([0.1, 0.3, 0.7]), [1, 3, 7]),
])
def test_exact_multiples(numbers: object, integers: list[int]) -> None:
    found = as_multiples(np.asarray(numbers), 255)
    assert found.exact
    assert found.integers.tolist() == integers
    np.testing.assert_allclose(found.integers * found.factor, np.asarray(numbers, float), rtol=1e-6)


def test_multiples_that_are_not_exact_say_their_error() -> None:
    numbers = np.array([1.0, np.pi, 200.3])
    found = as_multiples(numbers, 255)
    assert not found.exact
    assert np.abs(found.integers * found.factor / numbers - 1).max() == pytest.approx(found.error)
    assert (as_multiples(np.array([1e-9, 1.0]), 255).integers > 0).all()


def test_small_integers_that_are_good_enough_come_first() -> None:
    """72 : 203 is nearly 5 : 14; an exact ratio is taken however large it is."""
    found = as_multiples(np.array([72.001, 203.0]), 255, enough=0.01)
    assert found.integers.tolist() == [5, 14]
    assert 0 < found.error <= 0.01
    assert as_multiples(np.array([72.0, 203.0]), 255, enough=0.01).exact

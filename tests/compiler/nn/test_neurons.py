"""d2e.nn neurons: the reference's spikes in float64, options that mean nothing refused, gradients."""

import numpy as np
import pytest
import torch

import d2e.nn as dn
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir.errors import UsageError
from d2e.ir.reference import run

SHAPE = (3, 2, 2)


def grid(rng, low, high, shape=()):
    """Random numbers; on a grid of quarters half of the time, so that thresholds are met exactly."""
    values = rng.uniform(low, high, shape)
    return np.ceil(values * 4) / 4 if rng.random() < 0.5 else values


def number(rng, low, high):
    """A scalar, or one number per channel."""
    values = grid(rng, low, high, () if rng.random() < 0.5 else (3, 1, 1))
    return torch.tensor(values, dtype=torch.float64)


def random_options(rng):
    options = {
        "reset_when": rng.choice(["same", "next"]), "fire": rng.choice(["ge", "gt"]),
        "gain": number(rng, 0.5, 2), "bias": number(rng, -0.2, 0.3),
        "v_reset": number(rng, -0.5, 0.25), "v_min": number(rng, -1, -0.1),
        "v_init": number(rng, -0.5, 1.5), "amplitude": number(rng, 0.5, 2), "reset_by": number(rng, 0.2, 2),
    }
    chosen = {key: str(value) if isinstance(value, str) else value
              for key, value in options.items() if rng.random() < 0.5}
    if chosen.get("reset_when") != "next" and rng.random() < 0.3:
        chosen["refractory"] = int(rng.integers(1, 4))
    return chosen


def random_neuron(rng, kind):
    decay = lambda: number(rng, 0.01, 1)  # noqa: E731
    options = random_options(rng)
    if kind == "li":
        kept = {key: options[key] for key in ("gain", "bias", "v_min", "v_init") if key in options}
        return dn.LI(decay(), decay() if rng.random() < 0.5 else 0.0, **kept)
    reset = str(rng.choice(["subtract", "zero", "value", "none"]))
    if kind == "multi":
        options.pop("reset_by", None)
        levels = torch.tensor(np.cumsum(grid(rng, 0.2, 1, 3)), dtype=torch.float64)
        payloads = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64) if rng.random() < 0.5 else None
        threshold = torch.tensor(grid(rng, 0.5, 1.5), dtype=torch.float64)
        return dn.MultiThreshold(
            levels, bool(rng.random() < 0.5), decay(), threshold, reset, payloads=payloads, **options
        )
    rest = (number(rng, 0.3, 2), reset, int(rng.choice([0, 1, 2, 5])))
    if kind == "if":
        return dn.IF(*rest, **options)
    if kind == "lif":
        return dn.LIF(decay(), *rest, **options)
    return dn.CubaLIF(decay(), decay(), *rest, **options)


@pytest.mark.parametrize("kind", ["if", "lif", "cuba", "li", "multi"])
def test_spikes_are_those_of_the_reference(kind):
    fired = 0.0
    for seed in range(40):
        rng = np.random.default_rng([seed, *kind.encode()])
        neuron = random_neuron(rng, kind)
        current = grid(rng, -1, 2.5, (2, 12, *SHAPE))
        network = from_torch(neuron, SHAPE, coding="direct")
        expected = run(network, current).output
        with torch.no_grad():
            found = neuron(torch.from_numpy(current)).numpy()
        np.testing.assert_array_equal(found, expected, err_msg=f"seed {seed}: {neuron}")
        fired += np.abs(found).sum()
    assert fired > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dn.IF(0.0), "threshold"),
        (lambda: dn.IF(torch.tensor([1.0, -1.0])), "threshold"),
        (lambda: dn.IF(reset="soft"), "reset"),
        (lambda: dn.IF(fire=">"), "fire"),
        (lambda: dn.IF(reset_when="later"), "reset_when"),
        (lambda: dn.IF(surrogate="step"), "surrogate"),
        (lambda: dn.IF(max_spikes=-1), "max_spikes"),
        (lambda: dn.LIF(1.5), "decay"),
        (lambda: dn.CubaLIF(-0.1, 0.5), "decay"),
        (lambda: dn.MultiThreshold([2.0, 1.0]), "levels"),
        (lambda: dn.MultiThreshold([1.0, 2.0], threshold=torch.ones(3)), "threshold"),
    ],
)
def test_options_without_meaning_are_refused(make, words):
    with pytest.raises(UsageError, match=words) as caught:
        make()
    assert caught.value.code == "D2E-NN-001"


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="decay_syn"):
        dn.LIF(0.9, decay_syn=0.5)


@pytest.mark.parametrize("surrogate", ["arctan", "triangle", "rectangular"])
def test_the_surrogate_is_a_derivative_that_integrates_to_one(surrogate):
    v = torch.linspace(-200, 200, 4_000_001, dtype=torch.float64, requires_grad=True)
    dn.IF(surrogate=surrogate)(v[None, None]).sum().backward()
    area = float(v.grad.sum() * 400 / 4_000_000)
    assert area == pytest.approx(1.0, abs=0.01)
    assert v.grad[v.detach().sub(1).abs().argmin()] == pytest.approx(1.0 if surrogate == "arctan" else 2.0)


@pytest.mark.parametrize(
    "neuron",
    [
        dn.IF(learn_threshold=True), dn.LIF(0.7, learn_threshold=True, learn_decay=True),
        dn.IF(max_spikes=4, learn_threshold=True), dn.CubaLIF(0.5, 0.9, reset="zero", learn_decay=True),
        dn.MultiThreshold([1.0, 2.0], signed=True, learn_threshold=True, learn_decay=True, decay=0.9),
        dn.LI(0.9, 0.5, learn_decay=True),
    ],
    ids=lambda n: type(n).__name__,
)
def test_gradients_reach_the_input_and_what_is_learned(neuron):
    current = torch.rand(2, 6, 3, requires_grad=True)
    neuron(current).square().sum().backward()
    assert current.grad.abs().sum() > 0
    assert list(neuron.parameters())
    assert all(p.grad.abs().sum() > 0 for p in neuron.parameters())


def test_learned_values_stay_meaningful_and_do_not_stick():
    neuron = dn.LIF(0.9, learn_threshold=True, learn_decay=True)
    with torch.no_grad():
        neuron.decay_mem.fill_(1.3)
        neuron.threshold.fill_(-2.0)
    assert neuron.values()["decay_mem"].item() == 1.0
    assert neuron.values()["threshold"].item() == pytest.approx(1e-3)
    node = from_torch(neuron, (2,)).neuron("0")
    assert float(node.decay_mem) == 1.0
    neuron(torch.full((1, 4, 2), 0.1)).sum().backward()
    assert neuron.decay_mem.grad is not None


def test_integer_input_is_accepted():
    spikes = dn.IF(2.0)(torch.ones(1, 4, 1, dtype=torch.int64))
    assert spikes.flatten().tolist() == [0, 1, 0, 1]

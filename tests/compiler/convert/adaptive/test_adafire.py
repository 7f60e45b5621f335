"""The published searches: sums over layers as by hand, the best choice of all within a budget or a limit."""

from itertools import product

import cloudpickle
import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import activations, certain, skeleton_of, stepwise

from d2e.compiler.convert.adaptive import cases
from d2e.compiler.convert.adaptive.adafire import RATIOS, AdaFire
from d2e.compiler.convert.adaptive.calibrate import LIGHT, Calibrator
from d2e.compiler.convert.adaptive.cases import Changed
from d2e.compiler.convert.evaluate import Bench
from d2e.compiler.convert.store import Store
from d2e.ir import UnsupportedError

pytestmark = pytest.mark.usefixtures("one_core")
STEPS, MOST, FIT = 4, 4, 64


@pytest.fixture(scope="module")
def case():
    """A search around a net of two layers in double precision, the module and the held images."""
    model, images = certain("mlp", 5.0)
    held = images[FIT:]
    calibrator = Calibrator(skeleton_of("mlp", model), images[:FIT], STEPS, LIGHT)
    logits = activations("mlp", model, held)[2]
    return AdaFire(calibrator, calibrator.every(MOST), held, logits, Bench(Store(None, ""), 1)), model, held


def by_hand(case, change):
    """(spikes per sample of every layer, KL) with (phi, rho) changed in some layers, step by step in numpy."""
    search, model, held = case
    state, calibrator = search.reference, search.calibrator
    plan = dict(state.plan)
    for name, (most, ratio) in change.items():
        layer = calibrator.skeleton.layers[name]
        plan[name] = calibrator.layer(state, layer, most, ratio, with_weights=False).plan[name]
        assert plan[name].most == most
    spikes, logits = stepwise("mlp", model, plan, held, STEPS)
    mean = logits[:, -1] / STEPS + plan["readout"].shift
    p, q = (torch.from_numpy(z).log_softmax(1).numpy() for z in (search.logits, mean))
    return {name: n.sum() / len(held) for name, n in spikes.items()}, (np.exp(p) * (p - q)).sum(axis=1).mean()


def table(case, choices):
    """layer -> choice -> (its own spikes, KL), one layer changed at a time."""
    rows = {}
    for name in "ab":
        rows[name] = {}
        for choice in choices:
            spikes, kl = by_hand(case, {name: choice})
            rows[name][choice] = (spikes[name], kl)
    return rows


def summed(rows, choice):
    pairs = [rows[name][each] for name, each in zip("ab", choice, strict=True)]
    return sum(spikes for spikes, _ in pairs), sum(kl for _, kl in pairs)


@pytest.fixture(scope="module")
def bursts(case):
    return table(case, [(most, 1.0) for most in range(1, MOST + 1)])


@pytest.fixture(scope="module")
def ratios(case):
    return table(case, [(MOST, ratio) for ratio in RATIOS])


def test_figures_are_those_of_a_run_by_hand(case):
    search = case[0]
    changes = [{}, {"a": (1, 1.0)}, {"b": (2, 1.0)}, {"a": (2, 1.5), "b": (3, 2.0)}]
    for change, figures in zip(changes, search.figures(*changes, what="test"), strict=True):
        spikes, kl = by_hand(case, change)
        assert figures.own == pytest.approx(spikes)
        assert figures.spikes == pytest.approx(sum(spikes.values()))
        assert figures.synops == pytest.approx(9 * spikes["a"] + 4 * spikes["b"])
        assert figures.kl == pytest.approx(kl, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("share", [0.55, 0.7, 0.8, 0.9, 1.0])
def test_bursts_have_the_least_summed_divergence_within_the_summed_spikes(case, bursts, share):
    found = case[0].bursts(share)
    most = share * summed(bursts, [(MOST, 1.0)] * 2)[0]
    spikes, kl = summed(bursts, [(found[name], 1.0) for name in "ab"])
    assert spikes <= most * (1 + 1e-12)
    within = [sums for choice in product(bursts["a"], repeat=2) if (sums := summed(bursts, choice))[0] <= most]
    assert kl == pytest.approx(min(kl for _, kl in within), rel=1e-9)


def test_ratios_have_the_fewest_summed_spikes_within_the_summed_divergence(case, ratios):
    everything = {choice: summed(ratios, choice) for choice in product(ratios["a"], repeat=2)}
    plain = everything[(MOST, 1.0), (MOST, 1.0)][1]
    edges = {kl / plain - 1 for _, kl in everything.values() if kl > plain}
    for allowed in (0.0, *(by * each for each in edges for by in (0.999, 1.001)), 1000.0):
        found, limit = case[0].ratios(allowed), (1 + allowed) * plain * (1 + 1e-9)
        spikes, kl = everything[(MOST, found["a"]), (MOST, found["b"])]
        assert kl <= limit
        assert spikes == pytest.approx(min(s for s, k in everything.values() if k <= limit), rel=1e-9)
    assert spikes < everything[(MOST, 1.0), (MOST, 1.0)][0]


def test_a_budget_below_one_spike_per_step_is_told_with_the_least(case, bursts):
    with pytest.raises(UnsupportedError) as caught:
        case[0].bursts(0.05)
    assert caught.value.code == "D2E-CONV-014"
    cheapest = sum(min(spikes for spikes, _ in bursts[name].values()) for name in "ab")
    least = cheapest / summed(bursts, [(MOST, 1.0)] * 2)[0]
    assert f"the least is {least:.3g}" in caught.value.message
    assert case[0].bursts(float(caught.value.hint.split("--budget ")[1].split(" ")[0]))


@pytest.mark.parametrize("change", [{}, {"a": (2, 1.5)}, {"b": (1, 1.0)}, {"a": (1, 1.0), "b": (3, 2.0)}])
def test_a_task_measures_the_same_where_it_is_sent(case, change):
    search = case[0]
    task = Changed(search.case, {name: search.neurons(name, *each) for name, each in change.items()})
    here = task.measured()
    sent = cloudpickle.loads(cloudpickle.dumps(task))
    cases._KEPT.clear()
    assert sent.case is not task.case
    assert sent.name == task.name
    assert sent.measured() == here


def test_what_is_measured_does_not_depend_on_what_was_measured_before(case):
    """Spikes of layers before the changed one are kept; those of another network are not taken for them."""
    search, _, held = case
    other = AdaFire(search.calibrator, search.calibrator.every(2), held, search.logits, search.bench)
    change = {"b": (1, 1.0)}
    task, elsewhere = (Changed(case, {"b": search.neurons("b", 1, 1.0)}) for case in (search.case, other.case))
    alone = task.measured()
    assert elsewhere.name != task.name
    assert elsewhere.measured() != alone
    assert task.measured() == alone
    assert alone[0] == pytest.approx(by_hand(case, change)[1], rel=1e-9)

"""The search by price: budgets and limits are kept on whole networks, whoever measures."""

from itertools import pairwise

import cloudpickle
import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import certain, skeleton_of

from d2e.compiler.convert.adaptive import cases
from d2e.compiler.convert.adaptive.calibrate import PRESETS, Calibrator
from d2e.compiler.convert.adaptive.engine import simulate
from d2e.compiler.convert.evaluate import Bench
from d2e.compiler.convert.prices import Priced, Prices
from d2e.compiler.convert.skeleton import activate
from d2e.compiler.convert.store import Store
from d2e.ir import UnsupportedError

pytestmark = pytest.mark.usefixtures("one_core")
STEPS, MOST, FIT = 4, 3, 72
SIZES = {"mlp": 5.0, "conv": 20.0}
"""Network -> how large its logits are."""


def search(name="mlp", jobs=1, listen=None):
    model, images = certain(name, SIZES[name])
    skeleton, images = skeleton_of(name, model, torch.float32), images.astype(np.float32)
    calibrator, held = Calibrator(skeleton, images[:FIT], STEPS, PRESETS["advanced"]), images[FIT:]
    return Prices(calibrator, MOST, held, activate(skeleton, held)[1]["readout"], Bench(Store(None, ""), jobs, listen))


def measured(found, price):
    """(KL, synops per sample) of the network of a price, by hand."""
    state = found.calibrator.every(MOST, price=price)
    spikes, evidence = simulate(state.skeleton, state.plan, found.images, STEPS)
    synops = sum((n.astype(int) * state.skeleton.layers[name].fan_out).sum() for name, n in spikes.items())
    p, q = (torch.from_numpy(z).double().log_softmax(1) for z in (found.logits, evidence[:, -1] / STEPS))
    return float((p.exp() * (p - q)).sum(1).mean()), synops / len(found.images)


@pytest.fixture(scope="module")
def found():
    search_ = search()
    search_.figures(None, what="test")
    return search_


@pytest.mark.parametrize("name", SIZES)
def test_budgets_are_met_and_used_and_smaller_ones_cost_more(name):
    found, budgets = search(name), (0.8, 0.5, 0.3, 0.15)
    whole, before = measured(found, None)[1], np.inf
    prices = [found.within(budget) for budget in budgets]
    for budget, price in zip(budgets, prices, strict=True):
        kl, synops = measured(found, price)
        assert 0.9 * budget * whole <= synops <= min(budget * whole, before)
        assert (found.known[price].kl, found.known[price].synops) == pytest.approx((kl, synops), rel=1e-6)
        before = synops
    assert all(0 < a < b for a, b in pairwise(prices))


def test_a_number_of_synops_is_the_share_that_it_is(found):
    assert found.within(0.5 * found.known[None].synops) == found.within(0.5)


def test_a_budget_that_all_keep_asks_for_no_price(found):
    assert found.within(1) is None
    assert found.within(found.known[None].synops) is None
    assert found.within(1e9) is None


def test_a_budget_below_the_least_is_told_with_one_that_can_be_met(found):
    with pytest.raises(UnsupportedError) as caught:
        found.within(0.01)
    assert caught.value.code == "D2E-CONV-014"
    least = float(caught.value.hint.split("--budget ")[1].split(" ")[0])
    assert found.known[found.within(least)].synops <= least * found.known[None].synops


@pytest.mark.parametrize("allowed", [0.0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("since", [None, 0.02])
def test_the_divergence_grows_no_more_than_allowed(found, since, allowed):
    price = found.grown(since, allowed)
    before, (kl, synops) = measured(found, since), measured(found, price)
    assert kl <= (1 + allowed) * before[0] * (1 + 1e-6)
    assert synops <= before[1]
    assert (price or 0) >= (since or 0)
    assert allowed < 30 or synops < before[1]


def test_the_table_has_all_that_was_measured_by_rising_price(found):
    rows = found.table()
    assert [row["price"] for row in rows] == [None, *sorted(price for price in found.known if price is not None)]
    assert all(row["synops"] == found.known[row["price"]].synops for row in rows)


def test_it_does_not_matter_how_many_are_measured_at_a_time(monkeypatch):
    one, two = search(jobs=1), search(jobs=2)
    price = one.grown(one.within(0.6), 0.2)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    assert two.grown(two.within(0.6), 0.2) == price
    assert one.known == two.known


def test_nothing_is_measured_twice():
    told = []
    found = search(listen=lambda *row: told.append(row))
    found.within(0.5)
    count = len(told)
    assert count == len(found.known)
    found.within(0.5)
    assert len(told) == count
    assert told[:3] == [(1, 3, "budget"), (2, 3, "budget"), (3, 3, "budget")]


def test_a_task_measures_the_same_where_it_is_sent(found):
    task = Priced(found.calibrator, MOST, 0.03, found.images, found.logits)
    sent = cloudpickle.loads(cloudpickle.dumps(task))
    cases._KEPT.clear()
    assert sent.calibrator is not task.calibrator
    assert sent.name == task.name
    assert sent.measured() == task.measured()


def test_names_tell_prices_and_bursts_apart(found):
    names = {Priced(found.calibrator, most, price, found.images, found.logits).name
             for most in (3, 4) for price in (None, 0.02, 0.02 + 1e-12)}
    assert len(names) == 6

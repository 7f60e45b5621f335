"""The frontier of summed costs and losses is that of all choices."""

from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from d2e.compiler.convert.adaptive import pareto

FIGURES = st.tuples(st.integers(0, 12), st.integers(0, 12))
LAYERS = st.lists(st.dictionaries(st.integers(1, 5), FIGURES, min_size=1), max_size=4)


def named(tables):
    return {f"layer {i}": table for i, table in enumerate(tables)}


def sums(tables, choice):
    """(cost, loss) of a choice for every layer."""
    rows = [table[key] for table, key in zip(tables, choice, strict=True)]
    return sum(cost for cost, _ in rows), sum(loss for _, loss in rows)


def all_sums(tables):
    return {sums(tables, choice) for choice in product(*tables)}


@given(LAYERS)
def test_the_frontier_is_that_of_all_choices(tables):
    everything = all_sums(tables)
    wanted = {
        (cost, loss) for cost, loss in everything
        if not any(c <= cost and m <= loss and (c, m) != (cost, loss) for c, m in everything)
    }
    found = pareto.frontier(named(tables))
    assert [(p.cost, p.loss) for p in found] == sorted(wanted)
    assert all(sums(tables, p.choice) == (p.cost, p.loss) for p in found)


@given(LAYERS)
def test_costs_rise_and_losses_fall(tables):
    found = pareto.frontier(named(tables))
    assert all(a.cost < b.cost and a.loss > b.loss for a, b in pairwise(found))


@given(LAYERS)
def test_both_ends_stay_where_points_are_too_many(tables):
    everything, before = all_sums(tables), pareto._MOST_POINTS
    pareto._MOST_POINTS = 3
    try:
        found = pareto.frontier(named(tables))
    finally:
        pareto._MOST_POINTS = before
    assert len(found) <= 3
    assert (found[0].cost, found[0].loss) == min(everything)
    assert (found[-1].loss, found[-1].cost) == min((loss, cost) for cost, loss in everything)
    assert all(sums(tables, p.choice) == (p.cost, p.loss) for p in found)

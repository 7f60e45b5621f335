"""The simulator is the reference, on random configurations: spikes, states, counts and their order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.speck.board_configurations import chain
from tests.backends.speck.simulator_configurations import configurations, frames, pointwise

from d2e.backends.speck.configuration import Configuration, Destination, Part, Placed, Source
from d2e.backends.speck.events import STEP_US, Events, from_frames
from d2e.backends.speck.simulator import reference
from d2e.backends.speck.simulator.reference import Chip, Order
from d2e.backends.speck.simulator.run import Simulator
from d2e.ir.reference import Trace

ORDERS = st.sampled_from(["depth", "breadth"])
SEEDS = st.integers(0, 1 << 20)


def assert_same(one: Trace, other: Trace) -> None:
    """Every array of two traces."""
    np.testing.assert_array_equal(one.output, other.output)
    for kind in ("counts", "spikes", "v"):
        ours, theirs = getattr(one, kind), getattr(other, kind)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{kind} {name}")


@settings(max_examples=120)
@given(configurations(), ORDERS, SEEDS)
def test_frames_as_the_reference(configuration: Configuration, order: Order, seed: int) -> None:
    x = frames(configuration, seed)
    simulator = Simulator(configuration, order=order)
    found = simulator.run(x, "state", threads=1)
    assert_same(found, reference.run(configuration, x, "state", order=order))
    assert_same(simulator.run(x, "counts", threads=1), Trace(found.output, found.counts))


@settings(max_examples=120)
@given(configurations(), ORDERS, SEEDS)
def test_streams_as_the_reference(configuration: Configuration, order: Order, seed: int) -> None:
    """What `Chip` does event by event: who fires and in which order, synops, what is cut off or dropped."""
    x = frames(configuration, seed, batch=1)[0].reshape(-1, *configuration.source.space)
    chip, causes = _through_chip(configuration, order, x)
    simulator = Simulator(configuration, order=order)
    found = simulator.stream(from_frames(x), duration_us=STEP_US * (len(x) - 1))
    for number, core in chip.cores.items():
        run = found.cores[number]
        assert (run.synops, run.saturated, run.dropped) == (core.synops, core.saturated, core.dropped)
        np.testing.assert_array_equal(run.spikes, core.spikes)
        of_output = any(part.layer == number for part in configuration.populations[configuration.output].parts)
        assert (run.events is not None) == (configuration.cnn_layers[number].monitor_enable or of_output)
        if run.events is not None:
            assert _rows(run.events) == [(t, *s) for t, (n, s) in zip(causes, chip.sent, strict=True) if n == number]
    for name, placed in configuration.populations.items():
        states = np.concatenate([chip.cores[part.layer].v for part in placed.parts])
        np.testing.assert_array_equal(found.states[name], states)
        np.testing.assert_array_equal(
            found.counts[name], np.concatenate([chip.cores[part.layer].spikes for part in placed.parts]))
        assert simulator.overflows[name] == sum(chip.cores[part.layer].saturated for part in placed.parts)
        assert found.synops[name] == sum(chip.cores[part.layer].synops for part in placed.parts)
    first = {part.layer: part.first for part in configuration.populations[configuration.output].parts}
    assert _rows(found.output) == [
        (t, first[n] + o, y, x) for t, (n, (o, y, x)) in zip(causes, chip.sent, strict=True) if n in first]


def _through_chip(configuration: Configuration, order: Order, x: np.ndarray) -> tuple[Chip, list[int]]:
    """The chip after these frames, and for each of its spikes the time of the input event that caused it."""
    chip, causes = Chip(configuration, order), []
    edges = [(t * STEP_US,) for t in range(len(x))]
    for time, *event in sorted([*edges, *_rows(from_frames(x))], key=lambda row: row[0] if len(row) > 1 else row[0] - 0.5):
        if event:
            chip.send((event[0], event[1], event[2]))
            causes += [time] * (len(chip.sent) - len(causes))
        else:
            chip.edge()
    return chip, causes


def _rows(events: Events) -> list[tuple[int, ...]]:
    return list(zip(events.timestamp.tolist(), events.feature.tolist(), events.y.tolist(), events.x.tolist(), strict=True))


@given(configurations(), SEEDS)
def test_a_batch_is_its_samples_alone(configuration: Configuration, seed: int) -> None:
    """Every sample starts from rest, however many threads and chunks there are."""
    x = frames(configuration, seed, batch=9)
    simulator = Simulator(configuration)
    together = simulator.run(x, "state", threads=2)
    before = simulator.overflows
    alone = [simulator.run(x[i : i + 1], "state", threads=1) for i in range(len(x))]
    for kind in ("counts", "spikes", "v"):
        for name, values in getattr(together, kind).items():
            np.testing.assert_array_equal(values, np.concatenate([getattr(a, kind)[name] for a in alone]))
    np.testing.assert_array_equal(together.output, np.concatenate([a.output for a in alone]))
    assert simulator.overflows == {name: 2 * times for name, times in before.items()}


@given(configurations(only_chains=True), SEEDS)
def test_orders_agree_in_a_chain(configuration: Configuration, seed: int) -> None:
    x = frames(configuration, seed)
    depth, breadth = (Simulator(configuration, order=order).run(x, "state") for order in ("depth", "breadth"))
    assert_same(depth, breadth)


def test_orders_differ_in_a_merge() -> None:
    """Two spikes reach "sum" straight (+6) and by "detour" (-6): one after the other they cancel, in turn they add up."""
    two = replace(pointwise([1], 1, Destination(1), Destination(2)), weights=np.ones((2, 1, 1, 1), np.int8))
    two = replace(two, dimensions=replace(two.dimensions, output_shape=(2, 1, 1)))
    configuration = Configuration(
        "speck2f", {
            0: two, 1: replace(pointwise([6, 6, -6], 10, low=-1)), 2: pointwise([1, 1], 1, Destination(1, 1, 2)),
        },
        Source((1, 1, 1), (1, 1, 1), (Destination(0),)),
        {name: Placed((n, 1, 1), (Part(i, 0, n),)) for i, (name, n) in enumerate([("two", 2), ("sum", 1), ("detour", 1)])},
        "sum",
    )
    one_event = np.ones((1, 1, 1, 1, 1), np.int64)
    depth, breadth = (Simulator(configuration, order=order).run(one_event) for order in ("depth", "breadth"))
    assert (depth.output.sum(), breadth.output.sum()) == (0, 1)
    assert depth.counts["two"].sum() == depth.counts["detour"].sum() == 2


@pytest.mark.parametrize("order", ["depth", "breadth"])
def test_an_avalanche_overflows_no_buffer(order: Order) -> None:
    """Every event fires every neuron of 36 on four cores: 36 ** 4 spikes from one event, all logged."""
    full = pointwise([100], 1)
    cores = {}
    for i in range(4):
        shape = replace(full.dimensions, input_shape=(1, 6, 6), output_shape=(1, 6, 6), kernel_size=11, padding=(5, 5))
        cores[i] = replace(full, dimensions=shape, weights=np.full((1, 1, 11, 11), 100, np.int8),
                           destinations=(Destination(i + 1),) if i < 3 else ())
    configuration = Configuration(
        "speck2f", cores, Source((1, 6, 6), (1, 6, 6), (Destination(0),)),
        {f"p{i}": Placed((1, 6, 6), (Part(i, 0, 1),)) for i in range(4)}, "p3",
    )
    event = Events(*(np.array([n]) for n in (7, 0, 3, 2)))
    found = Simulator(configuration, order=order).stream(event)
    assert [int(found.counts[f"p{i}"].sum()) for i in range(4)] == [36, 36**2, 36**3, 36**4]
    assert len(found.output) == 36**4
    assert set(found.output.timestamp.tolist()) == {7}
    assert Counter(found.output.feature.tolist()) == {0: 36**4}
    assert np.bincount(found.output.y * 6 + found.output.x).tolist() == [36**3] * 36


@pytest.mark.parametrize(("batch", "steps"), [(0, 3), (2, 0)])
def test_nothing_to_run(batch: int, steps: int) -> None:
    configuration = Configuration(
        "speck2f", {0: pointwise([1], 1)}, Source((1, 1, 1), (1, 1, 1), (Destination(0),)),
        {"p": Placed((1, 1, 1), (Part(0, 0, 1),))}, "p")
    for trace in (run(np.zeros((batch, steps, 1, 1, 1), np.int64), "state") for run in (
            Simulator(configuration).run, lambda x, record: reference.run(configuration, x, record))):
        assert trace.output.shape == trace.spikes["p"].shape == trace.v["p"].shape == (batch, steps, 1, 1, 1)
        assert trace.counts["p"].shape == (batch, 1, 1, 1)
        assert not trace.counts["p"].any()


def test_features_spread_for_the_readout_block_are_put_together() -> None:
    """The same network with its last layer's features at 0, 4, 8 …: the same spikes, in frames as in streams."""
    plain, spread = chain(), chain(readout=True)
    x = frames(plain, 0)
    assert_same(*(Simulator(configuration).run(x, "state") for configuration in (plain, spread)))
    one, other = (Simulator(c).stream(from_frames(x[0].reshape(-1, *c.source.space))) for c in (plain, spread))
    assert _rows(one.output) == _rows(other.output)
    assert len(one.output) > 0
    assert other.cores[6].spikes[[f for f in range(17) if f % 4]].sum() == 0

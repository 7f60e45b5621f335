"""unfold-time: one step spread over T, the inverse of fold-time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.over_time import EYE, INPUTS, RANGE, SAMPLES, dyadic, fault, line, networks, same_nodes, signed_counts

from d2e.compiler.passes.fold_time import FoldTime, UnfoldTime, unfold_time
from d2e.ir import IF, LI, Linear, MultiThreshold, Network, Node, reference


@st.composite
def one_step_networks(draw: Any) -> tuple[Network, np.ndarray, int]:
    """(a network of memoryless levels, images, a number of steps that divides all its levels)."""
    steps = draw(st.sampled_from([1, 2, 4, 8]))
    nodes: list[tuple[str, Node]] = []
    size = INPUTS
    for number in range(draw(st.integers(1, 3))):
        out = draw(st.integers(1, 4))
        one, other = draw(st.sampled_from([(), (out,)])), draw(st.sampled_from([(), (out,)]))
        nodes.append((f"w{number}", Linear(weight=dyadic(draw, (out, size), -1.0, 1.5, 0.125))))
        theta = dyadic(draw, one, 0.125, 0.5, 0.125)
        nodes.append((f"n{number}", MultiThreshold(
            shape=(out,), levels=np.arange(1.0, steps * draw(st.integers(1, 3)) + 1), signed=draw(st.booleans()),
            threshold=theta, amplitude=draw(st.sampled_from([np.float64(1.0), theta])),
            bias=dyadic(draw, other, -0.5, 0.5), gain=np.float64(draw(st.sampled_from([1.0, -0.5]))),
            fire=draw(st.sampled_from(["ge", "gt"])), reset="none", decay_mem=np.float64(0.0))))
        size = out
    nodes.append(("w", Linear(weight=dyadic(draw, (2, size), -1.0, 1.0))))
    nodes.append(("readout", LI(shape=(2,), bias=dyadic(draw, (2,), -1.0, 1.0), decay_mem=np.float64(0.0))))
    return line(*nodes, steps=1, readout="last", size=INPUTS), dyadic(draw, (SAMPLES, INPUTS), *RANGE, 0.5), steps


@settings(max_examples=300)
@given(one_step_networks(), st.sampled_from([0.0, 0.5, 1.0]))
def test_folding_what_was_unfolded_gives_the_same_network(drawn: tuple[Network, np.ndarray, int], start: float) -> None:
    network, images, steps = drawn
    unfolded = UnfoldTime(steps, start).run(network)
    assert unfolded.input.time_steps == steps
    back = FoldTime().run(unfolded)
    if start == 0:
        assert same_nodes(back, network)
    np.testing.assert_array_equal(reference.run(back, images).output, reference.run(network, images).output)
    first = unfolded.neuron("n0")
    signed = isinstance(first, MultiThreshold) and first.signed
    if start == 0 or not signed:  # case A; signed levels are exact from 0, case G
        np.testing.assert_array_equal(signed_counts(unfolded, images)["n0"], signed_counts(network, images)["n0"])


@settings(max_examples=300)
@given(networks())
def test_unfolding_what_was_folded_has_the_same_means(drawn: tuple[Network, np.ndarray]) -> None:
    network, images = drawn
    folded, steps = FoldTime().run(network), network.input.time_steps
    assert steps is not None
    unfolded = unfold_time(folded, steps)
    np.testing.assert_array_equal(
        reference.run(FoldTime().run(unfolded), images).output, reference.run(folded, images).output)
    for name in network.populations:
        before, after = network.neuron(name), unfolded.neuron(name)
        wide = isinstance(before, MultiThreshold)
        assert (before.kind == after.kind) or (wide and not before.signed and after.kind == "if")


def test_levels_over_time() -> None:
    node = MultiThreshold(shape=(2,), levels=np.array([0.5, 1.0, 1.5, 2.0]), threshold=np.array([1.0, 2.0]),
                          bias=np.float64(0.25), reset="none", decay_mem=np.float64(0.0), fire="gt", metadata={"a": 1})
    unfolded = unfold_time(line(EYE, ("n", node), steps=1), 2, start=0.5)
    assert unfolded.neuron("n").same(IF(
        shape=(2,), threshold=np.array([1.0, 2.0]), max_spikes=2, v_init=np.array([0.5, 1.0]), amplitude=np.float64(1.0),
        bias=np.array([0.0, -0.25]), fire="gt", metadata={"a": 1}))
    signed = unfold_time(line(EYE, ("n", replace(node, signed=True, fire="ge")), steps=1), 4)
    assert signed.neuron("n").same(MultiThreshold(
        shape=(2,), levels=np.array([1.0]), signed=True, threshold=np.array([2.0, 4.0]), amplitude=np.float64(2.0),
        bias=np.float64(0.25), metadata={"a": 1}))


MEMORYLESS = MultiThreshold(shape=(2,), levels=np.arange(1.0, 5), reset="none", decay_mem=np.float64(0.0))


@pytest.mark.parametrize(("node", "said"), [
    (IF(shape=(2,)), "not memoryless"), (replace(MEMORYLESS, decay_mem=np.float64(0.5)), "not memoryless"),
    (replace(MEMORYLESS, v_init=np.float64(1.0)), "not memoryless"), (LI(shape=(2,)), "not memoryless"),
    (replace(MEMORYLESS, reset="subtract"), "a reset"), (replace(MEMORYLESS, refractory=1), "a reset"),
    (replace(MEMORYLESS, levels=np.array([1.0, 2.0, 4.0, 8.0])), "not 1, 2, 3"),
    (replace(MEMORYLESS, levels=np.arange(1.0, 4)), "3 levels do not share out among 2 steps"),
    (replace(MEMORYLESS, v_min=np.float64(0.5)), "floor"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_unfolded_is_told(node: Any, said: str) -> None:
    net = line(EYE, ("n", node), steps=1, readout="last" if node.kind == "li" else "count")
    error = fault(lambda: UnfoldTime(2).run(net))
    assert (error.code, error.node) == ("D2E-EQUIV-010", "n")
    assert said in error.message


def test_other_faults_of_unfolding() -> None:
    net = line(EYE, ("n", MEMORYLESS), steps=1)
    assert fault(lambda: UnfoldTime(0).run(net)).code == "D2E-EQUIV-009"
    assert fault(lambda: UnfoldTime(2).run(line(EYE, ("n", MEMORYLESS), steps=3))).code == "D2E-EQUIV-010"
    assert fault(lambda: UnfoldTime(2).run(line(EYE, ("n", MEMORYLESS), steps=1, readout="first"))).code == "D2E-EQUIV-005"
    spikes = net.with_nodes({"input": replace(net.input, coding="spikes")})
    assert fault(lambda: UnfoldTime(2).run(spikes)).code == "D2E-EQUIV-001"

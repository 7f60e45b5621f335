"""fold-time: one step in place of T, the same counts where that is proven, and what is said where it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.over_time import EYE, RANGE, fault, line, networks, same_nodes, signed_counts

import d2e
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.equivalence import check
from d2e.compiler.notes import warnings
from d2e.compiler.passes.fold_time import FoldTime, fold_time
from d2e.compiler.passes.manager import run_passes
from d2e.ir import (
    IF,
    LI,
    LIF,
    Affine,
    Delay,
    EarlyExit,
    Edge,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Node,
    Output,
    nirfile,
    reference,
    verify,
)

# --------------------------------------------------------------------------- what folding keeps


@settings(max_examples=500)
@given(networks(), st.sampled_from([None, RANGE]))
def test_counts_are_the_same_where_all_before_is_exact(drawn: tuple[Network, np.ndarray], stated: Any) -> None:
    network, images = drawn
    cases, folded = check(network, input_range=stated), FoldTime(input_range=stated).run(network)
    wanted, found = signed_counts(network, images), signed_counts(folded, images)
    for case in cases:
        if case.throughout and case.levels is not None:
            np.testing.assert_array_equal(found[case.name], wanted[case.name])
    if all(case.throughout for case in cases):
        over_time, steps = reference.run(network, images).output, network.input.time_steps
        assert steps is not None
        total = over_time[:, -1] if network.output.readout == "last" else over_time.sum(axis=1)
        np.testing.assert_array_equal(reference.run(folded, images).output[:, 0], total / steps)
    assert {w["node"] for w in warnings(folded)} == {case.name for case in cases if not case.exact}


@settings(max_examples=200)
@given(networks())
def test_one_step_forgets_so_that_images_may_follow_one_another(drawn: tuple[Network, np.ndarray]) -> None:
    network, images = drawn
    folded = FoldTime().run(network)
    stream = reference.run(folded.with_nodes({"input": replace(folded.input, time_steps=None)}), images[None], "spikes")
    one_by_one = reference.run(folded, images, "spikes")
    np.testing.assert_array_equal(stream.output[0], one_by_one.output[:, 0])
    for name, n in one_by_one.spikes.items():
        np.testing.assert_array_equal(stream.spikes[name][0], n[:, 0])


def test_deep_exact_networks_are_among_those_drawn() -> None:
    """The property above is not empty: layers behind the first are proven exact in many draws."""
    seen: list[int] = []

    @settings(max_examples=300, database=None)
    @given(networks())
    def look(drawn: tuple[Network, np.ndarray]) -> None:
        network, _ = drawn
        cases = [c for c in check(network, input_range=RANGE) if c.levels is not None]
        if network.input.time_steps != 1 and len(cases) > 1:
            seen.append(sum(c.throughout for c in cases))

    look()
    assert len(seen) > 80
    assert sum(n >= 2 for n in seen) > 15


def test_the_population_of_one_step() -> None:
    theta = np.array([0.5, 2.0])
    node = IF(shape=(2,), threshold=theta, amplitude=theta, v_init=theta / 2, bias=np.float64(0.25), gain=np.float64(0.5),
              fire="gt", max_spikes=3, metadata={"activation": "relu"})
    folded = FoldTime().run(line(EYE, ("n", node), ("w2", Linear(weight=np.eye(2))), (
        "readout", LI(shape=(2,), bias=np.array([1.0, 2.0]), v_init=np.float64(2.0))), readout="last"))
    assert folded.neuron("n").same(MultiThreshold(
        shape=(2,), levels=np.arange(1.0, 13), threshold=theta / 4, amplitude=theta / 4, bias=np.array([0.3125, 0.5]),
        gain=np.float64(0.5), fire="gt", reset="none", decay_mem=np.float64(0.0), metadata={"activation": "relu"}))
    assert folded.neuron("readout").same(LI(shape=(2,), bias=np.array([1.5, 2.5]), decay_mem=np.float64(0.0)))
    assert (folded.input.time_steps, folded.output.readout) == (1, "last")
    assert verify(folded) == []


def test_signed_levels_stay_signed() -> None:
    node = MultiThreshold(shape=(2,), levels=np.array([0.5, 1.0]), signed=True, payloads=np.array([2.0, 4.0]))
    folded = FoldTime().run(line(EYE, ("n", node)))
    assert folded.neuron("n").same(MultiThreshold(
        shape=(2,), levels=np.arange(1.0, 9), signed=True, threshold=np.float64(0.125), amplitude=np.float64(0.5),
        reset="none", decay_mem=np.float64(0.0)))
    images = np.array([[-0.875, 0.625], [9.0, -9.0]])
    assert reference.run(folded, images).output[:, 0].tolist() == [[-3.5, 2.5], [4.0, -4.0]]


def test_no_limit_of_spikes_becomes_what_the_range_allows() -> None:
    net = line(EYE, ("n", IF(shape=(2,), max_spikes=0, v_init=np.float64(0.5))))
    folded = FoldTime(input_range=(-1.0, 2.0)).run(net)
    node = folded.neuron("n")
    assert isinstance(node, MultiThreshold)
    assert len(node.levels) == 8
    images = np.random.default_rng(0).integers(-4, 9, (50, 2)) / 4
    np.testing.assert_array_equal(signed_counts(folded, images)["n"], signed_counts(net, images)["n"])


def test_an_early_exit_is_left_out_with_a_warning() -> None:
    net = line(EYE, ("n", IF(shape=(2,))))
    net = net.with_nodes({"output": replace(net.output, exit=EarlyExit(bounds=np.full(4, 0.5)))})
    folded = FoldTime().run(net)
    assert folded.output.exit is None
    assert [(w["code"], w["node"]) for w in warnings(folded)] == [("D2E-EQUIV-008", "output")]


def test_it_is_a_pass_among_passes() -> None:
    net = line(EYE, ("n", IF(shape=(2,))))
    (step,) = run_passes([FoldTime()], net, TARGETS[0])
    assert (step.name, step.changed) == ("fold-time", 2)


# --------------------------------------------------------------------------- what is said of it


INEXACT = [EYE, ("a", IF(shape=(2,), v_init=np.array([0.75, 0.0]))), ("w2", Linear(weight=np.array([[1.0, -1.0]]))),
           ("b", IF(shape=(1,)))]


def test_a_warning_says_case_bound_and_what_was_measured() -> None:
    (plain,) = warnings(FoldTime().run(line(*INEXACT)))
    assert (plain["code"], plain["node"]) == ("D2E-EQUIV-007", "b")
    assert "D signed, varying" in plain["message"]
    assert plain["message"].endswith("counts differ by at most 2")
    images = np.array([[0.25, 0.25], [0.0, 0.0]])  # the first fires at once, the second at last
    (seen,) = warnings(FoldTime(calibration=images).run(line(*INEXACT)))
    assert seen["message"].endswith("at most 2; measured on 2 samples, 50 % of counts differ, by 1 at most")


def test_fold_time_keeps_the_cases() -> None:
    images, labels = np.random.default_rng(0).integers(0, 9, (20, 2)) / 8, np.zeros(20, np.int64)
    net = line(*INEXACT)
    folded = d2e.fold_time(net, (images, labels))
    facts = folded.metadata["equivalence"]
    assert facts["time_steps"] == 4
    assert facts["layers"] == [case.facts() for case in check(net, images)]
    assert json.loads(json.dumps(facts)) == facts
    assert same_nodes(folded, FoldTime().run(net))
    assert d2e.fold_time(net).metadata["equivalence"]["layers"][0]["measured"] is None


def test_a_folded_network_is_written_and_read(tmp_path: Path) -> None:
    folded = fold_time(line(*INEXACT), np.ones((3, 2)))
    nirfile.write(folded, tmp_path / "folded.nir")
    assert nirfile.read(tmp_path / "folded.nir").same(folded)


# --------------------------------------------------------------------------- faults


def test_all_that_cannot_be_rewritten_is_told_at_once() -> None:
    net = line(EYE, ("a", IF(shape=(2,), reset="zero")), ("w2", Linear(weight=np.eye(2))),
               ("b", LIF(shape=(2,), decay_mem=np.float64(0.5))))
    error = fault(lambda: FoldTime().run(net))
    assert [(f.code, f.node) for f in error.findings] == [("D2E-EQUIV-003", "a"), ("D2E-EQUIV-003", "b")]
    assert "J hard reset" in error.findings[0].message
    assert "K leak" in error.findings[1].message


def test_no_limit_and_no_range_is_told() -> None:
    free = ("n", IF(shape=(2,), max_spikes=0))
    assert fault(lambda: FoldTime().run(line(EYE, free))).code == "D2E-EQUIV-004"
    many = fault(lambda: FoldTime(input_range=(0.0, 1e6)).run(line(EYE, free)))
    assert (many.code, "4,000,000 levels" in many.message) == ("D2E-EQUIV-004", True)


def test_strict_refuses_what_is_not_proven() -> None:
    error = fault(lambda: FoldTime(strict=True).run(line(*INEXACT)))
    assert (error.code, error.node) == ("D2E-EQUIV-006", "b")
    assert fault(lambda: fold_time(line(*INEXACT), strict=True)).code == "D2E-EQUIV-006"
    assert warnings(FoldTime(strict=True).run(line(*INEXACT[:2]))) == []


READOUT = [EYE, ("readout", LI(shape=(2,)))]
SPIKES = [EYE, ("n", IF(shape=(2,)))]


@pytest.mark.parametrize(("nodes", "readout", "good"), [
    (READOUT, "last", True), (READOUT, "count", False), (READOUT, "mean", False), (READOUT, "max", False),
    (SPIKES, "count", True), (SPIKES, "mean", True), (SPIKES, "last", False), (SPIKES, "first", False),
    (SPIKES, "max", False),
    ([*SPIKES, ("late", Delay(steps=1))], "count", False), ([*SPIKES, ("late", Delay(steps=0))], "count", True),
    ([*SPIKES, ("b", Affine(weight=np.eye(2), bias=np.ones(2)))], "count", True),
    ([*READOUT, ("b", Affine(weight=np.eye(2), bias=np.ones(2)))], "last", False),
    ([*READOUT, ("b", Linear(weight=np.eye(2)))], "last", True),
], ids=lambda value: value if isinstance(value, str) else "")
def test_outputs_that_are_no_sum_are_told(nodes: list[tuple[str, Any]], readout: Any, good: bool) -> None:
    last = nodes[-1][1]
    shape = (2,) if isinstance(last, (Delay, Linear)) else last.shape
    flat: dict[str, Node] = {"input": Input(shape=(2,), coding="direct", time_steps=4), **dict(nodes),
                             "output": Output(shape=shape, readout=readout)}
    net = Network(flat, tuple(Edge(a, b) for a, b in zip(flat, list(flat)[1:], strict=False)))
    if not good:
        assert fault(lambda: FoldTime().run(net)).code == "D2E-EQUIV-005"
        return
    images = np.array([[0.25, 1.0], [0.75, 0.5]])
    over_time, once = reference.run(net, images).output, reference.run(FoldTime().run(net), images).output[:, 0]
    np.testing.assert_array_equal(4 * once, over_time[:, -1] if readout == "last" else over_time.sum(axis=1))

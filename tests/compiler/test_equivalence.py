"""The checker: every population gets its case, what is called exact is exact, and no count is farther off than its bound."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tests.compiler.over_time import EYE, RANGE, line, networks, signed_counts

import d2e
from d2e.compiler import equivalence
from d2e.compiler.equivalence import LayerCase, check
from d2e.compiler.passes.fold_time import fold_time
from d2e.ir import (
    IF,
    LI,
    LIF,
    D2EError,
    Delay,
    Edge,
    Encoder,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Node,
    reference,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


def one(*nodes: tuple[str, Node], input_range: Any = None, **options: Any) -> LayerCase:
    """The case of the last population."""
    return check(line(*nodes, **options), input_range=input_range)[-1]


# --------------------------------------------------------------------------- random networks


@settings(max_examples=400)
@given(networks())
def test_what_is_called_exact_is_exact_and_bounds_hold_on_real_drives(drawn: tuple[Network, np.ndarray]) -> None:
    network, images = drawn
    for stated in (None, RANGE):
        for case in check(network, images, input_range=stated):
            if case.case == equivalence.READOUT:
                continue
            found = case.measured
            assert found is not None
            assert found.samples == len(images)
            assert case.bound is not None
            assert found.largest <= case.bound
            assert (case.bound == 0) == case.exact == (case.proven == 1)
            assert found.within + found.different <= 1 + 1e-9
            if case.exact:
                assert (found.within, found.different, found.mean) == (1, 0, 0)


@settings(max_examples=300)
@given(networks())
def test_a_stated_range_proves_more_and_frames_are_images(drawn: tuple[Network, np.ndarray]) -> None:
    network, images = drawn
    loose, tight = check(network), check(network, input_range=RANGE)
    for a, b in zip(loose, tight, strict=True):
        assert b.exact or not a.exact
        assert (a.bound or 0) >= (b.bound or 0)
    frames = np.repeat(images[:, None], network.input.time_steps, axis=1)
    assert check(network, frames) == check(network, images)


# --------------------------------------------------------------------------- cases by name


@pytest.mark.parametrize(("node", "case", "exact", "bound"), [
    (IF(shape=(2,)), "A", True, 0),
    (IF(shape=(2,), v_init=np.float64(1.0), fire="gt", bias=np.float64(-3.0), max_spikes=5), "A", True, 0),
    (IF(shape=(2,), v_init=np.array([0.0, -0.25])), "A", False, 1),
    (IF(shape=(2,), v_init=np.array([0.0, 2.5])), "A", False, 2),
    (MultiThreshold(shape=(2,), levels=np.arange(1.0, 4)), "A", True, 0),
    (MultiThreshold(shape=(2,), levels=np.arange(1.0, 4), signed=True), "G", True, 0),
    (MultiThreshold(shape=(2,), levels=np.arange(1.0, 4), signed=True, v_init=np.float64(0.5)), "G", False, 1),
], ids=str)
def test_the_first_layer(node: IF, case: str, exact: bool, bound: int) -> None:
    found = one(EYE, ("n", node))
    assert (found.case.split()[0], found.exact, found.bound, found.throughout) == (case, exact, bound, exact)
    assert found.proven == (1 if exact else 0 if case == "G" else 0.5)


def test_a_negative_start_is_exact_where_the_drive_is_proven_within_phi() -> None:
    node = ("n", IF(shape=(2,), v_init=np.float64(-2.5), max_spikes=2, bias=np.float64(0.5)))
    assert not one(EYE, node).exact
    assert one(EYE, node, input_range=(-9.0, 1.5)).exact
    assert one(EYE, node, input_range=(-9.0, 1.625)).bound == 1
    assert one(EYE, node, input_range=(-9.0, 99.0)).bound == one(EYE, node).bound == 3


def test_a_start_beyond_the_threshold_is_exact_where_the_drive_is_proven_positive() -> None:
    node = ("n", IF(shape=(2,), v_init=np.float64(3.5)))
    assert not one(EYE, node).exact
    assert one(EYE, node, input_range=(0.0, 99.0)).exact


def deeper(weight: float, bias: float = 0.0, **options: Any) -> LayerCase:
    """A second population behind one that sends 0 … 2 of 2 neurons."""
    second = options.pop("node", None) or IF(shape=(1,), bias=np.float64(bias), **options)
    return one(EYE, ("a", IF(shape=(2,), max_spikes=2)), ("w2", Linear(weight=np.full((1, 2), weight))), ("b", second))


def test_deeper_layers() -> None:
    within, beyond = deeper(0.25), deeper(0.5)
    assert (within.case, within.exact, within.throughout) == ("B/E drive proven within [0, phi*theta]", True, True)
    assert (beyond.case, beyond.exact) == ("C non-negative, may exceed phi*theta", False)
    assert "may bring 2 thresholds, phi is 1" in beyond.why
    assert (beyond.bound, beyond.levels) == (2, 4)  # drives 0 0 2 2
    assert deeper(0.5, max_spikes=2).exact
    late = deeper(0.25, bias=-0.125)
    assert (late.case, late.exact, late.bound) == ("D signed, varying", False, 1)
    assert deeper(-0.25).exact  # silent
    assert deeper(-0.25).case == "D signed, varying"
    assert "too small" in deeper(-0.25).why


def test_deeper_signed_levels() -> None:
    def levels(**options: Any) -> MultiThreshold:
        return MultiThreshold(shape=(1,), levels=np.array([1.0]), signed=True, **options)

    assert deeper(0.25, node=levels()).case.startswith("B/E")
    assert deeper(-0.25, node=levels()).case.startswith("B/E")
    assert deeper(-0.25, node=levels()).exact
    both = deeper(0.25, node=levels(bias=np.float64(-0.5)))
    assert (both.case, both.exact, both.bound) == ("D signed, varying", False, 1)
    assert deeper(0.25, node=levels(bias=np.float64(-0.5), fire="gt")).bound == 2
    at_the_edge = deeper(0.25, node=levels(v_init=np.float64(-1.0)))
    assert at_the_edge.case.startswith("B/E")
    assert not at_the_edge.exact


def test_no_limit_of_spikes() -> None:
    free = ("n", IF(shape=(2,), max_spikes=0, v_init=np.float64(0.5)))
    assert (one(EYE, free).exact, one(EYE, free).levels) == (True, None)
    assert one(EYE, free, input_range=(0.0, 2.5)).levels == 10
    varying = deeper(0.25, max_spikes=0)
    assert (varying.case.split()[0], varying.exact, varying.levels) == ("B/E", True, 4)
    assert deeper(-1.0, bias=1.0, max_spikes=0).bound == 3


def test_one_step_is_one_step() -> None:
    found = one(EYE, ("a", IF(shape=(2,), v_init=np.float64(-3.0))), ("w2", Linear(weight=-np.eye(2))),
                ("b", IF(shape=(2,), v_init=np.float64(3.0))), steps=1)
    assert found.exact
    assert found.throughout


def test_exactness_ends_at_the_first_layer_that_has_none() -> None:
    nodes = [EYE, ("a", IF(shape=(2,), v_init=np.float64(-1.0))), ("w2", Linear(weight=np.eye(2))), ("b", IF(shape=(2,))),
             ("w3", Linear(weight=np.eye(2))), ("readout", LI(shape=(2,)))]
    first, second, readout = check(line(*nodes, readout="last"))
    assert (first.exact, second.exact, readout.exact) == (False, True, True)
    assert not second.throughout
    assert not readout.throughout
    assert (readout.case, readout.levels, readout.bound) == ("readout without leak", None, 0)


@pytest.mark.parametrize(("node", "case"), [
    (IF(shape=(2,), reset="zero"), "J hard reset"), (LIF(shape=(2,), decay_mem=np.float64(0.5)), "K leak"),
    (IF(shape=(2,), refractory=2), "refractory"),
], ids=["J", "K", "refractory"])
def test_what_cannot_be_rewritten_is_named(node: IF, case: str) -> None:
    found = one(EYE, ("n", node))
    assert (found.case, found.rewritable, found.exact, found.bound, found.levels) == (case, False, False, None, None)
    assert found.why


def test_loops_delays_and_membranes_that_are_sent_are_named() -> None:
    assert one(("late", Delay(steps=1)), ("n", IF(shape=(2,)))).case == "delay"
    assert one(("late", Delay(steps=0)), ("n", IF(shape=(2,)))).exact
    net = line(("n", IF(shape=(2,))))
    assert check(Network(net.nodes, (*net.edges, Edge("n", "n", True))))[0].case == "recurrence"
    sent = check(line(("a", LI(shape=(2,))), ("w", Linear(weight=np.eye(2))), ("b", IF(shape=(2,)))))
    assert sent[0].case == "membrane sent"
    assert not sent[1].throughout


# --------------------------------------------------------------------------- certificates


def test_a_certificate_counts_what_differs() -> None:
    """Drives 1 then 0 … and the other way around, made by two neurons that start apart."""
    first = IF(shape=(2,), v_init=np.array([0.5, 0.0]))
    net = line(("a", first), ("w", Linear(weight=np.array([[2.0, -2.0], [0.5, 0.5]]))), ("b", IF(shape=(2,))), steps=2)
    images = np.array([[0.5, 0.5], [0.0, 0.0]])
    (_, second) = check(net, images)
    assert signed_counts(net, images)["b"].tolist() == [[1, 1], [0, 0]]
    found = second.measured
    assert found is not None
    assert (found.samples, found.within, found.different, found.largest, found.mean) == (2, 0.75, 0.25, 1, 0.25)
    assert second.bound == 1
    assert json.loads(json.dumps(second.facts()))["measured"]["samples"] == 2


def test_many_samples_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Linear(weight=np.array([[1.5, -1.0], [-1.0, 0.5]]))
    net = line(EYE, ("a", IF(shape=(2,))), ("w2", second), ("b", IF(shape=(2,))))
    images = np.random.default_rng(0).integers(0, 9, (50, 2)) / 8
    whole = check(net, images)
    monkeypatch.setattr(equivalence, "_AT_ONCE", 1)
    assert check(net, images) == whole


def test_the_table(golden: Any) -> None:
    nodes = [EYE, ("a", IF(shape=(2,), max_spikes=2)), ("w2", Linear(weight=np.array([[0.5, 0.25]]))), ("b", IF(shape=(1,))),
             ("w3", Linear(weight=np.array([[1.0], [-1.0]]))), ("c", IF(shape=(2,), bias=np.float64(0.25), max_spikes=0)),
             ("w4", Linear(weight=np.eye(2))), ("d", LIF(shape=(2,), decay_mem=np.float64(0.5))),
             ("w5", Linear(weight=np.eye(2))), ("readout", LI(shape=(2,)))]
    net, images = line(*nodes, readout="last"), np.random.default_rng(0).integers(0, 17, (40, 2)) / 8
    golden("equivalence.txt", equivalence.text(check(net)) + "\n\n" + equivalence.text(check(net, images)) + "\n")


# --------------------------------------------------------------------------- faults


def code_of(network: Network, *args: Any, **options: Any) -> str:
    with pytest.raises(D2EError) as caught:
        check(network, *args, **options)
    assert caught.value.hint
    return caught.value.code


@pytest.mark.parametrize("change", [
    {"coding": "spikes"}, {"coding": "signed"}, {"time_steps": None}, {"encoder": Encoder(kind="first")},
], ids=str)
def test_inputs_that_are_no_images_shown_at_every_step(change: dict[str, Any]) -> None:
    net = line(EYE, ("n", IF(shape=(2,))))
    source = net.nodes["input"]
    assert isinstance(source, Input)
    assert code_of(net.with_nodes({"input": replace(source, **change)})) == "D2E-EQUIV-001"


def test_an_encoder_that_shows_an_image_at_every_step_is_one() -> None:
    net = line(EYE, ("n", IF(shape=(2,))))
    shown = net.with_nodes({"input": replace(net.input, encoder=Encoder())})
    assert check(shown, np.ones((3, 2)))[0].exact


def test_frames_that_contradict_what_is_stated() -> None:
    net = line(EYE, ("n", IF(shape=(2,))), steps=2)
    assert code_of(net, np.array([[[0.0, 1], [1, 1]]])) == "D2E-EQUIV-002"
    assert code_of(net, np.ones((3, 4, 2))) == "D2E-EQUIV-002"
    assert code_of(net, np.ones((3, 2)), input_range=(0.0, 0.5)) == "D2E-EQUIV-002"
    assert code_of(net, np.ones((3, 7))) == "D2E-INPUT-001"


# --------------------------------------------------------------------------- trained networks, numbers of all kinds


def digits() -> tuple[np.ndarray, np.ndarray]:
    """(calibration images, unseen images) of 8 x 8 digits in 0..1, [n, 64]."""
    folder = EXAMPLES / "adaptive_calibration"
    with np.load(folder / "calibration.npz") as fit, np.load(folder / "test.npz") as held:
        return fit["x"].reshape(-1, 64).astype(float), held["x"].reshape(-1, 64).astype(float)


def test_what_is_exact_on_calibration_is_exact_on_images_never_seen() -> None:
    """The first layer is constant; the second gets a proven drive within phi * theta, by weights that are not negative."""
    rng, (seen, unseen) = np.random.default_rng(0), digits()
    second = np.abs(rng.normal(size=(20, 30)))
    second *= 0.999 / second.sum(axis=1, keepdims=True)  # thresholds 1, payloads up to 2: a drive up to phi * theta = 2
    nodes = [
        ("w1", Linear(weight=rng.normal(0.05, 0.3, (30, 64)))), ("a", IF(shape=(30,), max_spikes=2, v_init=np.float64(0.5))),
        ("w2", Linear(weight=second)), ("b", IF(shape=(20,), max_spikes=2, v_init=np.float64(0.5))),
        ("w3", Linear(weight=rng.normal(size=(10, 20)))), ("readout", LI(shape=(10,))),
    ]
    net = line(*nodes, steps=8, readout="last", size=64)
    cases = check(net, seen[:100])
    assert [case.exact for case in cases] == [True, True, True]
    assert [case.throughout for case in cases] == [True, True, True]
    wanted, found = signed_counts(net, unseen), signed_counts(fold_time(net), unseen)
    for name in "ab":
        assert wanted[name].max() > 8
        np.testing.assert_array_equal(found[name], wanted[name])
    np.testing.assert_allclose(
        reference.run(fold_time(net), unseen).output[:, 0], reference.run(net, unseen).output[:, -1] / 8, atol=1e-12)


def test_the_first_layer_of_a_converted_network_is_exact_on_images_never_seen() -> None:
    folder = EXAMPLES / "adaptive_calibration"
    options = {"calibration": folder / "calibration.npz", "calibration_samples": 64, "calibrate": "light"}
    network = d2e.convert(folder / "model.pt", time_steps=4, max_burst=4, **options)
    with np.load(folder / "calibration.npz") as fit, np.load(folder / "test.npz") as held:
        seen, unseen = fit["x"][:64], held["x"]
    first, *others = check(network, seen, input_range=(0.0, 1.0))
    assert (first.case, first.exact, first.throughout) == ("A constant input", True, True)
    assert first.measured is not None
    assert (first.measured.within, first.measured.different) == (1, 0)
    assert [case.case for case in others] == ["D signed, varying"] * 3 + ["readout without leak"]
    assert not any(case.throughout for case in others)
    folded = fold_time(network, input_range=(0.0, 1.0))
    wanted, found = signed_counts(network, unseen), signed_counts(folded, unseen)
    np.testing.assert_array_equal(found[first.name], wanted[first.name])

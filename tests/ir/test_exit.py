"""Early exit: the rule's arithmetic by hand, what the verifier says of it, files and text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2e.ir import IF, EarlyExit, Input, Linear, Network, Output, chain, nirfile, reference, to_text, verify

RULE = EarlyExit(np.array([-1.0, 0.5, 0.25]), 0.75, "calibrated")


def small(rule: EarlyExit | None = RULE, classes: int = 2, time_steps: int | None = 3, **output) -> Network:
    return chain([
        ("input", Input(shape=(2,), time_steps=time_steps)), ("w", Linear(weight=np.ones((classes, 2)))),
        ("n", IF(shape=(classes,))), ("output", Output(shape=(classes,), exit=rule, **output)),
    ])


# --------------------------------------------------------------------------- arithmetic


def test_entropy_by_hand():
    rule = EarlyExit(np.ones(4), 2.0)
    # two classes, evidence 3 and 1 at the second step: z = 2 * (3, 1) / 2, p = e**3 / (e**3 + e**1), …
    p = np.exp(3.0) / (np.exp(3.0) + np.exp(1.0))
    by_hand = -(p * np.log(p) + (1 - p) * np.log(1 - p)) / np.log(2)
    assert rule.entropy(np.array([3, 1]), 1) == pytest.approx(by_hand, rel=1e-12)
    assert rule.entropy(np.zeros((5, 7)), 0).tolist() == [1.0] * 5
    assert rule.entropy(np.array([1e9, 0, -1e9]), 0) == 0.0


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.floats(1e-3, 1e3), st.integers(0, 9))
def test_entropy_lies_within_0_and_1(evidence, scale, t):
    h = EarlyExit(np.ones(1), scale).entropy(np.array(evidence), t)
    assert 0.0 <= h <= 1.0
    shifted = EarlyExit(np.ones(1), scale).entropy(np.array(evidence) + 5.0, t)
    assert shifted == pytest.approx(h, abs=1e-6)


def test_evidence_is_summed_or_the_membrane_itself():
    output = np.zeros((1, 3, 2), np.int64)
    output[0, :, 0] = [0, 1, 9]
    summed, held = ([RULE.entropy(np.array([e, 0]), t) for t, e in enumerate(each)] for each in ((0, 1, 10), (0, 1, 9)))
    between = EarlyExit(np.array([-1, -1, (summed[2] + held[2]) / 2]), RULE.scale)
    assert between.certain(output, "count").tolist() == [[False, False, True]]
    assert between.certain(output, "mean").tolist() == [[False, False, True]]
    assert between.certain(output, "last").tolist() == [[False, False, False]]


def test_steps_of_shorter_and_longer_runs():
    sure = np.zeros((3, 5, 2, 1))
    sure[0, 1:, 0], sure[1, 2:, 1], sure[2, 3:, 1] = 99, 99, 99
    assert RULE.steps(sure, "count").tolist() == [2, 3, 5], "no bound beyond the last step of the rule"
    assert RULE.steps(sure[:, :2], "count").tolist() == [2, 2, 2]
    assert RULE.steps(sure[:, :1], "count").tolist() == [1, 1, 1]
    assert RULE.steps(sure[:0], "count").tolist() == []
    assert RULE.steps(sure[:, :0], "count").tolist() == [0, 0, 0]


@pytest.mark.parametrize("bounds", [[-1.0] * 3, [1.0] * 3])
def test_never_and_always(bounds):
    output = np.random.default_rng(0).integers(0, 2, (4, 3, 2))
    assert set(EarlyExit(np.array(bounds)).steps(output, "count")) == {3 if bounds[0] < 0 else 1}


def test_the_rule_changes_no_value():
    frames = np.random.default_rng(0).integers(0, 2, (3, 3, 2))
    trace, plain = reference.run(small(), frames), reference.run(small(None), frames)
    np.testing.assert_array_equal(trace.output, plain.output)


def test_its_arrays_are_frozen_copies():
    bounds = np.ones(2)
    rule = EarlyExit(bounds)
    bounds[0] = 0
    assert rule.bounds.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        rule.bounds[0] = 0


# --------------------------------------------------------------------------- verifier


@pytest.mark.parametrize("network", [
    small(readout="max"), small(readout="first"), small(classes=1), small(time_steps=4),
    small(EarlyExit(np.array([0.1, np.nan, 0.1]))), small(EarlyExit(np.ones((3, 1)))), small(EarlyExit(np.ones(()))),
    small(EarlyExit(np.ones(0))), small(replace(RULE, scale=0.0)), small(replace(RULE, scale=-1.0)),
    small(replace(RULE, scale=np.inf)), small(replace(RULE, scale=np.ones(2))),
])
def test_rules_without_a_meaning_are_found(network):
    assert [f.code for f in verify(network)] == ["D2E-EXIT-001"]


@pytest.mark.parametrize("readout", ["count", "mean", "last"])
def test_rules_with_a_meaning(readout):
    assert verify(small(readout=readout)) == []
    assert verify(small(readout=readout, time_steps=None)) == []


# --------------------------------------------------------------------------- files, text


@pytest.mark.parametrize("compat", nirfile.VERSIONS)
def test_files_keep_it(tmp_path, compat):
    nirfile.write(small(), tmp_path / "a.nir", compat=compat)
    again = nirfile.read(tmp_path / "a.nir")
    assert again.output.same(small().output)
    assert not again.output.same(small(replace(RULE, scale=0.5)).output)
    assert not again.output.same(small(None).output)
    nirfile.write(again, tmp_path / "b.nir", compat=compat)
    assert (tmp_path / "a.nir").read_bytes() == (tmp_path / "b.nir").read_bytes()


def test_text_shows_it():
    told = "exit=EarlyExit(bounds=[-1.0, 0.5, 0.25], scale=0.75, rule='calibrated')"
    assert told in to_text(small())
    assert "exit" not in to_text(small(None))

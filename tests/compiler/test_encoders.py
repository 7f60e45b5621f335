"""The text of an encoder, and checkpoints that state theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import d2e
import d2e.nn as dn
from d2e.compiler.encoders import parse
from d2e.compiler.frontends.files import load_model
from d2e.ir import UsageError
from d2e.ir.encoding import KINDS, LATCHING

IMAGES = np.random.default_rng(0).random((12, 1, 4, 4))


def model() -> nn.Module:
    torch.manual_seed(0)
    return dn.Sequential(nn.Conv2d(1, 3, 3, padding=1), dn.IF(reset="zero"), nn.Flatten(), nn.Linear(48, 3), dn.IF())


def saved(folder: Path, **facts: Any) -> Path:
    dn.save(model(), folder / "student.pt", input_shape=(1, 4, 4), time_steps=6, **facts)
    return folder / "student.pt"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_text(kind: str) -> None:
    encoder = parse(kind, (-1.0, 3.0), 6)
    assert (encoder.kind, encoder.seed, encoder.latch) == (kind, 0, False)
    assert encoder.scale is None if kind in ("direct", "first") else encoder.scale == 0.5


def test_what_stands_in_braces() -> None:
    for kind in LATCHING:
        assert parse(kind + "{latch}").latch
    assert parse("bernoulli{seed=7}").seed == 7
    assert parse("delta{step=0.25}", (0.0, 1.0), 3).scale == 0.25
    assert parse("ttfs").scale == 1.0


@pytest.mark.parametrize("text", [
    "", "morse", "ttfs{}", "ttfs{latch=1}", "ttfs{latch}x", "ttfs{latch,latch}", "phase{latch}", "rate{seed=1}",
    "bernoulli{seed}", "bernoulli{seed=-1}", "bernoulli{seed=x}", "delta{step=0}", "delta{step=inf}", "delta{step=x}",
    "delta{step}", "ttfs{colour=red}", None, 3,
])
def test_other_texts_are_told(text: Any) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.code == "D2E-ENC-006"
    assert "ttfs-strict" in str(caught.value.hint)


def test_a_checkpoint_says_its_encoder(tmp_path: Path) -> None:
    alone = d2e.compile(saved(tmp_path, encoder="ttfs{latch}"))
    stated = d2e.compile(saved(tmp_path), encoder="ttfs{latch}")
    assert alone.network.same(stated.network)
    np.testing.assert_array_equal(alone.run(IMAGES).output, stated.run(IMAGES).output)
    assert load_model(saved(tmp_path, encoder="ttfs{latch}")).input.encoder.latch  # type: ignore[union-attr]


def test_a_checkpoint_says_the_range_of_its_input(tmp_path: Path) -> None:
    path = saved(tmp_path, encoder="rate", input_range=(-1.0, 2.0), max_payload=4)
    source = load_model(path).input
    assert source.encoder is not None
    assert (source.coding, source.max_payload, source.encoder.kind, source.encoder.scale) == ("signed", 4, "rate", 0.5)
    assert load_model(path, max_payload=2).input.encoder.scale == 1.0  # type: ignore[union-attr]
    other = d2e.compile(path, input_range=(0, 3)).network.input
    assert other.encoder is not None
    assert (other.coding, other.encoder.kind, other.encoder.scale) == ("spikes", "rate", 0.75)


def test_options_overrule_the_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path, encoder="ttfs{latch}")
    for options, kind in (({"encoder": "phase"}, "phase"), ({"encoder": "bernoulli{seed=2}"}, "bernoulli")):
        assert d2e.compile(path, **options).network.input.encoder.kind == kind  # type: ignore[union-attr, arg-type]
    real = d2e.compile(path, coding="direct", input_range=(0, 1), stop_after="canonicalise").network.input
    assert (real.coding, real.encoder) == ("direct", None)
    both = d2e.compile(path, encoder="direct", coding="direct", calibration=IMAGES).network.input
    assert both.encoder is not None
    assert both.encoder.kind == "direct"
    same = load_model(path, coding="spikes").input
    assert same.encoder is not None  # what the encoder makes


@pytest.mark.parametrize("facts", [
    {"encoder": "morse"}, {"encoder": 3}, {"encoder": "ttfs", "input_range": (1, 0)}, {"encoder": "ttfs", "input_range": 1},
    {"encoder": "ttfs", "input_range": ("a", "b")}, {"encoder": "ttfs", "input_range": (0, 1, 2)},
])
def test_what_is_no_encoder_is_told_when_saved_and_when_loaded(facts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        saved(tmp_path, **facts)
    assert caught.value.code == "D2E-ENC-006"
    assert not list(tmp_path.iterdir())
    content = {"d2e": {"schema": 1, "input_shape": (1, 4, 4), "time_steps": 6, **facts}, "model": model()}
    torch.save(content, tmp_path / "student.pt")
    with pytest.raises(UsageError) as caught:
        load_model(tmp_path / "student.pt")
    assert caught.value.code == "D2E-ENC-006"


def test_changes_have_two_signs_unless_stated() -> None:
    sequence = np.sin(np.linspace(0, 6, 8))[None, :, None, None, None] * np.ones((2, 8, 1, 4, 4))
    common: dict[str, Any] = {"input_shape": (1, 4, 4), "time_steps": 8, "encoder": "delta{step=0.5}", "max_payload": 3}
    both, rises = d2e.compile(model(), **common), d2e.compile(model(), coding="spikes", eval=(sequence, [0, 1]), **common)
    assert (both.network.input.coding, rises.network.input.coding) == ("signed", "spikes")
    both.run(sequence)
    told = next(w for w in rises.report["warnings"] if w["code"] == "D2E-ENC-005")
    assert "change by more than one event carries" in told["message"]
    with pytest.raises(UsageError, match="makes an input of coding 'signed', not 'direct'"):
        d2e.compile(model(), coding="direct", **common)


def test_a_range_alone_needs_something_that_has_one() -> None:
    with pytest.raises(UsageError, match="no range of real values"):
        d2e.compile(model(), input_shape=(1, 4, 4), time_steps=4, input_range=(0, 1))

"""Passes keep the scale of an early exit true: scale * output is what it was, up to rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.backends.source_networks import random_source

from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.ir import (
    IF,
    LI,
    Affine,
    D2EError,
    EarlyExit,
    Edge,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    UnsupportedError,
    chain,
    reference,
    verified,
)

SCALE = 0.375
RULE = EarlyExit(np.full(30, 0.3), SCALE)
RNG = np.random.default_rng(7)
FRAMES = RNG.integers(0, 3, (4, 30, 5))


def network(last: Neuron, *before: tuple[str, Node], **source: Any) -> Network:
    classes = last.shape[0]
    entry = Input(shape=(5,), max_payload=2, **source)
    return chain([
        ("input", entry), *before, ("w", Linear(weight=RNG.normal(0.3, 0.5, (classes, 5)))), ("last", last),
        ("output", Output(shape=last.shape, exit=RULE, readout="last" if isinstance(last, LI) else "count")),
    ])


def fold(source: Network) -> Network:
    return run_passes([Canonicalise(), FoldThresholds()], source, TARGETS[0])[-1].network


def lower(source: Network, **options: Any) -> Network:
    return run_passes(TARGETS[0].pipeline(options), source, TARGETS[0])[-1].network


def judged(network: Network, frames: np.ndarray) -> np.ndarray:
    """What the rule makes its logits of, at every step."""
    assert network.output.exit is not None
    return float(network.output.exit.scale) * reference.run(network, frames).output.astype(np.float64)


# --------------------------------------------------------------------------- what fold_thresholds drops


@pytest.mark.parametrize(("last", "factor"), [
    (IF(shape=(3,)), 1.0),
    (IF(shape=(3,), amplitude=np.float64(2.5)), 2.5),
    (IF(shape=(3,), amplitude=np.full(3, 0.25), max_spikes=4), 0.25),
    (MultiThreshold(shape=(3,), levels=np.array([0.5, 1.0, 2.0])), 0.5),
    (MultiThreshold(shape=(3,), levels=np.array([0.5, 1.0]), payloads=np.array([0.6, 1.8]), amplitude=np.float64(2)), 1.2),
    (MultiThreshold(shape=(3,), levels=np.array([1.0, 2.0]), signed=True, threshold=np.float64(0.3)), 1.0),
    (LI(shape=(3,), decay_mem=np.float64(0.9)), 1.0),
    (LI(shape=(3,), amplitude=np.float64(3), gain=np.float64(2), reset="value", v_reset=np.float64(0.5)), 1.0),
], ids=["plain", "amplitude", "burst", "levels", "payloads", "signed", "membrane", "membrane with options of spikes"])
def test_a_dropped_amplitude_joins_the_scale(last, factor):
    source = network(last)
    after = fold(source)
    assert after.output.exit is not None
    assert float(after.output.exit.scale) == pytest.approx(SCALE * factor)
    np.testing.assert_allclose(judged(after, FRAMES), judged(source, FRAMES), atol=1e-9)
    assert np.ptp(judged(source, FRAMES)) > 0


def two_populations(a: Neuron, b: Neuron, tail: Node | None = None) -> Network:
    nodes: dict[str, Node] = {
        "input": Input(shape=(5,)), "wa": Linear(weight=RNG.normal(0.3, 0.5, (3, 5))), "a": a,
        "wb": Linear(weight=RNG.normal(0.3, 0.5, (3, 5))), "b": b, "output": Output(shape=(3,), exit=RULE),
    }
    edges = [Edge("input", "wa"), Edge("wa", "a"), Edge("input", "wb"), Edge("wb", "b"), Edge("b", "output")]
    if tail is None:
        return verified(Network(nodes, (*edges, Edge("a", "output"))))
    return verified(Network({**nodes, "tail": tail}, (*edges, Edge("a", "tail"), Edge("tail", "output"))))


def test_two_populations_of_one_amplitude_count_once():
    source = two_populations(*(IF(shape=(3,), amplitude=np.float64(2.0)) for _ in range(2)))
    after = fold(source)
    assert after.output.exit is not None
    assert after.output.exit.scale == 2 * SCALE
    frames = np.minimum(FRAMES, 1)
    np.testing.assert_allclose(judged(after, frames), judged(source, frames))


@pytest.mark.parametrize("source", [
    two_populations(IF(shape=(3,), amplitude=np.float64(2.0)), IF(shape=(3,))),
    two_populations(*(IF(shape=(3,), amplitude=np.float64(2.0)) for _ in range(2)),
                    tail=Affine(weight=np.eye(3), bias=np.ones(3))),
], ids=["units", "bias"])
def test_sums_of_units_that_come_to_differ_are_told(source):
    with pytest.raises(UnsupportedError) as caught:
        fold(source)
    assert caught.value.code == "D2E-EXIT-003"
    plain = source.with_nodes({"output": replace(source.output, exit=None)})
    assert fold(plain).output.exit is None


# --------------------------------------------------------------------------- what quantise makes of a membrane


@pytest.mark.parametrize("weight_bits", ["8", "4"])
@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_a_membrane_in_integers_stands_for_the_same_logits(weight_bits, decay):
    source = network(LI(shape=(3,), decay_mem=np.float64(decay), bias=np.float64(0.1), gain=np.float64(1.7)))
    after = lower(source, weight_bits=weight_bits, calibration=FRAMES)
    wanted, found = judged(source, FRAMES), judged(after, FRAMES)
    assert np.abs(found - wanted).max() < (0.02 if weight_bits == "8" else 0.25) * np.abs(wanted).max()
    assert after.output.exit is not None
    assert after.output.exit.scale < SCALE / 64, "one unit of v is a 64th of a weight unit"


def test_a_membrane_behind_spikes_and_real_values():
    """encode-input scales the weights behind it, not the output."""
    hidden = [("w0", Linear(weight=RNG.normal(0.3, 0.5, (5, 5)))), ("hidden", IF(shape=(5,), reset="zero"))]
    frames = RNG.uniform(0, 1, (4, 30, 5))
    for before in ([], hidden):
        source = network(LI(shape=(3,)), *before)
        source = source.with_nodes({"input": replace(source.input, coding="direct")})
        wanted, found = judged(source, frames), judged(lower(source, calibration=frames), frames)
        assert np.abs(found - wanted).max() < 0.08 * np.abs(wanted).max()


# --------------------------------------------------------------------------- whole pipelines


def test_whole_pipelines_keep_the_logits_of_random_networks():
    """Spikes may fall a step late or get lost: the sums of all samples and classes agree in the mean."""
    compared = 0
    for seed in range(40):
        source, frames = random_source(seed, several=seed % 2 == 1)
        if source.output.shape[0] < 2 or source.output.readout not in ("count", "mean", "last"):
            continue
        bounds = np.full(frames.shape[1], 0.5)
        source = source.with_nodes({source.outputs[0]: replace(source.output, exit=EarlyExit(bounds, SCALE))})
        try:
            after = lower(source, calibration=frames)
        except D2EError:
            continue
        wanted, found = judged(source, frames).sum(axis=1), judged(after, frames).sum(axis=1)
        size = np.abs(wanted).sum()
        if size == 0:
            continue
        assert np.abs(found - wanted).sum() <= 0.5 * size, seed
        compared += 1
    assert compared >= 10

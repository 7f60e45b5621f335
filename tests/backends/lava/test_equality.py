"""Lava computes what the reference computes: spikes, u, v, counts and output of random lowered networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.backends.lava import form_networks
from tests.backends.lava.form_networks import random_forms
from tests.backends.lava.lowered_networks import KINDS, Builder, random_lowered, whole

from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import run_many
from d2e.ir import LI, FixedPoint, Input, Linear, Network, Output, chain, verified
from d2e.ir.reference import Trace, run

QUICK = 40
WHOLE = int(os.environ.get("D2E_LAVA_NETWORKS", "360"))
QUICK_FORMS = 48
WHOLE_FORMS = int(os.environ.get("D2E_LAVA_FORMS", "416"))
CHUNK = 20
Draw = Callable[[int], tuple[Network, np.ndarray]]


def differences(network: Network, expected: Trace, found: Trace) -> list[str]:
    """What is not identical, as ``kind/population``."""
    pairs = [
        (f"{what}/{name}", getattr(expected, what)[name], getattr(found, what)[name])
        for name in network.populations for what in ("spikes", "u", "v", "counts")
    ]
    pairs.append(("output", expected.output, found.output))
    return [name for name, a, b in pairs if a.shape != b.shape or not np.array_equal(a, b)]


def compare(seeds: range, folder: Path, python: Path, draw: Draw = random_lowered) -> None:
    names = form_networks.kind if draw is random_forms else lambda seed: KINDS[seed % len(KINDS)].__name__
    networks = {seed: draw(seed) for seed in seeds}
    for seed, (network, frames) in networks.items():
        emit(verified(network), folder / str(seed), time_steps=frames.shape[1])
    jobs = [(folder / str(seed), frames) for seed, (_, frames) in networks.items()]
    found = run_many(jobs, record="state", time_out=600.0, python=python)
    wrong = {}
    for (seed, (network, frames)), trace in zip(networks.items(), found, strict=True):
        differing = differences(network, run(network, frames, "state"), trace)
        if differing:
            wrong[f"{seed} ({names(seed)})"] = differing
    assert not wrong


@pytest.mark.lava
@pytest.mark.parametrize("first", range(0, QUICK, CHUNK))
def test_quick_subset_is_identical(first: int, tmp_path: Path, lava_python: Path) -> None:
    compare(range(first, first + CHUNK), tmp_path, lava_python)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, WHOLE, CHUNK))
def test_whole_study_is_identical(first: int, tmp_path: Path, lava_python: Path) -> None:
    compare(range(first, min(first + CHUNK, WHOLE)), tmp_path, lava_python)


@pytest.mark.lava
@pytest.mark.parametrize("first", range(0, QUICK_FORMS, CHUNK))
def test_bursts_and_multi_threshold_neurons_are_identical(first: int, tmp_path: Path, lava_python: Path) -> None:
    """As replicas on stock neurons and as graded neurons."""
    compare(range(first, min(first + CHUNK, QUICK_FORMS)), tmp_path, lava_python, random_forms)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK_FORMS, WHOLE_FORMS, CHUNK))
def test_whole_study_of_forms_is_identical(first: int, tmp_path: Path, lava_python: Path) -> None:
    compare(range(first, min(first + CHUNK, WHOLE_FORMS)), tmp_path, lava_python, random_forms)


class Lively(Builder):
    """Mostly positive weights and low thresholds: every population fires."""

    def weights(self, shape: tuple[int, ...], bits: int | None = None) -> tuple[np.ndarray, None]:
        return self.rng.integers(-20, 100, shape), None

    def _threshold(self, synapses: tuple[str, ...], typical: float | None) -> int:
        return 60

    def _dynamics(self, style: str, shape: tuple[int, ...], theta: int) -> dict[str, np.ndarray]:
        return {"decay_syn": whole(4096 if style == "soft" else 1000), "decay_mem": whole(0)}


def special(kind: str) -> tuple[Network, np.ndarray]:
    """What Lava is known to be delicate about: sizes beyond 8 bits, delays beyond 6."""
    b = Lively(np.random.default_rng(11))
    if kind == "wide map":
        last = b.population(b.conv2d(b.input((1, 131, 3))))
        return b.finish(b.population(b.linear(last, 3)), steps=4)
    if kind == "many channels":
        return b.finish(b.population(b.pool(b.input((130, 2, 3)))), steps=4)
    if kind == "long delay, dense":
        first = b.population(b.linear(b.input((4,)), 4))
        return b.finish(b.population(b.linear(b.delay(first, 70), 4), b.linear(first, 4)), steps=90)
    first = b.population(b.conv2d(b.input((1, 3, 3)), plain=True))
    late = b.conv2d(b.delay(first, 140), plain=True)
    return b.finish(b.population(late, b.conv2d(first, plain=True)), steps=150)


@pytest.mark.lava
def test_readouts_that_are_no_stock_neuron(tmp_path: Path, lava_python: Path) -> None:
    """A floor, decays of their own: v of a process of its own."""
    jobs, networks = [], []
    for k, options in enumerate([{"v_min": whole(-300)}, {"decay_mem": whole([4000, 100, 0])}]):
        node = LI(**{
            "shape": (3,), "arithmetic": FixedPoint(), "reset": "zero", "fire": "gt", "threshold": whole(1),
            "decay_syn": whole(1000), "decay_mem": whole(4000), "bias": whole(-20), "v_init": whole(7), **options,
        })  # fmt: skip
        network = chain([
            ("in", Input(shape=(3,))), ("a", Linear(weight=whole([[30, -40, 9], [-8, 3, 2], [5, 5, 5]]))), ("p", node),
            ("out", Output(shape=(3,))),
        ])  # fmt: skip
        emit(verified(network), tmp_path / str(k), time_steps=8)
        frames = np.random.default_rng(k).integers(0, 2, (3, 8, 3))
        networks.append(network)
        jobs.append((tmp_path / str(k), frames))
    for network, (_, frames), trace in zip(networks, jobs, run_many(jobs, record="state", python=lava_python), strict=True):
        assert trace.one_run.all()
        assert not differences(network, run(network, frames, "state"), trace)


@pytest.mark.lava
def test_sizes_and_delays_beyond_lavas_registers(tmp_path: Path, lava_python: Path) -> None:
    kinds = ("wide map", "many channels", "long delay, dense", "long delay, convolution")
    networks = [special(kind) for kind in kinds]
    for kind, (network, frames) in zip(kinds, networks, strict=True):
        emit(verified(network), tmp_path / kind, time_steps=frames.shape[1])
    jobs = [(tmp_path / kind, frames) for kind, (_, frames) in zip(kinds, networks, strict=True)]
    traces = run_many(jobs, record="state", python=lava_python)
    for kind, (network, frames), trace in zip(kinds, networks, traces, strict=True):
        expected = run(network, frames, "state")
        assert all(counts.any() for counts in expected.counts.values()), kind
        assert not differences(network, expected, trace), kind


def test_the_study_reaches_the_edges() -> None:
    """The networks wrap u, saturate v, carry payloads and fire in every population."""
    wrapped = saturated = fired = graded = 0
    for seed in range(QUICK):
        network, frames = random_lowered(seed)
        trace = run(network, frames, "state")
        wrapped += any((np.abs(np.diff(u, axis=1)) > 2**23).any() for u in trace.u.values())
        saturated += any((np.abs(v) == 2**23 - 1).any() for v in trace.v.values())
        fired += all(c.sum() for n, c in trace.counts.items() if n != "readout")
        graded += network.input.max_payload > 1
    assert wrapped
    assert saturated
    assert fired > QUICK / 4
    assert graded > QUICK / 5

"""Lava computes what the reference computes: spikes, u, v, counts and output of random lowered networks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.backends.lava.lowered_networks import KINDS, random_lowered

from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import run_many
from d2e.ir import Network, verified
from d2e.ir.reference import Trace, run

QUICK = 40
WHOLE = int(os.environ.get("D2E_LAVA_NETWORKS", "360"))
CHUNK = 20


def differences(network: Network, expected: Trace, found: Trace) -> list[str]:
    """What is not identical, as ``kind/population``."""
    pairs = [
        (f"{what}/{name}", getattr(expected, what)[name], getattr(found, what)[name])
        for name in network.populations for what in ("spikes", "u", "v", "counts")
    ]
    pairs.append(("output", expected.output, found.output))
    return [name for name, a, b in pairs if a.shape != b.shape or not np.array_equal(a, b)]


def compare(seeds: range, folder: Path, python: Path) -> None:
    networks = {seed: random_lowered(seed) for seed in seeds}
    for seed, (network, frames) in networks.items():
        emit(verified(network), folder / str(seed), time_steps=frames.shape[1])
    jobs = [(folder / str(seed), frames) for seed, (_, frames) in networks.items()]
    found = run_many(jobs, record="state", time_out=600.0, python=python)
    wrong = {}
    for (seed, (network, frames)), trace in zip(networks.items(), found, strict=True):
        differing = differences(network, run(network, frames, "state"), trace)
        if differing:
            wrong[f"{seed} ({KINDS[seed % len(KINDS)].__name__})"] = differing
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

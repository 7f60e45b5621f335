"""Lava computes weighted replicas as the reference does: digits of different depths wait for each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.backends.lava.test_equality import differences
from tests.backends.staircases import random_stairs, stairs

from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import run_many
from d2e.backends.loihi2.map_neurons import MapNeurons
from d2e.backends.loihi2.netx.plan import plan
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.replicas import merged
from d2e.ir import Conv2d, Input, Linear, Network, Output, Quantized, reference, verified
from d2e.ir.network import chain

CHIP = TARGETS[0]
QUICK, WHOLE, CHUNK = 12, 200, 20


def compare(networks: list[tuple[Network, np.ndarray]], folder: Path, python: Path) -> Counter[str]:
    """Lava on the digits beside the reference on them and on the population; what was seen."""
    jobs, lowered, seen = [], [], Counter[str]()
    for number, (network, frames) in enumerate(networks):
        result = verified(MapNeurons(burst="weighted").run(network, CHIP))
        facts = emit(result, folder / str(number), time_steps=frames.shape[1])
        lowered.append(result)
        jobs.append((folder / str(number), frames))
        seen["relays"] += int(facts["relays"] > 0)  # type: ignore[operator]
    traces = run_many(jobs, record="state", python=python)
    for (network, frames), result, trace in zip(networks, lowered, traces, strict=True):
        expected, found = reference.run(network, frames, "spikes"), merged(result, trace)
        assert not differences(result, reference.run(result, frames, "state"), trace)
        np.testing.assert_array_equal(found.output, expected.output)
        for name in network.populations:
            np.testing.assert_array_equal(found.spikes[name], expected.spikes[name])
            np.testing.assert_array_equal(found.counts[name], expected.counts[name])
        seen["one run"] += int(trace.one_run.all())
        seen["fired"] += any(np.abs(n).max() > 3 for n in expected.spikes.values())
    return seen


@pytest.mark.lava
def test_random_networks_are_identical(tmp_path: Path, lava_python: Path) -> None:
    seen = compare([random_stairs(seed) for seed in range(QUICK)], tmp_path, lava_python)
    assert all(seen[what] for what in ("relays", "one run", "fired")), seen


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, WHOLE, CHUNK))
def test_many_random_networks_are_identical(first: int, tmp_path: Path, lava_python: Path) -> None:
    compare([random_stairs(seed) for seed in range(first, min(first + CHUNK, WHOLE))], tmp_path, lava_python)


def chained(signed: bool = False) -> Network:
    rng, mark = np.random.default_rng(3), Quantized(8, np.float64(1))
    shape = (2, 3, 3)
    parts = [("input", Input(shape=shape, max_payload=9))]
    for i in range(3):
        weight = rng.integers(-60, 100, (2, 2, 3, 3))
        bias = 64 * rng.integers(-300, 300, (2, 1, 1))
        parts += [(f"w{i}", Conv2d(weight=weight, padding=(1, 1), quantized=mark)),  # type: ignore[list-item]
                  (f"n{i}", stairs(shape, 70, 140, 7, bias=bias, signed=signed))]  # type: ignore[list-item]
    return verified(chain([*parts, ("output", Output(shape=shape))]))


@pytest.mark.lava
def test_several_in_a_row_over_several_steps(tmp_path: Path, lava_python: Path) -> None:
    network = chained(signed=True)
    frames = np.random.default_rng(4).integers(0, 10, (4, 5, 2, 3, 3))
    assert compare([(network, frames)], tmp_path, lava_python)["fired"]


def test_latency_grows_by_a_step_for_each_further_digit(tmp_path: Path) -> None:
    facts = {burst: emit(MapNeurons(burst=burst).run(chained(), CHIP), tmp_path / burst, time_steps=1)  # type: ignore[arg-type]
             for burst in ("replicas", "weighted")}
    assert [facts[burst]["latency_steps"] for burst in ("replicas", "weighted")] == [3, 3 + 3 * 2]
    assert facts["weighted"]["one_run"] == "0 blank frames between samples"


def test_netx_has_no_layer_of_digits() -> None:
    network = chain([
        ("input", Input(shape=(4,))), ("w", Linear(weight=np.full((3, 4), 9), quantized=Quantized(8, np.float64(1)))),
        ("n", stairs((3,), 5, 10, 7)), ("output", Output(shape=(3,))),
    ])
    for burst, prevented in (("weighted", ["n"]), ("replicas", [])):
        found = plan(MapNeurons(burst=burst).run(network, CHIP))[1]  # type: ignore[arg-type]
        assert [f.node for f in found] == prevented
        assert all("binary digits" in f.message and "replicas" in str(f.hint) for f in found)

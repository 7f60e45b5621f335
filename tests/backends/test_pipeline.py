"""Random float networks through the whole Loihi 2 pipeline: every pass keeps its promise on each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from tests.backends.source_networks import STEPS, random_source

from d2e.backends.loihi2.simulator.run import Simulator
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.notes import warnings
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.passes.ranges import population_range
from d2e.compiler.replicas import merged
from d2e.ir import Network, UnsupportedError, reference
from d2e.ir.reference import Trace

CHIP = TARGETS[0]
APPROXIMATE = {"D2E-LOIHI-020", "D2E-LOIHI-021"}
REFUSED = {
    "D2E-QUANT-002", "D2E-QUANT-003",  # a calibrated layer of two bits may fall silent
    "D2E-QUANT-004",  # levels of two bits fall together
    "D2E-LOIHI-003", "D2E-LOIHI-020",  # replicas asked for where there are none
    "D2E-LOIHI-016",  # or where a step between levels takes too many convolutions
}


def lower(seed: int, burst: str = "auto", several: bool = False) -> tuple[Network, np.ndarray, Mapping[str, Network]]:
    """(source, frames, pass -> network) with options drawn from the seed."""
    network, frames = random_source(seed, several)
    rng = np.random.default_rng(seed)
    options: dict[str, object] = {
        "burst": burst, "weight_bits": int(rng.integers(2, 9)), "scale": str(rng.choice(["max", "percentile", "mse"])),
        "time_steps": STEPS,
    }
    if rng.random() < 0.2:
        options |= {"scale": "auto", "calibration": frames}
    steps = run_passes(CHIP.pipeline(options), network, CHIP)
    return network, frames, {"source": network, **{s.name: s.network for s in steps}}


def assert_same(a: Trace, b: Trace, kinds: tuple[str, ...], where: str) -> None:
    for kind in kinds:
        for name, values in getattr(a, kind).items():
            np.testing.assert_array_equal(values, getattr(b, kind)[name], err_msg=f"{where}: {kind} of {name}")


def check(seed: int, burst: str = "auto", several: bool = False) -> Network | None:
    """Every promise on one network; the lowered one, or None where quantising says that it cannot keep it."""
    try:
        source, frames, after = lower(seed, burst, several)
    except UnsupportedError as error:
        if error.code in REFUSED:
            return None
        raise
    trace = {name: reference.run(network, frames, "state") for name, network in after.items()}
    lowered = after["place"]
    simulator = Simulator(lowered)
    simulated = simulator.run(frames, "state")
    inexact = APPROXIMATE & {w["code"] for w in warnings(lowered)}
    overflowed = any(simulator.overflows.values()) or _saturated(trace["quantise"])
    for earlier, later in (("source", "canonicalise"), ("canonicalise", "fold-thresholds"), ("quantise", "map-neurons")):
        rounded = later == "fold-thresholds" and "D2E-FOLD-004" in {w["code"] for w in warnings(lowered)}
        if not rounded and (later != "map-neurons" or not (inexact or overflowed)):
            found = merged(after[later], trace[later])
            for name in source.populations:
                np.testing.assert_array_equal(trace[earlier].spikes[name], found.spikes[name], err_msg=f"{later}: {name}")
    _check_ranges(after["quantise"], trace["quantise"])
    assert_same(trace["map-neurons"], simulated, ("spikes", "u", "v", "counts"), "simulator")
    np.testing.assert_array_equal(trace["map-neurons"].output, simulated.output)
    return lowered


def _saturated(trace: Trace) -> bool:
    """Whether a state reached its limit: beyond it the forms of a neuron wrap or saturate, each in its own way."""
    return any(bool((np.abs(v) == 2**23 - 1).any()) for v in trace.v.values())


def _check_ranges(network: Network, trace: Trace) -> None:
    for name in network.populations:
        bound = population_range(network, name, STEPS)
        assert bound.state is not None
        reached = max(np.abs(trace.u[name]).max(), np.abs(trace.v[name]).max()) / 64
        assert reached <= bound.state, name


@pytest.mark.parametrize("seed", range(120))
def test_random_networks_keep_their_spikes_through_every_pass(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("burst", ["replicas", "graded"])
@pytest.mark.parametrize("first", range(0, 100, 20))
def test_networks_of_several_spikes_keep_them_in_both_forms(first: int, burst: str) -> None:
    forms: Counter[str] = Counter()
    for seed in range(first, first + 20):
        found = check(seed, burst, several=True)
        forms.update(f["form"] for f in found.metadata["forms"].values()) if found is not None else forms.update(["refused"])
    assert forms[burst] >= 10
    assert forms["refused"] <= 12


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 3000, 100))
def test_many_random_networks(start: int) -> None:
    for seed in range(start, start + 100):
        check(seed)

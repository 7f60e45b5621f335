"""The integer step against the LIF of Lava, typed here again in plain Python, and its edges by hand.

Equations: `PyLifModelBitAcc` in lava-nc 0.10.0, src/lava/proc/lif/models.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2e.ir import (
    IF,
    LI,
    LIF,
    CubaLIF,
    FixedPoint,
    Input,
    MultiThreshold,
    Neuron,
    Output,
    UnsupportedError,
    chain,
    reference,
)

HALF = 1 << 23
WHOLE = {"gain": np.int64(1), "amplitude": np.int64(1), "arithmetic": FixedPoint()}


def run(node: Neuron, currents: list[int]) -> reference.Trace:
    top = max(1, *map(abs, currents))
    source = Input(shape=(1,), coding="signed", max_payload=top)
    network = chain([("in", source), ("n", node), ("out", Output(shape=(1,)))])
    return reference.run(network, np.array(currents, np.int64).reshape(1, -1, 1), record="state")


def row(array: np.ndarray) -> list[int]:
    assert array.dtype == np.int64
    return array.reshape(-1).tolist()


def lava_decay(x: int, d: int) -> int:
    kept = (abs(x) * (4096 - d)) >> 12
    return kept if x >= 0 else -kept


def lava_lif(currents: list[int], du: int, dv: int, vth: int, bias: int) -> list[tuple[int, int, int]]:
    """(s, u, v) after every step of one Lava fixed-point LIF."""
    u = v = 0
    trace = []
    for a_in in currents:
        u = lava_decay(u, du + 1) + (a_in << 6)
        if u > HALF:
            u -= 2 * HALF
        elif u <= -HALF:
            u += 2 * HALF
        v = max(-HALF + 1, min(HALF - 1, lava_decay(v, dv) + u + bias))
        s = int(v > (vth << 6))
        if s:
            v = 0
        trace.append((s, u, v))
    return trace


EDGES = st.sampled_from([131071, 131072, -131072])
CURRENT = st.one_of(st.integers(-300, 300), st.integers(-150_000, 150_000), EDGES)


@settings(max_examples=300)
@given(
    currents=st.lists(CURRENT, min_size=1, max_size=12),
    du=st.one_of(st.integers(-1, 4095), st.sampled_from([-1, 0, 4095])),
    dv=st.one_of(st.integers(0, 4096), st.sampled_from([0, 1, 4096])),
    vth=st.one_of(st.integers(0, 500), st.integers(0, (1 << 17) - 1)),
    bias=st.one_of(st.just(0), st.integers(-4096 << 7, 4095 << 7)),
)
def test_the_integer_step_is_lavas(currents, du, dv, vth, bias):
    node = CubaLIF(
        shape=(1,), decay_syn=np.int64(4095 - du), decay_mem=np.int64(4096 - dv), threshold=np.int64(vth),
        bias=np.int64(bias), fire="gt", reset="zero", **WHOLE,
    )
    trace = run(node, currents)
    found = list(zip(row(trace.spikes["n"]), row(trace.u["n"]), row(trace.v["n"]), strict=True))
    assert found == lava_lif(currents, du, dv, vth, bias)


@pytest.mark.parametrize(("current", "u"), [
    (131071, 131071 << 6), (131072, HALF), (131073, -HALF + 64), (-131071, -131071 << 6), (-131072, HALF),
    (-131073, HALF - 64), (3 << 18, (3 << 24) - 2 * HALF),
])
def test_the_current_wraps_once(current, u):
    assert row(run(IF(shape=(1,), threshold=np.int64(1 << 20), **WHOLE), [current]).u["n"]) == [u]


def test_the_membrane_saturates():
    node = IF(shape=(1,), threshold=np.int64(1 << 20), **WHOLE)
    assert row(run(node, [100_000] * 3).v["n"]) == [100_000 << 6, HALF - 1, HALF - 1]
    assert row(run(node, [-100_000] * 3).v["n"]) == [-100_000 << 6, -HALF + 1, -HALF + 1]


def test_other_overflow_rules():
    refuse = FixedPoint(u_overflow="refuse", v_overflow="refuse")
    node = IF(shape=(1,), threshold=np.int64(1 << 20), **WHOLE | {"arithmetic": refuse})
    assert row(run(node, [131071]).v["n"]) == [131071 << 6]
    for currents in ([131072], [-131072], [100_000, 100_000]):
        with pytest.raises(UnsupportedError, match="D2E-RANGE-002"):
            run(node, currents)
    narrow = FixedPoint(fraction_bits=0, u_bits=8, u_overflow="saturate", v_bits=8, v_overflow="wrap")
    node = IF(shape=(1,), threshold=np.int64(1000), **WHOLE | {"arithmetic": narrow})
    trace = run(node, [200, 100])
    assert row(trace.u["n"]) == [127, 100]
    assert row(trace.v["n"]) == [127, 227 - 256]


@pytest.mark.parametrize(("start", "keep", "after"), [
    (-64, 4095, -63), (64, 4095, 63), (-1, 4095, 0), (-1, 4096, -1), (-7, 2048, -3), (7, 2048, 3), (5, 0, 0),
])
def test_decay_truncates_toward_zero(start, keep, after):
    node = LIF(
        shape=(1,), decay_mem=np.int64(keep), v_init=np.int64(start), threshold=np.int64(1 << 10), **WHOLE
    )
    assert row(run(node, [0]).v["n"]) == [after]


@pytest.mark.parametrize(("fire", "expected"), [("ge", [1, 1, 0]), ("gt", [0, 1, 1])])
def test_at_the_threshold(fire, expected):
    node = IF(shape=(1,), threshold=np.int64(5), fire=fire, reset="subtract", **WHOLE)
    assert row(run(node, [5, 5, 1]).spikes["n"]) == expected


@pytest.mark.parametrize(("fire", "n"), [("ge", 4), ("gt", 3)])
def test_integer_bursts(fire, n):
    options = {**WHOLE, "amplitude": 3.0}
    node = IF(shape=(1,), threshold=np.int64(5), fire=fire, max_spikes=0, **options)
    trace = run(node, [20])
    assert row(trace.spikes["n"]) == [n]
    assert row(trace.output) == [3 * n]
    assert row(trace.v["n"]) == [(20 - 5 * n) << 6]


def test_threshold_zero_fires_above_zero():
    node = IF(shape=(1,), threshold=np.int64(0), fire="gt", reset="zero", **WHOLE)
    assert row(run(node, [0, 1, -1, 2]).spikes["n"]) == [0, 1, 0, 1]


@pytest.mark.parametrize(("when", "v"), [("same", [-100, -50 + 64]), ("next", [640, -100 + 64])])
def test_value_reset_is_in_units_of_the_membrane(when, v):
    node = LIF(
        shape=(1,), threshold=np.int64(9), decay_mem=np.int64(2048), reset="value", reset_when=when,
        v_reset=np.int64(-100), **WHOLE,
    )
    assert row(run(node, [10, 1]).v["n"]) == v


def test_next_step_soft_reset_comes_after_the_decay():
    node = LIF(
        shape=(1,), threshold=np.int64(4), decay_mem=np.int64(2048), reset="subtract", reset_when="next",
        **WHOLE,
    )
    assert row(run(node, [5, 0, 0]).v["n"]) == [320, 160 - 256, -48]


def test_floor_and_bias_are_in_units_of_the_membrane():
    node = IF(shape=(1,), threshold=np.int64(9), v_min=np.int64(-70), bias=np.int64(-3), **WHOLE)
    assert row(run(node, [-1, -1, 1]).v["n"]) == [-67, -70, -9]


def test_integer_levels_stay_integers_even_if_given_as_floats():
    node = MultiThreshold(
        shape=(1,), levels=np.array([40.0, 80.0]), threshold=np.int64(1), signed=True, decay_mem=4096.0,
        **WHOLE,
    )
    trace = run(node, [90, -100, 0])
    assert row(trace.spikes["n"]) == [2, -2, 0]
    assert row(trace.output) == [80, -80, 0]
    assert row(trace.v["n"]) == [10 << 6, -10 << 6, -10 << 6]


def test_integer_readout_sends_fractions():
    node = LI(shape=(1,), decay_mem=np.int64(4096), decay_syn=np.int64(0), **WHOLE)
    assert row(run(node, [3, -1]).output) == [3 << 6, 2 << 6]


def test_soft_reset_by_lavas_accumulator_and_a_self_synapse():
    """du=-1, dv=4096, vth=theta-1 and a self synapse of -theta is reset by subtraction."""
    rng = np.random.default_rng(0)
    theta = 37
    currents = rng.integers(-30, 40, 50).tolist()
    soft = run(IF(shape=(1,), threshold=np.int64(theta), fire="ge", reset="subtract", **WHOLE), currents)
    spikes: list[int] = []
    u = 0
    for current in currents:
        u += current - theta * (spikes[-1] if spikes else 0)
        spikes.append(int(u > theta - 1))
    assert row(soft.spikes["n"]) == spikes
    assert sum(spikes) > 3

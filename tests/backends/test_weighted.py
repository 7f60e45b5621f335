"""Weighted replicas: the binary digits of an even staircase are the population, in the reference and the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.staircases import random_stairs, stairs

from d2e.backends.loihi2.forms import lowered, replicas, unweighted
from d2e.backends.loihi2.lava.schedule import schedule
from d2e.backends.loihi2.limits import GRID
from d2e.backends.loihi2.map_neurons import CheckRules, MapNeurons
from d2e.backends.loihi2.placement import estimate
from d2e.backends.loihi2.simulator.run import Simulator
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler import cost
from d2e.compiler.even_levels import EvenLevels, as_even_levels, shares
from d2e.compiler.passes.quantise import Quantise
from d2e.compiler.replicas import merged, replica_of
from d2e.ir import (
    IF,
    LIF,
    Conv2d,
    CubaLIF,
    Edge,
    FixedPoint,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Output,
    Quantized,
    UnsupportedError,
    reference,
    verified,
)
from d2e.ir.network import chain
from d2e.ir.nodes import integral

CHIP = TARGETS[0]


def mapped(network: Network, burst: str, **options: Any) -> Network:
    return verified(MapNeurons(burst=burst, **options).run(network, CHIP))  # type: ignore[arg-type]


@given(st.integers(1, 700), st.data())
def test_digits_say_every_number(count: int, data: st.DataObject) -> None:
    digits = shares(count)
    assert sum(digits) == count
    assert len(digits) == count.bit_length()
    assert list(digits) == sorted(digits, reverse=True)
    left = data.draw(st.integers(0, count))
    for share in digits:
        left -= share * (left >= share)
    assert left == 0


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 1 << 32))
def test_digits_levels_and_graded_processes_send_what_the_population_sends(seed: int) -> None:
    network, frames = random_stairs(seed)
    expected = reference.run(network, frames, "state")
    for burst in ("weighted", "replicas", "graded"):
        result = mapped(network, burst)
        assert lowered(result) is None
        trace = reference.run(result, frames, "state")
        found = merged(result, trace)
        np.testing.assert_array_equal(found.output, expected.output, burst)
        for name in network.populations:
            np.testing.assert_array_equal(found.spikes[name], expected.spikes[name], burst)
            np.testing.assert_array_equal(found.counts[name], expected.counts[name], burst)
            if burst == "weighted":  # the largest digit holds the charge
                np.testing.assert_array_equal(found.u[name], expected.v[name])
        simulated = Simulator(result).run(frames, "state")
        np.testing.assert_array_equal(simulated.output, trace.output, burst)
        for name in result.populations:
            for kind in ("spikes", "counts", "u", "v"):
                np.testing.assert_array_equal(getattr(simulated, kind)[name], getattr(trace, kind)[name], f"{burst} {kind}")


def test_random_networks_reach_what_they_are_for() -> None:
    seen = dict.fromkeys(("full", "signed", "negative payload", "maps", "one step", "skip"), 0)
    for seed in range(150):
        network, frames = random_stairs(seed)
        trace = reference.run(network, frames, "spikes")
        nodes = [network.neuron(n) for n in network.populations]
        seen["full"] += any(len(np.unique(np.abs(n))) > 3 for n in trace.spikes.values())
        seen["signed"] += any((n < 0).any() for n in trace.spikes.values())
        seen["negative payload"] += any(isinstance(n, MultiThreshold) and n.payloads is not None and n.payloads[0] < 0
                                        for n in nodes)
        seen["maps"] += any(isinstance(n, Conv2d) for n in network.nodes.values())
        seen["one step"] += frames.shape[1] == 1
        seen["skip"] += any(name.startswith("skip") for name in network.nodes)
    assert all(count >= 20 for count in seen.values()), seen


# --------------------------------------------------------------------------- what it costs


def layers(*nodes: Any, size: int = 6) -> Network:
    """Dense layers before the nodes."""
    rng, parts = np.random.default_rng(0), [("input", Input(shape=(size,), max_payload=9))]
    for i, node in enumerate(nodes):
        weight = rng.integers(-60, 90, (size, size))
        parts += [(f"w{i}", Linear(weight=weight, quantized=Quantized(8, np.float64(1)))), (f"n{i}", node)]
    return chain([*parts, ("output", Output(shape=(size,)))])  # type: ignore[list-item]


@pytest.mark.parametrize("count", [3, 7, 15, 16, 31])
def test_costs(count: int) -> None:
    """A layer of N levels behind one of N has log2(N)**2 times its synapses, in place of N**2; both wait for each digit."""
    network = layers(*[stairs((6,), 11, 22, count) for _ in range(3)])
    weighted, levels = mapped(network, "weighted"), mapped(network, "replicas")
    digits = count.bit_length()
    own = replicas(weighted)
    assert [len(own[n]) for n in network.populations] == [digits] * 3
    inhibition = digits * (digits - 1) // 2 * 6
    assert sum(cost.synapses(weighted, n) for n in own["n1"]) == 36 * digits**2 + inhibition
    assert sum(cost.synapses(levels, n) for n in replicas(levels)["n1"]) == 36 * count**2
    assert (schedule(levels).latency, schedule(weighted).latency) == (3, 3 + 3 * (digits - 1))
    assert estimate(weighted) <= estimate(levels)
    facts = [replica_of(weighted.neuron(n)) for n in own["n0"]]
    assert [f.stands_for for f in facts if f] == [f.step for f in facts if f] == list(shares(count))


def test_auto_takes_digits_where_they_have_fewer_synapses() -> None:
    burst = stairs((6,), 20, 20, 4, decay_mem=integral(4096), reset="subtract")
    network = layers(stairs((6,), 11, 22, 15), burst, stairs((6,), 11, 22, 2), stairs((6,), 11, 22, 63))
    forms = MapNeurons().choose(network)
    assert [forms[n].kind for n in ("n0", "n1", "n2", "n3")] == ["weighted", "replicas", "replicas", "weighted"]
    assert "4 binary digits with 180 synapses, 15 levels would have 540" in forms["n0"].why
    told = mapped(network, "auto").metadata["forms"]["n0"]
    assert told == {"form": "weighted", "why": forms["n0"].why}
    single = network.with_nodes({"w0": Linear(weight=np.ones((6, 6), np.int64))})
    assert MapNeurons(graded=False).choose(single)["n3"].kind == "weighted"
    small = MapNeurons(cores=0).choose(network)  # 0: one chip
    assert small["n0"].kind == "weighted"


def test_auto_keeps_one_level_per_replica_where_a_neuron_has_one_input() -> None:
    """3 levels of one synapse each are 3 synapses, 2 digits are 2 and an inhibition."""
    network = chain([
        ("input", Input(shape=(6,), max_payload=9)), ("w", Linear(weight=np.full((6, 6), 3))),
        ("n", stairs((6,), 11, 22, 3)), ("output", Output(shape=(6,))),
    ])
    assert MapNeurons().choose(network)["n"].kind == "weighted"
    narrow = chain([
        ("input", Input(shape=(1,), max_payload=9)), ("w", Linear(weight=np.full((6, 1), 3))),
        ("n", stairs((6,), 11, 22, 3)), ("output", Output(shape=(6,))),
    ])
    assert MapNeurons().choose(narrow)["n"].kind == "replicas"


def convolved(count: int) -> Network:
    parts = {"shape": (1, 1, 1), "arithmetic": FixedPoint(), "reset": "zero", "threshold": integral(9)}
    return chain([
        ("input", Input(shape=(1, 2, 1), max_payload=9)), ("first", Conv2d(weight=integral([[[[9], [4]]]]))),
        ("n", stairs((1, 1, 1), 7, 7, count)), ("conv", Conv2d(weight=integral([[[[127]]]]))),
        ("last", IF(**parts)), ("output", Output(shape=(1, 1, 1))),
    ])


def test_a_digit_that_takes_too_many_convolutions() -> None:
    """16 * 127 is 8 convolutions of 255, 32 * 127 is 16: such a population is levels again, or graded."""
    assert MapNeurons().choose(convolved(31))["n"].kind == "weighted"
    assert MapNeurons().choose(convolved(63))["n"].kind == "graded"
    assert MapNeurons(graded=False).choose(convolved(63))["n"].kind == "replicas"
    with pytest.raises(UnsupportedError) as caught:
        mapped(convolved(63), "weighted")
    assert (caught.value.code, caught.value.node) == ("D2E-LOIHI-016", "conv")


# --------------------------------------------------------------------------- what has none


UNEVEN = stairs((6,), 11, 22, 7, levels=integral([11, 33, 55, 77, 99, 121, 144]))
WITHOUT: dict[str, tuple[Any, str]] = {
    "levels": (UNEVEN, "not evenly spaced"),
    "payloads": (stairs((6,), 11, 22, 3, payloads=integral([1, 2, 4])), "not in proportion"),
    "a charge": (stairs((6,), 11, 22, 7, decay_mem=integral(4096), reset="subtract"), "keeps something"),
    "a membrane that is never reset": (stairs((6,), 11, 22, 7, decay_mem=integral(4096)), "keeps something"),
    "bursts": (LIF(shape=(6,), arithmetic=FixedPoint(), threshold=integral(9), decay_mem=integral(4096), max_spikes=4),
               "keeps something"),
    "pitch": (stairs((6,), 300, 257, 7), "257 weight units apart, which its digits take 4, 2 times"),
    "exponent": (stairs((6,), 1, 255 << 6, 7), "no synapse of 255 << 7 holds"),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_what_has_no_digits_says_why(what: str) -> None:
    node, why = WITHOUT[what]
    network = layers(node)
    assert why in str(unweighted(network, "n0"))
    with pytest.raises(UnsupportedError, match=why) as caught:
        mapped(network, "weighted")
    assert (caught.value.code, caught.value.node) == ("D2E-LOIHI-017", "n0")
    assert MapNeurons().choose(network)["n0"].kind == "replicas"


def test_the_widest_inhibition() -> None:
    assert unweighted(layers(stairs((6,), 1, 255 << 5, 7)), "n0") is None
    assert unweighted(layers(stairs((6,), 1, 51, 10)), "n0") is None  # 10 is 4 + 3 + 2 + 1: 153 and 204
    assert "no synapse" in str(unweighted(layers(stairs((6,), 1, 255, 10)), "n0"))


def test_a_feedback_loop_has_no_room_for_digits() -> None:
    network = layers(stairs((6,), 11, 22, 7))
    back = Linear(weight=np.eye(6, dtype=np.int64))
    looped = Network({**network.nodes, "back": back}, (*network.edges, Edge("n0", "back", True), Edge("back", "n0")))
    assert MapNeurons().choose(looped)["n0"].kind == "replicas"
    with pytest.raises(UnsupportedError, match="feedback loop") as caught:
        mapped(looped, "weighted")
    assert caught.value.code == "D2E-LOIHI-017"


def test_reasons_are_told_before_any_work() -> None:
    floats = layers(MultiThreshold(shape=(6,), levels=np.array([1.0, 2.0, 4.0]), reset="none", decay_mem=np.float64(0)))
    with pytest.raises(UnsupportedError, match="not evenly spaced") as caught:
        CheckRules(burst="weighted").run(floats, CHIP)
    assert caught.value.code == "D2E-LOIHI-017"
    current = layers(CubaLIF(shape=(6,), max_spikes=3, decay_syn=np.float64(0.5), decay_mem=np.float64(0), reset="none"))
    with pytest.raises(UnsupportedError) as caught:
        CheckRules(burst="weighted").run(current, CHIP)
    assert caught.value.code == "D2E-LOIHI-003"
    CheckRules(burst="weighted").run(layers(IF(shape=(6,)), IF(shape=(6,), max_spikes=2)), CHIP)  # no third digit to save


def test_staircases() -> None:
    even = MultiThreshold(shape=(1,), levels=np.array([0.1, 0.3, 0.5]), payloads=np.array([0.2, 0.4, 0.6]), reset="none",
                          decay_mem=np.float64(0))
    found = as_even_levels(even)
    assert isinstance(found, EvenLevels)
    assert (found.count, round(found.first, 9), round(found.pitch, 9), found.step) == (3, 0.1, 0.2, 0.2)
    assert "binary" in str(as_even_levels(IF(shape=(1,))))
    assert "no limit" in str(as_even_levels(LIF(shape=(1,), decay_mem=np.float64(0), reset="none", max_spikes=0)))


# --------------------------------------------------------------------------- payloads that fall


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=7), st.booleans(), st.integers(0, 1 << 32))
def test_levels_may_lower_the_payload_of_a_neuron_that_is_never_reset(steps: list[int], signed: bool, seed: int) -> None:
    """A staircase of GELU falls before it rises: a replica then takes something from the payload."""
    rng = np.random.default_rng(seed)
    levels = np.cumsum(rng.integers(1, 60, len(steps)))
    keep = integral(int(rng.choice([0, 4096])))
    node = stairs((6,), 1, 1, len(steps), levels=levels, payloads=np.cumsum(steps), signed=signed, decay_mem=keep)
    network = layers(node, stairs((6,), 40, 80, 7))
    frames = rng.integers(0, 10, (3, 3, 6))
    expected, result = reference.run(network, frames, "spikes"), mapped(network, "replicas")
    trace = reference.run(result, frames, "state")
    found, simulated = merged(result, trace), Simulator(result).run(frames, "state")
    np.testing.assert_array_equal(found.output, expected.output)
    for name in network.populations:
        np.testing.assert_array_equal(found.spikes[name], expected.spikes[name])
    for name in result.populations:
        np.testing.assert_array_equal(simulated.spikes[name], trace.spikes[name])
        np.testing.assert_array_equal(simulated.u[name], trace.u[name])
    np.testing.assert_array_equal(simulated.output, trace.output)


def test_levels_that_change_nothing_are_refused() -> None:
    node = stairs((6,), 11, 22, 3, payloads=integral([1, 1, 2]))
    with pytest.raises(UnsupportedError, match="one payload at two of its levels") as caught:
        mapped(layers(node), "replicas")
    assert caught.value.code == "D2E-LOIHI-003"


# --------------------------------------------------------------------------- from floating point


@settings(deadline=None, max_examples=120)
@given(
    st.integers(0, 1 << 32), st.sampled_from([3, 7, 15, 16, 31]), st.sampled_from([0.5, 1.0, None]), st.integers(2, 8),
    st.sampled_from(["max", "mse"]),
)
def test_quantising_keeps_even_levels_even(seed: int, count: int, start: float | None, bits: int, scale: str) -> None:
    """From d / 2 on, from d on, or from anywhere: whole numbers that lie evenly, a distance that digits can inhibit by."""
    rng = np.random.default_rng(seed)
    pitch = float(rng.uniform(0.01, 30))
    first = pitch * (start or rng.uniform(0.2, 3))
    node = MultiThreshold(
        shape=(5,), levels=first + pitch * np.arange(count), payloads=np.arange(1.0, count + 1), reset="none",
        decay_mem=np.float64(0), bias=rng.normal(0, pitch, 5),
    )
    widest = pitch * (2 ** (bits - 1) - 1) * rng.uniform(0.05, 1)  # else levels lie closer than weights can say
    network = chain([
        ("input", Input(shape=(4,), max_payload=3)),
        ("w", Linear(weight=widest * rng.uniform(-1, 1, (5, 4)))), ("n0", node),
        ("output", Output(shape=(5,))),
    ])
    result = Quantise(grid=GRID, weight_bits=bits, scale=scale).run(network, CHIP)  # type: ignore[arg-type]
    found = result.neuron("n0")
    assert isinstance(found, MultiThreshold)
    assert len(set(np.diff(found.levels))) == 1
    assert unweighted(result, "n0") is None
    assert found.fire == "ge"
    assert found.quantized is not None
    unit = float(found.quantized.scale)
    assert np.diff(found.levels)[0] * unit == pytest.approx(pitch, rel=1e-6)
    assert abs(found.levels[0] - first / unit) <= 0.5 + 1e-6 or found.levels[0] == 1
    frames = rng.integers(0, 4, (8, 2, 4))
    expected = reference.run(result, frames, "spikes").spikes["n0"]
    lowered_now = mapped(result, "weighted")
    np.testing.assert_array_equal(merged(lowered_now, reference.run(lowered_now, frames, "spikes")).spikes["n0"], expected)

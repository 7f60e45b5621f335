"""Retiming: depths, delays, feedback that cannot be in time, populations that wait for frame 0."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backends.lava.lowered_networks import KINDS, lif, random_lowered, whole

from d2e.backends.loihi2.lava.registers import registers, start_state
from d2e.backends.loihi2.lava.schedule import schedule
from d2e.ir import CubaLIF, Delay, Edge, Input, Linear, Network, Node, Output, UnsupportedError


def network(nodes: dict[str, Node], *edges: tuple[str, str] | tuple[str, str, bool]) -> Network:
    return Network(nodes, tuple(Edge(*e) for e in edges))


def square() -> Linear:
    return Linear(weight=whole(np.eye(2)))


def neurons(**options: object) -> CubaLIF:
    return lif((2,), threshold=whole(50), **options)


def test_shortcut_waits_for_the_longer_branch() -> None:
    net = network(
        {"in": Input(shape=(2,)), "a": square(), "p": neurons(), "b": square(), "q": neurons(), "c": square(),
         "short": square(), "r": neurons(), "out": Output(shape=(2,))},
        ("in", "a"), ("a", "p"), ("p", "b"), ("b", "q"), ("q", "c"), ("c", "r"), ("in", "short"),
        ("short", "r"), ("r", "out"),
    )
    plan = schedule(net)
    assert dict(plan.depth) == {"in": 0, "p": 1, "q": 2, "r": 3}
    assert {p.synapse: plan.delay(p) for p in plan.paths} == {"a": 1, "b": 1, "c": 1, "short": 3}


def test_a_delay_node_before_a_synapse_hides_the_latency() -> None:
    net = network(
        {"in": Input(shape=(2,)), "late": Delay(steps=1), "a": square(), "p": neurons(),
         "out": Output(shape=(2,))},
        ("in", "late"), ("late", "a"), ("a", "p"), ("p", "out"),
    )
    assert schedule(net).depth["p"] == 0


def loop(steps: int) -> Network:
    return network(
        {"in": Input(shape=(2,)), "a": square(), "p": neurons(), "b": square(), "q": neurons(),
         "wait": Delay(steps=steps), "back": square(), "out": Output(shape=(2,))},
        ("in", "a"), ("a", "p"), ("p", "b"), ("b", "q"), ("q", "wait", True), ("wait", "back"), ("back", "p"),
        ("q", "out"),
    )


def test_feedback_over_two_layers_needs_a_delay() -> None:
    with pytest.raises(UnsupportedError) as caught:
        schedule(loop(0))
    assert caught.value.code == "D2E-TIME-001"
    assert caught.value.node == "back"
    assert "Delay" in str(caught.value.hint)
    plan = schedule(loop(1))
    assert [plan.delay(p) for p in plan.paths if p.synapse == "back"] == [1]


def test_an_always_on_source_begins_with_its_target() -> None:
    on = lif((1,), threshold=whole(0), bias=whole(100))
    net = network(
        {"in": Input(shape=(2,)), "a": square(), "p": neurons(), "b": square(), "q": neurons(), "on": on,
         "bias": Linear(weight=whole([[3], [-4]])), "out": Output(shape=(2,))},
        ("in", "a"), ("a", "p"), ("p", "b"), ("b", "q"), ("on", "bias"), ("bias", "q"), ("q", "out"),
    )
    plan = schedule(net)
    assert plan.depth["on"] == plan.depth["q"] - 1
    assert int(registers("on", on, plan.depth["on"]).v) == -100


def test_two_linear_maps_in_a_row_are_refused() -> None:
    net = network(
        {"in": Input(shape=(2,)), "a": square(), "b": square(), "p": neurons(), "out": Output(shape=(2,))},
        ("in", "a"), ("a", "b"), ("b", "p"), ("p", "out"),
    )
    with pytest.raises(UnsupportedError, match="D2E-LAVA-012"):
        schedule(net)


@pytest.mark.parametrize("seed", range(2 * len(KINDS)))
def test_every_delay_is_at_least_one_step(seed: int) -> None:
    plan = schedule(random_lowered(seed)[0])
    assert all(plan.delay(p) >= 1 for p in plan.paths)


def kept(state: int, keep: int) -> int:
    return (1 if state > 0 else -1) * (abs(state) * keep >> 12)


DECAYS = st.one_of(st.sampled_from([0, 4096]), st.integers(0, 4096))


@given(
    u_init=st.integers(-(2**16), 2**16), v_init=st.integers(-(2**20), 2**20), bias=st.integers(-30000, 30000),
    keep=st.tuples(DECAYS, DECAYS), vth=st.integers(0, 20000), steps=st.integers(0, 6),
)
def test_the_start_state_leads_to_the_initial_state_in_silence(
    u_init: int, v_init: int, bias: int, keep: tuple[int, int], vth: int, steps: int
) -> None:
    start = start_state(whole(u_init), whole(v_init), whole(bias), keep, vth << 6, steps)
    if start is None:
        assert steps
        return
    u, v = (int(x) for x in start)
    for _ in range(steps):
        u = kept(u, keep[0])
        v = kept(v, keep[1]) + u + bias
        assert v <= vth << 6
    assert kept(u, keep[0]) == kept(u_init, keep[0])
    assert kept(v, keep[1]) == kept(v_init, keep[1])


def test_a_membrane_without_memory_has_no_start_state() -> None:
    """Unless its bias does not make it fire: then there is nothing to prepare."""
    assert registers("n", neurons(bias=whole(51 << 6), decay_mem=whole(0)), 1).host_start
    quiet = registers("n", neurons(bias=whole(64), decay_mem=whole(0), v_init=whole(9)), 1)
    assert (quiet.host_start, int(quiet.v)) == (False, 0)


@pytest.mark.parametrize(("options", "code"), [
    ({"reset": "subtract"}, "D2E-LAVA-010"), ({"fire": "ge"}, "D2E-LAVA-010"),
    ({"max_spikes": 3}, "D2E-LAVA-010"),
    ({"threshold": whole(2**17)}, "D2E-LAVA-011"), ({"threshold": whole([1, 2])}, "D2E-LAVA-010"),
    ({"bias": whole([4097, 1])}, "D2E-LAVA-011"), ({"bias": whole(4096 << 7)}, "D2E-LAVA-011"),
    ({"v_init": whole(2**23)}, "D2E-LAVA-011"),
])  # fmt: skip
def test_what_no_register_holds_is_refused(options: dict[str, object], code: str) -> None:
    with pytest.raises(UnsupportedError, match=code):
        registers("n", lif((2,), **{"threshold": whole(50), **options}), 1)


def test_bias_takes_the_smallest_exponent_that_holds_it() -> None:
    regs = registers("n", neurons(bias=whole([4096, -8192])), 0)
    assert (regs.bias_mant.tolist(), regs.bias_exp) == ([2048, -4096], 1)

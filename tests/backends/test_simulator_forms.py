"""loihi2-sim on bursts and multi-threshold neurons: graded, and as replicas that it simulates as one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.backends.lava.form_networks import kind, random_forms
from tests.backends.lava.lowered_networks import lif, whole
from tests.backends.test_forms import CHIP, Source

from d2e.backends.loihi2.forms import Replica, replica_of
from d2e.backends.loihi2.map_neurons import MapNeurons
from d2e.backends.loihi2.simulator import run as module
from d2e.backends.loihi2.simulator.run import Form, Simulator
from d2e.compiler.replicas import merged
from d2e.ir import (
    IF,
    LI,
    LIF,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    Scale,
    reference,
    verified,
)
from d2e.ir.reference import Trace

FORMS: tuple[Form | None, ...] = (None, "events", "int8", "float")
ONE = 4096
WEIGHT = whole(np.random.default_rng(1).integers(-90, 128, (5, 4)))


def assert_equal(a: Trace, b: Trace, note: str = "") -> None:
    for what in ("counts", "spikes", "u", "v"):
        left, right = getattr(a, what), getattr(b, what)
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=f"{note} {what} of {name}")
    np.testing.assert_array_equal(a.output, b.output, err_msg=f"{note} output")


def check(network: Network, frames: np.ndarray, form: Form | None = None, note: str = "") -> Simulator:
    simulator = Simulator(network, form)
    assert_equal(reference.run(network, frames, "state"), simulator.run(frames, "state"), note)
    return simulator


def lone(simulator: Simulator) -> list[str]:
    """Replicas that are simulated by themselves although there are others."""
    nodes = simulator.network.nodes
    found = {u.name: replica_of(simulator.network.neuron(u.name)) for u in simulator.units if u.group is None}
    return [n for n, r in found.items() if r and (f"{r.of}.{r.level + 1}" in nodes or f"{r.of}.{-r.level}" in nodes)]


def line(neuron: Neuron, payload: int = 3, coding: Any = "spikes", *, back: bool = False) -> Network:
    """4 inputs, a dense layer of this neuron, perhaps recurrent, and another dense layer that takes its payloads."""
    nodes: dict[str, Node] = {
        "input": Input(shape=(4,), max_payload=payload, coding=coding), "dense": Linear(weight=WEIGHT), "n": neuron,
        "next": Linear(weight=whole([[3, -2, 1, 2, -3], [1, 1, -1, 1, 1]])), "last": lif((2,), threshold=whole(7)),
        "output": Output(shape=(2,)),
    }
    edges = [Edge(a, b) for a, b in itertools.pairwise(nodes)]
    if back:
        nodes["back"] = Linear(weight=WEIGHT[:, :1] * np.eye(5, dtype=np.int64) // 4 - 1)
        nodes["self"] = Scale(scale=whole([5, -3, 2, 1, -9]))
        nodes["wait"] = Delay(steps=2)
        edges += [Edge("n", "back", True), Edge("back", "n")]
        edges += [Edge("n", "self", True), Edge("self", "wait"), Edge("wait", "n")]
    return verified(Network(nodes, tuple(edges)))


def graded(cls: type[Neuron], **options: Any) -> Neuron:
    plain: dict[str, Any] = {
        "shape": (5,), "arithmetic": FixedPoint(), "gain": whole(1), "amplitude": whole(1), "bias": whole(0),
        "v_init": whole(0), "v_reset": whole(0), "threshold": whole(60),
    }
    if issubclass(cls, LIF):
        plain["decay_mem"] = whole(ONE)
    return cls(**{**plain, **options})


def some(network: Network, steps: int = 14, seed: int = 0, batch: int = 2) -> np.ndarray:
    rng, node = np.random.default_rng(seed), network.input
    low = -node.max_payload if node.coding == "signed" else 0
    size = (batch, steps, *node.shape)
    return rng.integers(low, node.max_payload + 1, size) * (rng.random(size) < 0.7)


# --------------------------------------------------------------------------- random networks


@pytest.mark.parametrize("form", FORMS)
def test_random_networks_of_every_form(form: Form | None) -> None:
    groups = 0
    for seed in range(64):
        network, frames = random_forms(seed)
        simulator = check(network, frames, form, f"seed {seed}: {kind(seed)}")
        looped = "feedback" in kind(seed)
        assert simulator.tangled == looped
        assert looped or not lone(simulator)
        groups += sum(u.group is not None for u in simulator.units)
    assert groups > 40


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", range(64, 1264, 200))
def test_many_random_networks_of_every_form(form: Form | None, start: int) -> None:
    for seed in range(start, start + 200):
        network, frames = random_forms(seed)
        check(network, frames, form, f"seed {seed}: {kind(seed)}")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_batch_and_thread_count_gives_the_same(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CACHE_BYTES", 300)  # many small chunks
    for seed, batch in ((0, 9), (1, 2), (10, 7), (16, 33), (27, 5)):
        network, _ = random_forms(seed)
        frames = some(network, 9, seed, batch)
        assert_equal(reference.run(network, frames, "state"), Simulator(network).run(frames, "state", threads), f"{seed}")


def test_replicas_and_graded_neurons_send_the_same_payload() -> None:
    several = 0
    for seed in range(60):
        network, frames = Source(seed).network()
        traces = []
        for burst in ("replicas", "graded"):
            lowered = MapNeurons(burst=burst).run(network, CHIP)
            simulator = Simulator(lowered)
            assert not simulator.tangled
            traces.append(merged(lowered, simulator.run(frames, "spikes")))
            several += sum(u.group is not None for u in simulator.units)
        np.testing.assert_array_equal(traces[0].output, traces[1].output)
        for name in network.populations:
            np.testing.assert_array_equal(traces[0].spikes[name], traces[1].spikes[name], err_msg=f"seed {seed} {name}")
            np.testing.assert_array_equal(traces[0].counts[name], traces[1].counts[name])
    assert several > 60


# --------------------------------------------------------------------------- graded neurons


@pytest.mark.parametrize("reset", ["subtract", "zero", "value", "none"])
@pytest.mark.parametrize("when", ["same", "next"])
def test_every_option_of_a_graded_neuron(reset: str, when: str) -> None:
    rng = np.random.default_rng(7)
    levels = {"levels": whole([1, 2, 5]), "threshold": whole(40)}
    kinds: list[tuple[type[Neuron], dict[str, Any]]] = [
        (IF, {}), (LIF, {"decay_mem": whole(3500)}), (CubaLIF, {"decay_mem": whole(3000), "decay_syn": whole(2000)}),
        (LIF, {"decay_mem": rng.integers(0, ONE + 1, 5)}), (MultiThreshold, {**levels, "signed": True}),
        (MultiThreshold, {**levels, "reset_by": whole([1, 1, 3]), "payloads": whole([3, 0, -4])}),
        (MultiThreshold, {"levels": whole([1, 2, 3]), "threshold": rng.integers(20, 50, 5), "signed": True}),
    ]
    for (cls, extra), fire, most, rest, low in itertools.product(kinds, ("ge", "gt"), (1, 3, 0), (0, 2), (None, -500)):
        if (rest and when == "next") or (cls is MultiThreshold and most != 1):
            continue
        node = graded(
            cls, **extra, reset=reset, reset_when=when, fire=fire, max_spikes=most, refractory=rest,
            v_min=None if low is None else whole(low), v_reset=whole(rng.integers(-900, 900, 5)),
            bias=whole(rng.integers(-200, 300, 5)), v_init=whole(rng.integers(-2000, 4000, 5)),
        )
        network = line(node, back=most == 3 or cls is MultiThreshold)
        simulator = check(network, some(network, seed=most), note=f"{cls.__name__} {fire} {most} {rest} {low}")
        assert not simulator.tangled


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("payloads", [[1, 2, 3], [10, 100, 127], [3, 200, 300], [-7, 5, 30000], [0, 0, 1]])
@pytest.mark.parametrize("signed", [False, True])
def test_payloads_of_any_size(form: Form | None, back: bool, payloads: list[int], signed: bool) -> None:
    node = graded(MultiThreshold, levels=whole([30, 70, 200]), threshold=whole(1), payloads=whole(payloads), signed=signed)
    network = line(node, back=back)
    assert not check(network, some(network), form).tangled


def test_more_spikes_than_a_byte_holds_run_on_the_reference() -> None:
    network = line(graded(IF, threshold=whole(1), max_spikes=0))
    simulator = check(network, some(network))
    assert not simulator.tangled
    assert reference.run(network, some(network)).counts["n"].max() > 255


@pytest.mark.parametrize("change", [
    {"arithmetic": FixedPoint(u_bits=30)}, {"arithmetic": FixedPoint(v_overflow="wrap")}, {"amplitude": whole(2)},
    {"reset_by": whole(1 << 23)}, {"v_min": whole(1 << 24)}, {"bias": whole(1 << 29)},
])
def test_what_no_kernel_holds_runs_on_the_reference(change: dict[str, Any]) -> None:
    network = line(graded(IF, max_spikes=3, **change))
    assert check(network, some(network)).tangled


def test_overflows_of_a_graded_neuron_are_counted() -> None:
    node = graded(IF, shape=(1,), threshold=whole(131071), max_spikes=2, reset="none")
    nodes = {"input": Input(shape=(1,), max_payload=2000), "w": Linear(weight=whole([[100]])), "n": node}
    edges = [Edge(a, b) for a, b in itertools.pairwise([*nodes, "output"])]
    network = Network({**nodes, "output": Output(shape=(1,))}, tuple(edges))
    simulator = check(network, np.array([2000, 0, 1400, 5, 1300, 1300, 1300]).reshape(1, 7, 1))
    assert simulator.overflows == {"n": 3}  # u beyond 131,072 twice, v in the end


def test_readouts_with_a_floor_or_own_decays_and_what_they_feed() -> None:
    ends: list[dict[str, Any]] = [{"v_min": whole(-300)}, {"decay_mem": whole([4000, 100, 0, 4096, 3000])}]
    for options in ends:
        node = graded(LI, reset="zero", fire="gt", decay_syn=whole(1000), **{"decay_mem": whole(4000), **options})
        network = line(node)
        check(network, some(network))
        last = network.without("last").without("next").with_nodes({"output": Output(shape=(5,))})
        assert not check(last, some(network)).tangled


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("payload", [1, 63, 64, 127, 128])
def test_signed_inputs_as_bytes(form: Form | None, payload: int) -> None:
    network = line(graded(IF, max_spikes=4, threshold=whole(900)), payload, "signed")
    check(network, some(network), form)


def test_a_readout_that_nothing_reaches_is_still_read() -> None:
    node = graded(LI, reset="zero", fire="gt", decay_syn=whole(0), decay_mem=whole(4000), bias=whole(70))
    network = line(graded(IF, max_spikes=2))
    nodes = {**network.nodes, "alone": node, "scale": Scale(scale=whole(1))}
    network = Network(nodes, (*network.edges, Edge("alone", "scale"), Edge("scale", "n")))
    assert not check(network, some(network)).tangled


# --------------------------------------------------------------------------- replicas


def replicated(*, signed: bool = True, levels: tuple[int, ...] = (60, 120, 180), **options: Any) -> Network:
    """The line with a multi-threshold neuron on stock neurons."""
    options |= {"levels": whole(levels), "threshold": whole(1), "payloads": whole([1, 2, 3]), "signed": signed}
    return MapNeurons(burst="replicas").run(line(graded(MultiThreshold, **options)), CHIP)


def test_replicas_are_one_unit() -> None:
    network = replicated()
    simulator = check(network, some(network))
    assert [u.name for u in simulator.units] == ["n.1", "last"]
    assert simulator.units[0].members == ("n.1", "n.2", "n.3", "n.-1", "n.-2", "n.-3")


def changed(name: str, **change: Any) -> Callable[[Network], Network]:
    return lambda network: network.with_nodes({name: replace(network.nodes[name], **change)})


def cut(source: str, target: str) -> Callable[[Network], Network]:
    return lambda network: replace(network, edges=tuple(e for e in network.edges if e[:2] != (source, target)))


def renamed(name: str, **facts: Any) -> Callable[[Network], Network]:
    return changed(name, metadata=replace(Replica("n", 2, 1), **facts).metadata)


@pytest.mark.parametrize("change", [
    changed("n.2", threshold=whole(30)), changed("n.2", u_init=whole(64)), changed("n.2", decay_syn=whole(4000)),
    changed("n.2", decay_mem=whole(7)), changed("n.2", bias=whole(64)), changed("n.-2", threshold=whole(100)),
    changed("n.-1", u_init=whole(64)), changed("n.2.level", scale=whole(2)), changed("n.-2.level", scale=whole(1)),
    cut("dense", "n.2"), cut("n.3.level", "next"), cut("n.2", "n.reset"), cut("n.reset", "n.3"), cut("n.undo", "n.-1"),
    lambda n: n.with_nodes({"dense.neg": replace(n.nodes["dense.neg"], weight=-WEIGHT + np.eye(5, 4, dtype=int))}),
    renamed("n.2", step=2), renamed("n.2", of="m"), renamed("n.2", level=4), renamed("n.2", level=0), renamed("n.2", step=0),
])
def test_replicas_that_differ_are_simulated_one_by_one(change: Callable[[Network], Network]) -> None:
    network = change(replicated())
    simulator = check(network, some(network))
    assert all(u.group is None or len(u.members) < 6 for u in simulator.units)


def test_more_of_an_output_than_the_payload_is_still_exact() -> None:
    network = replicated(signed=False)
    nodes = {n: node for n, node in network.nodes.items() if n not in ("next", "last")}
    nodes |= {"twice": Scale(scale=whole(2)), "late": Delay(steps=1), "output": Output(shape=(5,))}
    edges = [e for e in network.edges if not {"next", "last"} & set(e[:2])]
    edges += [Edge(f"n.{i}", "twice") for i in (1, 2, 3)] + [Edge("twice", "output"), Edge("n.3", "output")]
    edges += [Edge("n.1", "late"), Edge("late", "output")]
    check(Network(nodes, tuple(edges)), some(network))
    whole_payload = [*(e for e in edges if e[:2] not in {("n.3", "output"), ("n.1", "late"), ("late", "output")})]
    del nodes["late"]
    simulator = check(Network(nodes, tuple(whole_payload)), some(network))
    assert [u.members for u in simulator.units] == [("n.1", "n.2", "n.3")]


EDGE = 1 << 17


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("inputs", [
    [1024, 1024, 5], [1025, 0, 3, 9], [-1025, 0, -3], [-1024, 2, -1024, 7, 7], [600, 600, 600, -1800], [1023, 1, 1],
    [1000, -2, 5],
])
def test_wrapping_replicas(signed: bool, inputs: list[int]) -> None:
    """u wraps at 2**23 above and at -2**23 below: exactly there the negative group is no mirror."""
    network = replicated(signed=signed, levels=(90_000, 110_000, 130_000), reset="none")
    network = network.with_nodes({
        "input": Input(shape=(4,), max_payload=2000, coding="signed"),
        **{n: replace(network.nodes[n], weight=whole(sign * 128 * np.eye(5, 4, dtype=int)))
           for n, sign in (("dense", 1), ("dense.neg", -1)) if n in network.nodes},
    })
    frames = np.repeat(np.array(inputs)[None, :, None], 4, axis=2)
    simulator = check(network, frames)
    assert simulator.units[0].group is not None
    trace = reference.run(network, frames, "state")
    if signed and not (trace.u["n.1"] == -trace.u["n.-1"]).all():
        return  # the reference ran, which counts nothing
    beyond = [name for name, times in simulator.overflows.items() if times]
    assert beyond == [n for n in network.populations if n.startswith("n.") and np.abs(np.cumsum(inputs)).max() > 1023]
    assert len({simulator.overflows[n] for n in beyond}) <= 1


def test_the_negative_group_wraps_elsewhere() -> None:
    network = replicated(levels=(90_000, 110_000, 130_000), reset="none")
    weight = whole(128 * np.eye(5, 4, dtype=int))
    network = network.with_nodes({
        "input": Input(shape=(4,), max_payload=2000), "dense": Linear(weight=weight), "dense.neg": Linear(weight=-weight),
    })
    frames = np.full((1, 1, 4), 1024)
    check(network, frames)
    trace = Simulator(network).run(frames, "state")
    assert trace.u["n.1"].max() == trace.u["n.-1"].max() == EDGE << 6
    assert trace.counts["n.3"].sum() == trace.counts["n.-3"].sum() == 4

"""loihi2-sim is the reference, bit for bit, on random lowered networks: both forms, every batch size and thread count."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.backends.lava.lowered_networks import KINDS, lif, random_lowered, whole

from d2e.backends.loihi2.simulator import run as module
from d2e.backends.loihi2.simulator.int8 import prepare, works
from d2e.backends.loihi2.simulator.run import Simulator, simulate
from d2e.ir import (
    LI,
    Conv2d,
    Delay,
    Edge,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    Network,
    Node,
    Output,
    Scale,
    UnsupportedError,
    UsageError,
    linear,
    reference,
    verified,
)
from d2e.ir.reference import Trace
from d2e.ir.shapes import output_shape

ONE = 4096
WIDTH = 1 << 24


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")  # torch's, about its speed
        yield


@pytest.fixture(params=["chosen", "events", "float", "int8"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every simulator of the test computes every layer that can in this form."""
    if request.param != "chosen":
        monkeypatch.setattr(module.Simulator.__init__, "__defaults__", (request.param,))
    return str(request.param)


def assert_equal(a: Trace, b: Trace, note: str = "") -> None:
    for kind in ("counts", "spikes", "u", "v"):
        left, right = getattr(a, kind), getattr(b, kind)
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=f"{note} {kind} of {name}")
    np.testing.assert_array_equal(a.output, b.output, err_msg=note)


def check(network: Network, frames: np.ndarray, note: str = "") -> Trace:
    trace = simulate(network, frames, "state")
    assert_equal(reference.run(network, frames, "state"), trace, note)
    return trace


@pytest.mark.parametrize("start", range(0, 324, 36))
def test_random_lowered_networks(form: str, start: int) -> None:
    for seed in range(start, start + 36):
        check(*random_lowered(seed), note=f"seed {seed}")


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 250))
def test_many_random_lowered_networks(form: str, start: int) -> None:
    for seed in range(start, start + 250):
        check(*random_lowered(seed), note=f"seed {seed}")


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_any_batch_and_thread_count_gives_the_same(form: str, batch: int, threads: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_CACHE_BYTES", 400)  # many small chunks
    for seed in (1, 3, 4, 13):
        network, _ = random_lowered(seed)
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, network.input.max_payload + 1, (batch, 9, *network.input.shape))
        frames *= rng.random(frames.shape) < 0.4
        whole_batch = reference.run(network, frames, "state")
        assert_equal(whole_batch, Simulator(network).run(frames, "state", threads), f"seed {seed}")


def test_less_is_recorded_where_less_is_asked() -> None:
    network, frames = random_lowered(0)
    full = simulate(network, frames, "state")
    counts, spikes = simulate(network, frames, "counts"), simulate(network, frames, "spikes")
    assert (counts.spikes, counts.u, spikes.v) == ({}, {}, {})
    for name in network.populations:
        np.testing.assert_array_equal(counts.counts[name], full.counts[name])
        np.testing.assert_array_equal(spikes.spikes[name], full.spikes[name])


def test_a_simulator_starts_from_rest_every_time() -> None:
    network, frames = random_lowered(4)
    simulator = Simulator(network)
    first = simulator.run(frames, "state")
    assert_equal(first, simulator.run(frames, "state"))


@pytest.mark.parametrize(("batch", "steps"), [(0, 4), (2, 0), (1, 1)])
@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_no_samples_or_steps_are_fine(seed: int, batch: int, steps: int) -> None:
    network, _ = random_lowered(seed)
    frames = np.zeros((batch, steps, *network.input.shape), np.int64)
    trace = simulate(network, frames, "counts")
    assert trace.output.shape == (batch, steps, *network.output.shape)


def build(*synapses: tuple[str, Node], neuron: Node, payload: int = 1, coding: Any = "spikes", shape: Any = (4,)) -> Network:
    nodes: dict[str, Node] = {"input": Input(shape=shape, max_payload=payload, coding=coding)}
    edges, last = [], "input"
    for name, node in (*synapses, ("neuron", neuron), ("output", Output(shape=neuron.shape))):  # type: ignore[attr-defined]
        nodes[name] = node
        edges.append(Edge(last, name))
        last = name
    return verified(Network(nodes, tuple(edges)))


WEIGHT = whole(np.random.default_rng(5).integers(-128, 128, (6, 4)))


@pytest.mark.parametrize("payload", [1, 2, 200, 255, 256, 500])
@pytest.mark.parametrize("coding", ["spikes", "signed"])
def test_graded_and_signed_payloads(form: str, payload: int, coding: str) -> None:
    rng = np.random.default_rng(payload)
    low = -payload if coding == "signed" else 0
    dense = build(("dense", Linear(weight=WEIGHT)), neuron=lif((6,), threshold=whole(3000)), payload=payload, coding=coding)
    frames = rng.integers(low, payload + 1, (3, 8, 4))
    frames[0, 0] = payload
    check(dense, frames)
    kernel = Conv2d(weight=whole(rng.integers(-128, 128, (3, 2, 3, 3))), padding=(1, 1))
    conv = build(
        ("conv", kernel), neuron=lif((3, 5, 5), threshold=whole(5000), decay_syn=whole(2000), decay_mem=whole(3000)),
        payload=payload, coding=coding, shape=(2, 5, 5),
    )
    check(conv, rng.integers(low, payload + 1, (2, 8, 2, 5, 5)))


EDGES = {
    "u wraps up": (127, 1100, {}), "u wraps down": (-128, 1100, {}), "v saturates": (127, 900, {}),
    "leaky": (127, 1030, {"decay_mem": whole(4000), "decay_syn": whole(3900)}),
    "soft": (100, 1100, {"decay_syn": whole(ONE), "decay_mem": whole(0)}),
    "u exactly at the edge": (128, 1024, {}), "v at the edge": (-128, 1024, {}),
}


@pytest.mark.parametrize("case", EDGES)
def test_overflow_edges(form: str, case: str) -> None:
    w, payload, options = EDGES[case]
    network = build(
        ("dense", Linear(weight=whole([[w], [-w], [w - 1]]))), neuron=lif((3,), threshold=whole((1 << 17) - 1), **options),
        payload=payload, shape=(1,),
    )
    frames = np.full((1, 12, 1), payload)
    frames[0, 3] = 0
    simulator = Simulator(network)
    trace = simulator.run(frames, "state")
    assert_equal(reference.run(network, frames, "state"), trace)
    assert simulator.overflows["neuron"] > 0


def test_a_current_that_piles_up_beyond_32_bits_is_still_exact() -> None:
    neuron = lif((2,), threshold=whole(9), decay_syn=whole(4090))
    network = build(("dense", Linear(weight=whole([[127], [-128]]))), neuron=neuron, payload=60000, shape=(1,))
    check(network, np.full((1, 12, 1), 60000))


def test_overflows_are_counted_once_each() -> None:
    neuron = lif((1,), threshold=whole(10))
    network = build(("dense", Linear(weight=whole([[100]]))), neuron=neuron, payload=2000, shape=(1,))
    simulator = Simulator(network)
    frames = np.array([2000, 0, 1400, 5]).reshape(1, 4, 1)
    simulator.run(frames)
    assert simulator.overflows == {"neuron": 2}  # 200,000 and 140,000 of at most 131,072
    simulator.run(frames)
    assert simulator.overflows == {"neuron": 4}


@pytest.mark.parametrize("decays", [(0, ONE), (ONE, 0), (3000, 3500), (ONE, ONE)])
def test_the_readout_sends_its_membrane(form: str, decays: tuple[int, int]) -> None:
    node = LI(
        shape=(6,), arithmetic=FixedPoint(), reset="zero", fire="gt", gain=whole(1), threshold=whole(131071),
        bias=whole(np.arange(-100, 500, 100)), v_init=whole(7), decay_syn=whole(decays[0]), decay_mem=whole(decays[1]),
    )
    network = build(("dense", Linear(weight=WEIGHT)), neuron=node)
    trace = check(network, (np.random.default_rng(0).random((2, 20, 4)) < 0.5).astype(int))
    np.testing.assert_array_equal(trace.output, trace.v["neuron"])


@pytest.mark.parametrize("steps", [0, 1, 5, 40])
def test_delays_and_convolutional_recurrence(form: str, steps: int) -> None:
    rng = np.random.default_rng(steps)
    nodes: dict[str, Node] = {
        "input": Input(shape=(2, 4, 4)), "late": Delay(steps=steps),
        "conv": Conv2d(weight=whole(rng.integers(-60, 90, (2, 2, 3, 3))), padding="same"),
        "neuron": lif((2, 4, 4), threshold=whole(100), decay_mem=whole(3700)),
        "back": Conv2d(weight=whole(rng.integers(-60, 60, (2, 2, 3, 3))), padding=(1, 1)), "wait": Delay(steps=steps),
        "flat": Flatten(), "dense": Linear(weight=whole(rng.integers(-60, 90, (3, 32)))),
        "last": lif((3,), threshold=whole(150)), "output": Output(shape=(3,)),
    }
    line = ["input", "late", "conv", "neuron", "flat", "dense", "last", "output"]
    edges = [Edge(a, b) for a, b in itertools.pairwise(line)]
    loop = [Edge("neuron", "back", True), Edge("back", "wait"), Edge("wait", "neuron")]
    network = Network(nodes, (*edges, *loop))
    trace = check(network, (rng.random((3, 14, 2, 4, 4)) < 0.4).astype(int))
    assert steps > 14 or trace.counts["neuron"].any()


def test_populations_that_feed_each_other_run_too() -> None:
    tangled = 0
    for seed in range(7, 127, 12):  # the loop over three layers
        network, frames = random_lowered(seed)
        tangled += Simulator(network).tangled
        check(network, frames, f"seed {seed}")
    assert tangled == 10


@pytest.mark.parametrize(("space", "stride", "padding"), [
    ((4, 5), (1, 3), (1, 0)), ((11, 1), (1, 2), (1, 1)), ((10, 4), (1, 3), (2, 1)),
])
def test_maps_one_column_wide_have_no_int8_form(
    space: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    """torch 2.13's int8 convolution gives wrong sums on the first and last of these, and crashes on the second."""
    kernel = (2, 3) if space == (4, 5) else (1, 1) if space[1] == 1 else (3, 4)
    node = Conv2d(weight=whole(np.ones((4, 1, *kernel))), groups=2, stride=stride, padding=padding)
    out = output_shape("conv", node, (2, *space))
    assert prepare(node, None, (2, *space), out, 1.0, (0, 127)) is None


@pytest.mark.skipif(not works(), reason="this torch has no int8 kernels")
@pytest.mark.parametrize("low", [0, -63])
def test_convolutions_of_every_geometry_in_int8(low: int) -> None:
    prepared = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        channels = int(rng.choice([1, 2, 3, 4, 8]))
        groups = int(rng.choice([g for g in (1, 2, channels) if channels % g == 0]))
        kernel, padding = rng.integers(1, 5, 2), tuple(int(p) for p in rng.integers(0, 4, 2))
        weight = rng.integers(-128, 128, (groups * int(rng.integers(1, 5)), channels // groups, *kernel)) << seed % 3
        stride, dilation = (tuple(int(n) for n in rng.integers(1, 4 - i, 2)) for i in (0, 1))
        node = Conv2d(weight=weight, groups=groups, stride=stride, padding=padding, dilation=dilation)
        shape = (channels, *(int(n) for n in rng.integers(1, 12, 2)))
        try:
            out = output_shape("conv", node, shape)
        except UnsupportedError:
            continue
        high = 127 + low
        form = prepare(node, None, shape, out, 1.0, (low, high))
        if form is None:
            continue
        prepared += 1
        rows = rng.integers(low, high + 1, (int(rng.choice([1, 5, 33])), int(np.prod(shape))))
        frames = np.moveaxis(rows.reshape(-1, *shape[1:], channels), -1, 1)
        expected = np.moveaxis(linear.apply(node, frames, shape), 1, -1).reshape(len(rows), -1)
        np.testing.assert_array_equal(form(rows.astype(np.uint8)), expected, err_msg=f"seed {seed}")
    assert prepared >= 200


@pytest.mark.skipif(not works(), reason="this torch has no int8 kernels")
@pytest.mark.parametrize("exponent", [0, 1, 5])
def test_matrices_in_int8(exponent: int) -> None:
    rng = np.random.default_rng(exponent)
    matrix = rng.integers(-127, 128, (30, 9)) << exponent
    form = prepare(Linear(weight=matrix.T), matrix, (30,), (9,), 1.0, (-127, 127))
    rows = rng.integers(-127, 128, (6, 30))
    assert form is not None
    np.testing.assert_array_equal(form(rows.astype(np.uint8)), rows @ matrix)
    assert prepare(Linear(weight=2 * matrix.T + 1), 2 * matrix + 1, (30,), (9,), 1.0, (0, 1)) is None


def test_two_recurrent_layers_of_one_population_run_on_the_reference() -> None:
    nodes: dict[str, Node] = {
        "input": Input(shape=(3,)), "dense": Linear(weight=whole(np.eye(3))), "neuron": lif((3,), threshold=whole(1)),
        "a": Linear(weight=whole(np.ones((3, 3)))), "b": Linear(weight=whole(np.ones((3, 3)))), "output": Output(shape=(3,)),
    }
    pairs = [("input", "dense"), ("dense", "neuron"), ("a", "neuron"), ("b", "neuron"), ("neuron", "output")]
    loops = Edge("neuron", "a", True), Edge("neuron", "b", True)
    network = Network(nodes, (*(Edge(*p) for p in pairs), *loops))
    check(network, np.eye(3, dtype=int)[None].repeat(2, axis=0))
    assert Simulator(network).tangled


def test_input_beyond_exact_sums_is_refused() -> None:
    with pytest.raises(UnsupportedError) as caught:
        Simulator(build(("dense", Linear(weight=WEIGHT)), neuron=lif((6,), threshold=whole(1)), payload=1 << 20))
    assert caught.value.code == "D2E-SIM-001"


def test_frames_that_do_not_fit_are_told() -> None:
    network = build(("dense", Linear(weight=WEIGHT)), neuron=lif((6,), threshold=whole(9)))
    for frames, code in ((np.zeros((2, 3, 5)), "D2E-INPUT-001"), (np.full((1, 2, 4), 2), "D2E-INPUT-003")):
        with pytest.raises(UsageError) as caught:
            simulate(network, frames)
        assert caught.value.code == code


def test_real_valued_ones_and_booleans_are_spikes_too(form: str) -> None:
    network = build(("dense", Linear(weight=WEIGHT)), neuron=lif((6,), threshold=whole(90)))
    ones = np.random.default_rng(2).random((2, 9, 4)) < 0.5
    a, b, c = (simulate(network, ones.astype(kind), "state") for kind in (np.int64, bool, np.float32))
    assert_equal(a, b)
    assert_equal(a, c)


def test_a_scale_joins_populations_of_one_shape(form: str) -> None:
    rng = np.random.default_rng(9)
    for scale in (whole(90), whole(rng.integers(-90, 120, (2, 3, 3)))):
        neuron = lif((2, 3, 3), threshold=whole(100))
        frames = (rng.random((2, 7, 2, 3, 3)) < 0.5).astype(int)
        check(build(("s", Scale(scale=scale)), neuron=neuron, shape=(2, 3, 3)), frames)

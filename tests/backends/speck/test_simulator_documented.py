"""What the chip's documents say of single neurons, step by step, in the reference and in the simulator.

Sources: sinabs documentation, docs/speck/notebooks/leak_neuron.ipynb (measured on a chip) and docs/speck/specksim.md;
SynSense, Speck Dev Kit Datasheet (2023), section 3.2.4.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.backends.speck.simulator_configurations import one_core, pointwise

from d2e.backends.speck.configuration import CnnLayer, Configuration, Destination, Dimensions, Part, Placed, Source
from d2e.backends.speck.events import Events, from_frames
from d2e.backends.speck.simulator import reference
from d2e.backends.speck.simulator.run import Simulator
from d2e.ir import UnsupportedError
from d2e.ir.reference import Trace

Run = Callable[[Configuration, Any], Trace]


@pytest.fixture(params=["reference", "simulator"])
def run(request: pytest.FixtureRequest) -> Run:
    """Frames of one sample [time, *shape] through either, states recorded."""
    def through(configuration: Configuration, frames: Any) -> Trace:
        x = np.asarray(frames)[None]
        if request.param == "reference":
            return reference.run(configuration, x, "state")
        return Simulator(configuration).run(x, "state")

    return through


def one_neuron(run: Run, layer: CnnLayer, events: list[int], hz: float | None = None) -> tuple[list[int], list[int]]:
    """(spikes, v) after each event of these features; -1 is a step without an event."""
    features = layer.dimensions.input_shape[0]
    frames = [[[[int(event == f)]] for f in range(features)] for event in events]
    trace = run(one_core(layer, hz=hz), frames)
    return trace.output.ravel().tolist(), trace.v["only"].ravel().tolist()


def test_leak_as_measured_on_the_chip(run: Run) -> None:
    """leak_neuron.ipynb: v starts at 127, b = -13 (-0.1 of 127 rounded); read after edges 2 to 5: 101, 88, 75, 62."""
    layer = pointwise([127], 127, low=-127, bias=-13, initial=127, shape=(2, 2))
    trace = run(one_core(layer, hz=1.0), np.zeros((5, 1, 2, 2), np.int64))
    assert trace.v["only"][0, :, 0].reshape(5, 4).tolist() == [[v] * 4 for v in (114, 101, 88, 75, 62)]
    assert not trace.output.any()


def test_leak_in_real_time() -> None:
    """The same by the clock: no event at all, an edge each second, the first at 0."""
    layer = pointwise([127], 127, low=-127, bias=-13, initial=127, shape=(2, 2))
    nothing = Events(*(np.zeros(0, np.int64) for _ in range(4)))
    simulator = Simulator(one_core(layer, hz=1.0))
    seen = [int(simulator.stream(nothing, duration_us=10**6 * s + 5).states["only"].max()) for s in range(5)]
    assert seen == [114, 101, 88, 75, 62]


def test_an_edge_acts_before_events_of_its_time() -> None:
    """Edges at 0, 1000, 2000: the event at 999 sees one, that at 1000 two, and what is left over is below the threshold."""
    layer = pointwise([1], 100, bias=30)
    for time, expected in ((0, 31), (999, 31), (1000, 61), (2000, 91), (2001, 91)):
        event = Events(*(np.array([n]) for n in (time, 0, 0, 0)))
        assert Simulator(one_core(layer, hz=1000.0)).stream(event).states["only"].item() == expected


def test_no_slow_clock_no_leak(run: Run) -> None:
    assert one_neuron(run, pointwise([10], 100, bias=5), [0, 0]) == ([0, 0], [10, 20])


def test_an_edge_fires_nothing(run: Run) -> None:
    """Lifted over the threshold by edges, a neuron fires at its next event, once."""
    assert one_neuron(run, pointwise([5], 20, bias=30), [-1, -1, 0, -1], hz=1000.0) == ([0, 0, 1, 0], [30, 60, 75, 105])


def test_six_events_of_a_fifth(run: Run) -> None:
    """specksim's documented example, 6 x 0.2 with threshold 1: one spike, at v >= 1, and 0.2 stays."""
    assert one_neuron(run, pointwise([20], 100), [0] * 6) == ([0, 0, 0, 0, 1, 0], [20, 40, 60, 80, 0, 20])


def test_one_spike_per_event(run: Run) -> None:
    """v >= 2 * threshold fires once; the rest fires at the next events, even those whose weight is 0."""
    spikes, v = one_neuron(run, pointwise([100, 0], 30), [0, -1, 1, 1, 1])
    assert spikes == [1, 0, 1, 1, 0]
    assert v == [70, 70, 40, 10, 10]


def test_return_to_zero(run: Run) -> None:
    assert one_neuron(run, pointwise([70], 100, to_zero=True), [0, 0, 0]) == ([0, 1, 0], [70, 0, 70])


def test_floor(run: Run) -> None:
    """v never falls below threshold_low; one that began there is lifted to it by its first event."""
    layer = pointwise([-70, 10], 100, low=-100)
    assert one_neuron(run, layer, [0, 0, 1]) == ([0, 0, 0], [-70, -100, -90])
    assert one_neuron(run, replace(layer, neurons_initial_value=np.full((1, 1, 1), -500, np.int16)), [-1, 1]) == (
        [0, 0], [-500, -100])


def test_sixteen_bits_saturate_and_are_counted() -> None:
    """Weights beyond the threshold pile up to 32767; every update cut off is counted, at events as at edges."""
    layer = pointwise([127], 1, initial=32767 - 130)
    simulator = Simulator(one_core(layer))
    found = simulator.run(np.ones((1, 4, 1, 1, 1), np.int64), "state")
    assert found.v["only"].ravel().tolist() == [32763, 32766, 32766, 32766]
    assert simulator.overflows == {"only": 3}
    simulator.run(np.ones((2, 4, 1, 1, 1), np.int64))
    assert simulator.overflows == {"only": 9}
    clocked = Simulator(one_core(pointwise([10], 100, bias=30000, low=-1), hz=1000.0))
    assert clocked.run(np.zeros((1, 3, 1, 1, 1), np.int64), "state").v["only"].ravel().tolist() == [30000, 32767, 32767]
    assert clocked.overflows == {"only": 2}


@pytest.mark.parametrize(("kernel", "stride", "windows"), [(3, (1, 1), 9), (3, (2, 1), 3), (4, (2, 2), 4), (1, (1, 1), 1)])
def test_synops_of_an_event(kernel: int, stride: tuple[int, int], windows: int) -> None:
    """Features times the windows that hold the position: k * k / (sx * sy), zero weights too; fewer at the border."""
    x, y = ((9 - kernel) // s + 1 for s in stride)
    layer = CnnLayer(Dimensions((1, 9, 9), (5, x, y), kernel, stride), np.zeros((5, 1, kernel, kernel), np.int8), None, None,
                     10, -10, False)
    configuration = one_core(layer)
    at = [Events(*(np.array([n]) for n in (0, 0, *place))) for place in ((4, 5), (0, 0))]
    inside, corner = (Simulator(configuration).stream(event).cores[3].synops for event in at)
    assert inside == 5 * windows
    assert corner == 5


def test_pooling_divides_and_drops_the_rest(run: Run) -> None:
    """Pool = (x // k, y // k); on 5 x 5 the last row and column lead out of the next core's 2 x 2 input."""
    first = pointwise([1], 1, Destination(7, 2, 1), shape=(5, 5))
    second = pointwise([0, 1], 1, shape=(2, 2))
    configuration = Configuration(
        "speck2f", {0: first, 7: second}, Source((1, 5, 5), (1, 5, 5), (Destination(0),)),
        {"a": Placed((1, 5, 5), (Part(0, 0, 1),)), "b": Placed((1, 2, 2), (Part(7, 0, 1),))}, "b")
    frame = np.arange(25).reshape(1, 5, 5)
    trace = run(configuration, frame[None])
    assert trace.counts["a"].ravel().tolist() == list(range(25))
    assert trace.output.ravel().tolist() == [0 + 1 + 5 + 6, 2 + 3 + 7 + 8, 10 + 11 + 15 + 16, 12 + 13 + 17 + 18]
    streamed = Simulator(configuration).stream(from_frames(frame[None]))
    assert streamed.cores[7].dropped == frame[0, 4].sum() + frame[0, :4, 4].sum()


def test_orientation(run: Run) -> None:
    """Configurations are x before y: the kernel's tap (x 2, y 0) alone moves an event by x -1, y +1."""
    weights = np.zeros((1, 1, 3, 3), np.int8)
    weights[0, 0, 2, 0] = 1
    layer = CnnLayer(Dimensions((1, 6, 4), (1, 6, 4), 3, (1, 1), (1, 1)), weights, None, None, 1, -1, False)
    frame = np.zeros((1, 1, 4, 6), np.int64)
    frame[0, 0, 2, 3] = 1
    y, x = np.nonzero(run(one_core(layer), frame).output[0, 0, 0])
    assert (y.tolist(), x.tolist()) == ([3], [2])


def test_every_count_stays_in_its_step(run: Run) -> None:
    """Through a core that passes events on, the output is the input."""
    layer = pointwise([1], 1, shape=(7, 5))
    frames = np.random.default_rng(0).integers(0, 4, (20, 1, 5, 7))
    np.testing.assert_array_equal(run(one_core(layer), frames).output[0], frames)


def test_a_circle_is_refused() -> None:
    cores = {i: pointwise([1], 1, Destination((i + 1) % 3)) for i in range(3)}
    circle = replace(one_core(pointwise([1], 1, Destination(0))), cnn_layers={**cores, 3: pointwise([1], 1, Destination(0))})
    for make in (Simulator, reference.Chip):
        with pytest.raises(UnsupportedError, match="D2E-SPECK-060: the cores 0, 1, 2 send in a circle"):
            make(circle)


def test_events_to_no_layer_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="D2E-SPECK-061: core 3 sends to core 5"):
        Simulator(one_core(pointwise([1], 1, Destination(5))))
    Simulator(one_core(pointwise([1], 1, Destination(5, enable=False), Destination(12))))

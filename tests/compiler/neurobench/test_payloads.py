"""Where values beyond 0 and 1 travel NeuroBench counts by batch; ours counts every event for what it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.neurobench.networks import STEPS, convolutions, dense, frames, loader, scaled
from torch import nn

import d2e
from d2e import nn as snn
from d2e.compiler import neurobench
from d2e.compiler.program import Program
from d2e.ir import IF, Input, Linear, Output, chain


def pair(most: int = 3) -> Program:
    """Two inputs that reach 2 and 1 neurons, with payloads up to 3."""
    weight = np.array([[0.6, 0.6], [0.6, 0.0]])
    network = chain([("in", Input(shape=(2,), max_payload=most)), ("fc", Linear(weight=weight)),
                     ("if", IF(shape=(2,))), ("out", Output(shape=(2,)))])
    return d2e.compile(network, "loihi2-sim")


def test_every_message_is_counted_for_what_it_is():
    x = np.array([[[1, 0], [0, 1]], [[3, 0], [1, 2]]])                # payloads 1, 1, 1 are spikes; 3 and 2 multiply
    found = neurobench.metrics(pair(), x)["SynapticOperations"]
    assert found == {"Effective_ACs": (2 + 1 + 2) / 2, "Effective_MACs": (2 + 1) / 2, "Dense": 2 * 4}


def test_neurobench_counts_the_same_samples_differently_in_another_batch():
    program, x, y = pair(), np.array([[[1, 0], [0, 1]], [[3, 0], [1, 2]]]), np.array([0, 1])
    alone, together = (
        neurobench.benchmark(neurobench.model(program), loader(x, y, batch))["SynapticOperations"] for batch in (1, 2)
    )
    assert alone == {"Effective_ACs": 3 / 2, "Effective_MACs": (2 + 3) / 2, "Dense": 8}
    assert together == {"Effective_ACs": 0, "Effective_MACs": (3 + 5) / 2, "Dense": 8}


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), samples=st.integers(2, 8), burst=st.sampled_from(["graded", "replicas"]))
def test_ours_do_not_hang_on_the_batch(seed, samples, burst):
    """Metrics of the whole are means of those of its samples."""
    program = bursts(burst)
    x, y = frames(program.input_shape, samples, seed, most=3)
    whole = neurobench.metrics(program, (x, y))
    single = [neurobench.metrics(program, (x[i : i + 1], y[i : i + 1])) for i in range(samples)]
    for key in ("Effective_ACs", "Effective_MACs", "Dense"):
        assert whole["SynapticOperations"][key] == pytest.approx(np.mean([s["SynapticOperations"][key] for s in single]))
    for key in ("ActivationSparsity", "MembraneUpdates", "ClassificationAccuracy"):
        assert whole[key] == pytest.approx(np.mean([s[key] for s in single]))
    assert whole["d2e"]["OnChipSpikes"] == pytest.approx(np.mean([s["d2e"]["OnChipSpikes"] for s in single]))


_MADE: dict[str, Program] = {}


def bursts(form: str) -> Program:
    if form not in _MADE:
        model, size = dense(max_spikes=4)
        _MADE[form] = d2e.compile(
            scaled(model), "loihi2-sim", input_shape=size, time_steps=STEPS, max_payload=3, burst=form,
            calibration=frames(size, 16, 1, most=3)[0],
        )
    return _MADE[form]


def test_a_burst_is_one_multiplication_or_as_many_spikes_as_it_is_sent_as():
    """The same network, the same bursts: in one message each, or as a spike of so many replicas."""
    x, y = frames((12,), 6, 4, most=3)
    graded, spikes = (neurobench.metrics(bursts(form), (x, y)) for form in ("graded", "replicas"))
    assert graded["ActivationSparsityByLayer"] == spikes["ActivationSparsityByLayer"]
    assert graded["SynapticOperations"]["Dense"] == spikes["SynapticOperations"]["Dense"]
    assert graded["SynapticOperations"]["Effective_MACs"] > spikes["SynapticOperations"]["Effective_MACs"]
    assert graded["SynapticOperations"]["Effective_ACs"] < spikes["SynapticOperations"]["Effective_ACs"]
    assert graded["d2e"]["OnChipSpikes"] < spikes["d2e"]["OnChipSpikes"]
    program, second = bursts("graded"), "2"
    n = program.run(x, record="spikes").spikes["1"]
    fan_out = np.count_nonzero(program.network.nodes[second].weight, axis=0)
    first = np.count_nonzero(program.network.nodes["0"].weight, axis=0)
    expected = ((n > 1).sum(axis=(0, 1)) @ fan_out + (x > 1).sum(axis=(0, 1)) @ first) / len(x)
    assert graded["SynapticOperations"]["Effective_MACs"] == expected


def test_speck_sends_several_spikes_a_step_and_multiplies_nothing():
    model, size = convolutions()
    program = d2e.compile(scaled(model), "speck2f-sim", input_shape=size, time_steps=STEPS, calibration=frames(size, 9)[0])
    x, y = frames(size, 6, 2)
    found = neurobench.metrics(program, (x, y))["SynapticOperations"]
    theirs = neurobench.benchmark(neurobench.model(program), loader(x, y, 6))["SynapticOperations"]
    counts = program.run(x).counts
    assert found["Effective_MACs"] == 0
    assert max(n.max() for n in program.run(x, record="spikes").spikes.values()) > 1
    assert theirs["Effective_MACs"] > 0
    last = program.network.nodes["7"]                                 # dense: each spike reaches its weights
    reached = (counts["5"].reshape(6, -1) @ np.count_nonzero(last.weight, axis=0)).mean()
    assert 0 < reached < found["Effective_ACs"]


def test_a_pooled_sum_is_so_many_events():
    """NeuroBench sees one value per window, and no weights in the pooling."""
    model = snn.Sequential(snn.SumPool2d(2), nn.Conv2d(1, 3, 2, bias=False), snn.IF())
    program = d2e.compile(scaled(model), "speck2f-sim", input_shape=(1, 4, 4), time_steps=1)
    x = np.ones((2, 1, 1, 4, 4), np.uint8)
    nonzero = np.count_nonzero(next(n.weight for n in program.network.nodes.values() if n.kind == "conv2d"))
    found = neurobench.metrics(program, x)["SynapticOperations"]
    theirs = neurobench.benchmark(neurobench.model(program), loader(x, np.zeros(2, int), 2))["SynapticOperations"]
    assert found["Effective_ACs"] == 4 * nonzero
    assert found["Dense"] == theirs["Dense"]
    assert (theirs["Effective_ACs"], theirs["Effective_MACs"]) == (0, nonzero)


def test_a_loop_gets_the_spikes_of_the_step_before():
    """What the last step sends back arrives nowhere."""
    model = snn.Sequential(nn.Linear(4, 3, bias=False), snn.Recurrent(snn.IF(), nn.Linear(3, 3, bias=False)))
    program = d2e.compile(scaled(model), "loihi2-sim", input_shape=(4,), time_steps=STEPS)
    x, y = frames((4,), 5)[0], np.zeros(5, int)
    found = neurobench.metrics(program, (x, y))["SynapticOperations"]
    assert found == neurobench.benchmark(neurobench.model(program), loader(x, y, 5))["SynapticOperations"]
    first, loop = (n.weight for n in program.network.nodes.values() if n.kind == "linear")
    n = next(iter(program.run(x, record="spikes").spikes.values()))
    assert n[:, -1].any()
    reached, back = x.sum(axis=(0, 1)), n[:, :-1].sum(axis=(0, 1))
    assert found["Effective_ACs"] == (reached @ np.count_nonzero(first, axis=0) + back @ np.count_nonzero(loop, axis=0)) / 5

"""The network of a one-step conversion is an ordinary one: written, read back, folded, quantised."""

from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.convert.networks import MODELS, dyadic, skeleton_of
from tests.compiler.convert.single_step.stairs import random_state

import d2e
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.convert.single_step.build import network_of
from d2e.compiler.convert.single_step.staircase import Staircase, uniform
from d2e.compiler.notes import warnings
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.ir import nirfile, reference

pytestmark = pytest.mark.usefixtures("one_core")


def networks_of(name, most=7, stairs=None):
    """A network with dyadic numbers, its state and its images; ``stairs(scale)`` are its neurons, but for shifts."""
    model, images = dyadic(name)
    state = random_state(skeleton_of(name, model), most)
    if stairs is not None:
        state = replace(state, plan={key: replace(stairs(s.scale), shift=s.shift) for key, s in state.plan.items()})
    return network_of(state), state, images


@pytest.mark.parametrize("name", MODELS)
def test_every_population_says_what_it_is(name):
    network, state, _ = networks_of(name)
    assert (network.input.coding, network.input.time_steps, network.output.readout) == ("direct", 1, "last")
    readout = network.neuron("readout")
    assert (readout.kind, readout.decay_mem) == ("li", 0)
    np.testing.assert_array_equal(readout.bias, state.skeleton.network.neuron("readout").bias + state.readouts["readout"])
    for key, stairs in state.plan.items():
        node = network.neuron(key)
        assert (node.kind, node.reset, node.decay_mem, node.fire) == ("multi_threshold", "none", 0, "ge")
        assert not node.signed
        assert node.metadata == {"activation": "relu", **({"cap": 6.0} if name == "relu6" else {})}
        np.testing.assert_array_equal(node.levels, stairs.levels)
        np.testing.assert_array_equal(node.payloads, stairs.payloads)
        axes = (-1, *[1] * (len(node.shape) - 1))
        np.testing.assert_array_equal(node.threshold, stairs.scale.reshape(axes))
        np.testing.assert_array_equal(node.amplitude, (stairs.scale * stairs.unit).reshape(axes))
        before = np.asarray(state.skeleton.network.neuron(key).bias)
        np.testing.assert_array_equal(np.broadcast_to(node.bias, node.shape),
                                      np.broadcast_to(before + stairs.shift.reshape(axes), node.shape))


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_the_same_after_its_file(name, tmp_path):
    network, _, images = networks_of(name)
    nirfile.write(network, tmp_path / "network.nir")
    read = nirfile.read(tmp_path / "network.nir")
    assert read.same(network)
    wanted, found = (reference.run(each, images[:, None]) for each in (network, read))
    np.testing.assert_array_equal(found.output, wanted.output)


def test_equal_numbers_are_written_once():
    _, state, _ = networks_of("conv")
    plan = {**state.plan, "a": replace(state.plan["a"], scale=np.full(4, 0.5))}
    network = network_of(replace(state, plan=plan))
    assert network.nodes["a"].threshold.shape == network.nodes["a"].amplitude.shape == ()
    assert network.nodes["b"].threshold.shape == (3, 1, 1)


# --------------------------------------------------------------------------- on the way to a chip

KINDS = {
    "fitted": None, "uniform": lambda scale: uniform(scale, 6), "floor": lambda scale: uniform(scale, 6, rounds=False),
    "large payloads": lambda scale: Staircase(scale, np.array([0.25, 1.0, 3.0]), np.array([127, 191, 255]), 2.0**-6, scale),
    "one level": lambda scale: uniform(scale, 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_folding_thresholds_changes_no_count(name, kind):
    network, state, images = networks_of(name, stairs=KINDS[kind])
    folded = run_passes([Canonicalise(), FoldThresholds()], network, TARGETS[0])[-1].network
    wanted, found = (reference.run(each, images[:, None], "spikes") for each in (network, folded))
    for key, stairs in state.plan.items():
        node = folded.neuron(key)
        assert (node.threshold, node.amplitude, node.reset, node.decay_mem) == (1, 1, "none", 0)
        np.testing.assert_array_equal(node.payloads / node.payloads[0], stairs.payloads / stairs.payloads[0])
        np.testing.assert_array_equal(found.spikes[key], wanted.spikes[key])
    np.testing.assert_array_equal(found.output, wanted.output)
    assert not warnings(folded)


@pytest.mark.parametrize("kind", ["fitted", "uniform"])
@pytest.mark.parametrize("burst", ["graded", "replicas"])
@pytest.mark.parametrize("name", ["conv", "residual"])
def test_the_drift_of_integers_is_what_the_report_says(name, burst, kind):
    network, state, images = networks_of(name, stairs=KINDS[kind])
    labels = np.zeros(len(images), int)
    program = d2e.compile(network, "loihi2-sim", burst=burst, calibration=images, eval=(images, labels))
    source, found = reference.run(network, images[:, None]), program.run(images)
    rows = {row["pass"]: row for row in program.report["accuracy"]["passes"]}
    errors = {key: np.abs(found.counts[key] - source.counts[key]) for key in state.plan}
    assert rows["quantise"]["max_count_error"] == max(error.max() for error in errors.values())
    assert rows["quantise"]["spikes"] == sum(found.counts[key].sum() for key in state.plan) / len(images)
    assert rows["source"]["spikes"] == sum(source.counts[key].sum() for key in state.plan) / len(images)
    assert {**rows["fold-thresholds"], "pass": ""} == {**rows["encode-input"], "pass": ""}
    assert sum(error.sum() for error in errors.values()) < 0.15 * rows["source"]["spikes"] * len(images), "ties, not more"

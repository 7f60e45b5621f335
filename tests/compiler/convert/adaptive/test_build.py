"""The network of a conversion is an ordinary one: written, read back and compiled."""

import numpy as np
import pytest
from tests.compiler.convert.networks import MODELS, dyadic, floating, random_plan, skeleton_of, state_of

import d2e
from d2e.compiler.convert.adaptive.build import network_of
from d2e.compiler.convert.adaptive.calibrate import PRESETS, Calibrator
from d2e.ir import EarlyExit, nirfile, reference

STEPS = 6


def converted(name, most=4, steps=STEPS, exit=None):
    """A calibrated network and the images it was calibrated on."""
    model, images = floating(name, 0, 64)
    found = Calibrator(skeleton_of(name, model), images, steps, PRESETS["advanced"])
    return network_of(found.every({layer.name: most for layer in found.skeleton.rectifiers}), steps, exit), images


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_the_same_after_its_file(name, tmp_path):
    network, images = converted(name)
    nirfile.write(network, tmp_path / "network.nir")
    read = nirfile.read(tmp_path / "network.nir")
    assert read.same(network)
    wanted, found = (reference.run(each, images[:4], "spikes") for each in (network, read))
    np.testing.assert_array_equal(found.output, wanted.output)


def test_the_exit_stays_in_the_file(tmp_path):
    rule = EarlyExit(bounds=np.linspace(3.0, 1.0, STEPS), rule="calibrated")
    network, _ = converted("mlp", exit=rule)
    nirfile.write(network, tmp_path / "network.nir")
    read = nirfile.read(tmp_path / "network.nir")
    assert read.same(network)
    np.testing.assert_array_equal(read.output.exit.bounds, rule.bounds)


@pytest.mark.parametrize("name", MODELS)
def test_every_population_says_what_it_is(name):
    network, _ = converted(name, most=3)
    assert (network.input.coding, network.input.time_steps, network.output.readout) == ("direct", STEPS, "last")
    populations = [network.nodes[n] for n in network.populations]
    assert [node.kind for node in populations].count("li") == 1
    for node in populations:
        if node.kind == "li":
            continue
        assert (node.kind, node.reset, node.max_spikes, node.fire) == ("if", "subtract", 3, "ge")
        assert node.metadata == {"activation": "relu", **({"cap": 6.0} if name == "relu6" else {})}
        np.testing.assert_array_equal(node.amplitude, node.threshold)
        assert node.threshold.shape in {(), (node.shape[0], *[1] * (len(node.shape) - 1))}


def test_equal_numbers_are_written_once():
    model, _ = dyadic("conv")
    skeleton = skeleton_of("conv", model)
    plan = random_plan(skeleton, 3)
    plan["a"].threshold[:] = 0.5
    network = network_of(state_of(skeleton, plan), STEPS)
    assert network.nodes["a"].threshold.shape == ()
    assert network.nodes["a"].v_init.shape == (4, 1, 1)
    assert network.nodes["b"].threshold.shape == (3, 1, 1)


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_it_compiles_for_loihi_with_nearly_the_same_counts(name):
    network, images = converted(name)
    program = d2e.compile(network, target="loihi2-sim", calibration=images)
    source, found = reference.run(network, images), program.run(images)
    errors = {n: np.abs(found.counts[n] - source.counts[n]) for n in "ab"}
    rows = {row["pass"]: row for row in program.evaluate(images)["accuracy"]["passes"]}
    assert 0 < max(error.max() for error in errors.values()) <= rows["loihi2-sim"]["max_count_error"] <= 4
    for n, error in errors.items():
        assert error.mean() < 0.12 * source.counts[n].mean()

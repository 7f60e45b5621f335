"""The engine of a one-step conversion: the definition in numpy, and the reference interpreter on the network it becomes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import MODELS, dyadic, floating, skeleton_of
from tests.compiler.convert.single_step.stairs import in_rows, once, random_stairs, random_state

from d2e.compiler.convert.single_step.build import network_of
from d2e.compiler.convert.single_step.engine import begin, follow, receives, simulate, traffic
from d2e.ir import reference

pytestmark = pytest.mark.usefixtures("one_core")


def three(name, make, most, exact, kind="relu"):
    """(n of every population as rows, without sign, logits) by the definition, the reference and the engine."""
    model, images = make(name)
    skeleton = skeleton_of(name, model)
    state = random_state(skeleton, most, exact=exact, kind=kind)
    wanted, logits = once(name, model, state, images)
    trace = reference.run(network_of(state), images[:, None], "spikes")
    run = simulate(skeleton, state.plan, state.readouts, images)
    assert set(wanted) == set(run.n) == {layer.name for layer in skeleton.rectifiers}
    assert all(n.mean() > 0 and n.max() <= most for n in wanted.values())
    assert most == 1 or max(n.max() for n in wanted.values()) > 1
    return (
        ({key: in_rows(n) for key, n in wanted.items()}, logits),
        ({key: np.abs(in_rows(trace.spikes[key][:, 0])) for key in wanted}, trace.output[:, 0]),
        (run.n, run.logits(skeleton)),
    )


@pytest.mark.parametrize(("most", "kind"), [
    (1, "relu"), (3, "relu"), (15, "relu"), (3, "signed"), (15, "signed"), (9, "falls")])
@pytest.mark.parametrize("name", MODELS)
def test_exact_numbers_give_the_same_counts_and_logits(name, most, kind):
    (wanted, logits), *others = three(name, dyadic, most, True, kind)
    for counts, output in others:
        for key, n in wanted.items():
            np.testing.assert_array_equal(counts[key], n, err_msg=key)
        np.testing.assert_array_equal(output, logits)


@pytest.mark.parametrize("name", MODELS)
def test_random_numbers_give_the_same_counts_but_for_ties(name):
    (wanted, logits), *others = three(name, floating, 7, False)
    for counts, output in others:
        same = np.logical_and.reduce([(counts[key] == n).all(axis=1) for key, n in wanted.items()])
        assert same.mean() > 0.9
        np.testing.assert_allclose(output[same], logits[same], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_single_precision_is_exact_where_its_numbers_are(name):
    model, images = dyadic(name)
    state = random_state(skeleton_of(name, model), 15)
    double, single = (simulate(skeleton_of(name, model, dtype), state.plan, state.readouts, images)
                      for dtype in (torch.float64, torch.float32))
    for key, n in double.n.items():
        assert (single.n[key].dtype, n.dtype) == (np.uint8, np.uint8)
        np.testing.assert_array_equal(single.n[key], n)
    for key, frames in double.sent.items():
        assert single.sent[key].dtype == torch.float32
        assert torch.equal(single.sent[key].double(), frames.double())


@pytest.mark.parametrize("name", MODELS)
def test_every_step_is_an_image_of_its_own(name):
    """The network keeps nothing: images one after the other get the answers that each gets alone."""
    model, images = dyadic(name)
    network = network_of(random_state(skeleton_of(name, model), 7))
    assert network.input.time_steps == 1
    alone = reference.run(network, images[:, None], "spikes")
    one, other = images[:4], images[4:]
    piped = network.with_nodes({network.inputs[0]: replace(network.input, time_steps=3)})
    trace = reference.run(piped, np.stack([one, other, one], axis=1), "spikes")
    for step, part in enumerate((slice(0, 4), slice(4, 8), slice(0, 4))):
        np.testing.assert_array_equal(trace.output[:, step], alone.output[part, 0])
        for key in alone.spikes:
            np.testing.assert_array_equal(trace.spikes[key][:, step], alone.spikes[key][part, 0])
    assert (alone.output[:4] != alone.output[4:]).any()


def test_a_run_goes_on_where_it_stands():
    """Populations added one by one, as calibration does, are a whole run."""
    model, images = dyadic("residual")
    skeleton = skeleton_of("residual", model)
    state = random_state(skeleton, 5)
    whole, run = simulate(skeleton, state.plan, state.readouts, images), begin(skeleton, images)
    for layer in skeleton.rectifiers:
        stairs = state.plan[layer.name]
        z = receives(skeleton, run, layer)
        np.testing.assert_array_equal(receives(skeleton, run, layer, stairs.shift), z + layer.per_neuron(stairs.shift))
        follow(layer, stairs, z + layer.per_neuron(stairs.shift), run)
        np.testing.assert_array_equal(run.n[layer.name], whole.n[layer.name])
        assert torch.equal(run.sent[layer.name], whole.sent[layer.name])


# --------------------------------------------------------------------------- traffic


def test_a_level_is_a_spike_and_whatever_is_sent_is_a_message():
    model, _ = dyadic("mlp")
    skeleton = skeleton_of("mlp", model)
    stairs = replace(random_stairs(9, 3), payloads=np.array([1, 2, 6]))
    n = np.zeros((2, 9), np.uint8)
    n[0, 4], n[1, 2], n[1, 4] = 3, 1, 2
    found = traffic(skeleton, {"b": stairs}, {"b": n})["b"]
    assert (found.spikes, found.synops) == (6 / 2, 6 * 4 / 2)
    assert (found.messages, found.message_synops) == (3 / 2, 3 * 4 / 2)
    assert found.bits == 3 * 3 / 2, "a payload of up to 6 has 3 bits"


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_synops_are_spikes_times_what_each_reaches(name):
    model, images = dyadic(name)
    skeleton = skeleton_of(name, model)
    state = random_state(skeleton, 7)
    counts, _ = once(name, model, state, images)
    found = traffic(skeleton, state.plan, simulate(skeleton, state.plan, state.readouts, images).n)
    for key, frames in counts.items():
        n, fan_out = in_rows(frames), skeleton.layers[key].fan_out
        assert found[key].spikes == n.sum() / len(images)
        assert found[key].synops == (n * fan_out).sum() / len(images)
        assert found[key].message_synops == ((n > 0) * fan_out).sum() / len(images)
        assert 0 < found[key].message_synops < found[key].synops


def test_a_silent_population_sends_no_message():
    model, _ = dyadic("mlp")
    found = traffic(skeleton_of("mlp", model), {"a": random_stairs(12, 2)}, {"a": np.zeros((3, 12), np.uint8)})["a"]
    assert (found.spikes, found.messages, found.bits) == (0, 0, 0)

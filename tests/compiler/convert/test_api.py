"""`d2e.convert`: what it may depend on, what it says of its network, what it refuses, and when."""

import sys

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import MODELS, activations, certain, skeleton_of, stepwise
from torch import nn

import d2e
from d2e.compiler.convert import api
from d2e.compiler.convert.adaptive.engine import Burst
from d2e.compiler.data import Data
from d2e.ir import MissingError, UnsupportedError, UsageError, nirfile, reference

pytestmark = pytest.mark.usefixtures("one_core")
STEPS, HELD = 4, 24
FULL = {"budget": 0.6, "compress": 0.1, "early_exit": 20.0, "time_steps": 6}


def convert(name="mlp", given=None, **options):
    model, images = given or certain(name)
    facts = {"calibration": images, "input_shape": MODELS[name][0], "time_steps": STEPS, "max_burst": 3, "jobs": 1}
    return d2e.convert(model, **{**facts, **options})


def without_accuracy(network):
    facts = {key: value for key, value in network.metadata["conversion"].items() if key != "accuracy"}
    return network.with_metadata(conversion=facts)


# --------------------------------------------------------------------------- what it depends on


@pytest.mark.parametrize("options", [{}, FULL, {"search": "paper", "budget": 0.9}], ids=["plain", "full", "paper"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(options):
    first, again, other = (convert("conv", seed=seed, **options) for seed in (3, 3, 4))
    assert first.same(again)
    assert not all(node.same(other.nodes[name]) for name, node in first.nodes.items())


def test_labels_along_with_the_images_change_nothing(tmp_path):
    model, images = certain("mlp")
    labels = np.random.default_rng(0).integers(0, 4, len(images))
    np.savez(tmp_path / "images.npz", x=images, y=labels)
    plain = convert(given=(model, images), **FULL)
    for calibration in ((images, labels), (images, labels[::-1]), tmp_path / "images.npz"):
        assert convert(given=(model, images), **{**FULL, "calibration": calibration}).same(plain)


class Unlabelled(Data):
    """Nobody may ask for the labels."""

    def __getattribute__(self, name):
        assert name != "labels"
        return super().__getattribute__(name)


def test_labels_are_not_looked_at():
    given = certain("mlp")
    plain = convert(given=given, **FULL)
    assert convert(given=given, calibration=Unlabelled(given[1]), **FULL).same(plain)


def test_evaluation_data_change_the_accuracy_and_nothing_else():
    model, images = certain("mlp")
    rng, plain = np.random.default_rng(0), convert(given=(model, images), **FULL)
    found = []
    for _ in range(2):
        data = rng.normal(0.3, 1.0, (50, 7)), rng.integers(0, 4, 50)
        found.append(convert(given=(model, images), eval=data, **FULL))
        assert without_accuracy(found[-1]).same(plain)
    assert found[0].metadata["conversion"]["accuracy"] != found[1].metadata["conversion"]["accuracy"]


def test_images_beyond_what_is_used_change_nothing(monkeypatch):
    model, images = certain("mlp")
    monkeypatch.setattr(api, "HELD_OUT", 30)
    options = {"calibration_samples": 40, "calibration": images[:70]}
    more = {**options, "calibration": np.concatenate([images[:70], images[:9] + 1])}
    assert convert(given=(model, images), **options).same(convert(given=(model, images), **more))


# --------------------------------------------------------------------------- what it says of its network


def plan_of(network, skeleton):
    """The neurons of a converted network, per channel; shifts against the biases of the ANN."""
    plan = {}
    for layer in skeleton.layers.values():
        node = network.neuron(layer.name)
        per_channel = [
            np.broadcast_to(values, layer.shape).reshape(layer.channels, -1)[:, 0]
            for values in (node.threshold, node.v_init, node.bias, skeleton.network.neuron(layer.name).bias)
        ] if not layer.readout else [np.ones(layer.channels), np.zeros(layer.channels), node.bias,
                                     skeleton.network.neuron(layer.name).bias]
        theta, start, bias, before = per_channel
        plan[layer.name] = Burst(theta, start, bias - before, getattr(node, "max_spikes", 1))
    return plan


def weights_into(model, network, names):
    """The module with the weights of a converted network where they have kept their shape."""
    with torch.no_grad():
        for name in names:
            getattr(model, name).weight.copy_(torch.tensor(network.nodes[name].weight))
    return model


@pytest.mark.parametrize("options", [{"calibrate": "light"}, {"calibrate": "light", "search": "paper", "budget": 0.9}],
                         ids=["light", "paper"])
@pytest.mark.parametrize("name", MODELS)
def test_the_network_is_what_its_equations_compute_step_by_step(name, options):
    model, images = certain(name)
    network, held = convert(name, (model, images), **options), images[-HELD:]
    plan = plan_of(network, skeleton_of(name, model))
    spikes, logits = stepwise(name, model, plan, held, STEPS)
    logits = logits + plan["readout"].shift * np.arange(1, STEPS + 1)[:, None]
    assert_computes(network, held, spikes, logits, activations(name, model, held)[2])


def test_calibrated_weights_are_those_of_the_network():
    """The first layers of a residual network; a mean goes into the weights of its last one."""
    model, images = certain("residual")
    network, held = convert("residual", (model, images), budget=0.8), images[-HELD:]
    plan, ann = plan_of(network, skeleton_of("residual", model)), activations("residual", model, held)[2]
    changed = weights_into(model, network, ["conv1", "conv2", "down", "conv3"])
    spikes, _ = stepwise("residual", changed, plan, held, STEPS)
    sent = spikes["d"] * plan["d"].threshold[:, None, None]
    logits = np.cumsum(sent.reshape(HELD, STEPS, -1) @ network.nodes["fc"].weight.T + network.neuron("readout").bias, axis=1)
    assert_computes(network, held, spikes, logits, ann)


def assert_computes(network, held, spikes, logits, ann):
    """The reference fires these spikes but for ties, and the facts are those of them but for roundings."""
    trace, facts = reference.run(network, held, "spikes"), network.metadata["conversion"]
    same = np.ones(len(held), bool)
    for name, n in spikes.items():
        same &= (trace.spikes[name] == n).reshape(len(held), -1).all(axis=1)
    assert same.mean() > 0.9
    np.testing.assert_allclose(trace.output[same], logits[same], rtol=1e-6, atol=1e-6)
    assert max(n.max() for n in spikes.values()) > 1, "there are bursts"
    assert facts["bursts"] == {name: network.neuron(name).max_spikes for name in spikes}
    assert facts["spikes_per_sample"] == pytest.approx(sum(n.sum() for n in spikes.values()) / len(held), rel=1e-2)
    p, q = (torch.from_numpy(z).log_softmax(1).numpy() for z in (ann, logits[:, -1] / STEPS))
    assert facts["kl"] == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=0.1)


def test_accuracies_are_those_of_the_ann_and_of_the_network():
    model, images = certain("mlp", 20.0)
    labels = activations("mlp", model, images)[2].argmax(axis=1)
    labels[::5] = (labels[::5] + 1) % 4
    network = convert(given=(model, images), time_steps=6, early_exit=20.0, eval=(images, labels), eval_samples=80)
    facts, output = network.metadata["conversion"], reference.run(network, images[:80]).output
    steps = network.output.exit.steps(output, "last")
    assert facts["accuracy"] == {
        "ann": 64 / 80, "snn": (output[np.arange(80), steps - 1].argmax(axis=1) == labels[:80]).mean(),
        "snn_all_steps": (output[:, -1].argmax(axis=1) == labels[:80]).mean(), "mean_steps": steps.mean(), "samples": 80,
        "data_sha256": Data(images[:80], labels[:80]).fingerprint,
    }
    assert facts["early_exit"]["bounds"] == network.output.exit.bounds.tolist()


def test_what_is_written_is_what_is_returned(tmp_path):
    network = convert(output=str(tmp_path / "new" / "net.nir"), **FULL)
    assert nirfile.read(tmp_path / "new" / "net.nir").same(network)


def test_neurons_are_held_back_by_half_a_threshold_at_most_where_answers_are_read_early():
    given = certain("residual")
    for options, least in (({}, -3.5), ({"early_exit": 1.0}, 0.0)):
        network = convert("residual", given, **options)
        neurons = [network.neuron(name) for name in "abcd"]
        starts = np.concatenate([(node.v_init / node.threshold).ravel() for node in neurons])
        assert starts.min() >= least - 1e-9
        assert (starts.min() < 0) == (not options)


@pytest.mark.parametrize("burst", ["graded", "replicas"])
def test_compiled_answers_are_those_of_the_full_run_at_the_step_of_exit(burst):
    model, images = certain("conv", 40.0)
    network = convert("conv", (model, images), time_steps=6, early_exit=20.0)
    program = d2e.compile(network, "loihi2-sim", burst=burst, calibration=images)
    found, full = program.run(images), program.run(images, early_exit=False)
    assert full.output.shape[1] == 6
    assert len(set(found.steps)) > 1
    for sample, steps in enumerate(found.steps):
        np.testing.assert_array_equal(found.output[sample, -1], full.output[sample, steps - 1])
    np.testing.assert_array_equal(found.steps, program.network.output.exit.steps(full.output, "last"))


# --------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_images_that_are_no_numbers(bad):
    model, images = certain("mlp")
    images[5, 2] = bad
    with pytest.raises(UsageError, match="calibration data") as caught:
        convert(given=(model, images))
    assert caught.value.code == "D2E-INPUT-002"
    good = certain("mlp")[1]
    with pytest.raises(UsageError, match="evaluation data"):
        convert(given=(model, good), eval=(images, np.zeros(len(images), int)))


def test_weights_that_are_no_numbers():
    model, images = certain("mlp")
    with torch.no_grad():
        model.fc2.weight[1, 1] = np.nan
    with pytest.raises(UnsupportedError) as caught:
        convert(given=(model, images))
    assert (caught.value.code, caught.value.node) == ("D2E-CONV-005", "fc2")


def test_a_dead_layer_is_named():
    model, images = certain("mlp")
    with torch.no_grad():
        model.fc2.weight.copy_(-model.fc2.weight.abs() - 0.1)
    with pytest.raises(UnsupportedError) as caught:
        convert(given=(model, images))
    assert (caught.value.code, caught.value.node) == ("D2E-CONV-013", "b")


def test_samples_that_are_too_few():
    model, images = certain("mlp")
    with pytest.raises(UsageError) as caught:
        convert(given=(model, images[:15]))
    assert caught.value.code == "D2E-CONV-011"
    assert convert(given=(model, images[:16])).metadata["conversion"]["samples"] == {"fit": 12, "held": 4}


def test_layers_that_no_method_converts_are_all_named():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.GELU(),
        nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3))
    with pytest.raises(UnsupportedError) as caught:
        convert("conv", (model, certain("conv")[1]))
    found = {(finding.node, finding.code, finding.message.split()[0]) for finding in caught.value.findings}
    assert found == {("2", "D2E-CONV-002", "MaxPool2d"), ("4", "D2E-CONV-001", "GELU"), ("6", "D2E-CONV-001", "LayerNorm")}
    assert all(f"(node {node!r})" in str(caught.value) for node in ("2", "4", "6"))


@pytest.mark.parametrize(("options", "code"), [
    ({"method": "other"}, "D2E-CONV-010"), ({"method": "single-step"}, "D2E-CONV-017"),
    ({"seed": -1}, "D2E-CONV-012"), ({"jobs": 0}, "D2E-CONV-012"),
    ({"eval_samples": 0}, "D2E-CONV-012"), ({"eval_samples": -3}, "D2E-CONV-012"), ({"time_steps": 0}, "D2E-CONV-012"),
    ({"budget": float("nan")}, "D2E-CONV-012"), ({"early_exit": float("nan")}, "D2E-CONV-012"),
], ids=str)
def test_options_that_mean_nothing_are_told_before_the_model_is_read(options, code):
    with pytest.raises(UsageError) as caught:
        convert(given=("nowhere.pt", np.zeros((20, 7))), **options)
    assert caught.value.code == code
    assert caught.value.hint


def test_all_cores_may_measure():
    given = certain("mlp")
    assert convert(given=given, budget=0.5, jobs=-1).same(convert(given=given, budget=0.5))


# --------------------------------------------------------------------------- told before the work


@pytest.fixture
def no_work(monkeypatch):
    def work(*_):
        raise AssertionError("the ANN ran")

    monkeypatch.setattr(api, "activate", work)


@pytest.mark.parametrize("address", ["local", "tcp://127.0.0.1:1"])
def test_a_missing_dask_is_told_before_the_ann_runs(no_work, monkeypatch, address):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingError, match="Dask") as caught:
        convert(budget=0.5, cluster=address)
    assert caught.value.code == "D2E-CONV-016"


def test_a_file_that_cannot_be_resumed_is_told_before_the_ann_runs(no_work, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError) as caught:
        convert(budget=0.5, resume=str(tmp_path / "notes.txt"))
    assert caught.value.code == "D2E-CONV-015"

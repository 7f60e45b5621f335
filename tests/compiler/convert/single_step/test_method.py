"""`d2e.convert` in one step: what it may depend on, what it says of its network, what it refuses, and when."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import MODELS, activations, certain, skeleton_of
from tests.compiler.convert.single_step.stairs import in_rows, once

import d2e
from d2e.compiler.convert import api
from d2e.compiler.convert.single_step.calibrate import State
from d2e.compiler.convert.single_step.staircase import Staircase
from d2e.compiler.data import Data
from d2e.ir import IF, LI, MissingError, UnsupportedError, UsageError, nirfile, reference

pytestmark = pytest.mark.usefixtures("one_core")
HELD = 24
LEVELS = 6
UNIFORM, FLOOR = {"spacing": "uniform"}, {"spacing": "uniform", "start": "floor"}
BUDGET, BAYES = {"budget": 0.6}, {"search": "bayes", "spacing": "uniform"}
KINDS = {"fitted": {}, "uniform": UNIFORM, "floor": FLOOR, "budget": BUDGET, "bayes": BAYES}


def convert(name="mlp", given=None, **options):
    model, images = given or certain(name)
    facts = {"method": "single-step", "calibration": images, "input_shape": MODELS[name][0], "levels": LEVELS, "jobs": 1}
    return d2e.convert(model, **{**facts, **options})


def without_accuracy(network):
    facts = {key: value for key, value in network.metadata["conversion"].items() if key != "accuracy"}
    return network.with_metadata(conversion=facts)


# --------------------------------------------------------------------------- what it depends on


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bits(kind):
    first, again = (convert("mlp", seed=3, **KINDS[kind]) for _ in range(2))
    assert first.same(again)


@pytest.mark.parametrize("kind", ["budget", "bayes"])
def test_another_seed_gives_other_bits(kind):
    """Importances are drawn, and proposals of scales."""
    first, other = (convert("conv", seed=seed, **KINDS[kind]) for seed in (3, 4))
    assert not all(node.same(other.nodes[name]) for name, node in first.nodes.items())


class Unlabelled(Data):
    """Nobody may ask for the labels."""

    def __getattribute__(self, name):
        assert name != "labels"
        return super().__getattribute__(name)


@pytest.mark.parametrize("kind", ["budget", "bayes"])
def test_labels_are_not_looked_at(kind):
    model, images = certain("mlp")
    plain = convert(given=(model, images), **KINDS[kind])
    assert convert(given=(model, images), calibration=Unlabelled(images), **KINDS[kind]).same(plain)
    labels = np.random.default_rng(0).integers(0, 4, len(images))
    assert convert(given=(model, images), calibration=(images, labels), **KINDS[kind]).same(plain)


def test_evaluation_data_change_the_accuracy_and_nothing_else():
    model, images = certain("mlp")
    rng, plain = np.random.default_rng(0), convert(given=(model, images), **BUDGET)
    found = []
    for _ in range(2):
        data = rng.normal(0.3, 1.0, (50, 7)), rng.integers(0, 4, 50)
        found.append(convert(given=(model, images), eval=data, **BUDGET))
        assert without_accuracy(found[-1]).same(plain)
    assert found[0].metadata["conversion"]["accuracy"] != found[1].metadata["conversion"]["accuracy"]


def test_images_beyond_what_is_used_change_nothing(monkeypatch):
    model, images = certain("mlp")
    monkeypatch.setattr(api, "HELD_OUT", 30)
    options = {"calibration_samples": 40, "calibration": images[:70], **BUDGET}
    more = {**options, "calibration": np.concatenate([images[:70], images[:9] + 1])}
    assert convert(given=(model, images), **options).same(convert(given=(model, images), **more))


# --------------------------------------------------------------------------- what it says of its network


def state_of(network, skeleton):
    """The staircases of a converted network, per channel; shifts against the biases of the ANN."""
    def per_channel(values, layer):
        return np.broadcast_to(values, layer.shape).reshape(layer.channels, -1)[:, 0].astype(float)

    plan = {}
    for layer in skeleton.rectifiers:
        node = network.neuron(layer.name)
        scale, amplitude, bias, before = (per_channel(values, layer) for values in (
            node.threshold, node.amplitude, node.bias, skeleton.network.neuron(layer.name).bias))
        plan[layer.name] = Staircase(scale, node.levels, node.payloads.astype(int), amplitude[0] / scale[0], bias - before)
    readout = network.neuron("readout").bias - skeleton.network.neuron("readout").bias
    return State(skeleton, plan, {"readout": np.broadcast_to(readout, skeleton.readout.shape)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_network_is_what_its_equations_compute(name, kind):
    model, images = certain(name)
    network, held = convert(name, (model, images), **KINDS[kind]), images[-HELD:]
    skeleton = skeleton_of(name, model)
    state = state_of(network, skeleton)
    counts, logits = once(name, model, state, held)
    trace, facts = reference.run(network, held[:, None], "spikes"), network.metadata["conversion"]
    same = np.logical_and.reduce([(trace.spikes[key][:, 0] == n).reshape(HELD, -1).all(axis=1) for key, n in counts.items()])
    assert same.mean() > 0.9
    np.testing.assert_allclose(trace.output[same, 0], logits[same], rtol=1e-6, atol=1e-6)
    assert max(n.max() for n in counts.values()) > 1

    rows = {key: in_rows(n) for key, n in counts.items()}
    fan_out = {key: skeleton.layers[key].fan_out for key in counts}
    bits = {key: int(state.plan[key].payloads[-1]).bit_length() for key in counts}
    messages = {key: np.count_nonzero(n) / HELD for key, n in rows.items()}
    assert (facts["time_steps"], facts["most_levels"]) == (1, LEVELS)
    assert facts["levels"] == {key: len(network.neuron(key).levels) for key in counts}
    assert max(facts["levels"].values()) <= LEVELS
    assert facts["spikes_per_sample"] == pytest.approx(sum(n.sum() for n in rows.values()) / HELD, rel=1e-2)
    assert facts["synops_per_sample"] == pytest.approx(
        sum((n * fan_out[key]).sum() for key, n in rows.items()) / HELD, rel=1e-2)
    assert facts["messages_per_sample"] == pytest.approx(sum(messages.values()), rel=1e-2)
    assert facts["messages_synops_per_sample"] == pytest.approx(
        sum(((n > 0) * fan_out[key]).sum() for key, n in rows.items()) / HELD, rel=1e-2)
    assert facts["payload_bits_per_message"] == pytest.approx(
        sum(bits[key] * n for key, n in messages.items()) / sum(messages.values()), rel=1e-2)
    p, q = (torch.from_numpy(z).log_softmax(1).numpy() for z in (activations(name, model, held)[2], logits))
    assert facts["kl"] == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=0.1)


def test_accuracies_are_those_of_the_ann_and_of_the_network():
    model, images = certain("mlp", 20.0)
    labels = activations("mlp", model, images)[2].argmax(axis=1)
    labels[::5] = (labels[::5] + 1) % 4
    network = convert(given=(model, images), levels=2, eval=(images, labels), eval_samples=80)
    answers = reference.run(network, images[:80, None]).output[:, 0].argmax(axis=1)
    assert network.metadata["conversion"]["accuracy"] == {
        "ann": 64 / 80, "snn": (answers == labels[:80]).mean(), "samples": 80,
        "data_sha256": Data(images[:80], labels[:80]).fingerprint,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_facts_say_how_it_was_found(kind, tmp_path):
    network = convert(output=str(tmp_path / "net.nir"), **KINDS[kind])
    assert nirfile.read(tmp_path / "net.nir").same(network)
    facts = network.metadata["conversion"]
    assert (facts["method"], facts["samples"]) == ("single-step", {"fit": 72, "held": 24})
    assert (facts["spacing"], facts.get("start")) == {
        "uniform": ("uniform", "round"), "floor": ("uniform", "floor"), "bayes": ("uniform", "round"),
    }.get(kind, ("fitted", None))
    searches = {"budget": {"name": "rate-distortion", "budget": 0.6}, "bayes": {"name": "bayes"}}
    assert facts.get("search") == searches.get(kind)
    prices = [row["price"] for row in facts.get("frontier", [])]
    assert prices == sorted(prices, key=lambda price: price or 0.0)
    assert (None in prices) == (kind in ("fitted", "budget"))


@pytest.mark.parametrize(("kind", "levels"), [
    ("fitted", 1), ("fitted", 2), ("fitted", 48), ("uniform", 1), ("uniform", 255), ("floor", 255)])
def test_as_many_levels_as_are_asked_for(kind, levels):
    network = convert(levels=levels, **KINDS[kind])
    for key in "ab":
        node = network.neuron(key)
        assert 1 <= len(node.levels) <= levels
        assert (kind == "fitted") or len(node.levels) == levels
        assert (np.diff(node.levels) > 0).all()
        assert set(np.diff(node.payloads, prepend=0)) <= {2.0**k for k in range(8)}
        assert node.payloads[-1] <= 255
    if levels >= 48:
        assert network.metadata["conversion"]["kl"] < 0.01


@pytest.mark.parametrize("kind", ["fitted", "uniform"])
def test_more_levels_come_closer_to_the_ann(kind):
    given = certain("conv", 20.0)
    kl = [convert("conv", given, levels=levels, **KINDS[kind]).metadata["conversion"]["kl"] for levels in (2, 6, 18)]
    assert kl[0] > 2 * kl[1] > 4 * kl[2] > 0


# --------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(("kind", "budget"), [("fitted", 0.75), ("fitted", 0.5), ("uniform", 0.75)])
@pytest.mark.parametrize("search", ["rate-distortion", "bayes"])
def test_budgets_are_met(budget, search, kind):
    given = certain("mlp", 10.0)
    facts = convert(given=given, budget=budget, search=search, **KINDS[kind]).metadata["conversion"]
    whole = next(row["synops"] for row in facts["frontier"] if row["price"] is None)
    assert facts["synops_per_sample"] <= budget * whole
    assert facts["search"] == {"name": search, "budget": budget}
    within = [row["kl"] for row in facts["frontier"] if row["synops"] <= budget * whole]
    assert facts["kl"] <= min(within) * (1 + 1e-9), "nothing that was looked at within the budget is closer to the ANN"


def test_a_budget_in_synops_is_the_same_as_its_share():
    given = certain("mlp", 10.0)
    share = convert(given=given, budget=0.5)
    whole = next(row["synops"] for row in share.metadata["conversion"]["frontier"] if row["price"] is None)
    number = convert(given=given, budget=0.5 * whole)
    assert all(node.same(number.nodes[name]) for name, node in share.nodes.items())


@pytest.mark.parametrize("kind", ["fitted", "uniform"])
def test_a_budget_that_cannot_be_met_says_which_can(kind):
    given = certain("mlp", 10.0)
    with pytest.raises(UnsupportedError) as caught:
        convert(given=given, budget=1e-3, **KINDS[kind])
    assert caught.value.code == "D2E-CONV-014"
    least = float(caught.value.hint.split("--budget ")[1].split()[0])
    facts = convert(given=given, budget=least, **KINDS[kind]).metadata["conversion"]
    whole = next(row["synops"] for row in facts["frontier"] if row["price"] is None)
    assert facts["synops_per_sample"] <= least * whole


def test_where_nothing_is_worth_a_price_a_budget_cannot_be_met():
    """All answers are alike, so that every price silences the layers."""
    model, images = certain("mlp")
    with torch.no_grad():
        model.fc3.weight.mul_(1e-6)
    with pytest.raises(UnsupportedError) as caught:
        convert(given=(model, images), budget=0.3)
    assert caught.value.code == "D2E-CONV-014"
    network = convert(given=(model, images))
    assert all(len(network.neuron(key).levels) >= 1 for key in "ab")
    assert reference.run(network, images[:4, None]).output.shape == (4, 1, 4)


# --------------------------------------------------------------------------- resuming


@pytest.fixture
def kept(tmp_path):
    """A file of a conversion, and what it is of."""
    given, path = certain("mlp", count=48), tmp_path / "kept.jsonl"
    return given, path, convert(given=given, resume=str(path), **BUDGET)


def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(kept):
    given, path, whole = kept
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    for known in (0, len(lines) // 2, len(lines) - 1):
        path.write_text("".join(lines[: 1 + known]))
        measured = []
        again = convert(given=given, resume=str(path), listen=lambda *row, told=measured: told.append(row), **BUDGET)
        assert again.same(whole)
        assert len(measured) == len(lines) - 1 - known
        assert path.read_text() == text


@pytest.mark.parametrize("options", [
    {"levels": 5}, UNIFORM, {**UNIFORM, "start": "floor"}, {"seed": 1}, {"method": "adaptive", "levels": None},
], ids=str)
def test_another_conversion_is_refused(kept, options):
    given, path, _ = kept
    before = path.read_text()
    with pytest.raises(UsageError) as caught:
        convert(given=given, resume=str(path), **{**BUDGET, **options})
    assert caught.value.code == "D2E-CONV-015"
    assert path.read_text() == before


def test_where_uniform_levels_start_is_another_conversion(tmp_path):
    given, path = certain("mlp", count=48), str(tmp_path / "kept.jsonl")
    options = {"budget": 0.9, "given": given, "resume": path}
    first = convert(**options, **UNIFORM)
    with pytest.raises(UsageError, match="another conversion"):
        convert(**options, **FLOOR)
    assert convert(**options, **UNIFORM).same(first)


@pytest.mark.parametrize("options", [{"budget": 0.4}, {"budget": 0.6, "search": "bayes"}], ids=str)
def test_another_search_of_the_same_conversion_uses_what_fits(kept, options):
    given, path, _ = kept
    fresh, fewer = [], []
    alone = convert(given=given, listen=lambda *row: fresh.append(row), **options)
    assert convert(given=given, resume=str(path), listen=lambda *row: fewer.append(row), **options).same(alone)
    assert len(fewer) < len(fresh)


# --------------------------------------------------------------------------- what it refuses, before the model is read


@pytest.mark.parametrize(("options", "code"), [
    *(({key: value}, "D2E-CONV-017") for key, value in {
        "time_steps": 4, "max_burst": 2, "calibrate": "light", "compress": 0.1, "early_exit": 1.0, "exit_rule": "fixed",
    }.items()),
    *(({"method": "adaptive", "levels": None, key: value}, "D2E-CONV-017") for key, value in {
        "levels": 4, "spacing": "fitted", "start": "round",
    }.items()),
    *((options, "D2E-CONV-012") for options in (
        {"levels": 0}, {"levels": 256}, {"levels": -1}, {"spacing": "even"}, {"start": "ceil"}, {"search": "paper"},
        {"budget": 0.0}, {"budget": -1.0}, {"budget": float("nan")}, {"start": "floor"},
        {"spacing": "fitted", "start": "floor"}, {"seed": -1}, {"jobs": 0}, {"calibration_samples": 15})),
], ids=str)
def test_options_that_mean_nothing(options, code):
    with pytest.raises(UsageError) as caught:
        convert(given=("nowhere.pt", np.zeros((20, 7))), **options)
    assert caught.value.code == code
    assert caught.value.hint


def test_an_option_of_another_method_is_named():
    with pytest.raises(UsageError, match="time steps is an option of the method adaptive, not of single-step"):
        convert(given=("nowhere.pt", np.zeros((20, 7))), time_steps=4)


def test_a_missing_optuna_is_told_before_the_model_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingError) as caught:
        convert(given=("nowhere.pt", np.zeros((20, 7))), search="bayes")
    assert (caught.value.code, caught.value.hint) == ("D2E-CONV-018", "pip install 'd2e[search]'.")
    assert convert(**UNIFORM).metadata["conversion"]["method"] == "single-step", "nothing else needs it"


# --------------------------------------------------------------------------- one step and T steps (docs/equivalence.md)


@pytest.mark.parametrize("levels", [1, 4, 16])
@pytest.mark.parametrize("name", ["mlp", "conv", "residual"])
def test_uniform_levels_are_as_many_steps_of_the_first_layer(name, levels):
    """IF neurons of N steps, one spike a step, that start at half a threshold: folded they are this network."""
    model, images = certain(name)
    network = convert(name, (model, images), levels=levels, **UNIFORM)
    nodes = {network.inputs[0]: replace(network.input, time_steps=levels)}
    for key in network.populations:
        node = network.neuron(key)
        if isinstance(node, LI):
            nodes[key] = LI(shape=node.shape, bias=node.bias)
            continue
        theta = node.threshold * levels
        nodes[key] = IF(shape=node.shape, threshold=theta, amplitude=theta, v_init=theta / 2, bias=node.bias,
                        reset="subtract", max_spikes=1)
    over_time = network.with_nodes(nodes)
    folded = d2e.fold_time(over_time)
    first = network.populations[0]
    one, many, fold = (reference.run(each, images[:40, None].repeat(steps, axis=1), "spikes").counts
                       for each, steps in ((network, 1), (over_time, levels), (folded, 1)))
    np.testing.assert_array_equal(many[first], one[first])
    np.testing.assert_array_equal(fold[first], one[first])
    assert len(set(one[first].ravel())) == levels + 1
    for key in network.populations:
        np.testing.assert_array_equal(fold[key], one[key])

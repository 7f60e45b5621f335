"""Transformers and mixers in one step: where chip and host meet, what the engine computes, and how close it is to torch."""

from functools import cache

import numpy as np
import pytest
import torch
from tests.compiler.frontends.transformer_networks import Block, Mixer, Tokens, encoder, shaken, vit
from torch import nn

import d2e
from d2e.compiler.convert import importance, report
from d2e.compiler.convert.single_step.build import network_of
from d2e.compiler.convert.single_step.calibrate import Calibrator, Options
from d2e.compiler.convert.single_step.engine import simulate
from d2e.compiler.convert.single_step.sites import with_sites
from d2e.compiler.convert.skeleton import Skeleton, activate, integrated
from d2e.compiler.frontends.ann import load_ann
from d2e.compiler.hosted.program import HostedProgram
from d2e.compiler.hosted.split import on_host, split
from d2e.ir import LI, Attention, MultiThreshold, Network, UnsupportedError, reference

pytestmark = pytest.mark.usefixtures("one_core")
SHAPE, LEVELS = (3, 8, 8), 8


class HeadFirst(nn.Module):
    """Classes of every token, then their mean: the host ends the network."""

    def __init__(self):
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 12, 4, 4), Block(12, 3), nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2))).mean(dim=1)


class AllTokens(nn.Module):
    """The head sees all tokens side by side."""

    def __init__(self):
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 12, 4, 4), Block(12, 3), nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).flatten(1))


MODELS = {
    "vit": vit, "encoder": encoder, "mixer": Mixer, "post-norm": lambda: encoder(norm_first=False),
    "relu": lambda: encoder(activation="relu"), "head first": HeadFirst, "all tokens": AllTokens,
    "one block": lambda: Tokens(Block(12, 3)),
}


@cache
def model_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    return shaken(MODELS[name]())


def images(n: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *SHAPE))


def skeleton_of(name: str, dtype: torch.dtype = torch.float64) -> Skeleton:
    return Skeleton(integrated(with_sites(load_ann(model_of(name), input_shape=SHAPE, single_step=True))), dtype)


@cache
def converted(name: str, levels: int = LEVELS, spacing: str = "fitted") -> Network:
    return d2e.convert(model_of(name).float(), method="single-step", calibration=images().astype(np.float32),
                       input_shape=SHAPE, levels=levels, spacing=spacing, jobs=1)


def logits(name: str, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model_of(name).double()(torch.from_numpy(x)).numpy()


# --------------------------------------------------------------------------- sites


@pytest.mark.parametrize("name", MODELS)
def test_the_network_with_sites_is_the_ann(name):
    skeleton, x = skeleton_of(name), images(7)
    np.testing.assert_allclose(activate(skeleton, x)[1][skeleton.readout.name], logits(name, x), rtol=1e-9, atol=1e-9)


def test_sites_stand_where_values_pass():
    network = skeleton_of("one block").network
    kinds = {name: "membrane" if isinstance(network.nodes[name], LI) else network.nodes[name].metadata["activation"]
             for name in network.populations}
    assert kinds == {
        "transpose.in": "membrane", "body.norm1.sent": "identity", "body.attn.in": "identity", "body.attn.sent": "identity",
        "body.add_1.in": "membrane", "body.norm2.sent": "identity", "body.mlp.act": "gelu", "body.add_2.in": "membrane",
        "mean.sent": "identity", "readout": "membrane",
    }
    assert [e.source for e in converted("one block").incoming["body.norm1.sent"]] == ["body.norm1"]
    assert [type(network.nodes[e.target]).__name__ for e in network.outgoing["body.attn.in"]] == ["Attention"]
    assert network.nodes["body.attn.in"].shape == (4, 36)


@pytest.mark.parametrize("name", MODELS)
def test_every_segment_is_cut_and_what_only_turns_frames_is_not_sent_in_levels(name):
    network = converted(name)
    segments = split(network)
    assert {segment.end for segment in segments} <= set(network.populations)
    entering = {segment.source for segment in segments}
    for site in on_host(network):
        node = network.nodes[site]
        assert isinstance(node, (MultiThreshold, LI))
        assert isinstance(node, LI) or site in entering, "the residual stream keeps its real values"


def test_a_residual_stream_that_is_only_reshaped_stays_real():
    """A mixer's stem turns [d, h, w] into tokens by permute and reshape."""
    assert "permute.sent" not in converted("mixer").nodes


# --------------------------------------------------------------------------- the engine


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_engine_computes_the_network(name, fitted):
    skeleton, x = skeleton_of(name), images(48)
    state = Calibrator(skeleton, x, Options(fitted=fitted)).every(5, price=0.001)
    trace = reference.run(network_of(state), images(8, 1)[:, None], "spikes")
    run = simulate(skeleton, state.plan, state.readouts, images(8, 1))
    assert set(run.n) == {layer.name for layer in skeleton.rectifiers}
    np.testing.assert_allclose(run.logits(skeleton), trace.output[:, 0], rtol=1e-9, atol=1e-9)
    for layer in skeleton.rectifiers:
        spikes = np.abs(trace.spikes[layer.name][:, 0])
        np.testing.assert_array_equal(run.n[layer.name], layer.rows(torch.from_numpy(spikes)), err_msg=layer.name)


def test_gelu_is_a_staircase_that_falls_below_0_first():
    network = converted("vit", 16)
    node = network.nodes["body.0.mlp.act"]
    steps = np.diff([0, *node.payloads])
    assert steps[0] < 0 < steps[-1]
    assert node.payloads.min() < 0
    assert {int(abs(step)).bit_count() for step in steps} == {1}
    assert not node.signed
    assert node.levels[0] > 0
    assert network.nodes["body.0.attn.in"].signed
    assert (network.nodes["body.0.attn.in"].payloads > 0).all()


# --------------------------------------------------------------------------- importance of tokens


@pytest.mark.parametrize("name", ["one block", "mixer"])
def test_small_errors_of_a_channel_cost_so_much_divergence(name):
    skeleton, x, size, rng = skeleton_of(name), images(1500), 0.01, np.random.default_rng(0)
    found = importance.of(skeleton, x)

    def log_p(changed=None, error=0.0):
        sent = {skeleton.input: skeleton.image_frames(x)}
        for layer in skeleton.layers.values():
            through = skeleton.activation(layer, sent)[1]
            sent[layer.name] = through + error if layer.name == changed else through
        return torch.log_softmax(sent[skeleton.readout.name], dim=1)

    plain = log_p()
    for layer in skeleton.rectifiers:
        assert layer.tokens == (len(layer.shape) == 2)
        costs = []
        for channel in range(layer.channels):
            error = torch.zeros(len(x), *layer.shape, dtype=torch.float64)
            part = error[..., channel]
            part[:] = torch.from_numpy(rng.choice([-size, size], part.shape))
            costs.append(float((plain.exp() * (plain - log_p(layer.name, error))).sum(dim=1).mean()) / size**2)
        wanted = np.maximum(costs, 0.05 * np.mean(costs))
        assert found[layer.name].sum() == pytest.approx(wanted.sum(), rel=0.1), layer.name
        np.testing.assert_allclose(found[layer.name], wanted, rtol=0.35, err_msg=layer.name)


# --------------------------------------------------------------------------- whole conversions


@pytest.mark.parametrize("spacing", ["fitted", "uniform"])
@pytest.mark.parametrize("name", ["vit", "encoder", "mixer"])
def test_more_levels_are_closer_to_the_ann(name, spacing):
    found = [converted(name, levels, spacing).metadata["conversion"]["kl"] for levels in (4, 8, 16, 32)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] / 8


@pytest.mark.parametrize("name", MODELS)
def test_many_levels_are_nearly_the_ann(name):
    x = images(40, 3)
    wanted, found = logits(name, x), reference.run(converted(name, 32), x[:, None]).output[:, 0]
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(wanted - wanted.mean(axis=0)).mean()


@pytest.mark.parametrize("name", ["vit", "encoder", "mixer", "head first", "all tokens"])
def test_it_compiles_and_every_engine_computes_the_same(name):
    program = d2e.compile(converted(name), calibration=images(64), burst="graded")
    assert isinstance(program, HostedProgram)
    ours, theirs = (program.run(images(6, 2), engine=engine) for engine in (None, "reference"))
    np.testing.assert_array_equal(ours.output, theirs.output)
    for key, counts in ours.counts.items():
        np.testing.assert_array_equal(counts, theirs.counts[key], err_msg=key)
    wanted = logits(name, images(6, 2))
    assert np.abs(ours.output[:, 0] - wanted).mean() < 0.35 * np.abs(wanted).mean()


def test_its_facts():
    network = converted("vit")
    facts = network.metadata["conversion"]
    attentions = [name for name in network.hosts if isinstance(network.nodes[name], Attention)]
    assert facts["time_steps"] == 1
    assert set(facts["levels"]) == {name for name in network.populations if isinstance(network.nodes[name], MultiThreshold)}
    assert list(facts["attention"]) == attentions == ["body.0.attn", "body.1.attn"]
    assert "attention" not in converted("mixer").metadata["conversion"]
    assert report.text(network).count("attention  ") == 1
    assert "attention  " not in report.text(converted("mixer"))


def test_what_attention_receives_is_counted():
    network = converted("vit")
    held = images().astype(np.float32)[72:]
    assert network.metadata["conversion"]["samples"] == {"fit": 72, "held": 24}
    spikes = reference.run(network, held[:, None], "spikes").spikes
    for name, found in network.metadata["conversion"]["attention"].items():
        parts = np.abs(spikes[f"{name}.in"]).reshape(-1, 3, 12)
        for i, part in enumerate("qkv"):
            assert found["silent"][part] == pytest.approx((parts[:, i] == 0).mean(), abs=0.005)
            assert found["levels"][part] == pytest.approx(parts[:, i].mean(), rel=0.01)


def test_values_of_one_sign_have_levels_too():
    """Only what is 0 everywhere says no threshold."""
    torch.manual_seed(1)
    model = shaken(MODELS["one block"]()).float()
    with torch.no_grad():
        model.body.norm2.weight.mul_(0.01)
        model.body.norm2.bias.copy_(-1.0 - torch.rand(12))
    options = {"method": "single-step", "calibration": images(32).astype(np.float32), "input_shape": SHAPE, "jobs": 1}
    network = d2e.convert(model, levels=8, **options)
    trace = reference.run(network, images(3)[:, None], "spikes")
    assert (trace.spikes["body.norm2.sent"] < 0).any()
    assert not (trace.spikes["body.norm2.sent"] > 0).any()
    with torch.no_grad():
        model.body.norm2.weight.zero_()
        model.body.norm2.bias.zero_()
    with pytest.raises(UnsupportedError, match=r"D2E-CONV-013.*body.norm2.sent"):
        d2e.convert(model, levels=8, **options)

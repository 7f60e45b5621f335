"""Functions of the host: what torch computes, exact in .nir files, told where they do not fit."""

from __future__ import annotations

from itertools import pairwise

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.paths import Path, paths_from, paths_into
from d2e.ir import (
    IF,
    Add,
    Affine,
    Attention,
    D2EError,
    Edge,
    FixedPoint,
    Flatten,
    Host,
    Input,
    LayerNorm,
    Linear,
    Mean,
    Network,
    Output,
    Permute,
    UnsupportedError,
    chain,
    host,
    infer_shapes,
    nirfile,
    reference,
    to_text,
    verify,
)
from d2e.ir.nodes import KINDS

SEEDS = st.integers(0, 2**16)


def norm(d: int, seed: int = 0, eps: float = 1e-5) -> LayerNorm:
    rng = np.random.default_rng(seed)
    return LayerNorm(weight=rng.normal(1, 0.2, d), bias=rng.normal(0, 0.2, d), eps=eps)


def alone(node: Host, shape: tuple[int, ...]) -> Network:
    out = host.output_shape("x", node, shape)
    return chain([("in", Input(shape=shape, coding="direct")), ("x", node), ("out", Output(shape=out))])


def block(tokens: int = 5, d: int = 6, heads: int = 2) -> Network:
    """Half a transformer on payloads: everything the host has, with a population in between."""
    rng = np.random.default_rng(1)
    nodes = {
        "in": Input(shape=(d, tokens), coding="signed", max_payload=3), "turn": Permute(axes=(1, 0)),
        "pos": Add(bias=rng.normal(size=(tokens, d))), "ln": norm(d),
        "qkv": Affine(weight=rng.normal(size=(3 * d, d)), bias=rng.normal(size=3 * d)),
        "attn": Attention(heads=heads, scale=(d // heads) ** -0.5), "proj": Linear(weight=rng.normal(size=(d, d))),
        "relu": IF(shape=(tokens, d), max_spikes=0), "add": Add(), "mean": Mean(axis=0), "out": Output(shape=(d,)),
    }
    path = ("in", "turn", "pos", "ln", "qkv", "attn", "proj", "relu", "add", "mean", "out")
    edges = [Edge(a, b) for a, b in pairwise(path)]
    return Network(nodes, (*edges, Edge("pos", "add")))


# ----- what they compute


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 9), heads=st.integers(1, 4), size=st.integers(1, 6), batch=st.integers(1, 3),
       scale=st.one_of(st.none(), st.floats(-2, 3)), spread=st.sampled_from([1.0, 30.0, 1e3]), seed=SEEDS)
def test_attention_is_torchs(tokens, heads, size, batch, scale, spread, seed):
    frames = np.random.default_rng(seed).normal(0, spread, (batch, tokens, 3 * heads * size))
    q, k, v = (t.unflatten(-1, (heads, size)).transpose(1, 2) for t in torch.from_numpy(frames).chunk(3, -1))
    wanted = functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)
    node = Attention(heads=heads, scale=size**-0.5 if scale is None else scale)
    found = host.apply(node, frames)
    assert found.shape == (batch, *host.output_shape("x", node, frames.shape[1:]))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-7, atol=1e-9 * spread)


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 7), heads=st.integers(1, 3), size=st.integers(1, 4), seed=SEEDS)
def test_heads_lie_as_in_multihead_attention(tokens, heads, size, seed):
    torch.manual_seed(seed)
    d = heads * size
    theirs = nn.MultiheadAttention(d, heads, batch_first=True).double().eval()
    nn.init.normal_(theirs.in_proj_bias)
    frames = torch.randn(2, tokens, d, dtype=torch.float64)
    with torch.no_grad():
        wanted = theirs(frames, frames, frames)[0].numpy()
        projected = functional.linear(frames, theirs.in_proj_weight, theirs.in_proj_bias).numpy()
        weight, bias = theirs.out_proj.weight.numpy(), theirs.out_proj.bias.numpy()
    found = host.apply(Attention(heads=heads, scale=size**-0.5), projected) @ weight.T + bias
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=SEEDS, eps=st.floats(1e-12, 1))
def test_layer_norm_is_torchs(shape, seed, eps):
    node, frames = norm(shape[-1], seed, eps), np.random.default_rng(seed).normal(2, 3, (2, *shape))
    weight, bias = torch.from_numpy(node.weight.copy()), torch.from_numpy(node.bias.copy())
    wanted = functional.layer_norm(torch.from_numpy(frames), shape[-1:], weight, bias, eps).numpy()
    np.testing.assert_allclose(host.apply(node, frames), wanted, rtol=1e-9, atol=1e-9)


@given(shape=st.lists(st.integers(1, 4), min_size=2, max_size=4), data=st.data())
def test_permute_and_mean_are_torchs(shape, data):
    frames = np.random.default_rng(0).normal(size=(2, *shape))
    axes, axis = data.draw(st.permutations(range(len(shape)))), data.draw(st.integers(-len(shape), len(shape) - 1))
    turned, averaged = Permute(axes=tuple(axes)), Mean(axis=axis)
    theirs = torch.from_numpy(frames)
    assert np.array_equal(host.apply(turned, frames), theirs.permute(0, *(a + 1 for a in axes)).numpy())
    mean = theirs.mean(axis if axis < 0 else axis + 1).numpy()
    np.testing.assert_allclose(host.apply(averaged, frames), mean, rtol=1e-12, atol=1e-14)
    for node in (turned, averaged):
        assert host.apply(node, frames).shape[1:] == infer_shapes(alone(node, tuple(shape)))["x"]


def test_integer_payloads_become_real():
    for node, shape in ((norm(6), (4, 6)), (Attention(heads=2, scale=1.0), (4, 6)), (Add(), (4, 6)), (Mean(axis=0), (4, 6)),
                        (Permute(axes=(1, 0)), (4, 6))):
        frames = np.arange(48).reshape(2, *shape)
        found = host.apply(node, frames)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, host.apply(node, frames.astype(float)))


def test_the_definition_runs_them_at_every_step():
    network = block()
    frames = np.random.default_rng(0).integers(-3, 4, (2, 3, 6, 5))
    trace = reference.run(network, frames, "spikes")
    stream = frames.swapaxes(-2, -1) + network.nodes["pos"].bias
    normed = host.apply(network.nodes["ln"], stream.reshape(6, 5, 6))
    qkv = normed @ network.nodes["qkv"].weight.T + network.nodes["qkv"].bias
    current = (host.apply(network.nodes["attn"], qkv) @ network.nodes["proj"].weight.T).reshape(2, 3, 5, 6)
    assert trace.counts.keys() == {"relu"}
    v = np.zeros((2, 5, 6))
    for t in range(3):
        v = v + current[:, t]
        n = np.where(v >= 1, np.floor(v), 0)
        v -= n
        np.testing.assert_allclose(trace.spikes["relu"][:, t], n)
        np.testing.assert_allclose(trace.output[:, t], (stream[:, t] + n).mean(axis=1))


def test_a_population_of_integers_takes_no_real_values():
    cell = IF(shape=(3,), threshold=np.int64(5), arithmetic=FixedPoint())
    network = chain([("in", Input(shape=(3,))), ("x", Add()), ("n", cell), ("out", Output(shape=(3,)))])
    with pytest.raises(UnsupportedError) as caught:
        reference.run(network, np.ones((1, 1, 3), np.int64))
    assert caught.value.code == "D2E-DYN-004"


@pytest.mark.parametrize(
    ("node", "shape", "count"),
    [
        (Attention(heads=3, scale=1.0), (10, 36), 2 * 100 * 12), (Attention(heads=1, scale=1.0), (2, 10, 36), 4 * 100 * 12),
        (norm(6), (10, 6), 240), (Add(), (10, 6), 60), (Mean(axis=0), (10, 6), 60), (Permute(axes=(1, 0)), (10, 6), 0),
    ],
)
def test_work_is_counted(node, shape, count):
    assert host.macs(node, shape) == count


# ----- in a network


def test_the_network_lists_them_and_paths_end_at_them():
    network = block()
    assert network.hosts == ("turn", "pos", "ln", "attn", "add", "mean")
    assert list(paths_into(network, "attn")) == [Path("ln", ("qkv",), "attn", 0)]
    assert list(paths_from(network, "attn")) == [Path("attn", ("proj",), "relu", 0)]
    assert {p.source for p in paths_into(network, "add")} == {"pos", "relu"}
    assert all(KINDS[cls.kind] is cls for cls in host.HOSTS)


def test_canonical_networks_keep_the_biases_before_the_host():
    network = block()
    canonical = Canonicalise().run(network, None)
    assert verify(canonical) == []
    frames = np.random.default_rng(0).integers(-3, 4, (2, 3, 6, 5))
    found, wanted = (reference.run(n, frames).output for n in (canonical, network))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_text_names_them():
    text = to_text(block())
    assert "%attn = attention(heads=2, scale=0.5773502691896257) <- qkv" in text
    assert "%turn = permute(axes=(1, 0)) <- in" in text
    assert "%add = add() <- " in text


DEFECTS = {
    "no heads": (Attention(heads=0, scale=1.0), (4, 6), "D2E-NODE-003"),
    "scale": (Attention(heads=1, scale=float("nan")), (4, 6), "D2E-NODE-003"),
    "heads that do not divide": (Attention(heads=4, scale=1.0), (4, 6), "D2E-SHAPE-001"),
    "one axis for attention": (Attention(heads=1, scale=1.0), (6,), "D2E-SHAPE-001"),
    "axes twice": (Permute(axes=(0, 0)), (4, 6), "D2E-NODE-003"),
    "negative axes": (Permute(axes=(0, -1)), (4, 6), "D2E-NODE-003"),
    "too few axes": (Permute(axes=(0,)), (4, 6), "D2E-SHAPE-001"),
    "mean beyond": (Mean(axis=2), (4, 6), "D2E-SHAPE-001"),
    "mean over all": (Mean(axis=0), (6,), "D2E-SHAPE-001"),
    "eps": (norm(6, eps=0.0), (4, 6), "D2E-NODE-003"), "infinite eps": (norm(6, eps=float("inf")), (4, 6), "D2E-NODE-003"),
    "width": (norm(5), (4, 6), "D2E-SHAPE-001"),
    "weight": (LayerNorm(weight=np.ones((4, 6)), bias=np.ones(6), eps=1e-5), (4, 6), "D2E-NODE-003"),
    "NaN": (LayerNorm(weight=np.full(6, np.nan), bias=np.ones(6), eps=1e-5), (4, 6), "D2E-NODE-002"),
    "bias that enlarges": (Add(bias=np.ones((3, 4, 6))), (4, 6), "D2E-SHAPE-001"),
    "bias of another size": (Add(bias=np.ones((4, 1, 2))), (4, 3, 6), "D2E-SHAPE-001"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_the_verifier_names_defects(name):
    node, shape, code = DEFECTS[name]
    network = chain([("in", Input(shape=shape, coding="direct")), ("x", node), ("out", Output(shape=shape))])
    assert [(f.code, f.node) for f in verify(network)] == [(code, "x")]


def test_a_host_without_input_is_named():
    nodes = {"in": Input(shape=(2,)), "x": Add(), "out": Output(shape=(2,))}
    network = Network(nodes, (Edge("in", "out"), Edge("x", "out")))
    assert {(f.code, f.node) for f in verify(network)} == {("D2E-SHAPE-002", "x")}


# ----- files


def written(network: Network, folder) -> Network:
    nirfile.write(network, folder / "n.nir")
    return nirfile.read(folder / "n.nir")


@pytest.mark.parametrize("compat", nirfile.VERSIONS)
def test_files_give_them_back(compat, tmp_path):
    network = block()
    nirfile.write(network, tmp_path / "n.nir", compat=compat)
    back = nirfile.read(tmp_path / "n.nir")
    assert back.same(network)
    assert to_text(back) == to_text(network)


@pytest.mark.parametrize(("node", "kind", "checked"), [
    (norm(6), nir.LI, True), (Add(bias=np.ones(6, np.float32)), nir.LI, True), (Add(), nir.LI, True),
    (Attention(heads=2, scale=0.5), nir.Linear, True), (Permute(axes=(1, 0)), nir.Flatten, False),
    (Mean(axis=-2), nir.AvgPool2d, False),
])
def test_nir_opens_the_nearest_standard_node(node, kind, checked, tmp_path):
    network = alone(node, (4, 6))
    assert written(network, tmp_path).same(network)
    graph = nir.read(tmp_path / "n.nir", type_check=checked)
    assert isinstance(graph.nodes["x"], kind)
    nir.write(tmp_path / "again.nir", graph)
    assert nirfile.read(tmp_path / "again.nir").same(network)


def test_the_standard_fields_say_what_nir_can(tmp_path):
    written(alone(norm(6), (4, 6)), tmp_path)
    found = nir.read(tmp_path / "n.nir").nodes["x"]
    assert np.array_equal(found.r[2], norm(6).weight)
    assert np.array_equal(found.v_leak[3], norm(6).bias)
    written(alone(Attention(heads=2, scale=0.5), (4, 6)), tmp_path)
    values = nir.read(tmp_path / "n.nir").nodes["x"].weight
    assert np.array_equal(values[3] @ np.arange(6), [4, 5])


def test_a_file_that_another_tool_changed_is_refused(tmp_path):
    written(alone(norm(6), (4, 6)), tmp_path)
    graph = nir.read(tmp_path / "n.nir")
    graph.nodes["x"].r = graph.nodes["x"].r * 2
    nir.write(tmp_path / "changed.nir", graph)
    with pytest.raises(D2EError, match="'r' and the d2e metadata disagree"):
        nirfile.read(tmp_path / "changed.nir")


def test_large_weights_are_written_once(tmp_path):
    weight = np.random.default_rng(0).normal(size=(512, 256))
    network = chain([
        ("in", Input(shape=(64, 256), coding="direct")), ("fc", Linear(weight=weight)),
        ("x", Flatten()), ("out", Output(shape=(64 * 512,))),
    ])
    assert written(network, tmp_path).same(network)
    assert (tmp_path / "n.nir").stat().st_size < 2 << 20
    assert nir.read(tmp_path / "n.nir", type_check=False).nodes["fc"].weight.shape == (512, 256)

"""load_ann for single-step conversion: vision transformers and mixers compute what torch computes, the rest is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.compiler.frontends.ann_networks import CifarResNet
from tests.compiler.frontends.transformer_networks import Block, Mixer, Tokens, encoder, same, vit
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e.compiler.frontends.ann import load_ann
from d2e.compiler.frontends.files import load_model
from d2e.ir import Add, D2EError, UnsupportedError, UsageError

TOKENS = (4, 12)


class Called(nn.Module):
    """A function of the model and its tokens behind a linear layer with GELU."""

    def __init__(self, function, **parts):
        super().__init__()
        self.before, self.function = nn.Linear(12, 12), function
        for name, part in parts.items():
            self.add_module(name, part)
        self.pos = nn.Parameter(torch.randn(1, 6, 12))
        self.scale, self.cls = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(1, 1, 12))
        self.register_buffer("fixed", torch.randn(4, 12))

    def forward(self, x):
        return self.function(self, functional.gelu(self.before(x)))


# ----- whole models


def kinds(network):
    counts = {}
    for node in network.nodes.values():
        counts[node.kind] = counts.get(node.kind, 0) + 1
    return counts


def test_a_vision_transformer():
    network = same(vit(), (3, 8, 8))
    assert kinds(network) == {
        "input": 1, "conv2d": 1, "flatten": 1, "permute": 1, "add": 5, "layer_norm": 5, "affine": 9, "attention": 2, "if": 2,
        "mean": 1, "output": 1,
    }
    assert network.hosts[:5] == ("transpose", "add", "body.0.norm1", "body.0.attn", "body.0.add_1")
    assert {network.nodes[name].metadata["activation"] for name in network.populations} == {"gelu"}
    assert all(len(network.incoming[name]) == (2 if isinstance(node, Add) and node.bias.ndim == 0 else 1)
               for name, node in network.nodes.items() if name != "input"), "sums are nodes of their own"


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu", nn.GELU("tanh"), functional.silu, nn.ReLU()])
def test_torchs_encoder(norm_first, activation):
    network = same(encoder(norm_first=norm_first, activation=activation), (3, 8, 8))
    assert kinds(network)["attention"] == 2
    assert {"body.layers.1.self_attn", "body.layers.1.add2", "body.norm"} <= set(network.hosts)


def test_an_encoder_layer_without_biases_alone():
    layer = nn.TransformerEncoderLayer(12, 4, 24, batch_first=True, norm_first=True, bias=False)
    assert kinds(same(layer, TOKENS)) == {
        "input": 1, "layer_norm": 2, "linear": 4, "attention": 1, "add": 2, "if": 1, "output": 1,
    }


def test_a_mixer():
    network = same(Mixer(), (3, 8, 8))
    assert kinds(network)["permute"] == 5
    assert network.nodes["blocks.0.tokens.act"].shape == (12, 9)


def test_networks_of_transformers_come_back():
    network = load_ann(vit(), input_shape=(3, 8, 8), single_step=True)
    assert load_ann(network, single_step=True).same(network)
    with pytest.raises(UnsupportedError) as caught:
        load_ann(network)
    assert {(f.code, f.node) for f in caught.value.findings} >= {
        ("D2E-CONV-001", "body.0.mlp.act"), ("D2E-CONV-001", "body.0.norm1"), ("D2E-CONV-001", "body.0.attn"),
    }


def test_a_relu_network_is_read_as_ever():
    torch.manual_seed(0)
    model = CifarResNet(n=1, width=4).eval()
    assert load_ann(model, input_shape=(3, 16, 16), single_step=True).same(load_ann(model, input_shape=(3, 16, 16)))


def test_training_mode_does_not_matter():
    model = vit().train()
    network = load_ann(model, input_shape=(3, 8, 8), single_step=True)
    assert all(part.training for part in model.modules())
    assert load_ann(model.eval(), input_shape=(3, 8, 8), single_step=True).same(network)


# ----- ways to write it


class Activated(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(("activation", "name"), [
    (nn.GELU(), "gelu"), (nn.GELU("tanh"), "gelu_tanh"), (nn.SiLU(), "silu"), (functional.gelu, "gelu"),
    (functional.silu, "silu"), (lambda x: functional.gelu(x, approximate="tanh"), "gelu_tanh"),
    (lambda x: functional.gelu(x, approximate="none"), "gelu"),
    (nn.ReLU(), "relu"), (lambda x: x.clamp(min=0), "relu"),
])
def test_activations(activation, name):
    def function(net, x):
        return net.last(act(net.first(x)))

    act = activation if isinstance(activation, nn.Module) else Activated(activation)
    network = same(Called(function, first=nn.Linear(12, 7), act=act, last=nn.Linear(7, 3)), TOKENS)
    marks = [network.nodes[p] for p in network.populations if p != "gelu"]
    assert [(node.metadata, node.max_spikes, node.reset) for node in marks] == [({"activation": name}, 0, "subtract")]


FUNCTIONS = {
    "multihead": lambda net, x: net.mha(x, x, x)[0],
    "multihead without weights": lambda net, x: net.mha(x, x, x, need_weights=False)[0],
    "multihead by name": lambda net, x: net.mha(query=x, key=x, value=x, attn_mask=None, is_causal=False)[0],
    "multihead unpacked": lambda net, x: _unpacked(net, x),
    "multihead as residual": lambda net, x: x + net.mha(x, x, x)[0],
    "self-attention": lambda net, x: net.attn(x),
    "residual module": lambda net, x: net.residual(x),
    "layer norm": lambda net, x: net.norm(x), "layer norm without weights": lambda net, x: net.plain(x),
    "layer norm without bias": lambda net, x: net.unbiased(x),
    "functional layer norm": lambda net, x: functional.layer_norm(x, (12,)),
    "functional layer norm with weights": lambda net, x: functional.layer_norm(x, x.shape[-1:], net.scale, eps=1e-3),
    "transpose": lambda net, x: net.tokens(x.transpose(1, 2)).transpose(-1, -2),
    "torch.transpose": lambda net, x: net.tokens(torch.transpose(x, 2, 1)).mean(-1),
    "swapaxes": lambda net, x: net.tokens(x.swapaxes(-1, -2)).permute(0, 2, 1),
    "permute": lambda net, x: net.tokens(x.permute((0, -1, 1))).permute(dims=(0, 2, 1)),
    "transpose of nothing": lambda net, x: x.transpose(1, 1),
    "position": lambda net, x: x + net.fixed, "position sliced": lambda net, x: net.pos[:, : x.size(1)] + x,
    "position in place": lambda net, x: x.add_(net.pos[:, 1:-1]),
    "position expanded": lambda net, x: x + net.cls.expand(x.shape[0], -1, -1),
    "position repeated": lambda net, x: torch.add(x, net.cls.repeat(x.size(0), 4, 1)),
    "position of two parameters": lambda net, x: x + (net.pos[:, :4] + net.fixed),
    "layer scale": lambda net, x: x + net.scale * net.attn(x),
    "mean": lambda net, x: x.mean(1), "torch.mean": lambda net, x: torch.mean(x, dim=-2),
    "mean over width": lambda net, x: x.mean(-1),
    "sum thrice": lambda net, x: x + net.norm(x) + x,
    "dropouts": lambda net, x: functional.dropout(net.norm(x), 0.5, training=net.training),
}


def _unpacked(net, x):
    out, _ = net.mha(x, x, x)
    return out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    torch.manual_seed(1)
    model = Called(
        FUNCTIONS[name], mha=nn.MultiheadAttention(12, 3, dropout=0.1, batch_first=True), attn=dn.SelfAttention(12, 2),
        residual=dn.Residual(nn.Sequential(nn.LayerNorm(12), dn.SelfAttention(12, 4, bias=False))), norm=nn.LayerNorm(12),
        plain=nn.LayerNorm(12, elementwise_affine=False, eps=1e-2), unbiased=nn.LayerNorm(12, bias=False),
        tokens=nn.Linear(4, 4),
    )
    same(model, TOKENS)


def test_axes_of_images_turn():
    def function(net, x):
        return net.last(net.norm(net.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

    class Model(Called):
        def forward(self, x):
            return function(self, torch.relu(x))

    network = same(Model(None, conv=nn.Conv2d(3, 6, 3), norm=nn.LayerNorm(6), last=nn.Linear(6, 2)), (3, 8, 7))
    assert network.nodes["permute"].axes == (1, 2, 0)
    assert kinds(network)["mean"] == 2


def test_sums_stay_edges_without_the_host():
    network = same(Called(lambda net, x: net.first(x) + x, first=nn.Linear(12, 12)), TOKENS)
    assert network.hosts == ()
    assert len(network.incoming["output"]) == 2


def test_weights_of_single_precision_stay_so():
    network = load_ann(vit(), input_shape=(3, 8, 8), single_step=True)
    assert network.nodes["body.0.attn.qkv"].weight.dtype == np.float32
    layer = load_ann(encoder(), input_shape=(3, 8, 8), single_step=True)
    assert layer.nodes["body.layers.0.self_attn.in_proj"].weight.dtype == np.float32


# ----- files


@pytest.mark.parametrize("layer", [
    dn.SelfAttention(12, 3), nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, activation="gelu", norm_first=True),
    nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), 2, enable_nested_tensor=False),
    nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, activation=functional.silu),
    dn.Residual(nn.Sequential(nn.LayerNorm(12), dn.SelfAttention(12, 2))),
], ids=lambda layer: type(layer).__name__)
def test_saved_models_load_without_running_code(layer, tmp_path):
    model = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU(), layer, nn.SiLU())
    dn.save(model, tmp_path / "model.pt", input_shape=TOKENS)
    network = load_ann(tmp_path / "model.pt", single_step=True)
    assert network.same(load_ann(model, input_shape=TOKENS, single_step=True))


def test_saved_multihead_attention_loads(tmp_path):
    dn.save(nn.MultiheadAttention(12, 2, batch_first=True), tmp_path / "model.pt", input_shape=TOKENS)
    with pytest.raises(UnsupportedError):
        load_ann(tmp_path / "model.pt", single_step=True)  # it takes three tensors; that the file loads is what counts


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_must_divide(heads):
    with pytest.raises(UsageError) as caught:
        dn.SelfAttention(12, heads)
    assert caught.value.code == "D2E-NN-003"


@pytest.mark.parametrize("shape", [(2, 4, 12), (1, 1, 12)])
def test_self_attention_is_multihead_attention(shape):
    ours, theirs = dn.SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict({
        "in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias, "out_proj.weight": ours.proj.weight,
        "out_proj.bias": ours.proj.bias,
    })
    x = torch.randn(shape)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


# ----- refused by name


def refused(model, shape=TOKENS, **options):
    with pytest.raises(UnsupportedError) as caught:
        load_ann(model, input_shape=shape, **{"single_step": True, **options})
    return caught.value


def mha(**options):
    return nn.MultiheadAttention(12, 3, **{"batch_first": True, **options})


MASK = torch.zeros(4, 4)
REFUSED = {
    "mask": (lambda net, x: net.part(x, x, x, attn_mask=MASK)[0], mha(), "D2E-LAYER-005", "part", "mask"),
    "mask by place": (lambda net, x: net.part(x, x, x, x)[0], mha(), "D2E-LAYER-005", "part", "mask"),
    "causal": (lambda net, x: net.part(x, x, x, is_causal=True)[0], mha(), "D2E-LAYER-005", "part", "mask"),
    "cross": (lambda net, x: net.part(x, x + x, x)[0], mha(), "D2E-LAYER-005", "part", "cross-attention"),
    "cross by name": (lambda net, x: net.part(query=x, key=x, value=2 * x)[0], mha(), "D2E-LAYER-005", "part", "cross"),
    "attention weights": (lambda net, x: net.part(x, x, x)[1], mha(), "D2E-LAYER-005", "part", "weights"),
    "both results": (lambda net, x: net.part(x, x, x), mha(), "D2E-LAYER-005", "part", "weights"),
    "kdim": (lambda net, x: net.part(x, x, x)[0], mha(kdim=7, vdim=5), "D2E-LAYER-005", "part", "kdim"),
    "bias_kv": (lambda net, x: net.part(x, x, x)[0], mha(add_bias_kv=True), "D2E-LAYER-005", "part", "add_bias_kv"),
    "zero token": (lambda net, x: net.part(x, x, x)[0], mha(add_zero_attn=True), "D2E-LAYER-005", "part", "add_zero_attn"),
    "batch second": (lambda net, x: net.part(x, x, x)[0], mha(batch_first=False), "D2E-LAYER-005", "part", "batch_first"),
    "encoder batch second": (
        lambda net, x: net.part(x), nn.TransformerEncoderLayer(12, 3, 24), "D2E-LAYER-005", "part", "batch_first"),
    "encoder mask": (
        lambda net, x: net.part(x, MASK), nn.TransformerEncoderLayer(12, 3, 24, batch_first=True), "D2E-LAYER-005", "part",
        "mask"),
    "encoder padding": (
        lambda net, x: net.part(x, src_key_padding_mask=x), nn.TransformerEncoderLayer(12, 3, 24, batch_first=True),
        "D2E-LAYER-005", "part", "mask"),
    "encoder activation": (
        lambda net, x: net.part(x), nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, activation=torch.tanh),
        "D2E-CONV-001", "part.activation", "tanh"),
    "encoder hardtanh": (
        lambda net, x: net.part(x), nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, activation=nn.Hardtanh()),
        "D2E-CONV-001", "part.activation", "Hardtanh"),
    "decoder": (lambda net, x: net.part(x, x), nn.TransformerDecoderLayer(12, 3, 24), "D2E-CONV-001", "part", "Decoder"),
    "layer norm over two axes": (lambda net, x: net.part(x), nn.LayerNorm(TOKENS), "D2E-LAYER-005", "part", "2 axes"),
    "layer norm elsewhere": (lambda net, x: net.part(x), nn.LayerNorm(4), "D2E-SHAPE-001", "part", "normalises 4"),
    "RMSNorm": (lambda net, x: net.part(x), nn.RMSNorm(12), "D2E-CONV-001", "part", "RMSNorm"),
    "GroupNorm": (lambda net, x: net.part(x), nn.GroupNorm(2, 4), "D2E-LAYER-003", "part", "GroupNorm"),
    "softmax inside": (lambda net, x: net.part(x.softmax(-1)), nn.Linear(12, 2), "D2E-CONV-001", "softmax", "softmax"),
    "by hand": (lambda net, x: net.part(x @ x.transpose(1, 2)), nn.Linear(4, 2), "D2E-CONV-001", "matmul", "matmul"),
    "scaled dot product": (
        lambda net, x: net.part(functional.scaled_dot_product_attention(x, x, x)), nn.Linear(12, 2), "D2E-CONV-001",
        "scaled_dot_product_attention", "scaled_dot_product"),
    "gated": (lambda net, x: x * net.part(x), nn.Linear(12, 12), "D2E-CONV-001", "mul", "activations by one another"),
    "sigmoid": (
        lambda net, x: net.part(x), nn.Sequential(nn.Sigmoid(), nn.Linear(12, 2)), "D2E-CONV-001", "part.0", "Sigmoid"),
    "class token": (
        lambda net, x: torch.cat((net.cls.expand(x.shape[0], -1, -1), x), dim=1), None, "D2E-LAYER-006", "cat", "parameter"),
    "first token": (lambda net, x: net.part(x)[:, 0], nn.LayerNorm(12), "D2E-LAYER-006", "getitem", "one entry"),
    "batch moved": (lambda net, x: x.transpose(0, 1), None, "D2E-LAYER-005", "transpose", "batch"),
    "batch permuted": (lambda net, x: x.permute(1, 0, 2), None, "D2E-LAYER-005", "permute", "batch"),
    "too few axes": (lambda net, x: x.permute(0, 1), None, "D2E-LAYER-005", "permute", "batch"),
    "axis twice": (lambda net, x: x.permute(0, 1, 1), None, "D2E-NODE-003", "permute", "order"),
    "mean over the batch": (lambda net, x: x.mean((0, 1)), None, "D2E-LAYER-006", "mean", "mean"),
    "mean kept": (lambda net, x: x.mean(1, keepdim=True), None, "D2E-LAYER-006", "mean", "mean"),
    "position too large": (lambda net, x: x + net.pos, None, "D2E-SHAPE-001", "add", "bias"),
    "per-sample parameter": (lambda net, x: x + net.pos.expand(3, -1, -1)[:, :4], None, "D2E-SHAPE-001", "add", "bias"),
    "number": (lambda net, x: x + 1, None, "D2E-LAYER-006", "add", "not a frame"),
    "parameter scaled": (lambda net, x: torch.add(x, net.fixed, alpha=2), None, "D2E-LAYER-006", "add", "not a frame"),
    "parameter changed": (lambda net, x: x + net.cls.mul_(2), None, "D2E-LAYER-006", "add", "of a parameter"),
    "parameter in a matrix": (lambda net, x: functional.linear(x, net.fixed), None, "D2E-LAYER-006", "linear", "linear"),
    "parameter that fails": (lambda net, x: x + net.pos.view(5, 5), None, "D2E-LAYER-006", "add", "view of a parameter"),
    "parameter alone": (lambda net, x: net.fixed + net.pos[:, :4], None, "D2E-TRACE-002", None, "depends on its input"),
    "unfold": (lambda net, x: x.view(x.size(0), 4, 3, 4), None, "D2E-LAYER-006", "view", "reshape"),
    "maximum": (lambda net, x: x.amax(1), None, "D2E-CONV-002", "amax", "maximum"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    function, part, code, node, message = REFUSED[name]
    error = refused(nn.Sequential(Called(function, **({} if part is None else {"part": part}))))
    assert (error.code, error.node) == (code, node and f"0.{node}")
    assert message in error.message
    assert "ReLU networks" not in (error.hint or "")


PRODUCTS = ("RMSNorm", "softmax inside", "by hand", "scaled dot product", "gated", "sigmoid", "decoder")


@pytest.mark.parametrize("name", PRODUCTS)
def test_refusals_say_what_single_step_takes(name):
    function, part, *_ = REFUSED[name]
    assert "d2e.nn.SelfAttention" in refused(Called(function, **({} if part is None else {"part": part}))).hint


@pytest.mark.parametrize("name", ["class token", "first token"])
def test_in_place_of_class_tokens_means_are_named(name):
    function, part, *_ = REFUSED[name]
    assert "mean over all tokens" in refused(Called(function, **({} if part is None else {"part": part}))).hint


def test_everything_is_told_at_once():
    def function(net, x):
        return net.norm(net.mha(x, x, x, attn_mask=MASK)[0].softmax(-1))

    error = refused(Called(function, mha=mha(add_bias_kv=True), norm=nn.RMSNorm(12)))
    assert [(f.code, f.node) for f in error.findings] == [
        ("D2E-LAYER-005", "mha"), ("D2E-LAYER-005", "mha"), ("D2E-CONV-001", "softmax"), ("D2E-CONV-001", "norm"),
    ]


@pytest.mark.parametrize("part", ["body.0.norm1.weight", "body.1.attn.qkv.bias", "pos", "head.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(part, value):
    model = vit()
    with torch.no_grad():
        model.state_dict()[part].view(-1)[1] = value
    error = refused(model, (3, 8, 8))
    assert (error.code, error.node) == ("D2E-CONV-005", part.rpartition(".")[0].removesuffix(".qkv") or "add")


def test_a_model_without_activations_is_refused():
    assert refused(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 2))).code == "D2E-CONV-004"


@pytest.mark.parametrize("model", [vit(), encoder(), Mixer(), dn.SelfAttention(12, 3), Tokens(Block(12, 2))])
def test_other_methods_say_that_single_step_takes_them(model):
    error = refused(model.eval(), TOKENS if isinstance(model, dn.SelfAttention) else (3, 8, 8), single_step=False)
    hints = [f.hint for f in error.findings if f.code == "D2E-CONV-001"]
    assert hints
    assert all("--method single-step" in hint and "yet" not in hint for hint in hints)


def test_a_spiking_model_with_attention_is_refused_by_name():
    with pytest.raises(D2EError) as caught:
        load_model(dn.SelfAttention(12, 3), input_shape=TOKENS)
    assert caught.value.code == "D2E-LAYER-006"
    assert "SelfAttention" in caught.value.message

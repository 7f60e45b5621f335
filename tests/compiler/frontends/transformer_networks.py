"""Small vision transformers and mixers as they are written in the wild, and what a network read from one computes."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e.compiler.frontends.ann import load_ann
from d2e.ir import Host, Network, Neuron, Output, Synapse, host, linear
from d2e.ir.shapes import infer_shapes

EXACT = {
    "relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def evaluate(network: Network, frames: np.ndarray) -> np.ndarray:
    """Populations as the activations they stand for, hosts and synapses as they are, sums over edges."""
    shapes, values = infer_shapes(network), {}
    for name in network.order:
        node = network.nodes[name]
        sources = [edge.source for edge in network.incoming[name]]
        if not sources:
            values[name] = frames
            continue
        total = sum(values[source] for source in sources)
        if isinstance(node, Synapse):
            values[name] = linear.apply(node, total, shapes[sources[0]])
        elif isinstance(node, Host):
            values[name] = host.apply(node, total)
        elif isinstance(node, Neuron):
            values[name] = EXACT[node.metadata["activation"]](torch.from_numpy(total + node.bias)).numpy()
        else:
            values[name] = total
    (output,) = (name for name in network.nodes if isinstance(network.nodes[name], Output))
    return values[output]


def shaken(model: nn.Module) -> nn.Module:
    """The model in float64 and evaluation, no parameter left at 0 or 1."""
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def same(model: nn.Module, shape: tuple[int, ...], samples: int = 3) -> Network:
    """The network of a model, after both have computed the same to rounding."""
    torch.manual_seed(0)
    model = shaken(model)
    network = load_ann(model, input_shape=shape, single_step=True)
    frames = torch.randn(samples, *shape, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(frames.clone()).numpy()
    assert np.abs(wanted).sum() > 0
    np.testing.assert_allclose(evaluate(network, frames.numpy()), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    return network


class DropPath(nn.Module):
    """As timm's: whole paths are dropped in training."""

    def __init__(self, share=0.1):
        super().__init__()
        self.share = share

    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(x.shape[0], 1, 1) > self.share)


class Mlp(nn.Module):
    def __init__(self, dim, hidden, act=nn.GELU):
        super().__init__()
        self.fc1, self.act, self.drop, self.fc2 = nn.Linear(dim, hidden), act(), nn.Dropout(0.1), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Pre-norm, as in ViT."""

    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), dn.SelfAttention(dim, heads)
        self.norm2, self.mlp, self.path = nn.LayerNorm(dim), Mlp(dim, 2 * dim), DropPath()

    def forward(self, x):
        x = x + self.path(self.attn(self.norm1(x)))
        return x + self.path(self.mlp(self.norm2(x)))


class Tokens(nn.Module):
    """Patches by a convolution, a position embedding, a body over tokens, mean pooling and a head."""

    def __init__(self, body, dim=12, patch=4, size=8):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.pos = nn.Parameter(torch.zeros(1, (size // patch) ** 2, dim))
        self.drop, self.body, self.norm, self.head = nn.Dropout(0.1), body, nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.drop(x + self.pos)
        return self.head(self.norm(self.body(x)).mean(dim=1))


def vit():
    return Tokens(nn.Sequential(Block(12, 3), Block(12, 2)))


def encoder(**options):
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, **{"activation": "gelu", "norm_first": True, **options})
    return Tokens(nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12), enable_nested_tensor=False))


class MixerBlock(nn.Module):
    def __init__(self, tokens, dim):
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(dim), Mlp(tokens, 9)
        self.norm2, self.channels = nn.LayerNorm(dim), Mlp(dim, 17)

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 4, 4)
        self.blocks = nn.Sequential(MixerBlock(4, dim), MixerBlock(4, dim))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])
        return self.head(self.norm(self.blocks(x)).mean(1))

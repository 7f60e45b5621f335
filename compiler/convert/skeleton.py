"""The network of activations that a conversion starts from, its maps as torch functions on whole batches.

Frames [n, *shape] of maps are kept channels last in memory; rows [n, N] are frames flattened, channels last. The channels of
a map or a vector are its first axis, those of tokens [tokens, d] their last.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from d2e.compiler import cost
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.paths import Path, paths_from, paths_into
from d2e.ir import LI, Conv1d, Conv2d, Edge, Flatten, Linear, Network, Neuron, Scale, SumPool2d, Synapse, infer_shapes
from d2e.ir.host import Add, Attention, Host, LayerNorm, Mean, Permute
from d2e.ir.nodes import Array, Shape
from d2e.ir.shapes import padding_pairs

Map = Callable[[Tensor], Tensor]
READOUT = "readout"


def integrated(network: Network) -> Network:
    """A network of ReLUs with an integrating readout before its output, in canonical form."""
    name, output = network.outputs[0], network.fresh_name(READOUT)
    edges = [Edge(e.source, output, e.recurrent) if e.target == name else e for e in network.edges]
    nodes = {**network.nodes, output: LI(shape=network.output.shape), name: replace(network.output, readout="last")}
    changed = Network(nodes, (*edges, Edge(output, name)), network.metadata)
    return Canonicalise().run(changed, None)  # type: ignore[arg-type]  # it asks nothing of a target


@dataclass(frozen=True, eq=False)
class Layer:
    """A population, or what runs on the host between populations.

    Attributes:
        name, shape: of the population.
        paths: what leads to it.
        bias: [N] of its own.
        cap: largest value its activation lets through; infinity for ReLU.
        fan_out: synapses of each neuron [N].
        readout: whether it is a membrane that is read: the output, or one before what runs on the host.
        activation: that it stands for, of `ACTIVATIONS`.
        tokens: whether its channels are the last axis.
        host: the function that the host computes; None: a population.
    """

    name: str
    shape: Shape
    paths: tuple[Path, ...]
    bias: Array
    cap: float
    fan_out: Array
    readout: bool
    activation: str = "relu"
    tokens: bool = False
    host: Map | None = None

    @property
    def channels(self) -> int:
        """Entries of the axis whose entries have thresholds of their own."""
        return self.shape[-1] if self.tokens else self.shape[0]

    @property
    def size(self) -> int:
        """Neurons."""
        return math.prod(self.shape)

    def per_neuron(self, values: Array) -> Array:
        """Values [C] per channel as [N]."""
        return np.tile(values, self.size // self.channels)

    def per_channel(self, rows: Array) -> Array:
        """Rows [..., N] as [rows * positions, C]."""
        return rows.reshape(-1, self.channels)

    def as_parameter(self, values: Array) -> Array:
        """Values [C] in the shape in which they broadcast against a frame."""
        return values if self.tokens else values.reshape(-1, *([1] * (len(self.shape) - 1)))

    def rows(self, frames: Tensor) -> Array:
        """Frames [n, *shape] as rows [n, N]."""
        return np.asarray(frames.reshape(len(frames), -1).numpy()) if self.tokens else rows_of(frames)

    def frames(self, rows: Array) -> Tensor:
        """The inverse of `rows`: a view."""
        return torch.from_numpy(rows).reshape(len(rows), *self.shape) if self.tokens else frames_of(rows, self.shape)


def rows_of(frames: Tensor) -> Array:
    """Frames [n, *shape] as rows [n, N]."""
    moved = frames.movedim(1, -1) if frames.ndim > 2 else frames
    return np.asarray(moved.reshape(len(frames), -1).numpy())


def frames_of(rows: Array, shape: Shape) -> Tensor:
    """The inverse of `rows_of`: a view."""
    values = torch.from_numpy(rows)
    if len(shape) < 2:
        return values
    return values.reshape(len(rows), *shape[1:], shape[0]).movedim(-1, 1)


class Skeleton:
    """A network from `integrated`, ready to be computed.

    Args:
        network: canonical; every population stands for an activation, but for the integrating readout.
        dtype: of all sums.

    Attributes:
        layers: populations and what runs on the host, in order.
        maps: path -> its synapses as functions of frames.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.dtype = network, dtype
        self.numpy_dtype = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
        self.input = network.inputs[0]
        self.shapes = infer_shapes(network)
        self.layers = {name: self._layer(name) for name in network.order if isinstance(network.nodes[name], (Neuron, Host))}
        self.maps = {path: [self._map(s) for s in path.synapses] for layer in self.layers.values() for path in layer.paths}

    def _layer(self, name: str) -> Layer:
        network, node = self.network, self.network.nodes[name]
        paths, reached = tuple(paths_into(network, name)), np.zeros(self.shapes[name], np.int64)
        if isinstance(node, Host):
            return Layer(name, self.shapes[name], paths, reached.ravel(), math.inf, reached.ravel(), False,
                         host=torch_host(node, self.dtype))
        assert isinstance(node, Neuron)
        bias = torch.from_numpy(np.broadcast_to(node.bias, node.shape).astype(self.numpy_dtype))
        for path in paths_from(network, name):
            if path.synapses and path.target in (*network.populations, *network.hosts):
                reached = reached + cost.path_fan_out(network, path, self.shapes)
        facts, one = node.metadata, Layer(name, node.shape, paths, reached, math.inf, reached, False,
                                          tokens=bool(network.hosts) and len(node.shape) == 2)
        return replace(
            one, bias=one.rows(bias[None])[0], fan_out=one.rows(torch.from_numpy(reached)[None])[0],
            cap=float(facts.get("cap", math.inf)), readout=isinstance(node, LI), activation=facts.get("activation", "relu"),
        )

    def _map(self, name: str) -> Map:
        node = self.network.nodes[name]
        assert isinstance(node, Synapse)
        return torch_map(node, self.dtype)

    @property
    def rectifiers(self) -> list[Layer]:
        """The layers that become spiking neurons."""
        return [layer for layer in self.layers.values() if not layer.readout and layer.host is None]

    @property
    def readout(self) -> Layer:
        """The integrating output."""
        return self.layers[self.network.incoming[self.network.outputs[0]][0].source]

    def with_weight(self, path: Path, weight: Array) -> Skeleton:
        """The same with another weight in the last synapse of a path."""
        changed, name = copy.copy(self), path.synapses[-1]
        changed.network = self.network.with_nodes({name: replace(self.network.nodes[name], weight=weight)})  # type: ignore[call-arg]
        changed.maps = {**self.maps, path: [*self.maps[path][:-1], changed._map(name)]}
        return changed

    def through(self, path: Path, frames: Tensor, last: int | None = None) -> Tensor:
        """Frames after a path's synapses, or after those up to ``last``."""
        for step in self.maps[path][:last]:
            frames = step(frames)
        return frames

    def arriving(self, layer: Layer, sent: Mapping[str, Tensor]) -> Tensor:
        """What reaches a population, without its bias: [n, *shape], of frames [n, *source shape]."""
        parts = [self.through(path, sent[path.source]) for path in layer.paths]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def activation(self, layer: Layer, sent: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(what reaches a population of the ANN, with its bias, what its activation makes of it): [n, *shape]."""
        z = self.arriving(layer, sent)
        if layer.host is not None:
            return z, layer.host(z)
        z = z + layer.frames(layer.bias[None])
        return z, z if layer.readout else ACTIVATIONS[layer.activation](z).clamp(max=layer.cap)

    def image_frames(self, images: Array) -> Tensor:
        """Images [n, *input shape] as frames."""
        frames = torch.from_numpy(np.ascontiguousarray(images, self.numpy_dtype))
        return frames.contiguous(memory_format=torch.channels_last) if frames.ndim == 4 else frames


def activate(skeleton: Skeleton, images: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """What the ANN computes: (population -> its input with bias, population -> what its activation sends), rows [B, N].

    The readout's are the logits.
    """
    frames = {skeleton.input: skeleton.image_frames(images)}
    received: dict[str, Array] = {}
    sent: dict[str, Array] = {}
    for layer in skeleton.layers.values():
        z, frames[layer.name] = skeleton.activation(layer, frames)
        if layer.host is None:
            received[layer.name], sent[layer.name] = layer.rows(z), layer.rows(frames[layer.name])
    return received, sent


ACTIVATIONS: dict[str, Map] = {
    "relu": torch.relu, "identity": lambda z: z, "gelu": functional.gelu, "silu": functional.silu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
}
"""What a population may stand for, by ``metadata["activation"]``."""


def torch_host(node: Host, dtype: torch.dtype) -> Map:
    """`d2e.ir.host.apply` of a node as a function of frames [n, *shape]."""
    if isinstance(node, LayerNorm):
        weight, bias = torch.tensor(node.weight, dtype=dtype), torch.tensor(node.bias, dtype=dtype)
        return lambda x: functional.layer_norm(x, weight.shape, weight, bias, float(node.eps))
    if isinstance(node, Attention):
        return lambda x: _attended(x, node.heads, float(node.scale))
    if isinstance(node, Permute):
        axes = (0, *(axis + 1 for axis in node.axes))
        return lambda x: x.permute(axes).contiguous()
    if isinstance(node, Mean):
        return lambda x: x.mean(dim=node.axis + 1 if node.axis >= 0 else node.axis)
    assert isinstance(node, Add)
    more = torch.tensor(node.bias, dtype=dtype)
    return lambda x: x + more


def _attended(x: Tensor, heads: int, scale: float) -> Tensor:
    n, tokens, width = x.shape
    q, k, v = x.reshape(n, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    found: Tensor = functional.scaled_dot_product_attention(q, k, v, scale=scale)
    return found.transpose(1, 2).reshape(n, tokens, width // 3)


def torch_map(node: Synapse, dtype: torch.dtype) -> Map:
    """A synapse as a function of frames [n, *shape], its bias left out (canonical networks have none)."""
    if isinstance(node, Linear):
        weight = torch.tensor(node.weight, dtype=dtype)
        return lambda x: functional.linear(x, weight)
    if isinstance(node, (Conv1d, Conv2d)):
        return _convolution(node, dtype)
    if isinstance(node, SumPool2d):
        size, stride, padding, area = node.kernel_size, node.stride, node.padding, math.prod(node.kernel_size)
        return lambda x: functional.avg_pool2d(x, size, stride, padding) * area
    if isinstance(node, Flatten):
        start, end = node.start_dim, node.end_dim
        return lambda x: x.flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)
    if isinstance(node, Scale):
        if node.scale.ndim == 0 and node.scale == 1:
            return lambda x: x
        factor = torch.tensor(node.scale, dtype=dtype)
        return lambda x: x * factor
    raise TypeError(f"{type(node).__name__} is not a map of one frame")


def _convolution(node: Conv1d | Conv2d, dtype: torch.dtype) -> Map:
    weight, pads = torch.tensor(node.weight, dtype=dtype), padding_pairs(node)
    even = all(a == b for a, b in pads)
    border = [n for pair in reversed(pads) for n in pair]
    if isinstance(node, Conv2d):
        weight = weight.contiguous(memory_format=torch.channels_last)
    convolve = functional.conv1d if isinstance(node, Conv1d) else functional.conv2d
    padding = tuple(a for a, _ in pads) if even else (0,) * len(pads)

    def run(x: Tensor) -> Tensor:
        x = x if even else functional.pad(x, border)
        found: Tensor = convolve(x, weight, None, node.stride, padding, node.dilation, node.groups)
        return found

    return run

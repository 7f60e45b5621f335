"""A program as a NeuroBenchModel: an engine of ours runs it, and torch layers around NeuroBench's hooks say what they got.

Every layer holds its integers as they are, so that NeuroBench counts true bytes; a population hands out what the engine
says it fired. Imports NeuroBench and snnTorch: use `d2e.compiler.neurobench.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import snntorch
import torch
from neurobench.models import NeuroBenchModel
from torch import Tensor, nn
from torch.nn import functional

from d2e.compiler.measure import classify
from d2e.compiler.neurobench.figures import on_the_host
from d2e.compiler.neurobench.layers import Connection, arrays, arriving, connections, membrane, messages, spiking
from d2e.compiler.replicas import merged
from d2e.ir import Conv1d, Conv2d, Linear, Network, Neuron, Node, UsageError, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Trace
from d2e.ir.shapes import padding_pairs

if TYPE_CHECKING:
    from d2e.compiler.program import Program


def _hold(module: nn.Module, nodes: list[Node], skip: tuple[str, ...] = ()) -> None:
    """Give a module the arrays of nodes: weights and biases as parameters, others as buffers."""
    for number, node in enumerate(nodes):
        parameters, constants = arrays(node)
        for name, array in parameters.items():
            if name not in skip:
                module.register_parameter(f"{name}{number}", _parameter(array))
        for name, array in constants.items():
            module.register_buffer(f"{name}{number}", torch.from_numpy(array.copy()))


def _parameter(array: Array) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False)


class Held(nn.Module):
    """Arrays of a node that is no layer to NeuroBench."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        _hold(self, [node])


class Dense(nn.Linear):
    """A Linear of integers, exact sums in float64."""

    def __init__(self, node: Linear) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = node.weight.shape
        self.weight = _parameter(arrays(node)[0]["weight"])
        self.register_parameter("bias", None)
        _hold(self, [node], skip=("weight",))

    def forward(self, given: Tensor) -> Tensor:
        """[batch, *, in] to [batch, *, out]."""
        return functional.linear(given.double(), self.weight.double())


def _window(layer: Any, node: Conv1d | Conv2d) -> None:
    """Set a torch convolution up as a node of integers."""
    nn.Module.__init__(layer)
    layer.out_channels, layer.in_channels = node.weight.shape[0], node.weight.shape[1] * node.groups
    layer.kernel_size, layer.groups = node.weight.shape[2:], node.groups
    layer.stride, layer.dilation, layer.padding = node.stride, node.dilation, 0
    layer.output_padding, layer.transposed, layer.padding_mode = (0,) * len(node.stride), False, "zeros"
    layer.pads = [side for pair in reversed(padding_pairs(node)) for side in pair]
    layer.weight = _parameter(arrays(node)[0]["weight"])
    layer.register_parameter("bias", None)
    _hold(layer, [node], skip=("weight",))


class Convolution1d(nn.Conv1d):
    """A Conv1d of integers, exact sums in float64."""

    pads: list[int]

    def __init__(self, node: Conv1d) -> None:
        _window(self, node)

    def forward(self, given: Tensor) -> Tensor:
        """[batch, in, length] to [batch, out, length]."""
        padded = functional.pad(given.double(), self.pads)
        return functional.conv1d(padded, self.weight.double(), None, self.stride, 0, self.dilation, self.groups)


class Convolution2d(nn.Conv2d):
    """A Conv2d of integers, exact sums in float64."""

    pads: list[int]

    def __init__(self, node: Conv2d) -> None:
        _window(self, node)

    def forward(self, given: Tensor) -> Tensor:
        """[batch, in, height, width] to [batch, out, height, width]."""
        padded = functional.pad(given.double(), self.pads)
        return functional.conv2d(padded, self.weight.double(), None, self.stride, 0, self.dilation, self.groups)


class Population(snntorch.SpikingNeuron):  # type: ignore[misc]
    """A population of the source: sends what the engine says, with its membrane where NeuroBench looks for it."""

    init_hidden = True
    output = False

    def __init__(self, nodes: list[Node]) -> None:
        nn.Module.__init__(self)
        _hold(self, nodes)

    def forward(self, spikes: Tensor, mem: Tensor | None) -> Tensor:
        """Spikes of one step [batch, *shape], and the membrane after it."""
        if mem is not None:
            self.mem = mem
        return spikes


class Layers(nn.Module):
    """Modules by name; names may be any."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules.update(parts)


def _layer(node: Connection) -> nn.Module:
    if isinstance(node, Linear):
        return Dense(node)
    return Convolution2d(node) if isinstance(node, Conv2d) else Convolution1d(node)


class ProgramModel(NeuroBenchModel):  # type: ignore[misc]
    """See `d2e.compiler.neurobench.model`.

    Attributes:
        sent: messages of all of the chip's neurons in the last batch.
        states: whether the engine tells membranes, without which NeuroBench's MembraneUpdates is no number.
    """

    def __init__(self, program: Program, engine: str | None = None) -> None:
        super().__init__()
        if program.network.hosts:
            raise on_the_host(program.network)
        self.program, self.engine = program, engine or program.target.predictor
        self.sent, self.states = 0, True
        self.add_activation_module(Population)
        self.layers = _modules(program.network)
        self.net = Layers(self.layers)

    def __net__(self) -> nn.Module:
        """The layers."""
        return self.net

    def __call__(self, batch: Tensor) -> Tensor:
        """Run a batch [batch, time, *input shape] from rest, all steps; returns the output's spikes [batch, time, *out]."""
        frames, network = batch.detach().cpu().numpy(), self.program.network
        trace = self._run(frames)
        self.sent = sum(messages(network, trace).values())
        self._replay(reference.check_frames(network, frames), trace)
        return torch.from_numpy(np.ascontiguousarray(trace.output))

    def classes(self, output: Tensor) -> Tensor:
        """A postprocessor: the class per sample of an output, by the program's own readout."""
        return torch.from_numpy(classify(self.program.network, output.numpy()))

    def _run(self, frames: Array) -> Trace:
        self.program.target.prepare(self.program.network, self.engine)
        if self.states:
            try:
                return self.program._traced(frames, self.engine, "state", False)[0]
            except UsageError:
                self.states = False
        return self.program._traced(frames, self.engine, "spikes", False)[0]

    def _replay(self, frames: Array, trace: Trace) -> None:
        """Call every layer and population step by step with what it got, or sent."""
        network = self.program.network
        whole = merged(network, trace)

        def sent(name: str) -> Array:
            node = network.nodes[name]
            return reference.payload(node, trace.spikes[name]) if isinstance(node, Neuron) else frames

        calls: list[tuple[nn.Module, list[Tensor | None]]] = [
            (self.layers[name], [_doubles(arriving(network, name, sent))]) for name in connections(network)
        ]
        for name, own in spiking(network).items():
            states = _doubles(membrane(network, own, trace)) if self.states else None
            population = self.layers[name]
            if states is not None:
                population.mem = torch.zeros_like(states[:, 0])  # there before the first step, for NeuroBench's hook
            calls.append((population, [_doubles(whole.spikes[name]), states]))
        with torch.no_grad():
            for t in range(frames.shape[1]):
                for module, given in calls:
                    module(*(None if each is None else each[:, t] for each in given))


def _doubles(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).double()


def _modules(network: Network) -> dict[str, nn.Module]:
    """A module for every node with arrays, populations of the source put together."""
    layers, populations = connections(network), spiking(network)
    parts: dict[str, nn.Module] = {}
    members = {n: name for name, own in populations.items() for n in own}
    for name in network.order:
        node = network.nodes[name]
        if name in members:
            parts.setdefault(members[name], Population([network.nodes[n] for n in populations[members[name]]]))
        elif name in layers:
            parts[name] = _layer(layers[name])
        elif any(arrays(node)):
            parts[name] = Held(node)
    return parts

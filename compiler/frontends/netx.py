"""lava-dl's network exchange (``.net``) as an integer network: what lava-dl 0.6.0's netx computes, number for number.

A CUBA (LOIHI) neuron of a file is Lava's LIF: ``du = iDecay - 1``, ``dv = vDecay``, ``vth = vThMant``, bias in weight units
added to ``v``; weights are cut to integers (lava-dl ``netx/hdf5.py``). ``refDelay`` and ``gradedSpike`` are read by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2e.compiler.frontends import netx_layer as parts
from d2e.compiler.frontends.netx_arithmetic import delivered, fires_early
from d2e.compiler.frontends.netx_file import Fields, malformed, read_layers
from d2e.compiler.notes import warn
from d2e.ir.encoding import Encoder
from d2e.ir.errors import UnsupportedError, UsageError
from d2e.ir.network import Edge, Network
from d2e.ir.nodes import (
    LI,
    Array,
    Conv2d,
    CubaLIF,
    Delay,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    Neuron,
    Node,
    Output,
    Scale,
    Shape,
    integral,
    real,
)
from d2e.ir.shapes import output_shape
from d2e.ir.verify import verified

_SILENT = (1 << 17) - 1
_DELAY = 62
_INPUT_BIAS = 4095
_PAYLOAD = 1 << 15  # the file does not say what its input carries
_READ = "netx reads input, conv, dense, dense_rec and flatten"


def read(path: Path, *, input_shape: Sequence[int] | None = None) -> Network:
    """The network of a ``.net`` file; every population has integer arithmetic.

    Args:
        path: HDF5 file of lava-dl slayer's ``export_hdf5`` (or of this compiler).
        input_shape: of one frame, where the file does not say it.

    Raises:
        UsageError: D2E-FILE-002, -003, D2E-LOAD-001..003 for the file, D2E-NETX-001 for fields that are missing or
            contradict each other, D2E-LOAD-011 where the input shape is not known.
        UnsupportedError: D2E-NETX-002 for a layer or neuron netx 0.6.0 does not run, -003 for numbers that it computes
            with in a way no integer weight does.
    """
    layers, other = read_layers(path)
    reader = _Reader(None if input_shape is None else tuple(int(n) for n in input_shape))
    if len(layers) > 1 and layers[-1].text("type") == "average":
        dropped = layers.pop().name
        reader.notes.append(("averages the output, which netx does not do; the output is that of the layer before", dropped))
    for number, layer in enumerate(layers):
        reader.add(layer, last=number == len(layers) - 1)
    return reader.finish(other)


@dataclass
class _Reader:
    """Nodes and edges so far; ``end`` sends frames of ``shape``."""

    shape: Shape | None
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    end: str = "input"
    flat: bool = False
    lead: bool = False
    depth: int = 0
    early: bool = False

    def add(self, layer: Fields, last: bool) -> None:
        """The next layer."""
        kind = layer.text("type")
        if kind == "input":
            self._input(layer)
        elif kind == "flatten":
            self.flat = True
        elif kind == "conv":
            self._conv(layer)
        elif kind in ("dense", "dense_rec"):
            self._dense(layer, kind == "dense_rec", last)
        else:
            raise UnsupportedError(
                "D2E-NETX-002", f"is a layer of type {kind!r}; {_READ}", node=layer.name,
                hint="Remove it from the file, or compile the network it was exported from (.pt).",
            )

    def finish(self, other: Mapping[str, Any]) -> Network:
        """The whole network."""
        if self.end == "input":
            raise malformed(None, "the file holds no layer with neurons")
        end = self.nodes[self.end]
        assert isinstance(end, Neuron)
        readout = "last" if isinstance(end, LI) else "count"
        self._join(self.end, "output", Output(shape=end.shape, readout=readout))  # type: ignore[arg-type]
        if self.lead:
            steps = parts.sample_steps(other)
            self.nodes["input"] = replace(self.nodes["input"], time_steps=steps)  # type: ignore[call-arg]
        network = Network(self.nodes, tuple(self.edges), {"source": "netx"})
        for message, node in self.notes:
            network = warn(network, "D2E-NETX-004", message, node)
        return verified(network)

    # ----- layers

    def _input(self, layer: Fields) -> None:
        """The shape of the frames; with neurons, the population that an image drives through its bias."""
        if self.nodes:
            raise malformed(layer.name, "is an input layer behind other layers")
        shape = parts.sizes(layer)
        if len(shape) not in (1, 3):
            raise malformed(layer.name, f"has frames of shape {list(shape)}; one or three sizes are needed")
        if self.shape not in (None, shape):
            raise malformed(layer.name, f"takes frames of shape {list(shape)}, not {list(self.shape or ())}")
        self.shape = shape
        if "neuron" not in layer:
            self._source()
            return
        weight = layer.integer("weight") if "weight" in layer else 64
        bias = layer.integer("bias") if "bias" in layer else 0
        if weight < 1:
            raise UnsupportedError("D2E-NETX-003", f"multiplies the image by {weight}", node=layer.name,
                                   hint="The weight of an input layer must be 1 or more.")
        self.lead = True
        self.nodes["input"] = Input(shape=shape, coding="signed", max_payload=_INPUT_BIAS,
                                    encoder=Encoder("direct", real(1 / weight)))
        self._join("input", f"{layer.name}.image", Scale(scale=integral(1)))
        self._neuron(layer, shape, integral(bias), last=False, driven=True)

    def _conv(self, layer: Fields) -> None:
        shape = self._frames(layer)
        if self.flat or len(shape) != 3:
            raise malformed(layer.name, f"is a convolution of {'flattened ' * self.flat}frames of shape {list(shape)}")
        weight = layer.integers("weight")
        if weight.ndim < 4 or math.prod(weight.shape[4:]) != 1:
            raise malformed(layer.name, f"has a kernel of shape {list(weight.shape)}; [out, in, rows, columns] is needed")
        if "delay" in layer:
            self.notes.append(("has delays, which netx leaves out; so does this network", layer.name))
        node = Conv2d(
            weight=weight.reshape(weight.shape[:4]), stride=layer.pair("stride"), padding=layer.pair("padding"),
            dilation=layer.pair("dilation"), groups=layer.integer("groups"),
        )
        if node.groups < 1 or min(*node.stride, *node.dilation) < 1 or min(layer.pair("padding")) < 0:
            raise malformed(layer.name, "has a stride, dilation, padding or groups out of range")
        out, stated = output_shape(layer.name, node, shape), parts.sizes(layer)
        if stated != out:
            raise malformed(layer.name, f"says its shape is {list(stated)}, its kernel makes it {list(out)}")
        self._join(self.end, f"{layer.name}.weight", node)
        self._neuron(layer, out, parts.bias(layer, out), last=False)

    def _dense(self, layer: Fields, recurrent: bool, last: bool) -> None:
        count = math.prod(parts.sizes(layer))
        weights = [parts.matrix(layer, "weight", count)]
        if recurrent:
            weights.append(parts.matrix(layer, "weight_rec", count))
            if weights[1].shape[1] != count:
                raise malformed(layer.name, f"weight_rec is {list(weights[1].shape)}, not {count} x {count}")
            if "delay" in layer:
                raise UnsupportedError("D2E-NETX-002", "is recurrent and has delays, which netx 0.6.0 cannot run",
                                       node=layer.name, hint="Export it without delays.")
        if self.shape is None:
            self.shape = (weights[0].shape[1],)
        shape = self._frames(layer)
        self._flatten(layer, shape, weights[0].shape[1])
        weights = self._delivered(layer, weights)
        self._synapses(layer, weights[0])
        delayed = any(isinstance(n, Delay) for n in self.nodes.values())
        name = self._neuron(layer, (count,), parts.bias(layer, (count,)), last)
        if self.early and (recurrent or delayed):
            self.notes.append(("receives spikes that biases cause in netx before the first frame; here none do", name))
        if recurrent:
            self.nodes[f"{name}.recurrent"] = Linear(weight=weights[1])
            self.edges += [Edge(name, f"{name}.recurrent", True), Edge(f"{name}.recurrent", name)]

    # ----- their parts

    def _delivered(self, layer: Fields, weights: list[Array]) -> list[Array]:
        found = delivered(weights, _PAYLOAD if self.end in ("input", f"{layer.name}.flatten") else 1)
        if found is None:
            raise UnsupportedError(
                "D2E-NETX-003", "has recurrent weights below 0 alone; netx rounds their sums, the least is a power of 2",
                node=layer.name, hint="Raise the least weight by one.",
            )
        if any((a != b).any() for a, b in zip(found, weights, strict=True)):
            self.notes.append(("has weights that netx clips or drops; this network has what it computes with", layer.name))
        return found

    def _synapses(self, layer: Fields, weight: Array) -> None:
        """One linear map, or one for each delay."""
        name, source = f"{layer.name}.weight", self.end
        if "delay" not in layer:
            self._join(source, name, Linear(weight=weight))
            return
        delays = parts.delays(layer, weight)
        if delays.max() > _DELAY:
            self.notes.append((f"has delays up to {delays.max()}, which netx clips to {_DELAY}", layer.name))
            delays = np.minimum(delays, _DELAY)
        ends = []
        for steps in np.unique(delays[weight != 0]) if weight.any() else [0]:
            part = f"{name}.{steps}"
            self._join(source, part, Linear(weight=np.where(delays == steps, weight, 0)))
            if steps:
                self._join(part, f"{layer.name}.delay.{steps}", Delay(steps=int(steps)))
            ends.append(self.end)
        self.edges += [Edge(end, layer.name) for end in ends[:-1]]

    def _neuron(self, layer: Fields, shape: Shape, bias: Array, last: bool, driven: bool = False) -> str:
        """The population behind the synapses; an image drives ``v`` through the bias, so there is no ``u``."""
        given = "neuron" in layer
        if not given and len(shape) != 1:
            raise malformed(layer.name, "has no neuron")
        syn, mem, threshold = parts.registers(layer.group("neuron")) if given else (parts.ONE, 0, _SILENT + 1)
        syn = 0 if driven else syn
        common: dict[str, Any] = {
            "shape": shape, "bias": bias << FixedPoint().fraction_bits, "arithmetic": FixedPoint(), "reset": "zero",
            "fire": "gt", "decay_syn": integral(syn), "decay_mem": integral(mem), "gain": integral(1),
            "amplitude": integral(1), "v_init": integral(0), "v_reset": integral(0),
        }
        silent = last and threshold >= _SILENT
        node = LI(**common, threshold=integral(_SILENT)) if silent else CubaLIF(
            **common, threshold=integral(threshold), u_init=integral(0))
        self.depth += not driven
        self.early = self.early or (not silent and fires_early(node, integral(0), self.depth))
        self._join(self.end, layer.name, node)
        self.shape = shape
        return layer.name

    def _flatten(self, layer: Fields, shape: Shape, size: int) -> None:
        """A flatten layer keeps the order of [C, H, W]: netx turns (W, H, C) round before it flattens."""
        if len(shape) > 1 and not self.flat and self.end != "input":
            raise malformed(layer.name, f"is dense behind frames of shape {list(shape)} without a flatten between")
        if len(shape) > 1:
            self._join(self.end, f"{layer.name}.flatten", Flatten())
        self.flat = False
        if math.prod(shape) != size:
            raise malformed(layer.name, f"has weights for {size} inputs and receives {math.prod(shape)}")

    def _frames(self, layer: Fields) -> Shape:
        """The shape of what arrives."""
        if self.shape is None:
            raise UsageError("D2E-LOAD-011", "the file does not say the shape of its input", node=layer.name,
                             hint="Give that of one frame, without batch and time: --input-shape 1,28,28.")
        self._source()
        return self.shape

    def _source(self) -> None:
        assert self.shape is not None
        if not self.nodes:
            self.nodes["input"] = Input(shape=self.shape)

    def _join(self, source: str, name: str, node: Node) -> None:
        self.nodes[name] = node
        self.edges.append(Edge(source, name))
        self.end = name

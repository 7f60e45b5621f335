"""The text of ``network.py``: a block per input, population, relay and synapse, and the arrays they load."""

from __future__ import annotations

import keyword
import math
import re
from dataclasses import dataclass

import numpy as np

from d2e.backends.loihi2.lava import weights as w
from d2e.backends.loihi2.lava.registers import registers
from d2e.backends.loihi2.lava.schedule import Path, Schedule
from d2e.ir.errors import UnsupportedError
from d2e.ir.linear import apply
from d2e.ir.network import Network
from d2e.ir.nodes import (
    Affine,
    Array,
    Conv1d,
    Conv2d,
    Input,
    Linear,
    Scale,
    Shape,
    SumPool2d,
)

_TAKEN = (
    "np", "W", "frames", "steps", "Conv", "DelayDense", "Dense", "DelaySparse", "Sparse", "LIF", "SignMode",
)
_DELAY_MAX = 63
_INDENT = "    "


@dataclass(frozen=True)
class _Wire:
    """One synapse to write: from the port ``start``, ``delay`` steps beyond the first."""

    path: Path
    name: str
    start: str
    delay: int
    message_bits: int


class Blocks:
    """Collects the lines and arrays of one network.

    Attributes:
        arrays: what ``weights.npz`` holds.
        host_start: lines of HOST_START; hosted: the names in it.
        processes, relays: how many there are.
    """

    def __init__(self, network: Network, plan: Schedule) -> None:
        self.network, self.plan = network, plan
        self.lines: list[str] = []
        self.arrays: dict[str, Array] = {}
        self.host_start: list[str] = []
        self.hosted: list[str] = []
        self.processes = 0
        self.relays = 0
        self.names: dict[str, str] = {}
        self.late: dict[tuple[str, int], str] = {}

    def build(self) -> str:
        """The body of ``build`` in network.py."""
        for name in self.network.populations:
            self._population(name)
        for path in self.plan.paths:
            self._synapse(path)
        named = ", ".join(f"{name!r}: {self.names[name]}" for name in self.network.populations)
        self.lines += ["", f"return {{{named}}}"]
        return "".join(f"{_INDENT}{line}".rstrip() + "\n" for line in self.lines)

    def lava_shape(self, name: str) -> Shape:
        """Shape in Lava of a source."""
        return w.lava_shape(self._shape(name))

    # ----- populations

    def _population(self, name: str) -> None:
        node, depth = self.network.neuron(name), self.plan.depth[name]
        regs = registers(name, node, depth)
        var, shape = self._variable(name), self.lava_shape(name)
        bias = self._stored(f"{var}_bias", w.to_lava(regs.bias_mant, node.shape))
        u = self._stored(f"{var}_u", w.to_lava(regs.u, node.shape))
        v = self._stored(f"{var}_v", w.to_lava(regs.v, node.shape))
        if regs.host_start:
            self.hosted.append(name)
            self.host_start.append(f"{name!r}: {{'step': {depth}, 'bias_mant': {bias}, 'u': {u}, 'v': {v}}}")
            bias = u = v = "0"
        self._block(f"population {name!r}: {node.kind} {[int(n) for n in self._shape(name)]}, depth {depth}")
        self._process(
            var, "LIF", f"shape={shape}, name={name!r}, du={regs.du}, dv={regs.dv}, vth={regs.vth}",
            f"bias_mant={bias}, bias_exp={regs.bias_exp}, u={u}, v={v}",
        )

    def _late_source(self, name: str, lag: int) -> str:
        """Port of a process that sends what ``name`` sends, ``lag`` steps later."""
        if isinstance(self.network.nodes[name], Input):
            return self._input(name, lag)
        if lag == 0:
            return f"{self.names[name]}.s_out"
        if (name, lag) not in self.late:
            self.late[name, lag] = self._relay(name, lag)
        return self.late[name, lag]

    def _input(self, name: str, lag: int) -> str:
        if (name, lag) not in self.late:
            var = self._variable(name if lag == 0 else f"{name}_late_{lag}")
            late = f", {lag} steps later" if lag else ""
            self._block(f"input {name!r}: {[int(n) for n in self._shape(name)]}{late}")
            self._process(var, "_spikes", f"frames, {lag}, steps")
            self.late[name, lag] = var
        return self.late[name, lag]

    def _relay(self, name: str, lag: int) -> str:
        """A LIF without memory that repeats a spike; its synapse delays by 1 to 64 steps."""
        hop = min(lag, _DELAY_MAX + 1)
        before = self._late_source(name, lag - hop)
        size = math.prod(self._shape(name))
        relay, synapse = self._variable(f"{name}_late_{lag}"), self._variable(f"{name}_to_late_{lag}")
        self._block(f"relay: {name!r} {lag} steps later")
        shape = self.lava_shape(name)
        self._process(relay, "LIF", f"shape={shape}, name={relay!r}, du=4095, dv=4096, vth=0")
        wire = _Wire(Path(name, name, None, self._shape(name), 0, 0), name, before, hop - 1, 0)
        self._sparse(synapse, w.Digit(np.full(size, 128), -7, 2, "MIXED"), np.arange(size), wire)
        self._connect(wire, synapse, flat=True, end=relay)
        self.relays += 1
        return f"{relay}.s_out"

    # ----- synapses

    def _synapse(self, path: Path) -> None:
        node = self.network.nodes[path.synapse] if path.synapse else Scale(scale=np.ones((), np.int64))
        name, delay = path.synapse or f"{path.source}_to_{path.target}", self.plan.delay(path)
        source = self.network.nodes[path.source]
        single = math.prod(self._shape(path.source)) == 1
        own = min(delay, _DELAY_MAX + 1) if single or isinstance(node, (Linear, Scale)) else 1
        bits = 0
        if isinstance(source, Input):
            own, bits = 1, message_bits(name, source)
        start = self._late_source(path.source, delay - own)
        self._block(f"synapse {name!r}: {path.source!r} -> {path.target!r}, {node.kind}, delay {delay}")
        wire = _Wire(path, name, start, own - 1, bits)
        if single and isinstance(node, (Conv1d, Conv2d)):
            self._matrix(wire, _column(node, path), None)
        elif isinstance(node, (Conv1d, Conv2d, SumPool2d)):
            self._conv(wire, node)
        elif isinstance(node, Linear) and not isinstance(node, Affine):
            self._linear(wire, node)
        elif isinstance(node, Scale):
            self._scale(wire, node)
        else:
            raise UnsupportedError("D2E-LAVA-012", f"Lava has no synapse for {node.kind}", node=name)

    def _conv(self, wire: _Wire, node: Conv1d | Conv2d | SumPool2d) -> None:
        frame = wire.path.shape
        if frame != self._shape(wire.path.source) or getattr(node, "bias", None) is not None:
            raise UnsupportedError(
                "D2E-LAVA-012", "a convolution in Lava has no bias and takes its source's frames as they are",
                node=wire.name, hint="Remove the Flatten before it; give the bias to the neurons.",
            )
        k = w.kernel(wire.name, node, frame[0])
        var = self._variable(wire.name)
        stored = self._stored(f"{var}_weight", k.weight)
        shape = w.lava_shape(frame)
        self._process(
            var, "Conv", f"weight={stored}, input_shape={shape}, padding={k.padding}, stride={k.stride}",
            f"dilation={k.dilation}, groups={k.groups}, num_message_bits={wire.message_bits}",
        )
        self._connect(wire, var, flat=False)

    def _linear(self, wire: _Wire, node: Linear) -> None:
        if len(wire.path.shape) != 1:
            raise UnsupportedError(
                "D2E-LAVA-012", f"a linear map of frames {wire.path.shape} acts on the last axis only",
                node=wire.name, hint="Put a Flatten before it.",
            )
        self._matrix(wire, node.weight.astype(np.int64), node.quantized.bits if node.quantized else None)

    def _matrix(self, wire: _Wire, matrix: Array, bits: int | None) -> None:
        """``matrix`` [target, source], both flat in the network's order."""
        columns, rows = self._orders(wire)
        kind, delays = ("DelayDense", f", delays={wire.delay}") if wire.delay else ("Dense", "")
        for digit in w.digits(wire.name, matrix[rows][:, columns], bits):
            var = self._variable(wire.name)
            stored = self._stored(f"{var}_weight", digit.weights)
            self._process(var, kind, f"weights={stored}{delays}", *_dense_options(digit, wire.message_bits))
            self._connect(wire, var, flat=True)

    def _scale(self, wire: _Wire, node: Scale) -> None:
        """A diagonal; source and target may keep their neurons in different orders."""
        values = np.broadcast_to(node.scale.astype(np.int64), wire.path.shape).reshape(-1)
        columns, rows = self._orders(wire)
        column_of = np.empty_like(columns)
        column_of[columns] = np.arange(columns.size)
        for digit in w.digits(wire.name, values[rows]):
            var = self._variable(wire.name)
            self._sparse(var, digit, column_of[rows], wire)
            self._connect(wire, var, flat=True)

    def _orders(self, wire: _Wire) -> tuple[Array, Array]:
        return w.order(self._shape(wire.path.source)), w.order(self._shape(wire.path.target))

    def _sparse(self, var: str, digit: w.Digit, columns: Array, wire: _Wire) -> None:
        """A square matrix with one weight per row."""
        key = f"{var}_weight"
        self._stored(key, digit.weights)
        self._stored(f"{key}_col", columns)
        options = _dense_options(digit, wire.message_bits)
        if not wire.delay:
            self._process(var, "Sparse", f"weights=_diagonal({key!r})", *options)
            return
        self._process(
            var, "DelaySparse",
            f"weights=_diagonal({key!r}), delays=_diagonal({key!r}, {wire.delay})", *options,
        )

    # ----- text

    def _shape(self, name: str) -> Shape:
        node = self.network.nodes[name]
        shape: Shape = getattr(node, "shape", ())
        return shape

    def _variable(self, name: str) -> str:
        """A Python name for a node; the first one given to a node stays its own."""
        base = re.sub(r"\W", "_", name, flags=re.ASCII)
        base = f"n_{base}" if not base or base[0].isdigit() or base[0] == "_" else base
        var, count = base, 1
        while var in self.names.values() or var in _TAKEN or keyword.iskeyword(var):
            count += 1
            var = f"{base}_{count}"
        self.names[name if name not in self.names else f"{name}/{var}"] = var
        return var

    def _stored(self, key: str, values: Array) -> str:
        """Text that loads an array kept in ``weights.npz``; a single number is written out."""
        if values.ndim == 0:
            return str(int(values))
        self.arrays[key] = values.astype(np.int32)
        return f"W[{key!r}]"

    def _block(self, comment: str) -> None:
        self.lines += ["", f"# {comment}"]

    def _process(self, var: str, cls: str, *options: str) -> None:
        self.processes += 1
        one = f"{var} = {cls}({', '.join(options)})"
        if len(one) <= 106:
            self.lines.append(one)
            return
        self.lines += [f"{var} = {cls}(", *(f"{_INDENT}{o}," for o in options), ")"]

    def _connect(self, wire: _Wire, synapse: str, *, flat: bool, end: str = "") -> None:
        """Wire source -> synapse -> population; Dense and Sparse take and give vectors."""
        leaves = ".flatten()" if flat and len(self.lava_shape(wire.path.source)) > 1 else ""
        shape = self.lava_shape(wire.path.target)
        enters = f".reshape({shape})" if flat and len(shape) > 1 else ""
        self.lines += [
            f"{wire.start}{leaves}.connect({synapse}.s_in)",
            f"{synapse}.a_out{enters}.connect({end or self.names[wire.path.target]}.a_in)",
        ]


def _column(node: Conv1d | Conv2d, path: Path) -> Array:
    """What one neuron sends through a convolution (the bias of a map), as a matrix [target, 1]."""
    return apply(node, np.ones((1, *path.shape), np.int64), path.shape).reshape(-1, 1)


def _dense_options(digit: w.Digit, message_bits: int) -> tuple[str, str]:
    return (
        f"weight_exp={digit.exponent}, num_weight_bits={digit.bits}, sign_mode=SignMode.{digit.sign_mode}",
        f"num_message_bits={message_bits}",
    )


def message_bits(name: str, source: Input) -> int:
    """Width of the payloads of an input: 0 stands for plain spikes.

    Raises:
        UnsupportedError: D2E-LAVA-012 for an input of real values.
    """
    if source.coding == "direct":
        raise UnsupportedError(
            "D2E-LAVA-012", "Loihi takes integer spikes, the input is coded 'direct'", node=name,
            hint="Put a spiking layer first, or encode the input.",
        )
    signed = source.coding == "signed"
    if source.max_payload == 1 and not signed:
        return 0
    needed = source.max_payload.bit_length() + signed
    return next((bits for bits in (8, 16, 24) if needed <= bits), 32)

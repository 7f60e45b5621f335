"""The text of ``network.py``: one block per input, population, relay and synapse, and the arrays they load."""

from __future__ import annotations

import keyword
import re

import numpy as np

from d2e.backends.loihi2.lava import weights as w
from d2e.backends.loihi2.lava.registers import registers
from d2e.backends.loihi2.lava.schedule import Path, Schedule
from d2e.ir.errors import UnsupportedError
from d2e.ir.linear import apply
from d2e.ir.network import Network
from d2e.ir.nodes import Array, Conv1d, Conv2d, Input, Linear, Node, Scale, Shape, SumPool2d, Synapse

_TAKEN = (
    "np", "W", "frames", "steps", "Conv", "DelayDense", "Dense", "DelaySparse", "Sparse", "LIF", "SignMode",
)
_DELAY_MAX = 63
_SUM_MAX = 2**23
_INDENT = "    "


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
        self.bound: dict[str, Array] = {}

    def build(self) -> str:
        """The body of ``build`` in network.py."""
        for name in self.network.populations:
            self._population(name)
        for path in self.plan.paths:
            self._synapse(path)
        self._check_bounds()
        named = ", ".join(f"{name!r}: {self.names[name]}" for name in self.network.populations)
        self.lines += ["", f"return {{{named}}}"]
        return "".join(f"{_INDENT}{line}".rstrip() + "\n" for line in self.lines)

    def lava_shape(self, name: str) -> Shape:
        """Shape in Lava of a source."""
        return tuple(int(n) for n in w.lava_shape(self._shape(name)))

    # ----- populations

    def _population(self, name: str) -> None:
        node, depth = self.network.neuron(name), self.plan.depth[name]
        regs = registers(name, node, depth)
        var, shape = self._variable(name), self.lava_shape(name)
        bias = self._stored(f"{var}_bias", w.to_lava(regs.bias_mant, node.shape))
        v = self._stored(f"{var}_v", w.to_lava(regs.v, node.shape))
        if regs.host_start:
            self.hosted.append(name)
            self.host_start.append(f"{name!r}: {{'step': {depth}, 'bias_mant': {bias}, 'v': {v}}}")
            bias = v = "0"
        self._block(f"population {name!r}: {node.kind} {list(node.shape)}, depth {depth}")
        self._process(
            var, "LIF", f"shape={shape}, name={name!r}, du={regs.du}, dv={regs.dv}, vth={regs.vth}",
            f"bias_mant={bias}, bias_exp={regs.bias_exp}, v={v}",
        )

    def _late_source(self, name: str, lag: int) -> str:
        """Variable of a process that sends what ``name`` sends, ``lag`` steps later."""
        if isinstance(self.network.nodes[name], Input):
            return self._input(name, lag)
        if lag == 0:
            return self.names[name]
        if (name, lag) not in self.late:
            self.late[name, lag] = self._relay(name, lag)
        return self.late[name, lag]

    def _input(self, name: str, lag: int) -> str:
        if (name, lag) not in self.late:
            var = self._variable(name if lag == 0 else f"{name}_late_{lag}")
            self._block(f"input {name!r} {list(self._shape(name))}" + (f", {lag} steps later" if lag else ""))
            self._process(var, "_spikes", f"frames, {lag}, steps")
            self.late[name, lag] = var
        return self.late[name, lag]

    def _relay(self, name: str, lag: int) -> str:
        """A LIF without memory that repeats a spike; its synapse delays by 1 to 64 steps."""
        hop = min(lag, _DELAY_MAX + 1)
        before = self._late_source(name, lag - hop)
        size = int(np.prod(self._shape(name), dtype=int))
        relay, synapse = self._variable(f"{name}_late_{lag}"), self._variable(f"{name}_to_late_{lag}")
        self._block(f"relay: {name!r} {lag} steps later")
        self._process(relay, "LIF", f"shape={self.lava_shape(name)}, name='{relay}', du=4095, dv=4096, vth=0")
        identity = w.Digit(np.full(size, 128), -7, 2, "MIXED")
        every = np.arange(size)
        self._sparse(synapse, (identity, every, every, (size, size)), hop - 1, 0)
        self._connect(before, self._shape(name), synapse, relay, self._shape(name), flat=True)
        self.relays += 1
        return relay

    # ----- synapses

    def _synapse(self, path: Path) -> None:
        node = self.network.nodes[path.synapse] if path.synapse else Scale(scale=np.ones((), np.int64))
        name, delay = path.synapse or f"{path.source}_to_{path.target}", self.plan.delay(path)
        source = self.network.nodes[path.source]
        payload = source.max_payload if isinstance(source, Input) else 1
        self._bound(path, node, payload)
        message_bits = 0
        if isinstance(source, Input):
            message_bits = _message_bits(name, source)
            delay_here = 1
        elif isinstance(node, (Linear, Scale)):
            delay_here = min(delay, _DELAY_MAX + 1)
        else:
            delay_here = 1
        start = self._late_source(path.source, delay - delay_here)
        self._block(f"synapse {name!r}: {path.source!r} -> {path.target!r}, {node.kind}, delay {delay}")
        if isinstance(node, (Conv1d, Conv2d, SumPool2d)):
            self._conv(path, name, node, start, message_bits)
        elif isinstance(node, Linear):
            self._linear(path, name, node, start, delay_here - 1, message_bits)
        elif isinstance(node, Scale):
            self._scale(path, name, node, start, delay_here - 1, message_bits)
        else:
            raise UnsupportedError("D2E-LAVA-012", f"Lava has no synapse for {node.kind}", node=name)

    def _conv(self, path: Path, name: str, node: Conv1d | Conv2d | SumPool2d, start: str, message_bits: int) -> None:
        if path.shape != self._shape(path.source):
            raise UnsupportedError(
                "D2E-LAVA-012", f"a convolution of frames {path.shape} cannot follow a Flatten in Lava", node=name
            )
        k = w.kernel(name, node, path.shape[0])
        var = self._variable(name)
        stored = self._stored(f"{var}_weight", k.weight)
        shape = tuple(int(n) for n in w.lava_shape(path.shape))
        self._process(
            var, "Conv", f"weight={stored}, input_shape={shape}, padding={k.padding}, stride={k.stride}",
            f"dilation={k.dilation}, groups={k.groups}, num_message_bits={message_bits}",
        )
        self._connect(start, self._shape(path.source), var, self.names[path.target], self._shape(path.target), flat=False)

    def _linear(self, path: Path, name: str, node: Linear, start: str, delay: int, message_bits: int) -> None:
        if len(path.shape) != 1:
            raise UnsupportedError(
                "D2E-LAVA-012", f"a linear map of frames {path.shape} acts on the last axis only", node=name,
                hint="Put a Flatten before it.",
            )
        columns, rows = w.order(self._shape(path.source)), w.order(self._shape(path.target))
        matrix = node.weight.astype(np.int64)[rows][:, columns]
        bits = node.quantized.bits if node.quantized else None
        for digit in w.digits(name, matrix, bits):
            var = self._variable(name)
            delays = f", delays={delay}" if delay else ""
            stored = self._stored(f"{var}_weight", digit.weights)
            self._process(
                var, "DelayDense" if delay else "Dense", f"weights={stored}{delays}", *_dense_options(digit, message_bits)
            )
            self._connect(start, self._shape(path.source), var, self.names[path.target], self._shape(path.target), flat=True)

    def _scale(self, path: Path, name: str, node: Scale, start: str, delay: int, message_bits: int) -> None:
        """A diagonal; source and target may keep their neurons in different orders."""
        values = np.broadcast_to(node.scale.astype(np.int64), path.shape).reshape(-1)
        columns, rows = w.order(self._shape(path.source)), w.order(self._shape(path.target))
        column_of = np.empty_like(columns)
        column_of[columns] = np.arange(columns.size)
        size = values.size
        for digit in w.digits(name, values[rows]):
            var = self._variable(name)
            self._sparse(var, (digit, np.arange(size), column_of[rows], (size, size)), delay, message_bits)
            self._connect(start, self._shape(path.source), var, self.names[path.target], self._shape(path.target), flat=True)

    def _sparse(
        self, var: str, matrix: tuple[w.Digit, Array, Array, tuple[int, int]], delay: int, message_bits: int
    ) -> None:
        digit, rows, columns, shape = matrix
        key = f"{var}_weight"
        self._stored(key, digit.weights)
        self._stored(f"{key}_row", rows)
        self._stored(f"{key}_col", columns)
        if delay:
            self.lines.append(f"{key} = _sparse({key!r}, {shape})")
            self._process(
                var, "DelaySparse", f"weights={key}, delays=_delays({key}, {delay})", *_dense_options(digit, message_bits)
            )
            return
        self._process(var, "Sparse", f"weights=_sparse({key!r}, {shape})", *_dense_options(digit, message_bits))

    # ----- bounds

    def _bound(self, path: Path, node: Node, payload: int) -> None:
        """Add the largest sum this path can deliver to each neuron of its target."""
        assert isinstance(node, Synapse)
        positive = node
        if isinstance(node, (Linear, Conv1d, Conv2d)):
            positive = type(node)(**{**vars(node), "weight": np.abs(node.weight.astype(np.int64))})
        elif isinstance(node, Scale):
            positive = Scale(scale=np.abs(node.scale.astype(np.int64)))
        ones = np.full((1, *path.shape), payload, np.int64)
        most = apply(positive, ones, path.shape).reshape(self._shape(path.target))
        self.bound[path.target] = self.bound.get(path.target, np.zeros((), np.int64)) + most

    def _check_bounds(self) -> None:
        for name, most in self.bound.items():
            if most.max(initial=0) >= _SUM_MAX:
                raise UnsupportedError(
                    "D2E-LAVA-014", f"a neuron's input may reach {most.max()} weight units, Lava's sums hold {_SUM_MAX - 1}",
                    node=name, hint="Lower --weight-bits, the payloads or the fan-in.",
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

    def _connect(self, start: str, start_shape: Shape, synapse: str, end: str, end_shape: Shape, *, flat: bool) -> None:
        """Wire source -> synapse -> population; Dense and Sparse take and give vectors."""
        leaves = ".flatten()" if flat and len(w.lava_shape(start_shape)) > 1 else ""
        shape = tuple(int(n) for n in w.lava_shape(end_shape))
        enters = f".reshape({shape})" if flat and len(shape) > 1 else ""
        self.lines += [
            f"{start}.s_out{leaves}.connect({synapse}.s_in)",
            f"{synapse}.a_out{enters}.connect({end}.a_in)",
        ]


def _dense_options(digit: w.Digit, message_bits: int) -> tuple[str, str]:
    return (
        f"weight_exp={digit.exponent}, num_weight_bits={digit.bits}, sign_mode=SignMode.{digit.sign_mode}",
        f"num_message_bits={message_bits}",
    )


def _message_bits(name: str, source: Input) -> int:
    """Width of the payload: 0 stands for plain spikes."""
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

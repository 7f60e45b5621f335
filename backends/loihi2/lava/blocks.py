"""The text of ``network.py``: a block per input, population and relay; synapses are in `synapses`."""

from __future__ import annotations

import math

import numpy as np

from d2e.backends.loihi2.lava import weights as w
from d2e.backends.loihi2.lava.bundles import bundles
from d2e.backends.loihi2.lava.graded import parameters
from d2e.backends.loihi2.lava.payloads import message_bits
from d2e.backends.loihi2.lava.registers import is_lif, registers
from d2e.backends.loihi2.lava.schedule import Schedule
from d2e.backends.loihi2.lava.synapses import DELAY_MAX, Wire, write, write_repeat
from d2e.backends.loihi2.lava.text import Text
from d2e.backends.loihi2.lava.windows import Pulse, windows
from d2e.ir.network import Network
from d2e.ir.nodes import Conv1d, Conv2d, Input, Linear, Scale, Shape, SumPool2d


class Blocks:
    """Collects the text and arrays of one network.

    Attributes:
        text: the body of ``build``.
        host_start: population -> its line of HOST_START.
        relays: how many processes only hand on spikes.
        graded: the populations that no chip runs without microcode of their own.
    """

    def __init__(self, network: Network, plan: Schedule) -> None:
        self.network, self.plan = network, plan
        self.text = Text()
        self.host_start: dict[str, str] = {}
        self.relays = 0
        self.graded = [n for n in network.populations if not is_lif(network.neuron(n))]
        self.windows = windows(network, plan)
        self._late: dict[tuple[str, int], str] = {}

    def build(self) -> str:
        """The body of ``build`` in network.py."""
        for name in self.network.populations:
            self._population(name)
        for bundle in bundles(self.network, self.plan):
            node = self.network.nodes[bundle.synapse] if bundle.synapse else Scale(scale=np.ones((), np.int64))
            source = bundle.sources[0]
            name = bundle.synapse or f"{source}_to_{bundle.targets[0]}"
            own = self._own_delay(source, node, bundle.delay)
            starts = tuple(self._late_source(s, bundle.delay - own) for s in bundle.sources)
            self.text.block(f"synapse {name!r}: {bundle.label}, {node.kind}, delay {bundle.delay}")
            write(self.text, node, Wire(
                name, starts, self._shape(source), tuple(self.text.names[t] for t in bundle.targets),
                self._shape(bundle.targets[0]), bundle.shape, bundle.factor, own - 1, self._message_bits(source),
            ))
        self._windows()
        self.text.line("", "return {", *(f"    {n!r}: {self.text.names[n]}," for n in self.network.populations), "}")
        return str(self.text)

    def lava_shape(self, name: str) -> Shape:
        """Shape in Lava of a source."""
        return w.lava_shape(self._shape(name))

    # ----- populations

    def _population(self, name: str) -> None:
        node, depth = self.network.neuron(name), self.plan.depth[name]
        if name in self.graded:
            self._graded(name)
            return
        regs = registers(name, node, depth)
        var, text = self._begin(name), self.text
        bias = text.stored(f"{var}_bias", w.to_lava(regs.bias_mant, node.shape))
        u = text.stored(f"{var}_u", w.to_lava(regs.u, node.shape))
        v = text.stored(f"{var}_v", w.to_lava(regs.v, node.shape))
        if regs.host_start:
            self.host_start[name] = f"{name!r}: {{'step': {depth}, 'bias_mant': {bias}, 'u': {u}, 'v': {v}}}"
            u = v = "0"
        text.process(
            var, "_lif", f"windows, {depth}, shape={self.lava_shape(name)}, name={name!r}",
            f"du={regs.du}, dv={regs.dv}, vth={regs.vth}, bias_mant={bias}, bias_exp={regs.bias_exp}, u={u}, v={v}",
        )

    def _graded(self, name: str) -> None:
        node, depth = self.network.neuron(name), self.plan.depth[name]
        values = parameters(name, node)
        var = self._begin(name)
        options = [
            f"{key}={self.text.stored(f'{var}_{key}', value) if isinstance(value, np.ndarray) else repr(value)}"
            for key, value in values.items()
        ]
        shape = self.lava_shape(name)
        self.text.process(var, "_graded", f"windows, {depth}, shape={shape}, name={name!r}", *options)

    def _begin(self, name: str) -> str:
        """A population's comment and variable."""
        node, depth = self.network.neuron(name), self.plan.depth[name]
        self.text.block(f"population {name!r}: {node.kind} {[int(n) for n in node.shape]}, depth {depth}")
        return self.text.variable(name)

    def _windows(self) -> None:
        """The spikes that keep samples of one run apart."""
        if not self.windows.pulses:
            return
        text = self.text
        text.line("")
        with text.inside("if windows is not None:"):
            for pulse in self.windows.pulses:
                text.line(f"# {_purpose(pulse)}")
                ends = ", ".join(text.names[t] for t in pulse.targets)
                for digit in pulse.digits:
                    weights = digit.weights.reshape(()) if digit.weights.size == 1 else digit.weights
                    key = f"{text.names[pulse.targets[0]]}_start" + (f"_{digit.exponent}" if digit.exponent > 0 else "")
                    text.line(
                        f"_pulse(windows, steps, {pulse.depth}, {pulse.at}, ({ends},), {text.stored(key, weights)},",
                        f"       weight_exp={digit.exponent}, num_weight_bits={digit.bits}, "
                        f"sign_mode=SignMode.{digit.sign_mode})",
                    )

    # ----- sources

    def _own_delay(self, source: str, node: object, delay: int) -> int:
        """The steps that the synapse itself delays by; a relay brings the rest."""
        if isinstance(self.network.nodes[source], Input):
            return 1
        matrix = isinstance(node, (Linear, Scale)) or (
            math.prod(self._shape(source)) == 1 and isinstance(node, (Conv1d, Conv2d, SumPool2d))
        )
        return min(delay, DELAY_MAX + 1) if matrix else 1

    def _late_source(self, name: str, lag: int) -> str:
        """Port of a process that sends what ``name`` sends, ``lag`` steps later."""
        if lag == 0 and not isinstance(self.network.nodes[name], Input):
            return f"{self.text.names[name]}.s_out"
        if (name, lag) not in self._late:
            source = isinstance(self.network.nodes[name], Input)
            self._late[name, lag] = self._input(name, lag) if source else self._relay(name, lag)
        return self._late[name, lag]

    def _input(self, name: str, lag: int) -> str:
        late = f", {lag} steps later" if lag else ""
        self.text.block(f"input {name!r}: {[int(n) for n in self._shape(name)]}{late}")
        var = self.text.variable(name if lag == 0 else f"{name}_late_{lag}")
        self.text.process(var, "_spikes", f"frames, {lag}, steps")
        return var

    def _relay(self, name: str, lag: int) -> str:
        """A neuron without memory that repeats what it hears; its synapse delays by 1 to 64 steps."""
        hop = min(lag, DELAY_MAX + 1)
        before = self._late_source(name, lag - hop)
        shape, text, bits = self.lava_shape(name), self.text, self._message_bits(name)
        text.block(f"relay: {name!r} {lag} steps later")
        relay = text.variable(f"{name}_late_{lag}")
        if bits:
            text.process(relay, "GradedVec", f"shape={shape}, vth=0")
        else:
            text.process(relay, "LIF", f"shape={shape}, name={relay!r}, du=4095, dv=4096, vth=0")
        own = self._shape(name)
        write_repeat(text, Wire(f"{name}_to_late_{lag}", (before,), own, (relay,), own, own, 1, hop - 1, bits))
        self.relays += 1
        return f"{relay}.s_out"

    def _message_bits(self, name: str) -> int:
        return message_bits(name, self.network.nodes[name])

    def _shape(self, name: str) -> Shape:
        shape: Shape = getattr(self.network.nodes[name], "shape", ())
        return shape


def _purpose(pulse: Pulse) -> str:
    named = ", ".join(map(repr, pulse.targets))
    return f"{named}: the initial u" if pulse.at == (0,) else f"{named}: silent before each sample"

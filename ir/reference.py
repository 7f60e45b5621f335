"""The definition: what a network computes, step by step, in plain numpy. Every engine is tested against it.

One loop serves floating point and exact integers; the arithmetic of each population says which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from d2e.ir import host, linear
from d2e.ir.errors import UnsupportedError
from d2e.ir.frames import check_frames as check_frames
from d2e.ir.network import Network
from d2e.ir.nodes import (
    LI,
    Array,
    CubaLIF,
    Delay,
    FixedPoint,
    Input,
    MultiThreshold,
    Neuron,
    Output,
    Shape,
    Synapse,
)
from d2e.ir.shapes import infer_shapes

Record = Literal["counts", "spikes", "state"]


@dataclass
class Trace:
    """What a run recorded.

    Attributes:
        output: [batch, time, *out], what reached the Output node.
        counts: population -> spikes per neuron [batch, *shape] (multi-threshold: sum of absolute indices).
        spikes: population -> n of every step [batch, time, *shape]; only with record="spikes" or "state".
        u, v: population -> state after every step (v after reset); only with record="state".
    """

    output: Array
    counts: dict[str, Array]
    spikes: dict[str, Array] = field(default_factory=dict)
    u: dict[str, Array] = field(default_factory=dict)
    v: dict[str, Array] = field(default_factory=dict)


class Population:
    """State of one population for a batch, and its step."""

    def __init__(self, name: str, node: Neuron, batch: int) -> None:
        if node.continuous is not None:
            raise UnsupportedError(
                "D2E-DYN-001", "has time constants but no discrete decays yet", node=name,
                hint="Run the discretise pass with a time step (--dt).",
            )
        self.name, self.node = name, node
        self.fixed = node.arithmetic
        self.dtype = np.int64 if self.fixed else np.float64
        u_init = node.u_init if isinstance(node, CubaLIF) else np.zeros(())
        self.u: Array = np.broadcast_to(u_init.astype(self.dtype), (batch, *node.shape)).copy()
        self.bias, self.v_reset = node.bias.astype(self.dtype), node.v_reset.astype(self.dtype)
        self.v: Array = np.broadcast_to(node.v_init.astype(self.dtype), self.u.shape).copy()
        self.n = np.zeros(self.u.shape, np.int64)
        self.wait = np.zeros(self.u.shape, np.int64)

    def step(self, current: Array) -> Array:
        """Take the summed input of one step [batch, *shape]; return the payload sent [batch, *shape]."""
        node, fixed, held = self.node, self.fixed, self.v
        decay_syn, decay_mem = node.decays
        pending = self.n if node.reset_when == "next" else None
        if fixed:
            if not linear.is_integer(current):
                raise UnsupportedError(
                    "D2E-DYN-004", "computes in integers but receives real numbers", node=self.name,
                    hint="Quantise what feeds it, the input included.",
                )
            self.u = _overflow(
                _decay(self.u, decay_syn, fixed) + (current << fixed.fraction_bits),
                fixed.u_bits, fixed.u_overflow, self.name, "u",
            )
            v = self._reset(self.v if decay_mem is None else _decay(self.v, decay_mem, fixed), pending)
            self.v = _overflow(v + self.u + self.bias, fixed.v_bits, fixed.v_overflow, self.name, "v")
        else:
            self.u = current if decay_syn is None else decay_syn * self.u + current
            v = self._reset(self.v if decay_mem is None else decay_mem * self.v, pending)
            self.v = v + node.gain * self.u + self.bias
        if node.v_min is not None:
            self.v = np.maximum(self.v, node.v_min.astype(self.dtype))
        if isinstance(node, LI):
            return self.v
        self.n = self._fire()
        if node.refractory:
            self.v, self.n = np.where(self.wait > 0, held, self.v), np.where(self.wait > 0, 0, self.n)
            self.wait = np.where(self.n != 0, node.refractory, np.maximum(self.wait - 1, 0))
        if node.reset_when == "same":
            self.v = self._reset(self.v, self.n)
        sent = payload(node, self.n)
        return sent.astype(np.int64) if self.fixed else sent

    def _unit(self, value: Array) -> Array:
        """A value in weight units in the unit of ``v``."""
        return value.astype(np.int64) << self.fixed.fraction_bits if self.fixed else value

    def _fire(self) -> Array:
        node = self.node
        if isinstance(node, MultiThreshold):
            return self._crossed(node)
        theta = self._unit(node.threshold)
        crossed = self.v >= theta if node.fire == "ge" else self.v > theta
        if node.max_spikes == 1:
            return crossed.astype(np.int64)
        if node.fire == "ge":
            n = np.floor_divide(self.v, theta)
        elif self.fixed:
            n = np.floor_divide(self.v - 1, theta)
        else:
            n = np.ceil(self.v / theta) - 1
        return np.where(crossed, np.clip(n, 1, node.max_spikes or None), 0).astype(np.int64)

    def _crossed(self, node: MultiThreshold) -> Array:
        n = np.zeros(self.v.shape, np.int64)
        for level in node.levels:
            theta = self._unit(level * node.threshold)
            n += self.v >= theta if node.fire == "ge" else self.v > theta
            if node.signed:
                n -= self.v <= -theta if node.fire == "ge" else self.v < -theta
        return n

    def _reset(self, v: Array, n: Array | None) -> Array:
        node = self.node
        if n is None or node.reset == "none":
            return v
        if node.reset == "subtract":
            return v - self._amount(n)
        return np.where(n != 0, self.v_reset if node.reset == "value" else self.dtype(0), v)

    def _amount(self, n: Array) -> Array:
        node = self.node
        if isinstance(node, MultiThreshold):
            return self._unit(_by_level(node.levels if node.reset_by is None else node.reset_by, n) * node.threshold)
        return n * self._unit(node.threshold if node.reset_by is None else node.reset_by)


def payload(node: Neuron, n: Array) -> Array:
    """What a population sends where ``n`` [..., *shape] is what it fired."""
    sent = n
    if isinstance(node, MultiThreshold):
        sent = _by_level(node.levels if node.payloads is None else node.payloads, n)
    one = node.amplitude.ndim == 0 and float(node.amplitude) == 1.0
    return sent if one else sent * node.amplitude


def _by_level(values: Array, n: Array) -> Array:
    table = np.concatenate([np.zeros(1, values.dtype), values])
    picked: Array = np.sign(n).astype(values.dtype) * table[np.abs(n)]
    return picked


def _decay(state: Array, keep: Array | None, fixed: FixedPoint) -> Array:
    """``state * keep / 2**decay_bits``, truncated toward zero; None keeps no state (synaptic current)."""
    if keep is None:
        return np.zeros_like(state)
    kept: Array = np.sign(state) * ((np.abs(state) * keep.astype(np.int64)) >> fixed.decay_bits)
    return kept


def _overflow(x: Array, bits: int, rule: str, name: str, what: str) -> Array:
    half = 1 << (bits - 1)
    if rule == "saturate":
        return np.clip(x, -half + 1, half - 1)
    if rule == "refuse" and (np.abs(x) >= half).any():
        raise UnsupportedError(
            "D2E-RANGE-002", f"{what} reaches {int(np.abs(x).max())}, the limit is {half - 1}", node=name,
            hint="Lower --weight-bits or rescale the layer.",
        )
    return np.where(x > half, x - 2 * half, np.where(x <= -half, x + 2 * half, x))


class _Line:
    """A delay line of whole frames."""

    def __init__(self, steps: int) -> None:
        self.queue: list[Array] = []
        self.steps = steps

    def push(self, frame: Array) -> Array:
        self.queue.append(frame)
        return self.queue.pop(0) if len(self.queue) > self.steps else np.zeros_like(frame)


def run(network: Network, frames: Array, record: Record = "counts") -> Trace:
    """Run a network on ``frames`` [batch, time, *input shape] from rest.

    Args:
        network: discretised; float or integer (or mixed: each population has its own arithmetic).
        frames: integer payloads, or reals where the input is coded "direct" or has an encoder (`check_frames`).
        record: "counts" keeps sums only, "spikes" every step's n, "state" also u and v.

    Returns:
        The `Trace`.

    Raises:
        UsageError: the frames do not fit the network.
        UnsupportedError: D2E-RANGE-002 where a population with overflow "refuse" overflows.
    """
    data = check_frames(network, frames)
    data = data.astype(np.int64) if data.dtype.kind in "iu" else data
    shapes = infer_shapes(network)
    batch, steps = data.shape[:2]
    populations = {n: Population(n, network.neuron(n), batch) for n in network.populations}
    lines = {n: _Line(node.steps) for n, node in network.nodes.items() if isinstance(node, Delay)}
    history: dict[str, list[Array]] = {f"{kind}/{n}": [] for kind in "nuv" for n in populations}
    counts = {n: np.zeros((batch, *p.node.shape), np.int64) for n, p in populations.items()}
    outputs: list[Array] = []
    previous: dict[str, Array] = {}
    for t in range(steps):
        values: dict[str, Array] = {}
        for name in network.order:
            node = network.nodes[name]
            if isinstance(node, Input):
                values[name] = data[:, t]
                continue
            into = network.incoming[name]
            fresh = [values[e.source] for e in into if not e.recurrent]
            held = [previous[e.source] for e in into if e.recurrent and e.source in previous]
            current = _sum([*fresh, *held], (batch, *_in_shape(network, shapes, name)))
            if isinstance(node, Neuron):
                values[name] = populations[name].step(current)
            elif isinstance(node, Delay):
                values[name] = lines[name].push(current)
            elif isinstance(node, Synapse):
                values[name] = linear.apply(node, current, current.shape[1:])
            elif isinstance(node, host.Host):
                values[name] = host.apply(node, current)
            elif isinstance(node, Output):
                values[name] = current
                outputs.append(current)
        previous = values
        for n, p in populations.items():
            counts[n] += np.abs(p.n)
            if record != "counts":
                history[f"n/{n}"].append(p.n)
            if record == "state":
                history[f"u/{n}"].append(p.u)
                history[f"v/{n}"].append(p.v)
    stacked = {key: np.stack(frames_, axis=1) for key, frames_ in history.items() if frames_}
    pick = {
        kind: {n: stacked[f"{kind}/{n}"] for n in populations if f"{kind}/{n}" in stacked} for kind in "nuv"
    }
    output = np.stack(outputs, axis=1) if outputs else np.zeros((batch, 0, *network.output.shape))
    return Trace(output, counts, pick["n"], pick["u"], pick["v"])


def _in_shape(network: Network, shapes: dict[str, Shape], name: str) -> Shape:
    into = network.incoming[name]
    return shapes[into[0].source] if into else shapes[name]


def _sum(frames: list[Array], shape: Shape) -> Array:
    """The sum of what arrives; nothing arriving is zeros (integers, as spikes are)."""
    if not frames:
        return np.zeros(shape, np.int64)
    total = frames[0]
    for frame in frames[1:]:
        total = total + frame
    return total

"""A lowered network as the chain of layers of a ``.net`` file, or one sentence per layer about what prevents it.

The levels of a population (`forms.Replica`) are one dense layer: they share the threshold of the lowest, a higher one has a
bias below 0 instead, which is the same where ``v`` is a copy of ``u``. A soft reset and the resets between levels are its
recurrent weights. An always-on neuron is one more neuron of the layer it feeds; its recurrent spike arrives with frame 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from d2e.backends.loihi2.forms import is_stock, replica_of, replicas
from d2e.backends.loihi2.limits import DECAY_ONE, LIMITS, UNIT
from d2e.backends.loihi2.netx.layer import Layer, PreventedError, as_frames, delays, fitted, kernel
from d2e.compiler.algebra import MATRIX_LIMIT, channels
from d2e.compiler.frontends.netx_arithmetic import fires_early
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.paths import Path, paths_into
from d2e.ir import (
    LI,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Finding,
    Flatten,
    Input,
    Linear,
    Network,
    Neuron,
    Scale,
    Synapse,
)
from d2e.ir.nodes import Array, integral

CODE = "D2E-NETX-010"
_NEGATIVE = 1 << 15  # payloads of both signs, as `delivered` wants them


def plan(network: Network) -> tuple[list[Layer], list[Finding]]:
    """The layers in order, and what prevents each of the others; only without findings are they the network."""
    layers: list[Layer] = []
    findings: list[Finding] = []
    groups: list[tuple[_Group, _Paths]] = []
    before, payload = list(network.inputs), network.input.max_payload if network.input.coding == "spikes" else _NEGATIVE
    for name, members in _chain(network):
        try:
            group = _Group(network, name, members, before)
            groups.append((group, group.paths()))
        except PreventedError as error:
            findings.append(Finding(CODE, error.message, name, error.hint))
        before = members
    early, helpers = False, 0
    for depth, (group, paths) in enumerate(groups if not findings else [], 1):
        try:
            layer, fires = group.layer(paths, helpers, payload, depth, early)
            layers.append(layer)
            early, helpers, payload = early or fires, layer.helpers, 1
        except PreventedError as error:
            findings.append(Finding(CODE, error.message, group.name, error.hint))
            helpers = 0
    last = {p.source for p in paths_into(network, network.outputs[0])}
    if not last <= set(before):
        other = sorted(last - set(before))
        findings.append(Finding(CODE, "is read beside the last layer; netx has one output", other[0]))
    return layers, findings


def _chain(network: Network) -> Iterator[tuple[str, list[str]]]:
    """The populations of the source network in the order of the data, helpers left out."""
    for name, members in replicas(network).items():
        if not network.neuron(members[0]).metadata.get(HELPER):
            yield name, members


@dataclass(frozen=True, eq=False)
class _Map:
    """A path: factor, one linear map (None: identity) and delay."""

    path: Path
    factor: Array
    node: Synapse | None
    delay: int


@dataclass(frozen=True, eq=False)
class _Paths:
    """What leads into a layer: from the layer before it, from itself one step late, from its always-on neuron."""

    forward: list[_Map]
    back: list[_Map]
    on: list[_Map]


class _Group:
    """One population of the source network: the populations that stand for it; ``before``: those of the layer before."""

    def __init__(self, network: Network, name: str, members: list[str], before: list[str]) -> None:
        self.network, self.name, self.members, self.before = network, name, members, before
        self.neurons = [network.neuron(m) for m in members]
        self.shape = self.neurons[0].shape
        self.size = math.prod(self.shape)
        source = network.nodes[before[0]]
        assert isinstance(source, (Input, Neuron))
        self.entry = source.shape

    def paths(self) -> _Paths:
        """What leads into it.

        Raises:
            PreventedError: for all that is seen without a look at the weights.
        """
        self._check_neurons()
        if any((level := replica_of(node)) is not None and level.stands_for > 1 for node in self.neurons):
            raise PreventedError("is several binary digits, of which the larger inhibit the smaller within a step; in netx "
                                 "a layer reaches itself one step late", "Use --burst replicas.")
        maps = [self._map(path) for member in self.members for path in paths_into(self.network, member)]
        forward = [m for m in maps if m.path.source in self.before and not m.path.recurrent]
        back = [m for m in maps if m.path.source in self.members and m.path.recurrent == 1 and not m.delay]
        on = [m for m in maps if _always_on(self.network, m.path.source)]
        other = sorted({m.path.source for m in maps if m not in (*forward, *back, *on)})
        if other:
            raise PreventedError(f"receives spikes of {', '.join(map(repr, other))}; netx is a chain of layers, each fed by "
                                 "the one before it alone")
        if len(self.shape) > 1:
            self._check_frames(forward, back, on)
        elif (back or on) and (len(self.members) * self.size + 1) ** 2 > MATRIX_LIMIT:
            raise PreventedError("feeds back onto itself (soft reset, bias or recurrent layer); netx needs a matrix of "
                                 f"all its {len(self.members) * self.size:,} neurons for that")
        return _Paths(forward, back, on)

    def layer(self, paths: _Paths, helpers: int, payload: int, depth: int, early: bool) -> tuple[Layer, bool]:
        """The layer, and whether it fires before frame 0 arrives.

        Args:
            paths: of it.
            helpers: neurons of the layer before that are no output.
            payload: largest that arrives.
            depth: 1 for the first layer.
            early: whether a layer before fires before frame 0 arrives.

        Raises:
            PreventedError: netx does not hold its weights or biases.
        """
        layer = self._frames(paths) if len(self.shape) > 1 else self._dense(paths, helpers)
        fires = self._fires(layer, depth)
        if paths.back and (fires or early):
            raise PreventedError("fires on its bias before the first frame arrives, and feeds that back to itself")
        if early and layer.delay is not None:
            raise PreventedError("receives, late, spikes that a bias causes before the first frame arrives")
        return layer if layer.kernel else fitted(layer, payload), fires

    def _fires(self, layer: Layer, depth: int) -> bool:
        """Whether a member fires before frame 0 arrives."""
        for i, node in enumerate(self.neurons):
            current = integral(0)
            if layer.helpers and layer.recurrent is not None:
                current = layer.recurrent[i * self.size : (i + 1) * self.size, -1]
            if not isinstance(node, LI) and fires_early(node, current, depth):
                return True
        return False

    # ----- neurons

    def _check_neurons(self) -> None:
        for node in self.neurons:
            if not is_stock(node):
                raise PreventedError("is a process of its own with graded spikes; netx has Loihi's LIF alone",
                                      "Use --burst replicas.")
            if (node.bias % UNIT).any():
                raise PreventedError("its bias holds fractions of a weight unit; netx has whole ones")
            if node.v_init.any() or (isinstance(node, CubaLIF) and node.u_init.any()):
                raise PreventedError("starts with a charge; netx starts from none")

    def _registers(self) -> tuple[tuple[int, int, int], list[int]]:
        """iDecay, vDecay, vThMant, and what each member's bias is lowered by for its higher threshold."""
        syn, mem = (integral(0) if d is None else d for d in self.neurons[0].decays)
        thresholds = [int(LIMITS["threshold"].value) if isinstance(n, LI) else int(n.threshold) for n in self.neurons]
        least = min(thresholds)
        if max(thresholds) > least and mem != 0:
            raise PreventedError("has levels of several thresholds that also leak; netx has one threshold per layer")
        return (DECAY_ONE - int(syn), DECAY_ONE - int(mem), least), [t - least for t in thresholds]

    def _bias(self, bias: Array) -> Array:
        limit = int(LIMITS["bias_mantissa"].value)
        if bias.min() < -limit - 1 or bias.max() > limit:
            raise PreventedError(f"its biases and thresholds need a bias of {bias.min()}..{bias.max()} weight units, the "
                                 f"limit is {limit}", "Lower --weight-bits.")
        return bias

    # ----- dense layers

    def _dense(self, paths: _Paths, helpers_before: int) -> Layer:
        registers, lowered = self._registers()
        helpers, count = int(bool(paths.on)), len(self.members) * self.size
        recurrent = None
        if paths.back or paths.on:
            recurrent = np.zeros((count + helpers,) * 2, np.int64)
            for m in paths.back:
                place, matrix = self._place(m, self.members, self.size, 0)
                recurrent[place] += matrix
            for m in paths.on:
                place, matrix = self._place(m, [m.path.source], 1, count)
                recurrent[place] += matrix
        bias = np.concatenate([
            *(np.broadcast_to(n.bias // UNIT - less, self.shape) for n, less in zip(self.neurons, lowered, strict=True)),
            np.full(helpers, registers[2] + 1),
        ])
        weight, delay = self._weights(paths.forward, count + helpers, helpers_before)
        return Layer(self.name, (count + helpers,), weight, self._bias(bias), registers, recurrent, delay,
                     flatten=len(self.entry) > 1, helpers=helpers)

    def _weights(self, forward: list[_Map], rows: int, helpers: int) -> tuple[Array, Array | None]:
        """[out, in] of all paths from the layer before, and their delays."""
        width = math.prod(self.entry)
        columns = len(self.before) * width + helpers
        only = forward[0].node if len(forward) == 1 and not forward[0].delay else None
        if isinstance(only, Linear) and only.weight.shape == (rows, columns) and forward[0].factor == 1:
            return only.weight, None  # the usual case, without a copy
        if rows * columns > MATRIX_LIMIT:
            raise PreventedError(f"its weights become one matrix of {rows * columns:,} numbers; too large")
        weight = np.zeros((rows, columns), np.int64)
        delay = np.full(weight.shape, -1)
        for m in forward:
            place, matrix = self._place(m, self.before, width, 0)
            if ((delay[place] >= 0) & (delay[place] != m.delay) & (matrix != 0)).any():
                raise PreventedError("has several delays between the same two neurons")
            delay[place][matrix != 0] = m.delay
            weight[place] += matrix
        return weight, delays(delay)

    def _place(self, m: _Map, sources: list[str], width: int, offset: int) -> tuple[tuple[slice, slice], Array]:
        """Where a path's weights stand in the matrix of the layer, and they."""
        row, column = self.members.index(m.path.target) * self.size, offset + sources.index(m.path.source) * width
        if isinstance(m.node, Linear):
            matrix = m.node.weight * m.factor
        elif m.node is None or isinstance(m.node, Scale):
            scale = integral(1) if m.node is None else m.node.scale
            matrix = np.diag(np.broadcast_to(scale * m.factor, (self.size,)))
        else:
            raise PreventedError(f"is fed by a {m.node.kind} although it is no map of neurons")
        return (slice(row, row + self.size), slice(column, column + width)), matrix.astype(np.int64)

    def _map(self, path: Path) -> _Map:
        """Factors, one linear map and delays of a path."""
        factor, steps, found = integral(1), 0, []
        for name in path.synapses:
            node = self.network.nodes[name]
            assert isinstance(node, Synapse)
            if isinstance(node, Scale) and node.scale.ndim == 0:
                factor = factor * node.scale
            elif isinstance(node, Delay):
                steps += node.steps
            elif not isinstance(node, Flatten):
                found.append(node)
        if len(found) > 1:
            raise PreventedError("has two linear maps in a row before it")
        return _Map(path, factor, found[0] if found else None, steps)

    # ----- convolutions

    def _check_frames(self, forward: list[_Map], back: list[_Map], on: list[_Map]) -> None:
        if len(self.members) > 1:
            raise PreventedError("is several levels of a map of neurons; netx has resets between them in dense layers alone")
        if back:
            raise PreventedError("is a map of neurons that feeds back onto itself (a soft reset or a recurrent layer); netx "
                                 "has that in dense layers alone")
        if on:
            raise PreventedError("is a map of neurons with an always-on neuron beside it, which netx cannot place")
        if len(forward) != 1 or forward[0].delay or len(self.shape) > 3:
            raise PreventedError("is a map of neurons that is not fed by exactly one convolution without delay")

    def _frames(self, paths: _Paths) -> Layer:
        found = kernel(self._convolution(paths.forward[0]))
        registers, _ = self._registers()
        bias = np.asarray(self.neurons[0].bias // UNIT)
        per_channel, shape = channels(bias, self.shape), as_frames(self.shape)
        if per_channel is None:
            per_channel = np.broadcast_to(bias, self.shape).reshape(shape)
        return Layer(self.name, shape, found.weight, self._bias(per_channel), registers, kernel=found)

    def _convolution(self, m: _Map) -> Conv1d | Conv2d:
        if isinstance(m.node, (Conv1d, Conv2d)):
            return replace(m.node, weight=m.node.weight * m.factor, quantized=None)
        scale = integral(1) if m.node is None else m.node.scale if isinstance(m.node, Scale) else None
        factors = None if scale is None else channels(scale * m.factor, self.shape)
        if factors is None:
            raise PreventedError("is a map of neurons fed by weights that differ within a channel")
        size = len(factors)
        if len(self.shape) == 2:
            return Conv1d(weight=factors.reshape(size, 1, 1), groups=size)
        return Conv2d(weight=factors.reshape(size, 1, 1, 1), groups=size)


def _always_on(network: Network, source: str) -> bool:
    return bool(network.nodes[source].metadata.get(HELPER)) and not network.incoming[source]

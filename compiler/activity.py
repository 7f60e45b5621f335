"""What a network does on calibration data: inputs and spikes of every population, for the choices of quantise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from d2e.compiler.algebra import run_chain
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.passes.rounding import BLOCK
from d2e.compiler.paths import Path, paths_into
from d2e.ir import (
    LI,
    Conv1d,
    Conv2d,
    Delay,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Synapse,
    UnsupportedError,
    infer_shapes,
    linear,
    reference,
)
from d2e.ir.nodes import Array, Shape

_AT_ONCE = 16


@dataclass(frozen=True)
class Seen:
    """Activity on the calibration frames.

    Attributes:
        frames: [batch, time, *input shape].
        spikes: population -> n [batch, time, *shape].
        counts: population -> [batch, *shape].
    """

    frames: Array
    spikes: Mapping[str, Array]
    counts: Mapping[str, Array]

    def with_spikes(self, name: str, n: Array) -> Seen:
        """The same with other spikes of one population."""
        return replace(self, spikes={**self.spikes, name: n}, counts={**self.counts, name: np.abs(n).sum(axis=1)})

    def part(self, samples: slice) -> Seen:
        """Some of the samples."""
        return Seen(self.frames[samples], {k: n[samples] for k, n in self.spikes.items()},
                    {k: n[samples] for k, n in self.counts.items()})


def observe(network: Network, frames: Array) -> Seen:
    """Run the float network and keep what every population sent."""
    trace = reference.run(network, frames, "spikes")
    return Seen(reference.check_frames(network, frames), trace.spikes, trace.counts)


def _sent(network: Network, path: Path, seen: Seen) -> Array:
    """What enters the maps of a path at every step [batch, time, *shape], its delays already taken."""
    source = network.nodes[path.source]
    sent = reference.payload(source, seen.spikes[path.source]) if isinstance(source, Neuron) else seen.frames
    late = path.recurrent + sum(n.steps for s in path.synapses if isinstance(n := network.nodes[s], Delay))
    if late:
        sent = np.concatenate([np.zeros_like(sent[:, :late]), sent[:, :-late]], axis=1)[:, : sent.shape[1]]
    return sent


def _maps(network: Network, path: Path) -> list[Synapse]:
    nodes = (network.nodes[s] for s in path.synapses)
    return [n for n in nodes if isinstance(n, Synapse) and not isinstance(n, Delay)]


def _arriving(network: Network, path: Path, seen: Seen, shape: Shape) -> Array:
    """What a path delivers at every step [batch, time, *shape], given the observed spikes."""
    sent = _sent(network, path, seen)
    result = run_chain(_maps(network, path), sent.reshape(-1, *shape), shape)
    return result.reshape(*sent.shape[:2], *result.shape[1:])


def current(network: Network, name: str, seen: Seen) -> Array:
    """The summed input of a population at every step [batch, time, *shape], given the observed spikes."""
    shapes = infer_shapes(network)
    total: Array | None = None
    for path in paths_into(network, name):
        part = _arriving(network, path, seen, shapes[path.source])
        total = part if total is None else total + part
    batch, steps = seen.frames.shape[:2]
    return np.zeros((batch, steps, *network.neuron(name).shape), np.int64) if total is None else total


def replay(network: Network, name: str, seen: Seen) -> tuple[Array, Array]:
    """(n, what it sends) of one population at every step, given what the others fired."""
    drive = current(network, name, seen)
    population = reference.Population(name, network.neuron(name), drive.shape[0])
    steps = [(population.step(drive[:, t]), population.n) for t in range(drive.shape[1])]
    return np.stack([n for _, n in steps], axis=1), np.stack([sent for sent, _ in steps], axis=1)


def count_error(network: Network, name: str, seen: Seen, fired: Array) -> float:
    """Sum of |payload sent - payload observed| over neurons and samples where the population fires as in ``fired``."""
    node = network.neuron(name)
    found, wanted = (reference.payload(node, n).sum(axis=1) for n in (fired, seen.spikes[name]))
    return float(np.abs(found - wanted).sum())


def carried(network: Network, name: str, seen: Seen) -> Seen:
    """What the populations behind ``name`` do where it fires as in ``seen``; loops see what was observed."""
    changed = {name}
    for each in network.populations[network.populations.index(name) + 1 :]:
        if changed & {path.source for path in paths_into(network, each)}:
            seen = seen.with_spikes(each, replay(network, each, seen)[0])
            changed.add(each)
    return seen


def followed(network: Network, seen: Seen) -> Seen:
    """What the populations of another network with the same ones do, each on what those before it send; as `carried`."""
    for name in network.populations:
        seen = seen.with_spikes(name, replay(network, name, seen)[0])
    return seen


def output_error(before: Network, after: Network, seen: Seen, now: Seen) -> float:
    """Squared difference of what the output's neurons receive over time, as a share of what they received.

    Not of what they send: single spikes more or less would drown small differences. Such errors add up.

    Args:
        before, after: the float network, and one in which populations are integers.
        seen, now: what they do.
    """
    wrong = total = 0.0
    for path in paths_into(before, before.outputs[0]):
        if isinstance(before.nodes[path.source], Neuron):
            a, b = _received(before, path.source, seen), _received(after, path.source, now)
            wrong, total = wrong + float(np.square(a - b).sum()), total + float(np.square(a).sum())
    return wrong / total if total else wrong


def _received(network: Network, name: str, seen: Seen) -> Array:
    """The input and bias of a population summed over all steps, in the unit of the float network."""
    node, drive = network.neuron(name), current(network, name, seen)
    one = 1 << node.arithmetic.fraction_bits if node.arithmetic else 1
    unit = float(node.quantized.scale) if node.quantized else 1.0
    return np.asarray((drive.sum(axis=1) + drive.shape[1] * node.bias / one) * unit)


def mean_input_error(before: Network, after: Network, name: str, unit: float, seen: Seen, now: Seen) -> Array:
    """Mean of (float input - integer input * unit) per channel, behind the synaptic current; shaped to add to the bias.

    Args:
        before, after: float, and with the integer weights.
        name: the population.
        unit: of its weights.
        seen: activity of the float network.
        now: activity with the populations so far in integers.
    """
    error = current(before, name, seen) - current(after, name, now) * unit
    decay = before.neuron(name).decays[0]
    if decay is not None and decay.any():
        for t in range(1, error.shape[1]):
            error[:, t] += decay * error[:, t - 1]
    axes = (0, 1, *range(3, error.ndim))
    mean = error.mean(axis=axes)
    return np.asarray(mean.reshape(-1, *([1] * (error.ndim - 3))))


def moments(network: Network, path: Path, seen: Seen, window: int) -> list[list[Array]] | None:
    """E[x x^T] of the inputs x of a path's map, summed over ``window`` steps, per group and block of columns.

    None where the path has no matrix to speak of.
    """
    nodes = _maps(network, path)
    if not nodes or not isinstance(nodes[-1], (Linear, Conv1d, Conv2d)):
        return None
    sent, shape = _sent(network, path, seen), infer_shapes(network)[path.source]
    summed = np.add.reduceat(sent, np.arange(0, sent.shape[1], window), axis=1).reshape(-1, *shape).astype(np.float64)
    last, found = nodes[-1], []
    for start in range(0, len(summed), _AT_ONCE):
        frames = run_chain(nodes[:-1], summed[start : start + _AT_ONCE], shape)
        groups = [frames] if isinstance(last, Linear) else linear.columns(last, frames)
        found.append([_blocks(part.reshape(-1, part.shape[-1])) for part in groups])
    return [[np.mean(parts, axis=0) for parts in zip(*blocks, strict=True)] for blocks in zip(*found, strict=True)]


def _blocks(rows: Array) -> list[Array]:
    parts = [rows[:, i : i + BLOCK] for i in range(0, rows.shape[1], BLOCK)]
    return [part.T @ part / len(rows) for part in parts]


def check_alive(network: Network, seen: Seen, frames: Array) -> None:
    """Raise where a population that fired in float is silent or saturated in integers.

    Raises:
        UnsupportedError: D2E-QUANT-002 (silent) or D2E-QUANT-003 (saturated).
    """
    trace = reference.run(network, frames)
    steps = seen.frames.shape[1]
    for name in network.populations:
        node = network.neuron(name)
        if isinstance(node, LI) or node.metadata.get(HELPER):
            continue
        now, was = float(trace.counts[name].mean()) / steps, float(seen.counts[name].mean()) / steps
        if was > 0 and now == 0:
            raise UnsupportedError(
                "D2E-QUANT-002", f"falls silent in integers (it fired {was:.3g} spikes per neuron and step)", node=name,
                hint="Raise --weight-bits or choose another --scale.",
            )
        most = node.levels.size if isinstance(node, MultiThreshold) else node.max_spikes
        if now >= most and was < 0.9 * most:
            raise UnsupportedError(
                "D2E-QUANT-003", f"fires at every step in integers (float: {was:.3g} per neuron and step)", node=name,
                hint="Raise --weight-bits or choose another --scale.",
            )

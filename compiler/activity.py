"""What a network does on calibration data: inputs and spikes of every population, for the choices of quantise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2e.compiler.algebra import run_chain
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.paths import Path, paths_into
from d2e.ir import LI, Delay, Network, Neuron, Synapse, UnsupportedError, infer_shapes, reference
from d2e.ir.nodes import Array


@dataclass(frozen=True)
class Seen:
    """Float activity on the calibration frames.

    Attributes:
        frames: [batch, time, *input shape].
        spikes: population -> n [batch, time, *shape].
        counts: population -> [batch, *shape].
    """

    frames: Array
    spikes: dict[str, Array]
    counts: dict[str, Array]


def observe(network: Network, frames: Array) -> Seen:
    """Run the float network and keep what every population sent."""
    trace = reference.run(network, frames, "spikes")
    return Seen(reference.check_frames(network, frames), trace.spikes, trace.counts)


def _arriving(network: Network, path: Path, seen: Seen) -> Array:
    """What a path delivers at every step [batch, time, *shape], given the observed spikes."""
    source = network.nodes[path.source]
    sent = reference.payload(source, seen.spikes[path.source]) if isinstance(source, Neuron) else seen.frames
    nodes = [n for n in (network.nodes[s] for s in path.synapses) if isinstance(n, Synapse)]
    late = sum(n.steps for n in nodes if isinstance(n, Delay)) + path.recurrent
    if late:
        sent = np.concatenate([np.zeros_like(sent[:, :late]), sent[:, :-late]], axis=1)[:, : sent.shape[1]]
    shape = infer_shapes(network)[path.source]
    folded = sent.reshape(-1, *shape)
    result = run_chain([n for n in nodes if not isinstance(n, Delay)], folded, shape)
    return result.reshape(*sent.shape[:2], *result.shape[1:])


def current(network: Network, name: str, seen: Seen) -> Array:
    """The summed input of a population at every step [batch, time, *shape], given the observed spikes."""
    total: Array | None = None
    for path in paths_into(network, name):
        part = _arriving(network, path, seen)
        total = part if total is None else total + part
    batch, steps = seen.frames.shape[:2]
    return np.zeros((batch, steps, *network.neuron(name).shape), np.int64) if total is None else total


def count_error(network: Network, name: str, seen: Seen) -> float:
    """Sum of |payload sent - payload observed| over neurons and samples when this population alone is as in ``network``."""
    drive = current(network, name, seen)
    population = reference.Population(name, network.neuron(name), drive.shape[0])
    sent = sum(population.step(drive[:, t]) for t in range(drive.shape[1]))
    return float(np.abs(sent - reference.payload(network.neuron(name), seen.spikes[name]).sum(axis=1)).sum())


def mean_input_error(before: Network, after: Network, name: str, unit: float, seen: Seen) -> Array:
    """Mean of (float input - integer input * unit) per channel, behind the synaptic current; shaped to add to the bias."""
    error = current(before, name, seen) - current(after, name, seen) * unit
    decay = before.neuron(name).decays[0]
    if decay is not None and decay.any():
        for t in range(1, error.shape[1]):
            error[:, t] += decay * error[:, t - 1]
    axes = (0, 1, *range(3, error.ndim))
    mean = error.mean(axis=axes)
    return np.asarray(mean.reshape(-1, *([1] * (error.ndim - 3))))


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
        if node.max_spikes and now >= node.max_spikes and was < 0.9 * node.max_spikes:
            raise UnsupportedError(
                "D2E-QUANT-003", f"fires at every step in integers (float: {was:.3g} per neuron and step)", node=name,
                hint="Raise --weight-bits or choose another --scale.",
            )

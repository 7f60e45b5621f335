"""What the report's pictures show beside its tables: histograms of weights and thresholds, and the spikes of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from d2e.compiler.data import Data
from d2e.compiler.measure import EVENTS, Measured
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.paths import paths_into
from d2e.compiler.replicas import merged, replica_of, replicas
from d2e.compiler.target import Target
from d2e.ir import LI, Conv1d, Conv2d, Linear, MultiThreshold, Network, Neuron, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Trace

BINS = 32
_MAPS = (Linear, Conv1d, Conv2d)
_MOST_LINES, _MOST_STEPS, _PER_LAYER = 240, 200, (4, 24)

# --------------------------------------------------------------------------- weights and thresholds


def histograms(stages: Sequence[tuple[str, Network]]) -> list[dict[str, Any]]:
    """report["histograms"]: per population, weights and thresholds before and after quantise, in float units.

    ``weights``: low, high, and how many weights lie in each of 32 bins between them, ``before`` and ``after``; ``levels``:
    how many different integers they became. ``thresholds``: smallest and largest ``before`` and ``after``, where neurons
    differ also bins. Empty where the pass was not run.
    """
    names = [name for name, _ in stages]
    if "quantise" not in names[1:]:
        return []
    place = names.index("quantise")
    before, after = stages[place - 1][1], stages[place][1]
    rows = []
    for name in (n for n in before.populations if n in after.populations):
        row: dict[str, Any] = {"name": name}
        weights = [_weights(before, after, s) for p in paths_into(before, name) for s in p.synapses]
        found = [pair for pair in weights if pair is not None]
        if found:
            float_, integer, scaled = (np.concatenate([pair[i] for pair in found]) for i in range(3))
            row["weights"] = {**_bins(float_, scaled), "levels": _different(integer)}
        old, new = before.neuron(name), after.neuron(name)
        if not isinstance(old, LI) and new.quantized is not None:
            scaled = np.multiply.outer(_levels(new), np.unique(new.quantized.scale))
            row["thresholds"] = _bins(_levels(old), np.unique(scaled))
        if len(row) > 1:
            rows.append(row)
    return rows


def _weights(before: Network, after: Network, name: str) -> tuple[Array, Array, Array] | None:
    """(before, integers, what they stand for), flat; None for a synapse without weights."""
    old, new = before.nodes[name], after.nodes.get(name)
    if not isinstance(old, _MAPS) or not isinstance(new, _MAPS) or new.quantized is None:
        return None
    integer, scale = new.weight, new.quantized.scale
    if np.ndim(scale):  # one per output channel
        scale = np.reshape(scale, (-1, *[1] * (integer.ndim - 1)))
    return np.ravel(old.weight), np.ravel(integer), np.ravel(integer * scale)


def _levels(node: Neuron) -> Array:
    """The different thresholds of a population's neurons."""
    steps = node.levels if isinstance(node, MultiThreshold) else np.ones(1)
    return np.unique(np.multiply.outer(np.asarray(node.threshold, np.float64), steps))


def _bins(before: Array, after: Array) -> dict[str, Any]:
    low, high = (float(f([f(before), f(after)])) for f in (np.min, np.max))
    span = {"low": _short(low), "high": _short(high)}
    if high - low <= 1e-6 * max(abs(high), abs(low)):
        return {**span, "before": [int(before.size)], "after": [int(after.size)]}
    return {**span, "before": _counted(before, low, high), "after": _counted(after, low, high)}


def _different(integers: Array) -> int:
    """How many different values there are, as quickly."""
    wide = integers.astype(np.int64)
    return int(np.count_nonzero(np.bincount(wide - wide.min())))


def _counted(values: Array, low: float, high: float) -> list[int]:
    """How many values lie in each bin; `numpy.histogram` takes many times as long."""
    places = ((values - low) * (BINS / (high - low))).astype(np.int64)
    found: list[int] = np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS).tolist()
    return found


def _short(value: float) -> float:
    return float(f"{value:.6g}")


# --------------------------------------------------------------------------- how full neurons and states are


def silent_and_full(network: Network, own: Sequence[str], counts: Array, steps: Array) -> dict[str, float]:
    """``silent``: share of neurons that sent nothing in any sample; ``saturated``: share of neurons and samples that sent
    all they can, at every step; absent where no step bounds what a neuron sends.

    Args:
        network: lowered.
        own: the populations that stand for the layer.
        counts: its spikes [samples, *shape].
        steps: that each sample ran [samples].
    """
    found = {"silent": float((counts == 0).all(axis=0).mean())}
    most = 0 if network.metadata.get(EVENTS) else sum(_most(network.neuron(name)) for name in own)
    if most:
        full = steps.reshape(-1, *[1] * (counts.ndim - 1)) * most
        found["saturated"] = float((counts >= full).mean())
    return found


def _most(node: Neuron) -> int:
    """Spikes a step, of a replica those of the population's that it stands for; 0: no limit."""
    replica = replica_of(node)
    if replica is not None:
        return replica.stands_for if replica.level > 0 else 0
    return len(node.levels) if isinstance(node, MultiThreshold) else node.max_spikes


# --------------------------------------------------------------------------- one sample


def first_sample(target: Target, network: Network, data: Data | None) -> Trace | None:
    """The trace of the first sample, from the target's predictor on this computer; None without data."""
    if data is None:
        return None
    return target.run(network, data.frames[:1], engine=target.predictor, record="spikes", folder=None)


def raster(network: Network, frames: Array, sample: Trace) -> dict[str, Any]:
    """report["raster"]: what the first sample did; of large layers evenly spaced ones of the neurons that sent something.

    ``rows``: name, neurons, how many were ``active``, and ``trains``, a text per shown neuron with a letter per step: ``.``
    nothing, ``1`` to ``9`` so many spikes (a payload of so much), ``+`` more, ``-`` a negative one; of a readout, which has
    no spikes, ``0`` to ``9`` for its membrane between ``low`` and ``high``. ``exit``: after how many steps it ended.

    Args:
        network: lowered.
        frames: [1, time, *shape], real values where the network encodes them.
        sample: of the network's populations, with spikes, of all steps.
    """
    trace, rule = merged(network, sample), network.output.exit
    sent = reference.check_frames(network, frames)
    steps = min(sent.shape[1], _MOST_STEPS)
    read = {e.source for e in network.incoming[network.outputs[0]]}
    layers = [name for name, own in replicas(network).items()
              if name in trace.spikes and not network.neuron(own[0]).metadata.get(HELPER)]
    each = int(np.clip(_MOST_LINES // (1 + len(layers)), *_PER_LAYER))
    rows = [_row(network.inputs[0], sent[0, :steps], each, _letters)]
    for name in layers:
        if not isinstance(network.nodes.get(name), LI):
            rows.append(_row(name, trace.spikes[name][0, :steps], each, _letters))
        elif name in read:
            values = trace.output[0, :steps]
            low, high = float(values.min()), float(values.max())
            rows.append({**_row(name, values, each, partial(_digits, low=low, high=high)), "low": low, "high": high})
    ended = {} if rule is None else {"exit": int(rule.steps(trace.output, network.output.readout)[0])}
    return {"steps": int(sent.shape[1]), "shown_steps": steps, **ended, "rows": rows}


def _row(name: str, sent: Array, most: int, letters: Callable[[Array], str]) -> dict[str, Any]:
    flat = sent.reshape(len(sent), -1)
    active = np.flatnonzero(flat.any(axis=0))
    most = most if active.size else _PER_LAYER[0]
    those = np.arange(flat.shape[1]) if flat.shape[1] <= most or not active.size else active
    chosen = those[np.unique(np.linspace(0, len(those) - 1, min(most, len(those))).round().astype(np.int64))]
    return {"name": name, "neurons": int(flat.shape[1]), "active": int(active.size),
            "trains": [letters(flat[:, i]) for i in chosen]}


def _letters(train: Array) -> str:
    return "".join("." if not x else "-" if x < 0 else "+" if x > 9 else str(int(np.ceil(x))) for x in train)


def _digits(values: Array, *, low: float, high: float) -> str:
    return "".join(str(int(9 * (v - low) / (high - low))) if high > low else "0" for v in values)


def overflows(counted: Mapping[str, int] | None, own: Sequence[str]) -> dict[str, int]:
    """``overflows``: states of a layer that left their width, of replicas the most of any one, for they hold the same."""
    return {} if counted is None else {"overflows": max(counted.get(name, 0) for name in own)}


def accuracy_by_step(measured: Measured) -> dict[str, Any]:
    """``accuracy_by_step``: the share of samples that would be right if all were read after that step."""
    if measured.correct_at is None:
        return {}
    return {"accuracy_by_step": (measured.correct_at / measured.samples).tolist()}

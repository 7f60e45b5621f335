"""Runs a network of ReLUs, and the burst neurons that take their places, one population after the other over all steps.

What a population receives at all steps is one convolution or product of [samples * steps] frames; then its neurons run in
one compiled loop. In double precision the spikes are those of `d2e.ir.reference` (tested); conversion computes in single.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from d2e.compiler.convert.adaptive import kernels
from d2e.compiler.convert.skeleton import Layer, Skeleton, frames_of, rows_of
from d2e.ir.nodes import Array

MOST_SPIKES = 255
"""Spikes per step that a byte holds."""
_CHUNK_BYTES = 1 << 23


@dataclass(frozen=True, eq=False)
class Burst:
    """The neurons of one population; arrays are [C], one value per channel.

    Attributes:
        threshold: theta; a spike stands for theta at its targets. Every step (Eq. 1-3, with bursts) v += input,
            n = clip(floor(v / theta), 0, phi), v -= n * theta.
        start: v before the first step.
        shift: added to the bias at every step.
        most: phi, spikes per step.
    """

    threshold: Array
    start: Array
    shift: Array
    most: int


Plan = Mapping[str, Burst]
"""Population -> its neurons."""
Spikes = Mapping[str, Array]
"""Population -> n, uint8 rows [B, T, N]."""


def drive(skeleton: Skeleton, plan: Plan, layer: Layer, spikes: Spikes, images: Array) -> Array:
    """What a population receives, bias left out: [B, T, N], or [B, 1, N] where it is the same at every step.

    Args:
        skeleton: of the network.
        plan: the neurons that send.
        layer: that receives.
        spikes: of those that send.
        images: [B, *input shape], received at every step.
    """
    total: Array | None = None
    for path in layer.paths:
        if path.source == skeleton.input:
            part = rows_of(skeleton.through(path, skeleton.image_frames(images)))[:, None]
        else:
            n = spikes[path.source]
            part = rows_of(skeleton.through(path, payloads(skeleton, plan, path.source, n))).reshape(*n.shape[:2], -1)
        total = part if total is None else total + part
    assert total is not None
    return total


def payloads(skeleton: Skeleton, plan: Plan, name: str, n: Array) -> Tensor:
    """What a population sends as frames [B * T, *shape]."""
    layer, rows = skeleton.layers[name], n.reshape(-1, n.shape[-1])
    sent = np.empty(rows.shape, skeleton.numpy_dtype)
    kernels.payload(rows, layer.per_neuron(plan[name].threshold).astype(sent.dtype), sent)
    return frames_of(sent, layer.shape)


def fire(layer: Layer, neurons: Burst, driven: Array, steps: int) -> Array:
    """Spikes n uint8 [B, T, N] of a population that is driven so."""
    kind = driven.dtype
    n = np.empty((len(driven), steps, layer.size), np.uint8)
    bias = (layer.bias + layer.per_neuron(neurons.shift)).astype(kind)
    threshold, start = (layer.per_neuron(values).astype(kind) for values in (neurons.threshold, neurons.start))
    kernels.fire(np.ascontiguousarray(driven), bias, threshold, start, kind.type(neurons.most), n)
    return n


def chunks(layer: Layer, batch: int, steps: int) -> Iterator[slice]:
    """Slices of a batch small enough for the cache."""
    most = max(1, _CHUNK_BYTES // (4 * steps * layer.size))
    return (slice(i, min(i + most, batch)) for i in range(0, batch, most))


def follow(skeleton: Skeleton, plan: Plan, layer: Layer, spikes: Spikes, images: Array, steps: int) -> Array:
    """Spikes [B, T, N] of one population, given those of the populations before it."""
    n = np.empty((len(images), steps, layer.size), np.uint8)
    sources = {path.source for path in layer.paths} - {skeleton.input}
    for part in chunks(layer, len(images), steps):
        driven = drive(skeleton, plan, layer, {s: spikes[s][part] for s in sources}, images[part])
        n[part] = fire(layer, plan[layer.name], driven, steps)
    return n


def evidence(skeleton: Skeleton, plan: Plan, spikes: Spikes, images: Array, steps: int) -> Array:
    """The readout's membrane after every step [B, T, classes]: the sum of the logits so far."""
    layer = skeleton.readout
    driven = np.empty((len(images), steps, layer.size), skeleton.numpy_dtype)
    sources = {path.source for path in layer.paths} - {skeleton.input}
    widest = max((skeleton.layers[s] for s in sources), key=lambda each: each.size, default=layer)
    for part in chunks(widest, len(images), steps):
        driven[part] = drive(skeleton, plan, layer, {s: spikes[s][part] for s in sources}, images[part]) + layer.bias
    shift = plan[layer.name].shift if layer.name in plan else 0.0
    return np.cumsum(driven + np.asarray(shift, driven.dtype), axis=1, dtype=driven.dtype)


def simulate(
    skeleton: Skeleton, plan: Plan, images: Array, steps: int, known: Spikes | None = None
) -> tuple[dict[str, Array], Array]:
    """(spikes, `evidence`) of the whole network; populations in ``known`` fire as said there."""
    spikes: dict[str, Array] = dict(known or {})
    for layer in skeleton.rectifiers:
        if layer.name not in spikes:
            spikes[layer.name] = follow(skeleton, plan, layer, spikes, images, steps)
    return spikes, evidence(skeleton, plan, spikes, images, steps)


def synops(skeleton: Skeleton, spikes: Spikes, *, messages: bool = False) -> dict[str, float]:
    """Population -> synaptic operations per sample that its spikes cause.

    A burst of n counts n times; with ``messages`` once, as where it travels as one graded spike.
    """
    found = {}
    for name, n in spikes.items():
        sent = np.count_nonzero(n, axis=1).sum(axis=0) if messages else n.sum(axis=(0, 1), dtype=np.int64)
        found[name] = float((sent * skeleton.layers[name].fan_out).sum() / len(n))
    return found

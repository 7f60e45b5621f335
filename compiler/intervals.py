"""Interval analysis: the least and the largest drive of every neuron at any step, from weights and payloads alone.

Finer than `passes.ranges`: per neuron, with real payloads per channel, for float networks in any form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from d2e.compiler.soft_reset import refusal, soft_reset
from d2e.ir import (
    LI,
    Affine,
    Conv1d,
    Conv2d,
    Delay,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Scale,
    Synapse,
    infer_shapes,
    linear,
)
from d2e.ir.nodes import Array, Shape

Bounds: TypeAlias = tuple[Array, Array]
"""Least and largest value of every element of a frame; infinite where nothing is known."""


def drives(network: Network, input_range: tuple[Array | float, Array | float] | None = None) -> dict[str, Bounds]:
    """Population -> bounds [*shape] of x = gain * u + bias at one step, u being what arrives.

    Args:
        network: float, without synaptic currents where the bounds shall mean anything.
        input_range: least and largest value of the input, numbers or [*input shape]; None: without bounds.
    """
    shapes = infer_shapes(network)
    sent: dict[str, Bounds] = {}
    found: dict[str, Bounds] = {}
    for name in network.order:
        node, shape = network.nodes[name], shapes[name]
        if isinstance(node, Input):
            low, high = (-np.inf, np.inf) if input_range is None else input_range
            sent[name] = np.broadcast_to(np.float64(low), shape), np.broadcast_to(np.float64(high), shape)
            continue
        into = network.incoming[name]
        arriving = shapes[into[0].source] if into else shape
        unknown = np.full(arriving, -np.inf), np.full(arriving, np.inf)
        parts = [unknown if e.recurrent else sent[e.source] for e in into]
        low, high = (np.sum([p[i] for p in parts], axis=0) if parts else np.zeros(arriving) for i in (0, 1))
        if isinstance(node, Neuron):
            found[name] = _driven(node, (low, high))
            sent[name] = _sent(node, found[name])
        elif isinstance(node, Delay):
            sent[name] = np.minimum(low, 0.0), np.maximum(high, 0.0)
        elif isinstance(node, Synapse):
            sent[name] = _through(node, (low, high))
    return found


def _driven(node: Neuron, arriving: Bounds) -> Bounds:
    low, high = (_times(bound, node.gain) for bound in arriving)
    return np.minimum(low, high) + node.bias, np.maximum(low, high) + node.bias


def _sent(node: Neuron, driven: Bounds) -> Bounds:
    """Bounds of what a population sends at one step."""
    if isinstance(node, LI):
        return np.full(node.shape, -np.inf), np.full(node.shape, np.inf)
    if refusal(node) is None:
        cell = soft_reset(node)
        (least, most), payload = cell.per_step(*driven), cell.payload
    else:
        sent = np.array([0.0, node.max_spikes or np.inf])
        if isinstance(node, MultiThreshold):
            sent = np.append(node.levels if node.payloads is None else node.payloads, 0.0)
            sent = np.concatenate([sent, -sent]) if node.signed else sent
        least, most, payload = np.asarray(sent.min()), np.asarray(sent.max()), node.amplitude
    ends = _times(least, payload), _times(most, payload)
    return np.broadcast_to(np.minimum(*ends), node.shape), np.broadcast_to(np.maximum(*ends), node.shape)


def _times(bound: Array, factor: Array) -> Array:
    """A product in which nothing times an infinite value is nothing."""
    return np.asarray(np.where(factor == 0, 0.0, bound) * factor)


def _through(node: Synapse, arriving: Bounds) -> Bounds:
    """Positive weights take a bound to the same side, negative ones to the other."""
    low, high = arriving
    positive, negative = _parts(node)
    bias = linear.apply(node, np.zeros((1, *low.shape)), low.shape)[0] if isinstance(node, (Affine, Conv1d, Conv2d)) else 0.0
    least = _apply(positive, low, -np.inf) + bias
    largest = _apply(positive, high, np.inf) + bias
    if negative is not None:
        least = least + _apply(negative, high, -np.inf)
        largest = largest + _apply(negative, low, np.inf)
    return least, largest


def _parts(node: Synapse) -> tuple[Synapse, Synapse | None]:
    """The positive and the negative part of a map, without bias; pools and reshapes have none below 0."""
    if isinstance(node, Linear):
        weight = np.asarray(node.weight, np.float64)
        return Linear(weight=np.maximum(weight, 0)), Linear(weight=np.minimum(weight, 0))
    if isinstance(node, (Conv1d, Conv2d)):
        plain = replace(node, bias=None, quantized=None)
        weight = np.asarray(node.weight, np.float64)
        return replace(plain, weight=np.maximum(weight, 0)), replace(plain, weight=np.minimum(weight, 0))
    if isinstance(node, Scale):
        scale = np.asarray(node.scale, np.float64)
        return Scale(scale=np.maximum(scale, 0)), Scale(scale=np.minimum(scale, 0))
    return node, None


def _apply(node: Synapse, bound: Array, infinite: float) -> Array:
    """A map of one sign applied to one bound; ``infinite`` where an infinite value passes a weight that is not 0."""
    endless = np.isinf(bound)
    finite = np.where(endless, 0.0, bound)[None]
    shape: Shape = bound.shape
    reached: Array = linear.apply(node, finite, shape)[0]
    if not endless.any():
        return reached
    touched = linear.apply(_touching(node), endless[None].astype(np.float64), shape)[0] > 0
    return np.asarray(np.where(touched, infinite, reached))


def _touching(node: Synapse) -> Synapse:
    """The map with 1 for every weight that is not 0."""
    if isinstance(node, (Linear, Conv1d, Conv2d)):
        return replace(node, weight=(node.weight != 0).astype(np.float64))
    return Scale(scale=(node.scale != 0).astype(np.float64)) if isinstance(node, Scale) else node

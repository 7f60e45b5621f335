"""Runs a network of staircases on whole batches: one step, one population after the other.

In double precision it sends what `d2e.ir.reference` sends for the network that `build` makes (tested).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from d2e.compiler.convert.single_step.staircase import Staircase, sent_by
from d2e.compiler.convert.skeleton import Layer, Skeleton
from d2e.ir.nodes import Array

Plan = Mapping[str, Staircase]
"""Population -> its neurons."""


@dataclass
class Run:
    """What a batch does.

    Attributes:
        sent: node -> frames [B, *shape] that it sends.
        n: population -> crossed levels, uint8 rows [B, N].
    """

    sent: dict[str, Tensor]
    n: dict[str, Array] = field(default_factory=dict)

    def logits(self, skeleton: Skeleton) -> Array:
        """[B, classes]."""
        return np.asarray(self.sent[skeleton.readout.name].numpy())


def begin(skeleton: Skeleton, images: Array) -> Run:
    """A batch before the first population."""
    return Run({skeleton.input: skeleton.image_frames(images)})


def receives(skeleton: Skeleton, run: Run, layer: Layer, shift: Array | None = None) -> Array:
    """What a population receives, bias included: rows [B, N]."""
    bias = layer.bias if shift is None else layer.bias + layer.per_neuron(shift).astype(layer.bias.dtype)
    return layer.rows(skeleton.arriving(layer, run.sent)) + bias


def follow(layer: Layer, stairs: Staircase, z: Array, run: Run) -> None:
    """One more population of a run; ``z`` rows [B, N] hold its shift."""
    n, sent = sent_by(stairs, layer.per_channel(z))
    run.n[layer.name] = n.reshape(z.shape)
    run.sent[layer.name] = layer.frames(sent.reshape(z.shape))


def simulate(skeleton: Skeleton, plan: Plan, readouts: Mapping[str, Array], images: Array) -> Run:
    """A whole batch.

    Args:
        skeleton, plan: the network.
        readouts: readout -> [C] added to its bias.
        images: [B, *input shape].
    """
    run = begin(skeleton, images)
    for layer in skeleton.layers.values():
        if layer.host is not None:
            run.sent[layer.name] = layer.host(skeleton.arriving(layer, run.sent))
        elif layer.readout:
            run.sent[layer.name] = layer.frames(receives(skeleton, run, layer, readouts.get(layer.name)))
        else:
            follow(layer, plan[layer.name], receives(skeleton, run, layer, plan[layer.name].shift), run)
    return run


@dataclass(frozen=True)
class Traffic:
    """What one sample sends in the mean.

    Attributes:
        spikes, synops: a level that is crossed is a spike of its own.
        messages, message_synops: whatever is sent is one spike that carries an integer.
        bits: of payload, in all messages.
    """

    spikes: float
    synops: float
    messages: float
    message_synops: float
    bits: float


def traffic(skeleton: Skeleton, plan: Plan, n: Mapping[str, Array]) -> dict[str, Traffic]:
    """Of every population, from crossed levels rows [B, N]."""
    found = {}
    for name, rows in n.items():
        fan_out, samples = skeleton.layers[name].fan_out, len(rows)
        payloads = plan[name].payloads
        levels, some = rows.sum(axis=0, dtype=np.int64), (np.append(0, payloads) != 0)[rows].sum(axis=0)
        width = int(np.abs(payloads).max(initial=1)).bit_length() + int(plan[name].signed or (payloads < 0).any())
        found[name] = Traffic(*(float(total) / samples for total in (
            levels.sum(), (levels * fan_out).sum(), some.sum(), (some * fan_out).sum(), width * some.sum())))
    return found

"""Sets the neurons of a one-step network from unlabelled samples, layer by layer from the front.

Each layer is set given what the layers before it, as they are set by then, really send: what a population receives is the
spiking network's, what it should send is the ANN's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from d2e.compiler.convert import importance
from d2e.compiler.convert.adaptive.thresholds import eq8
from d2e.compiler.convert.evaluate import divergence
from d2e.compiler.convert.single_step.engine import begin, follow, receives, simulate, traffic
from d2e.compiler.convert.single_step.sites import IDENTITY
from d2e.compiler.convert.single_step.staircase import Sampled, Staircase, fitted, sent_by, uniform
from d2e.compiler.convert.skeleton import Layer, Skeleton, activate
from d2e.ir.nodes import Array

_MOST_ROWS = 1 << 15
_SCALES = 2.0 ** (np.arange(-8, 6) / 8)
_ROUNDS, _CORRECTIONS = 2, 3


@dataclass(frozen=True)
class Options:
    """How neurons are set.

    Attributes:
        fitted: levels where they are worth most (`staircase.fitted`); else at equal distances.
        rounds: with equal distances, payloads are the nearest level; else the one below.
        bias: mean payloads of each channel become those of the ANN.
    """

    fitted: bool = True
    rounds: bool = True
    bias: bool = True


@dataclass(frozen=True, eq=False)
class State:
    """A one-step network.

    Attributes:
        skeleton: of the ANN.
        plan: population -> its neurons.
        readouts: readout -> [C] added to its bias.
    """

    skeleton: Skeleton
    plan: Mapping[str, Staircase]
    readouts: Mapping[str, Array]

    @property
    def levels(self) -> dict[str, int]:
        """N of every population."""
        return {name: stairs.most for name, stairs in self.plan.items()}


class Calibrator:
    """Sets layers on some images.

    Attributes:
        skeleton: of the ANN.
        images: [B, *input shape].
        received, sent: of the ANN on the images, see `skeleton.activate`.
    """

    def __init__(self, skeleton: Skeleton, images: Array, options: Options, seed: int = 0) -> None:
        self.skeleton, self.images, self.options, self.seed = skeleton, images, options, seed
        self.received, self.sent = activate(skeleton, images)

    @cached_property
    def importance(self) -> dict[str, Array]:
        """See `importance.of`."""
        return importance.of(self.skeleton, self.images, self.seed)

    @cached_property
    def most_synops(self) -> int:
        """A spike from every neuron through every synapse."""
        return sum(int(layer.fan_out.sum()) for layer in self.skeleton.rectifiers)

    def every(self, most: int, *, price: float | None = None) -> State:
        """All layers set.

        Args:
            most: levels of every population.
            price: of ``most_synops`` in nats of divergence from the ANN; None: synops cost nothing.
        """
        return self._set(lambda layer, z: self._stairs(layer, z, most, price or 0.0))

    def rescaled(self, state: State, factors: Mapping[str, float]) -> State:
        """The same neurons with other scales, and biases that fit them."""
        return self._set(lambda layer, z: replace(
            state.plan[layer.name], scale=state.plan[layer.name].scale * factors[layer.name]))

    def _set(self, stairs_of: Callable[[Layer, Array], Staircase]) -> State:
        run, plan, readouts = begin(self.skeleton, self.images), dict[str, Staircase](), dict[str, Array]()
        for layer in self.skeleton.layers.values():
            if layer.host is not None:
                run.sent[layer.name] = layer.host(self.skeleton.arriving(layer, run.sent))
                continue
            z = receives(self.skeleton, run, layer)
            if layer.readout:
                shift = readouts[layer.name] = self._miss(layer, z)
                run.sent[layer.name] = layer.frames(z + layer.per_neuron(shift).astype(z.dtype))
                continue
            stairs = stairs_of(layer, z)
            stairs = plan[layer.name] = replace(stairs, shift=self._shift(layer, stairs, z))
            follow(layer, stairs, z + layer.per_neuron(stairs.shift).astype(z.dtype), run)
        return State(self.skeleton, plan, readouts)

    def row(self, state: State, images: Array, logits: Array) -> list[float]:
        """KL from the ANN with these logits, synops, spikes, then the spikes of each layer."""
        run = simulate(state.skeleton, state.plan, state.readouts, images)
        sent = traffic(state.skeleton, state.plan, run.n)
        own = [sent[layer.name].spikes for layer in self.skeleton.rectifiers]
        kl = divergence(logits, run.logits(state.skeleton))
        return [kl, sum(each.synops for each in sent.values()), sum(own), *own]

    def _stairs(self, layer: Layer, z: Array, most: int, price: float) -> Staircase:
        rows, target = layer.per_channel(z), layer.per_channel(self.sent[layer.name])
        at = slice(None) if len(rows) <= _MOST_ROWS else np.sort(
            np.random.default_rng(self.seed).choice(len(rows), _MOST_ROWS, replace=False))
        sampled = Sampled(
            rows[at], target[at], self.importance[layer.name],
            price / self.most_synops * layer.per_channel(layer.fan_out).sum(axis=0),
        )
        signed, falls = layer.activation == IDENTITY, layer.activation not in (IDENTITY, "relu")
        scale = eq8(np.abs(target) if signed else target, 1, most)
        if not self.options.fitted and not falls:
            stairs = uniform(scale, most, rounds=self.options.rounds, signed=signed)
            return self._scaled(sampled, stairs) if price or not self.options.rounds else stairs  # Eq. 8 rounds, for free
        stairs = fitted(sampled, scale * most, most, signed=signed, falls=falls)
        for _ in range(_ROUNDS):
            stairs = self._scaled(sampled, stairs)
            stairs = fitted(sampled, stairs.scale, most, signed=signed, falls=falls)
        return stairs

    def _scaled(self, sampled: Sampled, stairs: Staircase) -> Staircase:
        """With the scale of least cost in every channel."""
        tried = [replace(stairs, scale=stairs.scale * factor) for factor in _SCALES]
        cost = np.stack([sampled.cost(each) for each in tried])
        return replace(stairs, scale=stairs.scale * _SCALES[cost.argmin(axis=0)])

    def _shift(self, layer: Layer, stairs: Staircase, z: Array) -> Array:
        """[C] what the bias needs more: silent neurons do not follow it, so again as long as the mean comes closer."""
        shift, before = np.zeros(layer.channels), np.full(layer.channels, np.inf)
        for _ in range(_CORRECTIONS):
            sent = sent_by(stairs, layer.per_channel(z + layer.per_neuron(shift).astype(z.dtype)))[1]
            miss = self._miss(layer, sent.reshape(z.shape))
            closer = np.abs(miss) < before
            shift, before = shift + np.where(closer, miss, 0.0), np.where(closer, np.abs(miss), 0.0)
        return shift

    def _miss(self, layer: Layer, sent: Array) -> Array:
        """[C] what the mean of rows [B, N] lacks to the ANN's."""
        if not self.options.bias:
            return np.zeros(layer.channels)
        return np.asarray(layer.per_channel(self.sent[layer.name] - sent).mean(axis=0, dtype=np.float64))

"""Calibration without training: thresholds, weights, biases and starts of burst neurons, layer by layer from the front.

Each layer is set given what the layers before it, as they are set by then, really send; unlabelled samples are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from d2e.compiler.convert import importance
from d2e.compiler.convert.adaptive import thresholds, weights
from d2e.compiler.convert.adaptive.cases import row_of
from d2e.compiler.convert.adaptive.engine import Burst, chunks, drive, evidence, follow
from d2e.compiler.convert.skeleton import Layer, Skeleton, activate
from d2e.ir.nodes import Array

_HOLDS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
_IMAGES, _POSITIONS = 128, 32


@dataclass(frozen=True)
class Calibration:
    """What is calibrated.

    Attributes:
        drive: thresholds of least error under the inputs that neurons really receive; else by Eq. 8, as published.
        hold: largest hold, in thresholds: a neuron starts lower by it and gets it back over all steps, so that inputs of
            the first steps, which later ones may take back, fire nothing. 0: none. Needs ``drive``.
        early: with ``drive``, how much the errors after earlier steps count beside that after the last one: neurons that
            send evenly do less harm to those behind them.
        weights: strength of the ridge of `weights.calibrated`; 0: weights stay.
        bias: mean payloads of each channel become those of the ANN ("light").
        potential: the start of each channel makes up for what is left.
        per_layer: one threshold per layer.
    """

    drive: bool = True
    hold: float = 4.0
    early: float = 0.2
    weights: float = 0.01
    bias: bool = True
    potential: bool = False
    per_layer: bool = False


LIGHT = Calibration(drive=False, hold=0.0, early=0.0, weights=0.0)
"""As published: Eq. 8 and the bias."""
PRESETS: dict[str, Calibration] = {
    "none": replace(LIGHT, bias=False), "light": LIGHT, "potential": replace(LIGHT, potential=True),
    "advanced": Calibration(),
}


@dataclass(frozen=True, eq=False)
class State:
    """A spiking network and what it does on the calibration images; layers that are not set yet are missing.

    Attributes:
        skeleton: with the weights as they are calibrated.
        plan, spikes: of every population.
        shifts: what the calibration of its weights adds to a population's bias [C].
        ratios: rho, by which a population's thresholds are larger than those of least error.
    """

    skeleton: Skeleton
    plan: Mapping[str, Burst] = field(default_factory=dict)
    spikes: Mapping[str, Array] = field(default_factory=dict)
    shifts: Mapping[str, Array] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def bursts(self) -> dict[str, int]:
        """phi of every population."""
        return {layer.name: self.plan[layer.name].most for layer in self.skeleton.rectifiers}


class Calibrator:
    """Sets layers on some images.

    Attributes:
        skeleton: of the ANN.
        images: [B, *input shape].
        steps: T.
        received, sent: of the ANN on the images, see `engine.activate`.
    """

    def __init__(self, skeleton: Skeleton, images: Array, steps: int, options: Calibration, seed: int = 0) -> None:
        self.skeleton, self.images, self.steps, self.options, self.seed = skeleton, images, steps, options, seed
        self.received, self.sent = activate(skeleton, images)

    @cached_property
    def importance(self) -> dict[str, Array]:
        """See `importance.of`."""
        return importance.of(self.skeleton, self.images, self.seed)

    @cached_property
    def most_synops(self) -> int:
        """A spike from every neuron through every synapse at every step."""
        return self.steps * sum(int(layer.fan_out.sum()) for layer in self.skeleton.rectifiers)

    def every(
        self, most: int | Mapping[str, int], ratios: Mapping[str, float] | None = None, price: float | None = None
    ) -> State:
        """All layers set.

        Args:
            most: phi of every population.
            ratios: rho of every population, by which its threshold is larger than the error asks for; None: 1.
            price: of ``most_synops`` in nats of divergence from the ANN; thresholds are as large, and phi as small, as is
                worth it. Needs ``drive``. None: thresholds of least error, phi as given.
        """
        state = State(self.skeleton)
        for layer in self.skeleton.rectifiers:
            phi = most if isinstance(most, int) else most[layer.name]
            state = self.layer(state, layer, phi, (ratios or {}).get(layer.name, 1.0), price=price)
        return self.readout(state)

    def row(self, state: State, images: Array, logits: Array) -> list[float]:
        """See `row_of`."""
        return row_of(state.skeleton, state.plan, images, logits, self.steps)

    def layer(
        self, state: State, layer: Layer, most: int, ratio: float = 1.0, *, price: float | None = None,
        with_weights: bool = True,
    ) -> State:
        """One more layer set, or set anew."""
        skeleton, shift, options = state.skeleton, np.zeros(layer.channels), self.options
        rng = np.random.default_rng([self.seed, list(self.skeleton.layers).index(layer.name)])
        if options.weights and with_weights:
            skeleton, shift = weights.calibrated(
                skeleton, state.plan, layer, state.spikes, self.received[layer.name], self.images, options.weights, rng,
            )
            state = replace(state, skeleton=skeleton, shifts={**state.shifts, layer.name: shift})
        shift = state.shifts.get(layer.name, shift)
        chosen = self._thresholds(state, layer, most, shift, rng, price)
        theta = chosen.threshold * ratio
        neurons = Burst(theta, (0.5 - chosen.hold) * theta, shift + chosen.hold * theta / self.steps, chosen.most)
        state = replace(state, ratios={**state.ratios, layer.name: chosen.ratio * ratio})
        return self._corrected(state, layer, neurons)

    def _thresholds(
        self, state: State, layer: Layer, most: int, shift: Array, rng: np.random.Generator, price: float | None
    ) -> thresholds.Chosen:
        activations, per_layer = layer.per_channel(self.sent[layer.name]), self.options.per_layer
        theta = thresholds.eq8(activations, self.steps, most, per_layer=per_layer)
        if not self.options.drive:
            return thresholds.Chosen(theta, 0 * theta, most, 1.0)
        holds = [h for h in _HOLDS if h <= self.options.hold]
        costs = {} if price is None else {
            "importance": self.importance[layer.name],
            "price": price / self.most_synops * layer.per_channel(layer.fan_out).sum(axis=0),
        }
        return thresholds.on_drive(self._sampled(state, layer, shift, rng), theta, most, holds, per_layer=per_layer, **costs)

    def _sampled(self, state: State, layer: Layer, shift: Array, rng: np.random.Generator) -> thresholds.Sampled:
        images, channels = min(_IMAGES, len(self.images)), layer.channels
        positions = layer.size // channels
        at = rng.integers(0, positions, (images, min(_POSITIONS, positions)))
        own = [path.source for path in layer.paths if path.source != self.skeleton.input]
        kept = []
        for part in chunks(layer, images, self.steps):
            driven = drive(
                state.skeleton, state.plan, layer, {s: state.spikes[s][part] for s in own}, self.images[part]
            )
            rows = driven.reshape(*driven.shape[:2], positions, channels)
            kept.append(np.take_along_axis(rows, at[part][:, None, :, None], 2))
        found = np.concatenate(kept) + layer.bias.reshape(positions, channels)[at][:, None]
        found = np.broadcast_to(found + shift.astype(found.dtype), (images, self.steps, *found.shape[2:]))
        sent = self.sent[layer.name][:images].reshape(images, positions, channels)
        target = np.take_along_axis(sent, at[:, :, None], 1)
        return thresholds.Sampled(
            np.ascontiguousarray(found.transpose(3, 1, 0, 2).reshape(channels, self.steps, -1)),
            np.ascontiguousarray(target.reshape(-1, channels).T), self.options.early,
        )

    def _corrected(self, state: State, layer: Layer, neurons: Burst) -> State:
        plan = {**state.plan, layer.name: neurons}
        n = follow(state.skeleton, plan, layer, state.spikes, self.images, self.steps)
        for correct in ("bias", "potential"):
            if not getattr(self.options, correct):
                continue
            sent = layer.per_channel(n.mean(axis=1, dtype=np.float32)).mean(axis=0, dtype=np.float64) * neurons.threshold
            miss = layer.per_channel(self.sent[layer.name]).mean(axis=0, dtype=np.float64) - sent
            if correct == "bias":
                neurons = replace(neurons, shift=neurons.shift + miss)
            else:
                neurons = replace(neurons, start=neurons.start + miss * self.steps)
            plan = {**plan, layer.name: neurons}
            n = follow(state.skeleton, plan, layer, state.spikes, self.images, self.steps)
        return replace(state, plan=plan, spikes={**state.spikes, layer.name: n})

    def readout(self, state: State) -> State:
        """The bias of the readout: the mean logits of the ANN."""
        layer = self.skeleton.readout
        if not self.options.bias:
            return state
        plan = {name: neurons for name, neurons in state.plan.items() if name != layer.name}
        logits = evidence(state.skeleton, plan, state.spikes, self.images, self.steps)[:, -1] / self.steps
        miss = (self.sent[layer.name] - logits).mean(axis=0, dtype=np.float64)
        ones = np.ones(layer.channels)
        return replace(state, plan={**plan, layer.name: Burst(ones, 0 * ones, miss, 1)})

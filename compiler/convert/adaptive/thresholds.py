"""Thresholds: by Eq. 8 of Adaptive Calibration, the error of the burst clip-floor, and on what neurons really receive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs

from d2e.compiler.convert.adaptive import kernels
from d2e.ir.nodes import Array

_PER_OCTAVE, _ABOVE, _BELOW = 8, 8, 40
_MOST_ROWS = 1 << 15
_WORTH_THREADS = 1 << 24
_OCTAVES_BELOW, _OCTAVES_ABOVE, _WORSE = 1, 3, 1.01


def burst_clip_floor(values: Array, threshold: Array, steps: int, most: int) -> Array:
    """What a burst neuron sends in the mean of ``steps`` steps of the constant input ``values``, from half a threshold on.

    ``V / T * clip(floor(T x / V + 1/2), 0, phi T)`` (Eq. 8 with the start of half a threshold written out); exact for
    constant inputs (tested).
    """
    count = np.clip(np.floor(steps * values / threshold + 0.5), 0, most * steps)
    return np.asarray(count * threshold / steps)


def eq8(activations: Array, steps: int, most: int, *, per_layer: bool = False) -> Array:
    """Thresholds [C] of least squared error between `burst_clip_floor` and the activations.

    Args:
        activations: rows [M, C] of what the ReLUs let through.
        steps: T.
        most: phi.
        per_layer: one threshold for all channels.

    Returns:
        Thresholds; a channel without activations gets the largest of the others.
    """
    rows = activations[:: max(1, len(activations) // _MOST_ROWS)]
    top = activations.max(axis=0).astype(np.float64)
    dead = top <= 0
    if dead.all():
        return np.ones_like(top)
    if per_layer:
        top = np.full_like(top, top.max())
    top = np.where(dead, top.max(), top)
    best, least = top / most, np.full(top.shape, np.inf)
    for step in range(-_ABOVE, _BELOW):
        threshold = top / most * 2.0 ** (-step / _PER_OCTAVE)
        error = np.square(burst_clip_floor(rows, threshold.astype(rows.dtype), steps, most) - rows).sum(axis=0)
        error = np.full_like(top, error.sum()) if per_layer else error
        best, least = np.where(error < least, threshold, best), np.minimum(error, least)
    return np.asarray(np.where(dead, best[~dead].max(), best))


@dataclass(frozen=True)
class Sampled:
    """Sampled neurons of a population.

    Attributes:
        drive: [C, T, M] inputs, bias included, of M neurons of each channel.
        target: [C, M] what the ANN's neurons send.
        early: weight of errors before the last step, see `kernels.errors`.
    """

    drive: Array
    target: Array
    early: float = 0.0

    def figures(self, thresholds: Array, holds: Sequence[float], most: int) -> tuple[Array, Array]:
        """(mean squared error, mean spikes over all steps) [C, K, H] with thresholds [C, K] and holds [H], in thresholds.

        See `kernels.errors`.
        """
        kind = self.drive.dtype
        candidates, held = thresholds.astype(kind), np.asarray(holds, kind)
        error, count = (np.zeros((*candidates.shape, len(held))) for _ in range(2))
        jobs = effective_n_jobs(-1) if self.drive.size * error[0].size > _WORTH_THREADS else 1
        parts = [slice(p[0], p[-1] + 1) for p in np.array_split(np.arange(len(candidates)), jobs) if len(p)]
        Parallel(n_jobs=len(parts), require="sharedmem")(delayed(kernels.errors)(
            self.drive[p], self.target[p], candidates[p], held, kind.type(most), self.early, error[p],
            count[p]) for p in parts)
        return error, count


@dataclass(frozen=True)
class Chosen:
    """Thresholds.

    Attributes:
        threshold, hold: [C].
        most: phi.
        ratio: geometric mean over the channels of the threshold over the one of least error.
    """

    threshold: Array
    hold: Array
    most: int
    ratio: float


def on_drive(
    sampled: Sampled, around: Array, most: int, holds: Sequence[float], *, importance: Array | None = None,
    price: Array | None = None, per_layer: bool = False,
) -> Chosen:
    """Thresholds and holds of least error of what neurons send under the inputs that they really receive.

    With a price, of least ``importance * error + price * spikes``, and the least phi that makes this at most 1 % worse.

    Args:
        sampled: neurons.
        around: [C] thresholds; others from half to 8 times as large are tried.
        most: phi.
        holds: in thresholds, see `kernels.errors`.
        importance: [C] what an error costs, see `importance.of`.
        price: [C] of a spike.
        per_layer: one threshold and hold for all channels.
    """
    octaves = np.arange(-_OCTAVES_BELOW * _PER_OCTAVE, _OCTAVES_ABOVE * _PER_OCTAVE + 1) / _PER_OCTAVE
    candidates = around[:, None] * 2.0**octaves
    error, count = sampled.figures(candidates, holds, most)
    plain, at = _least(error, per_layer), np.arange(len(candidates))
    if importance is None or price is None:
        return Chosen(candidates[at, plain // len(holds)], np.asarray(holds, float)[plain % len(holds)], most, 1.0)
    best = _least(importance[:, None, None] * error + price[:, None, None] * count, per_layer)
    threshold, hold = candidates[at, best // len(holds)], np.asarray(holds, float)[best % len(holds)]
    ratio = float(np.exp(np.log(threshold / candidates[at, plain // len(holds)]).mean()))
    worth = []
    for fewer in range(1, most + 1):
        found, sent = sampled.figures(threshold[:, None], holds, fewer)
        chosen = (at, 0, best % len(holds))
        worth.append(float((importance * found[chosen] + price * sent[chosen]).sum()))
    enough = next(i for i, loss in enumerate(worth, 1) if loss <= _WORSE * worth[-1])
    return Chosen(threshold, hold, enough, ratio)


def _least(loss: Array, per_layer: bool) -> Array:
    """Index [C] of the best of [C, K, H], K and H as one."""
    rows = loss.reshape(len(loss), -1)
    return np.full(len(rows), rows.sum(axis=0).argmin()) if per_layer else rows.argmin(axis=1)

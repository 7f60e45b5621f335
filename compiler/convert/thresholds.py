"""Thresholds: by Eq. 8 of Adaptive Calibration, the error of the burst clip-floor, and on what neurons really receive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs

from d2e.compiler.convert import kernels
from d2e.ir.nodes import Array

_PER_OCTAVE, _ABOVE, _BELOW = 8, 8, 40
_MOST_ROWS = 1 << 15


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


def on_drive(
    drive: Array, target: Array, around: Array, most: int, holds: Sequence[float]
) -> tuple[Array, Array]:
    """Thresholds and holds [C] of least squared error of what neurons send under the inputs that they really receive.

    Args:
        drive: [C, M, T] inputs, bias included, of M sampled neurons of each channel.
        target: [C, M] what the ANN's neurons send.
        around: [C] thresholds; others up to 1.7 times larger and smaller are tried.
        most: phi.
        holds: in thresholds, see `kernels.errors`.
    """
    kind = drive.dtype
    candidates = (around[:, None] * 2.0 ** (np.arange(-6, 7) / _PER_OCTAVE)).astype(kind)
    found = np.zeros((len(drive), candidates.shape[1], len(holds)))
    parts = [part for part in np.array_split(np.arange(len(drive)), effective_n_jobs(-1)) if len(part)]
    Parallel(n_jobs=len(parts), require="sharedmem")(delayed(kernels.errors)(
        drive[p[0] : p[-1] + 1], target[p[0] : p[-1] + 1], candidates[p[0] : p[-1] + 1], np.asarray(holds, kind),
        kind.type(most), found[p[0] : p[-1] + 1]) for p in parts)
    best = found.reshape(len(drive), -1).argmin(axis=1)
    at = np.arange(len(drive))
    return candidates[at, best // len(holds)].astype(np.float64), np.asarray(holds, np.float64)[best % len(holds)]

"""The loops of the simulated camera that are compiled: what a moving pixel sees, and when it sends."""

from __future__ import annotations

import numpy as np
from numba import njit

_REACHED = 1e-9
"""A level that is missed by this share of a threshold is reached: on a path that comes back, levels are met exactly."""
_NEAR = 1e-6
"""Relative: intensities so near to where a pixel sends are compared by their logarithm."""


@njit(nogil=True, cache=True)
def _widened(image, eps, border, wide):  # type: ignore[no-untyped-def]
    """eps + I, float64 [H + 2 * border, W + 2 * border]: the image's edge goes on beyond it."""
    height, width = image.shape
    for row in range(wide.shape[0]):
        for column in range(wide.shape[1]):
            seen = image[min(max(row - border, 0), height - 1), min(max(column - border, 0), width - 1)]
            wide[row, column] = eps + seen


@njit(nogil=True, cache=True)
def _see(wide, top, left, low_share, right_share, seen):  # type: ignore[no-untyped-def]
    """An image bilinear between four pixels: seen [H, W] is ``wide`` from (top + low_share, left + right_share) on."""
    height, width = seen.shape
    a, b = (1.0 - low_share) * (1.0 - right_share), (1.0 - low_share) * right_share
    c, d = low_share * (1.0 - right_share), low_share * right_share
    for row in range(height):
        upper, lower, out = wide[top + row, left:], wide[top + row + 1, left:], seen[row]
        for column in range(width):
            out[column] = a * upper[column] + b * upper[column + 1] + (c * lower[column] + d * lower[column + 1])


@njit(nogil=True, cache=True)
def _silent(level, off, on):  # type: ignore[no-untyped-def]
    """Between which intensities a pixel certainly sends nothing."""
    return np.exp(level - off) * (1.0 + _NEAR), np.exp(level + on) * (1.0 - _NEAR)


@njit(nogil=True, cache=True)
def _memorise(seen, all_of_them, level, low, high, off, on):  # type: ignore[no-untyped-def]
    """Let all pixels, or those in reset (``high`` is infinite), memorise what they see."""
    for row in range(seen.shape[0]):
        for column in range(seen.shape[1]):
            at = row, column
            if all_of_them or high[at] == np.inf:
                level[at] = np.log(seen[at])
                low[at], high[at] = _silent(level[at], off[at], on[at])


@njit(nogil=True, cache=True)
def _send(seen, level, low, high, off, on, limit, out):  # type: ignore[no-untyped-def]
    """Events of one stride: each pixel moves its level by the thresholds between it and what it sees."""
    for row in range(seen.shape[0]):
        for column in range(seen.shape[1]):
            at = row, column
            if low[at] < seen[at] < high[at]:
                continue
            change = np.log(seen[at]) - level[at]
            polarity = 1 if change > 0 else 0
            threshold = on[at] if polarity else -off[at]
            crossed = int(change / threshold + _REACHED)
            room = limit - out[polarity, row, column]
            out[polarity, row, column] += np.uint8(min(crossed, room))
            level[at] += crossed * threshold
            low[at], high[at] = (-np.inf, np.inf) if crossed >= room else _silent(level[at], off[at], on[at])


@njit(nogil=True, cache=True)
def record(images, path, eps, off, on, limit, substeps, sent):  # type: ignore[no-untyped-def]
    """Counts of events of all samples, see `d2e.compiler.events.camera.Camera`.

    Logarithms are taken only of intensities at which a pixel may send.

    Args:
        images: [n, H, W] in 0..1.
        path: float64 [T * substeps + 1, 2], positions x, y of the camera.
        eps: light that comes from a black pixel.
        off, on: float64 [H, W], thresholds.
        limit: most events per pixel, step and polarity.
        substeps: positions per step.
        sent: uint8 [n, T, 2, H, W], zeros, written.
    """
    height, width = off.shape
    border = int(np.ceil(np.abs(path).max())) + 1
    wide = np.empty((height + 2 * border, width + 2 * border))
    level, seen = np.empty((height, width)), np.empty((height, width))
    low, high = np.empty((height, width)), np.empty((height, width))
    start = np.floor(path)
    share = path - start
    for sample in range(len(images)):
        _widened(images[sample], eps, border, wide)
        for moment in range(len(path)):
            top, left = border + int(start[moment, 1]), border + int(start[moment, 0])
            _see(wide, top, left, share[moment, 1], share[moment, 0], seen)
            if moment:
                _send(seen, level, low, high, off, on, limit, sent[sample, (moment - 1) // substeps])
            if moment % substeps == 0:
                _memorise(seen, moment == 0, level, low, high, off, on)

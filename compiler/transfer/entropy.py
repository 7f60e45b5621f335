"""What an encoder can say of a pixel, what it does say, and how many events that takes (Theorem 2).

The ceiling is the logarithm of the number of different spike trains: log2(T + 1) for one spike in T steps or none. Entropies
are marginal: of the values of all pixels of all images together, each by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from d2e.ir import Encoder
from d2e.ir.nodes import Array

_GRID = 1 << 16
_MOST = 1 << 40


def symbols(encoder: Encoder, time_steps: int) -> int:
    """How many different trains an encoder can send for one value in 0..1, counted over a grid of 2**16 steps.

    T + 1 for "ttfs", T for "latency"; as published, with a strict comparison, T too, for nothing is sent at the first step.
    """
    if encoder.kind == "bernoulli":
        return 1 << time_steps
    values = np.linspace(0.0, 1.0, _GRID + 1)[None]
    trains = _trains(encoder.encode(encoder.spread(values, time_steps), 0, 1))
    return len(np.unique(trains))


def ceiling(symbols: int) -> float:
    """Most bits that one of so many symbols says."""
    return math.log2(symbols)


def entropy(payloads: Array) -> float:
    """Marginal entropy of what is sent for an element of a frame, its whole train being one symbol, in bits.

    Args:
        payloads: encoded [n, time, *shape], integers or real.
    """
    return _bits(_trains(payloads))


def pixel_bits(images: Array) -> float:
    """Marginal entropy of pixels in 0..1, rounded to 8 bits [n, *shape]."""
    return _bits(np.rint(np.asarray(images, np.float64).ravel() * 255).astype(np.int64))


def spike_fraction(payloads: Array) -> float:
    """Share of the elements of a frame that send anything in their [n, time, *shape]."""
    return float((payloads != 0).any(axis=1).mean())


def input_events(payloads: Array) -> float:
    """Events per sample of [n, time, *shape], a payload of n counted n times."""
    return float(np.abs(payloads).sum(dtype=np.float64) / len(payloads))


def encoder_facts(payloads: Array, images: Array | None = None, symbols: int | None = None) -> dict[str, Any]:
    """The part ``encoder`` of the report, all measured but the ceiling.

    Args:
        payloads: encoded [n, time, *shape].
        images: in 0..1 [n, *shape] that they were made of.
        symbols: different trains that the encoder can send for one pixel, for the ceiling.
    """
    return {
        **({} if symbols is None else {"ceiling_bits": ceiling(symbols)}), "entropy_bits": entropy(payloads),
        **({} if images is None else {"pixel_bits": pixel_bits(images)}),
        "spike_fraction": spike_fraction(payloads), "input_events": input_events(payloads),
    }


def _trains(payloads: Array) -> Array:
    """A number per element that is equal where all its steps are; steps that would not fit are numbered anew."""
    names, known = np.zeros(payloads.shape[0] * math.prod(payloads.shape[2:]), np.int64), 1
    for t in range(payloads.shape[1]):
        step, different = _numbered(payloads[:, t].ravel())
        if known * different > _MOST:
            names, known = _numbered(names)
        names, known = names * different + step, known * different
    return names


def _numbered(values: Array) -> tuple[Array, int]:
    """(a number 0 … n-1 per value, n), small ranges of integers as they stand."""
    if values.dtype.kind in "biu" and values.size:
        low, high = int(values.min()), int(values.max())
        if high - low < 1 << 10:
            return values.astype(np.int64) - low, high - low + 1
    found, numbers = np.unique(values, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64), len(found)


def _bits(symbols: Array) -> float:
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(shares * np.log2(shares)).sum()) + 0.0

"""Sums over large weight arrays, a block at a time: in float64 as if at once, without a copy of the whole.

A network's memory is its weights; what a pass computes of them must not take a multiple of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from d2e.ir.nodes import Array

SIZE = 1 << 16
"""Numbers of a block: a few of them fit a core's cache."""


def blocks(array: Array) -> Iterator[Array]:
    """The numbers of an array in order, as float64."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, SIZE):
        yield flat[start : start + SIZE].astype(np.float64)


def largest(arrays: Sequence[Array]) -> float:
    """The largest |w|; 0 for none."""
    return max((max(float(a.max()), -float(a.min())) for a in arrays if a.size), default=0.0)


def percentile(arrays: Sequence[Array], share: float) -> float:
    """``np.percentile`` of |w| over all arrays."""
    size = sum(a.size for a in arrays)
    position = (size - 1) * share / 100
    keep = size - int(position)  # so many of the largest hold the two numbers it lies between
    kept = np.zeros(0)
    for array in arrays:
        for block in blocks(array):
            kept = np.concatenate([kept, np.abs(block)])
            if kept.size > 2 * keep + SIZE:
                kept = np.partition(kept, kept.size - keep)[-keep:]
    kept = np.sort(kept)[-keep:]
    return float(np.percentile(kept[:2], 100 * (position - int(position)))) if size else 0.0


def distinct(arrays: Sequence[Array], most: int) -> Array | None:
    """The values of |w| in order; None where there are more than ``most``."""
    found = np.zeros(0)
    for array in arrays:
        for block in blocks(array):
            found = np.union1d(found, np.abs(block))
            if found.size > most:
                return None
    return found


def nearest(array: Array, step: float, low: int, high: int) -> Array:
    """``array`` in steps, as the nearest integers in low..high, in the narrowest type."""
    result = np.empty(array.size, narrowest(low, high))
    for start, block in enumerate(blocks(array)):
        result[start * SIZE : start * SIZE + block.size] = _rounded(block, step, low, high, block)
    result.setflags(write=False)  # a node then keeps it without a copy
    return result.reshape(array.shape)


def squared_error(array: Array, step: float, low: int, high: int) -> float:
    """Sum of the squares of what `nearest` takes away."""
    total, rest = 0.0, np.empty(min(SIZE, array.size))
    for block in blocks(array):
        taken = _rounded(block, step, low, high, rest[: block.size])
        taken *= step
        taken -= block
        total += float(np.square(taken, out=taken).sum())
    return total


def _rounded(block: Array, step: float, low: int, high: int, out: Array) -> Array:
    np.divide(block, step, out=out)
    np.rint(out, out=out)
    np.minimum(out, high, out=out)
    return np.maximum(out, low, out=out)


def narrowest(low: int, high: int) -> np.dtype[np.signedinteger]:
    """The smallest signed type that holds low..high."""
    fits = (t for t in (np.int8, np.int16, np.int32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.dtype(next(fits, np.int64))


def row_sums(weight: Array) -> tuple[Array, Array]:
    """(sum of the positive weights, sum of the negative) of each row of the first axis."""
    rows = weight.reshape(weight.shape[0], -1)
    positive, negative = np.zeros(len(rows)), np.zeros(len(rows))
    step = max(1, SIZE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].astype(np.float64)
        positive[start : start + step] = np.maximum(part, 0).sum(axis=1)
        negative[start : start + step] = np.minimum(part, 0).sum(axis=1)
    return positive, negative

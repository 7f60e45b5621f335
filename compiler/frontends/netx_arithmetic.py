"""What lava-dl 0.6.0's netx computes: the integers its Dense synapse really holds, and which neurons fire too early.

netx scales a matrix to 8 bits and an exponent (``netx/utils.py optimize_weight_bits``), Lava's Dense clips, drops low bits
and shifts the sum back (lava-nc 0.10.0 ``utils/weightutils.py``, ``proc/dense/models.py``). Nearly always that is the matrix
itself; where it is another one, or no matrix at all, `delivered` says so.
"""

from __future__ import annotations

import numpy as np

from d2e.ir.nodes import Array, FixedPoint, Neuron, integral

LARGEST = (-256, 254)
"""What netx clips weights of both signs to."""


def delivered(weights: list[Array], max_payload: int) -> list[Array] | None:
    """The integer matrices that netx computes with in place of these; None where it rounds sums, not weights.

    Args:
        weights: [out, in] each, side by side in one layer (input weights, then recurrent ones): they share an exponent.
        max_payload: largest payload that arrives; where negative ones do, any large number.
    """
    low, high = _range(weights)
    if low < 0 < high and (low < LARGEST[0] or high > LARGEST[1]):
        weights = [np.clip(w, *LARGEST) for w in weights]
        low, high = _range(weights)
    if low == high == 0:
        return list(weights)  # no weights: netx divides by zero, and what it then has is zero still
    shift, bits = _scaled(weights, low, high)
    if shift < 0:
        return [np.zeros_like(w) for w in weights]  # numpy shifts by a negative number to zero
    results = [_dense(part, shift, bits, max_payload) for part in weights]
    return None if any(r is None for r in results) else [r for r in results if r is not None]


def weight_bits(weights: list[Array]) -> int:
    """Bits that netx gives the weights of a layer; its models on the CPU take 9, a chip's synapse has 8."""
    low, high = _range(weights)
    return _scaled(weights, low, high)[1] if low or high else 1


def _range(weights: list[Array]) -> tuple[int, int]:
    return min(int(w.min()) for w in weights), max(int(w.max()) for w in weights)


def fires_early(node: Neuron, current: Array, steps: int) -> bool:
    """Whether a population from rest fires in ``steps`` steps on its bias alone, and ``current`` from the second on.

    netx starts all layers at once, so a layer's bias runs before frame 0 has reached it. The reset that comes with frame 0
    clears the charge (netx ``reset_interval``), not the spikes on their way.
    """
    fixed = node.arithmetic or FixedPoint()
    keep_syn, keep_mem = (integral(0) if d is None else d.astype(np.int64) for d in node.decays)
    u = v = np.zeros(np.broadcast_shapes(node.shape, current.shape), np.int64)
    arriving = current << fixed.fraction_bits
    for step in range(steps):
        u = _kept(u, keep_syn, fixed.decay_bits) + (arriving if step else 0)
        v = _kept(v, keep_mem, fixed.decay_bits) + u + node.bias.astype(np.int64)
        if (v > node.threshold.astype(np.int64) << fixed.fraction_bits).any():
            return True
    return False


def _kept(state: Array, keep: Array, bits: int) -> Array:
    return np.asarray(np.sign(state) * (np.abs(state) * keep >> bits))


def _scaled(weights: list[Array], low: int, high: int) -> tuple[int, int]:
    """netx's shift to the left and number of weight bits."""
    mixed = low < 0 <= high
    halves = min(127 / high if high else np.inf, 128 / -low if low else np.inf)
    scale = halves if mixed else 255 / high if low >= 0 else 256 / -low
    shift = int(np.floor(np.log2(scale))) + mixed
    joined = 0
    for part in weights:
        joined |= int(np.bitwise_or.reduce(part, axis=None))  # as many zeros below its last bit as all have
    zeros = min(8, (joined & -joined).bit_length() - 1)
    return shift, 8 - shift - (zeros - mixed)


def _dense(wanted: Array, shift: int, bits: int, max_payload: int) -> Array | None:
    """Lava's Dense with ``wanted << shift``: clip, drop low bits, sum, shift right again."""
    low, high = int(wanted.min()) << shift, int(wanted.max()) << shift
    mixed = low < 0 < high
    dropped = 8 - bits + mixed
    if dropped >= 0 and (-256 if mixed else -255) <= low and high <= 255:
        return wanted  # nothing is clipped or dropped: the usual case, told without a copy
    sign = -1 if low < 0 and not mixed else 1
    clipped = np.clip(sign * wanted << shift, -256 if mixed else 0, 255)
    kept = sign * (clipped >> dropped << dropped if dropped >= 0 else np.zeros_like(clipped))
    if (kept % (1 << shift) == 0).all():
        return np.asarray(kept >> shift)
    missing = kept - (wanted << shift)  # the sum's floor hides it while it stays below one unit
    hidden = (missing >= 0).all() and int(missing.sum(axis=1).max()) * max_payload < 1 << shift
    return wanted if hidden else None

"""The compiled inner loops: one population over all time steps, event driven, for a few samples at a time.

Frames are rows of bytes in channels-last order, so that one spike adds one contiguous run of weights per kernel tap.
A byte holds n, the spikes of a burst or the level crossed (int8 where signed); a source's table says which payload
that is. All arithmetic is int32 unless a leak needs more; the plan proves that the sums fit. One file, because numba's
cache watches no other.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros

_HALF = np.int32(1 << 23)
_WRAP = np.int32(24)
_SHIFT = np.int32(6)
BLOCK = 16
"""int32 lanes of a 512-bit register; rows of matrices are padded to it."""


@njit
def _copy(source, target):  # type: ignore[no-untyped-def]
    """A loop: numba compiles seconds longer for an assignment of arrays, most of it its error message."""
    for n in range(source.size):
        target[n] = source[n]


@njit(inline="always")
def _active(words, index):  # type: ignore[no-untyped-def]
    """Positions of the non-zero bytes of a row given as 64-bit words; returns how many."""
    found = np.uintp(0)
    for k in range(np.uintp(words.size)):
        word = words[np.uintp(k)]
        while word != np.uint64(0):
            byte = trailing_zeros(word) >> np.uint64(3)  # type: ignore[call-arg]
            index[found] = np.int64(np.uint64(k) * np.uint64(8) + byte)
            found += np.uintp(1)
            word &= ~(np.uint64(255) << (byte << np.uint64(3)))
    return np.int64(found)


@njit(inline="always")
def _add(acc, start, weights, at, size, payload):  # type: ignore[no-untyped-def]
    """acc[start:start+size] += payload * weights[at:at+size].

    Flat arrays and unsigned indices: a slice, or the check for negative indices, costs ten times the additions. Every
    step is cast: numba widens int32 arithmetic to int64.
    """
    to, source = np.uintp(start), np.uintp(at)
    if payload == 1:
        for j in range(np.uintp(size)):
            k = np.uintp(j)
            acc[to + k] = np.int32(acc[to + k] + np.int32(weights[source + k]))
    else:
        for j in range(np.uintp(size)):
            k = np.uintp(j)
            acc[to + k] = np.int32(acc[to + k] + np.int32(np.int32(weights[source + k]) * payload))


@njit(inline="always")
def _sent(table, byte):  # type: ignore[no-untyped-def]
    """The payload a byte stands for."""
    return table[byte] if table.shape[0] else np.int32(byte)


@njit(inline="always")
def _add_matrix(words, bytes_, table, lag, weights, width, t, index, acc):  # type: ignore[no-untyped-def]
    """acc += W s[t - lag]; ``weights`` [in * width] row by row of an input."""
    if t < lag:
        return
    found = _active(words[t - lag], index)
    for e in range(found):
        i = index[e]
        _add(acc, 0, weights, i * width, width, _sent(table, bytes_[t - lag, i]))


@njit(inline="always")
def _add_conv(  # type: ignore[no-untyped-def]
    words, bytes_, table, lag, weights, tap_to, tap_from, tap_start, shape, t, index, acc
):
    """acc += conv(s[t - lag]).

    ``weights``: [tap, in channel, out channels of its group], flat. For every input position p, the entries
    tap_start[p]..tap_start[p + 1] say where its spikes go: ``tap_to`` is an offset into acc, ``tap_from`` one into
    weights. ``shape`` = (in channels, in channels per group, out channels of a group).
    """
    if t < lag:
        return
    found = _active(words[t - lag], index)
    channels, per_group, width = np.uintp(shape[0]), np.uintp(shape[1]), np.uintp(shape[2])
    for e in range(np.uintp(found)):
        i = np.uintp(index[np.uintp(e)])
        payload = _sent(table, bytes_[t - lag, i])
        position = i // channels
        channel = i - position * channels
        to = channel // per_group * width
        at = channel * width
        for k in range(tap_start[position], tap_start[position + np.uintp(1)]):
            tap = np.uintp(k)
            _add(acc, np.uintp(tap_to[tap]) + to, weights, np.uintp(tap_from[tap]) + at, width, payload)


@njit(inline="always")
def _add_self(bytes_, table, lag, weight, t, acc):  # type: ignore[no-untyped-def]
    """acc += weight * s[t - lag], elementwise."""
    if t < lag:
        return
    if table.shape[0]:
        for n in range(weight.size):
            acc[n] = np.int32(acc[n] + np.int32(weight[n] * table[bytes_[t - lag, n]]))
    else:
        for n in range(weight.size):
            acc[n] = np.int32(acc[n] + np.int32(weight[n] * np.int32(bytes_[t - lag, n])))


@njit(inline="always")
def _beyond(x):  # type: ignore[no-untyped-def]
    """1 above 2**23, -1 at or below -2**23, else 0."""
    return np.int32(np.int32(x > _HALF) - np.int32(x <= -_HALF))


@njit
def _step_soft(acc, u, before, threshold, weight, spikes, counts):  # type: ignore[no-untyped-def]
    """One step of u += I + weight * before, fire on u (du=-1, dv=4096); one wrap beyond 24 bits, as Lava's.

    v is u saturated, and 0 where it fired (`_visible`); saturation changes no comparison, thresholds are below 2**23.
    Returns how many states overflowed.
    """
    over = np.int32(0)
    for n in range(spikes.size):
        current = np.int32(acc[n] + np.int32(weight[n] * np.int32(before[n])))
        x = np.int32(u[n] + np.int32(current << _SHIFT))
        beyond = _beyond(x)
        x = np.int32(x - np.int32(beyond << _WRAP))
        fired = x > threshold
        over = np.int32(over + np.int32((beyond != 0) | (x == _HALF)))
        u[n] = x
        spikes[n] = np.uint8(fired)
        counts[n] = np.int32(counts[n] + np.int32(fired))
    return over


@njit
def _step_hard(acc, bias, u, v, threshold, spikes, counts):  # type: ignore[no-untyped-def]
    """One step of v += I + bias, reset to zero (du=4095, dv=0). Returns how many states overflowed."""
    over = np.int32(0)
    for n in range(spikes.size):
        x = np.int32(acc[n] << _SHIFT)
        beyond = _beyond(x)
        x = np.int32(x - np.int32(beyond << _WRAP))
        y = np.int32(np.int32(v[n] + x) + bias[n])
        clipped = min(max(y, np.int32(-_HALF + np.int32(1))), np.int32(_HALF - np.int32(1)))
        fired = clipped > threshold
        over = np.int32(over + np.int32((beyond != 0) | (clipped != y)))
        u[n] = x
        v[n] = np.int32(0) if fired else np.int32(clipped)
        spikes[n] = np.uint8(fired)
        counts[n] = np.int32(counts[n] + np.int32(fired))
    return over


@njit(inline="always")
def _decay(x, keep):  # type: ignore[no-untyped-def]
    """x * keep / 4096, truncated toward zero."""
    product = (np.int64(abs(x)) * keep) >> 12
    return np.int32(-product if x < 0 else product)


@njit
def _step_leaky(acc, bias, u, v, keep_syn, keep_mem, threshold, spikes, counts):  # type: ignore[no-untyped-def]
    """One step of the full LIF. Returns how many states overflowed."""
    over = np.int32(0)
    for n in range(spikes.size):
        x = np.int32(_decay(u[n], keep_syn) + np.int32(acc[n] << _SHIFT))
        beyond = _beyond(x)
        x = np.int32(x - np.int32(beyond << _WRAP))
        y = np.int32(np.int32(_decay(v[n], keep_mem) + x) + bias[n])
        clipped = min(max(y, np.int32(-_HALF + np.int32(1))), np.int32(_HALF - np.int32(1)))
        fired = clipped > threshold
        over = np.int32(over + np.int32((beyond != 0) | (clipped != y)))
        u[n] = x
        v[n] = np.int32(0) if fired else np.int32(clipped)
        spikes[n] = np.uint8(fired)
        counts[n] = np.int32(counts[n] + np.int32(fired))
    return over


@njit
def _leak(x, keep):  # type: ignore[no-untyped-def]
    """x *= keep / 4096; one ``keep``, or one per neuron."""
    if keep.shape[0] > 1:
        for n in range(x.size):
            x[n] = _decay(x[n], keep[n])
    elif keep[0] == 0:
        x[:] = 0
    elif keep[0] != 4096:
        for n in range(x.size):
            x[n] = _decay(x[n], keep[0])


@njit
def _reset(v, n_, owed, to, how):  # type: ignore[no-untyped-def]
    """``how`` 1: v -= what the spikes owe; 2: v = ``to`` where it fired."""
    if how == 1:
        for n in range(v.size):
            v[n] = np.int32(v[n] - owed[n])
    elif how == 2:
        for n in range(v.size):
            v[n] = to[n] if n_[n] != 0 else v[n]


@njit
def _integrate(acc, u, v, bias, low):  # type: ignore[no-untyped-def]
    """U wraps, v saturates and stays above ``low``. Returns how many states overflowed."""
    over = np.int32(0)
    for n in range(u.size):
        x = np.int32(u[n] + np.int32(acc[n] << _SHIFT))
        beyond = _beyond(x)
        x = np.int32(x - np.int32(beyond << _WRAP))
        y = np.int32(np.int32(v[n] + x) + bias[n])
        clipped = min(max(y, np.int32(-_HALF + np.int32(1))), np.int32(_HALF - np.int32(1)))
        over = np.int32(over + np.int32((beyond != 0) | (clipped != y)))
        u[n] = x
        v[n] = max(np.int32(clipped), low[n])
    return over


@njit(inline="always", error_model="numpy")
def _even(v, pitch, off, most, signed):  # type: ignore[no-untyped-def]
    """floor((v - off) / pitch) within 0..most; of its size with the sign of v where ``signed``."""
    sign = np.int32(v >> np.int32(31)) if signed else np.int32(0)
    m = max(np.int32(np.int32(np.int32(v ^ sign) - sign) - off), np.int32(0))
    q = np.int32(np.float32(m) / np.float32(pitch))  # at most one off: 24 bits of v, 24 of a float32
    left = np.int32(m - np.int32(q * pitch))
    q = np.int32(q + np.int32(np.int32(left >= pitch) - np.int32(left < 0)))
    return np.int32(np.int32(np.int32(min(q, most)) ^ sign) - sign)


@njit(error_model="numpy")
def _fire_evenly(v, n_, owed, pitch, amount, off, most, signed):  # type: ignore[no-untyped-def]
    """N, and what a reset takes for it."""
    for n in range(v.size):
        q = _even(v[n], pitch[n], off, most, signed)
        n_[n] = q
        owed[n] = np.int32(q * amount[n])


@njit
def _fire_levels(v, n_, owed, levels, pitch, off, signed):  # type: ignore[no-untyped-def]
    """The largest crossed of ``levels[0]`` (rising), times ``pitch``; a reset takes ``levels[1]``, times ``pitch``."""
    n_[:], owed[:] = 0, 0
    for k in range(levels.shape[1]):
        level, taken = levels[0, k], levels[1, k]
        for n in range(v.size):
            crossed = np.int32(np.int32(abs(v[n]) if signed else v[n]) - off) >= np.int32(level * pitch[n])
            n_[n] = np.int32(n_[n] + np.int32(crossed))
            owed[n] = np.int32(taken * pitch[n]) if crossed else owed[n]
    if signed:
        for n in range(v.size):
            n_[n] = np.int32(-n_[n] if v[n] < 0 else n_[n])
            owed[n] = np.int32(-owed[n] if v[n] < 0 else owed[n])


@njit
def _rest(v, held, n_, owed, wait, refractory):  # type: ignore[no-untyped-def]
    """A neuron that waits keeps ``held`` and does not fire; one that fired waits."""
    for n in range(v.size):
        if wait[n] > 0:
            v[n], n_[n], owed[n] = held[n], 0, 0
        wait[n] = refractory if n_[n] != 0 else max(np.int32(wait[n] - 1), np.int32(0))


@njit(inline="always")
def _wrong(n, u, mirrored):  # type: ignore[no-untyped-def]
    """1 where no byte holds n, or where the negative replicas wrap at another end than the positive ones."""
    return np.int32((n > np.int32(255)) | (mirrored & (u == _HALF)))


@njit
def _send(u, n_, mirrored, spikes, counts):  # type: ignore[no-untyped-def]
    """N as bytes, and |n| added to the counts. Returns how many neurons no kernel is right for."""
    wrong = np.int32(0)
    for n in range(spikes.size):
        wrong = np.int32(wrong + _wrong(n_[n], u[n], mirrored))
        spikes[n] = np.uint8(n_[n])
        counts[n] = np.int32(counts[n] + np.int32(abs(n_[n])))
    return wrong


@njit(error_model="numpy")
def _step_even(acc, u, v, n_, slope, rules, values, spikes, counts):  # type: ignore[no-untyped-def]
    """`_step_graded` for the usual case: nothing leaks in part, levels are even, resets are subtracted at once."""
    _, _, signed, most_, _, off_, mirrored = rules
    keep_syn, keep_mem, bias, low, _, pitch, amount = values
    old_u, old_v = np.int32(keep_syn[0] >> 12), np.int32(keep_mem[0] >> 12)
    most, off, kick = np.int32(most_), np.int32(off_), np.int32(slope)
    over, wrong = np.int32(0), np.int32(0)
    for n in range(spikes.size):
        current = np.int32(acc[n] + np.int32(kick * n_[n]))
        x = np.int32(np.int32(u[n] * old_u) + np.int32(current << _SHIFT))
        beyond = _beyond(x)
        x = np.int32(x - np.int32(beyond << _WRAP))
        y = np.int32(np.int32(np.int32(v[n] * old_v) + x) + bias[n])
        clipped = np.int32(min(max(y, np.int32(-_HALF + np.int32(1))), np.int32(_HALF - np.int32(1))))
        over = np.int32(over + np.int32((beyond != 0) | (clipped != y)))
        clipped = max(clipped, low[n])
        q = _even(clipped, pitch[n], off, most, signed)
        wrong = np.int32(wrong + _wrong(q, x, mirrored))
        u[n] = x
        v[n] = np.int32(clipped - np.int32(q * amount[n]))
        n_[n] = q
        spikes[n] = np.uint8(q)
        counts[n] = np.int32(counts[n] + np.int32(abs(q)))
    return np.int32(-1) if wrong else over


@njit
def _step_graded(acc, u, v, n_, owed, wait, held, rules, values, levels, spikes, counts):  # type: ignore[no-untyped-def]
    """One step of any integer neuron (ir/nodes.py). Returns how many states overflowed, -1 where `_wrong`.

    ``rules``: (how it resets, next step?, signed?, most spikes, refractory, off, mirrored?), ``values``: (keep_syn,
    keep_mem, bias, low, v_reset, pitch, amount) as `neurons.Graded` explains them.
    """
    how, later, signed, most, refractory, off, mirrored = rules
    keep_syn, keep_mem, bias, low, to, pitch, amount = values
    if refractory:
        _copy(v, held)
    _leak(u, keep_syn)
    _leak(v, keep_mem)
    if later:
        _reset(v, n_, owed, to, how)
    over = _integrate(acc, u, v, bias, low)
    if levels.shape[1]:
        _fire_levels(v, n_, owed, levels, pitch, np.int32(off), signed)
    else:
        _fire_evenly(v, n_, owed, pitch, amount, np.int32(off), np.int32(most), signed)
    if refractory:
        _rest(v, held, n_, owed, wait, np.int32(refractory))
    if not later:
        _reset(v, n_, owed, to, how)
    return np.int32(-1) if _send(u, n_, mirrored, spikes, counts) else over


@njit
def _usual(graded):  # type: ignore[no-untyped-def]
    """Whether `_step_even` will do."""
    (how, later, _, _, refractory, _, _), (keep_syn, keep_mem, _, _, _, _, _), levels = graded
    if how == 2 or (how == 1 and later) or refractory or levels.shape[1] or max(keep_syn.size, keep_mem.size) > 1:
        return False
    return keep_syn[0] & 4095 == 0 and keep_mem[0] & 4095 == 0


@njit
def _visible(u, spikes, v):  # type: ignore[no-untyped-def]
    """v of a soft-reset population: u saturated, 0 where it fired."""
    for n in range(spikes.size):
        v[n] = 0 if spikes[n] else min(max(u[n], -_HALF + 1), _HALF - 1)


@njit(nogil=True, cache=True)
def run_population(  # type: ignore[no-untyped-def]  # noqa: C901
    sources, matrices, convolutions, recurrent, selves, tables, base, drive, whole, neuron, graded, start, out, record
):
    """One population over all steps of all samples; long because numba compiles it as one.

    Args:
        sources: (words [B, T, n/8], bytes [B, T, n], payloads [256] or [0], lag) of the event-driven source.
        matrices: weight [in, out padded to BLOCK] int16 flat, or [0].
        convolutions: (weight [taps, in, out/groups] int16 flat or [0], tap_to, tap_from, tap_start, shape).
        recurrent: (weight [N, N padded to BLOCK] int16 flat or [0], lag) from the population to itself.
        selves: (weights [k, N] int32, lags [k]) elementwise synapses from the population to itself.
        tables: what a byte of the population stands for: (payload [256] or [0] where it is the byte, what it brings to
            the input of the next step [256] or [0], and the same per n where it grows evenly).
        base: [N] int32, added to the input of every step.
        drive: [B, T, N] int32 input from elsewhere, or [0, 0, 0].
        whole: the same in whole float32 numbers, as the int8 convolution gives it.
        neuron: (mode 0 soft / 1 hard / 2 leaky / 3 graded, keep_syn, keep_mem, threshold, bias [N]).
        graded: (rules, values, levels) of `_step_graded` in mode 3.
        start: (u [N], v [N]) before the first step.
        out: (words [B, T, N/8], bytes [B, T, N], counts [B, N]).
        record: (u, v) [B, T, N] int32 each, or [0, 0, 0].

    Returns:
        How many times a state overflowed; -1 where the kernel cannot hold the result.
    """
    words, bytes_, table, lag = sources
    conv_weight, tap_to, tap_from, tap_start, shape = convolutions
    rec_weight, rec_lag = recurrent
    self_weights, self_lags = selves
    own_table, kicks, slope = tables
    mode, keep_syn, keep_mem, limit, bias = neuron
    threshold = np.int32(limit)
    out_words, out_bytes, counts = out
    size = base.size
    row = (size + BLOCK - 1) // BLOCK * BLOCK
    acc = np.zeros(row, np.int32)
    index = np.zeros(max(bytes_.shape[2], out_bytes.shape[2]), np.int64)
    silent = np.zeros(size, np.uint8)
    u, v = np.empty(size, np.int32), np.empty(size, np.int32)
    more = size if mode == 3 else 0
    n_, owed = np.zeros(more, np.int32), np.zeros(more, np.int32)
    wait, held = np.zeros(more, np.int32), np.zeros(more, np.int32)
    usual = mode == 3 and _usual(graded)
    fused = mode == 0 and self_lags.size == 1 and self_lags[0] == 1
    over = 0
    for b in range(out_bytes.shape[0]):
        _copy(start[0], u)
        _copy(start[1], v)
        n_[:], owed[:], wait[:] = 0, 0, 0
        for t in range(out_bytes.shape[1]):
            if whole.shape[2]:
                for n in range(size):
                    acc[n] = np.int32(base[n] + np.int32(whole[b, t, n]))
            else:
                for n in range(size):
                    acc[n] = base[n]
            if drive.shape[2]:
                for n in range(size):
                    acc[n] = np.int32(acc[n] + drive[b, t, n])
            if matrices.shape[0]:
                _add_matrix(words[b], bytes_[b], table, lag, matrices, row, t, index, acc)
            if conv_weight.shape[0]:
                _add_conv(
                    words[b], bytes_[b], table, lag, conv_weight, tap_to, tap_from, tap_start, shape, t, index, acc
                )
            if rec_weight.shape[0]:
                _add_matrix(out_words[b], out_bytes[b], own_table, rec_lag, rec_weight, row, t, index, acc)
            if not fused:
                for k in range(self_lags.size):
                    _add_self(out_bytes[b], own_table, self_lags[k], self_weights[k], t, acc)
            if slope and not usual:
                for n in range(size):
                    acc[n] = np.int32(acc[n] + np.int32(slope * n_[n]))
            if kicks.shape[0] and t:
                for n in range(size):
                    acc[n] = np.int32(acc[n] + kicks[out_bytes[b, t - 1, n]])
            spikes = out_bytes[b, t, :size]
            if fused:
                before = out_bytes[b, t - 1, :size] if t else silent
                over += _step_soft(acc, u, before, threshold, self_weights[0], spikes, counts[b])
            elif mode == 0:
                over += _step_soft(acc, u, silent, threshold, base, spikes, counts[b])
            elif mode == 1:
                over += _step_hard(acc, bias, u, v, threshold, spikes, counts[b])
            elif mode == 2:
                over += _step_leaky(acc, bias, u, v, keep_syn, keep_mem, threshold, spikes, counts[b])
            elif usual:
                beyond = _step_even(acc, u, v, n_, slope, graded[0], graded[1], spikes, counts[b])
                if beyond < 0:
                    return -1
                over += beyond
            else:
                beyond = _step_graded(
                    acc, u, v, n_, owed, wait, held, graded[0], graded[1], graded[2], spikes, counts[b]
                )
                if beyond < 0:
                    return -1
                over += beyond
            if record[0].shape[2]:
                if mode == 0:
                    _visible(u, spikes, v)
                _copy(u, record[0][b, t])
                _copy(v, record[1][b, t])
    return over

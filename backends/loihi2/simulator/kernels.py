"""The compiled inner loops: one population over all time steps, event driven, for a few samples at a time.

Frames are rows of bytes in channels-last order, so that one spike adds one contiguous run of weights per kernel tap.
All arithmetic is int32 unless a leak needs more; the plan proves that the sums fit.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros

_HALF = 1 << 23
_BLOCK = 16  # int32 lanes of a 512-bit register


@njit(inline="always")
def _active(words, index):  # type: ignore[no-untyped-def]
    """Positions of the non-zero bytes of a row given as 64-bit words; returns how many."""
    found = 0
    for k in range(words.size):
        word = words[k]
        while word != np.uint64(0):
            byte = trailing_zeros(word) >> np.uint64(3)
            index[found] = k * 8 + np.int64(byte)
            found += 1
            word &= ~(np.uint64(255) << (byte << np.uint64(3)))
    return found


@njit(inline="always")
def _add(acc, start, row, payload):  # type: ignore[no-untyped-def]
    """acc[start:start+len(row)] += payload * row."""
    size = row.size
    blocks = size // _BLOCK
    for b in range(blocks):
        at = b * _BLOCK
        for j in range(_BLOCK):
            acc[start + at + j] += np.int32(row[at + j]) * payload
    for j in range(blocks * _BLOCK, size):
        acc[start + j] += np.int32(row[j]) * payload


@njit(inline="always")
def _add_matrix(words, bytes_, lag, weight, t, index, acc):  # type: ignore[no-untyped-def]
    """acc += W s[t - lag]; ``weight`` [in, out]."""
    if t < lag:
        return
    found = _active(words[t - lag], index)
    for e in range(found):
        i = index[e]
        _add(acc, 0, weight[i], np.int32(bytes_[t - lag, i]))


@njit(inline="always")
def _add_conv(words, bytes_, lag, weight, taps, tap_start, shape, t, index, acc):  # type: ignore[no-untyped-def]
    """acc += conv(s[t - lag]).

    ``weight`` [tap, in channel, out channels of its group]; ``taps`` [n, 2]: (output position, kernel tap) of every input
    position, ``tap_start`` [positions + 1]; ``shape`` = (in channels, in channels per group, out channels).
    """
    if t < lag:
        return
    found = _active(words[t - lag], index)
    channels, per_group, out = shape
    width = weight.shape[2]
    for e in range(found):
        i = index[e]
        payload = np.int32(bytes_[t - lag, i])
        position = i // channels
        channel = i - position * channels
        offset = channel // per_group * width
        for k in range(tap_start[position], tap_start[position + 1]):
            _add(acc, taps[k, 0] * out + offset, weight[taps[k, 1], channel], payload)


@njit(inline="always")
def _wrap(x):  # type: ignore[no-untyped-def]
    """One wrap of a 24-bit current, as Lava does it: into (-2**23, 2**23] once."""
    if x > _HALF:
        x -= 2 * _HALF
    elif x <= -_HALF:
        x += 2 * _HALF
    return x


@njit(inline="always")
def _saturate(x):  # type: ignore[no-untyped-def]
    return min(max(x, -_HALF + 1), _HALF - 1)


@njit(inline="always")
def _decay(x, keep):  # type: ignore[no-untyped-def]
    """x * keep / 4096, truncated toward zero."""
    product = (np.int64(abs(x)) * keep) >> 12
    return -product if x < 0 else product


@njit
def _step_soft(acc, u, v, before, threshold, weight, spikes, counts):  # type: ignore[no-untyped-def]
    """One step of u += I with a self synapse, fire on u (du=-1, dv=4096). Returns how many states overflowed."""
    over = 0
    for n in range(spikes.size):
        x = u[n] + ((acc[n] + weight[n] * np.int32(before[n])) << 6)
        wrapped = _wrap(x)
        over += wrapped != x
        fired = _saturate(wrapped) > threshold
        u[n] = wrapped
        v[n] = 0 if fired else _saturate(wrapped)
        spikes[n] = fired
        counts[n] += fired
    return over


@njit
def _step_hard(acc, bias, u, v, threshold, spikes, counts):  # type: ignore[no-untyped-def]
    """One step of v += I + bias, reset to zero (du=4095, dv=0). Returns how many states overflowed."""
    over = 0
    for n in range(spikes.size):
        x = acc[n] << 6
        wrapped = _wrap(x)
        y = v[n] + wrapped + bias[n]
        clipped = _saturate(y)
        over += (wrapped != x) | (clipped != y)
        fired = clipped > threshold
        u[n] = wrapped
        v[n] = 0 if fired else clipped
        spikes[n] = fired
        counts[n] += fired
    return over


@njit
def _step_leaky(acc, bias, u, v, keep_syn, keep_mem, threshold, spikes, counts):  # type: ignore[no-untyped-def]
    """One step of the full LIF. Returns how many states overflowed."""
    over = 0
    for n in range(spikes.size):
        x = _decay(u[n], keep_syn) + (np.int64(acc[n]) << 6)
        wrapped = _wrap(x)
        y = _decay(v[n], keep_mem) + wrapped + bias[n]
        clipped = _saturate(y)
        over += (wrapped != x) | (clipped != y)
        fired = clipped > threshold
        u[n] = wrapped
        v[n] = 0 if fired else clipped
        spikes[n] = fired
        counts[n] += fired
    return over


@njit(nogil=True, cache=True)
def run_population(  # type: ignore[no-untyped-def]
    sources, matrices, convolutions, recurrent, selves, base, drive, neuron, start, out, record
):
    """One population over all steps of all samples.

    Args:
        sources: (words [B, T, n/8], bytes [B, T, n], lag) of the event-driven source.
        matrices: weight [in, out] int16, or [0, 0].
        convolutions: (weight [taps, in, out/groups] int16 or [0, 0, 0], taps, tap_start, shape).
        recurrent: (weight [N, N] int16 or [0, 0], lag) from the population to itself.
        selves: (weights [k, N] int32, lags [k]) elementwise synapses from the population to itself.
        base: [N] int32, added to the input of every step.
        drive: [B, T, N] int32 input from elsewhere, or [0, 0, 0].
        neuron: (mode 0 soft / 1 hard / 2 leaky, keep_syn, keep_mem, threshold, bias [N]).
        start: (u [N], v [N]) before the first step.
        out: (words [B, T, N/8], bytes [B, T, N], counts [B, N]).
        record: (u, v) [B, T, N] int32 each, or [0, 0, 0].

    Returns:
        How many times a state overflowed.
    """
    words, bytes_, lag = sources
    conv_weight, taps, tap_start, shape = convolutions
    rec_weight, rec_lag = recurrent
    self_weights, self_lags = selves
    mode, keep_syn, keep_mem, threshold, bias = neuron
    out_words, out_bytes, counts = out
    size = base.size
    acc = np.zeros(size + 2 * _BLOCK, np.int32)
    index = np.zeros(max(bytes_.shape[2], out_bytes.shape[2]), np.int64)
    silent = np.zeros(size, np.uint8)
    u, v = np.empty(size, np.int32), np.empty(size, np.int32)
    fused = mode == 0 and self_lags.size == 1 and self_lags[0] == 1
    over = 0
    for b in range(out_bytes.shape[0]):
        u[:], v[:] = start[0], start[1]
        for t in range(out_bytes.shape[1]):
            acc[:size] = base
            if drive.shape[2]:
                acc[:size] += drive[b, t]
            if matrices.shape[0]:
                _add_matrix(words[b], bytes_[b], lag, matrices, t, index, acc)
            if conv_weight.shape[0]:
                _add_conv(words[b], bytes_[b], lag, conv_weight, taps, tap_start, shape, t, index, acc)
            if rec_weight.shape[0]:
                _add_matrix(out_words[b], out_bytes[b], rec_lag, rec_weight, t, index, acc)
            if not fused:
                for k in range(self_lags.size):
                    if t >= self_lags[k]:
                        late = out_bytes[b, t - self_lags[k]]
                        for n in range(size):
                            acc[n] += self_weights[k, n] * np.int32(late[n])
            spikes = out_bytes[b, t, :size]
            if fused:
                before = out_bytes[b, t - 1, :size] if t else silent
                over += _step_soft(acc, u, v, before, threshold, self_weights[0], spikes, counts[b])
            elif mode == 0:
                over += _step_soft(acc, u, v, silent, threshold, base, spikes, counts[b])
            elif mode == 1:
                over += _step_hard(acc, bias, u, v, threshold, spikes, counts[b])
            else:
                over += _step_leaky(acc, bias, u, v, keep_syn, keep_mem, threshold, spikes, counts[b])
            if record[0].shape[2]:
                record[0][b, t] = u
                record[1][b, t] = v
    return over

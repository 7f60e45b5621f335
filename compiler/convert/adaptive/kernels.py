"""The loops of a conversion that are compiled: burst neurons over time, and the search for their thresholds."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def fire(drive, bias, threshold, start, most, n):  # type: ignore[no-untyped-def]
    """v += drive + bias; n = min(max(floor(v / threshold), 0), most); v -= n * threshold, for every step.

    Args:
        drive: [B, T, N] input of every step, or [B, 1, N] the same at every step.
        bias, threshold, start: [N]; ``start`` is v before the first step.
        most: spikes per step, of the type of ``drive``.
        n: uint8 [B, T, N], written.
    """
    batch, steps, size = n.shape
    moving = drive.shape[1] > 1
    zero = drive.dtype.type(0)
    for b in range(batch):
        v = start.copy()
        for t in range(steps):
            row = drive[b, t if moving else 0]
            out = n[b, t]
            for i in range(size):
                now = v[i] + row[i] + bias[i]
                k = min(max(np.floor(now / threshold[i]), zero), most)
                v[i] = now - k * threshold[i]
                out[i] = np.uint8(k)


@njit(nogil=True, cache=True)
def payload(n, amplitude, sent):  # type: ignore[no-untyped-def]
    """n * amplitude.

    Args:
        n: uint8 [M, N].
        amplitude: [N].
        sent: [M, N] of the same type, written.
    """
    for m in range(n.shape[0]):
        row, out = n[m], sent[m]
        for i in range(n.shape[1]):
            out[i] = row[i] * amplitude[i]


@njit(nogil=True, cache=True, error_model="numpy")
def errors(drive, target, candidates, held, most, early, found, counts):  # type: ignore[no-untyped-def]
    """Mean squared error of the mean payload against ``target``, and mean spikes, per channel, threshold and hold.

    A neuron of threshold V that is held back by h starts at (1/2 - h) V and receives h V / T more at every step. To the
    error after all steps comes ``early`` times the mean over the steps t before of that of ``sent V / T - target t / T``.

    Args:
        drive: [C, T, M] input of M sampled neurons of each channel, bias included.
        target: [C, M] what the ANN's neurons send.
        candidates: [C, K] thresholds.
        held: [H] holds, in thresholds.
        most: spikes per step, of the type of ``drive``.
        early: weight of the errors before the last step.
        found, counts: [C, K, H], written.
    """
    channels, steps, samples = drive.shape
    kind = drive.dtype.type
    zero, half, one = kind(0), kind(0.5), kind(1)
    v, sent = np.empty(samples, drive.dtype), np.empty(samples, drive.dtype)
    for c in range(channels):
        for k in range(candidates.shape[1]):
            theta = candidates[c, k]
            for h in range(held.shape[0]):
                v[:], sent[:] = (half - held[h]) * theta, zero
                more, each = held[h] * theta / steps, theta * (one / steps)
                error, count, before = 0.0, 0.0, 0.0
                for t in range(steps):
                    row = drive[c, t]
                    for m in range(samples):
                        now = v[m] + row[m] + more
                        n = min(max(np.floor(now / theta), zero), most)
                        v[m] = now - n * theta
                        sent[m] += n
                    if early > 0 and t + 1 < steps:
                        part = kind((t + 1) / steps)
                        for m in range(samples):
                            miss = sent[m] * each - target[c, m] * part
                            before += miss * miss
                for m in range(samples):
                    miss = sent[m] * each - target[c, m]
                    error += miss * miss
                    count += sent[m]
                found[c, k, h] = (error + early * before / max(steps - 1, 1)) / samples
                counts[c, k, h] = count / samples

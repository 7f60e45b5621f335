"""The compiled loops of training on a CPU: a population of spiking neurons over all time steps, forward and backward.

In the order of compiler/nn/dynamics.py, so that the spikes are the same in single and in double precision.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

SURROGATES = {"arctan": 0, "triangle": 1, "rectangular": 2}


def _of(values, neuron):  # type: ignore[no-untyped-def]
    """A number of all neurons, or that of one; in the kernels alone."""
    raise NotImplementedError


@overload(_of)
def _(values, neuron):  # type: ignore[no-untyped-def]
    if isinstance(values, types.Array):
        return lambda values, neuron: values[neuron]
    return lambda values, neuron: values


@njit(nogil=True, cache=True)
def fire(current, numbers, thetas, resets, hard, above, sent, membrane):  # type: ignore[no-untyped-def]
    """v = (decay v + gain I) + bias; n = v >= theta; v = ``reset`` where n (hard), or v -= ``reset``; sends amplitude n.

    Args:
        current: I [B, T, N].
        numbers: decay, gain, bias, amplitude, v before the first step; of the type of ``current``.
        thetas, resets: a number each, or [N].
        hard: whether v is set, not lowered.
        above: n = v > theta instead.
        sent: [B, T, N], written.
        membrane: [B, T, N], written: v before the reset; [B, 0, N]: not kept.
    """
    batch, steps, size = current.shape
    decay, gain, bias, amplitude, start = numbers
    zero = current.dtype.type(0)
    kept = membrane.shape[1] > 0
    state = np.empty(size, current.dtype)
    for b in range(batch):
        state[:] = start
        for t in range(steps):
            arriving, out = current[b, t], sent[b, t]
            for i in range(size):
                theta, reset = _of(thetas, i), _of(resets, i)  # type: ignore[no-untyped-call]
                v = (decay * state[i] + gain * arriving[i]) + bias
                fires = v > theta if above else v >= theta
                out[i] = amplitude if fires else zero
                state[i] = (reset if hard else v - reset) if fires else v
                if kept:
                    membrane[b, t, i] = v


@njit(nogil=True, cache=True, error_model="numpy")
def fire_backward(grad, membrane, numbers, thetas, hard, above, surrogate, slope, found):  # type: ignore[no-untyped-def]
    """The gradient with respect to ``current`` of `fire`, from the last step to the first.

    dL/dv(t) = amplitude dL/ds(t) h(v(t) / theta - 1) / theta + decay dL/dv(t+1), without the last term where v was set in
    step t; h is the surrogate's derivative (surrogate.py). dL/dI = gain dL/dv.

    Args:
        grad: dL/ds [B, T, N].
        membrane: [B, T, N] of `fire`.
        numbers, thetas: as in `fire`.
        hard, above: as in `fire`.
        surrogate: of `SURROGATES`.
        slope: of the surrogate; of the type of ``grad``.
        found: dL/dI [B, T, N], written.
    """
    batch, steps, size = grad.shape
    decay, gain, _, amplitude, _ = numbers
    number = grad.dtype.type
    zero, one, two = number(0), number(1), number(2)
    factor = number(np.pi / 2) * slope
    later = np.empty(size, grad.dtype)
    for b in range(batch):
        later[:] = zero
        for t in range(steps - 1, -1, -1):
            arriving, levels, out = grad[b, t], membrane[b, t], found[b, t]
            for i in range(size):
                v, theta = levels[i], _of(thetas, i)  # type: ignore[no-untyped-call]
                x = v / theta - one
                if surrogate == 0:
                    rise = (slope / two) / (one + (factor * x) * (factor * x))
                elif surrogate == 1:
                    rise = slope * max(one - slope * abs(x), zero)
                else:
                    rise = slope if abs(x) < (one / two) / slope else zero
                fired = v > theta if above else v >= theta
                back = zero if hard and fired else later[i]
                g = amplitude * arriving[i] * rise / theta + back
                later[i] = decay * g
                out[i] = gain * g

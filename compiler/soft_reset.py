"""One population with soft reset over T steps against one step of T * phi levels: where both fire alike, and how far apart
they can be where they do not.

With x_t = gain * u_t + bias, U_t = v_init + x_1 + … + x_t, F_t = floor(U_t / theta) (fire="gt": ceil(U_t / theta) - 1) and
S_t the spikes so far, phi at most per step::

    S_t = clip(F_t, S_{t-1}, S_{t-1} + phi)         T steps: v before firing is U_t - S_{t-1} * theta
    N   = clip(F_T, 0, phi * T)                     one step that receives the mean of the inputs, thresholds theta / T
    S_t = S_{t-1} + clip(trunc(U_t / theta - S_{t-1}), -phi, phi),  N = clip(trunc(U_T / theta), -phi * T, phi * T)   signed

Temporal-to-spatial equivalence, arXiv 2510.23383, theorems 1 to 3; the conditions and bounds here are our own
(docs/equivalence.md has the proofs). All are about exact arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from d2e.ir import LI, MultiThreshold, Neuron
from d2e.ir.nodes import Array, Fire, real

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class SoftReset:
    """What counts of a population with soft reset and without leak; arrays broadcast against its shape.

    Attributes:
        theta: charge that one spike takes.
        most: phi, spikes per step; infinity for no limit.
        start: v before the first step.
        payload: sent per spike.
        signed: whether it fires negative spikes below -theta.
        fire: "ge" or "gt".
        floored: whether v has a floor (at or below 0 and the start).
    """

    theta: Array
    most: float
    start: Array
    payload: Array
    signed: bool
    fire: Fire
    floored: bool

    def crossed(self, thresholds: Array) -> Array:
        """Levels crossed by a membrane that is given in thresholds."""
        return np.asarray(np.floor(thresholds) if self.fire == "ge" else np.ceil(thresholds) - 1)

    def per_step(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Least and most spikes of one step, where the drive x of each step lies in low..high.

        What a step leaves of v is at most max(start, theta), or grows where phi is too small for the drive.
        """
        rest = np.maximum(self.start, self.theta)
        up = np.clip(np.floor((rest + np.maximum(high, 0.0)) / self.theta), 0.0, self.most)
        if not self.signed:
            return np.zeros(up.shape), up
        rest = np.maximum(-self.start, self.theta)
        return -np.clip(np.floor((rest + np.maximum(-low, 0.0)) / self.theta), 0.0, self.most), up

    def exact(self, low: Array, high: Array, constant: Array, steps: int) -> Array:
        """Where T steps and one step fire the same, for every drive in low..high: bool [*shape], `bound` is 0."""
        return np.asarray(self.bound(low, high, constant, steps) == 0)

    def bound(self, low: Array, high: Array, constant: Array, steps: int) -> Array:
        """Largest difference in counts between T steps and one step, for every drive in low..high.

        Args:
            low, high: bounds of x_t at every step [*shape]; infinite where nothing is known.
            constant: whether x_t is the same at all steps, [*shape] or one bool.
            steps: T.

        Returns:
            Whole numbers as floats [*shape], infinite where nothing bounds it.
        """
        if steps == 1:
            return np.zeros(np.broadcast_shapes(low.shape, self.start.shape, self.theta.shape))
        if self.signed:
            return self._signed_bound(low, high, constant, steps)
        return np.maximum(self._excess(low, high, constant, steps), self._lag(low, high, constant, steps))

    def _excess(self, low: Array, high: Array, constant: Array, steps: int) -> Array:
        """S_T - N <= F_k - F_T of the last step k that fired: what came up to k, and what was taken back after it."""
        negative, positive = np.maximum(-low, 0.0), np.maximum(high, 0.0)
        worst = np.zeros(np.broadcast_shapes(low.shape, self.start.shape, self.theta.shape))
        for k in range(1, steps + self.floored):  # a floor forgets what went below it: then also before k, and at k = T
            reached = np.maximum(np.floor((self.start + k * positive) / self.theta), 0.0)
            taken = np.ceil((steps if self.floored else steps - k) * negative / self.theta)
            worst = np.maximum(worst, np.minimum(np.minimum(reached, taken), self.most * k))
        at_start = np.maximum(np.ceil(self.start / self.theta) - 1, 0.0)  # a constant drive below 0 fires nothing else
        return np.where(constant, np.minimum(worst, at_start), worst)

    def _lag(self, low: Array, high: Array, constant: Array, steps: int) -> Array:
        """N - S_T <= min(F_T, phi T) - F_k - phi (T - k) of the last step k at which S_k was F_k."""
        shape = np.broadcast_shapes(low.shape, self.start.shape, self.theta.shape)
        if math.isinf(self.most):
            return np.zeros(shape)
        over, worst = np.maximum(high - self.most * self.theta, 0.0), np.zeros(shape)
        for k in range(1, steps):
            late = np.ceil((steps - k) * over / self.theta)
            room = self.most * k - self.crossed((self.start + k * low) / self.theta)
            worst = np.maximum(worst, np.minimum(np.minimum(late, np.maximum(room, 0.0)), self.most * steps))
        missing = np.maximum(-np.floor(self.start / self.theta), 0.0)  # a constant drive beyond phi * theta fires phi then
        return np.where(constant, np.minimum(worst, missing), worst)

    def _signed_bound(self, low: Array, high: Array, constant: Array, steps: int) -> Array:
        """A signed neuron takes spikes back: what is left of v after T steps is all that it can be wrong by."""
        v, theta, top = self.start, self.theta, self.most * self.theta
        over = np.maximum(np.maximum(high, -low) - top, 0.0)
        left = (np.maximum(np.abs(v), theta) + steps * over) / theta
        apart = np.minimum(np.ceil(left) if self.fire == "ge" else np.floor(left) + 1, 2 * self.most * steps)
        most = np.maximum(np.floor((v + steps * np.maximum(high, 0.0)) / theta), 0.0)
        least = np.maximum(np.floor((steps * np.maximum(-low, 0.0) - v) / theta), 0.0)
        apart = np.minimum(apart, most + least)
        apart = np.where(constant & (np.abs(v) <= theta), np.minimum(apart, 1.0), apart)
        up, down = replace(self, signed=False), replace(self, signed=False, start=-v)
        apart = np.where((low >= 0) & (v >= 0), np.minimum(apart, up.bound(low, high, constant, steps)), apart)
        apart = np.where((high <= 0) & (v <= 0), np.minimum(apart, down.bound(-high, -low, constant, steps)), apart)
        rising, falling = (low >= 0) & (high <= top) & (v > -theta), (high <= 0) & (low >= -top) & (v < theta)
        still = (
            constant & ((v >= 0) | (high <= top)) & ((v <= 0) | (low >= -top))
            & ((v <= theta) | (low >= 0)) & ((v >= -theta) | (high <= 0))
        )
        return np.where(rising | falling | still, 0.0, apart)

    def levels(self, high: Array, steps: int) -> int | None:
        """Levels that one step needs: phi * T; without a limit the most that T steps can fire, None if nothing says it."""
        if math.isfinite(self.most):
            return int(self.most) * steps
        reached = float(np.max(np.floor((self.start + steps * np.maximum(high, 0.0)) / self.theta)))
        return max(1, int(reached)) if math.isfinite(reached) else None


def uniform(values: Array) -> Array | None:
    """The step of values 1, 2, 3, … times a step, [n]; None where they are not."""
    step = real(values[0])
    return step if np.allclose(values, step * np.arange(1, len(values) + 1), rtol=_ROUNDING, atol=0.0) else None


def refusal(node: Neuron) -> tuple[str, str] | None:
    """(case, reason) why a population cannot become one step of levels; None where it can."""
    decay_syn, decay_mem = node.decays
    if node.arithmetic is not None:
        return "integer arithmetic", "it computes in integers: fold before it is quantised"
    if node.continuous is not None:
        return "time constants", "it has time constants but no decays yet"
    if decay_syn is not None and decay_syn.any():
        return "synaptic current", "its input current lives on in later steps"
    if decay_mem is not None and (decay_mem != 1).any():
        return "K leak", "what an input leaves in v depends on when it came"
    if isinstance(node, LI):
        return None if node.v_min is None else ("floor of v", "v has a floor, below which input is forgotten")
    return _fired(node)


def _fired(node: Neuron) -> tuple[str, str] | None:
    if node.reset in ("zero", "value"):
        return "J hard reset", "a reset drops what v has beyond the threshold"
    if node.reset == "none":
        return "no reset", "a spike takes nothing from v, so T steps count the same charge again"
    if node.refractory:
        return "refractory", "after a spike it holds v, and input is lost"
    if node.v_min is not None:
        if isinstance(node, MultiThreshold) and node.signed:
            return "floor of v", "v has a floor, which its negative levels may meet"
        if (node.v_min > np.minimum(node.v_init, 0.0)).any():
            return "floor of v", "v has a floor above 0 or above its start"
    if not isinstance(node, MultiThreshold):
        whole = node.reset_by is None or bool((node.reset_by == node.threshold).all())
        return None if whole else ("reset amount", "a spike takes another amount than the threshold")
    if uniform(node.levels) is None or (node.payloads is not None and uniform(node.payloads) is None):
        return "uneven levels", "its levels or payloads are not 1, 2, 3, … times one step"
    if node.reset_by is not None and not np.allclose(node.reset_by, node.levels, rtol=_ROUNDING, atol=0.0):
        return "reset amount", "a spike takes another amount than its level"
    return None


def soft_reset(node: Neuron) -> SoftReset:
    """The numbers of a population that `refusal` lets through, and that fires."""
    if not isinstance(node, MultiThreshold):
        most = float(node.max_spikes) if node.max_spikes else math.inf
        return SoftReset(
            real(node.threshold), most, real(node.v_init), real(node.amplitude), False, node.fire, node.v_min is not None)
    level, sent = uniform(node.levels), uniform(node.levels if node.payloads is None else node.payloads)
    assert level is not None
    assert sent is not None
    return SoftReset(
        level * node.threshold, float(len(node.levels)), real(node.v_init), sent * node.amplitude, node.signed, node.fire,
        node.v_min is not None,
    )


def one_step(node: Neuron, steps: int, levels: int) -> MultiThreshold:
    """The memoryless population that fires in one step what ``node`` fires in ``steps``, given the mean of the inputs.

    h = gain * u + bias + v_init / T crosses n of 1 … ``levels`` times theta / T, and n * payload / T is sent.
    """
    cell = soft_reset(node)
    return MultiThreshold(
        shape=node.shape, levels=np.arange(1.0, levels + 1), signed=cell.signed, threshold=cell.theta / steps,
        gain=node.gain, bias=node.bias + cell.start / steps, fire=node.fire, reset="none", decay_mem=real(0.0),
        amplitude=cell.payload / steps, metadata=node.metadata,
    )

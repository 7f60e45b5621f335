"""A neuron of one step as a staircase: which thresholds its input crosses says what it sends.

Fitting a staircase to an activation is a problem of least cost over ordered cells, solved exactly by dynamic programming
(as optimal scalar quantisation is, Bruce 1965; with a price per crossed threshold, Chou, Lookabaugh and Gray 1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from d2e.ir.nodes import Array

MOST_LEVELS = 255
"""Levels that a byte counts."""
_BINS, _GRIDS, _LEAST_REACH = 256, (1.0, 0.75, 0.5, 0.375, 0.25), 0.7
_SMALL = 1e-3
"""Of the largest: activations below 0 by less do not say where thresholds begin."""


@dataclass(frozen=True, eq=False)
class Staircase:
    """The neurons of one population, without memory from step to step.

    With z what a neuron of channel c receives in all, n is the number of ``levels`` with z >= level * scale[c]; it sends
    ``payloads[n - 1] * unit * scale[c]``, and nothing for n = 0. Where ``signed``, n counts levels that |z| reaches and what
    is sent has the sign of z.

    Attributes:
        scale: [C].
        levels: [N], rising.
        payloads: [N] integers; they rise, but for activations that fall somewhere.
        unit: what a payload of 1 stands for, in scales.
        shift: [C] added to the bias.
    """

    scale: Array
    levels: Array
    payloads: Array
    unit: float
    shift: Array
    signed: bool = False

    @property
    def most(self) -> int:
        """N."""
        return len(self.levels)

    @property
    def amplitude(self) -> Array:
        """[C] what a payload of 1 stands for."""
        return np.asarray(self.scale * self.unit)


def uniform(scale: Array, most: int, *, rounds: bool = True, signed: bool = False) -> Staircase:
    """Levels at equal distances: a T-step neuron's rate as one step (arXiv 2510.23383, Theorem 1).

    Args:
        scale: [C] distance of the levels, theta / T.
        most: N.
        rounds: start half a level up, so that the payload is the nearest level and not the one below.
        signed: for both signs.
    """
    steps = np.arange(1, most + 1)
    return Staircase(scale, steps - 0.5 if rounds else steps.astype(float), steps, 1.0, np.zeros(len(scale)), signed)


@njit(nogil=True, cache=True)
def climb(z, scale, levels, payloads, signed, n, sent):  # type: ignore[no-untyped-def]
    """``n`` uint8 and what is sent, both [M, C], of inputs [M, C]; ``payloads`` [N + 1] from 0, in scales."""
    for m in range(z.shape[0]):
        for c in range(z.shape[1]):
            u, low, high = z[m, c] / scale[c], 0, levels.size
            minus = signed and u < 0
            if minus:
                u = -u
            while low < high:
                middle = (low + high) // 2
                if u >= levels[middle]:
                    low = middle + 1
                else:
                    high = middle
            n[m, c] = low
            sent[m, c] = -payloads[low] * scale[c] if minus else payloads[low] * scale[c]


def sent_by(stairs: Staircase, z: Array) -> tuple[Array, Array]:
    """(n uint8, what is sent), both [M, C], of inputs [M, C] with bias and shift."""
    n, sent = np.empty(z.shape, np.uint8), np.empty_like(z)
    table = np.concatenate([[0.0], stairs.payloads * stairs.unit]).astype(z.dtype)
    climb(z, stairs.scale.astype(z.dtype), stairs.levels.astype(z.dtype), table, stairs.signed, n, sent)
    return n, sent


@dataclass(frozen=True)
class Sampled:
    """What a population receives and what its activation would send.

    Attributes:
        z, target: [M, C].
        importance: [C] what a squared error costs.
        price: [C] of a crossed threshold.
    """

    z: Array
    target: Array
    importance: Array
    price: Array

    def cost(self, stairs: Staircase) -> Array:
        """[C] importance * mean squared error + price * mean n."""
        rising, sums, squares = self._ranked(stairs.signed)
        count, payloads = len(rising), np.concatenate([[0.0], stairs.payloads * stairs.unit])
        error, n = np.empty(len(stairs.scale)), np.empty(len(stairs.scale))
        for c, scale in enumerate(stairs.scale):
            reach = np.searchsorted(rising[:, c], stairs.levels * scale)
            cells = np.concatenate([[0], reach, [count]])  # neurons between two of these send the same
            sent = payloads * scale
            error[c] = (squares[c] - 2 * sent @ np.diff(sums[cells, c]) + sent**2 @ np.diff(cells)) / count
            n[c] = (count - reach).sum() / count
        return np.asarray(self.importance * error + self.price * n)

    @cached_property
    def _orders(self) -> dict[bool, tuple[Array, Array, Array]]:
        return {}

    def _ranked(self, signed: bool) -> tuple[Array, Array, Array]:
        """Inputs [M, C] in rising order, sums [M + 1, C] of the targets before each, and [C] of their squares.

        For levels of both signs, of |z|, its sign taken off the target too: so many staircases cost a search per level, not
        one per neuron.
        """
        if signed not in self._orders:
            z, a = (np.abs(self.z), np.where(self.z < 0, -self.target, self.target)) if signed else (self.z, self.target)
            order = z.argsort(axis=0)
            own = np.take_along_axis(a, order, axis=0).astype(np.float64)
            sums = np.concatenate([np.zeros((1, z.shape[1])), own.cumsum(axis=0)])
            self._orders[signed] = np.take_along_axis(z, order, axis=0), sums, np.square(own).sum(axis=0)
        return self._orders[signed]


def fitted(sampled: Sampled, scale: Array, most: int, *, signed: bool = False, falls: bool = False) -> Staircase:
    """The staircase of least cost for these scales, all channels together.

    Thresholds stand at those of `_edges`, for all channels alike. Payloads are multiples of a unit, of which up to five are
    tried, from one to the next by a power of two: on a chip a level's step is then a shift of the weights. Neurons that had
    better stay silent get one level that none of them reaches.

    Args:
        sampled: neurons.
        scale: [C]; the largest activation of a channel is about one scale.
        most: N.
        signed: the same levels for both signs, for activations that are odd.
        falls: payloads may fall from a level to the next and be below 0, for activations that do.
    """
    u, a = sampled.z / scale.astype(sampled.z.dtype), sampled.target / scale.astype(sampled.z.dtype)
    if signed:
        u, a = np.abs(u), np.where(u < 0, -a, a)
    edges = _edges(u, a)
    at = np.searchsorted(edges, u.ravel(), side="right")
    weight = np.broadcast_to(sampled.importance * scale**2 / len(u), u.shape).ravel()
    dues = np.broadcast_to(sampled.price / len(u), u.shape).ravel()
    bins = len(edges) + 1
    moments = [np.bincount(at, weights=weight * a.ravel().astype(np.float64) ** k, minlength=bins) for k in range(3)]
    tail = np.cumsum(np.bincount(at, weights=dues, minlength=bins)[::-1])[::-1]
    best: tuple[float, Array, Array, float] | None = None
    top = float(np.quantile(a[a > 0], 0.9995)) if (a > 0).any() else 1.0
    for share in _GRIDS:
        unit = top / most * share
        if MOST_LEVELS * unit < _LEAST_REACH * top:
            continue
        high = min(MOST_LEVELS, int(np.ceil(1.2 * top / unit)))
        low = max(-high, int(np.floor(float(a.min()) / unit))) if falls else 0
        sent = np.arange(low, high + 1) * unit
        cells = moments[2] - 2 * np.outer(sent, moments[1]) + np.outer(sent**2, moments[0])
        loss, where, what = _path(cells, tail, most, -low)
        if best is None or loss < best[0]:
            best = (loss, edges[where - 1], what + low, unit)
    assert best is not None
    _, levels, payloads, unit = best
    if not len(levels):
        levels, payloads = np.array([2.0 * max(1.0, float(u.max()))]), np.array([1])
    return Staircase(scale, levels, payloads, unit, np.zeros(len(scale)), signed)


def _edges(u: Array, a: Array) -> Array:
    """Where thresholds may stand: from where activations begin to the largest, in equal shares of range and of samples."""
    alive = u[a > 0]
    top = float(np.quantile(alive, 0.9999)) if alive.size else 0.0
    if top <= 0:
        return np.linspace(0.01, 1.0, _BINS // 2)
    below = u[a < -_SMALL * top]
    begin = float(np.quantile(below, 0.0001)) if below.size else 0.0
    even = np.linspace(begin, top, _BINS // 2 + 1)[1:] if below.size else np.linspace(top / _BINS, top, _BINS // 2)
    often = np.quantile(u[u >= begin] if below.size else alive, np.linspace(0, 1, _BINS // 2 + 2)[1:-1])
    found = np.unique(np.concatenate([even, often]))
    return np.asarray(found[found > begin + 1e-6 * top])


def _path(cells: Array, tail: Array, most: int, rest: int = 0) -> tuple[float, Array, Array]:
    """(cost, bin at which each level begins, its row of cells) of the best staircase with at most ``most`` levels.

    ``rest`` is the row without a level; where it is not the first, rows may fall from a level to the next.
    """
    cost, came = _best_costs(cells, tail, most, rest)
    n = int(cost.min(axis=1).argmin())
    k = int(cost[n].argmin())
    loss, where, what = float(cost[n, k]), [], []
    j = cells.shape[1]
    while n > 0:
        j, before = came[n, k, j]
        where.append(j)
        what.append(k)
        n, k = n - 1, int(before)
    return loss, np.array(where[::-1], np.int64), np.array(what[::-1], np.int64)


@njit(nogil=True, cache=True)
def _best_costs(cells, tail, most, rest):  # type: ignore[no-untyped-def]
    """Least cost [N + 1, K] to end on payload k after n levels, and for every bin where level n began, and after what.

    Args:
        cells: [K, J] what it costs to send payload k in bin j.
        tail: [J] what a level costs that begins at bin j.
        most: N.
        rest: the payload before the first level.
    """
    kinds, bins = cells.shape
    big = 1e300
    came = np.zeros((most + 1, kinds, bins + 1, 2), np.int16)
    last = np.full((kinds, bins + 1), big)  # least cost before bin j on payload k, which began before j, with n levels
    last[rest, 0] = 0.0
    for j in range(bins):
        last[rest, j + 1] = last[rest, j] + cells[rest, j]
    ends = np.full((most + 1, kinds), big)
    ends[0, rest] = last[rest, bins]
    for n in range(1, most + 1):
        now = np.full((kinds, bins + 1), big)
        for k in range(0 if rest else n, kinds):  # a level begins a bin or more behind the one before, and mostly adds
            for j in range(n, bins):
                best, source, step = big, 0, 1
                while step <= k or (rest and k + step < kinds):
                    if step <= k and last[k - step, j] < best:
                        best, source = last[k - step, j], k - step
                    if rest and k + step < kinds and last[k + step, j] < best:
                        best, source = last[k + step, j], k + step
                    step *= 2
                begins, before = j, source
                best += tail[j]
                if now[k, j] <= best:
                    best, begins, before = now[k, j], came[n, k, j, 0], came[n, k, j, 1]
                now[k, j + 1] = best + cells[k, j]
                came[n, k, j + 1, 0], came[n, k, j + 1, 1] = begins, before
            ends[n, k] = now[k, bins]
        last = now
    return ends, came

"""Rounding weights to integers such that later weights make up for the errors of earlier ones.

It minimises E|(W - Q) x|^2 over inputs x that were seen (GPTQ: Frantar et al. 2022, arXiv 2210.17323): column by
column, largest E[x_i^2] first, the error of a column moves onto the columns that are still free, by the inverse of E[x x^T].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2e.compiler.blocks import narrowest
from d2e.ir.nodes import Array

BLOCK = 1024
"""Most columns that make up for one another; wider matrices are rounded in blocks of so many."""
_DAMPING = 0.01  # of the mean E[x_i^2], added to every one
_LAZY = 64


@dataclass(frozen=True)
class _Block:
    """Columns ``start:start + order.size`` of a matrix: the order they are rounded in, and how their errors spread."""

    start: int
    order: Array
    spread: Array
    moment: Array


@dataclass(frozen=True)
class Curvature:
    """How inputs of a linear map occur together, per group of a convolution: made by `curvature`."""

    groups: tuple[tuple[_Block, ...], ...]

    def loss(self, difference: Array) -> float:
        """Sum over outputs of E[(difference x)^2], for weights [out, ...] that differ by so much."""
        rows, total = len(difference) // len(self.groups), 0.0
        for g, blocks in enumerate(self.groups):
            part = difference[g * rows : (g + 1) * rows].reshape(rows, -1)
            for block in blocks:
                columns = part[:, block.start : block.start + block.order.size]
                total += float(((columns @ block.moment) * columns).sum())
        return total


def curvature(moments: Sequence[Sequence[Array]]) -> Curvature:
    """From E[x x^T] of each group and block of columns (`activity.moments`)."""
    groups = []
    for blocks in moments:
        start, made = 0, []
        for moment in blocks:
            made.append(_block(start, moment))
            start += moment.shape[0]
        groups.append(tuple(made))
    return Curvature(tuple(groups))


def _block(start: int, moment: Array) -> _Block:
    weight = np.diag(moment)
    order = np.argsort(-weight, kind="stable")
    damped = moment[np.ix_(order, order)] + np.eye(order.size) * (_DAMPING * float(weight.mean()) or 1.0)
    inverse = np.linalg.inv(damped)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return _Block(start, order, upper / np.diag(upper)[:, None], moment)


def compensated(array: Array, step: float, low: int, high: int, known: Curvature) -> Array:
    """``array`` [out, ...] in steps, as the integers in low..high that keep what the map delivers."""
    result = np.empty(array.shape, narrowest(low, high))
    rows = array.shape[0] // len(known.groups)
    for g, blocks in enumerate(known.groups):
        part = slice(g * rows, (g + 1) * rows)
        matrix, rounded = array[part].reshape(rows, -1), result[part].reshape(rows, -1)
        for block in blocks:
            columns = block.start + block.order
            rounded[:, columns] = _one_block(matrix.T[columns].astype(np.float64) / step, low, high, block.spread).T
    return result


def _one_block(left: Array, low: int, high: int, spread: Array) -> Array:
    """Changes ``left`` [columns, rows]; its columns stand in the order they are rounded in."""
    rounded = np.empty(left.shape)
    for start in range(0, len(left), _LAZY):
        end = min(start + _LAZY, len(left))
        errors = np.empty((end - start, left.shape[1]))
        for i in range(start, end):
            rounded[i] = np.clip(np.rint(left[i]), low, high)
            errors[i - start] = left[i] - rounded[i]
            left[i + 1 : end] -= np.outer(spread[i, i + 1 : end], errors[i - start])
        left[end:] -= spread[start:end, end:].T @ errors
    return rounded

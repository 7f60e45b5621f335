"""Neurons as the kernel takes them: a stock LIF, a graded neuron, or replicas as one neuron with several thresholds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from d2e.backends.loihi2.forms import is_stock
from d2e.backends.loihi2.simulator.groups import Group
from d2e.backends.loihi2.simulator.layout import last
from d2e.ir import LI, CubaLIF, FixedPoint, MultiThreshold, Neuron
from d2e.ir.nodes import Array

Rules: TypeAlias = tuple[int, bool, bool, int, int, int, bool]
Values: TypeAlias = tuple[Array, Array, Array, Array, Array, Array, Array]

ONE = 4096
_UNIT = 6
_ROOM = 1 << 28
"""Bound on every number that enters the state, so that a step's sums stay within 32 bits."""

_UNLIMITED = 1 << 30
_HALF = 1 << 23
_NONE = np.zeros(0, np.int32)
_NO_LEVELS = np.zeros((2, 0), np.int32)
_NO_RULES: Rules = (0, False, False, 0, 0, 0, False)
_NO_VALUES: Values = (_NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE)


@dataclass(frozen=True)
class Cell:
    """One neuron's numbers, arrays channels last.

    Attributes:
        stock: (mode, keep_syn, keep_mem, threshold, bias [N]).
        graded: in mode 3 (rules, values, levels) of `kernels._step_graded`: rules are how it resets (0 not, 1 by what
            the spikes owe, 2 to v_reset), whether in the next step, whether signed, the most spikes, the refractory
            steps, what v must exceed by itself (0 for ">=", 1 for ">"), whether replicas of both signs share it. Values
            are keep_syn, keep_mem [1 or N], bias, least v, v_reset, pitch (v per spike or per unit of a level) and
            amount (v taken per spike) [N]. Levels and what they take, [2, k], are empty where both are n times as much.
        start: (u [N], v [N]).
        payloads: of each byte n, [256]; empty where the payload is n.
        kicks: input of the next step that each byte n brings, [256], or empty.
        slope: the same where it is ``slope * n``, else 0.
        low, high: least and largest payload.
        limited: whether ``high`` is certain, not only what the kernel can hold.
        leaks_current: whether u carries over.
    """

    stock: tuple[int, int, int, int, Array]
    start: tuple[Array, Array]
    graded: tuple[Rules, Values, Array] = (_NO_RULES, _NO_VALUES, _NO_LEVELS)
    payloads: Array = field(default_factory=lambda: _NONE)
    kicks: Array = field(default_factory=lambda: _NONE)
    slope: int = 0
    low: int = 0
    high: int = 1
    limited: bool = True

    @property
    def signed(self) -> bool:
        """Whether a byte is an int8."""
        return self.graded[0][2]

    @property
    def kicked(self) -> float:
        """The largest input that its own spikes bring as resets."""
        return float(np.abs(self.kicks).max(initial=abs(self.slope) * self.graded[0][3]))

    @property
    def keeps_current(self) -> bool:
        """Whether u carries over from step to step."""
        return self.stock[1] > 0 if self.stock[0] < 3 else bool(self.graded[1][0].any())


def make_cell(node: Neuron, group: Group | None) -> Cell | None:
    """The cell of a population, or of a group whose first member is ``node``; None where the kernels have none."""
    if node.arithmetic != FixedPoint() or not ((node.gain == 1).all() and (node.amplitude == 1).all()):
        return None
    bare = (node.bias, node.v_init, node.v_reset, getattr(node, "u_init", node.bias))
    if any(_most(value) > _ROOM for value in bare):
        return None
    if group is not None:
        assert isinstance(node, CubaLIF)
        return _group(node, group)
    cell = _stock(node) if is_stock(node) and node.v_min is None else _graded(node)
    return replace(cell, low=-_HALF, high=_HALF, limited=False) if cell is not None and isinstance(node, LI) else cell


def _most(values: Any) -> int:
    return int(np.abs(values).max(initial=0))


def _flat(node: Neuron, value: Any) -> Array:
    """One number per neuron, channels last."""
    spread = np.broadcast_to(np.asarray(value), node.shape)
    return np.ascontiguousarray(last(spread, node.shape).astype(np.int32))


def _start(node: Neuron) -> tuple[Array, Array]:
    return _flat(node, getattr(node, "u_init", 0)), _flat(node, node.v_init)


def _stock(node: Neuron) -> Cell | None:
    keep_syn, keep_mem = (ONE if d is None else int(d.flat[0]) for d in node.decays)
    soft = keep_syn == ONE and keep_mem == 0 and not node.bias.any()
    mode = 0 if soft else 1 if keep_syn == 0 and keep_mem == ONE else 2
    threshold = _UNLIMITED if isinstance(node, LI) else int(node.threshold.flat[0]) << _UNIT
    if abs(threshold) > _UNLIMITED:
        return None
    return Cell((mode, keep_syn, keep_mem, threshold, _flat(node, node.bias)), _start(node))


def _graded(node: Neuron) -> Cell | None:
    signed = isinstance(node, MultiThreshold) and node.signed
    sent, levels, unit, taken, most = _levels(node)
    low = -_UNLIMITED if node.v_min is None else node.v_min
    reach = min(most, _HALF // max(1, int(unit.min()) << _UNIT) + 1)
    reset = _most(taken) * (_most(levels) if levels.size else reach)
    if max(_most(unit) * max(1, _most(levels[0])), reset) << _UNIT > _ROOM or _most(sent) > _ROOM:
        return None
    if _most(low) > _UNLIMITED or np.max(low) >= _HALF:
        return None
    if most > (127 if signed else 255) and (signed or sent.size):
        return None
    how = {"subtract": 1, "zero": 2, "value": 2, "none": 0}["none" if isinstance(node, LI) else node.reset]
    waits = 0 if isinstance(node, LI) else node.refractory
    rules = (how, node.reset_when == "next", signed, most, waits, int(node.fire == "gt"), False)
    values = (
        _keep(node, node.decays[0], 0), _keep(node, node.decays[1], ONE), _flat(node, node.bias), _flat(node, low),
        _flat(node, node.v_reset if node.reset == "value" else 0), _flat(node, unit << _UNIT),
        _flat(node, taken << _UNIT if how == 1 else 0),
    )
    ends = np.concatenate([sent, -sent if signed else sent[:0], [0]]) if sent.size else np.array([0, min(255, reach)])
    return Cell(
        (3, 0, 0, 0, _NONE), _start(node), (rules, values, levels), _table(sent, -sent if signed else sent[:0]),
        low=int(ends.min()), high=int(ends.max()), limited=most <= 255,
    )


def _levels(node: Neuron) -> tuple[Array, Array, Array, Array, int]:
    """(payloads, levels and what they take, their unit in v, v taken per spike in weight units, most spikes)."""
    unit = node.threshold.astype(np.int64)
    if isinstance(node, LI):
        return np.zeros(0, np.int64), _NO_LEVELS, np.asarray(_ROOM >> _UNIT), np.asarray(0), 1
    if not isinstance(node, MultiThreshold):
        taken = unit if node.reset_by is None else node.reset_by.astype(np.int64)
        return np.zeros(0, np.int64), _NO_LEVELS, unit, taken, node.max_spikes or _UNLIMITED
    crossed = node.levels.astype(np.int64)
    given = crossed if node.reset_by is None else np.broadcast_to(node.reset_by, crossed.shape).astype(np.int64)
    sent = crossed if node.payloads is None else node.payloads.astype(np.int64)
    count = np.arange(1, crossed.size + 1)
    if (crossed == crossed[0] * count).all() and (given == given[0] * count).all():
        return sent, _NO_LEVELS, unit * crossed[0], unit * given[0], crossed.size
    return sent, np.stack([crossed, given]).astype(np.int32), unit, unit, crossed.size


def _keep(node: Neuron, decay: Array | None, absent: int) -> Array:
    if decay is None:
        return np.array([absent], np.int32)
    return np.array([decay.flat[0]], np.int32) if (decay == decay.flat[0]).all() else _flat(node, decay)


def _group(node: CubaLIF, group: Group) -> Cell | None:
    count = len(group.positive)
    gaps = np.diff(group.thresholds)
    if count > (127 if group.negative else 255):
        return None
    if count == 1 or (gaps == gaps[0]).all():
        levels, pitch = _NO_LEVELS, int(gaps[0]) if count > 1 else 1
        off = ((group.thresholds[0] - pitch) << _UNIT) + 1
    else:
        levels, pitch, off = np.array([group.thresholds] * 2, np.int32), 1, 1
    rules = (0, False, bool(group.negative), count, 0, off, bool(group.negative))
    zero = _flat(node, 0)
    values = (
        _keep(node, node.decay_syn, 0), np.zeros(1, np.int32), zero, _flat(node, -_UNLIMITED), zero,
        _flat(node, pitch << _UNIT), zero,
    )
    total = np.cumsum(group.steps)
    payloads = _table(total, -total if group.negative else total[:0])
    above, below = (np.cumsum(k, dtype=np.int64) for k in group.kicks)
    even = (above == above[0] * np.arange(1, count + 1)).all() and (not group.negative or (below == -above).all())
    resets = bool(above.any() or below.any())
    if max(_most(total), _most(above), _most(below)) > _ROOM:
        return None
    ends = [0, *total, *(-total if group.negative else [])]
    return Cell(
        (3, 0, 0, 0, _NONE), _start(node), (rules, values, levels), payloads,
        kicks=_table(above, below) if resets and not even else _NONE, slope=int(above[0]) if even else 0,
        low=int(min(ends)), high=int(max(ends)),
    )


def _table(above: Array, below: Array) -> Array:
    """[256] int32: ``above`` for n = 1, 2, …, ``below`` for n = -1, -2, … as bytes; empty where n stands for n."""
    if not below.size and (above == np.arange(1, above.size + 1)).all():
        return _NONE
    table = np.zeros(256, np.int32)
    table[1 : above.size + 1] = above
    if below.size:
        table[256 - below.size :] = below[::-1]
    return table

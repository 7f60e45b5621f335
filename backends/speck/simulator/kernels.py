"""The compiled inner loops: events through the cores of one configuration, sample by sample.

States lie as [core][y][x][feature] and weights such that, for every row of neurons an event reaches, states and weights
are one contiguous run each (`plan` says how): one loop adds, clips and finds the largest state, and only a row that
reached the threshold is looked through for who fires. One file, because numba's cache watches no other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.extending import intrinsic

# columns of Plan.cores
(FEATURES_IN, HEIGHT_IN, WIDTH_IN, FEATURES, HEIGHT, WIDTH, KERNEL, STRIDE_Y, STRIDE_X, PAD_Y, PAD_X, WEIGHTS, NEURONS,
 PHASES, BIAS, LOW, HIGH, TO_ZERO, WIDE, FIRST_OUT, LAST_OUT, FOUND, HEARD, COLUMNS) = range(24)
# columns of Plan.destinations
TARGET, POOLING, SHIFT = range(3)
# rows of Work.totals
SYNOPS, SATURATED, DROPPED = range(3)
# places in Work.log_size
LOGGED, NOW = range(2)

_TOP = np.int32(32767)


class Plan(NamedTuple):
    """A configuration as flat arrays; `plan.make_plan` makes it.

    Attributes:
        cores: int64 [core, COLUMNS].
        phases: int64 [phase, 3]: where its taps begin in a feature's weights, rows and columns of taps.
        destinations: int64 [destination, 3]; those of the input first.
        inputs: how many destinations the input has.
        weights: int8, per core [feature in][phase][tap row][tap column][feature out], taps in falling order.
        initial: int16 [neurons].
        biases: int16, per core [feature out].
    """

    cores: Any
    phases: Any
    destinations: Any
    inputs: int
    weights: Any
    initial: Any
    biases: Any


class Work(NamedTuple):
    """What changes in a run.

    Attributes:
        state: int16 [neurons].
        counts: int32 [neurons], spikes of the sample so far.
        totals: int64 [3, core]: synaptic operations, saturated updates, dropped events of all samples.
        found: int32, per core: neurons that fired at its last event.
        stack: int64 [3, core]: core, its next spike, its next destination; row 0 is the stack, the others are by core.
        fired: int64 [core], length of its ``found``.
        log: int64 [2, room], (input event, neuron) of every spike of the cores that are heard.
        log_size: int64 [2]: spikes that were heard, whether they had room or not; number of the input event.
    """

    state: Any
    counts: Any
    totals: Any
    found: Any
    stack: Any
    fired: Any
    log: Any
    log_size: Any


class Record(NamedTuple):
    """What is kept of every sample and segment; arrays without segments keep nothing.

    Attributes:
        counts: int32 [sample, neurons].
        rows: int32 [sample, segment, last neurons], spikes of the sample so far.
        states: int16 [sample, segment, neurons].
        timestamps: int64 [event], or empty.
        window: microseconds per window of peaks; 0: none.
        peaks: int64 [core], most synaptic operations within a window.
    """

    counts: Any
    rows: Any
    states: Any
    timestamps: Any
    window: int
    peaks: Any


def _without_owner(context, array):  # type: ignore[no-untyped-def]
    """The array without its owner, for the time of a call: else numba counts references to it in every loop, and that
    takes eight times as long as what the loops do.
    """

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        made = context.make_array(signature.return_type)(context, builder, arguments[0])
        made.meminfo = made.meminfo.type(None)
        made.parent = made.parent.type(None)
        return made._getvalue()

    return array(array), code


_bare: Any = intrinsic(_without_owner)


@njit(forceinline=True)
def _add(state, to, weights, at, size, low):  # type: ignore[no-untyped-def]
    """state[to:to+size] = max(low, state + weights[at:at+size]) where 16 bits hold every sum; the largest.

    Flat arrays and unsigned indices, and every step cast: else the loop is not vectorised.
    """
    most = np.int16(-32768)
    for j in range(np.uintp(size)):
        k = np.uintp(j)
        v = np.int16(state[to + k] + np.int16(weights[at + k]))
        v = v if v > low else low
        state[to + k] = v
        most = v if v > most else most
    return most


@njit(forceinline=True)
def _add_wide(state, to, weights, at, size, low):  # type: ignore[no-untyped-def]
    """The same where sums can leave 16 bits: (the largest, how many were cut off at 32767)."""
    most, over, floor = np.int32(-32768), np.int32(0), np.int32(low)
    for j in range(np.uintp(size)):
        k = np.uintp(j)
        v = np.int32(np.int32(state[to + k]) + np.int32(weights[at + k]))
        over = np.int32(over + np.int32(v > _TOP))
        v = v if v > floor else floor
        v = v if v < _TOP else _TOP
        state[to + k] = np.int16(v)
        most = v if v > most else most
    return most, over


@njit(forceinline=True)
def _fire(plan, work, core, to, size, found):  # type: ignore[no-untyped-def]
    """Who fires among the neurons to..to+size; returns the length of the core's ``found``."""
    own = plan.cores[core]
    first, high, to_zero, base = own[NEURONS], np.int16(own[HIGH]), own[TO_ZERO], own[FOUND]
    for j in range(np.uintp(size)):
        k = to + np.uintp(j)
        v = work.state[k]
        if v >= high:
            work.state[k] = np.int16(0) if to_zero else np.int16(v - high)
            work.counts[k] += np.int32(1)
            work.found[base + found] = np.int32(np.int64(k) - first)
            found += 1
    return found


@njit(forceinline=True)
def _update(plan, work, core, f, y, x):  # type: ignore[no-untyped-def]
    """One event at a core; leaves who fires in ``found`` and returns how many."""
    own = plan.cores[core]
    if f >= own[FEATURES_IN] or y >= own[HEIGHT_IN] or x >= own[WIDTH_IN]:
        work.totals[DROPPED, core] += 1
        return 0
    y, x = y + own[PAD_Y], x + own[PAD_X]
    bottom, right, phase = y, x, own[PHASES]
    if own[STRIDE_Y] > 1 or own[STRIDE_X] > 1:
        bottom, right = y // own[STRIDE_Y], x // own[STRIDE_X]
        phase += (y - bottom * own[STRIDE_Y]) * own[STRIDE_X] + x - right * own[STRIDE_X]
    taps, rows, columns = plan.phases[phase, 0], plan.phases[phase, 1], plan.phases[phase, 2]
    top, left = bottom - rows + 1, right - columns + 1
    first_y, last_y = max(np.int64(0), top), min(own[HEIGHT] - 1, bottom)
    first_x, last_x = max(np.int64(0), left), min(own[WIDTH] - 1, right)
    if last_y < first_y or last_x < first_x:
        return 0
    features = own[FEATURES]
    size = (last_x - first_x + 1) * features
    weights = own[WEIGHTS] + f * own[KERNEL] * own[KERNEL] * features + taps + (first_x - left) * features
    neurons = own[NEURONS] + first_x * features
    low, high, found = np.int16(own[LOW]), np.int32(own[HIGH]), 0
    for oy in range(first_y, last_y + 1):
        to = np.uintp(neurons + oy * own[WIDTH] * features)
        at = np.uintp(weights + (oy - top) * columns * features)
        if own[WIDE]:
            most, over = _add_wide(work.state, to, plan.weights, at, size, low)
            work.totals[SATURATED, core] += over
        else:
            most = np.int32(_add(work.state, to, plan.weights, at, size, low))
        if most >= high:
            found = _fire(plan, work, core, to, size, found)
    work.totals[SYNOPS, core] += size * (last_y - first_y + 1)
    if found and own[HEARD]:
        _hear(plan, work, core, found)
    return found


@njit(forceinline=True)
def _hear(plan, work, core, found):  # type: ignore[no-untyped-def]
    """Log who fires, as far as there is room."""
    first, base = plan.cores[core, NEURONS], plan.cores[core, FOUND]
    for i in range(found):
        at = work.log_size[LOGGED]
        if at < work.log.shape[1]:
            work.log[0, at] = work.log_size[NOW]
            work.log[1, at] = first + work.found[base + i]
        work.log_size[LOGGED] = at + 1


@njit(forceinline=True)
def _onward(plan, core, neuron, destination):  # type: ignore[no-untyped-def]
    """(core, f, y, x) of a neuron's spike at a destination."""
    features, width = np.uint32(plan.cores[core, FEATURES]), np.uint32(plan.cores[core, WIDTH])
    place = np.uint32(neuron) // features
    y = place // width
    return _at(plan, np.uint32(neuron) - place * features, y, place - y * width, destination)


@njit(forceinline=True)
def _at(plan, f, y, x, destination):  # type: ignore[no-untyped-def]
    """(core, f, y, x) of an event at a destination; unsigned division is the quicker one."""
    pooling = np.uint32(plan.destinations[destination, POOLING])
    if pooling > 1:
        y, x = np.uint32(y) // pooling, np.uint32(x) // pooling
    return plan.destinations[destination, TARGET], f + plan.destinations[destination, SHIFT], np.int64(y), np.int64(x)


@njit(forceinline=True)
def _depth_first(plan, work, core, f, y, x):  # type: ignore[no-untyped-def]
    """An event at a core and all that follows: of the cores on the stack the last one's next spike goes on.

    A core is there at most once, for no cores send in a circle.
    """
    stack, height = work.stack, 0
    while True:
        fired = _update(plan, work, core, f, y, x)
        if fired and plan.cores[core, FIRST_OUT] < plan.cores[core, LAST_OUT]:
            work.fired[core] = fired
            stack[0, height], stack[1, core], stack[2, core] = core, 0, plan.cores[core, FIRST_OUT]
            height += 1
        while height and stack[1, stack[0, height - 1]] == work.fired[stack[0, height - 1]]:
            height -= 1
        if not height:
            return
        sender = stack[0, height - 1]
        neuron = work.found[plan.cores[sender, FOUND] + stack[1, sender]]
        core, f, y, x = _onward(plan, sender, neuron, stack[2, sender])
        stack[2, sender] += 1
        if stack[2, sender] == plan.cores[sender, LAST_OUT]:
            stack[1, sender] += 1
            stack[2, sender] = plan.cores[sender, FIRST_OUT]


@njit(forceinline=True)
def _breadth_first(plan, work, f, y, x, queue):  # type: ignore[no-untyped-def]
    """An event of the input and all that follows, first in, first out; returns the queue [4, room], perhaps longer."""
    head, tail = 0, 0
    for i in range(plan.inputs):
        queue[0, i], queue[1, i], queue[2, i], queue[3, i] = _at(plan, f, y, x, i)
        tail += 1
    while head < tail:
        core = queue[0, head]
        fired = _update(plan, work, core, queue[1, head], queue[2, head], queue[3, head])
        head += 1
        first, last = plan.cores[core, FIRST_OUT], plan.cores[core, LAST_OUT]
        if tail + fired * (last - first) > queue.shape[1]:
            longer = np.empty((4, 2 * (tail + fired * (last - first))), np.int64)
            for row in range(4):
                for i in range(head, tail):
                    longer[row, i] = queue[row, i]
            queue = longer
        for i in range(fired):
            for destination in range(first, last):
                queue[0, tail], queue[1, tail], queue[2, tail], queue[3, tail] = _onward(
                    plan, core, work.found[plan.cores[core, FOUND] + i], destination)
                tail += 1
    return queue


@njit
def _edge(plan, work):  # type: ignore[no-untyped-def]
    """An edge of the slow clock: every neuron of a layer with biases takes its own."""
    for core in range(plan.cores.shape[0]):
        bias, low, over = plan.cores[core, BIAS], plan.cores[core, LOW], np.int64(0)
        if bias < 0:
            continue
        first, features = plan.cores[core, NEURONS], plan.cores[core, FEATURES]
        for place in range(plan.cores[core, HEIGHT] * plan.cores[core, WIDTH]):
            for o in range(features):
                n = first + place * features + o
                v = max(low, np.int64(work.state[n]) + np.int64(plan.biases[bias + o]))
                over += np.int64(v > np.int64(_TOP))
                work.state[n] = np.int16(min(np.int64(_TOP), v))
        work.totals[SATURATED, core] += over


@njit
def _copy(source, target):  # type: ignore[no-untyped-def]
    """A loop: numba compiles seconds longer for an assignment of arrays."""
    for n in range(source.size):
        target[n] = source[n]


@njit
def _keep(work, record, b, s):  # type: ignore[no-untyped-def]
    """Record the end of a segment."""
    if record.rows.shape[1]:
        kept = record.rows[b, s]
        _copy(work.counts[work.counts.size - kept.size :], kept)
    if record.states.shape[1]:
        _copy(work.state, record.states[b, s])


@njit
def _end_window(work, record, before):  # type: ignore[no-untyped-def]
    """Keep the window's synaptic operations where they are the most so far, and begin the next."""
    for core in range(before.size):
        record.peaks[core] = max(record.peaks[core], work.totals[SYNOPS, core] - before[core])
        before[core] = work.totals[SYNOPS, core]


@njit(nogil=True, cache=True)
def run(plan, work, record, feature, row, column, ends, leaks, breadth):  # type: ignore[no-untyped-def]
    """Samples one after the other, each from rest.

    Args:
        plan, work, record: see there; ``counts`` and ``totals`` are zeros.
        feature, row, column: int32 [event], of the input, of all samples.
        ends: int64 [sample, segment], the event before which a segment ends.
        leaks: an edge of the slow clock begins every segment.
        breadth: the order, else depth first.
    """
    plan = Plan(
        _bare(plan.cores), _bare(plan.phases), _bare(plan.destinations), plan.inputs, _bare(plan.weights),
        _bare(plan.initial), _bare(plan.biases),
    )
    work = Work(
        _bare(work.state), _bare(work.counts), _bare(work.totals), _bare(work.found), _bare(work.stack),
        _bare(work.fired), _bare(work.log), _bare(work.log_size),
    )
    samples, segments = ends.shape
    window, event = np.int64(-1), 0
    before = np.zeros(plan.cores.shape[0], np.int64)
    queue = np.empty((4, max(64, plan.inputs)), np.int64)
    for b in range(samples):
        _copy(plan.initial, work.state)
        for n in range(work.counts.size):
            work.counts[n] = 0
        for s in range(segments):
            if leaks:
                _edge(plan, work)
            while event < ends[b, s]:
                work.log_size[NOW] = event
                if record.window and record.timestamps[event] // record.window != window:
                    _end_window(work, record, before)
                    window = record.timestamps[event] // record.window
                f, y, x = np.int64(feature[event]), np.int64(row[event]), np.int64(column[event])
                if breadth:
                    queue = _breadth_first(plan, work, f, y, x, queue)
                else:
                    for i in range(plan.inputs):
                        core, o, oy, ox = _at(plan, f, y, x, i)
                        _depth_first(plan, work, core, o, oy, ox)
                event += 1
            _keep(work, record, b, s)
        _copy(work.counts, record.counts[b])
    if record.window:
        _end_window(work, record, before)

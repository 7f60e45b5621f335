"""Run a lowered network on a batch: populations in order, a few samples at a time, one thread per core."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch

from d2e.backends.loihi2.simulator import kernels
from d2e.backends.loihi2.simulator.dense import dense_input
from d2e.backends.loihi2.simulator.plan import Conv, PopulationPlan, first, last, make_plan
from d2e.ir import Network, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

_CACHE_BYTES = 1 << 21
"""Spikes of a chunk of samples stay below this: a layer's output is still in the cache when the next reads it, and the
Python between the kernels, which runs on one core at a time, is shared by several samples."""

_DENSE_RATE = 0.3
"""Above this share of active sources a layer without an int8 form is computed densely in floating point."""

_SPIKE, _ROW, _LANES, _MACS, _RESULT = 8.0, 1.5, 0.04, 300.0, 0.5
"""Nanoseconds of a spike, of a row of weights it adds and of each of its weights; int8 products per nanosecond, and
nanoseconds per result. Only the choice of the form hangs on them, never a result (benchmarks/simulator.py)."""

Form = Literal["events", "int8", "float"]

_EMPTY: Array = np.zeros((0, 0, 0), np.int32)
_NO_WHOLE: Array = np.zeros((0, 0, 0), np.float32)
_NO_SOURCE = (np.zeros((0, 0, 0), np.uint64), np.zeros((0, 0, 0), np.uint8), 0)
_NO_MATRIX = np.zeros(0, np.int16)
_NO_CONV = Conv().arguments


@dataclass
class _Sent:
    """What a source sent: rows of bytes padded to whole words, or raw payloads [B, T, *shape] that need more room."""

    words: Array
    bytes_: Array
    raw: Array | None = None

    def rows(self, size: int) -> Array:
        """[B * T, size] contiguous bytes."""
        flat = self.bytes_.reshape(-1, self.bytes_.shape[2])
        return flat if flat.shape[1] == size else np.ascontiguousarray(flat[:, :size])

    def frames(self, shape: tuple[int, ...]) -> Array:
        """[B, T, *shape]."""
        if self.raw is not None:
            return self.raw
        return first(self.bytes_[:, :, : int(np.prod(shape))], shape)


class Simulator:
    """A lowered network, planned once, run many times.

    Args:
        network: lowered.
        form: "events", "int8" or "float" for every layer that has that form; None: the quickest for each.

    Attributes:
        overflows: population -> how often a state left 24 bits (and wrapped or saturated as on the chip) so far.
    """

    def __init__(self, network: Network, form: Form | None = None) -> None:
        self.network, self.form = network, form
        self.plans = make_plan(network)
        self.input_name = network.inputs[0]
        self.output_source = network.incoming[network.outputs[0]][0].source
        self.overflows: dict[str, int] = {p.name: 0 for p in self.plans}
        self.tangled = _tangled(self.plans, self.input_name)

    def run(self, frames: Array, record: Record = "counts", threads: int | None = None) -> Trace:
        """Run from rest; see `d2e.ir.reference.run` for arguments, results and errors.

        Populations that feed each other within a cycle have no layer order, and a current that piles up beyond 32 bits
        has no kernel; such a network runs on the reference.
        """
        data = reference.check_frames(self.network, frames)
        batch, steps = data.shape[:2]
        if self.tangled or any(p.piles_up(steps) for p in self.plans):
            return reference.run(self.network, frames, record)
        trace = self._allocate(batch, steps, record)
        constant = self._constants(steps)
        widest = max((p.size for p in self.plans), default=1)
        workers = max(1, threads or torch.get_num_threads())
        chunk = max(1, min(_CACHE_BYTES // max(1, widest * steps), -(-batch // workers)))
        parts = [slice(i, min(i + chunk, batch)) for i in range(0, batch, chunk)]
        if workers == 1 or len(parts) < 2:
            for part in parts:
                self._count(self._chunk(data[part], part, constant, trace, record))
            return trace
        for done in [
            _workers(workers).submit(self._chunk, data[part], part, constant, trace, record) for part in parts
        ]:
            self._count(done.result())
        return trace

    def _count(self, overflows: dict[str, int]) -> None:
        for name, times in overflows.items():
            self.overflows[name] += times

    def _allocate(self, batch: int, steps: int, record: Record) -> Trace:
        def room(*lead: int) -> dict[str, Array]:
            return {p.name: np.asarray(np.zeros((*lead, *p.shape), np.int32)) for p in self.plans}

        state = record == "state"
        return Trace(
            np.zeros((batch, steps, *self.network.output.shape), np.int32), room(batch),
            room(batch, steps) if record != "counts" else {},
            room(batch, steps) if state else {}, room(batch, steps) if state else {},
        )

    def _constants(self, steps: int) -> dict[str, Array]:
        """Population -> input [T, N] from populations that nothing reaches: the same for every sample."""
        sent = {
            p.name: self._population(p, {}, {}, (1, steps), "counts")[0] for p in self.plans if p.autonomous
        }
        result: dict[str, Array] = {}
        for plan in self.plans:
            parts = [dense_input(c, sent[c.source].frames(c.shape), plan.shape)[0] for c in plan.constant]
            if parts:
                result[plan.name] = np.asarray(np.sum(parts, axis=0, dtype=np.int32))
        return result

    def _chunk(self, frames: Array, part: slice, constant: dict[str, Array], trace: Trace, record: Record) -> dict[str, int]:
        """Simulate the samples of one slice into the trace; returns how often states overflowed."""
        sent = {self.input_name: self._input(frames)}
        overflows: dict[str, int] = {}
        for plan in self.plans:
            out, counts, u, v, overflows[plan.name] = self._population(plan, sent, constant, frames.shape[:2], record)
            sent[plan.name] = out
            trace.counts[plan.name][part] = first(counts, plan.shape)
            if record != "counts":
                trace.spikes[plan.name][part] = out.frames(plan.shape)
            if record == "state":
                trace.u[plan.name][part], trace.v[plan.name][part] = first(u, plan.shape), first(v, plan.shape)
            if plan.name == self.output_source:
                trace.output[part] = first(v, plan.shape) if plan.readout else out.frames(plan.shape)
        return overflows

    def _input(self, frames: Array) -> _Sent:
        source = self.network.input
        if source.max_payload > 255 or source.coding != "spikes":
            return _Sent(_NO_SOURCE[0], _NO_SOURCE[1], frames)
        flat = last(frames, source.shape) if len(source.shape) > 1 else frames
        words, bytes_ = _room(*flat.shape)
        bytes_[:, :, : flat.shape[2]] = flat
        return _Sent(words, bytes_, frames)

    def _population(
        self, plan: PopulationPlan, sent: dict[str, _Sent], constant: dict[str, Array], lead: tuple[int, ...],
        record: Record,
    ) -> tuple[_Sent, Array, Array, Array, int]:
        """(what it sent, counts [B, N], u, v [B, T, N] or empty, overflows) for a chunk."""
        batch, steps = lead
        size = plan.size
        words, bytes_ = _room(batch, steps, size)
        keep = record == "state" or plan.readout
        u, v = (np.empty((batch, steps, size), np.int32) for _ in range(2)) if keep else (_EMPTY, _EMPTY)
        counts = np.zeros((batch, size), np.int32)
        form = self._form(plan, sent)
        events = form == "events"
        dense = [*plan.dense, *([plan.event_path] if plan.event_path and form == "float" else [])]
        drive: Array = _EMPTY
        base: Array = np.zeros(size, np.int32)
        for path in dense:
            part = dense_input(path, sent[path.source].frames(path.shape), plan.shape)
            drive = part if drive is _EMPTY else drive + part
        whole = _NO_WHOLE
        if form == "int8" and plan.source and plan.int8 and plan.event_path:
            found = plan.int8(sent[plan.source].rows(math.prod(plan.event_path.shape)))
            part = _late(found.reshape(batch, steps, -1), plan.lag)
            if part.dtype == np.float32:
                whole = part
            else:
                drive = part if drive is _EMPTY else drive + part
        if plan.name in constant:
            always = constant[plan.name]
            if (always == always[:1]).all():
                base = always[0] if steps else base
            else:
                drive = np.broadcast_to(always, (batch, *always.shape)) + (drive if drive.size else np.int32(0))
        source = _NO_SOURCE
        if events and plan.source:
            source = (sent[plan.source].words, sent[plan.source].bytes_, plan.lag)
        weights, lags = [w for w, _ in plan.selves], [lag for _, lag in plan.selves]
        selves = (np.array(weights, np.int32).reshape(-1, size), np.array(lags, np.int64))
        over = int(kernels.run_population(
            source, plan.matrix if events else _NO_MATRIX, plan.conv.arguments if events else _NO_CONV,
            plan.recurrent, selves, base, drive, whole, plan.neuron, plan.start, (words, bytes_, counts), (u, v),
        ))
        return _Sent(words, bytes_), counts, u, v, over

    def _form(self, plan: PopulationPlan, sent: dict[str, _Sent]) -> Form | None:
        """How the main path is computed, the quickest of the forms it has; None without one."""
        if plan.source is None:
            return None
        rows = sent[plan.source].bytes_
        if not rows.size:
            return "float"
        if self.form is not None and (self.form != "int8" or plan.int8 is not None):
            return self.form
        active = int(np.count_nonzero(rows))
        if plan.int8 is None:
            return "events" if active <= _DENSE_RATE * rows.size else "float"
        frames = rows.shape[0] * rows.shape[1]
        by_event = rows.size / 8 + active * (_SPIKE + plan.rows_per_spike * (_ROW + _LANES * plan.row_width))
        by_int8 = frames * (plan.int8.macs / _MACS + _RESULT * plan.int8.out)
        return "events" if by_event <= by_int8 else "int8"


def _late(part: Array, lag: int) -> Array:
    """Input [B, T, N] that arrives ``lag`` steps later."""
    if not lag:
        return part
    late = np.zeros_like(part)
    late[:, lag:] = part[:, :-lag]
    return late


def _room(batch: int, steps: int, size: int) -> tuple[Array, Array]:
    """(words, bytes) of zeroed rows, two views of one buffer."""
    words = np.zeros((batch, steps, -(-size // 8)), np.uint64)
    return words, words.view(np.uint8)


def _tangled(plans: list[PopulationPlan], input_name: str) -> bool:
    """Whether some population needs another's spikes before that one is reached."""
    known = {input_name}
    for plan in plans:
        needs = {p.source for p in (*plan.dense, *plan.constant)} | ({plan.source} if plan.source else set())
        if not needs <= known:
            return True
        known.add(plan.name)
    return False


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    """Threads that run one chunk each; torch's own threads below them would only fight."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    wait([pool.submit(time.sleep, 0.002) for _ in range(count)])
    torch.set_num_threads(threads)  # the setting is partly global: give the caller's back
    return pool


def simulate(network: Network, frames: Array, record: Record = "counts", threads: int | None = None) -> Trace:
    """Run a lowered network once; keep a `Simulator` for many runs."""
    return Simulator(network).run(frames, record, threads)

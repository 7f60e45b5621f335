"""Run a lowered network on a batch: populations in order, a few samples at a time, one thread per core."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Literal

import numpy as np
import torch

from d2e.backends.loihi2.simulator import kernels
from d2e.backends.loihi2.simulator.dense import dense_input
from d2e.backends.loihi2.simulator.layout import NO_MATRIX, Conv, first
from d2e.backends.loihi2.simulator.plan import DensePath, NoKernelError, PopulationPlan, make_plan
from d2e.backends.loihi2.simulator.record import Recorder
from d2e.backends.loihi2.simulator.sent import NO_PAYLOADS, Sent, from_input, room
from d2e.ir import Network, Scale, reference
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
_NO_SOURCE = (np.zeros((0, 0, 0), np.uint64), np.zeros((0, 0, 0), np.uint8), NO_PAYLOADS, 0)
_NO_CONV = Conv().arguments


class Simulator:
    """A lowered network, planned once, run many times.

    Args:
        network: lowered.
        form: "events", "int8" or "float" for every layer that has that form; None: the quickest for each.

    Attributes:
        overflows: population -> how often a state left 24 bits (and wrapped or saturated as on the chip) so far. Each
            replica counts its own states; runs on the reference count nothing.
        tangled: whether the network always runs on the reference.
    """

    def __init__(self, network: Network, form: Form | None = None) -> None:
        self.network, self.form = network, form
        self.input_name = network.inputs[0]
        self.overflows: dict[str, int] = {name: 0 for name in network.populations}
        self.units: list[PopulationPlan] = []
        self.output: list[DensePath] = []
        try:
            plan = make_plan(network)
            self.units, self.output = plan.units, plan.output
            self.tangled = _tangled(plan.units, self.input_name)
        except NoKernelError:
            self.tangled = True

    def run(self, frames: Array, record: Record = "counts", threads: int | None = None) -> Trace:
        """Run from rest; see `d2e.ir.reference.run` for arguments, results and errors.

        Populations that feed each other within a cycle have no layer order, and a current that piles up beyond 32 bits
        or a burst of more than 255 has no kernel; such a network runs on the reference.
        """
        data = reference.check_frames(self.network, frames)
        batch, steps = data.shape[:2]
        if self.tangled or any(p.piles_up(steps) for p in self.units):
            return reference.run(self.network, frames, record)
        recorder = Recorder(self.units, batch, steps, self.network.output.shape, record)
        try:
            self._run(data, recorder, threads)
        except NoKernelError:
            return reference.run(self.network, frames, record)
        return recorder.trace

    def _run(self, data: Array, recorder: Recorder, threads: int | None) -> None:
        batch, steps = data.shape[:2]
        constant = self._constants(steps)
        widest = max((p.size for p in self.units), default=1)
        workers = max(1, threads or torch.get_num_threads())
        chunk = max(1, min(_CACHE_BYTES // max(1, widest * steps), -(-batch // workers)))
        parts = [slice(i, min(i + chunk, batch)) for i in range(0, batch, chunk)]
        if workers == 1 or len(parts) < 2:
            for part in parts:
                self._count(self._chunk(data[part], part, constant, recorder))
            return
        for done in [_workers(workers).submit(self._chunk, data[part], part, constant, recorder) for part in parts]:
            self._count(done.result())

    def _count(self, overflows: dict[str, int]) -> None:
        for name, times in overflows.items():
            self.overflows[name] += times

    def _constants(self, steps: int) -> dict[str, Array]:
        """Population -> input [T, N] from populations that nothing reaches: the same for every sample."""
        sent = {p.name: self._population(p, {}, {}, (1, steps), False)[0] for p in self.units if p.autonomous}
        result: dict[str, Array] = {}
        for plan in self.units:
            parts = [dense_input(c, sent[c.source].frames(c.shape), plan.shape)[0] for c in plan.constant]
            if parts:
                result[plan.name] = np.asarray(np.sum(parts, axis=0, dtype=np.int32))
        return result

    def _chunk(self, frames: Array, part: slice, constant: dict[str, Array], recorder: Recorder) -> dict[str, int]:
        """Simulate the samples of one slice into the trace; returns how often states overflowed."""
        sent = {self.input_name: from_input(self.network.input, frames)}
        overflows: dict[str, int] = {}
        for plan in self.units:
            keep = plan.readout or recorder.record == "state"
            out, counts, u, v, over = self._population(plan, sent, constant, frames.shape[:2], keep)
            sent[plan.name] = out
            overflows |= dict.fromkeys(plan.members, over)
            recorder.keep(plan, part, out.bytes_[:, :, : plan.size], counts, u, v)
            if plan.readout:
                sent[plan.name] = Sent(*room(0, 0, 0), NO_PAYLOADS, first(v, plan.shape))
        for path in self.output:
            recorder.trace.output[part] += self._reaches_output(path, sent[path.source].frames(path.shape))
        return overflows

    def _reaches_output(self, path: DensePath, frames: Array) -> Array:
        factor = path.nodes[0]
        if len(path.nodes) == 1 and isinstance(factor, Scale) and factor.scale.ndim == 0 and not path.lag:
            return frames if factor.scale == 1 else frames * np.int32(factor.scale)
        shape = self.network.output.shape
        return first(dense_input(path, frames, shape), shape)

    def _population(
        self, plan: PopulationPlan, sent: dict[str, Sent], constant: dict[str, Array], lead: tuple[int, ...], keep: bool
    ) -> tuple[Sent, Array, Array, Array, int]:
        """(what it sent, counts [B, N], u, v [B, T, N] or empty unless ``keep``, overflows) for a chunk."""
        batch, steps = lead
        size, cell = plan.size, plan.cell
        words, bytes_ = room(batch, steps, size)
        u, v = (np.empty((batch, steps, size), np.int32) for _ in range(2)) if keep else (_EMPTY, _EMPTY)
        counts = np.zeros((batch, size), np.int32)
        form = self._form(plan, sent)
        base, drive, whole = self._input(plan, sent, constant, lead, form)
        events = form == "events" and plan.source is not None
        source = _NO_SOURCE
        if events and plan.source:
            source = (sent[plan.source].words, sent[plan.source].bytes_, sent[plan.source].payloads, plan.lag)
        weights, lags = [w for w, _ in plan.selves], [lag for _, lag in plan.selves]
        selves = (np.array(weights, np.int32).reshape(-1, size), np.array(lags, np.int64))
        over = int(kernels.run_population(
            source, plan.matrix if events else NO_MATRIX, plan.conv.arguments if events else _NO_CONV,
            plan.recurrent, selves, (cell.payloads, cell.kicks, cell.slope), base, drive, whole,
            cell.stock, cell.graded, cell.start, (words, bytes_, counts), (u, v),
        ))
        if over < 0:
            raise NoKernelError
        return Sent(words, bytes_, cell.payloads), counts, u, v, over

    def _input(
        self, plan: PopulationPlan, sent: dict[str, Sent], constant: dict[str, Array], lead: tuple[int, ...],
        form: Form | None,
    ) -> tuple[Array, Array, Array]:
        """What does not come by events: (the same every step [N], int32 [B, T, N], whole float32 [B, T, N])."""
        batch, steps = lead
        drive: Array = _EMPTY
        base: Array = np.zeros(plan.size, np.int32)
        for path in [*plan.dense, *([plan.event_path] if plan.event_path and form == "float" else [])]:
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
        return base, drive, whole

    def _form(self, plan: PopulationPlan, sent: dict[str, Sent]) -> Form | None:
        """How the main path is computed, the quickest of the forms it has; None without one."""
        if plan.source is None:
            return None
        rows = sent[plan.source].bytes_
        if not rows.size:
            return "float"
        if self.form is not None and (self.form != "int8" or plan.int8 is not None):
            return self.form
        active = sent[plan.source].active
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

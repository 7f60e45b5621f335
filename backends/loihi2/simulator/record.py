"""The trace of a run, in the populations of the network: a group of replicas is taken apart again."""

from __future__ import annotations

import numpy as np
from numba import njit

from d2e.backends.loihi2.simulator.layout import first
from d2e.backends.loihi2.simulator.plan import PopulationPlan
from d2e.ir.nodes import Array, Shape
from d2e.ir.reference import Record, Trace

_TOP = (1 << 23) - 1


class Recorder:
    """An empty trace and what fills it, a chunk of samples at a time."""

    def __init__(
        self, units: list[PopulationPlan], batch: int, steps: int, output: Shape, record: Record
    ) -> None:
        def room(*lead: int) -> dict[str, Array]:
            return {name: np.asarray(np.zeros((*lead, *u.shape), np.int32)) for u in units for name in u.members}

        state = record == "state"
        self.record = record
        self.trace = Trace(
            np.zeros((batch, steps, *output), np.int32), room(batch),
            room(batch, steps) if record != "counts" else {},
            room(batch, steps) if state else {}, room(batch, steps) if state else {},
        )

    def keep(self, plan: PopulationPlan, part: slice, n: Array, counts: Array, u: Array, v: Array) -> None:
        """Record a unit's bytes n, u and v [B, T, N] and counts [B, N] for the samples of a slice."""
        if plan.group is not None:
            self._keep_group(plan, part, n, u)
            return
        trace, name, shape = self.trace, plan.name, plan.shape
        trace.counts[name][part] = first(counts, shape)
        if self.record != "counts":
            trace.spikes[name][part] = first(n.view(np.int8) if plan.cell.signed else n, shape)
        if self.record == "state":
            trace.u[name][part], trace.v[name][part] = first(u, shape), first(v, shape)

    def _keep_group(self, plan: PopulationPlan, part: slice, n: Array, u: Array) -> None:
        """Replica i fires where n >= i; its v is u, within its limits, and 0 where it fired."""
        group, shape, trace = plan.group, plan.shape, self.trace
        assert group is not None
        signed = n.view(np.int8) if group.negative else n
        for sign, names in ((1, group.positive), (-1, group.negative)):
            own = np.ascontiguousarray(np.maximum(sign * signed, 0).astype(np.uint8) if group.negative else n)
            counts = np.zeros((n.shape[0], len(names), plan.size), np.int32)
            count_levels(own, counts)
            for i, name in enumerate(names):
                trace.counts[name][part] = first(counts[:, i], shape)
                if self.record == "counts":
                    continue
                fired = own > i
                trace.spikes[name][part] = first(fired, shape)
                if self.record == "state":
                    trace.u[name][part] = first(sign * u, shape)
                    trace.v[name][part] = first(np.where(fired, 0, np.clip(sign * u, -_TOP, _TOP)), shape)


@njit(nogil=True, cache=True)
def count_levels(n, counts):  # type: ignore[no-untyped-def]
    """counts[b, i] += how many of n[b, t] exceed i; in bytes, as long as a byte holds them."""
    batch, steps, size = n.shape
    few = np.zeros(size, np.uint8)
    for b in range(batch):
        for i in range(counts.shape[1]):
            for start in range(0, steps, 255):
                few[:] = 0
                for t in range(start, min(start + 255, steps)):
                    row = n[b, t]
                    for k in range(size):
                        few[k] = np.uint8(few[k] + np.uint8(row[k] > np.uint8(i)))
                for k in range(size):
                    counts[b, i, k] += few[k]

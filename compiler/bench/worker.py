"""The boards of one worker of a Dask cluster: what it is sent to make them, and what it does with a batch."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2e.compiler.bench import devices
from d2e.compiler.bench.job import Batch, Work
from d2e.compiler.bench.seat import Outcome, Seat
from d2e.compiler.program import Program
from d2e.compiler.report import Report
from d2e.compiler.target import find
from d2e.ir import nirfile

BOARD = "board"
"""Name of the resource."""
VARIABLE = "D2E_BOARDS"
"""Environment variable of a worker that names the boards it has."""


@dataclass(frozen=True)
class Shipped:
    """What a worker needs, as bytes and plain values.

    Attributes:
        nir: of the lowered network.
        target, populations: of the program.
        peaks, window_us, warm_up: see `Work`.
        boards: as they are written; the worker's own where it names none.
        by_worker: whether the worker of this number has the board of this number alone.
        time_out: seconds for a batch.
    """

    nir: bytes
    target: str
    populations: Mapping[str, str]
    peaks: bool
    window_us: int
    warm_up: int
    boards: tuple[str, ...]
    by_worker: bool
    time_out: float | None

    def station(self, worker: Any, folder: Path) -> Station:
        """The boards of a worker."""
        path = folder / f"d2e-bench-{os.getpid()}.nir"
        path.write_bytes(self.nir)
        program = Program(nirfile.read(path), find(self.target), self.populations, Report({}))
        path.unlink()
        work = Work(program, self.peaks, self.window_us, self.warm_up)
        named = os.environ.get(VARIABLE)
        chosen = (self.boards[int(worker.name)],) if self.by_worker else (named,) if named else self.boards
        host = "" if self.by_worker else f"@{worker.name}"
        found = devices.names(",".join(chosen))
        return Station([Seat(n.label + host, devices.make(n, program.target), work, self.time_out) for n in found])


class Station:
    """The boards of one worker; a task has one of them at a time."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.count = len(seats)
        self._free: queue.SimpleQueue[Seat] = queue.SimpleQueue()
        for seat in seats:
            self._free.put(seat)

    def take(self, batch: Batch) -> list[Outcome]:
        """Run a batch on a free board; what is told of it, and of a batch before that had stalled there."""
        seat = self._free.get()
        told = []
        while (outcome := seat.settle()) is not None:
            told.append(outcome)
            if not outcome.left:
                break
        else:
            told.append(seat.take(batch))
        if told[-1].left:
            self._free.put(seat)
        else:
            seat.close()
            self.count -= 1
        return [_light(outcome) for outcome in told]


def _light(outcome: Outcome) -> Outcome:
    """What is sent back: without the data of its batch."""
    batch = outcome.batch
    light = None if batch is None else replace(batch, frames=None, recordings=None, labels=None)
    return replace(outcome, batch=light, fault=None)


def plugin(shipped: Shipped) -> Any:
    """What every worker of the cluster is given when it starts: its boards."""
    from distributed import Status, WorkerPlugin

    class Boards(WorkerPlugin):  # type: ignore[misc]
        """Makes the boards of a worker, and announces them."""

        async def setup(self, worker: Any) -> None:
            if shipped.by_worker:  # Ctrl-C reaches every process of a terminal; ours is ended by the one that started it
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            worker.d2e_boards = shipped.station(worker, Path(worker.local_directory))
            await worker.set_resources(**{BOARD: worker.d2e_boards.count})
            if worker.status == Status.running:  # only then does the scheduler look again at batches that found no board
                worker.status = Status.paused
                worker.status = Status.running

        async def teardown(self, worker: Any) -> None:
            await worker.set_resources(**{BOARD: 0})

    return Boards()


def task(batch: Batch) -> list[Outcome]:
    """On a worker."""
    from distributed import get_worker

    worker: Any = get_worker()
    station = worker.d2e_boards
    before = station.count
    told: list[Outcome] = station.take(batch)
    if station.count < before:
        from distributed.utils import sync

        sync(worker.loop, worker.set_resources, **{BOARD: station.count})
    return told

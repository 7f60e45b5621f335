"""The boards of a Dask cluster: each worker announces its own as the resource "board", and a batch takes one of them.

A worker that dies takes no batch with it: the scheduler hands what it had to another, and what comes twice counts once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2e.compiler.bench import devices
from d2e.compiler.bench.fleet import Keep, Tell, no_device
from d2e.compiler.bench.job import Batch, Work
from d2e.compiler.bench.seat import Outcome, Seat
from d2e.compiler.program import Program
from d2e.compiler.report import Report
from d2e.compiler.target import find
from d2e.ir import MissingError, nirfile

BOARD = "board"
"""Name of the resource."""
VARIABLE = "D2E_BOARDS"
"""Environment variable of a worker that names the boards it has."""
NO_BOARDS_S = 30.0
"""How long a cluster may be without any board before the run ends: a worker that died needs some seconds to come back."""
MOST_TRIES = 8
"""Of one batch."""


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


def _plugin(shipped: Shipped) -> Any:
    """What every worker of the cluster is given when it starts: its boards."""
    from distributed import WorkerPlugin

    class Boards(WorkerPlugin):  # type: ignore[misc]
        """Makes the boards of a worker, and announces them."""

        async def setup(self, worker: Any) -> None:
            worker.d2e_boards = shipped.station(worker, Path(worker.local_directory))
            await worker.set_resources(**{BOARD: worker.d2e_boards.count})

        async def teardown(self, worker: Any) -> None:
            await worker.set_resources(**{BOARD: 0})

    return Boards()


def _task(batch: Batch) -> list[Outcome]:
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


@contextlib.contextmanager
def _client(address: str, boards: int) -> Iterator[Any]:
    """A client of a cluster; "local": a worker process per board, on this computer.

    Raises:
        MissingError: D2E-BENCH-009 where Dask is not installed.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingError("D2E-BENCH-009", "Dask is not installed", hint="pip install 'd2e[cluster]'.") from None
    if address != "local":
        with Client(address) as client:
            yield client
        return
    with LocalCluster(n_workers=boards, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


def run_on_cluster(
    batches: Iterator[Batch], shipped: Shipped, address: str, *, ahead: int, keep: Keep, tell: Tell,
    until: float | None = None,
) -> None:
    """Run batches on the boards of a cluster; each is kept once.

    Args:
        batches: to be run.
        shipped: what workers need.
        address: of the scheduler, or "local".
        ahead: how many batches are sent before a board is free for them.
        keep, tell, until: as of `fleet.run_local`.

    Raises:
        NoDevice: D2E-BENCH-007 where no board is left.
        MissingError: D2E-BENCH-009 where Dask is not installed.
        UsageError: what is wrong with the data.
    """
    with _client(address, len(shipped.boards)) as client:
        name = f"d2e-bench-{os.getpid()}-{id(shipped)}"
        client.register_plugin(_plugin(shipped), name=name)
        try:
            _Run(client, batches, ahead, keep, tell, until).all()
        finally:
            if address != "local":
                client.unregister_worker_plugin(name)


class _Run:
    """The client's side of a run."""

    def __init__(
        self, client: Any, batches: Iterator[Batch], ahead: int, keep: Keep, tell: Tell, until: float | None
    ) -> None:
        self.client, self.batches, self.ahead, self.keep, self.tell, self.until = client, batches, ahead, keep, tell, until
        self.flying: dict[Any, tuple[Batch, int]] = {}
        self.done: set[tuple[int, int]] = set()
        self.reasons: list[str] = []
        self.boardless: float | None = None
        self.most = 0

    def all(self) -> None:
        """Everything."""
        try:
            while self._filled():
                for future in self._landed():
                    self._told(*self.flying.pop(future), future)
        finally:
            self.client.cancel(list(self.flying))

    def _filled(self) -> bool:
        """Send batches until enough are on their way; False where there are none any more."""
        boards = self._boards()
        while not self._late() and len(self.flying) < max(1, boards) + self.ahead:
            batch = next(self.batches, None)
            if batch is None:
                break
            self._send(batch, 0)
        return bool(self.flying)

    def _late(self) -> bool:
        return self.until is not None and time.monotonic() >= self.until

    def _send(self, batch: Batch, tries: int) -> None:
        import dask

        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            future = self.client.submit(_task, batch, resources={BOARD: 1}, pure=False)
        self.flying[future] = (batch, tries)

    def _boards(self) -> int:
        """How many there are now.

        Raises:
            NoDevice: where there were none for `NO_BOARDS_S`.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        boards = int(sum(w["resources"].get(BOARD, 0) for w in workers))
        now = time.monotonic()
        self.most = max(self.most, boards)
        self.boardless = None if boards else self.boardless or now
        dropped = 0 < self.most <= len(self.reasons)
        if self.boardless is not None and (dropped or now - self.boardless >= NO_BOARDS_S):
            raise no_device(self.reasons or [f"no worker of the cluster has announced the resource {BOARD!r}"])
        return boards

    def _landed(self) -> list[Any]:
        from distributed import wait

        with contextlib.suppress(TimeoutError):
            return list(wait(list(self.flying), timeout=0.5, return_when="FIRST_COMPLETED").done)
        return []

    def _told(self, batch: Batch, tries: int, future: Any) -> None:
        if future.status != "finished":
            fault = future.exception()
            if type(fault).__name__ != "KilledWorker" or tries >= MOST_TRIES:
                raise fault
            self.tell(f"the workers that ran batch {batch.number} died; it is run again")
            self._send(batch, tries + 1)
            return
        for outcome in future.result():
            if outcome.note:
                self.tell(outcome.note)
            if not outcome.left:
                self.reasons.append(outcome.note)
            if outcome.part is not None:
                self._once(outcome)
        if (batch.repeat, batch.number) not in self.done and not self._late():
            if tries >= MOST_TRIES:
                raise no_device([f"batch {batch.number} failed {tries + 1} times", *self.reasons])
            self._send(batch, tries + 1)

    def _once(self, outcome: Outcome) -> None:
        key = outcome.batch.repeat, outcome.batch.number  # type: ignore[union-attr]
        if key not in self.done:
            self.done.add(key)
            self.keep(outcome.batch, outcome.part)  # type: ignore[arg-type]

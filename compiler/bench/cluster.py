"""The boards of a Dask cluster: each worker announces its own as the resource "board", and a batch takes one of them.

A worker that dies takes no batch with it: the scheduler hands what it had to another, and what comes twice counts once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

from d2e.compiler.bench.fleet import Keep, Tell, no_device
from d2e.compiler.bench.job import Batch
from d2e.compiler.bench.seat import Outcome, first_line
from d2e.compiler.bench.worker import BOARD, Shipped, plugin, task
from d2e.ir import D2EError, MissingError, UsageError

NO_BOARDS_S = 30.0
"""How long a cluster may be without any board before the run ends: a worker that died needs some seconds to come back."""
MOST_TRIES = 8
"""Of one batch."""
ANSWER_S = 10.0
"""Seconds for what a batch did to arrive, once it is done: where its worker died meanwhile, Dask waits for another."""
_SCHEDULER = "Start one with dask scheduler, and call again with the same --resume file."


@contextlib.contextmanager
def _client(address: str, boards: int) -> Iterator[Any]:
    """A client of a cluster; "local": a worker process per board, on this computer.

    Raises:
        UsageError: D2E-BENCH-001 for what is no address.
        MissingError: D2E-BENCH-009 where Dask is not installed, -013 where no scheduler answers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingError("D2E-BENCH-009", "Dask is not installed", hint="pip install 'd2e[cluster]'.") from None
    if address == "local":
        options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
        with LocalCluster(n_workers=boards, **options) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(address)
    except ValueError:
        raise UsageError("D2E-BENCH-001", f"{address!r} is no address of a Dask scheduler",
                         hint="Write --cluster tcp://host:8786, or local.") from None
    except OSError as error:
        raise MissingError("D2E-BENCH-013", f"no Dask scheduler answers at {address}: {error}", hint=_SCHEDULER) from None
    with _quiet("distributed.client"), client:
        yield client


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger from its traceback of a scheduler that went away, which is told in one sentence."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


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
        MissingError: D2E-BENCH-009 where Dask is not installed, -013 where the scheduler is not there or goes away, or a
            worker cannot make its boards.
        UsageError: what is wrong with the data.
    """
    with _client(address, len(shipped.boards)) as client:
        name = f"d2e-bench-{os.getpid()}-{id(shipped)}"
        try:
            client.register_plugin(plugin(shipped), name=name)
        except D2EError:
            raise
        except Exception as error:
            raise MissingError("D2E-BENCH-013", f"a worker of the cluster cannot make its boards: {first_line(error)}",
                               hint="Install the same d2e on every worker.") from error
        try:
            _Run(client, batches, ahead, keep, tell, until).all()
        except Exception as error:
            if client.status == "running":
                raise
            raise MissingError("D2E-BENCH-013", f"the Dask scheduler at {address} went away", hint=_SCHEDULER) from error
        finally:
            if address != "local" and client.status == "running":
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
        self.workers: dict[str, Any] = {}

    def all(self) -> None:
        """Everything."""
        try:
            while self._filled():
                for future in self._landed():
                    self._told(*self.flying.pop(future), future)
        finally:
            if self.client.status == "running":
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
            future = self.client.submit(task, batch, resources={BOARD: 1}, pure=False)
        self.flying[future] = (batch, tries)

    def _boards(self) -> int:
        """How many there are now.

        Raises:
            NoDevice: where there were none for `NO_BOARDS_S`.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        for gone in self.workers.keys() - workers.keys():
            self.tell(f"worker {self.workers[gone]} of the cluster is gone; its batches go to others")
        self.workers = {address: worker["name"] for address, worker in workers.items()}
        boards = int(sum(w["resources"].get(BOARD, 0) for w in workers.values()))
        now = time.monotonic()
        self.most = max(self.most, boards)
        self.boardless = None if boards else self.boardless or now
        dropped = 0 < self.most <= len(self.reasons)
        if self.boardless is not None and (dropped or now - self.boardless >= NO_BOARDS_S):
            none = "the workers that had some are gone" if self.most else f"no worker of the cluster has announced {BOARD!r}"
            raise no_device(self.reasons or [none])
        return boards

    def _landed(self) -> list[Any]:
        from distributed import wait

        with contextlib.suppress(TimeoutError, CancelledError):
            wait(list(self.flying), timeout=0.5, return_when="FIRST_COMPLETED")
        return [future for future in self.flying if future.status in ("finished", "error", "cancelled")]

    def _told(self, batch: Batch, tries: int, future: Any) -> None:
        told = self._outcomes(future)
        if told is None:
            self.client.cancel([future])
            self._again(batch, tries)
            return
        for outcome in told:
            if outcome.note:
                self.tell(outcome.note)
            if not outcome.left:
                self.reasons.append(outcome.note)
            if outcome.part is not None:
                self._once(outcome)
        if (batch.repeat, batch.number) not in self.done and not self._late():
            self._again(batch, tries)

    def _outcomes(self, future: Any) -> list[Outcome] | None:
        """What a task told; None where that is lost with the worker that ran it."""
        if future.status == "error" and type(future.exception()).__name__ != "KilledWorker":
            raise future.exception()
        try:
            told: list[Outcome] | None = future.result(timeout=ANSWER_S) if future.status == "finished" else None
        except (CancelledError, TimeoutError):
            return None
        return told

    def _again(self, batch: Batch, tries: int) -> None:
        if tries >= MOST_TRIES:
            raise no_device([f"batch {batch.number} failed {tries + 1} times", *self.reasons])
        if self.client.status != "running":
            raise ConnectionError("the scheduler went away")
        self._send(batch, tries + 1)

    def _once(self, outcome: Outcome) -> None:
        key = outcome.batch.repeat, outcome.batch.number  # type: ignore[union-attr]
        if key not in self.done:
            self.done.add(key)
            self.keep(outcome.batch, outcome.part)  # type: ignore[arg-type]

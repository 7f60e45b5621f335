"""A device at work: a batch that takes too long has stalled, a device that fails is opened once more, then dropped."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from d2e.compiler.bench.figures import Part
from d2e.compiler.bench.job import Batch, Done, Work
from d2e.compiler.device import Device
from d2e.ir import D2EError, MissingError, UsageError

REOPEN_S = 1.0
"""Wait before a device that failed is opened again."""
MOST_FAILURES = 3
"""In a row, without a batch between them, after which a device is dropped."""


@dataclass(frozen=True)
class Outcome:
    """What became of a batch on a device.

    Attributes:
        part: what it did; None: it is to be run again.
        note: what is to be told of the device; "" nothing.
        batch: that is done.
        left: whether the device goes on.
        fault: of a device that does not.
    """

    part: Part | None = None
    note: str = ""
    batch: Batch | None = None
    left: bool = True
    fault: D2EError | None = None


class Seat:
    """One device and the thread that talks to it.

    Args:
        name: of the device.
        device: not open.
        work: that it does.
        time_out: seconds for a batch, once the device has done one; None, and before that: as the device says.
        simple: whether its faults are those of the run: an engine is not dropped, there is one.
    """

    def __init__(self, name: str, device: Device, work: Work, time_out: float | None = None, simple: bool = False) -> None:
        self.name, self.device, self.work, self.time_out, self.simple = name, device, work, time_out, simple
        self._caller = _Caller(f"d2e bench {name}")
        self._opened, self._warm, self._failures = False, False, 0
        self._late: tuple[Batch, Future[Any]] | None = None

    def settle(self) -> Outcome | None:
        """Wait for a batch that stalled, once more the time-out, or until a device that failed may be opened again."""
        if self._late is None:
            time.sleep(REOPEN_S if self._failures else 0)
            return None
        before, future = self._late
        done, fault = self._wait(future, len(before))
        if done is None and fault is None:
            return self._dropped(MissingError("D2E-BENCH-007", f"no answer for another {self._patience(len(before)):g} s"))
        self._late = None
        return self._failed(fault) if fault is not None else Outcome(self._counted(done), f"{self.name} is back", before)

    def take(self, batch: Batch) -> Outcome:
        """Run a batch, on a seat that has settled.

        Raises:
            UsageError: the program or the data are wrong, on this device as on any other.
        """
        opened = self._open()
        if opened is not None:
            return opened
        future = self._caller.call(lambda: self._run(batch))
        done, fault = self._wait(future, len(batch))
        if fault is not None:
            return self._failed(fault)
        if done is None:
            self._late = (batch, future)
            return Outcome(None, f"{self.name} has stalled: no answer within {self._patience(len(batch)):g} s")
        self._failures = 0
        return Outcome(self._counted(done), batch=batch)

    def _run(self, batch: Batch) -> tuple[Done, Any]:
        for _ in range(0 if self._warm else self.work.warm_up):
            self.work.run(self.device, batch)
        self._warm = True
        done = self.work.run(self.device, batch)
        return done, self.device.power()

    def _counted(self, done: tuple[Done, Any]) -> Part:
        return done[0].counted(self.work.counter, self.name, done[1])

    def _open(self) -> Outcome | None:
        """Open and configure it where it is not; what keeps it from that."""
        if self._opened:
            return None

        def start() -> bool:
            self.device.open()
            self.device.configure(self.work.network)
            return True

        done, fault = self._wait(self._caller.call(start), 1)
        if done is None:
            return self._failed(fault or MissingError("D2E-BENCH-007", f"{self.name} did not open within "
                                                      f"{self._patience(1):g} s"))
        self._opened = True
        return None

    def _failed(self, fault: Exception) -> Outcome:
        if isinstance(fault, UsageError) or self.simple:
            raise fault
        self._opened, self._failures = False, self._failures + 1
        if not isinstance(fault, MissingError) or self._failures >= MOST_FAILURES:
            return self._dropped(fault)
        self._close()
        return Outcome(None, f"{self.name} failed ({first_line(fault)}) and is opened again")

    def _dropped(self, fault: Exception) -> Outcome:
        told = fault if isinstance(fault, D2EError) else None
        return Outcome(None, f"{self.name} is dropped: {first_line(fault)}", left=False, fault=told)

    def _patience(self, samples: int) -> float:
        if self._warm and self.time_out is not None:
            return self.time_out
        return self.device.patience(samples) * (1 if self._warm else 1 + self.work.warm_up)

    def _wait(self, future: Future[Any], samples: int) -> tuple[Any, Exception | None]:
        """(result, None), (None, what was raised), or (None, None) after the time-out."""
        try:
            fault = future.exception(timeout=min(self._patience(samples), threading.TIMEOUT_MAX))
        except TimeoutError:
            return None, None
        if fault is None:
            return future.result(), None
        if not isinstance(fault, Exception):
            raise fault
        return None, fault

    def _close(self) -> None:
        with contextlib.suppress(Exception):  # what is gone need not be given back in order
            self._caller.call(self.device.close).result(timeout=min(self._patience(1), 10.0))

    @property
    def hangs(self) -> bool:
        """Whether a batch has stalled on it."""
        return self._late is not None

    def close(self) -> None:
        """Give the device back, unless it hangs."""
        if not self.hangs:
            self._close()
        self._caller.end()


def first_line(fault: Exception) -> str:
    """A fault in one line."""
    if isinstance(fault, D2EError):
        return f"{fault.code}: {fault.message}"
    return f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else 'no message'}"


class _Caller:
    """A thread that calls one function after another; one that hangs is left behind and keeps no program from ending."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """What it returns or raises, once it is its turn."""
        future: Future[Any] = Future()
        self._calls.put((function, future))
        return future

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            function, future = item
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def end(self) -> None:
        """After what is still to be called."""
        self._calls.put(None)

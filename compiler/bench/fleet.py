"""Batches handed out to the devices of this computer as they ask for them, loaded and encoded ahead, but not far ahead."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from d2e.compiler.bench.figures import Part
from d2e.compiler.bench.job import Batch
from d2e.compiler.bench.seat import Seat
from d2e.ir import D2EError, MissingError

Key: TypeAlias = "tuple[int, int]"
"""Repeat and number of a batch."""
Keep: TypeAlias = "Callable[[Batch, Part], None]"
Tell: TypeAlias = "Callable[[str], None]"


CLOSE_S = 5.0
"""How long the end of a run waits for devices to be given back."""


class NoDevice(MissingError):
    """No device is left; what is done is kept."""


def no_device(reasons: Sequence[str], fault: D2EError | None = None) -> NoDevice:
    """The error for a run that cannot go on: of the only device, with that device's own way out."""
    hint = fault.hint if fault is not None and len(reasons) == 1 else None
    why = "; ".join(reasons)
    return NoDevice("D2E-BENCH-007", f"no device is left: {why}" if why else "no device is left", hint=hint)


class Feed:
    """Batches in their order, those that came back first; at most ``ahead`` are held beyond those that devices have.

    Args:
        batches: loaded by a thread of the feed's.
        ahead: how many are loaded before they are asked for.
    """

    def __init__(self, batches: Iterator[Batch], ahead: int) -> None:
        self._batches, self._ahead = batches, ahead
        self._ready: list[Batch] = []
        self._out: dict[Key, Batch] = {}
        self._done: set[Key] = set()
        self._change = threading.Condition()
        self._loaded, self._stopped = False, False
        self.fault: BaseException | None = None
        threading.Thread(target=self._load, name="d2e bench data", daemon=True).start()

    def _load(self) -> None:
        try:
            while True:
                with self._change:
                    self._change.wait_for(lambda: len(self._ready) < self._ahead or self._stopped)
                    if self._stopped:
                        return
                batch = next(self._batches, None)
                if batch is None:
                    return
                with self._change:
                    self._ready.append(batch)
                    self._change.notify_all()
        except BaseException as error:
            self.fault = error
        finally:
            with self._change:
                self._loaded = True
                self._change.notify_all()

    def take(self) -> Batch | None:
        """The next batch, once there is one; None when all are done, or none shall be begun any more."""
        with self._change:
            self._change.wait_for(lambda: self._ready or self._stopped or self.fault or (self._loaded and not self._out))
            if self._stopped or self.fault or not self._ready:
                return None
            batch = self._ready.pop(0)
            self._out[batch.repeat, batch.number] = batch
            self._change.notify_all()
            return batch

    def back(self, batch: Batch) -> None:
        """It is to be run again."""
        with self._change:
            key = batch.repeat, batch.number
            if self._out.pop(key, None) is not None and key not in self._done:
                self._ready.insert(0, batch)
            self._change.notify_all()

    def finished(self, batch: Batch) -> bool:
        """It is done; False where it was done before."""
        with self._change:
            key = batch.repeat, batch.number
            first = key not in self._done
            self._done.add(key)
            self._out.pop(key, None)
            self._ready = [b for b in self._ready if (b.repeat, b.number) != key]
            self._change.notify_all()
            return first

    def stop(self) -> None:
        """Nothing more is begun."""
        with self._change:
            self._stopped = True
            self._change.notify_all()

    @property
    def over(self) -> bool:
        """Whether all is done, or nothing is running and nothing more is begun."""
        with self._change:
            return not self._out and (self._stopped or self.fault is not None or (self._loaded and not self._ready))


def run_local(
    batches: Iterator[Batch], seats: Sequence[Seat], *, ahead: int, keep: Keep, tell: Tell, until: float | None = None
) -> None:
    """Run batches on the devices of this computer; each is kept once.

    Args:
        batches: to be run.
        seats: the devices.
        ahead: how many batches are loaded before a device asks for them.
        keep: called with each batch that is done, in this thread.
        tell: called with what happens to the devices, in this thread.
        until: of `time.monotonic`: nothing is begun after that; what runs then is waited for.

    Raises:
        NoDevice: D2E-BENCH-007 where none is left.
        D2EError: what is wrong with the data, or with the only engine.
    """
    feed = Feed(batches, ahead)
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threads = [threading.Thread(target=_serve, args=(seat, feed, told), daemon=True) for seat in seats]
    for thread in threads:
        thread.start()
    left, reasons, fault = len(seats), list[str](), None
    try:
        while left and not (feed.over and told.empty()):
            if until is not None and time.monotonic() >= until:
                feed.stop()
            try:
                what, value = told.get(timeout=0.05)
            except queue.Empty:
                continue
            if what == "done" and feed.finished(value[0]):
                keep(*value)
            elif what == "note":
                tell(value)
            elif what == "gone":
                left, reasons, fault = left - 1, [*reasons, value[0]], value[1]
            elif what == "fault":
                raise value
        if feed.fault is not None:
            raise feed.fault
        if not left and not feed.over:
            raise no_device(reasons, fault)
    finally:
        feed.stop()
        _end(seats, threads)


def _end(seats: Sequence[Seat], threads: Sequence[threading.Thread]) -> None:
    """Wait until the devices that do not hang are given back."""
    patience = time.monotonic() + CLOSE_S
    for seat, thread in zip(seats, threads, strict=True):
        if not seat.hangs:
            thread.join(max(0.0, patience - time.monotonic()))


def _serve(seat: Seat, feed: Feed, told: queue.SimpleQueue[tuple[str, Any]]) -> None:
    """Batch after batch on one device, until there are none or it is dropped."""
    batch: Batch | None = None
    try:
        while True:
            outcome = seat.settle()
            if outcome is None:
                batch = feed.take()
                if batch is None:
                    return
                outcome = seat.take(batch)
            if outcome.part is not None:
                told.put(("done", (outcome.batch, outcome.part)))
            if outcome.note:
                told.put(("note", outcome.note))
            if outcome.part is None and batch is not None:
                feed.back(batch)
            batch = None
            if not outcome.left:
                told.put(("gone", (outcome.note, outcome.fault)))
                return
    except BaseException as error:
        told.put(("fault", error))
    finally:
        seat.close()

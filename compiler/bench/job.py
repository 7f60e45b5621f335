"""A program at work: batches are encoded for it, run on a device, and what they did is counted."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler import early_exit as exits
from d2e.compiler.bench.devices import EngineDevice
from d2e.compiler.bench.figures import Counter, Part
from d2e.compiler.bench.samples import Chunk
from d2e.compiler.device import Device, HasDevices, Streams
from d2e.compiler.program import Program
from d2e.compiler.target import Target
from d2e.ir import Network, UsageError, nirfile, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace


@dataclass(frozen=True)
class Batch:
    """Samples that run together.

    Attributes:
        repeat, number: the how manyeth time, and which batch.
        start: number of its first sample.
        frames: integer payloads [batch, time, *shape] (real values where a part of the network runs on the host), or None.
        recordings: timed events of each sample, or None.
        labels: class indices, or None.
    """

    repeat: int
    number: int
    start: int
    frames: Array | None
    recordings: Sequence[Any] | None
    labels: Array | None

    def __len__(self) -> int:
        given = self.frames if self.frames is not None else self.recordings
        assert given is not None
        return len(given)


@dataclass(frozen=True)
class Work:
    """What a program needs to run anywhere, and how it is measured.

    Attributes:
        program: whole, also where a part of it runs on the host.
        peaks: whether the most of a step is counted, for which every step is recorded.
        window_us: of the peaks of recordings.
        warm_up: how often a device runs the first batch it gets before that counts.
    """

    program: Program
    peaks: bool = False
    window_us: int = 1000
    warm_up: int = 1

    @property
    def network(self) -> Network:
        """Lowered."""
        return self.program.network

    @cached_property
    def counter(self) -> Counter:
        """For its batches."""
        cores: Mapping[str, Array] | None = None
        if self.peaks:
            target: Target = self.program.target
            cores = target.core_of(self.network) if isinstance(target, HasDevices) else {}
        return Counter(self.network, list(self.program.populations), cores)

    def encoded(self, repeat: int, number: int, start: int, chunk: Chunk, streamed: bool) -> Batch:
        """A chunk as a batch, every fault of the data told.

        Raises:
            UsageError: as `d2e.compiler.data.fit`.
        """
        if streamed:
            return Batch(repeat, number, start, None, list(chunk.frames), chunk.labels)
        data = data_sets.fit(data_sets.Data(np.asarray(chunk.frames), chunk.labels), self.network)
        frames = data.frames if self.network.hosts else reference.check_frames(self.network, data.frames)
        return Batch(repeat, number, start, frames, None, data.labels)

    def run(self, device: Device, batch: Batch) -> Done:
        """A batch on a device that is configured."""
        begun = time.perf_counter()
        if batch.recordings is not None:
            if not isinstance(device, Streams):
                raise UsageError("D2E-USE-016", "the device runs in steps, not on timed events",
                                 hint="Give frames [batch, time, *shape].")
            streamed, each = [], []
            for recording in batch.recordings:
                before = time.perf_counter()
                streamed.append(device.stream(recording, self.window_us))
                each.append(time.perf_counter() - before)
            return Done(batch, time.perf_counter() - begun, np.array(each), streamed=streamed)
        assert batch.frames is not None
        trace, steps, alone = self._trace(device, batch.frames)
        return Done(batch, time.perf_counter() - begun, alone, trace, steps)

    def _trace(self, device: Device, frames: Array) -> tuple[Trace, Array, Array | None]:
        """The trace in the populations of the lowered network, steps per sample, and seconds of each, if told."""
        told: list[Array | None] = []
        if isinstance(device, EngineDevice) and self.network.hosts:
            result = self.program.run(frames, engine=device.engine)
            return Trace(result.output, result.counts), result.steps, None

        def run(frames: Array, record: Record) -> Trace:
            ran = device.run(frames, record)
            told.append(ran.seconds)
            return ran.trace

        record: Record = "spikes" if self.counter.needs_steps else "counts"
        output = self.network.output
        if output.exit is None:
            trace = run(frames, record)
            return trace, np.full(len(frames), frames.shape[1], np.int64), told[0]
        if isinstance(device, EngineDevice) and device.engine in (device.target.predictor, "reference"):
            return (*exits.in_windows(self.network, run, frames, record), None)
        return (*exits.to_the_end(output.exit, output.readout, run, frames, record), told[0])


@dataclass(frozen=True)
class Done:
    """What a device gave for a batch, not counted yet.

    Attributes:
        batch: that ran.
        seconds: it took; ``each``: of each sample, where it is told.
        trace, steps: of frames.
        streamed: of recordings.
    """

    batch: Batch
    seconds: float
    each: Array | None
    trace: Trace | None = None
    steps: Array | None = None
    streamed: Sequence[Any] = ()

    def counted(self, counter: Counter, device: str, power: Mapping[str, Any] | None) -> Part:
        """As figures."""
        if self.trace is None:
            part = counter.of_recordings(self.streamed)
        else:
            assert self.batch.frames is not None
            assert self.steps is not None
            part = counter.of_frames(self.batch.frames, self.trace, self.steps)
        labels = self.batch.labels
        return replace(
            part, labels=None if labels is None else labels.astype(int).tolist(), device=device, seconds=self.seconds,
            each=None if self.each is None else self.each.tolist(),
            power=None if not power else {rail: list(watts) for rail, watts in power.items()},
        )


def packed(network: Network) -> bytes:
    """A network as the bytes of its ``.nir`` file, the same for equal networks."""
    with tempfile.TemporaryDirectory(prefix="d2e-bench-") as folder:
        path = Path(folder) / "program.nir"
        nirfile.write(network, path)
        return path.read_bytes()


def program_sha256(program: Program) -> str:
    """A name for a program by what it computes: of its lowered network, or of those of its parts on the chip."""
    parts = [part.network for _, part in getattr(program, "segments", ())]
    found = hashlib.sha256()
    for network in [program.network, *parts]:
        found.update(packed(network))
    return found.hexdigest()

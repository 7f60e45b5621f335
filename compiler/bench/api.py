"""`bench`: a program on an engine or on devices, over a data set. The command line is a thin layer over this function."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2e.compiler.bench import devices as boards
from d2e.compiler.bench.fleet import run_local
from d2e.compiler.bench.job import Batch, Work, packed, program_sha256
from d2e.compiler.bench.kept import SCHEMA, Kept
from d2e.compiler.bench.result import MEASURED, SIMULATED, Bench, gathered, written
from d2e.compiler.bench.samples import Samples, Source, open_samples
from d2e.compiler.bench.screen import ranges_text
from d2e.compiler.bench.seat import Seat
from d2e.compiler.choices import check_ranges
from d2e.compiler.device import SIMULATED as SIM
from d2e.compiler.device import HasDevices
from d2e.compiler.files import check_folder
from d2e.compiler.program import Program, load
from d2e.compiler.target import EventDriven, check_engine
from d2e.ir import UnsupportedError, UsageError

Listen = Callable[[int, int, str], None]
Tell = Callable[[str], None]


def bench(
    program: Program | str | os.PathLike[str], data: Source, *, engine: str | None = None, device: str | None = None,
    devices: str | Sequence[str] | None = None, cluster: str | None = None,
    compare: tuple[str | Program, str | Program] | None = None,
    batch: int = 64, warm_up: int = 1, repeat: int = 1, samples: int | None = None, peaks: bool = False,
    step_us: int | None = None, window_us: int = 1000, time_limit: float | None = None, time_out: float | None = None,
    ahead: int = 2, resume: str | os.PathLike[str] | None = None, output: str | os.PathLike[str] | None = None,
    listen: Listen | None = None, tell: Tell | None = None,
) -> Bench:
    """Run a program on a data set: how well, how fast, with how many spikes; or two ways of running it side by side.

    Data are loaded and encoded while the device runs, at most ``ahead`` batches before it asks for them. Everything but
    times, and who had which batch, is the same in every run.

    Args:
        program: or the folder of one.
        data: ``.npz`` or ``.npy``, arrays, a folder of images, recordings of events; see `samples.open_samples`.
        engine: one of the target's; None: its predictor on this computer.
        device: instead, a device: ``sim:0``, ``speck2f:0``, ``loihi2:0``; those that are simulated take options in braces,
            see `devices.Told`.
        devices: or several, of which each takes the next batch when it has none.
        cluster: address of a Dask scheduler whose workers have these devices each (or those that their environment
            variable ``D2E_BOARDS`` names), or "local": a worker process for each device.
        compare: two of: an engine, a device, the folder of a program; see `compare.compared`.
        batch: samples per batch.
        warm_up: how often a device runs its first batch before it counts.
        repeat: how many times the whole data run.
        samples: at most so many of them.
        peaks: also count the most spikes of a core and synaptic operations of a layer in one step; records every step.
        step_us: of recordings on targets with steps: microseconds per step; None: each recording fills the steps.
        window_us: of recordings on targets that live by events: over which peaks are taken.
        time_limit: seconds after which nothing more is begun.
        time_out: seconds after which a batch has stalled; None, and for a device's first batch: as the device says. It then
            goes to another device.
        ahead: batches that are ready before a device asks for them.
        resume: a file that keeps every batch that is done; a run that was cut off goes on with the others.
        output: write bench.json and samples.csv to this folder.
        listen: called with (done, total, what) after every batch.
        tell: called with a sentence where something happens to a device, or the run ends early.

    Returns:
        The figures; ``bench["complete"]`` says whether all samples are among them, ``bench["done"]`` which.

    Raises:
        UsageError: D2E-BENCH-001 for options that exclude each other, -002 for devices, -003 for numbers out of range, -004
            for images, -006 for a resume file of another run, -012 for programs that cannot be compared; D2E-USE-007, and
            as the data raise them.
        UnsupportedError: D2E-BENCH-011 for a program that runs on the host in part, on devices.
        MissingError: D2E-BENCH-005 without Pillow, -007 where no device is left, -009 without Dask; what an engine lacks.
        GateError: D2E-BENCH-010 where two that promise the same spikes differ; its ``bench`` are the figures.
    """
    how = How(data, batch, warm_up, repeat, samples, peaks, step_us, window_us, time_limit, time_out, ahead, resume, listen,
              tell or (lambda _: None))
    _check(how)
    chosen = Chosen(engine, _named(device, devices), cluster)
    given = program if isinstance(program, Program) else load(program)
    if output is not None:
        check_folder(Path(output))
    if compare is not None:
        from d2e.compiler.bench.compare import compared

        if chosen != Chosen() or resume is not None:
            raise UsageError("D2E-BENCH-001", "a comparison names its own engines and devices, and keeps nothing to resume",
                             hint="Leave --engine, --device, --devices, --cluster and --resume out.")
        return compared(given, compare, how, output)
    return run(given, chosen, how, output)


@dataclass(frozen=True)
class Chosen:
    """What a program shall run on."""

    engine: str | None = None
    devices: tuple[str, ...] = ()
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.devices and self.engine is not None:
            raise UsageError("D2E-BENCH-001", "a program runs on an engine or on devices, not on both",
                             hint="Give --engine, --device or --devices.")
        if self.cluster is not None and not self.devices:
            raise UsageError("D2E-BENCH-001", "a cluster needs devices", hint="Give --devices, such as sim:0,sim:1.")


@dataclass(frozen=True)
class How:
    """The options of `bench` that say how."""

    data: Source
    batch: int
    warm_up: int
    repeat: int
    samples: int | None
    peaks: bool
    step_us: int | None
    window_us: int
    time_limit: float | None
    time_out: float | None
    ahead: int
    resume: str | os.PathLike[str] | None
    listen: Listen | None
    tell: Tell


def _named(device: str | None, several: str | Sequence[str] | None) -> tuple[str, ...]:
    if device is not None and several is not None:
        raise UsageError("D2E-BENCH-001", "both a device and devices are given", hint="Give one of --device, --devices.")
    given = several if several is not None else device
    if given is None:
        return ()
    listed = tuple(boards.split(given) if isinstance(given, str) else given)
    boards.names(listed)  # raises for none, too: no engine takes their place unasked
    return listed


def _check(how: How) -> None:
    one = "1 or more"
    check_ranges(how, {
        "batch": (how.batch >= 1, one), "warm up": (how.warm_up >= 0, "0 or more"), "repeat": (how.repeat >= 1, one),
        "samples": (how.samples is None or how.samples >= 1, one),
        "step us": (how.step_us is None or how.step_us >= 1, one), "window us": (how.window_us >= 1, one),
        "time limit": (how.time_limit is None or how.time_limit > 0, "above 0"),
        "time out": (how.time_out is None or how.time_out > 0, "above 0"), "ahead": (how.ahead >= 1, one),
    }, "D2E-BENCH-003")


# --------------------------------------------------------------------------- a run


def run(program: Program, chosen: Chosen, how: How, output: str | os.PathLike[str] | None = None) -> Bench:
    """One program on one engine, or on devices; see `bench`."""
    found = opened(program, chosen, how)
    work = Work(program, how.peaks, how.window_us, how.warm_up)
    names = [boards.name_of(text) for text in chosen.devices]
    on = "+".join(sorted({name.kind for name in names})) or chosen.engine or program.target.predictor
    identity: dict[str, Any] = {
        "program": program_sha256(program), "data": found.fingerprint, "engine": on, "batch": how.batch,
        "samples": found.count, "peaks": how.peaks, **({"window_us": how.window_us} if found.streamed else {}),
    }
    kept = Kept(how.resume, identity)
    if before := len(kept.parts):
        how.tell(f"{before} batches are done already, kept in {how.resume}")
    starts = dict(enumerate(range(0, found.count, how.batch)))
    total = how.repeat * len(starts)
    until = None if how.time_limit is None else time.monotonic() + how.time_limit
    spans: list[tuple[float, float]] = []

    def keep(batch: Batch, part: Any) -> None:
        kept.keep(batch.repeat, batch.number, part)
        spans.append((time.monotonic() - part.seconds, time.monotonic()))
        if how.listen is not None:
            how.listen(len(kept.parts), total, on)

    def result() -> Bench:
        ran = sum(len(p.predictions) for p in list(kept.parts.values())[before:])
        facts = {
            "schema": SCHEMA, "program": _of_program(program, identity["program"]),
            "data": {"name": found.name, "samples": found.count, "sha256": found.fingerprint.partition(":")[0]},
            "engine": _of_engine(program, on, bool(names)), "batch": how.batch, "warm_up": how.warm_up,
            "repeat": how.repeat, "ran": ran,
            "elapsed_s": max(end for _, end in spans) - min(start for start, _ in spans) if spans else None,
        }
        parts = {key: part for key, part in kept.parts.items() if key[0] < how.repeat}
        return gathered(parts, starts, facts, _label(program, on))

    waiting = _batches(work, found, how, starts, kept)
    try:
        if total > len([k for k in kept.parts if k[0] < how.repeat]):
            _ran(program, work, chosen, how, waiting, keep, until)
    except BaseException:
        made = result()
        unwritten = written(made, output) if made["samples"] else None
        _tell_what_is_done(how, made, output, "the run was cut off", unwritten)
        raise
    made = result()
    unwritten = written(made, output)
    if not made["complete"]:
        _tell_what_is_done(how, made, output, "the time limit is reached", unwritten)
    if unwritten is not None:
        raise unwritten
    return made


def opened(program: Program, chosen: Chosen, how: How) -> Samples:
    """The data, and every fault of the call that can be told before the work.

    Raises:
        UsageError, UnsupportedError, MissingError: as `bench`.
    """
    target = program.target
    if chosen.devices:
        if program.network.hosts:
            raise UnsupportedError("D2E-BENCH-011", "a part of the network runs on the host, a device takes networks as a "
                                   "whole", hint="Leave --device and --devices out.")
        for name in boards.names(chosen.devices):
            boards.make(name, target)
    else:
        engine = chosen.engine or target.predictor
        check_engine(target.name, target.engines, engine)
        if not program.network.hosts:
            target.prepare(program.network, engine)
    timed = isinstance(target, EventDriven) and not program.network.hosts
    return open_samples(how.data, program.network, timed=timed, samples=how.samples, step_us=how.step_us)


def _batches(work: Work, found: Samples, how: How, starts: dict[int, int], kept: Kept) -> Iterator[Batch]:
    """The batches that are not done, loaded and encoded when they are asked for."""
    done = set(kept.parts)
    for repeat in range(how.repeat):
        for number, start in starts.items():
            if (repeat, number) not in done:
                chunk = found.read(start, min(start + how.batch, found.count))
                yield work.encoded(repeat, number, start, chunk, found.streamed)


def _ran(
    program: Program, work: Work, chosen: Chosen, how: How, waiting: Iterator[Batch], keep: Callable[[Batch, Any], None],
    until: float | None,
) -> None:
    target = program.target
    if chosen.cluster is not None:
        from d2e.compiler.bench.cluster import run_on_cluster
        from d2e.compiler.bench.worker import Shipped

        shipped = Shipped(packed(program.network), target.name, dict(program.populations), how.peaks, how.window_us,
                          how.warm_up, chosen.devices, chosen.cluster == "local", how.time_out)
        run_on_cluster(waiting, shipped, chosen.cluster, ahead=how.ahead, keep=keep, tell=how.tell, until=until)
        return
    if chosen.devices:
        seats = [Seat(name.label, boards.make(name, target), work, how.time_out)
                 for name in boards.names(chosen.devices)]
    else:
        engine = chosen.engine or target.predictor
        folder = program.folder / "target" if program.folder else None
        seats = [Seat(engine, boards.EngineDevice(target, engine, folder), work, how.time_out, simple=True)]
    run_local(waiting, seats, ahead=how.ahead, keep=keep, tell=how.tell, until=until)


def _tell_what_is_done(how: How, made: Bench, output: Any, why: str, fault: UsageError | None) -> None:
    """Where a run ends early: which samples are done, and where they are."""
    where = f"kept in {how.resume}" if how.resume is not None else "not kept: no --resume file was named"
    if fault is not None:
        where += f"; {fault.message}"
    elif output is not None and made["samples"]:
        where += f"; their figures are in {output}"
    total = made["data"]["samples"]
    how.tell(f"{why}: {made['samples']} of {total} samples are done ({ranges_text(made['done'])}), {where}")


# --------------------------------------------------------------------------- facts


def _of_program(program: Program, sha256: str) -> dict[str, Any]:
    folder = {} if program.folder is None else {"folder": str(program.folder)}
    return {**folder, "target": program.target.name, "sha256": sha256}


def _label(program: Program, on: str) -> str:
    """Whether a chip ran, or a computer's idea of it."""
    kinds = program.target.kinds if isinstance(program.target, HasDevices) else ()
    return MEASURED if {*on.split("+")} & {*kinds} else SIMULATED


def exact(program: Program, on: str) -> bool:
    """Whether what a program runs on promises the predictor's spikes, bit for bit."""
    target = program.target
    kinds = target.exact if isinstance(target, HasDevices) else (target.predictor, "reference")
    return target.bit_exact_with is not None and {*on.split("+")} <= {*kinds, SIM}


def _of_engine(program: Program, on: str, on_devices: bool) -> dict[str, Any]:
    promise = {"bit_exact_with": program.target.bit_exact_with} if exact(program, on) else {}
    return {"name": on, "kind": "devices" if on_devices else "engine", "label": _label(program, on), **promise}


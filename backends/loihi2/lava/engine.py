"""The engine ``loihi2-lava``: runs an emitted package with Lava's interpreter and reads its result."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from d2e.backends.loihi2.lava.env import clean_environment, find
from d2e.ir.errors import InternalError, MissingError, UnsupportedError, UsageError
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

_EXIT_USAGE = 2
_EXIT_UNSUPPORTED = 3
_EXIT_MISSING = 5
EXIT_TIMEOUT = 124
_GRACE = 10.0  # seconds a run has for its own ending before its processes are killed
_TRACKER_POLLS = 60  # of 0.05 seconds
_TRACEBACK_LINES = 40


@dataclass
class LavaTrace(Trace):
    """What a run in Lava recorded.

    Attributes:
        one_run: [batch], whether a sample was in a Lava run with others.
        profile: what Intel's profiler measured on a chip -> [runs, ...], in its units.
    """

    one_run: Array = field(default_factory=lambda: np.zeros(0, bool))
    profile: dict[str, Array] = field(default_factory=dict)


def run_lava(
    target_folder: Path, frames: Array, *, record: Record = "counts", time_out: float = 600.0,
    python: Path | None = None, hardware: bool = False, fresh: bool = False, board: str | None = None,
) -> LavaTrace:
    """Run a package on ``frames`` [batch, time, *shape].

    Args:
        target_folder: written by `emit`.
        frames: integer payloads.
        record: as in the reference interpreter.
        time_out: seconds for all samples.
        python: Lava's interpreter; None: `find`.
        hardware: on Loihi 2 itself instead of Lava's models of it.
        fresh: every sample in a Lava run of its own; else as many as possible share one, which changes no number.
        board: name of the board for Intel's software (its environment variable BOARD); None: as it chooses.

    Returns:
        The trace in the populations of the lowered network, the pipeline's latency removed.

    Raises:
        MissingError: D2E-LAVA-001 without a Lava environment, D2E-HW-001 without Intel's lava-loihi in it.
        UsageError: D2E-INPUT-001 for frames that do not fit.
        UnsupportedError: D2E-LAVA-003 where it takes longer than ``time_out``, D2E-HW-002 for what no chip runs.
        InternalError: where Lava fails, with its traceback.
    """
    jobs = [(target_folder, frames)]
    return run_many(jobs, record=record, time_out=time_out, python=python, hardware=hardware, fresh=fresh, board=board)[0]


def run_many(
    jobs: Sequence[tuple[Path, Array]], *, record: Record = "counts", time_out: float = 600.0,
    python: Path | None = None, hardware: bool = False, fresh: bool = False, board: str | None = None,
) -> list[LavaTrace]:
    """Run several packages one after another in one interpreter (its start outlasts a small network).

    Arguments and errors are those of `run_lava`; ``time_out`` is for all of them together.
    """
    if not jobs:
        return []
    interpreter = python or find()
    with tempfile.TemporaryDirectory(prefix="d2e-lava-") as temporary:
        work = Path(temporary)
        listed = []
        for i, (folder, frames) in enumerate(jobs):
            np.save(work / f"{i}.npy", np.asarray(frames))
            files = {"input": str(work / f"{i}.npy"), "output": str(work / f"{i}.npz")}
            listed.append({"folder": str(folder.absolute()), **files})
        (work / "jobs.json").write_text(json.dumps(listed))
        command = [
            str(interpreter), str(jobs[0][0].absolute() / "run.py"), "--jobs", str(work / "jobs.json"),
            "--record", record, "--time-out", f"{time_out:g}", *(["--hardware"] if hardware else []),
            *(["--fresh"] if fresh else []),
        ]
        _run(command, work, time_out, {} if board is None else {"BOARD": board})
        return [read_trace(work / f"{i}.npz") for i in range(len(jobs))]


def run_apart(
    command: list[str], work: Path, time_out: float, variables: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run in a process group of its own, which is gone afterwards whatever happens.

    Args:
        command: program and arguments.
        work: folder it runs in.
        time_out: seconds.
        variables: of the environment, beside ours.

    Returns:
        The exit code (`EXIT_TIMEOUT` where it took longer than ``time_out`` seconds) and what was said on stderr.
    """
    with (work / "stdout").open("w") as out, (work / "stderr").open("w") as err:
        process = subprocess.Popen(
            command, cwd=work, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**clean_environment(), **(variables or {})},
        )
        try:
            code = process.wait(timeout=time_out + _GRACE)
        except subprocess.TimeoutExpired:
            code = EXIT_TIMEOUT
        finally:
            _end(process)
    return code, (work / "stderr").read_text(errors="replace").strip()


def _run(command: list[str], work: Path, time_out: float, variables: Mapping[str, str]) -> None:
    code, message = run_apart(command, work, time_out, variables)
    if code == 0:
        return
    late = f"Lava did not finish within {time_out:g} seconds"
    if code == EXIT_TIMEOUT:
        raise UnsupportedError(
            "D2E-LAVA-003", next((line for line in message.splitlines() if line.startswith(late)), late),
            hint="Run fewer samples, or use the engine loihi2-sim.",
        )
    if code == _EXIT_UNSUPPORTED:
        raise UnsupportedError("D2E-HW-002", _last_line(message),
                               hint="Use the engine loihi2-sim here.")
    if code == _EXIT_MISSING:
        raise MissingError("D2E-HW-001", _last_line(message),
                           hint="Use the engine loihi2-sim here, or copy target/ to the host of the board.")
    if code == _EXIT_USAGE:
        raise UsageError("D2E-INPUT-001", _last_line(message))
    if "No module named 'lava" in message:
        raise MissingError("D2E-LAVA-001", f"{command[0]} has no lava-nc", hint="Run d2e lava install.")
    tail = "\n".join(message.splitlines()[-_TRACEBACK_LINES:]) or "it printed nothing"
    raise InternalError(f"Lava failed (exit code {code}):\n{tail}")


def _last_line(message: str) -> str:
    return message.splitlines()[-1].rstrip(".") if message else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the run to end its processes, let Python's tracker free their shared memory, kill what is left."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        for _ in range(_TRACKER_POLLS if process.returncode != 0 else 0):
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_trace(path: Path) -> LavaTrace:
    """The result that a package's run.py wrote."""
    parts: dict[str, dict[str, Array]] = {"counts": {}, "spikes": {}, "u": {}, "v": {}, "profile": {}}
    with np.load(path) as kept:
        output, together = kept["output"].astype(np.int64), kept["one_run"].astype(bool)
        for key in kept.files:
            what, _, name = key.partition("/")
            if name:
                parts[what][name] = kept[key] if what == "profile" else kept[key].astype(np.int64)
    return LavaTrace(output, **parts, one_run=together)

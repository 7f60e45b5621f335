"""Runs ``.net`` files with lava-dl's own netx in the Lava environment: the oracle of the reader and the writer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from d2e.backends.loihi2.lava.engine import EXIT_TIMEOUT, run_apart
from d2e.backends.loihi2.lava.env import find
from d2e.ir.errors import InternalError, MissingError, UnsupportedError
from d2e.ir.nodes import Array

_HERE = Path(__file__).resolve().parent
_SHIM = _HERE.parent / "lava" / "skeleton"


@dataclass(frozen=True)
class Job:
    """One file on one set of samples.

    Attributes:
        net: the file.
        frames: [batch, time, *shape]; with ``lead`` one frame for all steps of a sample.
        message_bits: width of the input's payloads; 0: plain spikes.
        layers: netx builds only so many (``num_layers``); None: all.
        lead: the first layer is an input layer with neurons: frames are their biases.
        continuous: all samples in one run, with netx's reset between them, instead of a run for each.
    """

    net: Path
    frames: Array
    message_bits: int = 0
    layers: int | None = None
    lead: bool = False
    continuous: bool = False


def run_netx(jobs: Sequence[Job], *, time_out: float = 600.0, python: Path | None = None) -> list[tuple[Array, Array]]:
    """Spikes and ``v`` of the last layer, [batch, time, *shape] each, for every job; the latency removed.

    Raises:
        MissingError: D2E-LAVA-001 without a Lava environment, or without lava-dl in it.
        UnsupportedError: D2E-LAVA-003 where it takes longer than ``time_out`` seconds.
        InternalError: where netx fails, with its traceback.
    """
    interpreter = python or find()
    with tempfile.TemporaryDirectory(prefix="d2e-netx-") as temporary:
        work = Path(temporary)
        listed = []
        for i, job in enumerate(jobs):
            np.save(work / f"{i}.npy", job.frames)
            facts = {**asdict(job), "net": str(job.net.absolute())}
            del facts["frames"]
            listed.append({**facts, "input": str(work / f"{i}.npy"), "output": str(work / f"{i}.npz")})
        (work / "jobs.json").write_text(json.dumps(listed))
        _run([str(interpreter), str(_HERE / "skeleton" / "run_netx.py"), str(work / "jobs.json"), str(_SHIM),
              f"{time_out:g}"], work, time_out)
        return [_result(work / f"{i}.npz") for i in range(len(jobs))]


def _result(path: Path) -> tuple[Array, Array]:
    with np.load(path) as kept:
        return kept["spikes"], kept["v"]


def _run(command: list[str], work: Path, time_out: float) -> None:
    code, message = run_apart(command, work, time_out)
    if code == 0:
        return
    if code == EXIT_TIMEOUT:
        raise UnsupportedError("D2E-LAVA-003", f"netx did not finish within {time_out:g} seconds", hint="Run fewer samples.")
    if "No module named 'lava" in message:
        raise MissingError("D2E-LAVA-001", f"{command[0]} has no lava-dl", hint="Run d2e lava install.")
    raise InternalError(f"netx failed (exit code {code}):\n" + "\n".join(message.splitlines()[-40:]))

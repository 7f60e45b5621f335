"""The student on its chips, and the folder that holds all of a transfer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2e.compiler import nn as snn
from d2e.compiler.api import compile
from d2e.compiler.data import Data
from d2e.compiler.files import MANIFEST, new_folder, sha256
from d2e.compiler.program import Program
from d2e.compiler.transfer import report
from d2e.compiler.transfer.inputs import Reads
from d2e.compiler.transfer.models import Model
from d2e.compiler.transfer.pairs import Pairs

CALIBRATION = 128
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Student:
    """A network with what its checkpoint says of it.

    Attributes:
        model: in evaluation mode, on the CPU.
        reads: its input.
        time_steps: T.
    """

    model: Model
    reads: Reads
    time_steps: int

    def save(self, path: Path) -> None:
        """As a checkpoint that compiles as it stands, with its encoder."""
        snn.save(self.model.module, path, input_shape=self.model.shape, time_steps=self.time_steps,
                 readout=self.model.readout, **self.reads.facts, **self.model.facts)

    def compiled(self, path: Path, targets: Iterable[str], calibration: Pairs, test: Pairs | None) -> dict[str, Program]:
        """Target -> program, measured on ``test``."""
        return {
            target: compile(str(path), target, calibration=self._data(calibration),
                            eval=None if test is None else self._data(test)) for target in targets
        }

    def check(self, targets: Iterable[str], few: Pairs) -> None:
        """Raise where a target cannot take the student, before it is trained.

        Raises:
            UsageError, UnsupportedError: as `d2e.compile`.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.pt"
            self.save(path)
            self.compiled(path, targets, few, None)

    def _data(self, pairs: Pairs) -> Data:
        """Images, which the program encodes; or their events."""
        frames = pairs.images if pairs.events is None else pairs.events.long()
        return Data(np.asarray(frames), np.asarray(pairs.labels))


def program_row(target: str, program: Program) -> dict[str, Any]:
    """A program beside teacher and student; what was not measured is absent."""
    totals, accuracy = program.report["totals"], program.report["accuracy"]
    known = {
        "accuracy": accuracy.get("program"), "spikes": totals.get("spikes_per_sample"),
        "synops": totals.get("synops_per_sample"), "input_events": totals.get("input_events_per_sample"),
        "cores": totals.get("cores"), "latency_steps": totals.get("latency_steps"), "samples": accuracy.get("samples"),
    }
    return {"target": target, "folder": folder_of(target), **{k: v for k, v in known.items() if v is not None}}


def folder_of(target: str) -> str:
    """Name of a target's program in the folder of a transfer."""
    return target.partition("{")[0]


def write(folder: Path, student: Student, programs: Mapping[str, Program], facts: Mapping[str, Any]) -> None:
    """student.pt, the report's files, and every program in a folder of its own; whole or not at all.

    Raises:
        UsageError: D2E-FILE-010, -011.
    """
    with new_folder(folder) as own:
        student.save(own / "student.pt")
        for target, program in programs.items():
            program.save(own / folder_of(target))
            program.folder = folder / folder_of(target)
        report.write(facts, own)
        files = sorted(p.relative_to(own).as_posix() for p in own.rglob("*") if p.is_file())
        manifest = {"d2e": SCHEMA, "transfer": facts["method"], "files": {name: sha256(own / name) for name in files}}
        (own / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

"""Finished batches in a file, a line each: a run that was cut off goes on with the others, to the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from d2e.compiler.bench.figures import Part
from d2e.ir import UsageError

SCHEMA = 1


class Kept:
    """(repeat, number) of a batch -> what it did.

    Args:
        path: of the file; None: nothing is kept beyond this run.
        run: what is run, on what and how: program, data, engine, batch. A file of another run is refused.

    Raises:
        UsageError: D2E-BENCH-006 for a file that is no such file or of another run, D2E-FILE-011 where it cannot be
            written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, run: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.parts: dict[tuple[int, int], Part] = {}
        if self.path is None:
            return
        head = {"d2e": SCHEMA, "bench": dict(run)}
        try:
            text = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise UsageError("D2E-BENCH-006", f"{self.path} cannot be read: {error.strerror}",
                             hint="Name another --resume file.") from None
        if b"\n" not in text and _line(head).encode().startswith(text):  # new, or cut off at once
            if text:
                self._cut(self.path, 0)
            self._write(head)
        else:
            self._read(self.path, text, run)

    def _read(self, path: Path, text: bytes, run: Mapping[str, Any]) -> None:
        try:
            first, end, rest = text.partition(b"\n")
            head = json.loads(first if end else b"")
            schema, theirs = head["d2e"], dict(head["bench"])
        except (ValueError, KeyError, TypeError):
            raise UsageError("D2E-BENCH-006", f"{path} keeps no results of a benchmark",
                             hint="Name another --resume file.") from None
        if schema != SCHEMA or theirs != run:
            other = sorted(key for key in {*run, *theirs} if run.get(key) != theirs.get(key))
            raise UsageError("D2E-BENCH-006", f"{path} keeps the results of another run: {', '.join(other) or 'schema'} "
                             "differ", hint="Give the same program, data, engine and batch, or another --resume file.")
        whole = len(first) + 1
        for line in rest.splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line)
                key = int(entry.pop("repeat")), int(entry.pop("batch"))
                self.parts[key] = Part(**entry)
            except (ValueError, KeyError, TypeError):
                break  # cut off while it was written: run again
            whole += len(line)
        if whole != len(text):
            self._cut(path, whole)

    def _cut(self, path: Path, whole: int) -> None:
        try:
            os.truncate(path, whole)
        except OSError as error:
            raise _unwritable(path, error) from None

    def keep(self, repeat: int, number: int, part: Part) -> None:
        """Keep a batch; one that cannot be written is not done."""
        if self.path is not None:
            self._write({"repeat": repeat, "batch": number, **asdict(part)})
        self.parts[repeat, number] = part

    def _write(self, entry: Any) -> None:
        assert self.path is not None
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
        except OSError as error:
            raise _unwritable(self.path, error) from None


def _line(entry: Any) -> str:
    return json.dumps(entry) + "\n"


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError("D2E-FILE-011", f"nothing can be written to {path}: {error.strerror}",
                      hint="Name another --resume file.")

"""What a conversion has measured so far, in a file: a run that is cut off goes on where it stopped, to the same result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from d2e.ir import UsageError

SCHEMA = 1


def digest(*parts: Any) -> str:
    """A name for arrays and plain values by their contents."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            found.update(json.dumps(part, sort_keys=True).encode())
    return found.hexdigest()[:24]


class Store:
    """Name -> figures, each a line of a file that is written as soon as it is known.

    Args:
        path: of the file; None: nothing is kept.
        conversion: name of what is converted and how; a file of another conversion is refused.

    Raises:
        UsageError: D2E-CONV-015 for a file that is no such file or of another conversion, D2E-FILE-011 where it cannot be
            written.
    """

    def __init__(self, path: str | None, conversion: str) -> None:
        self.path = None if path is None else Path(path)
        self.known: dict[str, list[float]] = {}
        if self.path is None:
            return
        if os.path.exists(self.path) and self.path.stat().st_size:
            self._read(self.path, conversion)
        else:
            _write(self.path, "a", {"d2e": SCHEMA, "conversion": conversion})

    def _read(self, path: Path, conversion: str) -> None:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            head = json.loads(lines[0])
            same = head["d2e"] == SCHEMA and head["conversion"] == conversion
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError("D2E-CONV-015", f"{path} keeps no results of a conversion",
                             hint="Name another --resume file.") from None
        if not same:
            raise UsageError("D2E-CONV-015", f"{path} keeps the results of another conversion",
                             hint="Give the same model, data and options, or another --resume file.")
        for line in filter(None, lines[1:]):
            try:
                entry = json.loads(line)
                self.known[entry["name"]] = [float(x) for x in entry["figures"]]
            except (ValueError, KeyError, TypeError):
                break  # cut off while it was written: measured again
        _write(path, "w", head, *({"name": n, "figures": f} for n, f in self.known.items()))

    def keep(self, found: Iterable[tuple[str, list[float]]]) -> None:
        """Keep figures."""
        for name, figures in found:
            self.known[name] = figures
            if self.path is not None:
                _write(self.path, "a", {"name": name, "figures": figures})


def _write(path: Path, mode: str, *entries: Any) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
    except OSError as error:
        raise UsageError("D2E-FILE-011", f"nothing can be written to {path}: {error.strerror}",
                         hint="Name another --resume file.") from None

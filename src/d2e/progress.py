"""Progress of long work on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def progress(quiet: bool, unit: str = "measured") -> Iterator[Progress | None]:
    """What a function that takes ``listen`` is given: progress on stderr, or nothing."""
    if quiet:
        yield None
        return
    shown = Progress(sys.stderr, unit)
    try:
        yield shown
    finally:
        shown.end()


class Progress:
    """What is done: on a terminal one line that is overwritten and goes in the end, else a line per kind at its end.

    Args:
        stream: to write to.
        unit: what is counted, in the plural.
    """

    def __init__(self, stream: TextIO, unit: str = "measured") -> None:
        self.stream, self.unit, self.what, self.count, self.shown = stream, unit, "", 0, ""

    def __call__(self, done: int, total: int, what: str) -> None:
        """One more is measured."""
        if what != self.what:
            self._told()
            self.what, self.count = what, 0
        self.count += 1
        if self.stream.isatty():
            self._show(f"[{what}] {done} of {total}")

    def end(self) -> None:
        """Nothing more comes."""
        self._told()
        if self.shown:
            self._show("")
            self._write("\r")

    def _told(self) -> None:
        if self.count and not self.stream.isatty():
            self._write(f"[{self.what}] {self.count} {self.unit}\n")
        self.count = 0

    def _show(self, line: str) -> None:
        self._write(f"\r{line:<{len(self.shown)}}")
        self.shown = line

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

"""The body of ``build`` in network.py while it grows: lines, names of Python variables, arrays of weights.npz."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from contextlib import contextmanager

from d2e.compiler.blocks import narrowest
from d2e.ir.nodes import Array

_TAKEN = (
    "np", "W", "frames", "steps", "windows", "heard", "port", "end", "Conv", "DelayDense", "Dense", "DelaySparse", "Sparse",
    "LIF", "LIFReset", "Graded", "GradedVec", "SignMode",
)
_INDENT = "    "
_WIDTH = 106


class Text:
    """Python text.

    Attributes:
        arrays: what ``weights.npz`` holds.
        names: node (or ``node/variable`` for further ones) -> Python variable.
        processes: how many were written.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.arrays: dict[str, Array] = {}
        self.names: dict[str, str] = {}
        self.processes = 0
        self._depth = 1

    def __str__(self) -> str:
        return "".join(f"{line}".rstrip() + "\n" for line in self.lines)

    def line(self, *lines: str) -> None:
        """Add lines at the present indentation."""
        self.lines += [f"{_INDENT * self._depth}{line}" for line in lines]

    @contextmanager
    def inside(self, head: str) -> Iterator[None]:
        """A block under a line such as ``for x in y:``."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def block(self, comment: str) -> None:
        """An empty line and a comment."""
        self.line("", f"# {comment}")

    def process(self, var: str, cls: str, *options: str) -> None:
        """``var = cls(options)``, on one line where it fits."""
        self.processes += 1
        one = f"{var} = {cls}({', '.join(options)})"
        if len(one) + len(_INDENT) * (self._depth - 1) <= _WIDTH:
            self.line(one)
        else:
            self.line(f"{var} = {cls}(", *(f"{_INDENT}{o}," for o in options), ")")

    def variable(self, name: str) -> str:
        """A Python name for a node; the first one given to a node stays its own."""
        base = re.sub(r"\W", "_", name, flags=re.ASCII)
        base = f"n_{base}" if not base or base[0].isdigit() or base[0] == "_" else base
        var, number = base, 1
        while var in self.names.values() or var in _TAKEN or keyword.iskeyword(var):
            number += 1
            var = f"{base}_{number}"
        self.names[name if name not in self.names else f"{name}/{var}"] = var
        return var

    def stored(self, key: str, values: Array, shift: int = 0) -> str:
        """Text that loads an array kept in ``weights.npz``; a single number is written out.

        The text shifts them left, so that they need fewer bytes here.
        """
        if values.ndim == 0:
            return str(int(values))
        kind = narrowest(int(values.min(initial=0)), int(values.max(initial=0)))
        self.arrays[key] = values.astype(kind, copy=False)
        return f"W[{key!r}] << {shift}" if shift else f"W[{key!r}]"

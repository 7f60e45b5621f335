"""How the report writes numbers, tables and the command that made a program."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{round(100 * share, 2) + 0.0:.2f} %"


def signed(share: float) -> str:
    """The same of a change."""
    return f"{round(100 * share, 2) + 0.0:+.2f} %"


def points(share: float) -> str:
    """A change in percentage points."""
    return f"{round(100 * share, 2) + 0.0:+.2f}"


def number(value: Any) -> str:
    """A number as people read it: thousands separated, small ones with a few digits; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def engineering(value: float, unit: str) -> str:
    """A figure with the prefix that leaves 1 to 3 digits before the point: ``3.21 uJ``."""
    scales, rounded = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}, abs(float(f"{value:.3g}"))
    prefix, scale = next(((p, s) for p, s in scales.items() if rounded >= s), ("p", 1e-12))
    return f"{value / scale:.3g} {prefix}{unit}" if value else f"0 {unit}"


def clip(line: str, width: int = 140) -> str:
    """A line of at most so many letters."""
    return line if len(line) <= width else line[: width - 1] + "…"


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(value: Any) -> Any:
    """Texts, and those in lists and mappings, without control characters: they steer terminals, and XML has none."""
    if isinstance(value, str):
        return _CONTROL.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {printable(key): printable(each) for key, each in value.items()}
    return [printable(each) for each in value] if isinstance(value, (list, tuple)) else value


def table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, the columns of all rows in the order they first appear."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def command(facts: Mapping[str, Any]) -> str | None:
    """The call that made a program, from its manifest: of the command line, or where objects were given, of Python.

    Args:
        facts: with ``model`` and ``options``; None is returned where they are not there.
    """
    model, options = facts.get("model"), facts.get("options")
    if not model or not options:
        return None
    every = [model, *(value for value in options.values() if _is_origin(value))]
    if all("sha256" in origin or ":" in origin["name"] for origin in every):
        words = [part for key, value in options.items() for part in _option(key, value)]
        return shlex.join(["d2e-compile", model["name"], *words])
    given = [f"{key}={_python(value)}" for key, value in options.items()]
    return f"d2e.compile({', '.join([_python(model), *given])})"


def _is_origin(value: Any) -> bool:
    """Whether an option was a file or an object, of which the manifest has the name."""
    return isinstance(value, Mapping) and isinstance(value.get("name"), str)


def _option(key: str, value: Any) -> list[str]:
    name = f"--{key.replace('_', '-')}"
    if value is True:
        return [name]
    if isinstance(value, Mapping):
        table = ",".join(f"{layer}={bits}" if layer else str(bits) for layer, bits in value.items())
        return [name, value["name"] if _is_origin(value) else table]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [name, ",".join(str(each).removesuffix(".0") for each in values)]


def _python(value: Any) -> str:
    """A file by its name in quotes, an object by that of its class."""
    if _is_origin(value):
        return repr(value["name"]) if "sha256" in value or ":" in value["name"] else value["name"]
    return repr(value)

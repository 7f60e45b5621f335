"""What the commands share: their words on stderr, and how paths and lists of numbers are written."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

EXITS = (
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 unsupported or does not fit, 4 verification gate failed, "
    "5 SDK or device missing."
)


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def stdout_free(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """With --json, what passes and models print goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def shape(text: str | None) -> tuple[int, ...] | None:
    """``--input-shape``."""
    if text is None:
        return None
    from d2e.ir import UsageError

    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError:
        raise UsageError("D2E-USE-001", f"{text!r} is no shape", hint="Write --input-shape 1,28,28.") from None


def limits(text: str | None) -> tuple[float, ...] | None:
    """``--input-range``."""
    if text is None:
        return None
    from d2e.ir import UsageError

    try:
        return tuple(float(x) for x in text.split(","))
    except ValueError:
        raise UsageError("D2E-USE-001", f"{text!r} is no range", hint="Write --input-range 0,1.") from None


def default_path(model: str, made_for: str) -> str:
    """``build/STEM-NAME`` for a model and a target or a method."""
    stem = model.rpartition(":")[2] if ":" in model and not os.path.exists(model) else Path(model).stem
    return str(Path("build") / f"{stem}-{made_for.partition('{')[0]}")

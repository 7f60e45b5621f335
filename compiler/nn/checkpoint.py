"""Checkpoints that know their input: a model and the facts the compiler needs, in one ``.pt`` file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2e.compiler.encoders import checked_range, parse
from d2e.ir.errors import UsageError

SCHEMA = 1
FACTS = ("input_shape", "time_steps", "coding", "max_payload", "readout", "dt", "name", "encoder", "input_range")


def save(
    model: nn.Module, path: str | os.PathLike[str], *, input_shape: tuple[int, ...],
    time_steps: int | None = None, **facts: Any,
) -> None:
    """Write ``{"d2e": facts, "model": model}`` with ``torch.save``, whole or not at all.

    Args:
        model: of torch layers and d2e.nn neurons; those load without ``--allow-pickle``.
        path: of the ``.pt`` file.
        input_shape: of one frame, without batch and time.
        time_steps: steps per sample.
        facts: ``coding``, ``max_payload``, ``readout``, ``dt``, ``name``: as in ``from_torch``; ``encoder`` ("ttfs{latch}")
            and ``input_range`` ((0.0, 1.0)): as in `d2e.compile`, which needs neither then.

    Raises:
        TypeError: for a fact d2e does not know.
        UsageError: D2E-FILE-001 where the file cannot be written, D2E-ENC-006 for an encoder or range that is none.
    """
    if unknown := facts.keys() - set(FACTS):
        raise TypeError(f"save() knows no {', '.join(sorted(unknown))}; it knows {', '.join(FACTS)}")
    if facts.get("encoder") is not None:
        parse(facts["encoder"], checked_range(facts.get("input_range")))
    stated = {"schema": SCHEMA, "input_shape": tuple(input_shape), "time_steps": time_steps, **facts}
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save({"d2e": stated, "model": model}, file)
        partial.replace(target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(
            "D2E-FILE-001", f"cannot write {str(target)!r}: {reason}", hint="Check the path."
        ) from None
    finally:
        partial.unlink(missing_ok=True)

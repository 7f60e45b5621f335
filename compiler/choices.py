"""Targets and passes as they are written, ``name{option=value,…}``, and the ranges that options have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from d2e.compiler.passes.base import Pass
from d2e.compiler.passes.bits import stated
from d2e.compiler.target import Target, find
from d2e.ir import UsageError

_PASS = re.compile(r"\s*([\w-]+)(?:\{([^{}]*)\})?\s*")
_PASSES = re.compile(f"{_PASS.pattern}(?:,{_PASS.pattern})*")
_TARGET = re.compile(r"([\w-]+)(?:\{(.*)\})?")


def target_of(text: str) -> tuple[Target, dict[str, Any]]:
    """``name{key=value,…}`` as a target and its options."""
    match = _TARGET.fullmatch(text.strip())
    if match is None:
        raise UsageError("D2E-USE-002", f"{text!r} is no target", hint="Write name or name{option=value}.")
    chip = find(match[1])
    options: dict[str, Any] = {}
    for key, value in _pairs(match[2]):
        try:
            options[key] = chip.options[key].read(value)
        except (KeyError, ValueError):
            known = ", ".join(f"{name}={option.written}" for name, option in chip.options.items())
            raise UsageError("D2E-USE-011", f"target {chip.name} has no option {key}={value}",
                             hint=f"Its options: {known or 'none'}.") from None
    return chip, options


def _pairs(text: str | None) -> list[tuple[str, str]]:
    """``a=1,b=2`` as pairs."""
    pairs = []
    for part in filter(None, (p.strip() for p in (text or "").split(","))):
        key, _, value = part.partition("=")
        pairs.append((key.strip().replace("-", "_"), value.strip()))
    return pairs


def selected(pipeline: Sequence[Pass], text: str | None) -> list[Pass]:
    """The passes named in ``text``, in its order, with its options; None: the whole pipeline."""
    if text is None:
        return list(pipeline)
    known = {p.name: p for p in pipeline}
    chosen = []
    if not _PASSES.fullmatch(text):
        raise UsageError("D2E-USE-005", f"{text!r} is no list of passes", hint="Write pass,pass{option=value},pass.")
    for match in _PASS.finditer(text):
        if match[1] not in known:
            raise UsageError("D2E-USE-005", f"there is no pass {match[1]!r}", hint=f"Passes: {', '.join(known)}.")
        chosen.append(_with_options(known[match[1]], _pairs(match[2])))
    return chosen


_KINDS: dict[str, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: {"true": True, "false": False}[text.lower()], "Method": str,
    "Bits": stated,
}
"""Reads a pass's option from text, by its declared type."""


def _with_options(each: Pass, pairs: list[tuple[str, str]]) -> Pass:
    plain = {f.name: _KINDS[kind] for f in fields(each) if (kind := str(f.type).removesuffix(" | None")) in _KINDS}
    changes: dict[str, Any] = {}
    for key, value in pairs:
        if key not in plain:
            raise UsageError("D2E-USE-005", f"pass {each.name!r} has no option {key!r}",
                             hint=f"Options: {', '.join(plain) or 'none'}.")
        try:
            changes[key] = plain[key](value)
        except (ValueError, KeyError):
            raise UsageError("D2E-USE-005", f"option {key.replace('_', '-')}={value} of pass {each.name!r} is not "
                             "understood", hint="Numbers are written 4 or 0.5, switches true or false.") from None
    return replace(each, **changes)


def check_ranges(options: Any, ranges: Mapping[str, tuple[bool, str]], code: str) -> None:
    """Raise for the first option that does not hold.

    Args:
        options: has them as attributes.
        ranges: name -> whether it holds, what would.
        code: of the error.

    Raises:
        UsageError: with that code.
    """
    for name, (holds, allowed) in ranges.items():
        if not holds:
            value = getattr(options, name.replace(" ", "_"))
            raise UsageError(code, f"{name} {value!r} is out of its range", hint=f"It is {allowed}.")

"""What goes wrong, told apart: the user's fault (`D2EError`, stable code, way out) and ours (`InternalError`).

Exit codes of the command line hang on the exception class: 2 usage, 3 unsupported or does not fit,
4 verification gate, 5 SDK or device missing, 1 anything that is our fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class D2EError(Exception):
    """A fault of the input, told in one sentence.

    Attributes:
        code: stable identifier such as ``D2E-FIT-002``; docs/errors.md explains each.
        message: one sentence: what is wrong, with the limit where there is one.
        node: the network node it is about, if any.
        hint: what to do about it.
        findings: all that was found at once; the first is the error itself.
    """

    exit_code = 3

    def __init__(self, code: str, message: str, *, node: str | None = None, hint: str | None = None) -> None:
        super().__init__(code, message)  # what makes it again where it is pickled, on its way from another process
        self.code = code
        self.message = message
        self.node = node
        self.hint = hint
        self.findings: list[Finding] = [Finding(code, message, node, hint)]

    def __str__(self) -> str:
        where = f" (node {self.node!r})" if self.node else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{self.code}: {self.message}{where}{hint}"


class UsageError(D2EError):
    """The call itself is wrong: a file, an option or data of the wrong shape."""

    exit_code = 2


class UnsupportedError(D2EError):
    """The network holds something the target (or d2e) cannot express, or does not fit."""

    exit_code = 3


class GateError(D2EError):
    """A verification gate the user set (such as ``--max-drop``) did not hold."""

    exit_code = 4


class MissingError(D2EError):
    """An SDK, environment or device that was asked for is not there."""

    exit_code = 5


class InternalError(Exception):
    """A fault of d2e: please report."""

    exit_code = 1


@dataclass(frozen=True)
class Finding:
    """One thing a check found. ``verify`` and the target rules return lists of these."""

    code: str
    message: str
    node: str | None = None
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f" (node {self.node!r})" if self.node else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{self.code}: {self.message}{where}{hint}"


def raise_findings(findings: list[Finding]) -> None:
    """Raise one `UnsupportedError` that carries every error among the findings; do nothing without errors."""
    errors = [f for f in findings if f.severity == "error"]
    if not errors:
        return
    first = errors[0]
    more = "".join(f"\n  {f}" for f in errors[1:])
    error = UnsupportedError(
        first.code, first.message + (f" [and {len(errors) - 1} more:{more}]" if more else ""),
        node=first.node, hint=first.hint,
    )
    error.findings = errors
    raise error

"""Makes lava-nc 0.10.0 import on Python 3.11 and 3.12, and makes its failures visible.

Import this before anything of lava.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

EXIT_FAILED = 1
EXIT_TIMEOUT = 124


def _import_lava() -> None:
    """One dataclass of lava (``magma/compiler/var_model.py``) has defaults that 3.11 refuses as mutable: give
    the classes of such defaults a hash while lava is imported.
    """
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, **options: Any) -> Any:
        if cls is None:
            return lambda c: dataclass(c, **options)
        for default in list(vars(cls).values()):
            if dataclasses.is_dataclass(default) and type(default).__hash__ is None:
                setattr(type(default), "__hash__", object.__hash__)  # noqa: B010
        return original(cls, **options)

    dataclasses.dataclass = dataclass
    try:
        import lava.magma.compiler.var_model  # noqa: F401
    finally:
        dataclasses.dataclass = original


def stop_all(code: int, message: str = "") -> NoReturn:
    """Kill every process of the run and leave; Lava's own stop waits for processes that hang."""
    for child in multiprocessing.active_children():
        child.kill()
    if message:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _show_tracebacks() -> None:
    """Print a model's traceback where it happens and end the run; Lava logs it out of sight and may hang."""
    from lava.magma.runtime.message_infrastructure.multiprocessing import SystemProcess

    main = os.getpid()

    def run(self: Any) -> None:
        try:
            multiprocessing.Process.run(self)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os.kill(main, signal.SIGUSR1)

    SystemProcess.run = run

    def failed(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == main:
            stop_all(EXIT_FAILED)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, failed)


_DONE = {"samples": 0}


def progress(samples: int) -> None:
    """Count finished samples, for the message of `watchdog`."""
    _DONE["samples"] += samples


def watchdog(seconds: float, samples: int = 0) -> None:
    """End the run with exit code 124 after this many seconds; 0 calls it off."""
    main = os.getpid()

    def late(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == main:
            stop_all(
                EXIT_TIMEOUT,
                f"Lava did not finish within {seconds:g} seconds ({_DONE['samples']} of {samples} samples done)",
            )

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)


_import_lava()
_show_tracebacks()

"""d2e puts trained spiking neural networks on neuromorphic chips, every spike predicted bit for bit.

>>> import d2e
>>> program = d2e.compile("model.pt", target="loihi2-sim")      # doctest: +SKIP
>>> program.run(spikes).counts                                  # doctest: +SKIP

Importing d2e imports neither torch nor numpy; its parts are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from d2e import nn
    from d2e.compiler.api import compile
    from d2e.compiler.bench.api import bench
    from d2e.compiler.bench.result import Bench
    from d2e.compiler.convert.api import convert
    from d2e.compiler.passes.fold_time import fold_time, unfold_time
    from d2e.compiler.program import Program, Result, load
    from d2e.compiler.report import Report
    from d2e.compiler.transfer.api import Transfer, transfer

_WHERE = {
    "Bench": "d2e.compiler.bench.result", "bench": "d2e.compiler.bench.api",
    "compile": "d2e.compiler.api", "convert": "d2e.compiler.convert.api",
    "Program": "d2e.compiler.program", "Result": "d2e.compiler.program", "load": "d2e.compiler.program",
    "Report": "d2e.compiler.report",
    "Transfer": "d2e.compiler.transfer.api", "transfer": "d2e.compiler.transfer.api",
    "fold_time": "d2e.compiler.passes.fold_time", "unfold_time": "d2e.compiler.passes.fold_time",
}

__all__ = ["Bench", "Program", "Report", "Result", "Transfer", "__version__", "bench", "compile", "convert", "fold_time",
           "load", "nn", "transfer", "unfold_time"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in ("nn", "ir", "compiler", "backends"):
        return import_module(f"d2e.{name}")
    raise AttributeError(f"module 'd2e' has no attribute {name!r}")

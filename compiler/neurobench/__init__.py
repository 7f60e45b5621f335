"""NeuroBench: its metrics of our programs, our programs as its models. Importing this imports no NeuroBench."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from d2e.compiler.neurobench.figures import FILE, metrics, read
from d2e.ir import MissingError

if TYPE_CHECKING:
    from d2e.compiler.program import Program


def model(program: Program, *, engine: str | None = None) -> Any:
    """A program as a ``NeuroBenchModel``, which takes batches [batch, time, *shape] and returns spikes [batch, time, *out].

    Args:
        program: of one chip part.
        engine: as in `Program.run`.

    Raises:
        MissingError: D2E-NB-001 without NeuroBench.
        UnsupportedError: D2E-NB-002 as for `metrics`.
    """
    return _harness("wrapper").ProgramModel(program, engine)


def benchmark(model: Any, data: Any, *, static: Any = None, workload: Any = None) -> dict[str, Any]:
    """Run NeuroBench's ``Benchmark``, with an error where it would print one and store 0.0.

    Args:
        model: any NeuroBenchModel; of ours, `model`.
        data: a torch DataLoader of (batch, labels).
        static, workload: classes of metrics; None: all that apply to classification, and `on_chip_spikes`.

    Raises:
        MissingError: D2E-NB-001 without NeuroBench.
        UnsupportedError: D2E-NB-003 where a metric fails.
    """
    found: dict[str, Any] = _harness("harness").run(model, data, static, workload)
    return found


def on_chip_spikes() -> Any:
    """Our metric ``OnChipSpikes`` as a class for NeuroBench's lists of metrics.

    Raises:
        MissingError: D2E-NB-001 without NeuroBench.
    """
    return _harness("harness").OnChipSpikes


def _harness(name: str) -> Any:
    try:
        import_module("neurobench.benchmarks")
    except ImportError as error:
        raise MissingError("D2E-NB-001", f"NeuroBench does not import: {error}",
                           hint="Install it with pip install 'd2e[neurobench]'.") from None
    return import_module(f"d2e.compiler.neurobench.{name}")


__all__ = ["FILE", "benchmark", "metrics", "model", "on_chip_spikes", "read"]

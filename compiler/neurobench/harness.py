"""NeuroBench's Benchmark without its silent zeros, and our metric for it.

Imports NeuroBench: use `d2e.compiler.neurobench.benchmark`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurobench.benchmarks import Benchmark
from neurobench.metrics.abstract import StaticMetric, WorkloadMetric
from neurobench.metrics.abstract.workload_metric import AccumulatedMetric
from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
from neurobench.metrics.workload import (
    ActivationSparsity,
    ActivationSparsityByLayer,
    ClassificationAccuracy,
    MembraneUpdates,
    SynapticOperations,
)

from d2e.compiler.neurobench.wrapper import ProgramModel
from d2e.ir import UnsupportedError


class OnChipSpikes(AccumulatedMetric):  # type: ignore[misc]
    """Messages per sample of all of the chip's neurons, of a model of `d2e.compiler.neurobench.model`."""

    def __init__(self) -> None:
        super().__init__(requires_hooks=False)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.sent = self.samples = 0

    def __call__(self, model: Any, preds: Any, data: Any) -> float:
        """Add a batch."""
        self.sent += model.sent
        self.samples += len(data[0])
        return self.compute()

    def compute(self) -> float:
        """Messages per sample so far."""
        return float(self.sent / self.samples)


STATIC = (Footprint, ConnectionSparsity, ParameterCount)
WORKLOAD = (ClassificationAccuracy, ActivationSparsity, ActivationSparsityByLayer, SynapticOperations)


class _Failed(BaseException):
    """Passes through NeuroBench's ``except Exception``, which would print it and store 0.0 or None."""

    def __init__(self, metric: str, error: Exception) -> None:
        super().__init__(metric)
        self.metric, self.error = metric, error


def strict(metric: type) -> type:
    """A class of the same name whose failures pass through NeuroBench."""
    averaged = issubclass(metric, WorkloadMetric) and not issubclass(metric, AccumulatedMetric)

    def call(self: Any, *args: Any) -> Any:
        try:
            found = metric.__call__(self, *args)
            if found is None:
                raise ValueError("it returns nothing")
            return found + 0.0 if averaged else found  # what NeuroBench averages over batches and is no number is 0.0 there
        except Exception as error:
            raise _Failed(metric.__name__, error) from error

    hooks = {"_requires_hooks": True} if metric is ActivationSparsityByLayer else {}  # 2.3.0 forgets to say
    return type(metric.__name__, (metric,), {"__call__": call, **hooks})


def run(model: Any, data: Any, static: Sequence[Any] | None, workload: Sequence[Any] | None) -> dict[str, Any]:
    """See `d2e.compiler.neurobench.benchmark`."""
    ours = isinstance(model, ProgramModel)
    static = STATIC if static is None else static
    workload = (*WORKLOAD, *((MembraneUpdates, OnChipSpikes) if ours else ())) if workload is None else workload
    for metrics, kind in ((static, StaticMetric), (workload, WorkloadMetric)):
        for metric in metrics:
            if not isinstance(metric, type) or not issubclass(metric, kind):
                raise UnsupportedError("D2E-NB-003", f"{metric!r} is no class of NeuroBench's {kind.__name__}")
    readout = [model.classes] if ours else []
    harness = Benchmark(model, data, [], readout, [[strict(m) for m in static], [strict(m) for m in workload]])
    try:
        found: dict[str, Any] = harness.run(quiet=True)
    except _Failed as failed:
        raise UnsupportedError(
            "D2E-NB-003", f"NeuroBench's metric {failed.metric} fails: {str(failed.error) or type(failed.error).__name__}",
            hint="Leave it out.",
        ) from failed.error
    finally:
        model.cleanup_hooks()
    if ours and not model.states and "MembraneUpdates" in found:
        raise UnsupportedError("D2E-NB-003", f"MembraneUpdates needs membranes, which engine {model.engine} does not tell",
                               hint="Leave it out, or run the simulator.")
    return found

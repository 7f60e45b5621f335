"""What a spiking network does on held images: the unit of work of every search.

Tasks are handed to joblib one by one: to threads here, or to the workers of a Dask cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from joblib import Parallel, delayed

from d2e.compiler.convert.store import Store
from d2e.ir import UnsupportedError
from d2e.ir.nodes import Array

Listen = Callable[[int, int, str], None]


class Task(Protocol):
    """A network to measure."""

    @property
    def name(self) -> str:
        """By its contents, within one conversion."""

    def measured(self) -> list[float]:
        """KL, synops, spikes, then the spikes of each layer."""


@dataclass(frozen=True)
class Figures:
    """Of a network on held images.

    Attributes:
        kl: mean KL divergence of its answer from the ANN's, in nats (Eq. 9: ANN || SNN).
        synops: per sample, a burst of n counted n times.
        spikes: per sample, of every population together.
        own: population -> spikes per sample.
    """

    kl: float
    synops: float
    spikes: float
    own: Mapping[str, float]


def divergence(logits: Array, found: Array) -> float:
    """Mean over samples of KL(softmax(logits) || softmax(found)), in nats."""
    p, q = log_softmax(logits), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def log_softmax(z: Array) -> Array:
    """Logarithms of the class probabilities of logits [n, classes], in float64."""
    z = z.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


@dataclass
class Bench:
    """Measures tasks, as many at a time as joblib is told, each one once.

    Attributes:
        store: what is known.
        jobs: at a time; None: what joblib's configuration says, else one per core.
        listen: called with (done, total, what).
    """

    store: Store
    jobs: int | None = None
    listen: Listen | None = None

    def __call__(self, tasks: Sequence[Task], layers: Sequence[str], what: str) -> list[Figures]:
        """The figures of every task, in order."""
        names = [task.name for task in tasks]
        missing = {n: task for n, task in zip(names, tasks, strict=True) if n not in self.store.known}
        work = Parallel(n_jobs=self.jobs, prefer="threads", return_as="generator")(
            delayed(_measured)(task) for task in missing.values()
        )
        for done, (name, row) in enumerate(zip(missing, work, strict=True), 1):
            self.store.keep([(name, row)])
            if self.listen is not None:
                self.listen(done, len(missing), what)
        return [_figures(self.store.known[name], layers) for name in names]


def _measured(task: Task) -> list[float]:
    return task.measured()


def _figures(row: Sequence[float], layers: Sequence[str]) -> Figures:
    return Figures(row[0], row[1], row[2], dict(zip(layers, row[3:], strict=True)))


def too_small(budget: float, least: float) -> UnsupportedError:
    """The error for a budget below the least that can be had, both as shares or both per sample."""
    return UnsupportedError(
        "D2E-CONV-014", f"a budget of {budget:.3g} cannot be met: the least is {least:.3g}",
        hint=f"Give --budget {1.01 * least:.3g} or more, or fewer time steps or levels.",
    )

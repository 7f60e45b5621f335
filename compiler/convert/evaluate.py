"""What a spiking network does on held images: the unit of work of every search.

Tasks are handed to joblib one by one: to threads here, or to the workers of a Dask cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from joblib import Parallel, delayed

from d2e.compiler.convert.engine import Burst, Plan, Spikes, simulate, synops
from d2e.compiler.convert.skeleton import Skeleton
from d2e.compiler.convert.store import Store, digest
from d2e.ir.nodes import Array

Listen = Callable[[int, int, str], None]


class Task(Protocol):
    """A network to measure."""

    @property
    def name(self) -> str:
        """By its contents, within one conversion."""

    def measured(self) -> list[float]:
        """The row of `row_of`."""


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


@dataclass(eq=False)
class Case:
    """A spiking network, held images and the ANN's logits on them. A process runs it once and keeps its spikes."""

    skeleton: Skeleton
    plan: Plan
    images: Array
    logits: Array
    steps: int
    token: str = ""

    def __post_init__(self) -> None:
        weights = [getattr(n, "weight", None) for n in self.skeleton.network.nodes.values()]
        plan = [part for name in sorted(self.plan) for part in _parts(self.plan[name])]
        self.token = digest(self.images, self.logits, self.steps, *(w for w in weights if w is not None), *plan)

    def base(self) -> Spikes:
        """Spikes of the unchanged network."""
        found = _KEPT.get(self.token)
        if found is None:
            found = simulate(self.skeleton, self.plan, self.images, self.steps)[0]
            _KEPT.clear()
            _KEPT[self.token] = found
        return found


_KEPT: dict[str, Spikes] = {}
"""Of the last case measured in this process."""


@dataclass(frozen=True, eq=False)
class Changed:
    """A case with other neurons in some layers."""

    case: Case
    change: Mapping[str, Burst]

    @property
    def name(self) -> str:
        """By contents."""
        return digest(self.case.token, *(part for n in sorted(self.change) for part in (n, *_parts(self.change[n]))))

    def measured(self) -> list[float]:
        """Layers before the first changed one need not run again."""
        case, base = self.case, self.case.base()
        names = [layer.name for layer in case.skeleton.rectifiers]
        first = min((names.index(n) for n in self.change), default=len(names))
        known = {n: base[n] for n in names[:first]}
        return row_of(case.skeleton, {**case.plan, **self.change}, case.images, case.logits, case.steps, known)


def row_of(
    skeleton: Skeleton, plan: Plan, images: Array, logits: Array, steps: int, known: Spikes | None = None
) -> list[float]:
    """KL, synops, spikes of a network, then the spikes of each layer."""
    spikes, evidence = simulate(skeleton, plan, images, steps, known)
    own = [float(spikes[layer.name].sum(dtype=np.int64) / len(images)) for layer in skeleton.rectifiers]
    kl = divergence(logits, evidence[:, -1] / steps)
    return [kl, sum(synops(skeleton, spikes).values()), sum(own), *own]


def _parts(neurons: Burst) -> list[object]:
    return [neurons.threshold, neurons.start, neurons.shift, neurons.most]


def divergence(logits: Array, found: Array) -> float:
    """Mean over samples of KL(softmax(logits) || softmax(found)), in nats."""
    p, q = _log_softmax(logits), _log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(z: Array) -> Array:
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

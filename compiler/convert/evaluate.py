"""What a change of some layers does to a spiking network, measured on held images: the unit of work of every search.

Cases are handed to joblib one by one: to threads here, or to the workers of a Dask cluster, which run the unchanged network
once each and keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from joblib import Parallel, delayed

from d2e.compiler.convert.engine import Burst, Plan, Spikes, simulate, synops
from d2e.compiler.convert.skeleton import Skeleton
from d2e.compiler.convert.store import Store, digest
from d2e.ir.nodes import Array

Listen = Callable[[int, int, str], None]
Change = Mapping[str, Burst]


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
    """A spiking network, held images and the ANN's logits on them."""

    skeleton: Skeleton
    plan: Plan
    images: Array
    logits: Array
    steps: int
    token: str = ""
    _base: Spikes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        weights = [getattr(n, "weight", None) for n in self.skeleton.network.nodes.values()]
        plan = [part for name in sorted(self.plan) for part in _parts(self.plan[name])]
        self.token = digest(self.images, self.logits, self.steps, *(w for w in weights if w is not None), *plan)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_base": None}

    def name(self, change: Change) -> str:
        """Of a change to this network, by contents."""
        return digest(self.token, *(part for n in sorted(change) for part in (n, *_parts(change[n]))))

    def measured(self, change: Change) -> list[float]:
        """KL, synops, spikes of the network with other neurons in some layers, then the spikes of each layer."""
        base = self.base()
        names = [layer.name for layer in self.skeleton.rectifiers]
        first = min((names.index(n) for n in change), default=len(names))
        known = {n: base[n] for n in names[:first]}
        spikes, evidence = simulate(self.skeleton, {**self.plan, **change}, self.images, self.steps, known)
        own = [float(spikes[n].sum(dtype=np.int64) / len(self.images)) for n in names]
        kl = divergence(self.logits, evidence[:, -1] / self.steps)
        return [kl, sum(synops(self.skeleton, spikes).values()), sum(own), *own]

    def base(self) -> Spikes:
        """Spikes of the unchanged network."""
        if self._base is None:
            if self.token not in _KEPT:
                _KEPT.clear()
                _KEPT[self.token] = simulate(self.skeleton, self.plan, self.images, self.steps)[0]
            self._base = _KEPT[self.token]
        return self._base


_KEPT: dict[str, Spikes] = {}
"""Of the last network measured in this process."""


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
    """Measures changes, as many at a time as joblib is told, each one once.

    Attributes:
        store: what is known.
        jobs: at a time; None: what joblib's configuration says, else one per core.
        listen: called with (done, total, what).
    """

    store: Store
    jobs: int | None = None
    listen: Listen | None = None
    measured: int = 0

    def __call__(self, case: Case, changes: Sequence[Change], what: str) -> list[Figures]:
        """The figures of every change, in order."""
        names = [case.name(change) for change in changes]
        missing = {n: c for n, c in zip(names, changes, strict=True) if n not in self.store.known}
        if missing:
            case.base()
        work = Parallel(n_jobs=self.jobs, prefer="threads", return_as="generator")(
            delayed(_measured)(case, change) for change in missing.values()
        )
        for done, (name, figures) in enumerate(zip(missing, work, strict=True), 1):
            self.store.keep([(name, figures)])
            self.measured += 1
            if self.listen is not None:
                self.listen(done, len(missing), what)
        layers = [layer.name for layer in case.skeleton.rectifiers]
        return [_figures(self.store.known[name], layers) for name in names]


def _measured(case: Case, change: Change) -> list[float]:
    return case.measured(change)


def _figures(row: Sequence[float], layers: Sequence[str]) -> Figures:
    return Figures(row[0], row[1], row[2], dict(zip(layers, row[3:], strict=True)))

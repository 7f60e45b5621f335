"""A spiking network on held images, and the same with other neurons in some layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from d2e.compiler.convert.adaptive.engine import Burst, Plan, Spikes, simulate, synops
from d2e.compiler.convert.evaluate import divergence
from d2e.compiler.convert.skeleton import Skeleton
from d2e.compiler.convert.store import digest
from d2e.ir.nodes import Array


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

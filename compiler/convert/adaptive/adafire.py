"""AdaFire and SSC as published: spikes per step (Eq. 9 and 11) and threshold ratios (Eq. 12 to 15) of every layer.

A change is measured in one layer at a time, what is measured is added up over the layers, and the best choice of the
sums is taken. For what the sums leave out see `prices`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from d2e.compiler.convert.adaptive.calibrate import Calibrator, State
from d2e.compiler.convert.adaptive.cases import Case, Changed
from d2e.compiler.convert.adaptive.engine import Burst
from d2e.compiler.convert.adaptive.pareto import frontier
from d2e.compiler.convert.evaluate import Bench, Figures, too_small
from d2e.ir.nodes import Array

RATIOS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


@dataclass
class AdaFire:
    """A search around one spiking network.

    Attributes:
        calibrator: sets layers.
        reference: the network in which layers are changed.
        images, logits: held images, and the ANN's answers on them.
        bench: measures.
    """

    calibrator: Calibrator
    reference: State
    images: Array
    logits: Array
    bench: Bench
    _set: dict[tuple[str, int, float], Burst] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.names = list(self.reference.bursts)
        self.case = Case(self.reference.skeleton, self.reference.plan, self.images, self.logits, self.calibrator.steps)
        self._set = {(n, phi, 1.0): self.reference.plan[n] for n, phi in self.reference.bursts.items()}

    def neurons(self, name: str, most: int, ratio: float) -> Burst:
        """A layer's neurons with another phi or rho, set on what the reference's layers before it send."""
        key = (name, most, ratio)
        if key not in self._set:
            layer = self.calibrator.skeleton.layers[name]
            self._set[key] = self.calibrator.layer(self.reference, layer, most, ratio, with_weights=False).plan[name]
        return self._set[key]

    def figures(self, *changes: Mapping[str, tuple[int, float]], what: str) -> list[Figures]:
        """Of networks with (phi, rho) changed in some layers."""
        tasks = [Changed(self.case, {n: self.neurons(n, *c) for n, c in each.items()}) for each in changes]
        return self.bench(tasks, self.names, what)

    def bursts(self, share: float) -> dict[str, int]:
        """phi of least summed KL (Eq. 9) with at most ``share`` of the spikes of the reference (Eq. 11).

        Raises:
            UnsupportedError: D2E-CONV-014 where one spike per step everywhere is too much.
        """
        single = [(name, phi) for name, most in self.reference.bursts.items() for phi in range(1, most + 1)]
        found = self.figures(*({name: (phi, 1.0)} for name, phi in single), what="sensitivity")
        layers: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in self.names}
        for (name, phi), figures in zip(single, found, strict=True):
            layers[name][phi] = (figures.own[name], figures.kl)
        whole = sum(row[self.reference.bursts[name]][0] for name, row in layers.items())
        points = frontier(layers)
        fit = [p for p in points if p.cost <= share * whole]
        if not fit:
            raise too_small(share, points[0].cost / whole)
        return dict(zip(self.names, min(fit, key=lambda p: p.loss).choice, strict=True))

    def ratios(self, allowed: float) -> dict[str, float]:
        """rho of fewest summed spikes with a summed KL of at most ``1 + allowed`` times that of ratios of 1 (Eq. 15)."""
        single = [(name, ratio) for name in self.names for ratio in RATIOS]
        found = self.figures(*({n: (self.reference.bursts[n], r)} for n, r in single), what="compression")
        layers: dict[str, dict[float, tuple[float, float]]] = {name: {} for name in self.names}
        for (name, ratio), figures in zip(single, found, strict=True):
            layers[name][ratio] = (figures.own[name], figures.kl)
        limit = (1 + allowed) * sum(row[1.0][1] for row in layers.values())
        best = next(p for p in frontier(layers) if p.loss <= limit)
        return dict(zip(self.names, best.choice, strict=True))

"""Our search: one price for a synaptic operation, at which every channel decides for itself; the price is searched.

At a price, a channel's threshold, hold and burst are those of least ``importance * error + price * synops`` on what it
really receives (`thresholds.on_drive`). So all channels give up the same divergence for the last operation they save, which
is the condition for the least divergence within a budget (Shoham and Gersho 1988, of bits). Every price is a whole
calibration from the front, measured from end to end on held images: nothing is added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from d2e.compiler.convert.evaluate import Bench, Figures, too_small
from d2e.compiler.convert.skeleton import Skeleton
from d2e.compiler.convert.store import digest
from d2e.ir.nodes import Array

Price = float | None
S = TypeVar("S")
_FIRST = (0.02, 0.1)
_CHEAPEST, _DEAREST, _STEP = 1e-6, 100.0, 4.0
_NEAR, _AIM, _REFINED = 0.97, 0.985, 8


class Calibrates(Protocol[S]):
    """Sets all layers at a price of a synop."""

    @property
    def skeleton(self) -> Skeleton:
        """Of the ANN."""

    def every(self, most: int, *, price: Price = None) -> S:
        """The network."""

    def row(self, state: S, images: Array, logits: Array) -> list[float]:
        """KL from the ANN with these logits, synops, spikes, then the spikes of each layer."""


@dataclass(frozen=True, eq=False)
class Priced(Generic[S]):
    """The network of one price."""

    calibrator: Calibrates[S]
    most: int
    price: Price
    images: Array
    logits: Array

    @property
    def name(self) -> str:
        """Unique within a conversion."""
        return digest("price", self.most, self.price)

    def measured(self) -> list[float]:
        """Calibrated, and run on the held images."""
        return self.calibrator.row(self.calibrator.every(self.most, price=self.price), self.images, self.logits)


@dataclass
class Prices(Generic[S]):
    """Prices and what they lead to.

    Attributes:
        calibrator: sets layers.
        most: phi or levels at most.
        images, logits: held images, and the ANN's answers on them.
        bench: measures.
        known: all that was measured; price None is least error, as many as there may be everywhere.
    """

    calibrator: Calibrates[S]
    most: int
    images: Array
    logits: Array
    bench: Bench

    def __post_init__(self) -> None:
        self.known: dict[Price, Figures] = {}

    def figures(self, *prices: Price, what: str) -> list[Figures]:
        """Of networks at these prices."""
        layers = [layer.name for layer in self.calibrator.skeleton.rectifiers]
        tasks = [Priced(self.calibrator, self.most, price, self.images, self.logits) for price in prices]
        found = self.bench(tasks, layers, what)
        self.known.update(zip(prices, found, strict=True))
        return found

    def within(self, budget: float) -> Price:
        """The lowest price that keeps the synops within a budget, which is used to 97 % or more where steps allow it.

        Args:
            budget: a share, up to 1, of the synops without a price, or a number per sample.

        Raises:
            UnsupportedError: D2E-CONV-014 where no price does before a layer falls silent.
        """
        whole, *first = self.figures(None, *_FIRST, what="budget")
        unit = whole.synops if budget <= 1 else 1.0
        most = budget * unit
        if whole.synops <= most:
            return None
        tried = {price: f.synops for price, f in zip(_FIRST, first, strict=True) if all(f.own.values())}
        price = _FIRST[0]
        while not tried:
            price /= _STEP
            if price < _CHEAPEST:
                raise too_small(budget, whole.synops / unit)
            found = self.figures(price, what="budget")[0]
            tried = {price: found.synops} if all(found.own.values()) else {}
        while min(tried.values()) > most:
            price = max(tried) * _STEP
            found = self.figures(price, what="budget")[0]
            if price > _DEAREST or not all(found.own.values()):
                raise too_small(budget, min(tried.values()) / unit)
            tried[price] = found.synops
        sides: list[bool] = []
        for _ in range(_REFINED):
            fit = min(price for price, synops in tried.items() if synops <= most)
            if tried[fit] >= _NEAR * most:
                break
            low = max((price for price in tried if price < fit), default=fit / _STEP**2)
            before = tried.get(low, whole.synops)
            way = math.log(before / (_AIM * most)) / math.log(before / tried[fit])
            stuck = len(sides) > 1 and sides[-1] == sides[-2]
            price = low * (fit / low) ** (0.5 if stuck else min(max(way, 0.05), 0.95))
            tried[price] = self.figures(price, what="budget")[0].synops
            sides.append(tried[price] <= most)
        return min(price for price, synops in tried.items() if synops <= most)

    def closest(self, most: float) -> Price:
        """That of least divergence of all that were measured with at most so many synops."""
        affordable = {price: figures.kl for price, figures in self.known.items() if figures.synops <= most}
        return min(affordable, key=affordable.__getitem__, default=None)

    def grown(self, since: Price, allowed: float) -> Price:
        """The highest price found at which the KL is at most ``1 + allowed`` times that at the price ``since``."""
        low = since or _FIRST[0] / _STEP
        higher = [low * 2**k for k in range(1, 4)]
        found = self.figures(since, *higher, what="compression")
        limit, best, high = (1 + allowed) * found[0].kl, since, math.inf
        for price, each in zip(higher, found[1:], strict=True):
            if each.kl > limit:
                high = price
                break
            best = price
        for _ in range(2 if math.isfinite(high) else 0):
            price = math.sqrt((best or low) * high)
            if self.figures(price, what="compression")[0].kl <= limit:
                best = price
            else:
                high = price
        return best

    def table(self) -> list[dict[str, float | None]]:
        """All that was measured, by rising price."""
        rows = sorted(self.known.items(), key=lambda item: item[0] or 0.0)
        return [{"price": price, "kl": f.kl, "synops": f.synops, "spikes": f.spikes} for price, f in rows]

"""Which choice for each layer: the Pareto frontier of summed costs and summed losses (Eq. 11 and 15)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
_MOST_POINTS = 4000


@dataclass(frozen=True)
class Point(Generic[K]):
    """A choice for every layer.

    Attributes:
        cost, loss: sums over the layers.
        choice: one per layer, in their order.
    """

    cost: float
    loss: float
    choice: tuple[K, ...]


def frontier(layers: Mapping[str, Mapping[K, tuple[float, float]]]) -> list[Point[K]]:
    """The points that no other beats in both sums, by rising cost and falling loss.

    Layers are added one after the other; what is dominated goes at once, and beyond 4,000 points every second one.

    Args:
        layers: name -> choice -> (cost, loss).
    """
    points: list[Point[K]] = [Point(0.0, 0.0, ())]
    for options in layers.values():
        grown = [
            Point(p.cost + cost, p.loss + loss, (*p.choice, choice))
            for p in points for choice, (cost, loss) in options.items()
        ]
        points = _undominated(grown)
        while len(points) > _MOST_POINTS:
            points = [*points[:-1:2], points[-1]]
    return points


def _undominated(points: list[Point[K]]) -> list[Point[K]]:
    kept: list[Point[K]] = []
    for point in sorted(points, key=lambda p: (p.cost, p.loss)):
        if not kept or point.loss < kept[-1].loss:
            kept.append(point)
    return kept

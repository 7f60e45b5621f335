"""Puts tiles on cores, in the order of the network.

A core is shared by the parts of one layer (its replicas, its always-on neuron). Cores run at the same time, so other
layers share one only where told to, or where there are too few.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from d2e.backends.loihi2.placement.model import Load
from d2e.backends.loihi2.placement.tile import Cut, Tile

_OPEN = 64
"""Cores with room that a tile is tried on."""
_FULL = 0.9
"""Use beyond which a core is not tried."""


@dataclass
class Core:
    """A core and its tiles."""

    tiles: list[Tile] = field(default_factory=list)
    load: Load = field(default_factory=Load)

    def take(self, tile: Tile) -> bool:
        """Add a tile if it fits."""
        both = self.load + tile.load
        if self.tiles and not both.fits:
            return False
        self.tiles.append(tile)
        self.load = both
        return True


def pack(cuts: Sequence[Cut], share: bool) -> list[Core]:
    """Tiles on cores, first fit.

    Args:
        cuts: the populations in order.
        share: whether different layers may share a core.
    """
    parts = Counter(cut.layer.family for cut in cuts)
    order = {cut.layer.family: i for i, cut in enumerate(cuts)}
    cores: list[Core] = []
    room: dict[str, list[Core]] = {}
    for cut in sorted(cuts, key=lambda cut: (order[cut.layer.family], -math.prod(cut.layer.shape))):
        family = "" if share else cut.layer.family
        if not share and parts[family] == 1:
            cores += [Core([tile], tile.load) for tile in cut.tiles()]
            continue
        _fill(cut.tiles(), cores, room.setdefault(family, []))
    return cores


def _fill(tiles: Iterable[Tile], cores: list[Core], room: list[Core]) -> None:
    for tile in tiles:
        if any(core.take(tile) for core in room):
            continue
        cores.append(Core([tile], tile.load))
        if tile.load.used < _FULL:
            room.append(cores[-1])
            del room[:-_OPEN]

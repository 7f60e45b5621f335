"""place: which core holds which neurons; what does not fit is told with layer, core and limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from d2e.backends.loihi2.forms import lowered
from d2e.backends.loihi2.limits import LIMITS, TABLES
from d2e.backends.loihi2.placement.layer import Layer, layers
from d2e.backends.loihi2.placement.model import POOL, RESOURCES
from d2e.backends.loihi2.placement.pack import Core, pack
from d2e.backends.loihi2.placement.tile import Cut, cut
from d2e.backends.loihi2.placement.traffic import traffic
from d2e.compiler import cost
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property
from d2e.ir import Finding, Network, UnsupportedError
from d2e.ir.nodes import Array

if TYPE_CHECKING:
    from d2e.compiler.target import Target

COLUMNS = ("core", "chip", "populations", "neurons", "synaptic_words", "axons_in", "axons_out", "axon_memory", "groups",
           "used_percent")
"""Of the table of cores, and of mapping.csv."""


@dataclass(frozen=True)
class Place(Pass):
    """Put every population on cores.

    Attributes:
        cores: how many there are; None: those of ``chips``.
        chips: how many there are; None: one.
        strict: whether too few cores or chips are an error (on the chip) or a warning (on a simulator).
        pack: whether different layers may share a core; None: where there are too few cores otherwise.
    """

    name: ClassVar[str] = "place"
    requires: ClassVar[tuple[Property, ...]] = (lowered,)

    cores: int | None = None
    chips: int | None = None
    strict: bool = False
    pack: bool | None = None

    def run(self, network: Network, target: Target) -> Network:
        """The network with a ``placement`` in its metadata, plain JSON.

        ``populations``: name -> neurons, synapses, cores (a shared core counts for the largest of its populations), words
        per core; ``fit``: resource -> used and limit; ``cores``: the table with a row per core; ``traffic``: what crosses
        chips; ``source``: of the model.

        Raises:
            UnsupportedError: D2E-FIT-001 where one neuron exceeds a core, D2E-FIT-002 and -003 where cores or chips do not
                suffice.
        """
        found = layers(network)
        cuts = cut_all(found)
        limit = self.cores or (self.chips or 1) * int(LIMITS["cores"].value)
        cores = pack(cuts, share=bool(self.pack))
        if self.pack is None and len(cores) > limit:
            cores = min(cores, pack(cuts, share=True), key=len)
        placed = network.with_metadata(placement={
            "populations": _populations(network, cuts, cores), "fit": _fit(cores, limit),
            "cores": {"columns": list(COLUMNS), "rows": [_row(i, core) for i, core in enumerate(cores)]},
            "traffic": _traffic(found, cuts, cores), "source": TABLES,
        })
        for finding in _too_few(cores, limit):
            if self.strict:
                raise UnsupportedError(finding.code, finding.message, node=finding.node, hint=finding.hint)
            placed = warn(placed, finding.code, f"{finding.message}. {finding.hint}", finding.node)
        return placed


def estimate(network: Network) -> int:
    """How many cores a lowered network needs, if no layers share one.

    Raises:
        UnsupportedError: D2E-FIT-001 where one neuron exceeds a core.
    """
    return len(pack(cut_all(layers(network)), share=False))


def cut_all(found: Mapping[str, Layer]) -> list[Cut]:
    """Every population in tiles.

    Raises:
        UnsupportedError: D2E-FIT-001 where one neuron exceeds a core.
    """
    cuts: list[Cut] = []
    core = 0
    for layer in found.values():
        cuts.append(cut(layer, core))
        core += cuts[-1].size
    return cuts


def _chip(core: int) -> int:
    return core // int(LIMITS["cores"].value)


def _row(number: int, core: Core) -> list[Any]:
    load = core.load
    neurons = sum(tile.neurons for tile in core.tiles)
    return [
        number, _chip(number), " ".join(tile.label for tile in core.tiles), neurons, load.synaptic_words, load.axons_in,
        load.axons_out, load.axon_memory, load.groups, round(100 * load.used, 2),
    ]


def _populations(network: Network, cuts: Sequence[Cut], cores: Sequence[Core]) -> dict[str, dict[str, int]]:
    table = {
        c.layer.name: {
            "neurons": cost.neurons(network, c.layer.name), "synapses": cost.synapses(network, c.layer.name), "cores": 0,
            "words_per_core": 0,
        } for c in cuts
    }
    for core in cores:
        table[max(core.tiles, key=lambda tile: tile.neurons).layer]["cores"] += 1
        for tile in core.tiles:
            row = table[tile.layer]
            row["words_per_core"] = max(row["words_per_core"], tile.load.synaptic_words)
    return table


def _fit(cores: Sequence[Core], limit: int) -> dict[str, dict[str, int]]:
    """Every resource: the most that is used, and what there is."""
    chips = _chip(len(cores) - 1) + 1
    fit = {"cores": (len(cores), limit), "chips": (chips, max(1, -(-limit // int(LIMITS["cores"].value))))}
    for field, key, _ in (*RESOURCES, POOL):
        most = max((getattr(core.load, field) for core in cores), default=0)
        fit[f"{field}_per_core"] = (-int(-most // 1), int(LIMITS[key].value))
    return {name: {"used": used, "limit": most} for name, (used, most) in fit.items()}


def _traffic(found: Mapping[str, Layer], cuts: Sequence[Cut], cores: Sequence[Core]) -> dict[str, int]:
    if _chip(len(cores) - 1) == 0:
        return {"edges": 0, "axons": 0}
    where = {(tile.layer, tile.start): _chip(i) for i, core in enumerate(cores) for tile in core.tiles}
    chips: dict[str, Array] = {
        c.layer.name: np.array([where[c.layer.name, tuple(start)] for start in c.corners()[0].tolist()]) for c in cuts
    }
    return traffic(found, {c.layer.name: c for c in cuts}, chips)


def _too_few(cores: Sequence[Core], limit: int) -> list[Finding]:
    found = []
    largest = _largest(cores)
    if len(cores) > limit:
        first = cores[limit].tiles[0]
        found.append(Finding(
            "D2E-FIT-002", f"needs {len(cores):,} cores ({_chips(len(cores))}), {limit:,} are there: {first.label} would be "
            f"on core {limit:,}; the largest layer, {largest[0]!r}, takes {largest[1]:,}", largest[0],
            "Use fewer channels or a larger stride there, or name more (target option cores=… or chips=…).",
        ))
    most = int(LIMITS["chips"].value)
    if _chip(len(cores) - 1) >= most:
        first = cores[most * int(LIMITS["cores"].value)].tiles[0]
        found.append(Finding(
            "D2E-FIT-003", f"needs {_chips(len(cores))}, the largest system has {most:,}: {first.label} would be on chip "
            f"{most:,}; the largest layer, {largest[0]!r}, takes {largest[1]:,} cores", largest[0],
            "Use fewer channels or a larger stride there.",
        ))
    return found


def _largest(cores: Sequence[Core]) -> tuple[str, int]:
    """The layer on most cores."""
    on: dict[str, int] = {}
    for core in cores:
        for name in {tile.layer for tile in core.tiles}:
            on[name] = on.get(name, 0) + 1
    return max(on.items(), key=lambda item: item[1])


def _chips(cores: int) -> str:
    chips = _chip(cores - 1) + 1
    return f"{chips:,} chip{'s' if chips > 1 else ''}"

"""place: which cores hold which layers, what they use of them, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from d2e.backends.speck.limits import CORES, GOOD_LEAK, LIMITS, SHEET
from d2e.backends.speck.lowering import layers
from d2e.backends.speck.placement.mapping import Used, assign
from d2e.backends.speck.placement.misfit import listed
from d2e.compiler import cost
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass
from d2e.compiler.paths import paths_into
from d2e.ir import Network, reference
from d2e.ir.nodes import Array

if TYPE_CHECKING:
    from d2e.compiler.target import Target

MEMORIES = ("kernel", "neuron", "bias")
COLUMNS = ("core", "population", "first_feature", "features", *(
    f"{memory}_words{limit}" for memory in MEMORIES for limit in ("", "_limit")), "expected_synops_percent")
"""Of the table of cores, and of mapping.csv."""
SAMPLES = 8
"""Enough to tell which layers work most."""


@dataclass(frozen=True)
class Place(Pass):
    """Put every population on a core, or on several where its memories are too small.

    The metadata ``speck`` say whether the readout block reads the output.

    Attributes:
        camera: whether the chip's camera sends the input, which has two destinations; the host has any number.
        calibration: frames [batch, time, *shape] whose synaptic operations the cores share out; None: those of one event
            from every element that a layer reads.
    """

    name: ClassVar[str] = "place"

    camera: bool = False
    calibration: Array | None = None

    def run(self, network: Network, target: Target) -> Network:
        """The network with a ``placement`` in its metadata, plain JSON.

        ``populations``: name -> neurons, synapses, cores, words of each memory; ``fit``: resource -> used and limit, of the
        memories those of the fullest core; ``cores``: the table with a row per core; ``parts``: name -> [core, first
        feature, features] of each part; ``source``: of the limits.

        Raises:
            UnsupportedError: D2E-SPECK-010..018 as `layers`, D2E-SPECK-050..055 as `assign`.
        """
        options = network.metadata.get("speck", {})
        output = next(path.source for path in paths_into(network, network.outputs[0]))
        found = assign(
            layers(network), source=network.inputs[0], camera=self.camera,
            activity=None if self.calibration is None else _synops(network, self.calibration[:SAMPLES]),
            readout=output if options.get("readout") == "pins" else None,
        )
        placed = network.with_metadata(placement={
            "populations": {name: _population(network, name, found.cores) for name in found.parts},
            "fit": _fit(found.cores), "cores": {"columns": list(COLUMNS), "rows": [_row(used) for used in found.cores]},
            "parts": {name: [[p.layer, p.first, p.count] for p in parts] for name, parts in found.parts.items()},
            "source": SHEET,
        })
        for name, cores in found.doubtful.items():
            placed = warn(
                placed, "D2E-SPECK-056", f"its biases are on core{'s' * (len(cores) > 1)} {listed(cores)}; sources agree on "
                f"biases of the cores {listed(GOOD_LEAK)} alone. Train it without biases if the chip does other than the "
                "simulator", name)
        return placed


def _synops(network: Network, frames: Array) -> dict[str, float]:
    """Population -> synaptic operations per sample, step by step: how the events fall within a step changes them little."""
    data = reference.check_frames(network, frames)
    sent = {name: counts.mean(axis=0) for name, counts in reference.run(network, frames).counts.items()}
    return cost.synops(network, {**sent, network.inputs[0]: data.sum(axis=1).mean(axis=0)})


def _population(network: Network, name: str, cores: Sequence[Used]) -> dict[str, int]:
    own = [used.words for used in cores if used.population == name]
    return {
        "neurons": cost.neurons(network, name), "synapses": cost.synapses(network, name), "cores": len(own),
        **{f"{memory}_words": sum(getattr(words, memory) for words in own) for memory in MEMORIES},
    }


def _fit(cores: Sequence[Used]) -> dict[str, dict[str, int]]:
    """Cores, and of each memory that is used the fullest core's."""
    fit = {"cores": {"used": len(cores), "limit": int(LIMITS["cores"].value)}}
    for memory in MEMORIES:
        shares = [(getattr(used.words, memory), getattr(CORES[used.core], memory)) for used in cores]
        used, limit = max(shares, key=lambda share: share[0] / share[1])
        if used:
            fit[f"{memory}_words_of_fullest_core"] = {"used": used, "limit": limit}
    return fit


def _row(used: Used) -> list[Any]:
    words = [getattr(words, memory) for memory in MEMORIES for words in (used.words, CORES[used.core])]
    return [used.core, used.population, used.part.first, used.part.count, *words, round(100 * used.load, 2)]

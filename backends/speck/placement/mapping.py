"""Layers onto the nine cores: the assignment, and what it uses of each core.

What is best, the first difference decides: the fewest cores (a layer is split by its output features only where it must
be); layers with biases on the cores 3 and 4, never on 0 and 1; the layers with most work on the cores 0 and 1, such that
the busiest of the other cores has least to do, then the next busiest, and so on; the least idle memory on the cores used,
so that large ones stay free. `search` finds the best exactly; `misfit` says why there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from d2e.backends.speck.configuration import Part
from d2e.backends.speck.layer import Layer
from d2e.backends.speck.limits import GOOD_LEAK, LIMITS, READOUT_SPREAD, Core
from d2e.backends.speck.placement.misfit import misfits
from d2e.backends.speck.placement.search import Choice, demand, search
from d2e.ir import raise_findings


@dataclass(frozen=True)
class Used:
    """A core that is used.

    Attributes:
        core: its number.
        population: whose features it holds.
        part: which of them.
        words: of its memories that are taken; what there is of them stands in ``limits.CORES``.
        load: share of the network's synaptic operations, as far as they are known before a run.
    """

    core: int
    population: str
    part: Part
    words: Core
    load: float


@dataclass(frozen=True)
class Assignment:
    """Where every layer is.

    Attributes:
        parts: layer -> its parts, by rising features.
        cores: the cores used, by number.
        doubtful: layers with biases -> their cores on which not every source says that biases work.
    """

    parts: Mapping[str, tuple[Part, ...]]
    cores: tuple[Used, ...]
    doubtful: Mapping[str, tuple[int, ...]]


def assign(
    layers: Sequence[Layer], *, source: str, activity: Mapping[str, float] | None = None, camera: bool = False,
    readout: str | None = None,
) -> Assignment:
    """The best cores for the layers; the module says what is best.

    Args:
        layers: of a network, each with a name of its own.
        source: name of the network's input.
        activity: layer -> its synaptic operations per sample; None: as if every input element sent one event.
        camera: whether the chip's camera sends the input; it has two destinations, the host any number.
        readout: the layer that the readout block reads; its features are spread out, and it stays whole.

    Raises:
        UnsupportedError: D2E-SPECK-050..055 with everything that is in the way.
    """
    fan_out = int(LIMITS["fan_out"].value)
    limits = {layer.name: fan_out - (layer.name == readout) for layer in layers} | ({source: fan_out} if camera else {})
    demands = [
        demand(layer.spread(READOUT_SPREAD) if layer.name == readout else layer,
               layer.synops if activity is None else activity[layer.name], whole=layer.name == readout)
        for layer in layers
    ]
    found = search(demands, limits)
    if found is None:
        raise_findings(misfits(demands, limits))
    assert found is not None
    parts = {layer.name: _parts(layer, found[layer.name], spread=layer.name == readout) for layer in layers}
    total = sum(each.load for each in demands) or 1.0
    cores = [
        Used(core, each.layer.name, part, each.words(features), each.load * features / each.features / total)
        for each in demands
        for part, (core, features) in zip(parts[each.layer.name], found[each.layer.name], strict=True)
    ]
    doubtful = {
        layer.name: on for layer in layers if layer.bias is not None
        and (on := tuple(part.layer for part in parts[layer.name] if part.layer not in GOOD_LEAK))
    }
    return Assignment(parts, tuple(sorted(cores, key=lambda used: used.core)), doubtful)


def _parts(layer: Layer, chosen: Choice, *, spread: bool) -> tuple[Part, ...]:
    if spread:
        return (Part(chosen[0][0], 0, layer.output[0], READOUT_SPREAD),)
    firsts = [sum(features for _, features in chosen[:i]) for i in range(len(chosen))]
    return tuple(Part(core, first, features) for first, (core, features) in zip(firsts, chosen, strict=True))

"""place: how many neurocores each population needs. A first count; every number is an upper bound of one resource.

Cores per population = the most any one resource asks for: 4096 neurons, 12000 words of synaptic memory. A convolution
stores the kernels of its core's channels once per core, a dense layer 16 bits per synapse (fitted from Intel's published
tables).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from d2e.backends.loihi2.forms import lowered
from d2e.backends.loihi2.limits import LIMITS, TABLES
from d2e.compiler import cost
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property
from d2e.compiler.paths import Path, paths_into
from d2e.ir import Conv1d, Conv2d, Network, Scale, SumPool2d, UnsupportedError, infer_shapes

if TYPE_CHECKING:
    from d2e.compiler.target import Target

_DENSE_BITS = 16
_WORD = 64


@dataclass(frozen=True)
class Place(Pass):
    """Count cores.

    Attributes:
        cores: how many there are; None: one chip's. On a simulator too many cores are a warning, on the chip an error.
        strict: whether too many cores are an error.
    """

    name: ClassVar[str] = "place"
    requires: ClassVar[tuple[Property, ...]] = (lowered,)

    cores: int | None = None
    strict: bool = False

    def run(self, network: Network, target: Target) -> Network:
        """The network with a ``placement`` in its metadata: populations and fit.

        Raises:
            UnsupportedError: D2E-FIT-001 where the kernels of one channel exceed a core, D2E-FIT-002 where the cores do
                not suffice.
        """
        limit = self.cores or int(LIMITS["cores"].value)
        table = {name: _population(network, name) for name in network.populations}
        used = sum(row["cores"] for row in table.values())
        fit = {
            "cores": {"used": used, "limit": limit},
            "neurons_per_core": {
                "used": max((math.ceil(r["neurons"] / r["cores"]) for r in table.values()), default=0),
                "limit": int(LIMITS["neurons"].value),
            },
            "synaptic_words_per_core": {
                "used": max((r["words_per_core"] for r in table.values()), default=0),
                "limit": int(LIMITS["synaptic_words"].value),
            },
        }
        placed = network.with_metadata(placement={"populations": table, "fit": fit, "source": TABLES})
        if used <= limit:
            return placed
        largest = max(table, key=lambda n: int(table[n]["cores"]))
        message = f"needs {used} cores, {limit} are there; the largest layer takes {table[largest]['cores']}"
        hint = "Use fewer channels or a larger stride there, or name more cores (target option cores=…)."
        if self.strict:
            raise UnsupportedError("D2E-FIT-002", message, node=largest, hint=hint)
        return warn(placed, "D2E-FIT-002", f"{message}. {hint}", largest)


def estimate(network: Network) -> int:
    """How many cores a lowered network needs."""
    return sum(int(_population(network, name)["cores"]) for name in network.populations)


def _population(network: Network, name: str) -> dict[str, Any]:
    """Cores of a population: as few groups of channels as make the kernels fit, each on as many cores as it needs."""
    size, channels = cost.neurons(network, name), network.neuron(name).shape[0]
    shared = spread = 0
    for path in paths_into(network, name):
        words, per_core = _words(network, path)
        shared, spread = shared + (words if per_core else 0), spread + (0 if per_core else words)
    capacity = int(LIMITS["synaptic_words"].value)
    groups = 1 + shared // capacity
    kernel = math.ceil(shared / groups)
    if groups > channels:
        raise UnsupportedError(
            "D2E-FIT-001", f"the kernels of one of its channels take {math.ceil(shared / channels)} words, "
            f"a core holds {capacity}", node=name, hint="Use fewer input channels, a smaller kernel, or groups.",
        )
    each, room = size / groups, max(1, capacity - kernel)
    cores = groups * max(1, math.ceil(each / LIMITS["neurons"].value), math.ceil(spread / groups / room))
    return {
        "neurons": size, "synapses": cost.synapses(network, name), "cores": cores,
        "words_per_core": kernel + math.ceil(spread / cores),
    }


def _words(network: Network, path: Path) -> tuple[int, bool]:
    """64-bit words of a path's weights, and whether every core holds them all (a kernel) or its share."""
    for name in path.synapses:
        node = network.nodes[name]
        if isinstance(node, (Conv1d, Conv2d)) and not _from_one(network, path):
            bits = node.quantized.bits if node.quantized else _DENSE_BITS
            return math.ceil(node.weight.size * bits / _WORD), True
        if isinstance(node, SumPool2d):
            return 1, True
        if isinstance(node, Scale) and node.scale.size == 1:
            break
    connections = int(cost.path_fan_out(network, path, infer_shapes(network)).sum())
    return math.ceil(connections * _DENSE_BITS / _WORD), False


def _from_one(network: Network, path: Path) -> bool:
    """Whether the source is a single neuron, as of a bias: its convolution has a weight for every target, not a kernel."""
    return math.prod(infer_shapes(network)[path.source]) == 1

"""A neurocore as Intel's published resource tables have it: what it holds, its limits, and the share that is used.

Memory is one pool of 15,000 64-bit words. Synapses take words of it; an axon in, an entry of the axon map or of the axon
memory and a neuron (u and v of 24 bit) take 48 bit each. Every resource has a cap of its own besides. In percent of the
caps that is the total of the tables::

    Total % = 0.8 (AxonIn % + Synapses % + AxonMap % + AxonMem %) + 0.2048 Neurons %

Source: the tables printed in lava-nc/lava-dl, tutorials/lava/lib/dl/netx/*/*.ipynb (tests/backends/placement holds them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from d2e.backends.loihi2.limits import LIMITS

WORD_BITS = 64
SYNAPSE_BITS = 16
"""Of a synapse that is not part of a kernel; the synapses of one axon fill whole words."""
STATE_WORDS = 2
"""24-bit words of a neuron entry."""
_ENTRY = 0.75
"""64-bit words of an entry of 48 bit."""


class Resource(NamedTuple):
    """A resource of a core: its field in `Load`, its key in `LIMITS`, and its name in messages."""

    field: str
    limit: str
    label: str


RESOURCES: tuple[Resource, ...] = (
    Resource("neurons", "neurons", "neurons"),
    Resource("synaptic_words", "synaptic_words", "words of synapses"),
    Resource("axons_in", "axons_in", "axons in"),
    Resource("axons_out", "axon_map", "axons out"),
    Resource("axon_memory", "axon_map", "entries of axon memory"),
    Resource("groups", "neuron_groups", "neuron groups"),
)
POOL = Resource("words", "words", "words of memory")


class Excess(NamedTuple):
    """A resource that is used beyond its limit."""

    label: str
    used: int
    limit: int


@dataclass(frozen=True)
class Load:
    """What a core holds, or a tile of a population asks of it.

    Attributes:
        neurons: entries of two state words.
        synaptic_words: 64-bit words of weights.
        axons_in: synapse lists that spikes can arrive at.
        axons_out: entries of the axon map: where spikes go.
        axon_memory: further destinations.
        groups: populations.
    """

    neurons: int = 0
    synaptic_words: int = 0
    axons_in: int = 0
    axons_out: int = 0
    axon_memory: int = 0
    groups: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.neurons + other.neurons, self.synaptic_words + other.synaptic_words, self.axons_in + other.axons_in,
            self.axons_out + other.axons_out, self.axon_memory + other.axon_memory, self.groups + other.groups,
        )

    @property
    def words(self) -> float:
        """Of the pool, all resources together."""
        entries = self.neurons + self.axons_in + self.axons_out + self.axon_memory
        return self.synaptic_words + _ENTRY * entries

    @property
    def used(self) -> float:
        """Share of the pool, 0..1: the total of the published tables."""
        return self.words / LIMITS["words"].value

    def beyond(self) -> Excess | None:
        """The resource furthest beyond its limit; None where all fits."""
        worst, found = 1.0, None
        for field, limit, label in (*RESOURCES, POOL):
            used, most = getattr(self, field), LIMITS[limit].value
            if used / most > worst:
                worst, found = used / most, Excess(label, int(-(-used // 1)), int(most))
        return found

    @property
    def fits(self) -> bool:
        """Whether one core holds it."""
        return self.beyond() is None


def total(axons_in: float, neurons: float, synapses: float, axons_out: float, axon_memory: float) -> float:
    """The total of the published tables, from the shares of each resource's own cap, all in percent."""
    caps = [LIMITS[key].value for key in ("axons_in", "axon_map", "axon_map", "neurons")]
    entries = [_ENTRY * cap * share for cap, share in
               zip(caps, (axons_in, axons_out, axon_memory, neurons), strict=True)]
    return (sum(entries) + LIMITS["synaptic_words"].value * synapses) / LIMITS["words"].value


def row_words(synapses: int, bits: int = SYNAPSE_BITS) -> int:
    """Words of the synapses that one axon (or one position of a kernel) reaches: they fill whole words."""
    return -(-synapses * bits // WORD_BITS)

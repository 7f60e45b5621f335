"""Speck's numbers, each with its source. Nothing else in d2e knows them. Speck 2e and 2f have the same cores."""

from __future__ import annotations

from dataclasses import dataclass

from d2e.compiler.target import Limit
from d2e.ir import FixedPoint

SAMNA = "samna 0.48 API reference, samna.speck2f.configuration"
SHEET = "SynSense, Speck Dev Kit Datasheet (2023)"
SINABS = "sinabs 3.1.3 sinabs/backend/dynapcnn"
DOCS = "sinabs documentation, docs/speck"

STRIDES = (1, 2, 4, 8)
POOLINGS = (1, 2, 4)
READOUT = 12
"""Number of the readout block where a destination names it."""
READOUT_SPREAD = 4
"""On 2e and 2f feature 4 * n of a core is read as class n (docs/speck/faqs/chip_errata.md)."""

LIMITS: dict[str, Limit] = {
    "cores": Limit(9, "", f"{SHEET}, section 3.2.4"),
    "kernel_size": Limit(16, "", f"{SAMNA}.CnnLayerDimensions"),
    "stride": Limit(8, "one of 1, 2, 4, 8", f"{SAMNA}.CnnLayerDimensions"),
    "padding": Limit(7, "", f"{SAMNA}.CnnLayerDimensions"),
    "pooling": Limit(4, "one of 1, 2, 4", f"{SAMNA}.CnnLayerDestination"),
    "features": Limit(1024, "per layer, in or out", f"{SAMNA}.CnnLayerDimensions"),
    "input_size": Limit(128, "x and y", f"{SAMNA}.CnnLayerDimensions"),
    "output_size": Limit(64, "x and y", f"{SAMNA}.CnnLayerDimensions"),
    "fan_out": Limit(2, "destinations of a core", f"{SAMNA}.CnnLayerConfig"),
    "weight_bits": Limit(8, "bit, signed", f"{SAMNA}.CnnLayerConfig"),
    "bias": Limit((1 << 15) - 1, "16 bit, per feature", f"{SAMNA}.CnnLayerConfig"),
    "threshold_high": Limit((1 << 15) - 1, "16 bit", f"{SAMNA}.CnnLayerConfig"),
    "threshold_low": Limit(-(1 << 15), "16 bit; 0 is an erratum, -1 at most", f"{SHEET}, section 3.2.4.6.3"),
    "state": Limit((1 << 15) - 1, "16 bit, signed", f"{SHEET}, table 1"),
    "readout_classes": Limit(15, "", f"{SHEET}; {DOCS}/faqs/chip_errata.md"),
    "camera": Limit(128, "pixels, x and y", f"{SHEET}"),
}


@dataclass(frozen=True)
class Core:
    """Memories of one core, in words: kernels of 8 bit, neurons of 16 bit, biases of 16 bit."""

    kernel: int
    neuron: int
    bias: int


_KI = 1024
CORES: tuple[Core, ...] = (
    *[Core(16 * _KI, 64 * _KI, _KI)] * 3, *[Core(32 * _KI, 32 * _KI, _KI)] * 2,
    *[Core(64 * _KI, 16 * _KI, _KI)] * 2, *[Core(16 * _KI, 16 * _KI, _KI)] * 2,
)
"""Source: Speck Dev Kit Datasheet, table 1; the same in sinabs 3.1.3, chips/dynapcnn.py get_constraints."""

BROKEN_LEAK = (0, 1)
"""Cores whose bias (leak) is reported unusable, by an address fault; sinabs maps biased layers there all the same."""
GOOD_LEAK = (3, 4)
"""Cores on which every source says that the bias works."""
PARALLEL = (0, 1)
"""Cores that work on events in parallel and so bear the most; no figure is published."""

WEIGHT_MAX = 127
STATE_MAX = int(LIMITS["state"].value)
THRESHOLD_MAX = STATE_MAX - WEIGHT_MAX
"""Below it no weight can carry a state past 16 bits: what the chip then does is not documented."""
LOWEST = -THRESHOLD_MAX
"""Floor of a state that has none: the lowest from which no weight leaves 16 bits."""

ARITHMETIC = FixedPoint(fraction_bits=0, u_bits=32, u_overflow="refuse", v_bits=16, v_overflow="saturate")

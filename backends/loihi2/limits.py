"""Loihi 2's numbers, each with its source. Nothing else in d2e knows them."""

from __future__ import annotations

from d2e.compiler.passes.quantise import Grid
from d2e.compiler.target import Limit
from d2e.ir import FixedPoint

LAVA = "lava-nc 0.10.0 lava/proc/lif/models.py (PyLifModelBitAcc)"
TABLES = "fitted from the resource tables that Intel published in the lava-dl netx tutorials"

LIMITS: dict[str, Limit] = {
    "weight_bits": Limit(8, "bit, signed", "lava-nc 0.10.0 lava/utils/weightutils.py"),
    "threshold": Limit((1 << 17) - 1, "weight units", f"17 bit; {LAVA}"),
    "bias_mantissa": Limit((1 << 12) - 1, "", f"13 bit signed; {LAVA}"),
    "bias_exponent": Limit(7, "", f"3 bit; {LAVA}"),
    "state": Limit(1 << 17, "weight units", f"24 bit signed with 6 fraction bits; {LAVA}"),
    "delay": Limit(62, "steps", "6 bit; lava-nc 0.10.0 lava/proc/dense/models.py, lava-dl 0.6.0 netx"),
    "cores": Limit(128, "per chip", "Intel, Taking Neuromorphic Computing to the Next Level with Loihi 2 (2021)"),
    "neurons": Limit(4096, "per core", TABLES),
    "synaptic_words": Limit(12000, "64-bit words per core", TABLES),
    "words": Limit(15000, "64-bit words per core", TABLES),
}

ARITHMETIC = FixedPoint()
GRID = Grid(arithmetic=ARITHMETIC)
DECAY_ONE = 1 << ARITHMETIC.decay_bits
UNIT = 1 << ARITHMETIC.fraction_bits

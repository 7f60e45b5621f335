"""Loihi 2's numbers, each with its source. Nothing else in d2e knows them."""

from __future__ import annotations

from d2e.compiler.passes.quantise import Grid
from d2e.compiler.target import Limit
from d2e.ir import FixedPoint

LAVA = "lava-nc 0.10.0 lava/proc/lif/models.py (PyLifModelBitAcc)"
TABLES = "fitted from published tables (Intel's, in the lava-dl netx tutorials)"

LIMITS: dict[str, Limit] = {
    "weight_bits": Limit(8, "bit, signed", "lava-nc 0.10.0 lava/utils/weightutils.py"),
    "kernel_bits": Limit(9, "bit, signed, of a convolution", "-256..255; lava-nc 0.10.0 lava/proc/conv"),
    "threshold": Limit((1 << 17) - 1, "weight units", f"17 bit; {LAVA}"),
    "bias_mantissa": Limit((1 << 12) - 1, "", f"13 bit signed; {LAVA}"),
    "bias_exponent": Limit(7, "", f"3 bit; {LAVA}"),
    "state": Limit(1 << 17, "weight units", f"24 bit signed with 6 fraction bits; {LAVA}"),
    "accumulator": Limit(1 << 23, "weight units", "24 bit signed; lava-nc 0.10.0 lava/proc/conv/models.py"),
    "synapse_mantissa": Limit(255, "", "8 bit, weights of one sign; lava-nc 0.10.0 lava/utils/weightutils.py"),
    "synapse_exponent": Limit(7, "", "chosen by d2e; lava-nc 0.10.0 lava/proc/dense/models.py states none"),
    "step_kernels": Limit(8, "convolutions for the step of a replica", "chosen by d2e; a convolution has no exponent"),
    "payload": Limit((1 << 24) - 1, "", "24 bit; lava-nc 0.10.0 lava/magma/core/model/spike_type.py"),
    "delay": Limit(62, "steps", "6 bit; lava-nc 0.10.0 lava/proc/dense/models.py, lava-dl 0.6.0 netx"),
    "cores": Limit(128, "per chip", "Intel, Taking Neuromorphic Computing to the Next Level with Loihi 2 (2021)"),
    "chips": Limit(1152, "of the largest system", "Intel, Hala Point (2024)"),
    "neurons": Limit(4095, "per core", f"{TABLES}: 3584 neurons print as 87.52 %, no tile holds 4096"),
    "synaptic_words": Limit(12000, "64-bit words per core", TABLES),
    "axons_in": Limit(16000, "of 48 bit per core", TABLES),
    "axon_map": Limit(16000, "of 48 bit per core", TABLES),
    "neuron_groups": Limit(8, "per core", TABLES),
    "words": Limit(15000, "64-bit words per core", TABLES),
}

ARITHMETIC = FixedPoint()
GRID = Grid(
    weight_bits=int(LIMITS["weight_bits"].value), conv_bits=int(LIMITS["kernel_bits"].value),
    linear_bits=int(LIMITS["weight_bits"].value + LIMITS["synapse_exponent"].value),
    threshold_max=int(LIMITS["threshold"].value), mantissa_max=int(LIMITS["synapse_mantissa"].value),
    exponent_max=int(LIMITS["synapse_exponent"].value),
    bias_mantissa=int(LIMITS["bias_mantissa"].value), bias_exponents=range(int(LIMITS["bias_exponent"].value) + 1),
    state_max=int(LIMITS["state"].value), sum_max=int(LIMITS["accumulator"].value), arithmetic=ARITHMETIC,
)
DECAY_ONE = 1 << ARITHMETIC.decay_bits
UNIT = 1 << ARITHMETIC.fraction_bits

"""Spiking neurons to train in torch and compile as they stand."""

from d2e.compiler.nn import (
    IF,
    LI,
    LIF,
    CubaLIF,
    MultiThreshold,
    Neuron,
    Options,
    Recurrent,
    Residual,
    SelfAttention,
    Sequential,
    SumPool2d,
    TimeFolded,
    save,
)

__all__ = [
    "IF", "LI", "LIF", "CubaLIF", "MultiThreshold", "Neuron", "Options", "Recurrent", "Residual",
    "SelfAttention", "Sequential", "SumPool2d", "TimeFolded", "save",
]

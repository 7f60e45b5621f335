"""Spiking neurons to train in torch and compile as they stand, and modules around them; import them as ``d2e.nn``."""

from d2e.compiler.nn.attention import SelfAttention
from d2e.compiler.nn.checkpoint import save
from d2e.compiler.nn.containers import Recurrent, Residual, Sequential, SumPool2d, TimeFolded
from d2e.compiler.nn.neurons import IF, LI, LIF, CubaLIF, MultiThreshold, Neuron, Options

__all__ = [
    "IF", "LI", "LIF", "CubaLIF", "MultiThreshold", "Neuron", "Options", "Recurrent", "Residual",
    "SelfAttention", "Sequential", "SumPool2d", "TimeFolded", "save",
]

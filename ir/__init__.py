"""What a network is: typed graph, exact discrete meaning, `.nir` files, verifier, reference interpreter.

This package knows no chip and imports nothing of d2e outside itself.
"""

from d2e.ir.encoding import Encoder
from d2e.ir.errors import (
    D2EError,
    Finding,
    GateError,
    InternalError,
    MissingError,
    UnsupportedError,
    UsageError,
    raise_findings,
)
from d2e.ir.exit import EarlyExit
from d2e.ir.host import Add, Attention, Host, LayerNorm, Mean, Permute
from d2e.ir.network import Edge, Network, chain
from d2e.ir.nodes import (
    IF,
    LI,
    LIF,
    Affine,
    AvgPool2d,
    Continuous,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Neuron,
    Node,
    Output,
    Quantized,
    Scale,
    SumPool2d,
    Synapse,
    integral,
    real,
)
from d2e.ir.shapes import infer_shapes
from d2e.ir.text import to_text
from d2e.ir.verify import verified, verify

__all__ = [
    "IF", "LI", "LIF", "Add", "Affine", "Attention", "AvgPool2d", "Continuous", "Conv1d", "Conv2d", "CubaLIF", "D2EError",
    "Delay", "EarlyExit", "Edge", "Encoder", "Finding", "FixedPoint", "Flatten", "GateError", "Host", "Input",
    "InternalError", "LayerNorm", "Linear", "Mean", "MissingError", "MultiThreshold", "Network", "Neuron", "Node", "Output",
    "Permute", "Quantized", "Scale", "SumPool2d", "Synapse", "UnsupportedError", "UsageError", "chain", "infer_shapes",
    "integral", "raise_findings", "real", "to_text", "verified", "verify",
]

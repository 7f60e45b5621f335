"""What the models share: a convolution with BatchNorm, the neuron, and the readout.

The neuron is that of direct-to-event transfer (Luu et al. 2026, arXiv 2605.07207): LIF with hard reset, tau = 2 steps, so
that half of the membrane is kept per step, and the arctan surrogate; the answer is the last layer's mean over T = 8 steps.
"""

from __future__ import annotations

import torch
from torch import nn

from d2e import nn as snn

DECAY = 0.5
STEPS = 8
READOUTS = {"membrane": "mean", "spikes": "count"}
"""What a model's readout is called in `d2e.nn.save` and `d2e.compile`."""


def neuron(decay: float = DECAY) -> snn.Neuron:
    """A population with hard reset; 1 keeps all of the membrane, as Speck's neurons do."""
    return snn.IF(reset="zero") if decay == 1 else snn.LIF(decay, reset="zero")


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution that keeps the frame (but for its stride), and BatchNorm, which the compiler folds into it."""
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs),
    )


def head(features: int, classes: int, readout: str = "membrane") -> tuple[nn.Module, ...]:
    """The last dense layer and what is read of it.

    Args:
        features: of the flattened frame.
        classes: outputs.
        readout: "membrane": the layer's output itself, as an `LI` that keeps nothing: its mean over time is the answer,
            which Loihi 2's simulator and Lava read; "spikes": `IF` neurons, whose counts are (a chip sends nothing else).

    Raises:
        ValueError: for another readout.
    """
    if readout not in READOUTS:
        raise ValueError(f"readout {readout!r} is none of {', '.join(READOUTS)}")
    return nn.Flatten(), nn.Linear(features, classes), snn.LI(0.0) if readout == "membrane" else snn.IF()


def built(*layers: nn.Module) -> snn.Sequential:
    """The model, its channels last in memory: convolutions and BatchNorm are quicker so, on a CPU and on a GPU."""
    return snn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

"""Spike-element-wise residual networks with addition.

Fang et al. 2021 (arXiv 2102.04159), SEW-ResNet with g = ADD: both branches of a block end in neurons, and their spikes are
added, so that a layer receives 0, 1, 2 … Published sizes are those of ResNet: ``stages=(2, 2, 2, 2), base=64`` is
SEW-ResNet-18 with 11.2 M parameters, (3, 4, 6, 3) SEW-ResNet-34 with 21.3 M, for 10 classes and with a 3x3 stem. For Loihi
2: on Speck a layer sends to two others at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from examples.spiking_models.parts import DECAY, built, conv_bn, head, neuron
from torch import nn

from d2e import nn as snn


def sew_resnet(
    stages: Sequence[int] = (2, 2, 2), base: int = 16, channels: int = 1, classes: int = 10, size: int = 28, *,
    stem_stride: int = 2, decay: float = DECAY, readout: str = "membrane",
) -> snn.Sequential:
    """A SEW-ResNet; 174,970 parameters by default.

    Args:
        stages: blocks per stage; from the second on a stage halves the frame and doubles the channels.
        base: channels of the stem and the first stage.
        channels: of the input [batch, time, channels, size, size], real frames or events.
        classes: outputs.
        size: of a square frame.
        stem_stride: of the first convolution.
        decay: of the neurons; 1: no leak.
        readout: see `parts.head`.
    """
    layers: list[nn.Module] = [*conv_bn(channels, base, stride=stem_stride), neuron(decay)]
    inputs, size = base, -(-size // stem_stride)
    for stage, blocks in enumerate(stages):
        outputs = base * 2**stage
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            layers.append(block(inputs, outputs, stride, decay))
            inputs, size = outputs, -(-size // stride)
    return built(*layers, nn.AvgPool2d(size), *head(inputs, classes, readout))


def block(inputs: int, outputs: int, stride: int = 1, decay: float = DECAY) -> snn.Residual:
    """Spikes of two convolutions, added to those the block receives or to those of a 1x1 convolution."""
    body = snn.Sequential(
        *conv_bn(inputs, outputs, stride=stride), neuron(decay), *conv_bn(outputs, outputs), neuron(decay),
    )
    if inputs == outputs and stride == 1:
        return snn.Residual(body)
    return snn.Residual(body, snn.Sequential(*conv_bn(inputs, outputs, 1, stride), neuron(decay)))

"""Spiking VGG networks.

Simonyan and Zisserman 2015 (arXiv 1409.1556) with neurons for ReLU, BatchNorm after the convolutions, average pooling of
spikes and one dense layer. Published: `VGG11` and `VGG16`, on 32 x 32 frames of 3 channels 9.2 M and 14.7 M parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from examples.spiking_models.parts import DECAY, built, conv_bn, head, neuron
from torch import nn

from d2e import nn as snn

SMALL = (16, "pool", 32, 32, "pool", 64, 64)
VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def spiking_vgg(
    layout: Sequence[int | str] = SMALL, channels: int = 1, classes: int = 10, size: int = 28, *,
    decay: float = DECAY, readout: str = "membrane",
) -> snn.Sequential:
    """A Spiking-VGG; 101,050 parameters by default.

    Args:
        layout: channels of each convolution, and "pool" for average pooling of 2 x 2.
        channels: of the input [batch, time, channels, size, size], real frames or events.
        classes: outputs.
        size: of a square frame; every "pool" halves it.
        decay: of the neurons; 1: no leak.
        readout: see `parts.head`.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for entry in layout:
        if isinstance(entry, str):
            layers.append(nn.AvgPool2d(2))
            size //= 2
        else:
            layers += [*conv_bn(inputs, entry), neuron(decay)]
            inputs = entry
    return built(*layers, *head(inputs * size * size, classes, readout))

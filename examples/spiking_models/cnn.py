"""A small convolutional spiking network, the quickest of these models to train."""

from __future__ import annotations

from examples.spiking_models.parts import DECAY, built, conv_bn, head, neuron
from torch import nn

from d2e import nn as snn


def spiking_cnn(
    width: int = 16, channels: int = 1, classes: int = 10, size: int = 28, *,
    decay: float = DECAY, readout: str = "membrane",
) -> snn.Sequential:
    """Two convolutions, each with neurons and average pooling, and a dense layer; 20,538 parameters by default.

    Args:
        width: channels of the first convolution; the second has twice as many.
        channels: of the input [batch, time, channels, size, size], real frames or events.
        classes: outputs.
        size: of a square frame, a multiple of 4.
        decay: of the neurons; 1: no leak.
        readout: see `parts.head`.
    """
    return built(
        *conv_bn(channels, width), neuron(decay), nn.AvgPool2d(2),
        *conv_bn(width, 2 * width), neuron(decay), nn.AvgPool2d(2),
        *head(2 * width * (size // 4) ** 2, classes, readout),
    )

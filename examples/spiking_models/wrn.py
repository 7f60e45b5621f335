"""Spiking wide residual networks.

Zagoruyko and Komodakis 2016 (arXiv 1605.07146) with neurons for ReLU: a stem of 16 channels, three groups of (depth - 4) / 6
blocks with 16, 32 and 64 times ``width`` channels, the second and third group with stride 2. Published sizes, for 32 x 32
frames of 3 channels with ``stem_stride=1``: WRN-16-4 2.7 M parameters, WRN-16-8 11.0 M, WRN-28-10 36.5 M. The default,
``width=1``, halves the frame in the stem, so that it has a quarter of the additions.

Blocks are in post-activation order, convolution - BatchNorm - neuron, and a block's sum goes into a neuron: all that travels
between layers are then spikes. The pre-activation order of the paper passes on a sum of currents, which no chip sends. Speck
takes no block that halves the frame (its cores add up maps of one size): compile this for Loihi 2.
"""

from __future__ import annotations

from examples.spiking_models.parts import DECAY, built, conv_bn, head, neuron
from torch import nn

from d2e import nn as snn


def spiking_wrn(
    depth: int = 16, width: int = 1, channels: int = 1, classes: int = 10, size: int = 28, *, base: int = 16,
    stem_stride: int = 2, decay: float = DECAY, readout: str = "membrane",
) -> snn.Sequential:
    """A Spiking-WRN-``depth``-``width``; 174,970 parameters by default.

    Args:
        depth: 6 n + 4 with n blocks per group: 10, 16, 22, 28 …
        width: factor on the channels of the three groups.
        channels: of the input [batch, time, channels, size, size], real frames or events.
        classes: outputs.
        size: of a square frame.
        base: channels of the stem.
        stem_stride: of the first convolution; 1 as published.
        decay: of the neurons; 1: no leak.
        readout: see `parts.head`.

    Raises:
        ValueError: for a depth that is not 6 n + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth {depth} is not 10, 16, 22, 28 …")
    layers: list[nn.Module] = [*conv_bn(channels, base, stride=stem_stride), neuron(decay)]
    inputs, size = base, -(-size // stem_stride)
    for group in range(3):
        outputs = base * width * 2**group
        for number in range((depth - 4) // 6):
            stride = 2 if group and not number else 1
            layers += [block(inputs, outputs, stride, decay), neuron(decay)]
            inputs, size = outputs, -(-size // stride)
    return built(*layers, nn.AvgPool2d(size), *head(inputs, classes, readout))


def block(inputs: int, outputs: int, stride: int = 1, decay: float = DECAY) -> snn.Residual:
    """Two convolutions with neurons between them, past which the spikes go as they are or through a 1x1 convolution."""
    body = snn.Sequential(*conv_bn(inputs, outputs, stride=stride), neuron(decay), *conv_bn(outputs, outputs))
    alike = inputs == outputs and stride == 1
    return snn.Residual(body, None if alike else nn.Sequential(*conv_bn(inputs, outputs, 1, stride)))

"""A population as a layer of the chip: one convolution with its neurons, before it has a core."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from d2e.backends.speck.limits import Core
from d2e.ir.nodes import Array

Space = tuple[int, int, int]
"""(features, height, width)."""


class Link(NamedTuple):
    """Where a layer's events come from.

    Attributes:
        source: name of a population, or of the input.
        pooling: coordinates are divided by it, rounding down, on the way.
        shift: added to the feature.
    """

    source: str
    pooling: int = 1
    shift: int = 0


@dataclass(frozen=True, eq=False)
class Layer:
    """One convolution and its neurons, in our orientation (y before x); `configuration` turns it to the chip's.

    Attributes:
        name: of the population.
        shape: of the population in the network: (F,), (F, L) or (F, H, W), the same neurons as ``output`` in this order.
        input, output: (features, height, width).
        kernel_size: of the square kernel.
        stride, padding: (y, x).
        weights: int8 [out features, in features, kernel_size, kernel_size].
        bias: int16 [out features], added at every edge of the slow clock; None: the layer has none.
        initial: int16 [output] states before the first event; None: zeros.
        threshold_high: fires at v >= threshold_high.
        threshold_low: floor of v, at most -1.
        return_to_zero: a spike sets v to 0; else it takes threshold_high.
        links: where events come from.
    """

    name: str
    shape: tuple[int, ...]
    input: Space
    output: Space
    kernel_size: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    weights: Array
    bias: Array | None
    initial: Array | None
    threshold_high: int
    threshold_low: int
    return_to_zero: bool
    links: tuple[Link, ...]

    @property
    def memory(self) -> Core:
        """Words it takes of a core (sinabs 3.1.3 dynapcnn_layer.py memory_summary; datasheet section 3.2.4.1)."""
        features, height, width = self.output
        kernel = self.input[0] << (_bits(self.kernel_size**2) + _bits(features))
        return Core(kernel, features << (_bits(height) + _bits(width)), 0 if self.bias is None else features)

    @property
    def synops(self) -> int:
        """Synaptic operations if every input element sends one event, edges not counted off."""
        windows = math.prod(math.ceil(self.kernel_size / stride) for stride in self.stride)
        return math.prod(self.input) * self.output[0] * windows

    def part(self, first: int, count: int) -> Layer:
        """The layer with the output features ``first`` … ``first + count - 1`` alone."""
        chosen = slice(first, first + count)
        return replace(
            self, output=(count, *self.output[1:]), weights=self.weights[chosen],
            bias=None if self.bias is None else self.bias[chosen],
            initial=None if self.initial is None else self.initial[chosen],
        )

    def spread(self, step: int) -> Layer:
        """The layer with its output features at 0, step, 2 * step … and silent ones between."""
        features = step * (self.output[0] - 1) + 1

        def apart(array: Array | None) -> Array | None:
            if array is None:
                return None
            full = np.zeros((features, *array.shape[1:]), array.dtype)
            full[::step] = array
            return full

        weights = apart(self.weights)
        assert weights is not None
        return replace(self, output=(features, *self.output[1:]), weights=weights, bias=apart(self.bias),
                       initial=apart(self.initial))


def _bits(n: int) -> int:
    """ceil(log2(n))."""
    return (n - 1).bit_length()

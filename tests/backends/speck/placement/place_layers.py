"""Layers for the tests of placement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2e.backends.speck.layer import Layer, Link


def layer(name: str, channels: int, size: int, features: int, *, kernel: int = 1, bias: bool = False,
          sources: Sequence[str] = ("input",)) -> Layer:
    """A layer whose map stays ``size`` x ``size``."""
    out = (features, size, size)
    return Layer(
        name, out, (channels, size, size), out, kernel, (1, 1), (kernel // 2, kernel // 2),
        np.ones((features, channels, kernel, kernel), np.int8), np.ones(features, np.int16) if bias else None, None, 100,
        -100, False, tuple(Link(source) for source in sources),
    )


def queue(*layers: Layer) -> list[Layer]:
    """Every layer reads the one before it."""
    names = ["input", *(each.name for each in layers)]
    return [Layer(**{**vars(each), "links": (Link(names[i]),)}) for i, each in enumerate(layers)]

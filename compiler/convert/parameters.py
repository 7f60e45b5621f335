"""How the parameters of a layer's neurons stand in a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from d2e.compiler.convert.skeleton import Layer
from d2e.ir.nodes import Array, real


def facts_of(layer: Layer) -> dict[str, Any]:
    """The activation that a population stands for."""
    return {"activation": layer.activation, **({} if np.isinf(layer.cap) else {"cap": layer.cap})}


def smallest(values: Array) -> Array:
    """One number where all are the same; per entry of the first or the last axis where they vary along it alone."""
    full = real(values)
    if (full == full.flat[0]).all():
        return real(full.flat[0])
    if full.ndim > 1:
        for first in (full[(slice(None), *([slice(0, 1)] * (full.ndim - 1)))], full[(0,) * (full.ndim - 1)]):
            if (full == first).all():
                return np.array(first)
    return full

"""The numbers of a ``.net`` layer that netx does not take as they stand: registers, biases, matrices, delays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from d2e.compiler.frontends.netx_file import Fields, malformed
from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import Array, Shape, integral

ONE = 4096
"""What decays count in."""
_BIAS = (-(1 << 15), (1 << 15) - 1)


def sizes(layer: Fields) -> Shape:
    """The sizes a layer states, all above 0."""
    found = layer.sizes("shape")
    if min(found) < 1 or math.prod(found) >= 1 << 31:
        raise malformed(layer.name, f"says its shape is {list(found)}")
    return found


def matrix(layer: Fields, key: str, count: int) -> Array:
    """Weights [count, in]; netx takes a flat list as rows."""
    weight = layer.integers(key)
    if weight.ndim == 1 and weight.size % count == 0:
        weight = weight.reshape(count, -1)
    if weight.ndim != 2 or weight.shape[0] != count:
        raise malformed(layer.name, f"{key} has shape {list(weight.shape)} for {count} neurons")
    return weight


def bias(layer: Fields, shape: Shape) -> Array:
    """In weight units, from one number, one per channel or one per neuron (x, y, channel)."""
    if "bias" not in layer:
        return integral(0)
    found = layer.integers("bias")
    if found.min() < _BIAS[0] or found.max() > _BIAS[1]:
        raise UnsupportedError("D2E-NETX-003", f"has a bias of {found.min()}..{found.max()}, which Lava cuts to 16 bits",
                               node=layer.name, hint="Scale the layer down.")
    if len(shape) == 1 and found.size in (1, shape[0]):
        return found.reshape(-1) if found.size > 1 else found.reshape(())
    if len(shape) == 3 and found.shape == shape[::-1]:
        return found.transpose()
    if len(shape) == 3 and found.shape == shape[:1]:
        return found[:, None, None]
    raise malformed(layer.name, f"has a bias of shape {list(found.shape)} for neurons of shape {list(shape)}")


def delays(layer: Fields, weight: Array) -> Array:
    """Steps per weight, from one number, one per neuron, or one per input (where their counts differ)."""
    delay = layer.integers("delay")
    if delay.min() < 0:
        raise malformed(layer.name, "has a delay below 0")
    if delay.ndim == 1 and delay.size == weight.shape[0]:
        delay = delay[:, None]
    elif delay.shape not in ((), weight.shape) and not (delay.ndim == 1 and delay.size == weight.shape[1]):
        raise malformed(layer.name, f"has delays of shape {list(delay.shape)} for weights {list(weight.shape)}")
    return np.broadcast_to(delay, weight.shape)


def registers(neuron: Fields) -> tuple[int, int, int]:
    """(kept of u, kept of v, threshold) of a CUBA neuron, decays over 4096."""
    kind = neuron.text("type")
    if kind not in ("CUBA", "LOIHI"):
        raise UnsupportedError(
            "D2E-NETX-002", f"has neurons of type {kind!r}; d2e reads CUBA (LOIHI)", node=neuron.name,
            hint="Use slayer's cuba blocks.",
        )
    values = []
    for key in ("iDecay", "vDecay", "vThMant"):
        found = np.unique(neuron.integers(key))
        if found.size != 1:
            raise UnsupportedError("D2E-NETX-002", f"{key} varies within the layer; the chip has one per layer",
                                   node=neuron.name, hint="Use one for all neurons (shared_param).")
        values.append(int(found[0]))
    syn, mem, threshold = values
    if not (0 <= syn <= ONE and 0 <= mem <= ONE and threshold >= 0):
        raise malformed(neuron.name, f"has iDecay {syn}, vDecay {mem}, vThMant {threshold}: the decays are 0 to {ONE}, "
                        "the threshold is 0 or more")
    return ONE - syn, ONE - mem, threshold


def sample_steps(other: Mapping[str, Any]) -> int | None:
    """Steps per sample that the file was trained with (``simulation/tSample``); it only matters for images."""
    found = other.get("simulation")
    if not isinstance(found, dict) or "tSample" not in found:
        return None
    steps = Fields("simulation", found).integer("tSample")
    return steps if 0 < steps < 1 << 20 else None

"""What a source sent in a chunk of samples: a byte n per neuron and step, with the payload that each byte stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2e.backends.loihi2.simulator.layout import first, last
from d2e.ir import Input
from d2e.ir.nodes import Array, Shape

NO_PAYLOADS = np.zeros(0, np.int32)
_SIGNED = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int32)


@dataclass
class Sent:
    """Rows of bytes, padded to whole words.

    Attributes:
        words, bytes_: two views of one buffer, [B, T, n / 8] and [B, T, n]; empty where only ``raw`` holds them.
        payloads: of each byte, [256]; empty where it is the byte.
        raw: payloads [B, T, *shape] that need more room, or that are at hand anyhow.
    """

    words: Array
    bytes_: Array
    payloads: Array
    raw: Array | None = None

    @cached_property
    def active(self) -> int:
        """How many bytes are not 0."""
        return int(np.count_nonzero(self.bytes_))

    def rows(self, size: int) -> Array:
        """[B * T, size] contiguous payloads as bytes; they must fit."""
        flat = self.bytes_.reshape(-1, self.bytes_.shape[2])
        if self.payloads.size:
            return self.payloads.astype(np.uint8)[flat[:, :size]]
        return flat if flat.shape[1] == size else np.ascontiguousarray(flat[:, :size])

    def frames(self, shape: Shape) -> Array:
        """Payloads [B, T, *shape]."""
        if self.raw is not None:
            return self.raw
        n = self.bytes_[:, :, : math.prod(shape)]
        return first(self.payloads[n] if self.payloads.size else n, shape)


def room(batch: int, steps: int, size: int) -> tuple[Array, Array]:
    """(words, bytes) of zeroed rows, two views of one buffer."""
    words = np.zeros((batch, steps, -(-size // 8)), np.uint64)
    return words, words.view(np.uint8)


def from_input(node: Input, frames: Array) -> Sent:
    """Frames [B, T, *shape] that `d2e.ir.frames.check_frames` has seen."""
    signed = node.coding == "signed"
    if node.max_payload > (127 if signed else 255):
        return Sent(np.zeros((0, 0, 0), np.uint64), np.zeros((0, 0, 0), np.uint8), NO_PAYLOADS, frames)
    flat = last(frames, node.shape) if len(node.shape) > 1 else frames
    words, bytes_ = room(*flat.shape)
    bytes_[:, :, : flat.shape[2]] = flat.astype(np.int8).view(np.uint8) if signed else flat
    return Sent(words, bytes_, _SIGNED if signed else NO_PAYLOADS, frames)

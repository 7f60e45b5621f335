"""How real values become integer payloads on the host, before the chip: the encoder that an Input carries.

It imports numpy alone, because the emitted Lava package holds a copy of this file: both compute the same.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Kind = Literal["direct", "first", "rate", "bernoulli", "ttfs", "latency"]
KINDS: tuple[str, ...] = get_args(Kind)
TIMED = ("ttfs", "latency")
"""Kinds that say a value by the step of its one spike: they encode images, not sequences."""

_BITS = 16
_ONE = 1 << _BITS
_GAMMA = 0x9E3779B97F4A7C15


@dataclass(frozen=True, eq=False)
class Encoder:
    """Real frames x [batch, time, *shape] -> payloads n of the same shape, integers in low..high.

    With p = x / scale, computed in float64, T steps and t = 0 … T-1::

        direct     n[t] = clip(rint(p[t]), low, high)                        rint: halves go to the even neighbour
        first      as direct; an image is shown at the first step only, zeros follow
        rate       P[t] = rint(2**16 * clip(p[t], low, high)), S[t] = P[0] + … + P[t-1]
                   n[t] = ((S[t+1] + 2**15) >> 16) - ((S[t] + 2**15) >> 16)  evenly spaced: all n sum to round(S[T] / 2**16)
        bernoulli  P as in rate; n[t] = (P[t] >> 16) + (r[t] < P[t] mod 2**16), r[t] in 0 … 2**16 - 1 pseudo-random
        ttfs       q = |clip(p, low, high)| / high, k = min(floor((T + 1) q), T)
                   one payload, +-high, at step T - k; none where k = 0
        latency    q as in ttfs; one payload, +-high, at step rint((T - 1)(1 - q)): every element sends

    An image [batch, *shape] stands for T equal frames (`spread`), for "first" as said. "ttfs" and "latency" encode
    the first frame. The numbers r are drawn by SplitMix64 from the seed, the step, the element and the P of its own
    sample, so a sample is encoded alike wherever it stands in a batch.

    Attributes:
        kind: as above.
        scale: float value of one payload step, one number or broadcast against a frame; None: values stay real
            (only "direct" and "first").
        seed: of "bernoulli".
    """

    kind: Kind = "direct"
    scale: Array | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scale is not None:
            scale = np.array(self.scale)
            scale.setflags(write=False)
            object.__setattr__(self, "scale", scale)

    def spread(self, images: Array, time_steps: int) -> Array:
        """Images [batch, *shape] as frames [batch, time, *shape], still real."""
        if self.kind != "first":
            return np.broadcast_to(images[:, None], (len(images), time_steps, *images.shape[1:]))
        frames = np.zeros((len(images), time_steps, *images.shape[1:]), images.dtype)
        frames[:, 0] = images
        return frames

    def encode(self, frames: Array, low: int, high: int) -> Array:
        """Payloads int32 [batch, time, *shape] of real frames [batch, time, *shape]."""
        sent = np.zeros(frames.shape, np.int32)
        for sample, out in zip(frames, sent, strict=True) if frames.size else ():
            out[...] = self._sample(self._steps(sample), low, high)
        return sent

    def clipped(self, frames: Array, low: int, high: int) -> int:
        """How many values of real frames lie beyond low..high, by more than rounding moves them back."""
        slack = 0.5 if self.kind in ("direct", "first") else 0.5 / _ONE
        beyond = 0
        for sample in frames:
            p = self._steps(sample)
            beyond += int(np.count_nonzero((p < low - slack) | (p > high + slack)))
        return beyond

    def _steps(self, sample: Array) -> Array:
        """p: a sample in payload steps."""
        p: Array = np.asarray(sample, np.float64) / np.asarray(self.scale, np.float64)
        return p

    def _sample(self, p: Array, low: int, high: int) -> Array:
        bounded = np.clip(p, low, high)
        if self.kind in TIMED:
            return self._timed(bounded, high)
        if self.kind in ("direct", "first"):
            return np.asarray(np.rint(bounded))
        share = np.rint(bounded * _ONE).astype(np.int64)
        if self.kind == "bernoulli":
            return np.asarray((share >> _BITS) + (_random(self.seed, share) < share % _ONE))
        reached = (np.cumsum(share, axis=0) + _ONE // 2) >> _BITS
        return np.asarray(np.diff(reached, axis=0, prepend=0))

    def _timed(self, bounded: Array, high: int) -> Array:
        steps, first = len(bounded), bounded[0]
        q = np.abs(first) / high
        crossed = np.minimum(np.floor(q * (steps + 1)), steps)  # of the falling thresholds T/(T+1) … 1/(T+1)
        at = steps - crossed if self.kind == "ttfs" else np.rint((steps - 1) * (1 - q))
        now = np.arange(steps).reshape(-1, *([1] * first.ndim))
        return np.where(now == at, np.where(first < 0, -high, high), 0)


def _random(seed: int, share: Array) -> Array:
    """Integers 0 … 2**16 - 1 for every step and element of a sample's P."""
    start = _mixed(np.array([seed << 32 | zlib.crc32(np.ascontiguousarray(share, "<i8").tobytes())], np.uint64))
    index = np.arange(1, share.size + 1, dtype=np.uint64).reshape(share.shape)
    return (_mixed(start + index * np.uint64(_GAMMA)) >> np.uint64(64 - _BITS)).astype(np.int64)


def _mixed(z: Array) -> Array:
    """SplitMix64's output function (Steele, Lea, Flood 2014), modulo 2**64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))

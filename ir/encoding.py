"""How real values become integer payloads on the host, before the chip, and back: the encoder that an Input carries.

It imports numpy alone, because the emitted packages hold a copy of this file: both compute the same. Tensors of torch are
encoded by the same lines, on their device, bit for bit alike.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Numbers = TypeVar("Numbers", bound=Any)
"""An array of numpy or a tensor of torch."""
Kind = Literal[
    "direct", "first", "rate", "bernoulli", "ttfs", "ttfs-strict", "ttfs-inclusive", "latency", "phase", "delta",
]
KINDS: tuple[str, ...] = get_args(Kind)
LATCHING = ("ttfs", "ttfs-strict", "ttfs-inclusive", "latency")
"""Kinds that say a value by the step of its one spike, which a latch may hold."""
TIMED = (*LATCHING, "phase")
"""Kinds that say a value by when its element sends: they encode images, not sequences."""
REAL = ("direct", "first")
"""Kinds that send the value itself, at every step or at the first."""

_BITS = 16
_ONE = 1 << _BITS
_GAMMA = 0x9E3779B97F4A7C15
_AT_ONCE = 1 << 22
"""Values that are encoded at a time, which bounds the memory for them in float64."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Real frames x [batch, time, *shape] -> payloads n of the same shape, integers in low..high.

    With p = x / scale, computed in float64, T steps and t = 0 … T-1::

        direct     n[t] = clip(rint(p[t]), low, high)                        rint: halves go to the even neighbour
        first      as direct; an image is shown at the first step only, zeros follow
        rate       P[t] = rint(2**16 * clip(p[t], low, high)), S[t] = P[0] + … + P[t-1]
                   n[t] = ((S[t+1] + 2**15) >> 16) - ((S[t] + 2**15) >> 16)  evenly spaced: all n sum to round(S[T] / 2**16)
        bernoulli  P as in rate; n[t] = (P[t] >> 16) + (r[t] < P[t] mod 2**16), r[t] in 0 … 2**16 - 1 pseudo-random
        delta      R[-1] = 0; n[t] = clip(trunc(p[t] - R[t-1]), low, high), R[t] = R[t-1] + n[t]    send on delta: a payload
                   is a change by so many steps; with low = 0 only rises are sent

    and with q = |clip(p[0], low, high)| / high, one payload, +-high by the sign of p[0], at step s::

        ttfs            k = min(floor((T + 1) q), T), s = T - k; none where k = 0      falling thresholds T/(T+1) … 1/(T+1)
        ttfs-strict     s: the first t with q > (T - t) / T; none where q <= 1 / T     as published: s = 0 never happens
        ttfs-inclusive  s: the first t with q >= (T - t) / T; none where q < 1 / T
        latency         s = rint((T - 1)(1 - q)): every element sends

    or several of them::

        phase      the T binary digits of q, most significant first: n[t] = +-high where floor(2**(t+1) q) is odd, at
                   every t where q = 1; so all n[t] / high * 2**-(t+1) sum to q, rounded down to a multiple of 2**-T

    An image [batch, *shape] stands for T equal frames (`spread`), for "first" as said. `TIMED` kinds encode the first frame.
    With a ``latch`` the payload of the one step s is sent at every step from s on: a thermometer code, whose sum says
    the value. The numbers r are drawn by SplitMix64 from the seed, the step, the element and the P of its own sample,
    so a sample is encoded alike wherever it stands in a batch.

    Attributes:
        kind: as above.
        scale: float value of one payload step, one number or broadcast against a frame; None: values stay real
            (only "direct" and "first").
        seed: of "bernoulli".
        latch: of `LATCHING` kinds.
    """

    kind: Kind = "direct"
    scale: Array | None = None
    seed: int = 0
    latch: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None:
            scale = np.array(self.scale)
            scale.setflags(write=False)
            object.__setattr__(self, "scale", scale)

    def spread(self, images: Numbers, time_steps: int) -> Numbers:
        """Images [batch, *shape] as frames [batch, time, *shape], still real."""
        given: Any = images
        xp = _namespace(given)
        frames: Any = xp.broadcast_to(given[:, None], (len(given), time_steps, *given.shape[1:]))
        if self.kind == "first":
            frames = xp.zeros_like(frames)
            frames[:, :1] = given[:, None]
        return frames  # type: ignore[no-any-return]

    def encode(self, frames: Numbers, low: int, high: int) -> Numbers:
        """Payloads int32 [batch, time, *shape] of real frames [batch, time, *shape].

        A tensor's payloads are a tensor on its device, which must have float64; "bernoulli" goes through numpy.
        """
        given: Any = frames
        xp = _namespace(given)
        if self.kind == "bernoulli" and xp is not np:
            sent = self.encode(given.detach().cpu().numpy(), low, high)
            return xp.from_numpy(sent).to(given.device)  # type: ignore[no-any-return]
        payloads: Any = xp.zeros_like(given, dtype=xp.int32)
        if 0 in given.shape:
            return payloads  # type: ignore[no-any-return]
        chunk = max(1, _AT_ONCE // int(np.prod(given.shape[1:])))
        for i in range(0, len(given), chunk):
            payloads[i : i + chunk] = self._sent(self._steps(given[i : i + chunk]), low, high)
        return payloads  # type: ignore[no-any-return]

    def decode(self, payloads: Numbers, high: int) -> Numbers:
        """The real values of payloads that an encoder of these facts sent: its inverse, up to what a payload leaves open.

        For x within the input's range, with steps of ``scale`` and a range of ``high * scale``, up to rounding of float64::

            direct, first      n[t] * scale                        within half a step
            delta              R[t] * scale                        within a step, while no n[t] is clipped
            rate, bernoulli    mean of n[t] * scale                the mean of x within (1/(2T) + 2**-17) steps; bernoulli:
                                                                   with a standard deviation of at most 1/(2 sqrt(T))
            ttfs               the middle of what fires at s       within 1/(2(T+1)) of the range; silence is 0: 1/(T+1)
            ttfs-strict, -inclusive  likewise                      within 1/(2T); silence is 0: 1/T
            latency            1 - s / (T - 1)                     within 1/(2(T-1)); T = 1 tells nothing: 1/2
            phase              the middle of what has these digits within 2**-(T+1); silence is 0: 2**-T

        Values that it returned come back exactly, decode(encode(y)) = y, but for "bernoulli" (delta: where scale is a power
        of two, for a quotient rounded below its whole number is not yet the next step; phase: up to T = 48).

        Args:
            payloads: integers [batch, time, *shape], an array or a tensor; latched or not.
            high: as in `encode`.

        Returns:
            float64; of `TIMED` kinds, "rate" and "bernoulli" images [batch, *shape], of the others frames
            [batch, time, *shape].
        """
        n = _cast(payloads, "float64")
        xp = _namespace(n)
        if self.kind in TIMED:
            n = self._value(n, high) * high
        elif self.kind in ("rate", "bernoulli"):
            n = xp.sum(n, 1) / _like(n, n.shape[1])
        elif self.kind == "delta":
            n = xp.cumsum(n, 1)
        return n if self.scale is None else n * _like(n, self.scale)  # type: ignore[no-any-return]

    def clipped(self, frames: Array, low: int, high: int) -> int:
        """How many values of real frames (of "delta": changes) lie beyond low..high, by more than is rounded back."""
        slack = 0.5 if self.kind in REAL else 0.5 / _ONE
        beyond = 0
        for sample in frames:
            p = self._steps(sample)
            if self.kind == "delta":
                level = np.cumsum(self._delta(p[None], low, high)[0], axis=0)
                p = np.trunc(p - np.concatenate([np.zeros_like(level[:1]), level[:-1]]))
            beyond += int(np.count_nonzero((p < low - slack) | (p > high + slack)))
        return beyond

    def _steps(self, x: Any) -> Any:
        """p: values in payload steps."""
        return _cast(x, "float64") / _like(x, self.scale)

    def _sent(self, p: Any, low: int, high: int) -> Any:
        """Payloads [batch, time, *shape] of values in payload steps."""
        xp = _namespace(p)
        if self.kind == "delta":
            return self._delta(p, low, high)
        if self.kind in TIMED:
            return self._timed(xp.clip(p[:, 0], low, high), p.shape[1], high)
        bounded = xp.clip(p, low, high)
        if self.kind in REAL:
            return xp.round(bounded)
        share = _cast(xp.round(bounded * _ONE), "int64")
        if self.kind == "bernoulli":
            drawn = np.stack([_random(self.seed, sample) for sample in share])
            return (share >> _BITS) + (drawn < share % _ONE)
        reached = (xp.cumsum(share, 1) + _ONE // 2) >> _BITS
        before = xp.zeros_like(reached)
        before[:, 1:] = reached[:, :-1]
        return reached - before

    def _delta(self, p: Any, low: int, high: int) -> Any:
        xp = _namespace(p)
        level, sent = xp.zeros_like(p[:, 0]), []
        for t in range(p.shape[1]):
            sent.append(xp.clip(xp.trunc(p[:, t] - level), low, high))
            level = level + sent[-1]
        return xp.stack(sent, 1)

    def _timed(self, first: Any, steps: int, high: int) -> Any:
        xp = _namespace(first)
        q = xp.abs(first) / _like(first, high)
        if self.kind == "phase":
            fires = _digits(q, steps)
        else:
            now, at = _over_time(q, range(steps)), self._step(q, steps)[:, None]
            fires = now >= at if self.latch else now == at
        return fires * xp.where(first < 0, -high, high)[:, None]

    def _step(self, q: Any, steps: int) -> Any:
        """At which step an element sends; T or later: never."""
        xp = _namespace(q)
        if self.kind == "latency":
            return xp.round((steps - 1) * (1 - q))
        if self.kind == "ttfs":
            return steps - xp.clip(xp.floor(q * (steps + 1)), 0, steps)
        at = xp.zeros_like(q)  # counts the thresholds above q
        for threshold in ((steps - t) / steps for t in range(steps)):
            at = at + (q <= threshold if self.kind == "ttfs-strict" else q < threshold)
        return at

    def _value(self, n: Any, high: int) -> Any:
        """+-q [batch, *shape] of payloads [batch, time, *shape] of a timed kind."""
        xp, steps = _namespace(n), n.shape[1]
        if self.kind == "phase":
            q = xp.sum(n * _over_time(n[:, 0], [2.0 ** -(t + 1) for t in range(steps)]), 1) / _like(n, high)
            return q + xp.sign(q) * 2.0 ** -(steps + 1)
        at = _cast(xp.sum(xp.cumsum(xp.abs(n), 1) == 0, 1), "float64")
        if self.kind == "latency":
            q = 1 - at / _like(n, steps - 1) if steps > 1 else xp.full_like(n[:, 0], 0.5)
        else:
            q = xp.clip((steps - at + 0.5) / _like(n, steps + (self.kind == "ttfs")), 0, 1)
        return xp.where(at < steps, q, xp.zeros_like(q)) * xp.sign(xp.sum(n, 1))


def _namespace(x: Any) -> Any:
    """The module whose functions take x: numpy, or torch for its tensors. What both have is called alike."""
    return sys.modules["torch"] if type(x).__module__.partition(".")[0] == "torch" else np


def _cast(x: Any, kind: str) -> Any:
    xp = _namespace(x)
    return np.asarray(x, kind) if xp is np else x.detach().to(getattr(xp, kind))


def _like(x: Any, number: Any) -> Any:
    """A number or table as float64 where x lives: by plain numbers torch divides through their reciprocal on a GPU."""
    values, xp = np.asarray(number, np.float64), _namespace(x)
    return values if xp is np else xp.tensor(values.tolist(), dtype=xp.float64, device=x.device)


def _over_time(x: Any, numbers: Iterable[float]) -> Any:
    """One number per step, [time, 1, …], to broadcast against [batch, time, *shape] of x [batch, *shape]."""
    return _like(x, list(numbers)).reshape(-1, *([1] * (x.ndim - 1)))


def _digits(q: Any, steps: int) -> Any:
    """Binary digits of q in 0..1 as bools [batch, time, *shape], most significant first, all of them set for 1."""
    digits = []
    for _ in range(steps):
        digits.append(2 * q >= 1)
        q = 2 * q - digits[-1] * 1.0
    return _namespace(q).stack(digits, 1)


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

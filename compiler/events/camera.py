"""Still images as an event camera sees them that moves a little: a simulated dynamic vision sensor (DVS)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2e.compiler.events import pixels
from d2e.compiler.events.motion import MOTIONS, positions
from d2e.ir import UsageError
from d2e.ir.nodes import Array

LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue (ITU-R BT.601)."""
_FAINTEST = 0.1
"""No pixel's threshold is below this share of the contrast, whatever its mismatch."""


@dataclass(frozen=True)
class Camera:
    """An ideal event camera before a still image, moved along a path of a few pixels; what is not ideal is switched on.

    The image I(x, y), 0 to 1, is bilinear between the centres of its pixels, and its edge pixels go on beyond it. Over T
    steps the camera takes K = T * substeps strides; a pixel at (x, y) sees, at the end of stride k at the position p(k)::

        L[k] = log(eps + I(x + p_x(k), y + p_y(k)))                  and between two strides what lies between them

    It memorises a level M, first L[0]. Each time L reaches M + contrast (up to 1e-9 of it, so that rounding does not matter
    where a path comes back) the pixel sends an ON event and M rises by contrast; each time L reaches M - contrast_off it
    sends an OFF event and M falls by contrast_off. So::

        L[K] - L[0] = contrast * (ON events) - contrast_off * (OFF events) + rest,   -contrast_off < rest < contrast

    This is the pixel of Lichtsteiner, Posch, Delbruck, "A 128 x 128 120 dB 15 us Latency Asynchronous Temporal Contrast
    Vision Sensor", IEEE JSSC 2008, simulated as ESIM does (Rebecq, Gehrig, Scaramuzza, "ESIM: an Open Event Camera
    Simulator", CoRL 2018), before a screen as in N-MNIST (`d2e.compiler.events.motion`).

    Attributes:
        contrast: change of log intensity per ON event, above 0.
        contrast_off: the same per OFF event; None: as ``contrast``.
        motion: "saccade" (three straight legs along a triangle), "circle", "still", or way points ((x, y), …) in units of
            the amplitude, each leg in the same time.
        amplitude: width and height of the triangle, diameter of the circle, in pixels.
        substeps: strides per step, which should be short against a pixel: a change and its opposite within one cancel.
        eps: light that comes from a black pixel, above 0; white to black is log((1 + eps) / eps).
        mismatch: standard deviation of the thresholds of pixels and polarities, as a share of the contrast; drawn from
            the seed, the same for all samples (v2e: Hu, Liu, Delbruck, "v2e: From Video Frames to Realistic DVS Events",
            CVPR Workshops 2021), never below a tenth of the contrast.
        noise: events at random per pixel and step in the mean (background activity), at most one of each polarity; they
            leave M as it is.
        limit: most events per pixel, step and polarity, 1 to 255. A pixel that has sent so many is kept in reset (the
            refractory period): it sends nothing until the step ends, and there memorises what it sees.
        seed: of mismatch and noise. The noise hangs on the sample's own values too, so that a sample is recorded alike
            wherever it stands in a batch.

    Raises:
        UsageError: D2E-EVT-001 for an option out of range.
    """

    contrast: float = 0.2
    contrast_off: float | None = None
    motion: str | tuple[tuple[float, float], ...] = "saccade"
    amplitude: float = 2.0
    substeps: int = 6
    eps: float = 0.1
    mismatch: float = 0.0
    noise: float = 0.0
    limit: int = 255
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "contrast": (0, 10, False), "contrast_off": (0, 10, False), "amplitude": (0, 1000, True), "eps": (0, 10, False),
            "mismatch": (0, 1, True), "noise": (0, 1, True), "limit": (1, 255, True), "substeps": (1, 1000, True),
            "seed": (0, 2**63, True),
        }
        for name, (low, high, closed) in ranges.items():
            value = self._off if name == "contrast_off" else getattr(self, name)
            whole = not isinstance(value, bool) and isinstance(value, int)
            if not _number(value) or (name in ("limit", "substeps", "seed") and not whole):
                raise UsageError("D2E-EVT-001", f"{name} of the camera is {value!r}, not a number of its kind")
            if not low <= value <= high or (value == low and not closed):
                raise UsageError("D2E-EVT-001", f"{name} of the camera is {value!r}; it goes from {low} to {high}"
                                 + ("" if closed else f", without {low}"))
        self._check_motion()

    def _check_motion(self) -> None:
        if isinstance(self.motion, str):
            if self.motion not in MOTIONS:
                raise UsageError("D2E-EVT-001", f"motion {self.motion!r} of the camera is not known",
                                 hint=f"It is {', '.join(MOTIONS)}, or way points ((x, y), …).")
            return
        points = self.motion
        if not isinstance(points, tuple) or len(points) < 2 or not all(
            isinstance(p, tuple) and len(p) == 2 and all(map(_number, p)) for p in points
        ):
            raise UsageError("D2E-EVT-001", f"motion {points!r} of the camera is no tuple of two or more points (x, y)")

    @property
    def _off(self) -> float:
        return self.contrast if self.contrast_off is None else self.contrast_off

    def record(self, images: Any, time_steps: int) -> Array:
        """What the camera sends of images.

        Args:
            images: [n, H, W], [n, 1, H, W] or [n, 3, H, W] (red, green, blue: seen by their brightness,
                0.299 R + 0.587 G + 0.114 B), real numbers from 0 to 1.
            time_steps: T, the steps in which the whole path is gone.

        Returns:
            Counts of events, uint8 [n, T, 2, H, W]; channel 0 is OFF (darker), channel 1 ON (brighter), as the
            polarity of address events numbers them.

        Raises:
            UsageError: D2E-EVT-001 for a number of steps below 1, -002 for images of another shape or kind, or beyond
                0 to 1.
        """
        if isinstance(time_steps, bool) or not isinstance(time_steps, int | np.integer) or time_steps < 1:
            raise UsageError("D2E-EVT-001", f"time_steps is {time_steps!r}, not a whole number from 1")
        grey = _brightness(images)
        sent = np.zeros((len(grey), int(time_steps), 2, *grey.shape[1:]), np.uint8)
        path = positions(self.motion, self.amplitude, int(time_steps) * self.substeps + 1)
        off, on = self.thresholds(grey.shape[1], grey.shape[2])
        pixels.record(grey, path, float(self.eps), off, on, self.limit, self.substeps, sent)
        if self.noise:
            for image, frames in zip(grey, sent, strict=True):
                rng = np.random.default_rng([self.seed, zlib.crc32(image.tobytes())])
                frames += (rng.random(frames.shape) < self.noise / 2) & (frames < self.limit)
        return sent

    def thresholds(self, height: int, width: int) -> Array:
        """Thresholds of every pixel, float64 [2, height, width]: OFF, ON."""
        found = np.empty((2, height, width))
        found[0], found[1] = self._off, self.contrast
        if self.mismatch:
            rng = np.random.default_rng([self.seed, height, width])
            found *= np.maximum(_FAINTEST, 1 + self.mismatch * rng.standard_normal(found.shape))
        return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _brightness(images: Any) -> Array:
    """Images as one real number per pixel, checked: [n, H, W], C-contiguous.

    Raises:
        UsageError: D2E-EVT-002.
    """
    given = np.asarray(images)
    if given.dtype.kind != "f":
        raise UsageError("D2E-EVT-002", f"the images are {given.dtype}, the camera sees real numbers from 0 to 1",
                         hint="Pixels from 0 to 255 are divided by 255.")
    colours = given.shape[1] if given.ndim == 4 else 1
    if given.ndim not in (3, 4) or colours not in (1, 3) or not given.size:
        raise UsageError("D2E-EVT-002", f"the images have shape {list(given.shape)}, not [n, H, W], [n, 1, H, W] or "
                         "[n, 3, H, W] with red, green and blue")
    low, high = float(given.min()), float(given.max())
    if not (low >= 0 and high <= 1):
        raise UsageError("D2E-EVT-002", f"the images reach from {low:g} to {high:g}, the camera sees 0 to 1",
                         hint="Give images without normalisation by mean and deviation.")
    if colours == 3:
        red, green, blue = (share * given[:, i].astype(np.float64) for i, share in enumerate(LUMA))
        return np.ascontiguousarray(np.minimum(red + green + blue, 1.0))
    grey = given[:, 0] if given.ndim == 4 else given
    return np.ascontiguousarray(grey, np.result_type(given.dtype, np.float32))

"""Moving shapes seen by an idealised event camera: a small synthetic data set, the same for a seed.

A shape with sharp edges (blurred by a pixel's own area) drifts and turns over a plain background. Every pixel compares its
log intensity with the value at its last event, and sends an event of polarity 1 (ON) or 0 (OFF) each time they differ by the
contrast threshold, at the moment they do: the model of ESIM (Rebecq, Gehrig, Scaramuzza, "ESIM: an Open Event Camera
Simulator", CoRL 2018) and of Gallego et al., "Event-based Vision: A Survey", section 2.4 (TPAMI 2020), without its noise,
but for rare events at random, which a real sensor sends in the dark too ("background activity").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

SIZE = 32
"""Pixels of the sensor, x and y."""
DURATION_US = 100_000
"""Length of a recording."""
CONTRAST_THRESHOLD = 0.2
"""Change of log intensity per event."""
NOISE_HZ = 0.5
"""Events at random per pixel and second."""
RENDERS = 120
"""Images per recording from which the intensity is interpolated: no shape moves more than an eighth of a pixel between."""


# --------------------------------------------------------------------------- shapes
# Signed distance to the edge in units of the radius, negative inside, for points (x, y) in the shape's own axes.


def _disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.9


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.75) - 0.22


def _box(x: Array, y: Array, width: float, height: float) -> Array:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _square(x: Array, y: Array) -> Array:
    return _box(x, y, 0.8, 0.8)


def _bar(x: Array, y: Array) -> Array:
    return _box(x, y, 1.1, 0.25)


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 1.05, 0.25), _box(x, y, 0.25, 1.05))


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(np.maximum(0.866 * x - 0.5 * y, -0.866 * x - 0.5 * y), y) - 0.55


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(np.hypot(x, y) - 1.0, 0.85 - np.hypot(x - 0.55, y))


def _ell(x: Array, y: Array) -> Array:
    return np.minimum(_box(x + 0.7, y, 0.25, 1.0), _box(x, y - 0.75, 0.95, 0.25))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc, "ring": _ring, "square": _square, "bar": _bar, "cross": _cross, "triangle": _triangle,
    "crescent": _crescent, "ell": _ell,
}
"""Classes, by their number in the labels."""


# --------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Scene:
    """One shape and its motion; lengths in pixels, angles in radians, over the whole recording.

    Attributes:
        shape: a name of `SHAPES`.
        radius: of the shape.
        centre: (x, y) of the shape half way, from the middle of the sensor.
        travel: length of its path.
        heading: direction of the path half way.
        bend: how much that direction turns.
        angle: of the shape half way.
        spin: how much the shape turns.
        contrast: log intensity of the shape, that of the background being 0.
    """

    shape: str
    radius: float
    centre: tuple[float, float]
    travel: float
    heading: float
    bend: float
    angle: float
    spin: float
    contrast: float


def random_scene(shape: str, rng: np.random.Generator) -> Scene:
    """A shape of any size, place, speed, direction, turn and contrast, brighter or darker than the background."""
    turn = 2 * np.pi
    contrast = rng.uniform(0.45, 1.1) * rng.choice([-1, 1])
    return Scene(shape, rng.uniform(5.5, 8.5), (rng.uniform(-4, 4), rng.uniform(-4, 4)), rng.uniform(6, 14),
                 rng.uniform(0, turn), rng.uniform(-2, 2), rng.uniform(0, turn), rng.uniform(-0.6, 0.6), contrast)


def log_intensity(scene: Scene, renders: int = RENDERS) -> Array:
    """Images of a scene, evenly spread over the recording: [renders, y, x]."""
    phase = np.linspace(-0.5, 0.5, renders)
    heading = scene.heading + scene.bend * phase
    steps = scene.travel / (renders - 1) * np.stack([np.cos(heading), np.sin(heading)])
    path = np.cumsum(steps, axis=1) - steps.cumsum(axis=1)[:, renders // 2, None]
    angle = (scene.angle + scene.spin * phase)[:, None, None]
    pixels = np.arange(SIZE) - (SIZE - 1) / 2
    x = pixels[None, None, :] - (scene.centre[0] + path[0])[:, None, None]
    y = pixels[None, :, None] - (scene.centre[1] + path[1])[:, None, None]
    across, down = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    distance = scene.radius * SHAPES[scene.shape](across / scene.radius, down / scene.radius)
    covered = np.clip(0.5 - distance, 0, 1)  # the share of a pixel inside a straight edge
    return np.asarray(np.log1p(covered * np.expm1(scene.contrast)))


# --------------------------------------------------------------------------- the camera


@dataclass(frozen=True, eq=False)
class Events:
    """Events in the order of time.

    Attributes:
        t: int64 [n], microseconds from the start.
        x, y: int32 [n], pixels.
        p: int32 [n], 1 for ON (brighter), 0 for OFF.
    """

    t: Array
    x: Array
    y: Array
    p: Array

    def __len__(self) -> int:
        return len(self.t)


def camera(images: Array, threshold: float = CONTRAST_THRESHOLD, duration_us: int = DURATION_US) -> Events:
    """The events of images of log intensity [renders, y, x], which pixels see linearly interpolated over time.

    A pixel with reference r and log intensity L sends an event each time |L - r| reaches the threshold; r moves by it.
    """
    reference = images[0].copy()
    before = np.empty_like(images[1:])
    crossed = np.empty(before.shape, np.int64)
    for i, image in enumerate(images[1:]):
        before[i] = reference
        crossed[i] = np.trunc((image - reference) / threshold)
        reference += crossed[i] * threshold
    at = np.nonzero(crossed)
    repeats = np.abs(crossed[at])
    sign = np.repeat(np.sign(crossed[at]), repeats)
    step, y, x = (np.repeat(a, repeats) for a in at)
    ordinal = 1 + np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    start, end = images[step, y, x], images[step + 1, y, x]
    level = before[step, y, x] + sign * ordinal * threshold
    moment = step + (level - start) / (end - start)
    return _sorted(moment * duration_us / (len(images) - 1), x, y, sign > 0)


def _sorted(t: Array, x: Array, y: Array, p: Array) -> Events:
    order = np.argsort(t, kind="stable")
    return Events(np.floor(t[order]).astype(np.int64), *(a[order].astype(np.int32) for a in (x, y, p)))


def noise(rng: np.random.Generator, hz: float = NOISE_HZ, duration_us: int = DURATION_US) -> Events:
    """Events at random times, pixels and polarities."""
    n = rng.poisson(hz * SIZE * SIZE * duration_us * 1e-6)
    return _sorted(rng.uniform(0, duration_us, n), rng.integers(SIZE, size=n), rng.integers(SIZE, size=n),
                   rng.integers(2, size=n))


def merged(a: Events, b: Events) -> Events:
    """Both, in the order of time."""
    return _sorted(*(np.concatenate([getattr(a, k), getattr(b, k)]) for k in ("t", "x", "y", "p")))


def frames(events: Events, steps: int, duration_us: int = DURATION_US) -> Array:
    """Counts of events, uint8 [steps, polarity, y, x]."""
    counts = np.zeros((steps, 2, SIZE, SIZE), np.int64)
    step = np.minimum(events.t * steps // duration_us, steps - 1)
    np.add.at(counts, (step, events.p, events.y, events.x), 1)
    return np.minimum(counts, 255).astype(np.uint8)


# --------------------------------------------------------------------------- data set


def recordings(count: int, seed: int) -> tuple[list[Events], Array]:
    """``count`` recordings and their labels; every class comes as often as the others, but for a rest."""
    names = list(SHAPES)
    labels = np.arange(count) % len(names)
    found = []
    for i, label in enumerate(labels):
        rng = np.random.default_rng([seed, i])
        found.append(merged(camera(log_intensity(random_scene(names[label], rng))), noise(rng)))
    return found, labels


def dataset(count: int, seed: int, steps: int) -> tuple[Array, Array]:
    """Frames uint8 [count, steps, 2, y, x] and labels [count]."""
    found, labels = recordings(count, seed)
    return np.stack([frames(events, steps) for events in found]), labels

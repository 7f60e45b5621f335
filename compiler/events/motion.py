"""How a camera moves before a still image: closed paths by name, or way points of one's own."""

from __future__ import annotations

import numpy as np

from d2e.ir.nodes import Array

PATHS: dict[str, tuple[tuple[float, float], ...]] = {
    "saccade": ((-0.5, -0.5), (0.0, 0.5), (0.5, -0.5), (-0.5, -0.5)),
    "still": ((0.0, 0.0), (0.0, 0.0)),
}
"""Way points (x, y) in units of the amplitude; "circle" has none.

"saccade" follows N-MNIST: three straight saccades of equal time along an isosceles triangle, back to where they began
(Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades", Frontiers in
Neuroscience 2015).
"""
MOTIONS = ("circle", *PATHS)


def positions(motion: str | tuple[tuple[float, float], ...], amplitude: float, count: int) -> Array:
    """Where the camera is at moments evenly spread over a recording.

    Args:
        motion: a name of `MOTIONS`, or way points (x, y), at least two. Every leg between two of them takes the same time.
        amplitude: pixels per unit of the way points; diameter of the circle.
        count: of moments, the first at the start and the last at the end of the path.

    Returns:
        float64 [count, 2], x and y in pixels: at (x, y) the pixel (column, row) sees the image at (column + x, row + y).
    """
    moments = np.linspace(0.0, 1.0, count)
    if motion == "circle":
        return amplitude / 2 * np.stack([np.cos(2 * np.pi * moments), np.sin(2 * np.pi * moments)], axis=1)
    points = np.asarray(PATHS[motion] if isinstance(motion, str) else motion, np.float64)
    at = np.linspace(0.0, 1.0, len(points))
    return amplitude * np.stack([np.interp(moments, at, points[:, axis]) for axis in (0, 1)], axis=1)

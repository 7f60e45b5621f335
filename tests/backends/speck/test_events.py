"""Frames as events: every count in its step, in the order stated."""

from __future__ import annotations

import numpy as np
import pytest

from d2e.backends.speck.events import Events, from_frames

FRAMES = np.random.default_rng(0).integers(0, 4, (7, 2, 5, 4))


@pytest.mark.parametrize("step_us", [1.0, 333.3333333, 1000 / 3, 10.5, 1e6 / 30, 1000.0])
@pytest.mark.parametrize("order", ["mixed", "raster"])
def test_every_count_in_its_step(step_us: float, order: str) -> None:
    """Timestamps are whole microseconds that never leave their step, whatever its length."""
    events = from_frames(FRAMES, step_us=step_us, order=order)
    assert (np.diff(events.timestamp) >= 0).all()
    counted = np.zeros_like(FRAMES)
    starts = np.ceil(np.arange(1, len(FRAMES)) * step_us)
    np.add.at(counted, (np.searchsorted(starts, events.timestamp, side="right"), events.feature, events.y, events.x), 1)
    assert (counted == FRAMES).all()


def _addresses(events: Events) -> list[tuple[int, int, int]]:
    return list(zip(events.feature.tolist(), events.y.tolist(), events.x.tolist(), strict=True))


def test_orders() -> None:
    """Raster goes through elements; mixed shuffles alike for equal frames, and spreads an element's events."""
    frame = np.full((1, 2, 3, 3), 2)
    raster = _addresses(from_frames(frame, order="raster"))
    assert raster == sorted(raster)
    mixed = _addresses(from_frames(frame))
    assert mixed != raster
    assert sorted(mixed) == raster
    assert _addresses(from_frames(np.concatenate([frame, frame]))) == 2 * mixed
    assert any(a != b for a, b in zip(mixed[::2], mixed[1::2], strict=True))


def test_empty_frames() -> None:
    """No counts, no events."""
    assert len(from_frames(np.zeros((3, 1, 2, 2), np.int64))) == 0

"""What the student reads in place of the image: an encoder's payloads, a simulated camera's events, or recordings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from d2e.compiler.encoders import parse
from d2e.compiler.events.camera import Camera
from d2e.compiler.transfer.entropy import symbols
from d2e.compiler.transfer.pairs import Encoded, Pairs, Send
from d2e.ir import UsageError
from d2e.ir.encoding import REAL
from d2e.ir.nodes import Shape

CAMERA, RECORDED = "dvs", "events"
MOST_EVENTS = 15
"""Of the simulated camera, per pixel, step and polarity."""


@dataclass(frozen=True, eq=False)
class Reads:
    """The student's input.

    Attributes:
        encoding: as the user wrote it; "events" for recordings.
        shape: of one frame.
        send: makes frames [batch, T, *shape] of images; None: the pairs hold them.
        max_payload: largest payload.
        symbols: different trains that can be sent for one element of a frame; None: not known.
        seed: of the camera.
    """

    encoding: str
    shape: Shape
    send: Send | None
    max_payload: int
    symbols: int | None = None
    seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint of the student states of its input."""
        if self.send is not None:
            return {"encoder": self.encoding}
        return {"coding": "spikes", "max_payload": self.max_payload}

    def prepared(self, pairs: Pairs, time_steps: int) -> Pairs:
        """With the camera's events, where it is one.

        Raises:
            UsageError: D2E-TRANS-012 for recordings of other steps or frames; D2E-EVT-002 for images that the camera
                cannot see.
        """
        if self.encoding == CAMERA:
            return _filmed(pairs, time_steps, self.seed)
        if pairs.events is None:
            return pairs
        found = tuple(pairs.events.shape[1:])
        if found != (time_steps, *self.shape):
            raise UsageError("D2E-TRANS-012", f"events of shape {list(pairs.events.shape)} are not frames [n, {time_steps}, "
                             f"{', '.join(map(str, self.shape))}]", hint="Bin every recording into the model's time steps.")
        return pairs


def reads(encoding: str, pairs: Pairs, test: Pairs | None, time_steps: int, seed: int) -> Reads:
    """The student's input for an encoding.

    Args:
        encoding: an encoder as of `d2e.compile`, or "dvs".
        pairs: samples; where they hold recordings these are read, whatever the encoding.
        test: more of them, whose payloads the student must take as well.
        time_steps: T.
        seed: of the camera.

    Raises:
        UsageError: D2E-ENC-006 for an encoder that is not known, D2E-TRANS-009 for one that sends real values.
    """
    image = tuple(pairs.images.shape[1:])
    if pairs.events is not None:
        largest = max(int(part.events.max()) for part in (pairs, test) if part is not None and part.events is not None)
        return Reads(RECORDED, tuple(pairs.events.shape[2:]), None, max(1, largest))
    if encoding == CAMERA:
        return Reads(CAMERA, (2, *image[1:]), None, MOST_EVENTS, seed=seed)
    encoder = parse(encoding, (0.0, 1.0), 1)
    if encoder.kind in (*REAL, "delta"):
        raise UsageError("D2E-TRANS-009", f"the encoding {encoding!r} makes no events of an image",
                         hint="Give ttfs, ttfs{latch}, latency, rate, bernoulli, phase, or dvs.")
    return Reads(encoding, image, Encoded(encoder, time_steps), 1, symbols(encoder, time_steps))


def _filmed(pairs: Pairs, time_steps: int, seed: int) -> Pairs:
    """With the events of a camera that moves over every image."""
    counts = Camera(limit=MOST_EVENTS, seed=seed).record(np.asarray(pairs.images), time_steps)
    return replace(pairs, events=torch.from_numpy(counts))

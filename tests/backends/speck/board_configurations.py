"""Small configurations for the tests of boards and of the emitter, written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from d2e.backends.speck.configuration import (
    CnnLayer,
    Configuration,
    Destination,
    Dimensions,
    DvsLayer,
    Part,
    Placed,
    Source,
)


def core(
    rng: np.random.Generator, into: tuple[int, int, int], features: int, kernel: int, *destinations: Destination,
    stride: int = 1, padding: int = 0, low: int = -40, threshold: int = 90, biases: bool = False, initial: bool = False,
    to_zero: bool = False, spread: int = 1,
) -> CnnLayer:
    """A core with random weights; ``into`` is (features, x, y)."""
    x, y = ((n + 2 * padding - kernel) // stride + 1 for n in into[1:])
    weights = rng.integers(low, 60, (features, into[0], kernel, kernel)).astype(np.int8)
    if spread > 1:
        full = np.zeros((spread * (features - 1) + 1, *weights.shape[1:]), np.int8)
        full[::spread] = weights
        weights = full
    shape = (len(weights), x, y)
    return CnnLayer(
        Dimensions(into, shape, kernel, (stride, stride), (padding, padding)), weights,
        rng.integers(-9, 10, len(weights)).astype(np.int16) if biases else None,
        rng.integers(-20, 80, shape).astype(np.int16) if initial else None, threshold, -200, to_zero, destinations,
    )


def chain(
    seed: int = 0, *, biases: bool = False, readout: bool = False, whole: bool = False, **source: Any
) -> Configuration:
    """(2, 8, 6) -> "a", pooled by 2 -> "b" on two cores (``whole``: on one) -> "out" (10,), spread by 4 for the readout."""
    rng = np.random.default_rng(seed)
    last = (Destination(12),) if readout else ()
    cores = {
        3: core(rng, (2, 6, 8), 4, 3, Destination(0, 2), Destination(5, 2), padding=1, biases=biases, initial=True),
        0: core(rng, (4, 3, 4), 2, 2, Destination(6), to_zero=True),
        5: core(rng, (4, 3, 4), 4, 2, Destination(6, feature_shift=2), to_zero=True),
        6: core(rng, (6, 2, 3), 5, 3, *last, stride=2, padding=1, spread=4 if readout else 1),
    }
    parts: tuple[Part, ...] = (Part(0, 0, 2), Part(5, 2, 4))
    if whole:
        cores[0] = core(rng, (4, 3, 4), 6, 2, Destination(6), to_zero=True)
        cores[3] = replace(cores.pop(3), destinations=(Destination(0, 2),))
        del cores[5]
        parts = (Part(0, 0, 6),)
    known = {"shape": (2, 8, 6), "space": (2, 8, 6), "destinations": (Destination(3),), "max_payload": 3, "dt": 0.002}
    return Configuration(
        "speck2f", cores, Source(**{**known, **source}),
        {
            "a": Placed((4, 8, 6), (Part(3, 0, 4),)), "b": Placed((6, 3, 2), parts),
            "out": Placed((10,), (Part(6, 0, 5, 4 if readout else 1),)),
        },
        "out", 500.0 if biases else None, readout=5 if readout else None,
    )


def branches(seed: int = 0) -> Configuration:
    """The input goes to "left" and "right"; "sum" adds both, "out" takes "left" beside "sum", features shifted."""
    rng = np.random.default_rng(seed)
    cores = {
        2: core(rng, (1, 4, 4), 3, 3, Destination(4), Destination(7, 2), padding=1),
        3: core(rng, (1, 4, 4), 3, 1, Destination(4)),
        4: core(rng, (3, 4, 4), 2, 3, Destination(7, 2, 3), padding=1),
        7: core(rng, (5, 2, 2), 4, 2),
    }
    populations = {"left": 2, "right": 3, "sum": 4, "out": 7}
    placed = {
        name: Placed((cores[i].dimensions.output_shape[0], *cores[i].dimensions.output_shape[:0:-1]),
                     (Part(i, 0, cores[i].dimensions.output_shape[0]),))
        for name, i in populations.items()
    }
    source = Source((1, 4, 4), (1, 4, 4), (Destination(2), Destination(3)))
    return Configuration("speck2e", cores, source, placed, "out")


def with_camera(seed: int = 0) -> Configuration:
    """`chain`, its first core fed by the camera too."""
    made = chain(seed)
    dvs = DvsLayer((Destination(3),), origin=(1, 2), cut=(12, 17), pooling=(2, 2))
    return Configuration(made.chip, made.cnn_layers, made.source, made.populations, made.output, dvs_layer=dvs)


def frames_for(configuration: Configuration, batch: int = 3, steps: int = 5, seed: int = 0) -> np.ndarray:
    """Random payloads, about one element in three."""
    rng = np.random.default_rng(seed)
    source = configuration.source
    frames = rng.integers(1, source.max_payload + 1, (batch, steps, *source.shape))
    return frames * (rng.random(frames.shape) < 0.3)

"""Random small configurations: every way in which cores can be joined, pooled, shifted, split and biased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from d2e.backends.speck.configuration import (
    CnnLayer,
    Configuration,
    Destination,
    Dimensions,
    Part,
    Placed,
    Source,
)

Draw = st.DrawFn
Shape = tuple[int, int, int]


def one_core(layer: CnnLayer, *, hz: float | None = None, **source: int) -> Configuration:
    """The input, one core with this layer, and its spikes as the output."""
    features, x, y = layer.dimensions.output_shape
    c, w, h = layer.dimensions.input_shape
    return Configuration(
        "speck2f", {3: layer}, Source((c, h, w), (c, h, w), (Destination(3),), **source),
        {"only": Placed((features, y, x), (Part(3, 0, features),))}, "only", hz,
    )


def pointwise(
    weights: Sequence[int], threshold: int, *destinations: Destination, low: int = -1000, to_zero: bool = False,
    bias: int | None = None, initial: int | None = None, shape: tuple[int, int] = (1, 1),
) -> CnnLayer:
    """One output feature, a weight per input feature, on a map of (x, y)."""
    return CnnLayer(
        Dimensions((len(weights), *shape), (1, *shape), 1), np.array(weights, np.int8).reshape(1, -1, 1, 1),
        None if bias is None else np.array([bias], np.int16),
        None if initial is None else np.full((1, *shape), initial, np.int16), threshold, low, to_zero, destinations,
    )


@st.composite
def dimensions(draw: Draw, into: Shape) -> Dimensions:
    """A square kernel, strides and paddings that differ between x and y."""
    kernel = draw(st.integers(1, 4))
    stride = draw(st.sampled_from([1, 1, 2, 4])), draw(st.sampled_from([1, 1, 2]))
    least = [max(0, -(-(kernel - size) // 2)) for size in into[1:]]
    padding = tuple(draw(st.integers(n, n + 2)) for n in least)
    x, y = ((size + 2 * p - kernel) // s + 1 for size, p, s in zip(into[1:], padding, stride, strict=True))
    return Dimensions(into, (draw(st.integers(1, 4)), x, y), kernel, stride, (padding[0], padding[1]))


@st.composite
def layer(draw: Draw, shape: Dimensions, destinations: tuple[Destination, ...]) -> CnnLayer:
    """Weights and neurons for dimensions; some are at the ends of 16 bits, some weights beyond the threshold."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    kind = draw(st.sampled_from(["plain", "plain", "heavy", "top", "bottom"]))
    most, least = (60, -25) if kind == "plain" else (128, -128)
    threshold = {"plain": 70, "heavy": 40, "top": 32767, "bottom": 20}[kind]
    low = {"plain": -70, "heavy": -1, "top": -200, "bottom": -32768}[kind]
    centre = {"plain": 0, "heavy": 0, "top": 32700, "bottom": -32600}[kind]
    initial = np.clip(centre + rng.integers(-90, 90, shape.output_shape), -32768, 32767).astype(np.int16)
    size = (shape.output_shape[0], shape.input_shape[0], shape.kernel_size, shape.kernel_size)
    biases = (draw(st.sampled_from([1, 1, 500])) * rng.integers(-40, 60, shape.output_shape[0])).astype(np.int16)
    return CnnLayer(
        shape, rng.integers(least, most, size).astype(np.int8), biases if draw(st.booleans()) else None,
        initial if kind in ("top", "bottom") or draw(st.booleans()) else None, threshold, low, draw(st.booleans()),
        destinations, draw(st.booleans()),
    )


@st.composite
def destination(draw: Draw, target: int) -> Destination:
    """Mostly as it is; else pooled, shifted, or switched off."""
    return Destination(target, draw(st.sampled_from([1, 1, 1, 2, 4])), draw(st.sampled_from([0, 0, 0, 1])),
                       draw(st.sampled_from([True] * 9 + [False])))


def space(draw: Draw) -> Shape:
    """(features, x, y) of an input."""
    return draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 7))


@st.composite
def configurations(draw: Draw, *, only_chains: bool = False) -> Configuration:
    """Cores in any graph without a circle, on any core numbers; sizes need not fit, what is outside is dropped."""
    count = draw(st.integers(1, 4))
    numbers = draw(st.permutations(range(9)))[:count]
    shapes = [draw(dimensions(space(draw)))]
    for _ in range(count - 1):
        shapes.append(draw(dimensions(draw(st.sampled_from([shapes[-1].output_shape] * 3 + [space(draw)])))))
    split = count > 1 and not only_chains and draw(st.booleans())
    if split:
        shapes[-1] = replace(shapes[-2], output_shape=(draw(st.integers(1, 3)), *shapes[-2].output_shape[1:]))
    cores = {}
    for i, number in enumerate(numbers):
        later = numbers[i + 1 : i + 2] if only_chains else numbers[i + 1 :]
        most = 1 if only_chains else 2
        targets = draw(st.lists(st.sampled_from(later), min_size=1, max_size=most)) if later else []
        if split and i == count - 2:
            targets = []
        cores[number] = draw(layer(shapes[i], (*(draw(destination(target)) for target in targets), Destination(12))))
    parts = [[(number, shape)] for number, shape in zip(numbers, shapes, strict=True)]
    if split:
        parts = [*parts[:-2], [*parts[-2], *parts[-1]]]
    c, x, y = draw(st.sampled_from([shapes[0].input_shape] * 3 + [space(draw)]))
    first = [numbers[0]] if only_chains else draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=2))
    hosts = tuple(replace(draw(destination(n)), pooling=draw(st.sampled_from([1, 1, 1, 2, 3])), enable=True) for n in first)
    return Configuration(
        "speck2f", cores, Source((c * y * x,), (c, y, x), hosts, max_payload=3),
        {f"p{i}": _placed(part) for i, part in enumerate(parts)}, f"p{len(parts) - 1}",
        draw(st.sampled_from([None, 1000.0])),
    )


def _placed(part: list[tuple[int, Dimensions]]) -> Placed:
    """One population of the features of all these cores."""
    features = [shape.output_shape[0] for _, shape in part]
    _, x, y = part[0][1].output_shape
    firsts = np.cumsum([0, *features]).tolist()
    return Placed((sum(features), y, x), tuple(
        Part(number, first, count) for (number, _), first, count in zip(part, firsts, features, strict=False)))


def frames(configuration: Configuration, seed: int, batch: int = 2, steps: int = 4, share: float = 0.4) -> np.ndarray:
    """Counts [batch, time, *shape], most of them 0."""
    rng = np.random.default_rng(seed)
    shape = (batch, steps, *configuration.source.shape)
    return rng.integers(1, configuration.source.max_payload + 1, shape) * (rng.random(shape) < share)

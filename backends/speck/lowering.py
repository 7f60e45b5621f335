"""Placed integer populations as the chip's layers and configuration."""

from __future__ import annotations

from collections.abc import Sequence
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
from d2e.backends.speck.geometry import bias_per_feature, camera_poolings, geometries, input_space, varying_bias
from d2e.backends.speck.layer import Layer, Space
from d2e.backends.speck.limits import READOUT, READOUT_SPREAD
from d2e.compiler.paths import paths_into
from d2e.ir import Network, raise_findings
from d2e.ir.nodes import Array, Shape


def layers(network: Network) -> list[Layer]:
    """Every population as a layer, in the order of the network.

    Args:
        network: after map-neurons.

    Raises:
        UnsupportedError: D2E-SPECK-010..018 with everything that has no form on the chip.
    """
    found, findings = geometries(network)
    raise_findings(findings)
    result = []
    for name, geometry in found.items():
        node = network.neuron(name)
        assert node.v_min is not None
        bias = _bias(name, node.bias, node.shape, geometry.output)
        start = np.broadcast_to(node.v_init, node.shape).reshape(geometry.output)
        result.append(Layer(
            name, node.shape, geometry.input, geometry.output, geometry.form.kernel_size, geometry.form.stride,
            geometry.form.padding, geometry.kernels.astype(np.int8), bias, start.astype(np.int16) if start.any() else None,
            int(node.threshold), int(node.v_min), node.reset != "subtract", geometry.links,
        ))
    return result


def _bias(name: str, bias: Array, shape: Shape, space: Space) -> Array | None:
    """One integer per feature; None without a bias."""
    if not bias.any():
        return None
    per_feature = bias_per_feature(bias, shape, space)
    if per_feature is None:
        raise_findings([varying_bias(name)])
    assert per_feature is not None
    return per_feature.astype(np.int16)


# --------------------------------------------------------------------------- configuration


def configure(network: Network) -> Configuration:
    """The configuration of a network that has been placed; without a placement every layer gets a core of its own number.

    Args:
        network: after map-neurons; metadata ``placement`` (`place`) and ``speck`` (`targets`) where they are settled.

    Raises:
        UnsupportedError: as `layers`.
    """
    options = network.metadata.get("speck", {})
    every = layers(network)
    parts = _parts(network, every)
    consumers = _consumers(every, parts)
    readout = int(np.prod(network.output.shape)) if options.get("readout") == "pins" else None
    output = next(p.source for p in paths_into(network, network.outputs[0]))
    chosen: dict[int, CnnLayer] = {}
    for layer in every:
        onward = consumers.get(layer.name, [])
        for part in parts[layer.name]:
            own = [Destination(d.layer, d.pooling, d.feature_shift + part.first) for d in onward]
            if readout and layer.name == output:
                own.append(Destination(READOUT))
            chosen[part.layer] = _cnn_layer(layer, part, own, monitor=layer.name == output)
    source = _source(network, consumers.get(network.inputs[0], []))
    slow = any(layer.bias is not None for layer in every)
    return Configuration(
        options.get("chip", "speck2f"), chosen, source,
        {layer.name: Placed(layer.shape, tuple(parts[layer.name])) for layer in every}, output,
        1e6 / source.step_us if slow else None,
        camera(source, options.get("pooling")) if options.get("input") == "camera" else None, readout,
        {"events": options.get("events", "mixed")},
    )


def _parts(network: Network, every: Sequence[Layer]) -> dict[str, list[Part]]:
    placed = network.metadata.get("placement", {}).get("parts")
    options = network.metadata.get("speck", {})
    output = next(p.source for p in paths_into(network, network.outputs[0]))

    def spread(name: str) -> int:
        return READOUT_SPREAD if options.get("readout") == "pins" and name == output else 1

    if placed is None:
        return {layer.name: [Part(i, 0, layer.output[0], spread(layer.name))] for i, layer in enumerate(every)}
    return {name: [Part(core, first, count, spread(name)) for core, first, count in own] for name, own in placed.items()}


def _consumers(every: Sequence[Layer], parts: dict[str, list[Part]]) -> dict[str, list[Destination]]:
    """Source -> the cores its events go to, in the order of the network."""
    found: dict[str, list[Destination]] = {}
    for layer in every:
        for link in layer.links:
            found.setdefault(link.source, []).extend(
                Destination(part.layer, link.pooling, link.shift) for part in parts[layer.name])
    return found


def _cnn_layer(layer: Layer, part: Part, destinations: Sequence[Destination], *, monitor: bool) -> CnnLayer:
    own = layer.part(part.first, part.count)
    if part.spread > 1:
        own = own.spread(part.spread)
    (sy, sx), (py, px) = own.stride, own.padding
    initial = own.initial
    return CnnLayer(
        Dimensions(_xy(own.input), _xy(own.output), own.kernel_size, (sx, sy), (px, py)),
        np.ascontiguousarray(own.weights.swapaxes(2, 3)), own.bias,
        None if initial is None else np.ascontiguousarray(initial.swapaxes(1, 2)), own.threshold_high, own.threshold_low,
        own.return_to_zero, tuple(destinations), monitor,
    )


def _xy(space: Space) -> Space:
    return space[0], space[2], space[1]


def _source(network: Network, destinations: Sequence[Destination]) -> Source:
    node = network.input
    encoder: dict[str, Any] | None = None
    if node.encoder is not None and node.encoder.scale is not None:
        own = node.encoder
        encoder = {"kind": own.kind, "scale": node.encoder.scale.tolist(), "seed": own.seed, "latch": own.latch}
    return Source(node.shape, input_space(network), tuple(destinations), node.max_payload, node.time_steps, node.dt, encoder)


def camera(source: Source, pooling: str | None) -> DvsLayer:
    """The camera's block for an input of 1 or 2 features, by default with the largest field of view.

    It pools, then cuts (datasheet, section 3.2.3; sinabs' DVSLayer): ``cut`` counts pooled pixels.
    """
    features, height, width = source.space
    inner = source.destinations[0].pooling
    outer = int(pooling) if pooling else camera_poolings((height, width), inner)[0]
    last = (width // inner - 1, height // inner - 1)
    return DvsLayer(tuple(Destination(d.layer) for d in source.destinations), cut=last, pooling=(outer, outer),
                    merge=features == 1)

"""Both configurations as rows, one per core along the chain, so that the numbers of the cores play no part."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.layer import Layer

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Structure:
    """Everything of a core but its integers; triples are (features, x, y), pairs (x, y).

    Attributes:
        destinations: (pooling, feature_shift) of the enabled ones.
        memory: words of kernel, neurons and biases.
    """

    input_shape: Triple
    output_shape: Triple
    kernel_size: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    destinations: tuple[tuple[int, int], ...]
    return_to_zero: bool
    leak_enable: bool
    initial: bool
    memory: Triple

    def differences(self, other: Structure) -> dict[str, tuple[Any, Any]]:
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True, eq=False)
class Row:
    """A core: its structure and its integers; weights [f_out, f_in, x, y]."""

    core: int
    structure: Structure
    weights: np.ndarray
    biases: np.ndarray
    threshold_high: int
    threshold_low: int


def of_sinabs(network: Any, configuration: Any) -> list[Row]:
    """The rows of a chain as sinabs writes it, from the first core along the destinations."""
    cores = network.layer2core_map
    memory = network.memory_summary()
    first = next(iter(network.layer_destination_map["dvs"])) if network.dvs_layer is not None else min(cores)
    layer_at = {core: layer for layer, core in cores.items()}
    rows, core = [], cores[first]
    while True:
        chip = configuration.cnn_layers[core]
        dims = chip.dimensions
        onward = [d for d in chip.destinations if d.enable]
        rows.append(Row(core, Structure(
            _triple(dims.input_shape), _triple(dims.output_shape), dims.kernel_size, (dims.stride.x, dims.stride.y),
            (dims.padding.x, dims.padding.y), tuple((d.pooling, d.feature_shift) for d in onward), chip.return_to_zero,
            bool(chip.leak_enable), bool(np.any(chip.neurons_initial_value)),
            tuple(int(memory[kind][layer_at[core]]) for kind in ("kernel", "neuron", "bias")),
        ), np.array(chip.weights), np.array(chip.biases), chip.threshold_high, chip.threshold_low))
        if not onward:
            return rows
        (core,) = (d.layer for d in onward)


def of_d2e(configuration: Configuration, layers: list[Layer]) -> list[Row]:
    """The same of ours."""
    memory = {name: next(layer.memory for layer in layers if layer.name == name) for name in configuration.populations}
    name_at = {part.layer: name for name, placed in configuration.populations.items() for part in placed.parts}
    (entry,) = (configuration.dvs_layer or configuration.source).destinations
    rows, core = [], entry.layer
    while True:
        chip = configuration.cnn_layers[core]
        dims = chip.dimensions
        onward = [d for d in chip.destinations if d.enable]
        words = memory[name_at[core]]
        rows.append(Row(core, Structure(
            dims.input_shape, dims.output_shape, dims.kernel_size, dims.stride, dims.padding,
            tuple((d.pooling, d.feature_shift) for d in onward), chip.return_to_zero, chip.biases is not None,
            chip.neurons_initial_value is not None, (words.kernel, words.neuron, words.bias),
        ), chip.weights, np.zeros(dims.output_shape[0]) if chip.biases is None else chip.biases,
            chip.threshold_high, chip.threshold_low))
        if not onward:
            return rows
        (core,) = (d.layer for d in onward)


def _triple(shape: Any) -> Triple:
    return shape.feature_count, shape.size.x, shape.size.y

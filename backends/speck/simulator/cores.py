"""What the reference and the engine share: the cores in order, and populations put together from the cores' arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from d2e.backends.speck.configuration import CnnLayer, Configuration, Destination
from d2e.backends.speck.layer import Space
from d2e.backends.speck.limits import READOUT
from d2e.ir import UnsupportedError
from d2e.ir.nodes import Array


def in_order(configuration: Configuration) -> list[int]:
    """The cores, each after all that send to it.

    Raises:
        UnsupportedError: D2E-SPECK-060 for cores that send in a circle, -061 for events sent to a core without a layer.
    """
    senders: dict[int, set[int]] = {core: set() for core in configuration.cnn_layers}
    for core, layer in configuration.cnn_layers.items():
        for destination in used(layer.destinations):
            _known(configuration, destination, f"core {core}")
            senders[destination.layer].add(core)
    for destination in used(configuration.source.destinations):
        _known(configuration, destination, "the input")
    found: list[int] = []
    while len(found) < len(senders):
        ready = [core for core in sorted(senders) if core not in found and senders[core] <= set(found)]
        if not ready:
            circle = ", ".join(str(core) for core in sorted(senders) if core not in found)
            raise UnsupportedError("D2E-SPECK-060", f"the cores {circle} send in a circle or hang on one that does: "
                                   "nothing bounds the spikes of an event",
                                   hint="Take the recurrent connection out.")
        found += ready
    return found


def _known(configuration: Configuration, destination: Destination, sender: str) -> None:
    if destination.layer not in configuration.cnn_layers:
        raise UnsupportedError("D2E-SPECK-061", f"{sender} sends to core {destination.layer}, which has no layer",
                               hint="Configure that core, or disable the destination.")


def used(destinations: Sequence[Destination]) -> list[Destination]:
    """The destinations that lead to a core; the readout block is not simulated."""
    return [each for each in destinations if each.enable and each.layer != READOUT]


def spaces(layer: CnnLayer) -> tuple[Space, Space]:
    """(features, height, width) of a core's input and output."""
    (c, w, h), (f, ow, oh) = layer.dimensions.input_shape, layer.dimensions.output_shape
    return (c, h, w), (f, oh, ow)


def initial_states(layer: CnnLayer) -> Array:
    """States before the first event, int16 [features, height, width]."""
    if layer.neurons_initial_value is None:
        return np.zeros(spaces(layer)[1], np.int16)
    return np.ascontiguousarray(layer.neurons_initial_value.swapaxes(1, 2), np.int16)


def population(configuration: Configuration, name: str, of_cores: Mapping[int, Array]) -> Array:
    """A population's array [..., *shape] from those of its cores, [..., features, height, width]."""
    placed = configuration.populations[name]
    parts = [
        of_cores[part.layer][..., : part.count * part.spread : part.spread, :, :] for part in placed.parts
    ]
    together = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-3)
    return np.ascontiguousarray(together).reshape(*together.shape[:-3], *placed.shape)

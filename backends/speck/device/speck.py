"""A Speck as a device: lowered networks and frames in, the populations' spikes out, through any `Board`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from d2e.backends.speck import aer
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.device.protocol import Board
from d2e.backends.speck.device.run import monitored, run_configured
from d2e.backends.speck.device.simulated import SimulatedBoard
from d2e.backends.speck.events import Events
from d2e.backends.speck.lowering import configure
from d2e.backends.speck.simulator.cores import population
from d2e.compiler.device import Power, Ran
from d2e.compiler.target import Streamed
from d2e.ir import Network
from d2e.ir.nodes import Array
from d2e.ir.reference import Record

_PATIENCE = (60.0, 10.0)
"""Seconds for a batch, and for each of its samples: a kit takes its configuration again before each, which takes one."""


class SpeckDevice:
    """A board, whoever's library speaks to it, that hears every population."""

    def __init__(self, board: Board) -> None:
        """Nothing happens yet."""
        self.board = board

    def open(self) -> None:
        """See `d2e.compiler.device.Device`."""
        self.board.open()

    def configure(self, network: Network) -> None:
        """See `d2e.compiler.device.Device`."""
        self._configuration = configure(network)
        self._names = list(self._configuration.populations)
        self.board.configure(monitored(self._configuration, self._names))

    def run(self, frames: Array, record: Record) -> Ran:
        """See `d2e.compiler.device.Device`."""
        return run_configured(self.board, self._configuration, self._names, frames, record)

    def stream(self, recording: Any, window_us: int) -> Streamed:
        """See `d2e.compiler.device.Streams`; a board tells spikes, no synaptic operations."""
        space = self._configuration.source.space
        given = isinstance(recording, (np.ndarray, Mapping))
        events = aer.from_array(recording, space) if given else aer.read(recording, space)
        heard = self.board.stream(events)
        of_cores = self.board.counts()
        counts = {name: population(self._configuration, name, of_cores) for name in self._names}
        output = _output(self._configuration, heard)
        duration = int(events.timestamp[-1]) if len(events) else 0
        return Streamed(duration, len(events), counts, {}, {}, *output)

    def power(self) -> Mapping[str, Power] | None:
        """See `d2e.compiler.device.Device`."""
        return self.board.power()

    def patience(self, samples: int) -> float:
        """See `d2e.compiler.device.Device`."""
        return _PATIENCE[0] + _PATIENCE[1] * samples

    def close(self) -> None:
        """See `d2e.compiler.device.Device`."""
        self.board.close()


class SimulatedSpeck(SpeckDevice):
    """The simulator behind the board's calls, in the order of spikes that the program was compiled for."""

    board: SimulatedBoard

    def __init__(self) -> None:
        """There always is one."""
        super().__init__(SimulatedBoard())

    def configure(self, network: Network) -> None:
        """See `d2e.compiler.device.Device`."""
        self.board.order = network.metadata.get("speck", {}).get("order", "depth")
        super().configure(network)


def _output(configuration: Configuration, heard: Mapping[int, Events]) -> tuple[Array, Array]:
    """(timestamp, index of the neuron in its flattened population) of the output's spikes, by time."""
    placed = configuration.populations[configuration.output]
    _, width, height = configuration.cnn_layers[placed.parts[0].layer].dimensions.output_shape
    times, indices = [], []
    for part in placed.parts:
        seen = heard[part.layer]
        feature, between = np.divmod(np.asarray(seen.feature, np.int64), part.spread)
        own = (between == 0) & (feature < part.count)
        times.append(np.asarray(seen.timestamp)[own])
        indices.append(((part.first + feature[own]) * height + seen.y[own]) * width + seen.x[own])
    order = np.argsort(np.concatenate(times), kind="stable")
    return np.concatenate(times)[order], np.concatenate(indices)[order]

"""What a Speck is to the device above it: events in, spikes of cores out, whoever's library speaks to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.events import Events
from d2e.compiler.device import Power
from d2e.ir.nodes import Array


class Board(Protocol):
    """One board, used by one program: `open`, `configure`, any number of `stream`, `close`."""

    def open(self) -> None:
        """Take hold of the board.

        Raises:
            MissingError: D2E-SPECK-070 without the vendor's library, -071 without a board.
        """

    def configure(self, configuration: Configuration) -> None:
        """Send a configuration; its cores with ``monitor_enable`` are heard from now on.

        Raises:
            UnsupportedError: D2E-SPECK-072 where the vendor's validator refuses it.
        """

    def stream(self, events: Events) -> Mapping[int, Events]:
        """One sample, from rest.

        Args:
            events: in the coordinates of the network's input; timestamps in microseconds from the sample's start.

        Returns:
            Monitored core -> its spikes in their order, in the core's own coordinates (neither pooled nor shifted);
            timestamps in microseconds from the sample's start, as the board tells them.
        """

    def counts(self) -> Mapping[int, Array]:
        """Monitored core -> spikes per neuron, int64 [features, height, width], in the sample streamed last."""

    def power(self) -> Mapping[str, Power] | None:
        """Rail -> its power, over all samples since `configure`; None where nothing is measured."""

    def close(self) -> None:
        """Give the board back; nothing where it was not opened."""

"""A board that is the simulator: what everything above a board is tested with."""

from __future__ import annotations

from collections.abc import Mapping

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.events import Events
from d2e.backends.speck.simulator.reference import Order
from d2e.backends.speck.simulator.run import Simulator
from d2e.compiler.device import Power
from d2e.ir.nodes import Array


class SimulatedBoard:
    """The simulator behind a board's calls. Spikes have the time of the input event that caused them."""

    def __init__(self, order: Order = "depth") -> None:
        """Nothing happens yet; ``order``: see `Simulator`."""
        self.order: Order = order

    def open(self) -> None:
        """There always is one."""

    def configure(self, configuration: Configuration) -> None:
        """See `d2e.backends.speck.device.protocol.Board`."""
        self._simulator = Simulator(configuration, order=self.order)

    def stream(self, events: Events) -> Mapping[int, Events]:
        """See `d2e.backends.speck.device.protocol.Board`."""
        done = self._simulator.stream(events)
        layers = self._simulator.configuration.cnn_layers
        self._cores = {core: run for core, run in done.cores.items() if layers[core].monitor_enable}
        return {core: run.events for core, run in self._cores.items() if run.events is not None}

    def counts(self) -> Mapping[int, Array]:
        """See `d2e.backends.speck.device.protocol.Board`."""
        return {core: run.spikes for core, run in self._cores.items()}

    def power(self) -> Mapping[str, Power] | None:
        """None: a simulator consumes no power that says anything of the chip's."""
        return None

    def close(self) -> None:
        """Nothing is held."""

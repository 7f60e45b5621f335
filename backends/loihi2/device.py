"""Loihi 2 as a device, through the emitted package and Intel's closed lava-loihi, which lives in Lava's interpreter.

Needs hardware: never run on a chip; tried up to the point where lava-loihi is asked for. Nothing here imports Lava.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from d2e.backends.loihi2.lava import env
from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import LavaTrace, run_lava
from d2e.compiler.device import Power, Ran
from d2e.ir import MissingError, Network
from d2e.ir.nodes import Array
from d2e.ir.reference import Record

_PATIENCE = (600.0, 2.0)
"""Seconds for a batch, most of them Lava's compiler's, and for each of its samples."""
_UNIT = "Intel's profiler's"
_TILE = re.compile(r"(\S.*?)\[([\d:,]+)\](?: |$)")


def missing() -> MissingError | None:
    """What keeps this computer from a chip, as far as can be seen without importing anything.

    Returns:
        D2E-LAVA-001 without the Lava environment, D2E-HW-001 without lava-loihi in it, or None.
    """
    try:
        python = env.find()
    except MissingError as error:
        return error
    if not list(python.parent.parent.glob("lib/python*/site-packages/lava/magma/core/model/nc")):
        return MissingError("D2E-HW-001", "Intel's lava-loihi is not installed in the Lava environment",
                            hint="Use the engine loihi2-sim here; members of the INRC get it from Intel.")
    return None


class LoihiDevice:
    """A chip, or the board of that name. It tells the spikes of its readout, of no other population."""

    def __init__(self, board: str | None = None) -> None:
        """Nothing happens yet.

        Args:
            board: as Intel's software calls it; None: as that chooses.
        """
        self.board = board
        self._package: tempfile.TemporaryDirectory[str] | None = None
        self._measured: list[LavaTrace] = []

    def open(self) -> None:
        """See `d2e.compiler.device.Device`; a run takes hold of the board and gives it back."""
        fault = missing()
        if fault is not None:
            raise fault

    def configure(self, network: Network) -> None:
        """See `d2e.compiler.device.Device`; the package is emitted for the steps of the first batch."""
        self._network, self._steps = network, 0
        self._measured = []

    def run(self, frames: Array, record: Record) -> Ran:
        """See `d2e.compiler.device.Device`."""
        if self._package is None or self._steps != frames.shape[1]:
            self.close()
            self._package, self._steps = tempfile.TemporaryDirectory(prefix="d2e-device-"), frames.shape[1]
            emit(self._network, Path(self._package.name), time_steps=self._steps)
        trace = run_lava(Path(self._package.name), frames, record=record, hardware=True, board=self.board,
                         time_out=self.patience(len(frames)))
        self._measured.append(trace)
        return Ran(trace)

    def power(self) -> Mapping[str, Power] | None:
        """What Intel's profiler measured of the chip as a whole, in its own units; see `d2e.compiler.device.Device`."""
        found = [[float(np.mean(t.profile[what])) for what in ("static_power", "power", "dynamic_power")]
                 for t in self._measured if {"static_power", "power", "dynamic_power"} <= t.profile.keys()]
        if not found:
            return None
        idle, total, dynamic = np.mean(found, axis=0).tolist()
        return {"chip": Power(idle, total, dynamic, _UNIT)}

    def patience(self, samples: int) -> float:
        """See `d2e.compiler.device.Device`."""
        return _PATIENCE[0] + _PATIENCE[1] * samples

    def close(self) -> None:
        """See `d2e.compiler.device.Device`."""
        if self._package is not None:
            self._package.cleanup()
            self._package = None


def core_of(network: Network) -> dict[str, Array]:
    """Population -> core of every neuron [*shape], of a network that is placed."""
    table = network.metadata["placement"]["cores"]
    found = {name: np.zeros(network.neuron(name).shape, np.int64) for name in network.populations}
    core, populations = table["columns"].index("core"), table["columns"].index("populations")
    for row in table["rows"]:
        for name, corners in _TILE.findall(row[populations]):
            found[name][tuple(slice(*map(int, axis.split(":"))) for axis in corners.split(","))] = row[core]
    return found

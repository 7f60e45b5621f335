"""Lava's own LIF, watched: the arithmetic is `PyLifModelBitAcc`'s, unchanged; every step is kept in memory.

Lava's own probes move one element per message, which takes longer than the network. The models run in forked
processes, so what `watch` sets before a run is what they see.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import PyLifModelBitAcc
from lava.proc.lif.process import LIF

_JOB: dict[str, Any] = {"folder": Path("."), "populations": {}, "frames": 0, "steps": 0, "record": "counts"}


def watch(folder: Path, populations: dict[str, dict[str, Any]], frames: int, steps: int, record: str) -> None:
    """Say what the next run records.

    Args:
        folder: where each population's file goes.
        populations: name -> facts of network.POPULATIONS; others are not recorded.
        frames: frames of the sample; the population sees them at Lava steps depth + 1 .. depth + frames.
        steps: Lava steps of the run; the file is written in the last one.
        record: "counts", "spikes" or "state".
    """
    _JOB.update(folder=folder, populations=populations, frames=frames, steps=steps, record=record)


@implements(proc=LIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingLif(PyLifModelBitAcc):
    """`PyLifModelBitAcc` that keeps its spikes, u and v."""

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.facts = _JOB["populations"].get(proc_params["name"])
        self.kept: dict[str, Any] = {"spikes": [], "u": [], "v": []}
        self.count: Any = 0

    def run_spk(self) -> None:
        """Lava's step, then the record of it."""
        super().run_spk()
        if self.facts is None:
            return
        if 0 < self.time_step - self.facts["depth"] <= _JOB["frames"]:
            self._keep()
        if self.time_step == _JOB["steps"]:
            kept: dict[str, Any] = {what: np.stack(steps) for what, steps in self.kept.items() if steps}
            np.savez(_JOB["folder"] / f"{self.facts['index']}.npz", count=self.count, **kept)

    def _keep(self) -> None:
        fired, record = np.asarray(self.s_out_buff, dtype=bool), _JOB["record"]
        if self.facts["silent"] and fired.any():
            raise OverflowError(f"readout {self.proc_params['name']!r} reached Loihi's largest threshold")
        self.count = self.count + fired.astype(np.int64)
        if record != "counts" or self.facts["readout"]:
            self.kept["spikes"].append(fired)
        if record == "state":
            self.kept["u"].append(self.u.copy())
        if record == "state" or (self.facts["readout"] and self.facts["silent"]):
            self.kept["v"].append(self.v.copy())

"""Lava's own LIF and this package's Graded, watched: their arithmetic is unchanged, every step is kept in memory.

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
from processes.graded import Graded, PyGraded

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


class _Recording:
    """Keeps a population's spikes, what it sends to the output, u and v."""

    facts: Any = None
    kept: dict[str, Any]
    count: Any = 0

    def run_spk(self) -> None:
        """Lava's step, then the record of it."""
        model: Any = self
        if model.time_step <= 1:
            self.facts = _JOB["populations"].get(model.proc_params["name"])
            self.kept = {"spikes": [], "sent": [], "u": [], "v": []}
        super().run_spk()
        if self.facts is None:
            return
        if 0 < model.time_step - self.facts["depth"] <= _JOB["frames"]:
            self._keep(model)
        if model.time_step == _JOB["steps"]:
            kept: dict[str, Any] = {what: np.stack(steps) for what, steps in self.kept.items() if steps}
            np.savez(_JOB["folder"] / f"{self.facts['index']}.npz", count=self.count, **kept)

    def _keep(self, model: Any) -> None:
        (n, sent), record = model.fired(), _JOB["record"]
        if self.facts["silent"] and n.any():
            raise OverflowError(f"readout {model.proc_params['name']!r} reached Loihi's largest threshold")
        self.count = self.count + np.abs(n.astype(np.int64))
        if self.facts["readout"]:
            self.kept["sent"].append(model.v.copy() if self.facts["silent"] else sent)
        if record != "counts":
            self.kept["spikes"].append(n)
        if record == "state":
            self.kept["u"].append(model.u.copy())
            self.kept["v"].append(model.v.copy())


@implements(proc=LIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingLif(_Recording, PyLifModelBitAcc):
    """`PyLifModelBitAcc`, watched."""

    def fired(self) -> tuple[Any, Any]:
        """Its spikes, twice."""
        n = np.asarray(self.s_out_buff, dtype=bool)
        return n, n


@implements(proc=Graded, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingGraded(_Recording, PyGraded):
    """`PyGraded`, watched."""

    def fired(self) -> tuple[Any, Any]:
        """n, and the payloads."""
        return self.n.astype(np.int32), self.sent


MODELS = {LIF: RecordingLif, Graded: RecordingGraded}

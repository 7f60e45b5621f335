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
from lava.proc.lif.models import PyLifModelBitAcc, PyLifResetModelBitAcc
from lava.proc.lif.process import LIF, LIFReset
from processes.graded import Graded, PyGraded

_JOB: dict[str, Any] = {}


def watch(folder: Path, populations: dict[str, Any], windows: Any, samples: int, steps: int, record: str) -> None:
    """Say what the next run records.

    Args:
        folder: where each population's file goes.
        populations: name -> facts of network.POPULATIONS; others are not recorded.
        windows: where the frames of each sample are (samples.Windows).
        samples: how many follow one another.
        steps: Lava steps of the run; the file is written in the last one.
        record: "counts", "spikes" or "state".
    """
    _JOB.update(folder=folder, populations=populations, windows=windows, samples=samples, steps=steps, record=record)


class _Recording:
    """Keeps a population's spikes, what it sends to the output, u and v, sample by sample.

    ``reached`` [sample] in its file: it fired in a blank frame from which a message reaches into that sample.
    """

    facts: Any = None
    kept: dict[str, Any]
    counts: list[Any]
    reached: Any

    def run_spk(self) -> None:
        """The model's step, then the record of it."""
        model: Any = self
        if model.time_step <= 1:
            self.facts = _JOB["populations"].get(model.proc_params["name"])
            self.kept, self.counts = {"spikes": [], "sent": [], "u": [], "v": []}, []
            self.reached = np.zeros(_JOB["samples"], bool)
        super().run_spk()
        if self.facts is None:
            return
        windows = _JOB["windows"]
        sample, frame = divmod(model.time_step - windows.lead - self.facts["depth"] - 1, windows.period)
        if 0 <= sample < _JOB["samples"] and frame < windows.frames:
            self._keep(model, frame)
        elif -1 <= sample < _JOB["samples"] - 1 and frame >= windows.period - self.facts["slack"]:
            self.reached[sample + 1] |= model.fired()[0].any()
        if model.time_step == _JOB["steps"]:
            self._write(_JOB["folder"] / f"{self.facts['index']}.npz")

    def _keep(self, model: Any, frame: int) -> None:
        (n, sent), record = model.fired(), _JOB["record"]
        if self.facts["silent"] and n.any():
            raise OverflowError(f"readout {model.proc_params['name']!r} reached Loihi's largest threshold")
        if frame == 0:
            self.counts.append(np.zeros(n.shape, np.int64))
        self.counts[-1] += np.abs(n.astype(np.int64))
        if self.facts["readout"]:
            self.kept["sent"].append(model.v.copy() if self.facts["silent"] else sent)
        if record != "counts":
            self.kept["spikes"].append(n)
        if record == "state":
            self.kept["u"].append(model.u.copy())
            self.kept["v"].append(model.v.copy())

    def _write(self, path: Path) -> None:
        """Counts [sample, *axes]; everything else [sample, frame, *axes]."""
        shape = (_JOB["samples"], _JOB["windows"].frames)
        kept: dict[str, Any] = {
            what: np.stack(frames).reshape(*shape, *frames[0].shape) for what, frames in self.kept.items() if frames
        }
        np.savez(path, counts=np.stack(self.counts), reached=self.reached, **kept)


class _Spikes:
    """Remembers the spikes of Lava's LIF."""

    now: Any = None

    def spiking_activation(self) -> Any:
        """Lava's."""
        parent: Any = super()
        self.now = parent.spiking_activation()
        return self.now

    def fired(self) -> tuple[Any, Any]:
        """n of this step and what was sent: spikes."""
        n = np.array(self.now, dtype=bool)
        return n, n


@implements(proc=LIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingLif(_Recording, _Spikes, PyLifModelBitAcc):
    """`PyLifModelBitAcc`, watched."""


@implements(proc=LIFReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingLifReset(_Recording, _Spikes, PyLifResetModelBitAcc):
    """`PyLifResetModelBitAcc`, watched."""


@implements(proc=Graded, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingGraded(_Recording, PyGraded):
    """`PyGraded`, watched."""

    def fired(self) -> tuple[Any, Any]:
        """n of this step and the payloads sent."""
        return self.n.astype(np.int32), self.sent


MODELS = {LIF: RecordingLif, LIFReset: RecordingLifReset, Graded: RecordingGraded}

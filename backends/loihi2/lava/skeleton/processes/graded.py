"""An integer neuron with graded spikes, one Lava process per population: bursts, multi-threshold and soft resets.

The step is that of d2e's reference interpreter in the integers of Loihi's LIF (24 bits, 6 of them fractions; decays
are numerators over 4096 and products are truncated toward zero). Lava runs it on the CPU; a Loihi 2 needs microcode.
Pure: Lava imports every file in the folder of a process.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

HALF = 1 << 23
UNIT_BITS = 6
DECAY_BITS = 12

DEFAULTS: dict[str, Any] = {
    "threshold": 1,  # weight units, as reset_by and levels
    "decay_syn": None,  # None: u has no memory
    "decay_mem": None,  # None: v does not leak
    "reset": "subtract",  # or zero, value, none
    "reset_when": "same",  # or next: after the next step's decay
    "reset_by": None,  # None: the threshold; with levels one per level, times the threshold, None: the level
    "v_reset": 0,  # 1/64 weight units, as v_min, bias and the initial states
    "fire": "ge",  # or gt
    "max_spikes": 1,  # 0: no limit
    "refractory": 0,
    "v_min": None,
    "bias": 0,
    "levels": None,  # rising multiples of the threshold: the largest crossed one fires
    "payloads": None,  # what is sent per level; None: the level
    "signed": False,
    "fires": True,  # False: a readout of v
    "first": 1,  # Lava step of the first frame; silent before
    "period": 0,  # steps from sample to sample, each of which begins anew; 0: there is one
    "frames": 0,  # of a sample; silent after them where there is a period
}


class Graded(AbstractProcess):
    """Sends n, or the payload of level n, per step; its options and their defaults are `DEFAULTS`."""

    def __init__(self, *, shape: Any, name: str, v_init: Any = 0, u_init: Any = 0, **options: Any) -> None:
        unknown = sorted(set(options) - set(DEFAULTS))
        if unknown:
            raise TypeError(f"Graded has no option {', '.join(unknown)}")
        rules = {**DEFAULTS, **options, "u_init": u_init, "v_init": v_init}
        super().__init__(shape=shape, name=name, rules=rules)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.u = Var(shape=shape, init=u_init)
        self.v = Var(shape=shape, init=v_init)


@implements(proc=Graded, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyGraded(PyLoihiProcessModel):
    """The step, bit for bit."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    u: np.ndarray = LavaPyType(np.ndarray, np.int64, precision=24)
    v: np.ndarray = LavaPyType(np.ndarray, np.int64, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.rules = proc_params["rules"]
        self.n = self.wait = np.zeros(proc_params["shape"], np.int64)
        self.sent = np.zeros(proc_params["shape"], np.int32)

    def run_spk(self) -> None:
        """Hear, compute, send; nothing while no frame is due."""
        heard = self.a_in.recv().astype(np.int64)
        frame = self._frame()
        if frame <= 0:
            self._start()
        if frame >= 0:
            self.sent = self._step(heard).astype(np.int32)
        self.s_out.send(self.sent)

    def _frame(self) -> int:
        """Which frame of its sample this step brings; -1: none."""
        rules = self.rules
        since: int = self.time_step - rules["first"]
        if since < 0 or not rules["period"]:
            return max(since, -1)
        frame: int = since % rules["period"]
        return frame if frame < rules["frames"] else -1

    def _start(self) -> None:
        self.u = np.broadcast_to(self.rules["u_init"], self.u.shape).astype(np.int64)
        self.v = np.broadcast_to(self.rules["v_init"], self.v.shape).astype(np.int64)
        self.n, self.wait, self.sent = np.zeros_like(self.n), np.zeros_like(self.wait), np.zeros_like(self.sent)

    def _step(self, heard: Any) -> Any:
        rules, held = self.rules, self.v
        pending = self.n if rules["reset_when"] == "next" else None
        kept = 0 if rules["decay_syn"] is None else _decay(self.u, rules["decay_syn"])
        self.u = _wrap(kept + (heard << UNIT_BITS))
        v = self.v if rules["decay_mem"] is None else _decay(self.v, rules["decay_mem"])
        self.v = np.clip(self._reset(v, pending) + self.u + rules["bias"], 1 - HALF, HALF - 1)
        if rules["v_min"] is not None:
            self.v = np.maximum(self.v, rules["v_min"])
        if not rules["fires"]:
            return self.n
        self.n = self._fire()
        if rules["refractory"]:
            self.v, self.n = np.where(self.wait > 0, held, self.v), np.where(self.wait > 0, 0, self.n)
            self.wait = np.where(self.n != 0, rules["refractory"], np.maximum(self.wait - 1, 0))
        if rules["reset_when"] == "same":
            self.v = self._reset(self.v, self.n)
        if rules["levels"] is None:
            return self.n
        return _by_level(rules["levels"] if rules["payloads"] is None else rules["payloads"], self.n)

    def _fire(self) -> Any:
        rules = self.rules
        if rules["levels"] is not None:
            return self._crossed()
        theta = _unit(rules["threshold"])
        crossed = self.v >= theta if rules["fire"] == "ge" else self.v > theta
        if rules["max_spikes"] == 1:
            return crossed.astype(np.int64)
        n = np.floor_divide(self.v if rules["fire"] == "ge" else self.v - 1, theta)
        return np.where(crossed, np.clip(n, 1, rules["max_spikes"] or None), 0).astype(np.int64)

    def _crossed(self) -> Any:
        n = np.zeros(self.v.shape, np.int64)
        for level in self.rules["levels"]:
            theta = _unit(level * self.rules["threshold"])
            for sign in (1, -1) if self.rules["signed"] else (1,):
                v = sign * self.v
                n += sign * (v >= theta if self.rules["fire"] == "ge" else v > theta)
        return n

    def _reset(self, v: Any, n: Any) -> Any:
        rules = self.rules
        if n is None or rules["reset"] == "none":
            return v
        if rules["reset"] != "subtract":
            return np.where(n != 0, rules["v_reset"] if rules["reset"] == "value" else 0, v)
        if rules["levels"] is not None:
            amounts = rules["levels"] if rules["reset_by"] is None else rules["reset_by"]
            return v - _unit(_by_level(amounts, n) * rules["threshold"])
        return v - n * _unit(rules["threshold"] if rules["reset_by"] is None else rules["reset_by"])


def _unit(value: Any) -> Any:
    """Weight units in the unit of v."""
    return np.asarray(value, np.int64) << UNIT_BITS


def _decay(state: Any, keep: Any) -> Any:
    """``state * keep / 4096``, truncated toward zero."""
    return np.sign(state) * ((np.abs(state) * np.asarray(keep, np.int64)) >> DECAY_BITS)


def _wrap(u: Any) -> Any:
    """One overflow of 24 bits, as Loihi's u has it."""
    return np.where(u > HALF, u - 2 * HALF, np.where(u <= -HALF, u + 2 * HALF, u))


def _by_level(values: Any, n: Any) -> Any:
    table = np.concatenate([[0], np.asarray(values, np.int64)])
    return np.sign(n) * table[np.abs(n)]

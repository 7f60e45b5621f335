"""Synaptic operations of teacher and student, and what papers call their energy: operations times published constants.

E_direct = 4.6 pJ MAC_1 k + 0.9 pJ SOP_hidden,  k = T, or 1 where the current of the same image is computed once and kept
E_event  = 0.9 pJ (SOP_1 + SOP_hidden)

MAC_1: multiplications of the first layer for one frame; SOP: spikes times the synapses they really reach (less at edges).
Which k is meant decides whether events save energy at all, so both are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from d2e.compiler import cost
from d2e.compiler.energy import ADDITION_J, MULTIPLICATION_J, SOURCE
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.paths import paths_from
from d2e.ir import infer_shapes
from d2e.ir.nodes import Array


@dataclass(frozen=True, eq=False)
class Wiring:
    """How many synapses every input and every neuron reaches.

    Attributes:
        input: [*input shape].
        hidden: population -> [*shape].
    """

    input: Array
    hidden: Mapping[str, Array]

    @property
    def mac_first(self) -> int:
        """Multiplications of the first layer for a frame of real values."""
        return int(self.input.sum())

    def first(self, events: Array) -> float:
        """Synaptic operations of payloads sent [*input shape], a mean per sample."""
        return float((events * self.input).sum())

    def synops(self, sent: Mapping[str, Array]) -> float:
        """Those of neurons' spikes, `rates.spikes` of the same model, per sample."""
        return float(sum((sent[name] * reached).sum() for name, reached in self.hidden.items()))


def wiring(model: nn.Module, input_shape: Sequence[int]) -> Wiring:
    """The synapses of a torch model, as it would be compiled.

    Raises:
        UnsupportedError: where it does not compile; see `d2e.compiler.frontends.torch_fx.from_torch`.
    """
    network = Canonicalise().run(from_torch(model, input_shape, coding="direct"), None)  # type: ignore[arg-type]
    shapes = infer_shapes(network)

    def reached(source: str) -> Array:
        paths = [path for path in paths_from(network, source) if path.target in network.populations]
        return np.asarray(sum(cost.path_fan_out(network, path, shapes) for path in paths), np.float64)

    populations = [name for name in network.populations if network.nodes[name].kind != "li"]
    return Wiring(reached(network.inputs[0]), {name: reached(name) for name in populations})


def events_per_element(payloads: Array) -> Array:
    """Events of every element of a frame [*shape], a payload of n counted n times, mean over samples [n, time, *shape]."""
    return np.asarray(np.abs(payloads).sum(axis=(0, 1), dtype=np.float64) / len(payloads))


def direct_rows(of: str, mac_first: int, synops: float, time_steps: int) -> list[dict[str, Any]]:
    """Energy of a network that reads real frames, under both conventions of its first layer.

    Args:
        of: what the rows are named.
        mac_first, synops: of `Wiring`, ``synops`` without the first layer.
        time_steps: T.
    """
    return [
        _row(of, MULTIPLICATION_J * mac_first * times + ADDITION_J * synops, note)
        for times, note in ((time_steps, "first layer at every step"), (1, "first layer once"))
    ]


def event_row(of: str, first: float, synops: float) -> dict[str, Any]:
    """Energy of a network that reads events.

    Args:
        of: what the row is named.
        first, synops: synaptic operations of the input's events and of neurons' spikes, per sample.
    """
    return _row(of, ADDITION_J * (first + synops), "additions alone")


def _row(of: str, joules: float, note: str) -> dict[str, Any]:
    return {"of": of, "value_j": joules, "label": "estimated", "source": SOURCE, "note": note}

"""Counts of a program's runs on data, sample by sample and event by event, from which the metrics are made."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from d2e.compiler.data import Data
from d2e.compiler.measure import classify
from d2e.compiler.neurobench.layers import arriving, connections, events, membrane, messages, spiking
from d2e.compiler.replicas import merged
from d2e.ir import UsageError, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

if TYPE_CHECKING:
    from d2e.compiler.program import Program

_ROOM = 1 << 25
"""Numbers recorded at once: spikes and two states of every neuron at every step."""


@dataclass
class Tally:
    """Sums over a data set, up to each sample's early exit where the program has one.

    Attributes:
        samples: how many.
        steps: they ran, all together.
        correct: rightly classified; None without labels.
        plain: connection -> plain spikes that reached each of its inputs [*shape].
        payloads: connection -> messages with another payload that did [*shape].
        active: population of the source -> how often one of its neurons sent something in a step.
        neurons: population of the source -> how many neurons it has.
        updates: membranes that a step changed, each sample's first step changing all; None: the engine tells no states.
        why_no_states: in its words.
        messages: population of the network, helpers too -> messages it sent.
    """

    samples: int = 0
    steps: int = 0
    correct: int | None = None
    plain: dict[str, Array] = field(default_factory=dict)
    payloads: dict[str, Array] = field(default_factory=dict)
    active: Counter[str] = field(default_factory=Counter)
    neurons: dict[str, int] = field(default_factory=dict)
    updates: int | None = 0
    why_no_states: str = ""
    messages: Counter[str] = field(default_factory=Counter)


def tally(program: Program, data: Data, engine: str) -> Tally:
    """Run a program on data that fit it and count.

    Raises:
        UsageError, MissingError: as `Program.run`.
    """
    network = program.network
    found = Tally(len(data), correct=None if data.labels is None else 0, neurons={
        name: math.prod(network.neuron(own[0]).shape) for name, own in spiking(network).items()
    })
    size = sum(math.prod(network.neuron(n).shape) for n in network.populations)
    chunk = max(1, min(64, _ROOM // max(1, 3 * size * data.frames.shape[1])))
    record: Record = "state"
    for start in range(0, len(data), chunk):
        part = Data(data.frames[start : start + chunk], None if data.labels is None else data.labels[start : start + chunk])
        try:
            trace, steps = program._traced(part.frames, engine, record, True)
        except UsageError as error:
            if start or record == "spikes":
                raise
            record, found.updates, found.why_no_states = "spikes", None, error.message
            trace, steps = program._traced(part.frames, engine, record, True)
        _add(found, program, part, trace, steps)
    return found


def _add(found: Tally, program: Program, part: Data, trace: Trace, steps: Array) -> None:
    network = program.network
    found.steps += int(steps.sum())
    if part.labels is not None and found.correct is not None:
        found.correct += int((classify(network, trace.output) == part.labels).sum())
    entered = np.array(reference.check_frames(network, part.frames))
    entered[np.arange(entered.shape[1]) >= steps[:, None]] = 0
    sent = {network.inputs[0]: events(network, network.inputs[0], entered)}
    sent |= {name: events(network, name, n) for name, n in trace.spikes.items()}
    for name in connections(network):
        for table, kind in ((found.plain, 0), (found.payloads, 1)):
            reached = arriving(network, name, lambda source, kind=kind: sent[source][kind], counts=True).sum(axis=(0, 1))  # type: ignore[misc]
            table[name] = table[name] + reached if name in table else reached
    found.messages.update(messages(network, trace))
    whole = merged(network, trace)
    for name, own in spiking(network).items():
        found.active[name] += int(np.count_nonzero(whole.spikes[name]))
        if found.updates is not None:
            found.updates += _changes(membrane(network, own, trace), steps)


def _changes(states: Array, steps: Array) -> int:
    """How many states [batch, time, *shape] a step left other than it found them, up to each sample's end."""
    changed = states[:, 1:] != states[:, :-1]
    changed[np.arange(1, states.shape[1]) >= steps[:, None]] = False
    return states[:, 0].size + int(np.count_nonzero(changed))

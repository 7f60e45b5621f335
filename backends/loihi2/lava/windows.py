"""Samples that follow one another in one Lava run: how many blank frames lie between them, and what starts each anew.

Every population is a ``LIFReset`` there: u = v = 0 before the first frame of a sample. A message never arrives in
another frame than its own unless its path is longer than the pipeline (a `Delay`, a recurrent edge): that many blank
frames lie between samples, and inhibition keeps the sources of such paths silent in the last of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from d2e.backends.loihi2.lava import weights as w
from d2e.backends.loihi2.lava.registers import DECAY_ONE, FRACTION_BITS, is_lif
from d2e.backends.loihi2.lava.schedule import Schedule
from d2e.ir.errors import UnsupportedError
from d2e.ir.network import Network
from d2e.ir.nodes import Array, Neuron, Shape

_INHIBITION = w.Digit(np.array(-255), 0, 7, 8, "INHIBITORY")


@dataclass(frozen=True)
class Pulse:
    """A spike that reaches every neuron of some populations.

    Attributes:
        targets: populations of one shape and depth.
        at: the frames in which it arrives, counted from the first frame of each sample.
        digits: the synapses it goes through; weights 0-d or of ``shape``, in Lava's order.
    """

    targets: tuple[str, ...]
    shape: Shape
    depth: int
    at: tuple[int, ...]
    digits: tuple[w.Digit, ...]


@dataclass(frozen=True)
class Windows:
    """What one run of many samples needs.

    Attributes:
        gap: blank frames between samples.
        lead: blank frames before the first one.
        fresh: why each sample needs a run of its own; empty where none does.
        pulses: spikes between samples.
    """

    gap: int
    lead: int = 0
    fresh: str = ""
    pulses: tuple[Pulse, ...] = field(default_factory=tuple)


def windows(network: Network, plan: Schedule) -> Windows:
    """How samples follow one another in one run of a lowered network."""
    gap = max(plan.slack(name) for name in (*network.inputs, *network.populations))
    stock = [n for n in network.populations if is_lif(network.neuron(n))]
    for name in stock:
        why = _only_fresh(name, network.neuron(name))
        if why:
            return Windows(gap, fresh=why)
    pulses = tuple(_merged([p for n in stock for p in _pulses(n, network.neuron(n), plan)]))
    return Windows(gap, gap + 1 if pulses else gap, "", pulses)


def _keeps(node: Neuron) -> tuple[int, int]:
    keep_syn, keep_mem = node.decays
    return int(keep_syn or 0), int(DECAY_ONE if keep_mem is None else keep_mem)


def _start(node: Neuron) -> Array:
    """What the initial u brings into the first frame, in the unit of u."""
    u = np.asarray(getattr(node, "u_init", 0)).astype(np.int64)
    return np.asarray(np.sign(u) * (np.abs(u) * _keeps(node)[0] // DECAY_ONE))


def _only_fresh(name: str, node: Neuron) -> str:
    if _keeps(node)[1] and node.v_init.any():
        return f"{name!r} starts with a membrane that no spike brings about"
    start = _start(node)
    try:
        whole = not (start % (1 << FRACTION_BITS)).any()
        w.digits(name, np.atleast_1d(start >> FRACTION_BITS))
    except UnsupportedError:
        whole = False
    return "" if whole else f"{name!r} starts with a current that no spike brings about"


def _pulses(name: str, node: Neuron, plan: Schedule) -> Iterator[Pulse]:
    depth, slack, start = plan.depth[name], plan.slack(name), _start(node) >> FRACTION_BITS
    if slack:
        yield Pulse((name,), node.shape, depth, _inhibited(slack, _keeps(node)[0]), (_INHIBITION,))
    if start.any():
        values = w.to_lava(start, node.shape)
        yield Pulse((name,), node.shape, depth, (0,), tuple(w.digits(name, np.atleast_1d(values))))


def _inhibited(slack: int, keep_syn: int) -> tuple[int, ...]:
    """The frames of the inhibition: it lasts in u until it has halved, and must not pile up beyond 24 bits."""
    every, left = 1, float(keep_syn)
    while left > DECAY_ONE / 2 and every < slack:
        every, left = every + 1, left * keep_syn / DECAY_ONE
    return tuple(range(-slack, 0, every))


def _merged(pulses: list[Pulse]) -> Iterator[Pulse]:
    """The same pulse into populations alike (replicas) is one."""
    alike: dict[tuple[object, ...], list[Pulse]] = {}
    for p in pulses:
        written = tuple((d.weights.tobytes(), d.exponent, d.bits, d.sign_mode) for d in p.digits)
        alike.setdefault((p.shape, p.depth, p.at, written), []).append(p)
    for same in alike.values():
        first = same[0]
        yield Pulse(tuple(n for p in same for n in p.targets), first.shape, first.depth, first.at, first.digits)

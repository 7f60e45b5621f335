"""What the compiler knows of a chip: the `Target` protocol. Backends implement it; a registry finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from d2e.compiler.passes.base import Pass
from d2e.ir import Network, UsageError
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

ENTRY_POINT_GROUP = "d2e.backends"


@dataclass(frozen=True)
class Limit:
    """A number of a chip and where it comes from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Option:
    """What a target takes in braces behind its name: ``name{option=text}``.

    Attributes:
        read: the value of a text; ValueError for one that is none.
        written: what the text looks like.
        help: what it is for.
    """

    read: Callable[[str], Any]
    written: str
    help: str = ""


def one_of(*names: str, help: str = "") -> Option:
    """An option that is one of these names."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return Option(read, "|".join(names), help)


def positive(help: str = "") -> Option:
    """An option that is a whole number above 0."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise ValueError(text)
        return int(text)

    return Option(read, "NUMBER", help)


class Target(Protocol):
    """A chip, or a simulator of one.

    Attributes:
        name: as given to ``--target``.
        summary: one line for ``d2e targets``.
        engines: names that `run` accepts, the default first.
        predictor: the engine on this computer that predicts the program, for the figures of the report.
        state_bits: width of a state, beyond which `overflows` counts it.
        bit_exact_with: what the predictor equals bit for bit; None: nothing known.
        limits: the chip's numbers with their sources.
        options: name -> what may stand in braces behind the target's name; `pipeline` gets the values.
    """

    name: str
    summary: str
    engines: tuple[str, ...]
    predictor: str
    state_bits: int
    bit_exact_with: str | None
    limits: Mapping[str, Limit]
    options: Mapping[str, Option]

    def pipeline(self, options: Mapping[str, Any]) -> Sequence[Pass]:
        """The passes from a source network to the lowered one.

        Args:
            options: the keywords of `d2e.compile`, and those of the target's own options that were given.
        """

    def lowered(self, network: Network) -> bool:
        """Whether a network is ready for `run`."""

    def prepare(self, network: Network, engine: str) -> None:
        """Raise what would stop `run` on this engine: a missing SDK, environment or device."""

    def run(self, network: Network, frames: Array, *, engine: str, record: Record, folder: Path | None) -> Trace:
        """Run a lowered network on ``frames`` [batch, time, *shape]; ``folder``: the saved program, if any."""

    def overflows(self, network: Network) -> Mapping[str, int]:
        """Population -> states that left their width in the predictor's runs of this network so far."""

    def latency(self, network: Network) -> int:
        """Steps from a frame to the output it causes."""

    def emit(self, network: Network, folder: Path, *, time_steps: int | None) -> Mapping[str, Any]:
        """Write the chip's files into ``folder``; returns facts for the manifest and the report."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a recording of timed events did.

    Attributes:
        duration_us: of the input.
        events: how many came in.
        counts: population -> spikes per neuron [*shape].
        synops: population -> synaptic operations.
        peak_synops_per_s: population -> the most within a window of input time, per second, on any one of its cores.
        output_us, output: timestamp of the event that caused it, and flat index of the neuron, of every output spike.
    """

    duration_us: int
    events: int
    counts: Mapping[str, Array]
    synops: Mapping[str, int]
    peak_synops_per_s: Mapping[str, float]
    output_us: Array
    output: Array


def check_engine(target: str, engines: Sequence[str], engine: str) -> None:
    """Raise unless a target of this name has an engine.

    Raises:
        UsageError: D2E-USE-007 with those it has.
    """
    if engine not in engines:
        raise UsageError("D2E-USE-007", f"target {target} has no engine {engine!r}", hint=f"Engines: {', '.join(engines)}.")


@runtime_checkable
class EventDriven(Protocol):
    """A target that also takes recordings of timed events, without steps."""

    def stream(self, network: Network, recording: Any, *, window_us: int) -> Streamed:
        """Run a lowered network on one recording, from rest, in the predictor.

        Args:
            network: lowered.
            recording: a file, or a structured array with t (microseconds), x, y and p.
            window_us: over which peaks are taken.
        """


def available() -> dict[str, Target]:
    """Every target of every installed backend, by name."""
    found: dict[str, Target] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        for target in point.load():
            found[target.name] = target
    return found


def find(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: D2E-USE-002 with the names there are.
    """
    targets = available()
    if name not in targets:
        raise UsageError(
            "D2E-USE-002", f"there is no target {name!r}", hint=f"Targets: {', '.join(sorted(targets))}."
        )
    return targets[name]

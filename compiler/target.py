"""What the compiler knows of a chip: the `Target` protocol. Backends implement it; a registry finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

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


class Target(Protocol):
    """A chip, or a simulator of one.

    Attributes:
        name: as given to ``--target``.
        summary: one line for ``d2e targets``.
        engines: names that `run` accepts, the default first.
        predictor: the engine on this computer that predicts the program, for the figures of the report.
        bit_exact_with: what the predictor equals bit for bit; None: nothing known.
        limits: the chip's numbers with their sources.
    """

    name: str
    summary: str
    engines: tuple[str, ...]
    predictor: str
    bit_exact_with: str | None
    limits: Mapping[str, Limit]

    def pipeline(self, options: Mapping[str, Any]) -> Sequence[Pass]:
        """The passes from a source network to the lowered one; ``options`` are the keywords of `d2e.compile`."""

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

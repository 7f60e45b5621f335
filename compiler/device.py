"""What a device is to everything above it: a board that runs a program, whoever's library speaks to it.

One protocol for every chip. A target whose chip exists as boards has `HasDevices`; a third party's target may have it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from d2e.compiler.target import Streamed
from d2e.ir import Network
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

SIMULATED = "sim"
"""The kind of a board that is the target's simulator; every target has it."""


class Power(NamedTuple):
    """Mean power of one supply rail.

    Attributes:
        idle: with the program on the device, before the first sample.
        total: while samples ran.
        dynamic: total - idle.
        unit: of the three.
    """

    idle: float
    total: float
    dynamic: float
    unit: str = "W"


class Ran(NamedTuple):
    """A batch that a device ran.

    Attributes:
        trace: in the populations of the lowered network; of those that the device tells of.
        seconds: [batch], how long each sample took, where the device runs one after another; None: not known.
    """

    trace: Trace
    seconds: Array | None = None


class Found(NamedTuple):
    """A device, or a place for devices, as a list shows it.

    Attributes:
        name: as ``--device`` takes it.
        ready: whether nothing that can be seen from here is missing.
        what: it is, or what is missing.
    """

    name: str
    ready: bool
    what: str


class Device(Protocol):
    """One board, used by one program at a time: `open`, `configure`, any number of `run`, `close`; then maybe again."""

    def open(self) -> None:
        """Take hold of the board.

        Raises:
            MissingError: without the vendor's library or without the board.
        """

    def configure(self, network: Network) -> None:
        """Put a lowered network on it.

        Raises:
            UnsupportedError: where it does not take the network.
        """

    def run(self, frames: Array, record: Record) -> Ran:
        """A batch, each sample from rest.

        Args:
            frames: integer payloads [batch, time, *input shape], as `d2e.ir.reference.check_frames` returns them.
            record: "counts" or "spikes"; a device that tells neither of all populations tells what it can.

        Raises:
            MissingError: where the board went away; it may be opened again.
        """

    def power(self) -> Mapping[str, Power] | None:
        """Rail -> its power over all samples since `configure`; None where nothing is measured."""

    def patience(self, samples: int) -> float:
        """Seconds after which a batch of so many samples has stalled."""

    def close(self) -> None:
        """Give the board back; nothing where it was not opened."""


@runtime_checkable
class Streams(Protocol):
    """A device that also takes recordings of timed events."""

    def stream(self, recording: Any, window_us: int) -> Streamed:
        """One recording, from rest; figures that the device does not tell are left out of the result's tables."""


@runtime_checkable
class HasDevices(Protocol):
    """A target whose chip exists as boards.

    Attributes:
        kinds: what its devices are called before the colon, beside "sim".
        exact: its engines of which each promises the predictor's spikes bit for bit.
    """

    kinds: tuple[str, ...]
    exact: tuple[str, ...]

    def devices(self) -> Sequence[Found]:
        """What is there, looked up without importing a vendor's library."""

    def device(self, kind: str, which: str) -> Device | None:
        """A device, not open yet; None for "sim" where the target's predictor behind the protocol does.

        Args:
            kind: "sim" or one of ``kinds``.
            which: what stands behind the colon; "0" unless stated.
        """

    def core_of(self, network: Network) -> Mapping[str, Array]:
        """Population of a lowered network -> core of every neuron [*shape]."""

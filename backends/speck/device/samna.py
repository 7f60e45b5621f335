"""The vendor's board behind the protocol: the class that every compiled program carries, with our errors.

Nothing here imports samna; opening the board does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.emission.skeleton import samna_board
from d2e.backends.speck.events import Events
from d2e.compiler.device import Power
from d2e.ir import MissingError, UnsupportedError
from d2e.ir.nodes import Array

_HINTS = {
    "samna": "Install it where you run the board, or use the engine speck2f-sim.",
    "device": "Connect a Speck development kit, or use the engine speck2f-sim.",
}


def require() -> None:
    """Raise unless samna is there; it is looked up, not imported.

    Raises:
        MissingError: D2E-SPECK-070.
    """
    if not samna_board.installed():
        raise MissingError("D2E-SPECK-070", samna_board.NOT_INSTALLED, hint=_HINTS["samna"])


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except samna_board.BoardError as error:
        if error.what == "invalid":
            raise UnsupportedError("D2E-SPECK-072", str(error), hint="Please report it: d2e's rules let it pass.") from error
        code = "D2E-SPECK-070" if error.what == "samna" else "D2E-SPECK-071"
        raise MissingError(code, str(error), hint=_HINTS[error.what]) from error


class SamnaBoard:
    """A development kit. Needs hardware: never run on a board."""

    def __init__(self, chip: str = "speck2f", device: str | None = None, *, power: bool = False) -> None:
        """Nothing happens yet.

        Args:
            chip: "speck2f" or "speck2e".
            device: such as "Speck2fDevKit" or "speck2fdevkit:1"; None: the first kit with this chip.
            power: whether power is measured.
        """
        self._board = samna_board.SamnaBoard(chip, device, power=power)

    def open(self) -> None:
        """See `d2e.backends.speck.device.protocol.Board`."""
        with _faults():
            self._board.open()

    def configure(self, configuration: Configuration) -> None:
        """See `d2e.backends.speck.device.protocol.Board`."""
        with _faults():
            self._board.configure(json.loads(configuration.to_json()))

    def stream(self, events: Events) -> Mapping[int, Events]:
        """See `d2e.backends.speck.device.protocol.Board`."""
        return {core: Events(*spikes) for core, spikes in self._board.stream(events).items()}

    def counts(self) -> Mapping[int, Array]:
        """See `d2e.backends.speck.device.protocol.Board`."""
        return self._board.counts()

    def power(self) -> Mapping[str, Power] | None:
        """See `d2e.backends.speck.device.protocol.Board`."""
        measured = self._board.power()
        if measured is None:
            return None
        return {rail: Power(each["idle"], each["total"], each["dynamic"]) for rail, each in measured.items()}

    def close(self) -> None:
        """See `d2e.backends.speck.device.protocol.Board`."""
        self._board.close()

"""Devices by their names: ``KIND:WHICH{option=value}``, those there are, and boards that are told to fail."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2e.compiler.choices import _pairs
from d2e.compiler.device import SIMULATED, Device, Found, HasDevices, Power, Ran, Streams
from d2e.compiler.target import EventDriven, Streamed, Target, available
from d2e.ir import MissingError, Network, UsageError
from d2e.ir.nodes import Array
from d2e.ir.reference import Record

_NAME = re.compile(r"([\w-]+)(?::([^{},]*))?(?:\{([^{}]*)\})?")
_OPTIONS = "fail=after:N, back=SECONDS, stall=SECONDS or stall=SECONDS:after:N, slow=SECONDS"
_PATIENCE = (60.0, 2.0)
"""Seconds for a batch, the simulator's compilation among them, and for each of its samples."""
_TURNS = threading.Lock()
"""A simulator uses every core of this computer, so simulated boards of one process take turns."""


@dataclass(frozen=True)
class Name:
    """A device as it is written.

    Attributes:
        kind: "sim", or one of the target's.
        which: of this kind.
        faults: what a simulated board is told to do.
    """

    kind: str
    which: str
    faults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Without its options."""
        return f"{self.kind}:{self.which}"


def split(text: str) -> list[str]:
    """``a,b{x=1,y=2},c`` in its parts."""
    return [part.strip() for part in re.findall(r"(?:[^,{]|\{[^}]*\}?)+", text)]


def names(text: str | Sequence[str]) -> list[Name]:
    """``a,b{x=1,y=2},c`` as names.

    Raises:
        UsageError: D2E-BENCH-002 for what is no name, or one that stands there twice.
    """
    found = [name_of(part) for part in (split(text) if isinstance(text, str) else text)]
    labels = [name.label for name in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or not found:
        raise UsageError("D2E-BENCH-002", f"the device {twice[0]} stands there twice" if twice else "no device is named",
                         hint="Write sim:0,sim:1; --device list shows what there is.")
    return found


def name_of(text: str) -> Name:
    """``KIND:WHICH{option=value}`` as a name.

    Raises:
        UsageError: D2E-BENCH-002 for what is none.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise UsageError("D2E-BENCH-002", f"{text!r} is no device",
                         hint="Write KIND:WHICH, such as sim:0 or speck2f:0; --device list shows what there is.")
    faults = {}
    for key, value in _pairs(match[3]):
        try:
            faults[key] = _FAULTS[key](value)
        except (KeyError, ValueError):
            raise UsageError("D2E-BENCH-002", f"device {text} has no option {key}={value}",
                             hint=f"Simulated boards have {_OPTIONS}.") from None
    if faults and match[1] != SIMULATED:
        raise UsageError("D2E-BENCH-002", f"device {text} has no options", hint="Simulated boards have them.")
    return Name(match[1], match[2] or "0", faults)


def _seconds(text: str) -> float:
    number = float(text[:-2]) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))
    if not 0 <= number < math.inf:
        raise ValueError(text)
    return number


def _after(text: str) -> int:
    word, _, number = text.partition(":")
    if word != "after" or not number.isdecimal():
        raise ValueError(text)
    return int(number)


def _stall(text: str) -> tuple[float, int]:
    seconds, _, rest = text.partition(":")
    return _seconds(seconds), _after(rest) if rest else 0


_FAULTS = {"fail": _after, "back": _seconds, "stall": _stall, "slow": _seconds}


def make(name: Name, target: Target) -> Device:
    """The device of that name, not open yet.

    Raises:
        UsageError: D2E-BENCH-002 where the target has no such kind.
    """
    own = target if isinstance(target, HasDevices) else None
    kinds = (SIMULATED, *(own.kinds if own else ()))
    if name.kind not in kinds:
        raise UsageError("D2E-BENCH-002", f"target {target.name} has no devices {name.kind!r}",
                         hint=f"It has {', '.join(kinds)}; --device list shows what there is.")
    device = own.device(name.kind, name.which) if own else None
    device = device or EngineDevice(target, target.predictor, None, _PATIENCE)
    return Told(name.label, device, **name.faults) if name.kind == SIMULATED else device


def there(target: Target | None = None) -> list[Found]:
    """Every device of a target, or of all: simulated boards, then what their backends see without any vendor's library."""
    found = {Found(f"{SIMULATED}:0", True, "a board that is the target's simulator; sim:1, sim:2 … are others")}
    for each in [target] if target is not None else available().values():
        if isinstance(each, HasDevices):
            found |= set(each.devices())
    return sorted(found, key=lambda f: (not f.name.startswith(SIMULATED), f.name))


def listed(found: Sequence[Found]) -> str:
    """As a table."""
    return "\n".join(f"{f.name:<14}{'ready' if f.ready else 'missing':<9}{f.what}" for f in found)


class EngineDevice:
    """An engine of a target behind the protocol."""

    def __init__(
        self, target: Target, engine: str, folder: Path | None = None, patience: tuple[float, float] = (math.inf, 0.0)
    ) -> None:
        """Nothing happens yet.

        Args:
            target, engine: what runs.
            folder: the saved program, if any.
            patience: seconds for a batch, and for each of its samples; an engine has its own time-out, where it needs one.
        """
        self.target, self.engine = target, engine
        self._folder, self._patience = folder, patience

    def open(self) -> None:
        """See `d2e.compiler.device.Device`."""

    def configure(self, network: Network) -> None:
        """See `d2e.compiler.device.Device`."""
        self._network = network
        self.target.prepare(network, self.engine)

    def run(self, frames: Array, record: Record) -> Ran:
        """See `d2e.compiler.device.Device`."""
        with _TURNS:
            return Ran(self.target.run(self._network, frames, engine=self.engine, record=record, folder=self._folder))

    def stream(self, recording: Any, window_us: int) -> Streamed:
        """See `d2e.compiler.device.Streams`.

        Raises:
            UsageError: D2E-USE-016 where this engine takes no timed events.
        """
        if not isinstance(self.target, EventDriven) or self.engine != self.target.predictor:
            raise UsageError("D2E-USE-016", f"engine {self.engine} runs in steps, not on timed events",
                             hint="Give frames [batch, time, *shape].")
        with _TURNS:
            return self.target.stream(self._network, recording, window_us=window_us)

    def power(self) -> Mapping[str, Power] | None:
        """None: what computes here says nothing of a chip's power."""
        return None

    def patience(self, samples: int) -> float:
        """See `d2e.compiler.device.Device`."""
        return self._patience[0] + self._patience[1] * samples

    def close(self) -> None:
        """Nothing is held."""


class Told:
    """A simulated board that fails, stalls, comes back or is slow, as it is told.

    Batches are counted from when it is made, those of the warm-up among them.
    """

    def __init__(
        self, label: str, device: Device, *, fail: int | None = None, back: float | None = None,
        stall: tuple[float, int] | None = None, slow: float = 0.0,
    ) -> None:
        """Nothing happens yet.

        Args:
            label: its name.
            device: the simulator behind it.
            fail: it goes away after so many batches.
            back: seconds after which it can be opened again; None: never.
            stall: (seconds it takes longer, once; batches before that).
            slow: seconds that every batch takes longer.
        """
        self.label, self.device = label, device
        self.fail, self.back, self.stall, self.slow = fail, back, stall, slow
        self._batches, self._gone = 0, math.inf

    def open(self) -> None:
        """See `d2e.compiler.device.Device`."""
        away = self._gone < math.inf
        if away and (self.back is None or time.monotonic() - self._gone < self.back):
            raise self._away()
        self._gone = math.inf
        self.device.open()

    def configure(self, network: Network) -> None:
        """See `d2e.compiler.device.Device`."""
        self.device.configure(network)

    def run(self, frames: Array, record: Record) -> Ran:
        """See `d2e.compiler.device.Device`."""
        self._misbehave()
        return self.device.run(frames, record)

    def stream(self, recording: Any, window_us: int) -> Streamed:
        """See `d2e.compiler.device.Streams`."""
        assert isinstance(self.device, Streams)
        self._misbehave()
        return self.device.stream(recording, window_us)

    def _misbehave(self) -> None:
        if self.fail is not None and self._batches >= self.fail:
            self.fail, self._gone = None, time.monotonic()
        if self._gone < math.inf:
            raise self._away()
        if self.stall is not None and self._batches >= self.stall[1]:
            seconds, self.stall = self.stall[0], None
            time.sleep(seconds)
        self._batches += 1
        time.sleep(self.slow)

    def _away(self) -> MissingError:
        return MissingError("D2E-BENCH-008", f"the simulated board {self.label} went away, as it was told",
                            hint="Leave fail out of its options.")

    def power(self) -> Mapping[str, Power] | None:
        """See `d2e.compiler.device.Device`."""
        return self.device.power()

    def patience(self, samples: int) -> float:
        """See `d2e.compiler.device.Device`."""
        return self.device.patience(samples)

    def close(self) -> None:
        """See `d2e.compiler.device.Device`."""
        self.device.close()

"""The explicit choices that NIR leaves open: a profile, single flags, and what the file's own numbers say.

A NIR file fixes neither dt, nor how and when a neuron resets, nor `>` or `>=`, nor spikes per step. A profile
states the convention of the tool that wrote the file, flags state single choices, the rest is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from d2e.ir.errors import UsageError
from d2e.ir.nirtools import PROFILES as PROFILES
from d2e.ir.nirtools import Profile
from d2e.ir.nodes import Array, Reset, ResetWhen

_RESETS = ("subtract", "zero", "value", "none")
_HARD_SINCE = (1, 0, 6)
_OPEN = {
    "unit": "the time step (--dt SECONDS)",
    "reset": "how a neuron resets (--reset subtract|zero|value|none, or subtract-next for one step later)",
    "fire": "whether it fires at v >= or v > threshold (--fire ge|gt)",
    "max_spikes": "how often it may fire per step (--max-spikes N, 0 for no limit)",
    "rule": "how a time constant becomes a decay per step (--profile nir: Euler, 1 - dt/tau)",
}


@dataclass(frozen=True)
class Choices:
    """What the user states about a file, and what was found in it; see ``nirfile.read``.

    Attributes:
        profile: name of a profile, with its options in braces: "sinabs{v_min=none}".
        dt, reset, fire, max_spikes: flags; they go before the profile.
        unit: time per step in the unit of the file's time constants; None: ``dt``, else the profile's.
        version: of the nir package that wrote the file.
    """

    profile: str | None = None
    dt: float | None = None
    reset: str | None = None
    fire: str | None = None
    max_spikes: int | None = None
    unit: float | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        if self.profile is not None:
            _ = self.options
        if self.reset is not None and self.reset.removesuffix("-next") not in _RESETS:
            _refuse_value("--reset", self.reset, [*_RESETS, *(f"{r}-next" for r in _RESETS if r != "none")])
        if self.fire not in (None, "ge", "gt"):
            _refuse_value("--fire", self.fire, ["ge", "gt"])
        if self.max_spikes is not None and self.max_spikes < 0:
            _refuse_value("--max-spikes", self.max_spikes, ["0 (no limit)", "1", "2", "…"])
        if self.dt is not None and not (math.isfinite(self.dt) and self.dt > 0):
            _refuse_value("--dt", self.dt, ["seconds above 0"])

    @property
    def tool(self) -> Profile | None:
        """The profile's table entry."""
        return None if self.profile is None else PROFILES.get(self.name)

    @property
    def name(self) -> str:
        """The profile's name, without options."""
        return (self.profile or "").partition("{")[0]

    @property
    def options(self) -> dict[str, str]:
        """The profile's options, those in braces over its defaults.

        Raises:
            UsageError: D2E-NIR-001 for an unknown profile, option or value.
        """
        text = self.profile or ""
        if self.name not in PROFILES or not re.fullmatch(r"\w+(\{[^{}]*\})?", text):
            _refuse_value("--profile", text, PROFILES)
        known = dict(PROFILES[self.name].options)
        inner = text.partition("{")[2].rstrip("}")
        for part in filter(None, (p.strip() for p in inner.split(","))):
            key, _, value = part.partition("=")
            if key not in known or not _option_fits(key, value):
                _refuse_value(f"--profile {self.name}: {part}", "option", [_OPTIONS[key] for key in known] or ["none"])
            known[key] = value
        return known

    def get(self, name: str) -> Any:
        """The value of a choice: the flag, else the profile's, else None."""
        if name == "unit":
            return self._unit()
        flag = getattr(self, name, None)
        return getattr(self.tool, name, None) if flag is None else flag

    def _unit(self) -> float | None:
        if self.unit is not None:
            return self.unit
        stated = self.dt if self.tool is None or self.tool.seconds else None
        return getattr(self.tool, "dt", None) if stated is None else stated

    @property
    def seconds(self) -> float | None:
        """Seconds per step, where known."""
        if self.dt is not None or self.tool is None or not self.tool.seconds:
            return self.dt
        return self._unit()

    def require(self, names: Iterable[str], fitting: Sequence[str] = ()) -> None:
        """Raise one D2E-NIR-002 that lists every one of these choices that is still open.

        Args:
            names: of choices.
            fitting: profiles that the file's traits fit.
        """
        missing = [name for name in _OPEN if name in set(names) and self.get(name) is None]
        if not missing:
            return
        literal = " --profile nir reads it literally: v > threshold, hard reset, one spike."
        tools = f" Its traits fit {' and '.join(fitting)}: --profile NAME." if fitting else \
            f" Written by {', '.join(n for n in PROFILES if n != 'nir')}? --profile NAME."
        raise UsageError(
            "D2E-NIR-002", f"the file does not say {'; nor '.join(_OPEN[name] for name in missing)}",
            hint="State each flag." + ("" if self.profile else tools + literal),
        )

    def refuse_against_file(self) -> None:
        """Raise D2E-NIR-007 where a choice is stated although the file says it all itself."""
        for name in ("profile", "reset", "fire", "max_spikes"):
            if getattr(self, name) is not None:
                raise UsageError(
                    "D2E-NIR-007", f"d2e wrote this file and it states {name} itself",
                    hint=f"Leave --{name.replace('_', '-')} out.",
                )

    def reset_of(self, v_reset: Array) -> tuple[Reset, ResetWhen]:
        """(reset, reset_when) of a neuron with this v_reset."""
        text = str(self.get("reset"))
        if text == "file" and self._soft():
            return "subtract", "same"
        if text == "file":
            return ("value" if v_reset.any() else "zero"), "same"
        return cast(Reset, text.removesuffix("-next")), "next" if text.endswith("-next") else "same"

    def _soft(self) -> bool:
        """Whether the file is of a nir whose documented reset subtracts the threshold: up to 1.0.5."""
        if self.name != "nir" or self.version is None:
            return False
        numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", self.version)
        return bool(numbers) and tuple(int(n or 0) for n in cast(Any, numbers).groups()) < _HARD_SINCE


_OPTIONS = {
    "v_min": "v_min=threshold|none|NUMBER", "norm_input": "norm_input=default|yes|no", "delay": "delay=1|0",
}


def _option_fits(key: str, value: str) -> bool:
    if key == "v_min" and value not in ("threshold", "none"):
        try:
            return math.isfinite(float(value))
        except ValueError:
            return False
    return key == "v_min" or value in _OPTIONS[key].partition("=")[2].split("|")


def _refuse_value(option: str, value: Any, known: Iterable[Any]) -> None:
    hint = f"Known: {', '.join(map(str, known))}."
    raise UsageError("D2E-NIR-001", f"{option} {value!r} is not known", hint=hint)

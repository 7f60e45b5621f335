"""How many bits the weights of each layer get: stated by the user, or shared out within a budget by what bits change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from d2e.ir import UsageError

Bits: TypeAlias = "int | str | Mapping[str, int]"
"""A width for all layers, "layer=bits,…" with an optional width for the others, a dictionary, or "auto"."""
AUTO = "auto"
OTHERS = ""
"""Key of the layers that a table does not name."""


def stated(bits: Bits) -> Bits:
    """A width in text as a number, a dictionary with plain keys and values; anything else as it is."""
    if isinstance(bits, Mapping):
        return {str(name): int(width) for name, width in bits.items()}
    text = str(bits).strip()
    return int(text) if text.isdigit() else text


def table(bits: Bits, widest: int) -> dict[str, int]:
    """Layer -> width, `OTHERS` for those it does not name (``widest`` unless stated); "auto" gives the widest.

    Raises:
        UsageError: D2E-USE-003 for a width outside 1..``widest``, D2E-USE-013 for a text that is no table.
    """
    if bits == AUTO:
        return {OTHERS: widest}
    found = {OTHERS: widest}
    if isinstance(bits, Mapping):
        found |= bits
    else:
        for part in str(bits).split(","):
            name, _, text = part.strip().rpartition("=")
            if not text.strip().lstrip("-").isdigit() or part.strip().startswith("="):
                raise UsageError("D2E-USE-013", f"weight bits {bits!r} are not understood",
                                 hint="Write 8, conv1=4,fc=2, or auto with a budget.")
            found[name.strip()] = int(text)
    for width in found.values():
        if not 1 <= width <= widest:
            raise UsageError("D2E-USE-003", f"weight bits {width} are outside 1..{widest}",
                             hint="Give --weight-bits in that range.")
    return found


@dataclass(frozen=True)
class Layer:
    """A choice to make.

    Attributes:
        name: population whose input weights share a width.
        weights: how many there are.
        errors: width -> what the output loses where this layer alone has it.
    """

    name: str
    weights: int
    errors: Mapping[int, float]


def allocate(layers: Iterable[Layer], budget: float) -> dict[str, int]:
    """Widths of least summed error with at most ``budget`` bits per weight in the mean.

    From the widest down: the step that adds the least error per bit saved, until they fit; then whatever still fits is
    widened again, the largest gain first.
    """
    rows = {layer.name: layer for layer in layers}
    errors = {name: _falling(layer.errors) for name, layer in rows.items()}
    chosen = {name: max(found) for name, found in errors.items()}
    most = budget * sum(layer.weights for layer in rows.values())

    def used() -> int:
        return sum(rows[name].weights * width for name, width in chosen.items())

    while used() > most + 1e-9:
        steps = [
            ((errors[n][lower] - errors[n][width]) / (rows[n].weights * (width - lower)), n, lower)
            for n, width in chosen.items() for lower in errors[n] if lower < width
        ]
        if not steps:
            break
        _, name, lower = min(steps)
        chosen[name] = lower
    while True:
        gains = [
            (errors[n][wider] - errors[n][width], n, wider) for n, width in chosen.items() for wider in errors[n]
            if wider > width and used() + rows[n].weights * (wider - width) <= most + 1e-9
        ]
        if not gains or min(gains)[0] >= 0:
            return chosen
        _, name, wider = min(gains)
        chosen[name] = wider


def _falling(errors: Mapping[int, float]) -> dict[int, float]:
    """Errors that never rise with the width: what a narrow width can do, a wider one can."""
    found: dict[int, float] = {}
    for width in sorted(errors):
        found[width] = min([errors[width], *found.values()])
    return found

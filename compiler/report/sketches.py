"""The report's pictures as letters, for `d2e inspect`: the map of the cores, histograms, the spikes of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from d2e.compiler.report import cores
from d2e.compiler.report.tables import Column, heading, table
from d2e.compiler.report.words import number, percent

_BARS = "▁▂▃▄▅▆▇█"
_WIDE, _TRAINS = 16, 3
_LETTERS = "a letter per step: 1 to 9 so many spikes, + more, - a negative one; of a readout its membrane, 0 to 9"


def core_map(report: Mapping[str, Any], to: Console) -> None:
    """A letter per core, and the layers they stand for."""
    found = report.get("core_map")
    if not found:
        return
    legend, shown, there = cores.legend(found), cores.shown(found), found["cores"]
    heading(f"Cores: the first {shown:,} of {there:,}" if shown < there else "Cores", to)
    for row in cores.rows_of_text(found, to.width):
        line = Text()
        for place in row:
            line.append("." if place is None else cores.letter(place), "dim" if place is None else cores.colour(place))
        to.print(line)
    table([
        Column("", [row["letter"] for row in legend]), Column("layer", [row["name"] for row in legend], -1, True),
        Column("cores", [number(row["cores"]) for row in legend]),
        Column("fullest", [percent(row["used"]) for row in legend], 1),
        Column("scarcest there", [row["resource"] for row in legend], 2, True),
    ], to)


def weights(report: Mapping[str, Any], to: Console) -> None:
    """Weights and thresholds before and after quantise."""
    rows = report.get("histograms", [])
    if not rows:
        return
    heading("Weights and thresholds, before and after quantise", to)
    own, bounds = ([row.get(key, {}) for row in rows] for key in ("weights", "thresholds"))
    table([
        Column("layer", [row["name"] for row in rows]),
        Column("weights", [number(sum(w["before"])) if w else "" for w in own], 2),
        Column("integers", [number(w["levels"]) if w else "" for w in own], 3),
        Column("smallest", [number(w["low"]) if w else "" for w in own], 1),
        Column("before", [bars(w.get("before", [])) for w in own]),
        Column("after", [bars(w.get("after", [])) for w in own]),
        Column("largest", [number(w["high"]) if w else "" for w in own], 1),
        Column("thresholds", [_between(t) for t in bounds], 4),
    ], to)


def _between(bounds: Mapping[str, Any]) -> str:
    low, high = (number(bounds[key]) if bounds else "" for key in ("low", "high"))
    return low if low == high else f"{low} to {high}"


def bars(counts: Sequence[int]) -> str:
    """A histogram as a bar per two bins, or nothing where all is in one; the lowest bar is a bin that is not empty."""
    if len(counts) < 2:
        return ""
    pairs = [sum(counts[i : i + len(counts) // _WIDE]) for i in range(0, len(counts), len(counts) // _WIDE)]
    return "".join(_BARS[(len(_BARS) * count - 1) // max(pairs)] if count else " " for count in pairs)


def sample(report: Mapping[str, Any], to: Console) -> None:
    """What the first sample did: some neurons of every layer, a letter per step."""
    found = report.get("raster")
    if not found:
        return
    room = min(found["shown_steps"], to.width - 2)
    part = f", the first {room} of them" if room < found["steps"] else ""
    ended = f", exit after {found['exit']}" if "exit" in found else ""
    heading(f"One sample: {found['steps']} steps{part}{ended}", to)
    for row in found["rows"]:
        to.print(Text(f"{row['name']}: {row['active']:,} of {row['neurons']:,} active"))
        trains = [train for train in row["trains"] if train.strip(".")] or row["trains"]
        for train in trains[:: max(1, len(trains) // _TRAINS)][:_TRAINS]:
            to.print(Text(f"  {train[:room]}"))
    to.print(Text(_LETTERS, "dim"))

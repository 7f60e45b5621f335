"""The charts of a transfer's report as inline SVG: text and axes in the page's own colour, so they suit light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

_INK = "#123456"
"""Stands for the page's text colour until the SVG is written."""
_COLOURS = ("#3d85c6", "#e0803a", "#43a568", "#b565b0", "#c9a227", "#7a8794")
_MARKERS = "osv^DP"
_SIZE = (4.2, 2.8)
_STYLE: dict[Any, Any] = {
    "font.size": 8, "svg.fonttype": "none", "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "legend.fontsize": 7, "figure.facecolor": "none", "axes.facecolor": "none", "lines.linewidth": 1.4,
    "lines.markersize": 3.5, "axes.unicode_minus": False,
}
_MOST_LABELS = 12


def charts(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Those whose data are there: {caption, svg}, of the facts that the report takes."""
    made = [_accuracy(facts), _losses(facts), _bounds(facts), _rates(facts), _stages(facts)]
    return [chart for chart in made if chart is not None]


def _accuracy(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = facts.get("epochs", [])
    lines = {"training": _column(rows, "train_accuracy"), "held out": _column(rows, "held", "accuracy")}
    level = facts.get("teacher", {}).get("accuracy")
    return _epochs(rows, {k: _scaled(v) for k, v in lines.items()}, "accuracy, %", "Accuracy after every epoch, measured.",
                   None if level is None else ("teacher", 100 * level))


def _losses(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = facts.get("epochs", [])
    lines = {name: _column(rows, name) for name in ("loss", "ce", "divergence")}
    return _epochs(rows, lines, "loss", "The loss and its parts, cross-entropy and divergence from the teacher, measured.")


def _bounds(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = facts.get("epochs", [])
    lines = {"bound sqrt(KL/2)": _column(rows, "held", "bound"), "KL, nats": _column(rows, "held", "kl"),
             "soft gap": _column(rows, "held", "soft_gap")}
    return _epochs(rows, lines, "held out", "Divergence from the teacher, its bound and the gap it bounds, measured.")


def _column(rows: Sequence[Mapping[str, Any]], *keys: str) -> list[float | None]:
    found = []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        found.append(value)
    return found


def _scaled(values: list[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


def _epochs(
    rows: Sequence[Mapping[str, Any]], lines: Mapping[str, list[float | None]], what: str, caption: str,
    level: tuple[str, float] | None = None,
) -> dict[str, str] | None:
    shown = {label: values for label, values in lines.items() if any(value is not None for value in values)}
    if not shown:
        return None
    places = [row["epoch"] for row in rows]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (label, values), colour, marker in zip(shown.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False):
            known = [(x, y) for x, y in zip(places, values, strict=True) if y is not None]
            axes.plot(*zip(*known, strict=True), color=colour, marker=marker, label=label)
        if level is not None:
            axes.axhline(level[1], color=_INK, linewidth=0.8, linestyle=":", label=level[0])
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    return _chart(draw, caption)


def _rates(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """Layers in order; a student with an event mapping has other names for the same ones."""
    series = {"teacher": facts.get("teacher", {}), **{stage["name"]: stage for stage in facts.get("stages", [])}}
    shown = {name: own["rates"] for name, own in series.items() if own.get("rates")}
    if not shown:
        return None
    names = list(next(iter(shown.values())))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (label, rates), colour, marker in zip(shown.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False):
            axes.plot(range(len(rates)), list(rates.values()), color=colour, marker=marker, label=label)
        every = -(-len(names) // _MOST_LABELS)
        turned = max(map(len, names)) > 3
        axes.set_xticks(range(0, len(names), every), names[::every], rotation=30 if turned else 0,
                        ha="right" if turned else "center")
        axes.set(xlabel="layer", ylabel="spikes per neuron and step")
        axes.set_ylim(bottom=0)
        axes.legend()

    return _chart(draw, "How often each layer fires, measured.")


def _stages(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = [("teacher", facts.get("teacher", {})), *((stage["name"], stage) for stage in facts.get("stages", [])),
            *((program["target"], program) for program in facts.get("programs", []))]
    shown = [(name, row) for name, row in rows if "accuracy" in row][::-1]
    if len(shown) < 2:
        return None
    parts = [("accuracy, %", [100 * row["accuracy"] for _, row in shown])]
    if any("input_events" in row for _, row in shown):
        parts.append(("input events per sample", [row.get("input_events") for _, row in shown]))

    def draw(figure: Any) -> None:
        many = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
        for axes, (what, values), colour in zip(many, parts, _COLOURS, strict=False):
            bars = axes.barh([name for name, _ in shown], [value or 0 for value in values], color=colour, height=0.6)
            labels = ["" if value is None else f"{value:.1f}" if value < 100 else f"{value:,.0f}" for value in values]
            axes.bar_label(bars, labels, padding=2, fontsize=7)
            axes.set_xlim(0, 1.3 * max(value or 0 for value in values) or 1)
            axes.set_xlabel(what)

    return _chart(draw, "Accuracy, and the events that enter, measured; the teacher reads real values.")


def _chart(draw: Any, caption: str) -> dict[str, str]:
    """The same bytes for the same data."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": caption}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'<g id="[\w.]+">', "<g>", text).replace(_INK, "currentColor")
    return {"caption": caption, "svg": text.replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)}

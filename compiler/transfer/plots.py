"""The charts of a transfer's report, in the style of every report's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2e.compiler.report.charts import bars, lines


def charts(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Those whose data are there: {caption, svg}, of the facts that the report takes."""
    made = [_accuracy(facts), _losses(facts), _bounds(facts), _rates(facts), _stages(facts)]
    return [chart for chart in made if chart is not None]


def _accuracy(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = facts.get("epochs", [])
    series = {"training": _column(rows, "train_accuracy"), "held out": _column(rows, "held", "accuracy")}
    level = facts.get("teacher", {}).get("accuracy")
    return _epochs(rows, {k: _scaled(v) for k, v in series.items()}, "accuracy, %", "Accuracy after every epoch, measured.",
                   None if level is None else ("teacher", 100 * level))


def _losses(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = facts.get("epochs", [])
    series = {name: _column(rows, name) for name in ("loss", "ce", "divergence")}
    return _epochs(rows, series, "loss", "The loss and its parts, cross-entropy and divergence from the teacher, measured.")


def _bounds(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = facts.get("epochs", [])
    series = {"bound sqrt(KL/2)": _column(rows, "held", "bound"), "KL, nats": _column(rows, "held", "kl"),
             "soft gap": _column(rows, "held", "soft_gap")}
    return _epochs(rows, series, "held out", "Divergence from the teacher, its bound and the gap it bounds, measured.")


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
    rows: Sequence[Mapping[str, Any]], values: Mapping[str, list[float | None]], what: str, caption: str,
    level: tuple[str, float] | None = None,
) -> dict[str, str] | None:
    places = [float(row["epoch"]) for row in rows]
    known = {label: [(x, y) for x, y in zip(places, column, strict=True) if y is not None]
             for label, column in values.items()}
    shown = {label: points for label, points in known.items() if points}
    return lines(shown, "epoch", what, caption, level=level) if shown else None


def _rates(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """Layers in order; a student with an event mapping has other names for the same ones."""
    series = {"teacher": facts.get("teacher", {}), **{stage["name"]: stage for stage in facts.get("stages", [])}}
    shown = {name: own["rates"] for name, own in series.items() if own.get("rates")}
    if not shown:
        return None
    points = {name: [(float(i), rate) for i, rate in enumerate(rates.values())] for name, rates in shown.items()}
    return lines(points, "layer", "spikes per neuron and step", "How often each layer fires, measured.",
                 names=list(next(iter(shown.values()))), zero=True)


def _stages(facts: Mapping[str, Any]) -> dict[str, str] | None:
    rows = [("teacher", facts.get("teacher", {})), *((stage["name"], stage) for stage in facts.get("stages", [])),
            *((program["target"], program) for program in facts.get("programs", []))]
    shown = [(name, row) for name, row in rows if "accuracy" in row]
    if len(shown) < 2:
        return None
    parts = [("accuracy, %", [100 * row["accuracy"] for _, row in shown])]
    if any("input_events" in row for _, row in shown):
        parts.append(("input events per sample", [row.get("input_events") for _, row in shown]))
    panels = [(what, values, ["" if v is None else f"{v:.1f}" if v < 100 else f"{v:,.0f}" for v in values])
              for what, values in parts]
    return bars([name for name, _ in shown], panels,
                "Accuracy, and the events that enter, measured; the teacher reads real values.")

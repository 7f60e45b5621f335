"""The pictures of a program's report, drawn from report.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from d2e.compiler.report import cores, drawing
from d2e.compiler.report.charts import WIDTH, bars, fitted, histogram, lines, n, svg, text
from d2e.compiler.report.words import number

Chart = dict[str, str]
_MOST_BARS = 60


def passes(report: Mapping[str, Any]) -> list[Chart]:
    """Accuracy and spikes after every pass."""
    rows = report.get("accuracy", {}).get("passes", [])
    if len(rows) < 2:
        return []
    names, charts = [row["pass"] for row in rows], []
    if all("accuracy" in row for row in rows):
        points = [(float(i), 100 * row["accuracy"]) for i, row in enumerate(rows)]
        charts.append(lines({"accuracy": points}, "pass", "accuracy, %", "Accuracy after every pass.", names=names, least=2))
    first = rows[0]["spikes"]
    if first:
        drift = [(float(i), 100 * (row["spikes"] / first - 1)) for i, row in enumerate(rows)]
        charts.append(lines({"drift": drift}, "pass", "spikes more than in the source, %",
                            "How many more spikes the network sends after every pass.", names=names, least=2))
    return charts


def early_exit(report: Mapping[str, Any]) -> list[Chart]:
    """How many samples have ended after every step, and how many would be right if all were read there."""
    found = report.get("early_exit", {})
    if "steps" not in found:
        return []
    whole = sum(found["steps"])
    series = {"ended": [(i + 1.0, 100 * ended / whole) for i, ended in enumerate(accumulate(found["steps"]))]}
    if "accuracy_by_step" in found:
        series["right, were all read here"] = [(i + 1.0, 100 * share) for i, share in enumerate(found["accuracy_by_step"])]
    return [lines(series, "after so many steps", "samples, %", "When samples end, and what reading them earlier gives.",
                  zero=True)]


def layers(report: Mapping[str, Any]) -> list[Chart]:
    """Spikes and synaptic operations of every layer."""
    measured = [row for row in report["layers"] if "synops_per_sample" in row]
    rows = measured[:_MOST_BARS]
    if not rows:
        return []
    which = "every layer" if rows == measured else f"the first {len(rows)} of {len(measured)} layers; the table has all"
    panels = [(what, [row.get(key) for row in rows], ["" if key not in row else number(row[key]) for row in rows])
              for what, key in (("spikes per sample", "spikes_per_sample"), ("synops per sample", "synops_per_sample"))]
    return [bars([row["name"] for row in rows], panels, f"Activity of {which}.")]


def weights(report: Mapping[str, Any]) -> list[Chart]:
    """Weights before and after quantise, a chart per layer."""
    charts = []
    for row in report.get("histograms", []):
        own = row.get("weights", {})
        if len(own.get("before", [])) > 1:
            charts.append(_two(own, f"weights into {row['name']}",
                               f"{row['name']}: {sum(own['before']):,} weights, {own['levels']:,} different integers."))
    return charts


def thresholds(report: Mapping[str, Any]) -> list[Chart]:
    """The same of thresholds, where those of a layer differ."""
    return [_two(own, f"thresholds of {row['name']}", f"{row['name']}: its different thresholds.")
            for row in report.get("histograms", []) if len((own := row.get("thresholds", {})).get("before", [])) > 1]


def _two(own: Mapping[str, Any], what: str, caption: str) -> Chart:
    return histogram(own["low"], own["high"], {"before": own["before"], "after": own["after"]}, what, caption)


def raster(report: Mapping[str, Any]) -> list[Chart]:
    """One sample: a line per shown neuron, a column per step, darker where more was sent at once."""
    found = report.get("raster")
    if not found:
        return []
    left, top, high, gap = 66.0, 4.0, 5.0, 8.0
    wide = min(14.0, (WIDTH - left - 6) / found["shown_steps"])
    parts, y = [], top
    for place, row in enumerate(found["rows"]):
        tall = high * len(row["trains"])
        right = left + wide * found["shown_steps"]
        parts.append(f'<path class="grid" d="M{n(left)},{n(y)}H{n(right)}V{n(y + tall)}H{n(left)}z"/>')
        parts.append(text(left - 6, y + tall / 2 + 4, fitted(row["name"], left - 8), "end"))
        parts += _spikes(row, place, left, y, wide, high)
        y += tall + gap
    if "exit" in found:
        x = left + wide * min(found["exit"], found["shown_steps"])
        parts.append(f'<path class="line level" stroke="var(--ink)" d="M{n(x)},{n(top)}V{n(y - gap)}"/>')
    parts += [text(left + wide * (step - 0.5), y + 8, str(step), "middle small") for step in _marked(found["shown_steps"])]
    parts.append(text(left - 6, y + 8, "step", "end small"))
    return [{"caption": "The first sample.", "svg": svg(WIDTH, y + 14, "".join(parts), "Spikes of the first sample")}]


def _spikes(row: Mapping[str, Any], place: int, left: float, top: float, wide: float, high: float) -> list[str]:
    """A path for each strength of signal."""
    strength: dict[float, list[str]] = {}
    for line, train in enumerate(row["trains"]):
        for step, letter in enumerate(train):
            shade = _shade(letter, "low" in row)
            if shade:
                x, y = left + wide * step + 0.5, top + high * (line + 0.5)
                strength.setdefault(shade, []).append(f"M{n(x)},{n(y)}h{n(max(0.8, wide - 1))}")
    return [f'<path stroke="var(--s{place % 6})" stroke-opacity="{shade:g}" stroke-width="{n(high - 1)}" fill="none" '
            f'd="{"".join(way)}"/>' for shade, way in sorted(strength.items())]


def _shade(letter: str, membrane: bool) -> float:
    """How dark a letter of a train is drawn, 0..1; a single spike is as dark as it gets, a payload by its size."""
    if membrane:
        return int(letter) / 9
    if letter in ".0":
        return 0.0
    return 1.0 if letter in "1+-" else 0.55 + 0.05 * int(letter)


def _marked(steps: int) -> Sequence[int]:
    every = max(1, -(-steps // 8))
    return range(1, steps + 1, every)


def core_map(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The picture of the cores, its legend, and how many cores it leaves out."""
    found = report.get("core_map")
    if not found:
        return None
    return {"svg": cores.drawing(found), "legend": cores.legend(found), "shown": cores.shown(found), "cores": found["cores"]}


def graphs(report: Mapping[str, Any]) -> list[str]:
    """The network before and after mapping."""
    on = report.get("core_map", {}).get("layers") or [row["name"] for row in report["layers"]]
    return [drawing.draw(graph, drawing.TITLES[key], on) for key, graph in report.get("graph", {}).items()]

"""The report as the last screen of a compile: at most fifteen lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from d2e.compiler.energy import GIVEN
from d2e.compiler.report.words import clip, percent, points, printable, signed

LINES = 15
_NAME = 48
"""Letters of a node's name, so that what is said of it has room."""


def text(report: Mapping[str, Any], path: str | None = None) -> str:
    """Fit, accuracy, activity and warnings of a report, and where it was written."""
    report = printable(report)
    lines = [*_head(report), *_accuracy(report), *_early_exit(report), *_activity(report)]
    tail = [f"written    {path}"] if path else []
    room = LINES - len(lines) - len(tail)
    return "\n".join([*lines, *_warnings(report["warnings"], room), *tail]) + "\n"


def _head(report: Mapping[str, Any]) -> list[str]:
    engine, totals = report["engine"], report["totals"]
    exact = engine.get("bit_exact_with")
    size = f"{totals['neurons']:,} neurons, {totals['synapses']:,} synapses"
    lines = [f"target     {report['target']} (engine {engine['name']}{f', bit-exact with {exact}' if exact else ''})",
             f"network    {len(report['layers'])} populations, {size}"]
    return [*lines, fit(report["fit"], report.get("fit_source", ""))] if report.get("fit") else lines


def _accuracy(report: Mapping[str, Any]) -> list[str]:
    accuracy = report.get("accuracy")
    if not accuracy:
        return ["accuracy   not measured (give --eval)"]
    passes = accuracy["passes"]
    if "source" in accuracy:
        drop = accuracy["source"] - accuracy["program"]
        ann = f"{percent(accuracy['ann'])} ANN -> " if "ann" in accuracy else ""
        lines = [f"accuracy   {ann}{percent(accuracy['source'])} float -> {percent(accuracy['program'])} program "
                 f"({points(-drop)} points, {accuracy['samples']} samples)"]
    else:
        lines = ["accuracy   not measured (the data have no labels)"]
    changed = [p for i, p in enumerate(passes) if i == 0 or _differs(p, passes[i - 1])]
    for p in changed[:4]:
        right = f"{percent(p['accuracy'])}, " if "accuracy" in p else ""
        lines.append(f"  {p['pass']:<17}{right}{p['spikes']:,.1f} spikes, largest count error {p['max_count_error']}")
    return lines


def _differs(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return any(a.get(k) != b.get(k) for k in ("accuracy", "spikes", "max_count_error"))


def _early_exit(report: Mapping[str, Any]) -> list[str]:
    found = report.get("early_exit")
    if not found:
        return []
    if "mean_steps" not in found:
        return [f"early exit by the rule {found['rule']!r}, not measured"]
    whole = f"; all steps: {percent(found['accuracy_full'])}" if "accuracy_full" in found else ""
    return [f"early exit {found['mean_steps']:.2f} of {found['time_steps']} steps in the mean, "
            f"{100 * found['saved_spikes']:.0f} % fewer spikes{whole}"]


def _activity(report: Mapping[str, Any]) -> list[str]:
    totals, lines = report["totals"], []
    if "spikes_per_sample" in totals:
        spikes, synops = totals["spikes_per_sample"], totals["synops_per_sample"]
        lines.append(clip(f"on chip    {spikes:,.1f} spikes, {synops:,.0f} synops per sample{_drift(report)}"))
    if "host" in report:
        lines.append(clip(_host(report)))
    if "latency_steps" in totals:
        lines.append(f"latency    {totals['latency_steps']} steps from a frame to its output")
    return [*lines, *(clip(f"energy     {row['value_j']:.3g} J per sample ({row['label']}: {row['source']})")
                      for row in report.get("energy", []) if row.get("of") == GIVEN)]


def _host(report: Mapping[str, Any]) -> str:
    """What runs on the host, by kind, and how often values pass between host and chip."""
    kinds = Counter(row["kind"] for row in report["host"])
    macs = sum(row.get("macs", 0) for row in report["host"])
    listed = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())
    times = len(report["boundaries"])
    return f"on host    {listed}; {macs:,} operations per frame, {times} times to the chip and back"


def worst_drift(report: Mapping[str, Any]) -> tuple[str, float] | None:
    """The population whose spikes differ most from the source's, and by which share; infinite where the source has none."""
    drifts = [(row["name"], row.get("drift", math.inf)) for row in report["layers"]
              if "drift" in row or ("spikes_source_per_sample" in row and row.get("spikes_per_sample"))]
    return max(drifts, key=lambda d: abs(d[1]), default=None)


def _drift(report: Mapping[str, Any]) -> str:
    worst = worst_drift(report)
    if worst is None:
        return ""
    name, most = clip(worst[0], _NAME), worst[1]
    return f"; layers differ from the source by up to {signed(most)} ({name})" if most else "; layers as the source"


def _warnings(found: list[Mapping[str, Any]], room: int) -> list[str]:
    if not found:
        return ["warnings   none"]
    if room < 2 or (len(found) > 1 and room < 3):
        return [f"warnings   {len(found)}, see report.json"]
    shown = found[: max(1, room - 2)] if len(found) > room - 1 else found
    lines = [f"warnings   {len(found)}"]
    lines += [clip(f"  {w['code']} {clip(w.get('node', ''), _NAME)}: {w['message']}") for w in shown]
    if len(shown) < len(found):
        lines.append(f"  and {len(found) - len(shown)} more in report.json")
    return lines


def fit(used: Mapping[str, Mapping[str, int]], source: str, width: int = 140) -> str:
    """The cores and the scarcest resources, as many as one line holds, and where their limits come from."""
    end = f" ({source.split(' (')[0]})" if source else ""
    line = "fit       "
    shown = (f for f in used.items() if f[0] == "cores" or f[1]["limit"] > 1)
    scarce = sorted(shown, key=lambda f: -f[1]["used"] / f[1]["limit"])
    for name, r in sorted(scarce, key=lambda f: f[0] != "cores"):
        part = f" {name.replace('_', ' ')} {r['used']:,}/{r['limit']:,}"
        if len(line) + len(part) + len(end) + 2 <= width:
            line += f"{' ·' if '/' in line else ''}{part}"
    return line + end

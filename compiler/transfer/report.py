"""The report of a transfer: at most fifteen lines of text, report.json, report.html and epochs.csv.

Accuracies are shares 0..1, spikes, synops and events means per sample, rates spikes per neuron and step, energies joules. A
number without data is absent, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2e.compiler.report.template import render
from d2e.compiler.report.text import LINES
from d2e.compiler.report.words import clip, number, percent, table_csv

SCHEMA = 1
_DIGITS, _WIDTH = 6, 140
_SETTINGS = ("alpha", "temperature", "divergence", "epochs", "batch", "learning_rate", "augment")


def text(facts: Mapping[str, Any], path: str | None = None) -> str:
    """The last screen; what is missing in the facts is left out, and what finds no room is in the page.

    Args:
        facts: of a transfer, as in report.json.
        path: of the folder it was written to.
    """
    head = [_method(facts), *_teacher(facts), *(_stage(facts, stage) for stage in facts.get("stages", []))]
    figures = [*_bound(facts), *_rates(facts), *_energy(facts), *_encoder(facts), *_gradient(facts)]
    programs = [_program(program) for program in facts.get("programs", [])]
    tail = [f"written    {path}"] if path else []
    warned = _warnings(facts, max(1, LINES - len(head) - len(programs) - len(tail) - len(figures)))
    room = max(0, LINES - len(head) - len(programs) - len(warned) - len(tail))
    lines = [*head, *programs, *figures[:room], *warned][: LINES - len(tail)]
    return "\n".join([*map(clip, lines), *tail]) + "\n"


def _method(facts: Mapping[str, Any]) -> str:
    given = facts.get("settings", {})
    told = [f"{name.replace('_', ' ')} {_plain(given[name])}" for name in _SETTINGS if given.get(name, "none") != "none"]
    stated = {"encoding": "encoding", "T": "time_steps", "seed": "seed"}
    parts = [f"{name} {facts[key]}" for name, key in stated.items() if key in facts]
    return f"method     {', '.join([str(facts.get('method', 'not stated')), *parts, *told])}"


def _teacher(facts: Mapping[str, Any]) -> list[str]:
    found = facts.get("teacher", {})
    if "accuracy" not in found:
        return []
    samples = samples_of(facts)
    activity = f", {number(float(found['spikes']))} spikes" if "spikes" in found else ""
    return [f"teacher    {percent(found['accuracy'])} on images{activity}{f' ({samples:,} samples)' if samples else ''}"]


def _stage(facts: Mapping[str, Any], stage: Mapping[str, Any]) -> str:
    parts = [percent(stage["accuracy"])] if "accuracy" in stage else []
    share = recovered(facts, stage)
    parts += [f"{100 * share:.1f} % of the teacher's"] if share is not None else []
    parts += [f"KL {stage['kl']:.3g} nats"] if "kl" in stage else []
    names = {"input_events": "events in", "spikes": "spikes", "synops": "synops"}
    parts += [f"{number(float(stage[key]))} {name}" for key, name in names.items() if key in stage]
    return f"{stage['name']:<10} {', '.join(parts)}"


def _program(program: Mapping[str, Any]) -> str:
    parts = [percent(program["accuracy"])] if "accuracy" in program else ["accuracy not measured"]
    names = {"input_events": "events in", "spikes": "spikes", "synops": "synops", "cores": "cores",
             "latency_steps": "steps of latency"}
    parts += [f"{number(program[key])} {name}" for key, name in names.items() if key in program]
    return f"{program['target']:<10} {', '.join(parts)}"


def _bound(facts: Mapping[str, Any]) -> list[str]:
    found = verdict(facts)
    return [f"bound      {found}"] if found else []


def verdict(facts: Mapping[str, Any]) -> str | None:
    """Whether the soft gap is within sqrt(KL / 2) wherever it was measured, in words; None: it was not."""
    named = [(stage["name"], stage) for stage in facts.get("stages", [])]
    named += [(f"epoch {row['epoch']}", row["held"]) for row in facts.get("epochs", []) if "held" in row]
    judged = [(name, row) for name, row in named if "holds" in row]
    if not judged:
        return None
    wrong = [name for name, row in judged if not row["holds"]]
    if wrong:
        return f"DOES NOT HOLD in {', '.join(wrong[:6])}{' …' if len(wrong) > 6 else ''}: the logits there are no numbers"
    where = " and ".join(filter(None, (_count(facts, "epochs", "epoch"), _count(facts, "stages", "stage"))))
    last = judged[-1][1] if not facts.get("stages") else facts["stages"][-1]
    figures = f": soft gap {last['soft_gap']:.3g} <= {last['bound']:.3g}" if {"soft_gap", "bound"} <= last.keys() else ""
    error = f" (standard error {last['bound_error']:.2g})" if figures and "bound_error" in last else ""
    related = f"; KL and gap correlate by {facts['pearson']:.2f}" if facts.get("pearson") is not None else ""
    return f"holds in {where}{figures}{error}{related}"


def _count(facts: Mapping[str, Any], key: str, what: str) -> str:
    found = len(facts.get(key, []))
    return f"{found} {what}{'s' if found > 1 else ''}" if found else ""


def _rates(facts: Mapping[str, Any]) -> list[str]:
    rows = facts.get("collapse")
    if rows is None:
        return []
    if not rows:
        return ["rates      no layer has collapsed"]
    listed = ", ".join(f"layer {row['layer']} {row.get('state', 'collapsed')}" for row in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return [f"rates      {listed}{more}: {rows[0]['remedy']}"]


def _encoder(facts: Mapping[str, Any]) -> list[str]:
    found = facts.get("encoder", {})
    if "entropy_bits" not in found:
        return []
    most = f" of at most {found['ceiling_bits']:.2f}" if "ceiling_bits" in found else ""
    pixel = f", {found['pixel_bits']:.2f} in the image" if "pixel_bits" in found else ""
    sends = f"; {100 * found['spike_fraction']:.0f} % of the pixels send" if "spike_fraction" in found else ""
    return [f"encoder    {found['entropy_bits']:.2f} bits a pixel{most}{pixel}{sends}"]


def _gradient(facts: Mapping[str, Any]) -> list[str]:
    found = facts.get("gradient", {})
    parts = [f"cosine {found['cosine']:.2f} to that on images"] if "cosine" in found else []
    parts += [f"their difference {found['relative_norm']:.3g} times its norm"] if "relative_norm" in found else []
    return [f"gradient   at the start on events: {', '.join(parts)}"] if parts else []


def _energy(facts: Mapping[str, Any]) -> list[str]:
    rows = facts.get("energy", [])
    if not rows:
        return []
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["of"], []).append(row)
    shown = [found[name] for name in dict.fromkeys([next(iter(found)), rows[-1]["of"]])]
    line = f"energy     {rows[0]['label']}: {', '.join(map(_joules, shown))}"
    for part in rows[0]["source"].split("; "):
        line += f"; {part}" if len(line) + len(part) + 2 <= _WIDTH else ""
    return [line]


def _joules(rows: Sequence[Mapping[str, Any]]) -> str:
    """One value, and those under other conventions."""
    first, *others = rows
    also = ", ".join(f"{row['note']}: {1e6 * row['value_j']:.3g}" for row in others)
    return f"{first['of']} {1e6 * first['value_j']:.3g} uJ{f' ({also})' if also else ''}"


def _warnings(facts: Mapping[str, Any], room: int) -> list[str]:
    found = facts.get("warnings", [])
    if not found:
        return []
    shown = found[: max(0, room - 1)]
    more = "" if len(shown) == len(found) else ", see report.json"
    return [f"warnings   {len(found)}{more}", *(f"  {w['code']} {w.get('node', '')}: {w['message']}" for w in shown)]


def write(facts: Mapping[str, Any], folder: Path) -> None:
    """report.json, report.html and, where there are epochs, epochs.csv, into a folder that is there; the same to the byte.

    Args:
        facts: of a transfer.
        folder: to write to.
    """
    data = rounded({"schema": SCHEMA, **facts})
    dumped = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(dumped + "\n", encoding="utf-8")
    (folder / "report.html").write_text(html(facts), encoding="utf-8")
    if data.get("epochs"):
        (folder / "epochs.csv").write_text(epochs_csv(data["epochs"]), encoding="utf-8")


def html(facts: Mapping[str, Any]) -> str:
    """One page that needs nothing else."""
    from d2e.compiler.transfer.plots import charts

    data = rounded(facts)
    stages = [{**stage, "recovered": recovered(data, stage)} for stage in data.get("stages", [])]
    return render(Path(__file__).resolve().parent / "report.html.j2", {
        "facts": data, "charts": charts(data), "stages": stages, "verdict": verdict(data), "samples": samples_of(data),
        "layers": _layers(data),
    }, plain=_plain)


def _layers(facts: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """(layer, rates of teacher and stages): layers in order, as an event mapping changes the names."""
    series = [facts.get("teacher", {}).get("rates"), *(stage.get("rates") for stage in facts.get("stages", []))]
    names = list(next((own for own in series if own), {}))
    values = [[None] * len(names) if not own else list(own.values()) for own in series]
    return [(name, [column[i] for column in values]) for i, name in enumerate(names)]


def epochs_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row per epoch; what was measured on held-out data is named held_…."""
    flat: list[Mapping[str, Any]] = []
    for row in rows:
        own = {key: value for key, value in row.items() if key != "held"}
        flat.append({**own, **{f"held_{key}": value for key, value in row.get("held", {}).items()}})
    return table_csv(flat)


def rounded(value: Any) -> Any:
    """Plain JSON, floats to six digits; entries that are None or no numbers are left out."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        kept = {str(key): rounded(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each is not None}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def recovered(facts: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
    """Accuracy as a share of the teacher's; None where it is not known."""
    whole = facts.get("teacher", {}).get("accuracy")
    return row["accuracy"] / whole if whole and "accuracy" in row else None


def samples_of(facts: Mapping[str, Any]) -> int | None:
    """How many samples the stages were measured on."""
    data = facts.get("data", {})
    found: int | None = data.get("eval", data.get("held"))
    return found


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

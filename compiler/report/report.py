"""The report as data (report.json, schema 1) and as at most fifteen lines of text.

A number without data is absent, never 0. Accuracies are shares 0..1; spikes and synops are means per sample.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
LINES = 15


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        data: as in report.json.
    """

    data: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def get(self, key: str, default: Any = None) -> Any:
        """``data.get``."""
        return self.data.get(key, default)

    def json(self) -> str:
        """The bytes of report.json."""
        return json.dumps(self.data, indent=1, ensure_ascii=False) + "\n"

    def layers_csv(self) -> str:
        """The layers as a table, one row each."""
        return table_csv(list(self.data["layers"]))

    def html(self) -> str:
        """The report as one self-contained page."""
        from jinja2 import Environment, StrictUndefined

        folder = Path(__file__).resolve().parent
        page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        page.filters |= {"percent": _percent, "number": number, "signed": _signed}
        template = page.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
        return template.render(report=self.data)

    def text(self, path: str | None = None) -> str:
        """The last screen: at most 15 lines."""
        lines = [*self._head(), *self._accuracy(), *self._early_exit(), *self._activity()]
        tail = [f"written    {path}"] if path else []
        room = LINES - len(lines) - len(tail)
        return "\n".join([*lines, *self._warnings(room), *tail]) + "\n"

    def _head(self) -> list[str]:
        d = self.data
        exact = d["engine"].get("bit_exact_with")
        lines = [f"target     {d['target']} (engine {d['engine']['name']}{f', bit-exact with {exact}' if exact else ''})"]
        totals = d["totals"]
        size = f"{totals['neurons']:,} neurons, {totals['synapses']:,} synapses"
        lines.append(f"network    {len(d['layers'])} populations, {size}")
        if d.get("fit"):
            lines.append(_fit(d["fit"], d.get("fit_source", "")))
        return lines

    def _accuracy(self) -> list[str]:
        accuracy = self.data.get("accuracy")
        if not accuracy:
            return ["accuracy   not measured (give --eval)"]
        passes = accuracy["passes"]
        if "source" in accuracy:
            drop = accuracy["source"] - accuracy["program"]
            ann = f"{_percent(accuracy['ann'])} ANN -> " if "ann" in accuracy else ""
            lines = [f"accuracy   {ann}{_percent(accuracy['source'])} float -> {_percent(accuracy['program'])} program "
                     f"({_points(-drop)} points, {accuracy['samples']} samples)"]
        else:
            lines = ["accuracy   not measured (the data have no labels)"]
        changed = [p for i, p in enumerate(passes) if i == 0 or _differs(p, passes[i - 1])]
        for p in changed[:4]:
            right = f"{_percent(p['accuracy'])}, " if "accuracy" in p else ""
            lines.append(f"  {p['pass']:<17}{right}{p['spikes']:,.1f} spikes, largest count error {p['max_count_error']}")
        return lines

    def _early_exit(self) -> list[str]:
        found = self.data.get("early_exit")
        if not found:
            return []
        if "mean_steps" not in found:
            return [f"early exit by the rule {found['rule']!r}, not measured"]
        whole = f"; all steps: {_percent(found['accuracy_full'])}" if "accuracy_full" in found else ""
        return [f"early exit {found['mean_steps']:.2f} of {found['time_steps']} steps in the mean, "
                f"{100 * found['saved_spikes']:.0f} % fewer spikes{whole}"]

    def _activity(self) -> list[str]:
        totals = self.data["totals"]
        lines = []
        if "spikes_per_sample" in totals:
            spikes, synops = totals["spikes_per_sample"], totals["synops_per_sample"]
            lines.append(_clip(f"on chip    {spikes:,.1f} spikes, {synops:,.0f} synops per sample{self._drift()}"))
        if "host" in self.data:
            lines.append(_clip(self._host()))
        if "latency_steps" in totals:
            lines.append(f"latency    {totals['latency_steps']} steps from a frame to its output")
        for entry in self.data.get("energy", []):
            lines.append(f"energy     {entry['value_j']:.3g} J per sample ({entry['label']}: {entry['source']})")
        return lines

    def _host(self) -> str:
        """What runs on the host, by kind, and how often values pass between host and chip."""
        kinds = Counter(row["kind"] for row in self.data["host"])
        macs = sum(row.get("macs", 0) for row in self.data["host"])
        listed = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())
        times = len(self.data["boundaries"])
        return f"on host    {listed}; {macs:,} operations per frame, {times} times to the chip and back"

    def _drift(self) -> str:
        """The population whose spikes differ most from the source's."""
        drifts = [(row["drift"], row["name"]) for row in self.data["layers"] if "drift" in row]
        if not drifts:
            return ""
        most, name = max(drifts, key=lambda d: abs(d[0]))
        return f"; layers differ from the source by up to {_signed(most)} ({name})" if most else "; layers as the source"

    def _warnings(self, room: int) -> list[str]:
        found = self.data["warnings"]
        if not found:
            return ["warnings   none"]
        if room < 2 or (len(found) > 1 and room < 3):
            return [f"warnings   {len(found)}, see report.json"]
        shown = found[: max(1, room - 2)] if len(found) > room - 1 else found
        lines = [f"warnings   {len(found)}"]
        lines += [_clip(f"  {w['code']} {w.get('node', '')}: {w['message']}") for w in shown]
        if len(shown) < len(found):
            lines.append(f"  and {len(found) - len(shown)} more in report.json")
        return lines


def table_csv(rows: list[Mapping[str, Any]]) -> str:
    """Rows as CSV, the columns of all rows in the order they first appear."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _differs(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return any(a.get(k) != b.get(k) for k in ("accuracy", "spikes", "max_count_error"))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _signed(share: float) -> str:
    return f"{100 * share + 0.0:+.2f} %"


def _points(share: float) -> str:
    return f"{100 * share + 0.0:+.2f}"


def number(value: Any) -> str:
    """A number as people read it: thousands separated, small ones with a few digits; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _fit(fit: Mapping[str, Mapping[str, int]], source: str, width: int = 140) -> str:
    """The cores and the scarcest resources, as many as one line holds, and where their limits come from."""
    end = f" ({source.split(' (')[0]})" if source else ""
    line = "fit       "
    shown = (f for f in fit.items() if f[0] == "cores" or f[1]["limit"] > 1)
    scarce = sorted(shown, key=lambda f: -f[1]["used"] / f[1]["limit"])
    for name, r in sorted(scarce, key=lambda f: f[0] != "cores"):
        part = f" {name.replace('_', ' ')} {r['used']:,}/{r['limit']:,}"
        if len(line) + len(part) + len(end) + 2 <= width:
            line += f"{' ·' if '/' in line else ''}{part}"
    return line + end


def _clip(line: str, width: int = 140) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"

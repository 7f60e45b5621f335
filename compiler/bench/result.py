"""What a benchmark found, as JSON and as a table of samples.

``times``, ``throughput`` and which device had a sample change from run to run; everything else is the same.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2e.compiler.bench import screen
from d2e.compiler.bench.figures import Part
from d2e.compiler.files import new_folder
from d2e.ir import UsageError

HOST, SIMULATED, MEASURED = "measured on this host", "simulated", "measured on the device"
COLUMNS = ("sample", "prediction", "label", "spikes", "synops", "steps", "latency_ms", "device", "counts_sha256",
           "answer_sha256")


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        data: as in bench.json.
        rows: per sample, as in samples.csv.
    """

    data: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def get(self, key: str, default: Any = None) -> Any:
        """``data.get``."""
        return self.data.get(key, default)

    def json(self) -> str:
        """The bytes of bench.json."""
        return json.dumps(self.data, indent=1, ensure_ascii=False) + "\n"

    def csv(self) -> str:
        """The bytes of samples.csv: a row per sample that is done."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
        table.writeheader()
        table.writerows(self.rows)
        return text.getvalue()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a folder with bench.json and samples.csv, whole or not at all.

        Raises:
            UsageError: D2E-FILE-010 where something else is there, -011 where nothing can be written.
        """
        folder = Path(path)
        with new_folder(folder) as temporary:
            (temporary / "bench.json").write_text(self.json(), encoding="utf-8")
            (temporary / "samples.csv").write_text(self.csv(), encoding="utf-8")
            files = ["bench.json", "samples.csv"]
            manifest = {"d2e": self.data["schema"], "target": self.data["program"]["target"], "files": files}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        return folder

    def text(self, path: str | None = None) -> str:
        """One screen: at most 15 lines."""
        return screen.text(self.data, path)


class Unwritten(UsageError):
    """A benchmark that ran, and cannot be written.

    Attributes:
        bench: its figures.
    """

    bench: Bench


def written(bench: Bench, output: str | os.PathLike[str] | None) -> Unwritten | None:
    """Save a benchmark, where a folder is named; the fault that keeps it from that."""
    if output is None:
        return None
    try:
        bench.save(output)
    except UsageError as fault:
        error = Unwritten(fault.code, fault.message, hint=fault.hint)
        error.bench = bench
        return error
    return None


def gathered(
    parts: Mapping[tuple[int, int], Part], starts: Mapping[int, int], facts: Mapping[str, Any], label: str
) -> Bench:
    """The figures of batches.

    Args:
        parts: (repeat, batch) -> what it did.
        starts: batch -> its first sample.
        facts: of the run: schema, program, data, engine, batch, repeat, elapsed.
        label: of the figures of spikes: `SIMULATED` or `MEASURED`.
    """
    first = [(n, parts[r, n]) for r, n in sorted(parts) if r == min(k[0] for k in parts if k[1] == n)]
    rows = [row for n, part in first for row in _rows(starts[n], part)]
    data: dict[str, Any] = {**facts, "samples": len(rows), "done": _ranges([row["sample"] for row in rows])}
    data["complete"] = len(rows) == data["data"]["samples"] and len(parts) == data["repeat"] * len(starts)
    if not rows:
        return Bench(data, rows)
    data["populations"] = first[0][1].populations
    labelled = [row for row in rows if "label" in row]
    if len(labelled) == len(rows):
        data["accuracy"] = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    data["activity"] = {"label": label, **_sums(rows, [part for _, part in first])}
    peaks = _peaks(parts.values())
    if peaks:
        data["peaks"] = {"label": label, **peaks}
    if data["repeat"] > 1:
        data["repeats_differ"] = _unstable(parts)
    data["times"] = _latencies(parts.values(), facts.get("elapsed_s"), facts.get("ran", 0))
    data["devices"] = _of_devices(parts.values())
    return Bench({k: v for k, v in data.items() if k not in ("elapsed_s", "ran")}, rows)


def _rows(start: int, part: Part) -> list[dict[str, Any]]:
    batch = len(part.predictions)
    each = part.each or [part.seconds / batch] * batch
    rows = []
    for i in range(batch):
        row: dict[str, Any] = {
            "sample": start + i, "prediction": part.predictions[i], "spikes": part.spikes[i],
            "latency_ms": round(1000 * each[i], 4), "device": part.device, "counts_sha256": part.counts[i],
            "answer_sha256": part.answers[i],
        }
        if part.labels is not None:
            row["label"] = part.labels[i]
        if part.synops is not None:
            row["synops"] = part.synops[i]
        if part.steps[i]:
            row["steps"] = part.steps[i]
        rows.append(row)
    return rows


def _ranges(samples: Sequence[int]) -> list[list[int]]:
    """[first, last] of every run of sample numbers."""
    found: list[list[int]] = []
    for sample in sorted(samples):
        if found and sample == found[-1][1] + 1:
            found[-1][1] = sample
        else:
            found.append([sample, sample])
    return found


def _sums(rows: Sequence[Mapping[str, Any]], parts: Sequence[Part]) -> dict[str, Any]:
    table: dict[str, dict[str, int]] = {}
    for part in parts:
        for name, row in part.layers.items():
            own = table.setdefault(name, dict.fromkeys(row, 0))
            for key, value in row.items():
                own[key] += value
    found: dict[str, Any] = {"spikes_per_sample": sum(row["spikes"] for row in rows) / len(rows)}
    if all("synops" in row for row in rows):
        found["synops_per_sample"] = sum(row["synops"] for row in rows) / len(rows)
    if all("steps" in row for row in rows):
        found["steps_per_sample"] = sum(row["steps"] for row in rows) / len(rows)
    found["layers"] = [
        {"name": name, **{f"{key}_per_sample": value / len(rows) for key, value in row.items()}}
        for name, row in table.items()
    ]
    return found


def _peaks(parts: Sequence[Part] | Any) -> dict[str, dict[str, float]]:
    """The most of any batch: spikes_per_core_and_step, synops_per_layer_and_step, synops_per_core_and_s."""
    names = {"spikes": "spikes_per_core_and_step", "synops": "synops_per_layer_and_step",
             "synops_per_s": "synops_per_core_and_s"}
    found: dict[str, dict[str, float]] = {}
    for part in parts:
        for what, row in part.peaks.items():
            own = found.setdefault(names[what], {})
            for where, value in row.items():
                own[where] = max(own.get(where, value), value)
    return found


def _unstable(parts: Mapping[tuple[int, int], Part]) -> int:
    """Samples whose counts are not the same in every repeat."""
    seen: dict[tuple[int, int], set[str]] = {}
    for (_, number_), part in parts.items():
        for i, digest in enumerate(part.counts):
            seen.setdefault((number_, i), set()).add(digest)
    return sum(len(digests) > 1 for digests in seen.values())


def _latencies(parts: Any, elapsed: float | None, ran: int) -> dict[str, Any]:
    every = list(parts)
    batches = np.array([part.seconds for part in every])
    alone = all(part.each is not None for part in every)
    samples = np.concatenate([part.each or [part.seconds / len(part.predictions)] * len(part.predictions) for part in every])

    def percentiles(seconds: Any) -> dict[str, float]:
        return {f"p{p}": round(float(np.percentile(1000 * seconds, p)), 4) for p in (50, 90, 99)}

    found: dict[str, Any] = {
        "label": HOST, "batches": len(every), "batch_ms": percentiles(batches), "sample_ms": percentiles(samples),
        "sample_is": "its own time" if alone else "an equal share of its batch's time",
    }
    if elapsed and ran:
        found["throughput_per_s"] = round(ran / elapsed, 3)
        found["elapsed_s"] = round(elapsed, 4)
    return found


def _of_devices(parts: Any) -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for part in parts:
        own = table.setdefault(part.device, {"name": part.device, "batches": 0, "samples": 0})
        own["batches"] += 1
        own["samples"] += len(part.predictions)
        if part.power:
            own["power"] = {"label": MEASURED, "rails": {
                rail: dict(zip(("idle", "total", "dynamic", "unit"), values, strict=True))
                for rail, values in part.power.items()
            }}
    return [table[name] for name in sorted(table)]

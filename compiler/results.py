"""Results of runs as files and as text, for ``d2e run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler.files import write_whole
from d2e.compiler.measure import classify
from d2e.compiler.program import Program
from d2e.ir import UsageError
from d2e.ir.reference import Record


def run_to_file(
    program: Program, data: data_sets.Source, *, engine: str | None = None, samples: int | None = None,
    record: str = "counts", output: str | None = None, as_json: bool = False,
) -> str:
    """Run a program on data; write ``output`` (arrays output, predictions, counts/NAME, …); return the summary.

    Raises:
        UsageError: D2E-FILE-011 where ``output`` cannot be written; D2E-USE-008 for an unknown record.
    """
    known = get_args(Record)
    if record not in known:
        raise UsageError("D2E-USE-008", f"there is no record {record!r}", hint=f"It is {', '.join(known)}.")
    given = data_sets.fit(data_sets.load(data), program.network).head(samples)
    result = program.run(given.frames, engine=engine, record=record)  # type: ignore[arg-type]
    predictions = classify(program.network, result.output)
    summary: dict[str, Any] = {
        "engine": result.engine, "samples": len(given),
        "spikes_per_sample": {n: float(c.sum() / len(given)) for n, c in result.counts.items()},
    }
    if given.labels is not None:
        summary["accuracy"] = float((predictions == given.labels).mean())
    if output is not None:
        arrays = {"output": result.output, "predictions": predictions}
        for kind in ("counts", "spikes", "u", "v"):
            arrays |= {f"{kind}/{name}": a for name, a in getattr(result, kind).items()}
        write_whole(Path(output), arrays)
    if as_json:
        return json.dumps(summary, indent=1)
    spikes = ", ".join(f"{n} {v:,.1f}" for n, v in summary["spikes_per_sample"].items())
    right = f", accuracy {100 * summary['accuracy']:.2f} %" if "accuracy" in summary else ""
    return f"{result.engine}: {len(given)} samples{right}\nspikes per sample: {spikes}"


def stream_to_file(
    program: Program, recording: str, *, window_us: int = 1000, output: str | None = None, as_json: bool = False,
) -> str:
    """Run a recording of timed events; write ``output`` (output_us, output, counts/NAME); return the summary.

    Raises:
        UsageError: as `Program.stream`; D2E-FILE-011 where ``output`` cannot be written.
    """
    done = program.stream(recording, window_us=window_us)
    per_class = done.counts[program.network.incoming[program.network.outputs[0]][0].source].reshape(-1)
    seconds = done.duration_us / 1e6
    summary: dict[str, Any] = {
        "engine": program.target.predictor, "events": done.events, "duration_s": seconds,
        "prediction": int(per_class.argmax()) if per_class.any() else None,
        "populations": {
            name: {"spikes": int(done.counts[name].sum()), "synops": done.synops[name],
                   "peak_synops_per_s": done.peak_synops_per_s[name]} for name in done.counts
        },
    }
    if output is not None:
        counts = {f"counts/{name}": np.asarray(a) for name, a in done.counts.items()}
        write_whole(Path(output), {"output_us": done.output_us, "output": done.output, **counts})
    if as_json:
        return json.dumps(summary, indent=1)
    chosen = "no output spike" if summary["prediction"] is None else (
        f"class {summary['prediction']} with {per_class.max():,} of {per_class.sum():,} output spikes")
    lines = [f"{summary['engine']}: {done.events:,} events in {seconds:g} s, {chosen}",
             f"{'population':<16}{'spikes':>12}{'synops':>14}{'peak synops/s':>16}"]
    return "\n".join([*lines, *(
        f"{name:<16}{row['spikes']:>12,}{row['synops']:>14,}{row['peak_synops_per_s']:>16,.0f}"
        for name, row in summary["populations"].items())])

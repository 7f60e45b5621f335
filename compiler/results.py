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
from d2e.ir.nodes import Array
from d2e.ir.reference import Record


def run_to_file(
    program: Program, data: data_sets.Source, *, engine: str | None = None, samples: int | None = None,
    record: str = "counts", output: str | None = None, as_json: bool = False,
) -> str:
    """Run a program on data; write ``output`` (arrays output, predictions, counts/NAME, …); return the summary.

    Where the program has an early exit, everything is as it stands there; ``steps`` [samples] and the mean are added.

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
    exits = program.network.output.exit is not None
    if exits:
        summary["mean_steps"] = float(result.steps.mean())
    if output is not None:
        arrays = {"output": result.output, "predictions": predictions, **({"steps": result.steps} if exits else {})}
        for kind in ("counts", "spikes", "u", "v"):
            arrays |= {f"{kind}/{name}": a for name, a in getattr(result, kind).items()}
        write_whole(Path(output), arrays)
    if as_json:
        return json.dumps(summary, indent=1)
    spikes = ", ".join(f"{n} {v:,.1f}" for n, v in summary["spikes_per_sample"].items())
    right = f", accuracy {100 * summary['accuracy']:.2f} %" if "accuracy" in summary else ""
    early = f", {summary['mean_steps']:.2f} of {result.output.shape[1]} steps in the mean" if exits else ""
    return f"{result.engine}: {len(given)} samples{right}{early}\nspikes per sample: {spikes}"


def stream_to_file(
    program: Program, recording: str, *, window_us: int = 1000, output: str | None = None, as_json: bool = False,
) -> str:
    """Run recordings of timed events, each from rest; write ``output``; return the summary.

    A file with a column ``sample`` holds several recordings, and maybe their ``label`` [samples]. ``output`` then holds
    ``sample``, ``output_us`` and ``output`` (neuron) of every output spike, ``counts/NAME`` [samples, *shape] and
    ``predictions``.

    Raises:
        UsageError: as `Program.stream`; D2E-DATA-003 for labels that do not fit; D2E-FILE-011 where ``output`` cannot be
            written.
    """
    parts, labels = _recordings(recording)
    done = [program.stream(part, window_us=window_us) for part in parts]
    read = program.network.incoming[program.network.outputs[0]][0].source
    counts = {name: np.stack([d.counts[name] for d in done]) for name in done[0].counts}
    classes = counts[read].reshape(len(done), -1).argmax(axis=1)
    summary: dict[str, Any] = {
        "engine": program.target.predictor, "samples": len(done), "events": sum(d.events for d in done),
        "duration_s": sum(d.duration_us for d in done) / 1e6, "predictions": classes.tolist(),
        "populations": {
            name: {"spikes": int(own.sum()), "synops": sum(d.synops[name] for d in done),
                   "peak_synops_per_s": max(d.peak_synops_per_s[name] for d in done)} for name, own in counts.items()
        },
    }
    if labels is not None:
        summary["accuracy"] = float((classes == labels).mean())
    if output is not None:
        write_whole(Path(output), {
            "sample": np.repeat(np.arange(len(done)), [len(d.output) for d in done]),
            "output_us": np.concatenate([d.output_us for d in done]), "output": np.concatenate([d.output for d in done]),
            "predictions": classes, **{f"counts/{name}": own for name, own in counts.items()},
        })
    return json.dumps(summary, indent=1) if as_json else _stream_text(summary)


def _recordings(path: str) -> tuple[list[Any], Array | None]:
    """The recordings of a file, as the target reads them, and their labels."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except Exception:  # no .npz: the target reads it, or says why not
        return [path], None
    sample, labels = arrays.pop("sample", None), arrays.pop("label", None)
    if sample is None:
        return [arrays] if labels is not None else [path], labels
    samples = int(sample.max(initial=0)) + 1
    if labels is not None and labels.shape != (samples,):
        raise UsageError("D2E-DATA-003", f"{path} has labels of shape {list(labels.shape)} for {samples} recordings")
    return [{name: column[sample == i] for name, column in arrays.items()} for i in range(samples)], labels


def _stream_text(summary: dict[str, Any]) -> str:
    right = f", accuracy {100 * summary['accuracy']:.2f} %" if "accuracy" in summary else ""
    what = f"class {summary['predictions'][0]}" if summary["samples"] == 1 else f"{summary['samples']} recordings"
    lines = [f"{summary['engine']}: {what}{right}, {summary['events']:,} events in {summary['duration_s']:g} s",
             f"{'population':<16}{'spikes':>12}{'synops':>14}{'peak synops/s':>16}"]
    return "\n".join([*lines, *(
        f"{name:<16}{row['spikes']:>12,}{row['synops']:>14,}{row['peak_synops_per_s']:>16,.0f}"
        for name, row in summary["populations"].items())])

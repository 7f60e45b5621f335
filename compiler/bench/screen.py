"""A benchmark on one screen of at most fifteen lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LINES = 15


def text(data: Mapping[str, Any], path: str | None) -> str:
    """The screen of what is in bench.json, and where that is written."""
    if "compare" in data:
        from d2e.compiler.bench.compare import lines as compared

        lines = compared(data["compare"], data["data"]["name"])
    else:
        lines = [*_head(data), *_activity(data), *_times(data), *_devices(data)]
    tail = [f"written    {path}"] if path else []
    return "\n".join([*lines[: LINES - len(tail)], *tail]) + "\n"


def number(value: float) -> str:
    """Rounded for a screen."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _head(data: Mapping[str, Any]) -> list[str]:
    program, source, engine = data["program"], data["data"], data["engine"]
    exact = f", bit-exact with {engine['bit_exact_with']}" if engine.get("bit_exact_with") else ""
    lines = [f"program    {program.get('folder', program['target'])} on {engine['name']} ({engine['label']}{exact})"]
    part = "" if data["complete"] else f" of {source['samples']:,}: {ranges_text(data['done'])}"
    times = f", {data['repeat']} times" if data["repeat"] > 1 else ""
    lines.append(f"data       {data['samples']:,} samples{part} of {source['name']} in batches of {data['batch']}{times}")
    if "accuracy" in data:
        lines.append(f"accuracy   {100 * data['accuracy']:.2f} %")
    if data.get("repeats_differ"):
        lines.append(f"repeats    {data['repeats_differ']:,} samples had other counts another time")
    return lines


def ranges_text(done: Sequence[Sequence[int]]) -> str:
    """``0-63, 128-191``."""
    shown = [f"{a}-{b}" if b > a else str(a) for a, b in done]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "") if shown else "none"


def _activity(data: Mapping[str, Any]) -> list[str]:
    if "activity" not in data:
        return []
    own = data["activity"]
    synops = f", {number(own['synops_per_sample'])} synops" if "synops_per_sample" in own else ""
    lines = [f"activity   {number(own['spikes_per_sample'])} spikes{synops} per sample ({own['label']})"]
    busiest = sorted((r for r in own["layers"] if "synops_per_sample" in r), key=lambda r: -r["synops_per_sample"])[:3]
    if busiest:
        lines.append("busiest    " + ", ".join(f"{r['name']} {number(r['synops_per_sample'])} synops" for r in busiest))
    for what, table in data.get("peaks", {}).items():
        if what != "label" and table:
            where = max(table, key=lambda name: table[name])
            kind = "core" if what.startswith("spikes") else "layer"
            lines.append(f"peak       {table[where]:,.0f} {what.replace('_', ' ')} ({kind} {where})")
    return lines


def _times(data: Mapping[str, Any]) -> list[str]:
    if "times" not in data:
        return []
    own = data["times"]

    def told(key: str) -> str:
        return ", ".join(f"{p} {ms:.3g}" for p, ms in own[key].items())

    lines = [f"latency    batch {told('batch_ms')} ms ({own['label']})",
             f"           sample {told('sample_ms')} ms, {own['sample_is']}"]
    if "throughput_per_s" in own:
        lines.append(f"throughput {own['throughput_per_s']:,.1f} samples/s ({own['label']})")
    return lines


def _devices(data: Mapping[str, Any]) -> list[str]:
    own = data.get("devices", [])
    lines = []
    if len(own) > 1:
        lines.append("devices    " + ", ".join(f"{d['name']} {d['samples']:,}" for d in own[:6])
                     + (f" and {len(own) - 6} more" if len(own) > 6 else ""))
    for each in own:
        if "power" in each:
            rails = each["power"]["rails"]
            lines.append(f"power      {each['name']}: " + ", ".join(
                f"{rail} {r['total']:.4g} ({r['dynamic']:.3g} dynamic) {r['unit']}" for rail, r in rails.items())
                + f" ({each['power']['label']})")
    return lines

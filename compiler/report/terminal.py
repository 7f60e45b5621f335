"""The report in a terminal, for `d2e inspect`: what report.html shows, as far as letters can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from d2e.compiler.report import sketches
from d2e.compiler.report.page import fits
from d2e.compiler.report.tables import Column, console, facts, heading, table
from d2e.compiler.report.text import worst_drift
from d2e.compiler.report.words import command, engineering, number, percent, printable, signed

__all__ = ["console", "show"]


def show(report: Mapping[str, Any], made: Mapping[str, Any], path: str, to: Console) -> str:
    """A report as it is printed.

    Args:
        report: as in report.json.
        made: the manifest's facts.
        path: of the program.
        to: where, for its width and colours.
    """
    with to.capture() as shown:
        to.print(Text(path, "bold"), soft_wrap=True)
        for part in (_verdict, _passes, _exit, _layers, sketches.core_map, _fit, sketches.weights, sketches.sample,
                     _energy, _host, _warnings):
            part(printable(report), to)
        _made(printable(made), to)
    return "".join(f"{line.rstrip()}\n" for line in shown.get().splitlines())


def _verdict(report: Mapping[str, Any], to: Console) -> None:
    accuracy, totals, exact = report.get("accuracy", {}), report["totals"], report["engine"].get("bit_exact_with")
    engine = f"engine {report['engine']['name']}{f', bit-exact with {exact}' if exact else ''}"
    rows = [("target", f"{report['target']}, {engine}", "")]
    whole = fits(report)
    if whole is not None and "cores" in report["fit"]:
        used = report["fit"]["cores"]
        rows.append(("fit", f"{'fits' if whole else 'does not fit'}, {used['used']:,} of {used['limit']:,} cores",
                     "green" if whole else "red"))
    if "source" in accuracy:
        ann = f"{percent(accuracy['ann'])} ANN -> " if "ann" in accuracy else ""
        rows.append(("accuracy", f"{ann}{percent(accuracy['source'])} float -> {percent(accuracy['program'])} program, "
                     f"{accuracy['samples']:,} samples", "bold"))
    elif "program" in accuracy:
        rows.append(("accuracy", f"{percent(accuracy['program'])} program, {accuracy['samples']:,} samples", "bold"))
    else:
        rows.append(("accuracy", "not measured", ""))
    worst = worst_drift(report)
    if worst:
        rows.append(("largest drift", f"{signed(worst[1])} spikes ({worst[0]})", ""))
    if "spikes_per_sample" in totals:
        spikes, synops = number(totals["spikes_per_sample"]), number(totals["synops_per_sample"])
        rows.append(("activity", f"{spikes} spikes, {synops} synops per sample", ""))
    late = f", latency {totals['latency_steps']} steps" if "latency_steps" in totals else ""
    rows.append(("size", f"{totals['neurons']:,} neurons, {totals['synapses']:,} synapses{late}", ""))
    rows.append(("warnings", str(len(report["warnings"])), "yellow" if report["warnings"] else ""))
    facts(rows, to)


def _passes(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("accuracy", {}).get("passes", [])
    if rows:
        heading("After every pass", to)
        table([
            Column("pass", [row["pass"] for row in rows]),
            Column("accuracy", [percent(row["accuracy"]) if "accuracy" in row else "" for row in rows]),
            Column("spikes", [number(row["spikes"]) for row in rows], 1),
            Column("largest count error", [number(row["max_count_error"]) for row in rows], 2),
        ], to)


def _exit(report: Mapping[str, Any], to: Console) -> None:
    found = report.get("early_exit", {})
    if found and "steps" not in found:
        heading(f"Early exit: rule {found['rule']!r}, not measured", to)
    if "steps" not in found:
        return
    heading(f"Early exit: {found['mean_steps']:.2f} of {found['time_steps']} steps in the mean, "
             f"{percent(found['saved_spikes'])} fewer spikes", to)
    right = found.get("accuracy_by_step", [])
    rows = [(step, count) for step, count in enumerate(found["steps"], 1) if count]
    table([
        Column("after steps", [str(step) for step, _ in rows]), Column("samples end", [number(count) for _, count in rows]),
        Column("accuracy, were all read there", [percent(right[step - 1]) if right else "" for step, _ in rows], 1),
    ], to)


def _layers(report: Mapping[str, Any], to: Console) -> None:
    rows = report["layers"]

    def cells(key: str, write: Any = number) -> list[str]:
        return [write(row[key]) if key in row else "" for row in rows]

    heading("Layers", to)
    table([
        Column("name", [row["name"] for row in rows]),
        Column("kind", cells("kind", lambda kind: str(kind).replace("_", " ")), 4, True),
        Column("form", cells("form", str), 6, True),
        Column("neurons", cells("neurons"), 2), Column("synapses", cells("synapses"), 5),
        Column("bits", cells("weight_bits"), 7), Column("cores", cells("cores"), 3),
        Column("spikes", cells("spikes_per_sample")), Column("synops", cells("synops_per_sample"), 1),
        Column("rate", cells("rate"), 8), Column("of the source", cells("spikes_source_per_sample"), 9),
        Column("drift", cells("drift", signed), 2),
        Column("silent", cells("silent", percent), 9), Column("saturated", cells("saturated", percent), 9),
        Column("overflows", cells("overflows"), 10),
    ], to)


def _fit(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("fit", {})
    if rows:
        heading("Fit", to)
        table([Column("resource", [name.replace("_", " ") for name in rows]),
               Column("used", [number(row["used"]) for row in rows.values()]),
               Column("limit", [number(row["limit"]) for row in rows.values()])], to)
        to.print(Text(f"limits: {report.get('fit_source', '')}", "dim"))


def _energy(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("energy", [])
    if not rows:
        return
    heading("Energy", to)
    table([Column("constants", [row["of"] for row in rows]),
           Column("per sample", [engineering(row["value_j"], "J") for row in rows]),
           Column("label", [row["label"] for row in rows], 1, True)], to)
    for row in rows:
        counted = ", ".join(f"{number(part['count'])} {part['kind'].replace('_', ' ')} at {engineering(part['each_j'], 'J')}"
                            for part in row.get("parts", []))
        said = ". ".join(part[:1].upper() + part[1:] for part in (counted, row["source"], row.get("note")) if part)
        to.print(Text(f"{row['of']}: {said}", "dim"))
    known = report.get("energy_published", [])
    if known:
        heading("Published of whole systems, of other networks", to)
        facts([(f"{engineering(row['value'], row['unit'])} {row['label']}", f"{row['what']} ({row['source']})", "")
               for row in known], to)


def _host(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("host", [])
    if rows:
        heading(f"On the host, {len(report['boundaries'])} times to the chip and back", to)
        table([Column("name", [row["name"] for row in rows]),
               Column("kind", [row["kind"].replace("_", " ") for row in rows], 0, True),
               Column("operations", [number(row["macs"]) if "macs" in row else "" for row in rows])], to)
        passed = report["boundaries"]
        heading("Between host and chip", to)
        table([Column("into the chip", [row["into"] for row in passed]),
               Column("values", [number(row["values"]) for row in passed]),
               Column("out of it", [row["out_of"] for row in passed], 0, True),
               Column("read", [row["read"] for row in passed], 1, True),
               Column("values", [number(row["values_read"]) for row in passed])], to)


def _warnings(report: Mapping[str, Any], to: Console) -> None:
    if report["warnings"]:
        heading("Warnings", to)
    for row in report["warnings"]:
        to.print(Text.assemble((row["code"], "yellow"), f" {row['node']}: " if "node" in row else ": ", row["message"]))
        if "hint" in row:
            to.print(Text(f"  way out: {row['hint']}"))


def _made(made: Mapping[str, Any], to: Console) -> None:
    call, versions = command(made), made.get("versions", {})
    if call or versions:
        heading("How it was made", to)
    if call:
        to.print(Text(call), soft_wrap=True)
    model = made.get("model") or {}
    if "sha256" in model:
        to.print(Text(f"{model['name']} has the SHA-256 {model['sha256']}", "dim"))
    if versions:
        to.print(Text(", ".join(f"{name} {version}" for name, version in versions.items()), "dim"))

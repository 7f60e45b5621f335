"""The report in a terminal, for `d2e inspect`: what report.html shows, as far as letters can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from d2e.compiler.report import cores
from d2e.compiler.report.page import fits
from d2e.compiler.report.text import worst_drift
from d2e.compiler.report.words import command, engineering, number, percent, signed

_PIPED = 120
"""Columns where nobody knows how wide the screen is."""


class Column(NamedTuple):
    """A column of a table; where the screen is narrow, those of the highest rank are left out first."""

    title: str
    cells: list[str]
    rank: int = 0
    words: bool = False


def console() -> Console:
    """Stdout; without colours where NO_COLOR is set or nobody looks."""
    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal or "COLUMNS" in found._environ else Console(
        highlight=False, markup=False, emoji=False, width=_PIPED)


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
        for part in (_verdict, _passes, _exit, _layers, _cores, _fit, _energy, _host, _warnings):
            part(report, to)
        _made(made, to)
    return "".join(f"{line.rstrip()}\n" for line in shown.get().splitlines())


def _heading(words: str, to: Console) -> None:
    to.print()
    to.print(Text(words, "bold"))


def _facts(rows: Sequence[tuple[str, str, str]], to: Console) -> None:
    """Lines of (name, value, style)."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value, style in rows:
        table.add_row(Text(name, "dim"), Text(value, style))
    to.print(table)


def _table(columns: Sequence[Column], to: Console) -> None:
    """A table of as many columns as fit; ones without any cell are left out."""
    kept = [c for c in columns if any(c.cells)]
    while len(kept) > 2 and sum(max(len(x) for x in (c.title, *c.cells)) + 2 for c in kept) > to.width:
        kept.remove(max(kept, key=lambda c: c.rank))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for i, column in enumerate(kept):
        table.add_column(column.title, justify="left" if i == 0 or column.words else "right", overflow="fold",
                         no_wrap=not column.words and i > 0)
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*(Text(cell) for cell in row))
    to.print(table)


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
    _facts(rows, to)


def _passes(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("accuracy", {}).get("passes", [])
    if rows:
        _heading("After every pass", to)
        _table([
            Column("pass", [row["pass"] for row in rows]),
            Column("accuracy", [percent(row["accuracy"]) if "accuracy" in row else "" for row in rows]),
            Column("spikes", [number(row["spikes"]) for row in rows], 1),
            Column("largest count error", [number(row["max_count_error"]) for row in rows], 2),
        ], to)


def _exit(report: Mapping[str, Any], to: Console) -> None:
    found = report.get("early_exit", {})
    if "steps" not in found:
        return
    _heading(f"Early exit: {found['mean_steps']:.2f} of {found['time_steps']} steps in the mean, "
             f"{percent(found['saved_spikes'])} fewer spikes", to)
    right = found.get("accuracy_by_step", [])
    rows = [(step, count) for step, count in enumerate(found["steps"], 1) if count]
    _table([
        Column("after steps", [str(step) for step, _ in rows]), Column("samples end", [number(count) for _, count in rows]),
        Column("accuracy, were all read there", [percent(right[step - 1]) if right else "" for step, _ in rows], 1),
    ], to)


def _layers(report: Mapping[str, Any], to: Console) -> None:
    rows = report["layers"]

    def cells(key: str, write: Any = number) -> list[str]:
        return [write(row[key]) if key in row else "" for row in rows]

    _heading("Layers", to)
    _table([
        Column("name", [row["name"] for row in rows]),
        Column("kind", cells("kind", lambda kind: str(kind).replace("_", " ")), 4, True),
        Column("form", cells("form", str), 6, True),
        Column("neurons", cells("neurons"), 2), Column("synapses", cells("synapses"), 5),
        Column("bits", cells("weight_bits"), 7), Column("cores", cells("cores"), 3),
        Column("spikes", cells("spikes_per_sample")), Column("synops", cells("synops_per_sample"), 1),
        Column("rate", cells("rate"), 8), Column("drift", cells("drift", signed), 2),
        Column("silent", cells("silent", percent), 9), Column("saturated", cells("saturated", percent), 9),
        Column("overflows", cells("overflows"), 10),
    ], to)


def _cores(report: Mapping[str, Any], to: Console) -> None:
    found = report.get("core_map")
    if not found:
        return
    legend = {row["letter"]: row for row in cores.legend(found)}
    shown, there = cores.shown(found), found["cores"]
    _heading(f"Cores: the first {shown:,} of {there:,}" if shown < there else "Cores", to)
    for row in cores.rows_of_text(found, to.width):
        line = Text()
        for place in row:
            line.append("." if place is None else cores.letter(place), "dim" if place is None else cores.colour(place))
        to.print(line)
    _table([
        Column("", list(legend)), Column("layer", [row["name"] for row in legend.values()], 0, True),
        Column("cores", [number(row["cores"]) for row in legend.values()]),
        Column("fullest", [percent(row["used"]) for row in legend.values()], 1),
        Column("scarcest there", [row["resource"] for row in legend.values()], 2, True),
    ], to)


def _fit(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("fit", {})
    if rows:
        _heading("Fit", to)
        _table([Column("resource", [name.replace("_", " ") for name in rows]),
                Column("used", [number(row["used"]) for row in rows.values()]),
                Column("limit", [number(row["limit"]) for row in rows.values()])], to)
        to.print(Text(f"limits: {report.get('fit_source', '')}", "dim"))


def _energy(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("energy", [])
    if not rows:
        return
    _heading("Energy", to)
    _table([Column("constants", [row["of"] for row in rows]),
            Column("per sample", [engineering(row["value_j"], "J") for row in rows]),
            Column("label", [row["label"] for row in rows], 1, True)], to)
    for row in rows:
        to.print(Text(f"{row['of']}: {row['source']}", "dim"))


def _host(report: Mapping[str, Any], to: Console) -> None:
    rows = report.get("host", [])
    if rows:
        _heading(f"On the host, {len(report['boundaries'])} times to the chip and back", to)
        _table([Column("name", [row["name"] for row in rows]), Column("kind", [row["kind"] for row in rows], 0, True),
                Column("operations", [number(row["macs"]) if "macs" in row else "" for row in rows])], to)


def _warnings(report: Mapping[str, Any], to: Console) -> None:
    if report["warnings"]:
        _heading("Warnings", to)
    for row in report["warnings"]:
        to.print(Text.assemble((row["code"], "yellow"), f" {row['node']}: " if "node" in row else ": ", row["message"]))
        if "hint" in row:
            to.print(Text(f"  way out: {row['hint']}"))


def _made(made: Mapping[str, Any], to: Console) -> None:
    call, versions = command(made), made.get("versions", {})
    if call or versions:
        _heading("How it was made", to)
    if call:
        to.print(Text(call), soft_wrap=True)
    if versions:
        to.print(Text(", ".join(f"{name} {version}" for name, version in versions.items()), "dim"))

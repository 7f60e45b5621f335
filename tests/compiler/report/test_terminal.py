"""The report in letters: nothing of a large network or a long name is lost, whatever the width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.compiler.report.models import FRAMES, LABELS, leaving, plain, program

import d2e
from d2e.compiler.report import sketches, terminal


def shown(report: Any, width: int = 80) -> str:
    return terminal.show(report, {}, "build/x", Console(width=width, highlight=False, markup=False, emoji=False))


def section(out: str, title: str) -> list[str]:
    return out[out.index(f"\n{title}") :].lstrip("\n").split("\n\n")[0].splitlines()


@pytest.mark.parametrize("count", [3, 53, 100])
def test_every_layer_stands_in_the_legend_of_the_cores(count: int) -> None:
    names = [f"layer{i}" for i in range(count)]
    cores = {"cores": 128, "layers": names, "rows": [[i, i, 0.5, "memory"] for i in range(count)]}
    legend = [line.split()[:2] for line in section(shown({**program("plain").report.data, "core_map": cores}), "Cores")
              if "memory" in line]
    assert [name for _, name in legend] == names
    assert [letter for letter, _ in legend[:62]] == list(dict.fromkeys(letter for letter, _ in legend))


@pytest.mark.parametrize("width", [50, 80, 200])
def test_long_names_leave_room_for_the_figures(width: int) -> None:
    name = "a name " + "x" * 200
    out = shown(d2e.compile(plain(name), eval=(FRAMES, LABELS)).report.data, width)
    assert max(map(len, out.splitlines()[1:])) <= width
    assert "spikes" in section(out, "Layers")[1]
    assert [line[0] for line in section(out, "Cores") if line[0] != " " and line[1:3] == "  "] == ["a", "b"]
    assert out.count("x") >= 4 * 200


def test_control_characters_do_not_reach_the_terminal() -> None:
    warning = {"code": "D2E-RANGE-003", "node": "1", "message": "red\x1b[31m\nname"}
    report = {**program("plain").report.data, "warnings": [warning]}
    for out in (shown(report), d2e.compiler.report.Report(report).text()):
        assert "\x1b" not in out
        assert "red\ufffd[31m\ufffdname" in out


def test_long_names_leave_room_for_what_is_said_of_them() -> None:
    report = program("plain").report.data
    warning = {"code": "D2E-RANGE-003", "node": "x" * 300, "message": "its state may overflow"}
    out = d2e.compiler.report.Report({**report, "warnings": [warning]}).text()
    assert "its state may overflow" in out
    assert max(map(len, out.splitlines())) <= 140


def test_bars_are_those_of_the_histogram() -> None:
    assert sketches.bars([]) == sketches.bars([7]) == ""
    counts = np.zeros(32, int)
    counts[[0, 4, 5, 31]] = 1, 400, 400, 400
    assert sketches.bars(counts.tolist()) == "▁ █            ▄"


def test_an_early_exit_is_said_where_nothing_was_measured() -> None:
    assert "Early exit: rule 'calibrated', not measured" in shown(d2e.compile(leaving()).report.data)

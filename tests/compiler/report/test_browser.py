"""The pages in headless Chromium: no script error, nothing fetched, all sections there, and the figures of report.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from tests.compiler.report.browser import Opened, Tables, open_page, printed, shot, wide
from tests.compiler.report.models import program
from tests.compiler.transfer.test_report import FACTS

from d2e.compiler.energy import PUBLISHED
from d2e.compiler.report.words import engineering, number, percent, signed
from d2e.compiler.transfer import report as transfer

pytestmark = pytest.mark.browser
SECTIONS = ["verdict", "passes", "layers", "cores", "fit", "graph", "weights", "raster", "energy", "warnings", "made"]
KINDS = [("plain", "loihi2-sim"), ("leaving", "loihi2-sim"), ("bursts", "loihi2-sim"), ("plain", "speck2f-sim")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The saved program of a network."""
    made: dict[tuple[str, str], Path] = {}

    def saved(kind: str, target: str) -> Path:
        if (kind, target) not in made:
            made[kind, target] = program(kind, target).save(tmp_path_factory.mktemp(kind) / "program")
        return made[kind, target]

    return saved


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of a transfer."""
    (tmp_path / "transfer").mkdir()
    transfer.write(FACTS, tmp_path / "transfer")
    return tmp_path / "transfer" / "report.html"


def assert_clean(opened: Opened) -> None:
    assert opened.errors == []
    assert opened.requests == []


def test_a_page_that_is_not_clean_would_be_seen(chromium: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://pictures.example.com/x.png"><style>@import url("https://fonts.example.com/a.css")'
                   "</style><p style='width: 900px'>x</p><script>nowhere.to.go()</script>")
    opened = open_page(chromium, bad, tmp_path)
    assert "nowhere is not defined" in opened.errors[0]
    assert sorted(opened.requests) == ["http://pictures.example.com/x.png", "https://fonts.example.com/a.css"]
    assert wide(chromium, bad, tmp_path, 390) > 390


@pytest.mark.parametrize(("kind", "target"), KINDS)
def test_all_sections_stand_on_the_page_with_the_figures_of_the_report(
    chromium: str, folder: Callable[[str, str], Path], tmp_path: Path, kind: str, target: str
) -> None:
    saved = folder(kind, target)
    report: dict[str, Any] = json.loads((saved / "report.json").read_text())
    opened = open_page(chromium, saved / "report.html", tmp_path)
    assert_clean(opened)
    found = Tables(opened.tree)
    assert sorted(found.rows) == sorted(SECTIONS + (["exit"] if kind == "leaving" else []))
    pictures = {"passes": 2, "layers": 1, "cores": 1, "graph": 2, "raster": 1, "exit": 1}
    assert all(found.pictures[name] == count for name, count in pictures.items() if name in found.pictures)
    assert found.pictures["weights"] >= 2
    check_verdict(report, found.words["verdict"])
    check_tables(report, found.rows)
    for row in report["warnings"]:
        assert all(row[key] in found.words["warnings"] for key in ("code", "message", "hint") if key in row)
    versions = json.loads((saved / "manifest.json").read_text())["versions"]
    assert all(f"{name} {version}" in found.words["made"] for name, version in versions.items())


def check_verdict(report: dict[str, Any], words: str) -> None:
    accuracy, totals = report["accuracy"], report["totals"]
    assert f"{percent(accuracy['source'])} → {percent(accuracy['program'])}" in words
    worst = max((row["drift"] for row in report["layers"] if "drift" in row), key=abs)
    for shown in (signed(worst), f"{number(totals['neurons'])} neurons", f"{number(totals['spikes_per_sample'])} spikes",
                  f"{report['fit']['cores']['used']} of {report['fit']['cores']['limit']} cores",
                  f"Warnings{len(report['warnings'])}"):
        assert shown in words


def check_tables(report: dict[str, Any], rows: dict[str, list[list[str]]]) -> None:
    assert rows["passes"][1:] == [
        [row["pass"], percent(row["accuracy"]), number(row["spikes"]), number(row["max_count_error"])]
        for row in report["accuracy"]["passes"]]
    head, *layers = rows["layers"]
    for cells, row in zip(layers, report["layers"], strict=True):
        shown = dict(zip(head, cells, strict=True))
        assert shown["name"] == row["name"]
        for title, key, write in (
            ("neurons", "neurons", number), ("synapses", "synapses", number), ("cores", "cores", number),
            ("spikes", "spikes_per_sample", number), ("synops", "synops_per_sample", number), ("rate", "rate", number),
            ("silent", "silent", percent), ("saturated", "saturated", percent), ("drift", "drift", signed),
            ("overflows", "overflows", number),
        ):
            assert shown[title] == (write(row[key]) if key in row else "-")
    assert rows["fit"][1:] == [[name.replace("_", " "), number(row["used"]), number(row["limit"])]
                               for name, row in report["fit"].items()]
    assert sum(int(row[1]) for row in rows["cores"][1:]) == len(report["core_map"]["rows"])
    energy = rows["energy"][1 : 1 + len(report["energy"])]
    assert [row[:3] for row in energy] == [[e["of"], engineering(e["value_j"], "J"), e["label"]] for e in report["energy"]]
    assert [row[4] for row in energy] == [e["source"] for e in report["energy"]]
    published = rows["energy"][2 + len(energy) :]
    assert published == [[p.what, engineering(p.value, p.unit), p.label, p.source]
                         for p in PUBLISHED if report["target"].startswith(p.targets)]
    for cells, e in zip(energy, report["energy"], strict=True):
        counted = [f"{number(p['count'])} {p['kind'].replace('_', ' ')} at {engineering(p['each_j'], 'J')}"
                   for p in e["parts"]]
        assert cells[3].startswith(", ".join(counted))
    for cells, row in zip(rows["weights"][1:], report["histograms"], strict=True):
        w, t = row.get("weights", {}), row.get("thresholds", {})
        assert cells == [row["name"], number(sum(w["before"])), *(number(w[key]) for key in ("levels", "low", "high")),
                         number(t.get("low")), number(t.get("high"))]
    names = report["core_map"]["layers"]
    for place, cells in enumerate(rows["cores"][1:]):
        used = [share for _, layer, share, _ in report["core_map"]["rows"] if layer == place]
        assert [cell.strip("\u2060") for cell in cells[:4]] == [
            names[place], number(len(used)), percent(max(used)), percent(sum(used) / len(used))]
    if "exit" in rows:
        assert rows["exit"][1][1:] == [number(count) for count in report["early_exit"]["steps"]]


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_screen(
    chromium: str, folder: Callable[[str, str], Path], page: Path, tmp_path: Path, width: int
) -> None:
    for each in (*(folder(*kind) / "report.html" for kind in KINDS), page):
        assert wide(chromium, each, tmp_path, width) <= width


def test_pages_follow_the_reader_s_colours(
    chromium: str, folder: Callable[[str, str], Path], page: Path, tmp_path: Path
) -> None:
    for each in (folder("plain", "loihi2-sim") / "report.html", page):
        light, dark = (image.imread(shot(chromium, each, tmp_path, 390, dark=d))[..., :3].mean() for d in (False, True))
        assert light > 0.8
        assert dark < 0.3


def test_pages_can_be_printed(chromium: str, folder: Callable[[str, str], Path], page: Path, tmp_path: Path) -> None:
    for each in (folder("plain", "loihi2-sim") / "report.html", page):
        pdf = printed(chromium, each, tmp_path)
        assert pdf.startswith(b"%PDF-")
        assert len(pdf) > 20_000


def test_the_page_of_a_transfer_is_clean_and_has_its_figures(chromium: str, page: Path, tmp_path: Path) -> None:
    opened = open_page(chromium, page, tmp_path)
    assert_clean(opened)
    report = json.loads((page.parent / "report.json").read_text())
    for stage in report["stages"]:
        assert f"<td>{stage['name']}</td><td>{percent(stage['accuracy'])}</td>" in opened.tree
        assert f"<td>{number(stage['kl'])}</td>" in opened.tree
    for made in report["programs"]:
        assert f"<td>{made['target']}</td><td>{percent(made['accuracy'])}</td>" in opened.tree
    for row in report["energy"]:
        assert f"<td>{row['of']}</td><td>{number(1e6 * row['value_j'])}</td>" in opened.tree
    assert opened.tree.count("<svg") == 5

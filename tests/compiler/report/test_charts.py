"""Charts: well-formed whatever the data, the same to the byte, values where the axes say."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from d2e.compiler.report.charts import bars, histogram, lines, ticks

NUMBERS = st.floats(-1e12, 1e12, allow_subnormal=False)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=30)


def parsed(svg: str) -> ElementTree.Element:
    assert "nan" not in re.sub(r">[^<]*<|aria-label=\"[^\"]*\"", "", svg)
    assert "inf" not in re.sub(r">[^<]*<|aria-label=\"[^\"]*\"", "", svg)
    return ElementTree.fromstring(svg)


@given(NUMBERS, st.floats(0, 1e12))
def test_ticks_are_few_even_and_span_the_data(low: float, wide: float) -> None:
    found = ticks(low, low + wide)
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= low + wide - 1e-6 * step


@given(st.dictionaries(NAMES, st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=50), min_size=1, max_size=8),
       NAMES, st.booleans(), st.floats(0, 10))
def test_lines_of_any_data_are_well_formed(
    series: dict[str, list[tuple[float, float]]], name: str, zero: bool, least: float
) -> None:
    made = lines({k: sorted(v) for k, v in series.items()}, name, name, name, level=(name, 1.0), zero=zero, least=least)
    again = lines({k: sorted(v) for k, v in series.items()}, name, name, name, level=(name, 1.0), zero=zero, least=least)
    assert made == again
    root = parsed(made["svg"])
    assert root.get("aria-label") == name
    ways = [way for way in root.iter("path") if way.get("class") == "line"]
    assert len(ways) == len(series)
    for way, points in zip(ways, series.values(), strict=True):
        assert len(re.findall("[ML]", way.get("d", ""))) == len(points)


@given(st.lists(NAMES, min_size=1, max_size=30), st.data())
def test_bars_have_one_bar_per_known_value(names: list[str], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | st.floats(0, 1e9), min_size=len(names), max_size=len(names)))
    words = ["" if v is None else f"{v:g}" for v in values]
    root = parsed(bars(names, [("a", values, words), ("b", values, words)], "c")["svg"])
    assert len(list(root.iter("path"))) == 2 * sum(v is not None for v in values)


@given(NUMBERS, st.floats(1e-3, 1e9), st.lists(st.integers(0, 10**6), min_size=1, max_size=32), st.data())
def test_histograms_draw_every_bin(low: float, wide: float, before: list[int], data: st.DataObject) -> None:
    after = data.draw(st.lists(st.integers(0, 10**6), min_size=len(before), max_size=len(before)))
    root = parsed(histogram(low, low + wide, {"before": before, "after": after}, "x", "c")["svg"])
    corners = [len(re.findall("[ML]", way.get("d", ""))) for way in root.iter("path")]
    assert corners.count(2 + 2 * len(before)) == 2


def test_control_characters_leave_the_picture_well_formed() -> None:
    root = parsed(bars(["a\x1b[31m\0"], [("b\n", [1.0], ["\x7f"])], "c\x08")["svg"])
    assert root.get("aria-label") == "c\ufffd"
    assert "a\ufffd[31m\ufffd" in [text.text for text in root.iter("text")]


def test_points_lie_where_the_axes_say() -> None:
    root = parsed(lines({"a": [(0, 0), (5, 50), (10, 100)]}, "x", "y", "c", zero=True)["svg"])
    (way,) = [way for way in root.iter("path") if way.get("class") == "line"]
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, p.split(","))) for p in re.split("[ML]", way.get("d", ""))[1:]]
    assert (x0 + x2) / 2 == x1
    assert abs((y0 + y2) / 2 - y1) < 0.11
    assert (x0, x2) == (46, 352)
    labels = {t.text: float(t.get("y", 0)) for t in root.iter("text") if t.get("class") == "end"}
    assert labels["0"] - 4 == y0
    assert labels["100"] - 4 == y2

"""Charts as inline SVG, for every page: text and axes in the page's own colour, series in those of its style sheet.

A chart is 360 units wide, what a phone shows one to one; pages put several side by side. Same data, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle

from d2e.compiler.report.words import printable

Point = tuple[float, float]
WIDTH = 360
_COLOURS = 6
_LEFT, _RIGHT, _BOTTOM, _LINE = 46, 8, 34, 14
_LETTER, _SMALL = 6.2, 5.2
_MOST_NAMES = 12
_MARKS = (
    "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0", "M-2.6,-2.6h5.2v5.2h-5.2z", "M0,-3.6L3.4,2.6H-3.4z", "M0,-3.8L3.8,0L0,3.8L-3.8,0z",
    "M0,3.6L3.4,-2.6H-3.4z", "M-3.4,-1h2.4v-2.4h2v2.4h2.4v2h-2.4v2.4h-2v-2.4h-2.4z",
)
STYLE = """
.chart { --s0: #2f74b5; --s1: #c25a12; --s2: #2b8a56; --s3: #974c9e; --s4: #8c7000; --s5: #5f6b76; --ink: currentColor; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--ink); } .chart .end { text-anchor: end; }
.chart .middle { text-anchor: middle; } .chart .small { font-size: 9.5px; } .chart .bold { font-weight: 600; }
.chart .grid { stroke: var(--ink); stroke-opacity: .15; fill: none; } .chart .axis { stroke: var(--ink); fill: none; }
.chart .paper { fill: Canvas; } .chart .edge { paint-order: stroke; stroke: Canvas; stroke-width: 3px; }
.chart .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .chart .level { stroke-dasharray: 2 3; }
@media (prefers-color-scheme: dark) { .chart { --s0: #6fb1ee; --s1: #f0965a; --s2: #66c893; --s3: #cf8fd6;
--s4: #d9b93f; --s5: #a3afba; } }
@media print { .chart { --s0: #2f74b5; --s1: #c25a12; --s2: #2b8a56; --s3: #974c9e; --s4: #8c7000; --s5: #5f6b76; } }
"""
"""Of the charts, for a page's style sheet or a file of its own."""


def svg(width: float, height: float, body: str, label: str, *, alone: bool = False) -> str:
    """An SVG of its own size in pixels, as part of a page or, ``alone``, as a file with its style."""
    names = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    paper = ":root { color-scheme: light dark; background: Canvas; color: CanvasText; }"
    style = f"<style>{paper}{STYLE}</style>" if alone else ""
    size = f'viewBox="0 0 {n(width)} {n(height)}" width="{n(width)}" height="{n(height)}"'
    return f'<svg{names} class="chart" {size} role="img" aria-label="{escaped(label)}">{style}{body}</svg>'


def n(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{round(value, 1) + 0.0:g}"


def escaped(words: str) -> str:
    """A text, as content or as an attribute."""
    return escape(str(printable(words)))


def text(x: float, y: float, words: str, classes: str = "") -> str:
    """Text whose letters stand on ``y``."""
    named = f' class="{classes}"' if classes else ""
    return f'<text x="{n(x)}" y="{n(y)}"{named}>{escaped(words)}</text>'


def fitted(words: str, width: float, *, small: bool = False) -> str:
    """What of a text fits, by the mean width of its letters."""
    room = int(width / (_SMALL if small else _LETTER))
    return words if len(words) <= room else words[: max(1, room - 1)] + "…"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span low..high, at most so many steps."""
    span, size = high - low, max(abs(low), abs(high))
    if span <= max(1e-9 * size, 1e-300):
        span = size if size > 1e-300 else 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


def _label(value: float, step: float) -> str:
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value + 0.0:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


class _Frame:
    """Where values lie in a chart."""

    def __init__(self, x: list[float], y: list[float], top: float, height: float, left: float = _LEFT) -> None:
        self.x, self.y, self.top, self.bottom, self.left = x, y, top, height - _BOTTOM, left
        self.right = float(WIDTH - _RIGHT)

    def at(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / (self.x[-1] - self.x[0])
        up = (y - self.y[0]) / (self.y[-1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{n(a)},{n(b)}" for a, b in (self.at(*p) for p in points))

    def axes(self, x_label: str, y_label: str, names: Sequence[str] | None) -> str:
        parts = []
        for value in self.y:
            _, y = self.at(self.x[0], value)
            parts.append(f'<path class="grid" d="M{n(self.left)},{n(y)}H{n(self.right)}"/>')
            parts.append(text(self.left - 5, y + 4, _label(value, self.y[1] - self.y[0]), "end"))
        parts.append(f'<path class="axis" d="M{n(self.left)},{n(self.bottom)}H{n(self.right)}"/>')
        step = self.x[1] - self.x[0]
        parts.append(self._names(names) if names else "".join(
            text(self.at(value, 0)[0], self.bottom + 14, _label(value, step), "middle") for value in self.x))
        parts.append(text((self.left + self.right) / 2, self.bottom + 29, x_label, "middle"))
        parts.append(text(2, self.top - 10, y_label))
        return "".join(parts)

    def _names(self, names: Sequence[str]) -> str:
        every = -(-len(names) // _MOST_NAMES)
        shown = range(0, len(names), every)
        room = (self.right - self.left) / len(shown)
        if max(len(names[i]) for i in shown) * _LETTER <= room:
            return "".join(text(self.at(i, 0)[0], self.bottom + 14, names[i], "middle") for i in shown)
        turned = []
        for i in shown:
            x, y = self.at(i, 0)[0] + 4, self.bottom + 12
            turned.append(f'<text class="end small" transform="translate({n(x)} {n(y)}) rotate(-35)">'
                          f"{escaped(fitted(names[i], 88))}</text>")
        return "".join(turned)


def _legend(names: Sequence[str], top: float) -> tuple[str, float]:
    """The names of series beside their marks, in as many lines as it takes; and where they end."""
    x, y, parts = 2.0, top, []
    for i, name in enumerate(names):
        wide = 24 + _LETTER * len(name)
        if x > 2 and x + wide > WIDTH:
            x, y = 2.0, y + _LINE
        parts.append(f'<path d="{_MARKS[i % len(_MARKS)]}" transform="translate({n(x + 5)} {n(y - 4)})" '
                     f'fill="var(--s{i % _COLOURS})"/>{text(x + 13, y, name)}')
        x += wide
    return "".join(parts), y + _LINE if names else top


def lines(
    series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, caption: str, *,
    level: tuple[str, float] | None = None, names: Sequence[str] | None = None, zero: bool = False, least: float = 0.0,
) -> dict[str, str]:
    """A line per series.

    Args:
        series: name -> its points, by rising x.
        x_label, y_label, caption: words.
        level: name and height of a dotted line.
        names: of x = 0, 1, …, where these are no numbers.
        zero: whether the axis starts at 0.
        least: span of the axis of heights, so that little changes look little.

    Returns:
        caption and svg.
    """
    every = [p for points in series.values() for p in points]
    heights = [y for _, y in every] + ([level[1]] if level else []) + ([0.0] if zero else [])
    xs = [x for x, _ in every]
    places = [float(min(xs)), float(max(xs)) if max(xs) > min(xs) else min(xs) + 1.0] if names else _whole(xs)
    listed = [*series, *([level[0]] if level else [])]
    legend, top = _legend(listed if len(listed) > 1 else [], _LINE - 2)
    turned = 34 if names and max(map(len, names)) > 4 else 0
    height = 200.0 + top + turned
    wider = max(0.0, least - (max(heights) - min(heights))) / 2
    frame = _Frame(places, ticks(min(heights) - wider, max(heights) + wider), top + 20, height - turned)
    parts = [legend, frame.axes("" if turned else x_label, y_label, names)]
    for i, (points, mark) in enumerate(zip(series.values(), cycle(_MARKS), strict=False)):
        colour = f"var(--s{i % _COLOURS})"
        parts.append(f'<path class="line" stroke="{colour}" d="{frame.path(points)}"/>')
        if len(points) <= 40:
            parts += [f'<path d="{mark}" transform="translate({n(x)} {n(y)})" fill="{colour}"/>'
                      for x, y in (frame.at(*p) for p in points)]
    if level:
        x, y = frame.at(places[0], level[1])
        parts.append(f'<path class="line level" stroke="var(--s{len(series) % _COLOURS})" '
                     f'd="M{n(x)},{n(y)}H{n(frame.right)}"/>')
    return {"caption": caption, "svg": svg(WIDTH, height, "".join(parts), caption)}


def _whole(xs: Sequence[float]) -> list[float]:
    """Ticks at whole numbers where there are few, within the data."""
    low, high = min(xs), max(xs)
    if high == low:
        return [low, low + 1]
    found = [t for t in ticks(low, high, 6) if t == int(t)]
    near = 0.6 * (found[1] - found[0]) if len(found) > 1 else 0.0
    return [float(low), *(t for t in found if low + near < t < high - near), float(high)]


def bars(
    names: Sequence[str], panels: Sequence[tuple[str, Sequence[float | None], Sequence[str]]], caption: str
) -> dict[str, str]:
    """Horizontal bars, a row per name; panels side by side hold (what, values, their words)."""
    left = min(110.0, max(_LETTER * max(map(len, names)) + 8, 30))
    wide = (WIDTH - left) / len(panels)
    parts, height = [], 24.0 + 20 * len(names)
    for row, name in enumerate(names):
        parts.append(text(left - 6, 34 + 20 * row, fitted(name, left - 6), "end"))
    for column, (what, values, words) in enumerate(panels):
        start = left + column * wide
        room = wide - 16 - _LETTER * max(map(len, words))
        most = max((value or 0.0 for value in values), default=0.0) or 1.0
        parts.append(text(start, 12, fitted(what, 0.85 * wide), "bold"))
        for row, (value, word) in enumerate(zip(values, words, strict=True)):
            if value is None:
                continue
            long = max(0.0, room * value / most)
            box = f"M{n(start)},{n(23 + 20 * row)}h{n(long)}v14h-{n(long)}z"
            parts.append(f'<path fill="var(--s{column % _COLOURS})" d="{box}"/>')
            parts.append(text(start + long + 4, 34 + 20 * row, word))
    return {"caption": caption, "svg": svg(WIDTH, height, "".join(parts), caption)}


def histogram(
    low: float, high: float, series: Mapping[str, Sequence[int]], x_label: str, caption: str
) -> dict[str, str]:
    """Counts in equal bins over low..high: the first series filled, others as lines, each as a share of its most."""
    height = 130.0
    frame = _Frame([low, high], [0.0, 1.0], 22, height, 8)
    parts, bins = [], len(next(iter(series.values())))
    for i, counts in enumerate(series.values()):
        most = max(counts) or 1
        outline = [(low, 0.0)]
        for b, count in enumerate(counts):
            outline += [(low + (high - low) * edge / bins, count / most) for edge in (b, b + 1)]
        look = f'fill="var(--s{i})" fill-opacity=".45"' if i == 0 else f'class="line" stroke="var(--s{i})"'
        parts.append(f'<path {look} d="{frame.path([*outline, (high, 0.0)])}"/>')
    legend, _ = _legend(list(series), 12)
    near = 0.15 * (high - low)
    axis = [text(frame.at(x, 0)[0], frame.bottom + 14, f"{x:.3g}", side) for x, side in
            ((low, ""), (high, "end"), *([(0.0, "middle")] if low + near < 0 < high - near else []))]
    parts.append(f'<path class="axis" d="M{n(frame.left)},{n(frame.bottom)}H{n(frame.right)}"/>')
    parts += [legend, *axis, text((frame.left + frame.right) / 2, frame.bottom + 28, x_label, "middle")]
    return {"caption": caption, "svg": svg(WIDTH, height, "".join(parts), caption)}

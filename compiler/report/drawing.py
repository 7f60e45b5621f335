"""Draws the boxes and arrows of `graph` as SVG: rows from the input down, ways past a row on the right, back on the left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from d2e.compiler.report.charts import WIDTH, escaped, fitted, n, svg, text
from d2e.compiler.report.cores import colour
from d2e.compiler.report.graph import graph
from d2e.ir import Network

TITLES = {"source": "Before mapping", "mapped": "After mapping", "network": "Network"}

_WIDE, _HIGH, _GAP, _BETWEEN, _LANE, _SWEEPS = 164.0, 50.0, 14.0, 44.0, 20.0, 4
_ARROW = "M0,0l-4,-7h8z"


def draw(boxes: Mapping[str, Any], title: str, layers: Sequence[str] = ()) -> str:
    """One network as SVG.

    Args:
        boxes: of `d2e.compiler.report.graph.graph`.
        title: above it.
        layers: names whose places say their colours; others get none.
    """
    body, width, height = _drawn(boxes, title, layers)
    return svg(width, height, body, title)


def picture(network: Network, report: Mapping[str, Any]) -> str:
    """The file of ``d2e inspect --graph``: a program before and after mapping, as its report has them, or one network."""
    graphs = report.get("graph") or {"network": graph(network)}
    layers = report.get("core_map", {}).get("layers") or list(network.populations)
    parts, x, tall = [], 0.0, 0.0
    for key, each in graphs.items():
        body, width, height = _drawn(each, TITLES[key], layers)
        parts.append(f'<g transform="translate({n(x)} 0)">{body}</g>')
        x, tall = x + width + 24, max(tall, height)
    return svg(x - 24, tall, "".join(parts), "The network", alone=True) + "\n"


def _drawn(boxes: Mapping[str, Any], title: str, layers: Sequence[str]) -> tuple[str, float, float]:
    nodes = {node["name"]: node for node in boxes["nodes"]}
    ahead = [e for e in boxes["edges"] if not e.get("recurrent") and e["from"] != e["to"]]
    rank = _ranks(list(nodes), ahead)
    rows = _rows(rank, ahead)
    past = _lanes([e for e in ahead if rank[e["to"]] - rank[e["from"]] > 1], rank)
    back = _lanes([e for e in boxes["edges"] if e not in ahead], rank)
    left, right = (4 + _LANE * (1 + max(lanes.values(), default=-1)) for lanes in (back, past))
    widest = max(len(row) for row in rows) * (_WIDE + _GAP) - _GAP
    width = max(left + widest + right, WIDTH - 20.0)
    middle = left + (width - left - right) / 2
    at, beside = {}, {}
    for y, row in enumerate(rows):
        start = middle - (len(row) * (_WIDE + _GAP) - _GAP) / 2
        for x, name in enumerate(row):
            at[name] = (start + x * (_WIDE + _GAP), 30 + y * (_HIGH + _BETWEEN))
            beside[name] = (x, len(row) - 1 - x)
    fans = Counter(e["from"] for e in boxes["edges"] if _key(e) not in past | back)
    arrows = []
    for edge in boxes["edges"]:
        lane = past.get(_key(edge), back.get(_key(edge)))
        if lane is None:
            arrows.append(_down(edge, at, 0.5 if fans[edge["from"]] == 1 else 0.75))
        else:
            on_right = _key(edge) in past
            away = widest / 2 + _LANE * (1 + lane)
            arrows.append(_around(edge, at, beside, middle + (away if on_right else -away), on_right))
    drawn = [_box(node, *at[name], layers) for name, node in nodes.items()]
    body = "".join([text(2, 14, title, "bold"), *arrows, *drawn])
    return body, width, 30 + len(rows) * (_HIGH + _BETWEEN) - _BETWEEN + 14


def _key(edge: Mapping[str, Any]) -> tuple[str, str, str, bool]:
    return edge["from"], edge["to"], edge["what"], bool(edge.get("recurrent"))


def _ranks(names: Sequence[str], edges: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The row of every box: the longest way to it; the order of ``names`` is that of a forward pass."""
    rank = dict.fromkeys(names, 0)
    place = {name: i for i, name in enumerate(names)}
    for edge in sorted(edges, key=lambda e: (place[e["from"]], place[e["to"]])):
        rank[edge["to"]] = max(rank[edge["to"]], rank[edge["from"]] + 1)
    return rank


def _rows(rank: Mapping[str, int], edges: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Boxes in rows, each near those it is joined to."""
    rows: list[list[str]] = [[] for _ in range(1 + max(rank.values()))]
    for name, depth in rank.items():
        rows[depth].append(name)
    joined: dict[str, list[str]] = {name: [] for name in rank}
    for edge in edges:
        joined[edge["from"]].append(edge["to"])
        joined[edge["to"]].append(edge["from"])
    for _ in range(_SWEEPS):
        place = {name: i - len(row) / 2 for row in rows for i, name in enumerate(row)}
        for row in rows:
            row.sort(key=lambda name: sum(place[o] for o in joined[name]) / max(1, len(joined[name])))
    return rows


def _lanes(edges: Sequence[Mapping[str, Any]], rank: Mapping[str, int]) -> dict[tuple[str, str, str, bool], int]:
    """A lane beside the boxes for each edge, such that those in one lane do not meet."""
    ends: list[int] = []
    found = {}
    spans = sorted(edges, key=lambda e: (min(rank[e["from"]], rank[e["to"]]), max(rank[e["from"]], rank[e["to"]])))
    for edge in spans:
        low, high = sorted((rank[edge["from"]], rank[edge["to"]]))
        lane = next((i for i, end in enumerate(ends) if end < low), len(ends))
        ends[lane:] = [high, *ends[lane + 1 :]]
        found[_key(edge)] = lane
    return found


def _words(edge: Mapping[str, Any]) -> list[str]:
    """What an arrow stands for."""
    return [*([edge["what"]] if edge["what"] else []), *([f"{edge['synapses']:,} synapses"] if "synapses" in edge else [])]


def _down(edge: Mapping[str, Any], at: Mapping[str, tuple[float, float]], along: float) -> str:
    """To the next row, with words a share of the way along."""
    (x1, y1), (x2, y2) = at[edge["from"]], at[edge["to"]]
    x1, y1, x2 = x1 + _WIDE / 2, y1 + _HIGH, x2 + _WIDE / 2
    bend = (y2 - y1) / 2
    way = f"M{n(x1)},{n(y1)}C{n(x1)},{n(y1 + bend)} {n(x2)},{n(y2 - bend)} {n(x2)},{n(y2 - 6)}"
    lines = _words(edge)
    words = "".join(text(x1 + along * (x2 - x1) + 8, (y1 + y2) / 2 + 2 + 11 * (i + 0.5 - len(lines) / 2), line, "small edge")
                    for i, line in enumerate(lines))
    return f'<path class="axis" d="{way}"/>{_head(x2, y2, 0)}{words}'


def _around(
    edge: Mapping[str, Any], at: Mapping[str, tuple[float, float]], beside: Mapping[str, tuple[int, int]], x: float,
    on_right: bool,
) -> str:
    """Past some rows on the right, or back (dashed) on the left; with words where they have room.

    A box with others ``beside`` it on that side is left from below and entered from above, not through them.
    """
    (x1, y1), (x2, y2) = at[edge["from"]], at[edge["to"]]
    sign, side, inner = (1, _WIDE, 0.85 * _WIDE) if on_right else (-1, 0.0, 0.15 * _WIDE)
    near, far = (min(beside[edge[end]][on_right], 3) for end in ("from", "to"))
    x1, y1, down = (x1 + inner, y1 + _HIGH, 4 * near) if near else (x1 + side, y1 + 0.7 * _HIGH, 0)
    way = f"M{n(x1)},{n(y1)}v{down}H{n(x)}"
    if far:
        up = 10 + 3 * far
        x2, way = x2 + inner, f"{way}V{n(y2 - up)}H{n(x2 + inner)}v{up - 6}"
        head = _head(x2, y2, 0)
    else:
        x2, y2 = x2 + side, y2 + 0.3 * _HIGH
        way += f"V{n(y2)}H{n(x2 + 6 * sign)}"
        head = _head(x2, y2, 90 * sign)
    said = fitted(", ".join(_words(edge)), abs(y2 - y1), small=True)
    words = "" if abs(y2 - y1) < _HIGH else (
        f'<text class="small middle edge" transform="translate({n(x + 11)} {n((y1 + y2) / 2)}) rotate(-90)">'
        f"{escaped(said)}</text>")
    dashes = "" if on_right else ' stroke-dasharray="4 3"'
    return f'<g><title>{escaped(", ".join(_words(edge)))}</title><path class="axis"{dashes} d="{way}"/>{head}{words}</g>'


def _head(x: float, y: float, turn: int) -> str:
    turned = f" rotate({turn})" if turn else ""
    return f'<path d="{_ARROW}" fill="var(--ink)" transform="translate({n(x)} {n(y)}){turned}"/>'


def _box(node: Mapping[str, Any], x: float, y: float, layers: Sequence[str]) -> str:
    """Name, kind with shape, and what the chip makes of it."""
    shape = "x".join(map(str, node["shape"]))
    count = f" = {node['neurons']:,}" if "neurons" in node and len(node["shape"]) > 1 else ""
    cores = [f"{node['cores']} core{'s' if node['cores'] > 1 else ''}"] if "cores" in node else []
    lines = [(node["name"], "bold"), (f"{node['kind'].replace('_', ' ')} {shape}{count}", "small"),
             (", ".join([*([node["form"]] if "form" in node else []), *cores,
                         *(["bias"] if "always_on" in node else [])]), "small")]
    tone = f'fill="{colour(layers.index(node["name"]))}"' if node["name"] in layers else 'fill="var(--s5)"'
    words = "".join(text(x + 8, y + 16 + 14 * i, fitted(line, _WIDE - 12, small=look == "small"), look)
                    for i, (line, look) in enumerate(lines))
    rect = f'x="{n(x)}" y="{n(y)}" width="{n(_WIDE)}" height="{n(_HIGH)}" rx="5"'
    return (f'<g><title>{escaped("; ".join(line for line, _ in lines if line))}</title><rect class="paper" {rect}/>'
            f'<rect {rect} {tone} fill-opacity=".3" stroke="var(--ink)" stroke-opacity=".5"/>{words}</g>')

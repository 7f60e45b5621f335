"""The map of a chip's cores: what is on each, and how much of its scarcest resource is used; as data, picture and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

from d2e.compiler.replicas import replicas
from d2e.compiler.report.charts import WIDTH, n, svg, text
from d2e.ir import Network

_WIDE, _SHOWN_WHOLE = 16, 256


def core_map(network: Network) -> dict[str, Any]:
    """report["core_map"] of a placed network; empty without a placement.

    ``cores``: how many there are; ``layers``: names that rows point to; ``columns`` and ``rows``: per used core its number,
    the place of its first population's layer in ``layers``, the used share of its scarcest resource and its name.
    """
    placement = network.metadata.get("placement", {})
    table = placement.get("cores")
    if not table or not table["rows"]:
        return {}
    of = {part: name for name, own in replicas(network).items() for part in own}
    column = {name: i for i, name in enumerate(table["columns"])}
    written = column["populations" if "populations" in column else "population"]
    on = [_layer(row[written], of) for row in table["rows"]]
    layers = [name for name in dict.fromkeys(of.values()) if name in on]
    rows = []
    for row, name in zip(table["rows"], on, strict=True):
        resource, share = max(_shares(row, column, placement["fit"]).items(), key=lambda item: item[1])
        rows.append([row[column["core"]], layers.index(name), round(share, 4), resource])
    return {"cores": placement["fit"]["cores"]["limit"], "layers": layers,
            "columns": ["core", "layer", "used", "resource"], "rows": rows}


def _layer(written: str, of: Mapping[str, str]) -> str:
    """The layer of a row's first population, written with or without the extent of a tile."""
    return of[max((name for name in of if written == name or written.startswith(f"{name}[")), key=len)]


def _shares(row: Sequence[Any], column: Mapping[str, int], fit: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Resource -> used share. Limits stand in the row, or are those of the fullest core."""
    found = {}
    for name, i in column.items():
        if f"{name}_limit" in column:
            found[name.replace("_", " ")] = row[i] / row[column[f"{name}_limit"]]
        elif f"{name}_per_core" in fit:
            found[name.replace("_", " ")] = row[i] / fit[f"{name}_per_core"]["limit"]
    if "used_percent" in column:
        found["memory"] = row[column["used_percent"]] / 100
    return found or {"cores": 1.0}


def legend(cores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per layer that has cores: its name, colour, how many, the fullest one's share and scarcest resource."""
    found = []
    for place, name in enumerate(cores["layers"]):
        own = [row for row in cores["rows"] if row[1] == place]
        if own:
            fullest = max(own, key=lambda row: row[2])
            found.append({"name": name, "colour": colour(place), "letter": letter(place), "cores": len(own),
                          "used": fullest[2], "resource": fullest[3], "mean": sum(row[2] for row in own) / len(own)})
    return found


def colour(place: int) -> str:
    """Of a layer, the same in every picture; legible on light and dark paper."""
    hue, light, full = (210 + 137.5 * place) % 360 / 360, (0.52, 0.60, 0.44)[place % 3], (0.62, 0.48)[place // 8 % 2]
    return "#" + "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, light, full))


def letter(place: int) -> str:
    """Of a layer in the map as text; of more than 62 layers the letters come again, in order."""
    letters = f"{ascii_lowercase}{ascii_uppercase}{digits}"
    return letters[place % len(letters)]


def drawing(cores: Mapping[str, Any]) -> str:
    """As SVG: a square per core in its layer's colour, filled from below by the used share."""
    count = shown(cores)
    few = count <= _WIDE
    columns = min(count, 5) if few else _WIDE if count <= _SHOWN_WHOLE else 2 * _WIDE
    cell = WIDTH / columns if few else (WIDTH - 4) / columns
    side, gap = cell - (4 if few else 2 if columns == _WIDE else 1), 2 if few else 1
    parts, free = [], dict.fromkeys(range(count))
    for place, _ in enumerate(cores["layers"]):
        outside, inside = [], []
        for core, _, used, _ in (row for row in cores["rows"] if row[1] == place):
            free.pop(core, None)
            x, y, full = gap + core % columns * cell, gap + core // columns * cell, side * min(1.0, used)
            outside.append(f"M{n(x)},{n(y)}h{n(side)}v{n(side)}h-{n(side)}z")
            inside.append(f"M{n(x)},{n(y + side - full)}h{n(side)}v{n(full)}h-{n(side)}z")
            if few:
                words = [str(core), cores["layers"][place], f"{100 * used:.0f} %"]
                parts += [text(x + 5, y + 15 + 15 * i, word[: int(side / 6.4)]) for i, word in enumerate(words)]
        if outside:
            look = f'fill="{colour(place)}"'
            parts[:0] = [f'<path {look} fill-opacity=".22" d="{"".join(outside)}"/>',
                         f'<path {look} fill-opacity="{".6" if few else "1"}" d="{"".join(inside)}"/>']
    unused = [f"M{n(gap + c % columns * cell)},{n(gap + c // columns * cell)}h{n(side)}v{n(side)}h-{n(side)}z" for c in free]
    parts.insert(0, f'<path class="grid" d="{"".join(unused)}"/>' if unused else "")
    height = -(-count // columns) * cell + gap
    return svg(WIDTH, height, "".join(parts), "The cores, coloured by layer, filled by what is used")


def shown(cores: Mapping[str, Any]) -> int:
    """How many cores a picture shows: all, or where there are many more, those up to the last used one."""
    last, there = 1 + max(int(row[0]) for row in cores["rows"]), int(cores["cores"])
    return max(last, there) if there <= _SHOWN_WHOLE else -(-last // (2 * _WIDE)) * 2 * _WIDE


def rows_of_text(cores: Mapping[str, Any], width: int) -> list[list[int | None]]:
    """Rows of a map as text, at most ``width`` cores wide: per core its layer's place, None where it is free."""
    count = shown(cores)
    on = {row[0]: row[1] for row in cores["rows"]}
    wide = next((w for w in (64, 32, 16) if w <= min(width, 64)), 8)
    return [[on.get(core) for core in range(start, min(start + wide, count))] for start in range(0, count, wide)]

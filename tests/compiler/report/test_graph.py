"""Boxes and arrows: every population and chain of synapses once, whatever the names, the same to the byte."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from tests.compiler.hosted.networks import transformer
from tests.compiler.report.models import bursts, plain, program
from tests.ir.strategies import networks

from d2e.compiler import cost
from d2e.compiler.report.drawing import picture
from d2e.compiler.report.graph import graph
from d2e.ir import IF, Edge, Input, Linear, Network, Output, Synapse, verified
from d2e.ir.nodes import Node

SVG = "{http://www.w3.org/2000/svg}"


def test_a_program_before_and_after_mapping() -> None:
    made = program("plain")
    source, mapped = (made.report["graph"][key] for key in ("source", "mapped"))
    assert [node["name"] for node in source["nodes"]] == ["input", "hidden", "out", "output"]
    hidden = source["nodes"][1]
    assert hidden == {"name": "hidden", "kind": "if", "shape": [3, 6, 6], "neurons": 108}
    assert [(e["from"], e["to"], e["what"]) for e in source["edges"]] == [
        ("input", "hidden", "conv 3x3"), ("hidden", "out", "dense"), ("out", "output", "")]
    assert source["edges"][0]["synapses"] == cost.synapses(dict(made.stages)["canonicalise"], "hidden")
    assert source["edges"][1]["synapses"] == 108 * 4
    hidden = mapped["nodes"][1]
    assert (hidden["kind"], hidden["form"], hidden["cores"]) == ("cuba_lif", "stock", 1)
    assert any(e.get("recurrent") and e["from"] == e["to"] == "hidden" for e in mapped["edges"])


def test_replicas_are_one_box_and_helpers_none() -> None:
    mapped = program("bursts").report["graph"]["mapped"]
    first = next(node for node in mapped["nodes"] if node["name"] == "first")
    assert (first["neurons"], first["form"]) == (15, "3 replicas")
    names = [node["name"] for node in mapped["nodes"]]
    assert names == sorted(set(names), key=names.index)
    assert not [name for name in names if name.endswith(".on")]
    totals = program("bursts").report["totals"]
    assert sum(node.get("cores", 0) for node in mapped["nodes"]) == totals["cores"]


@settings(max_examples=60)
@given(networks())
def test_any_network_is_drawn_whole_and_the_same(network: Network) -> None:
    found, drawn = graph(network), picture(network, {})
    boxes = [name for name in network.order if not isinstance(network.nodes[name], Synapse)]
    assert [node["name"] for node in found["nodes"]] == boxes
    assert picture(network, {}) == drawn
    root = ElementTree.fromstring(drawn)
    assert len(list(root.iter(f"{SVG}rect"))) == 2 * len(boxes)
    heads = [way for way in root.iter(f"{SVG}path") if way.get("fill") == "var(--ink)"]
    assert len(heads) == len(found["edges"])
    assert "nan" not in drawn
    width, height = map(float, root.get("viewBox", "").split()[2:])
    for rect in root.iter(f"{SVG}rect"):
        assert 0 <= float(rect.get("x", -1)) <= width - float(rect.get("width", 0))
        assert 0 <= float(rect.get("y", -1)) <= height - float(rect.get("height", 0))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a"b&c', "x" * 200, "日本"])
def test_names_are_escaped_and_cut(name: str) -> None:
    drawn = picture(plain(name), {})
    root = ElementTree.fromstring(drawn)
    assert "<script" not in drawn
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert any(title.startswith(name) for title in titles)
    assert all(len(text.text or "") <= 34 for text in root.iter(f"{SVG}text"))


def lines(way: str) -> list[tuple[float, float, float, float]]:
    """The straight lines of a path of M, H, V and v."""
    (x, y), found = map(float, re.findall(r"M([-\d.]+),([-\d.]+)", way)[0]), []
    for step, value in re.findall(r"([HVv])([-\d.]+)", way):
        to = (float(value), y) if step == "H" else (x, float(value) + (y if step == "v" else 0))
        found.append((*sorted((x, to[0])), *sorted((y, to[1]))))
        x, y = to
    return found


def through_boxes(drawn: str) -> int:
    """How often a straight line of an arrow goes through a box."""
    root = ElementTree.fromstring(drawn)
    boxes = [[float(rect.get(key, 0)) for key in ("x", "y", "width", "height")] for rect in root.iter(f"{SVG}rect")]
    ways = [way.get("d", "") for way in root.iter(f"{SVG}path") if way.get("class") == "axis"]
    return sum(
        x1 < x + wide - 1 and x2 > x + 1 and y1 < y + high - 1 and y2 > y + 1
        for way in ways if "C" not in way for x1, x2, y1, y2 in lines(way) for x, y, wide, high in boxes)


@settings(max_examples=60)
@given(networks())
def test_ways_past_rows_go_through_no_box(network: Network) -> None:
    assert through_boxes(picture(network, {})) == 0


@pytest.mark.parametrize("side", [1, 2, 5])
def test_ways_past_rows_of_several_boxes_go_through_none_of_them(side: int) -> None:
    """Rows of as many boxes, each joined to all of the next row and of the one after it, and to itself."""
    nodes: dict[str, Node] = {"input": Input(shape=(2,)), "output": Output(shape=(2,))}
    edges = []
    rows = [[f"{row}.{i}" for i in range(side)] for row in range(4)]
    for place, row in enumerate(rows):
        for to in row:
            nodes[to] = IF(shape=(2,))
            for one in [name for row in (["input"], *rows)[max(0, place - 1) : place + 1] for name in row] + [to]:
                nodes[f"{one} {to}"] = Linear(weight=np.ones((2, 2)))
                edges += [Edge(one, f"{one} {to}", recurrent=one == to), Edge(f"{one} {to}", to)]
    edges += [Edge(name, "output") for name in rows[-1]]
    network = verified(Network(nodes, tuple(edges)))
    drawn = picture(network, {})
    assert drawn.count('stroke-dasharray="') == 4 * side
    assert through_boxes(drawn) == 0


def test_boxes_of_a_row_do_not_overlap() -> None:
    for drawn in (picture(bursts(), {}), picture(program("bursts").network, program("bursts").report.data)):
        shift = [0.0]
        for group in re.split(r"<g transform=", drawn)[1:]:
            rects = {(float(x), float(y)) for x, y in re.findall(r'class="paper" x="([\d.]+)" y="([\d.]+)"', group)}
            rows: dict[float, list[float]] = {}
            for x, y in rects:
                rows.setdefault(y, []).append(x)
            for xs in rows.values():
                assert np.all(np.diff(sorted(xs)) >= 164)
            shift.append(len(rects))
        assert max(shift) >= 3


def test_a_network_with_a_part_on_the_host_is_drawn() -> None:
    network = transformer()
    names = {node["name"] for node in graph(network)["nodes"]}
    assert network.hosts
    assert {*network.hosts, *network.populations} <= names
    ElementTree.fromstring(picture(network, {}))

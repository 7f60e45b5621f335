"""The map of the cores: its shares are those of mapping.csv's rows, its picture and its letters show every core."""

from __future__ import annotations

import csv
import io
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compiler.report.models import program

from d2e.backends.loihi2.limits import LIMITS
from d2e.backends.speck.limits import CORES
from d2e.compiler.report import cores

LOIHI = {"neurons": "neurons", "synaptic_words": "synaptic_words", "axons_in": "axons_in", "axons_out": "axon_map",
         "axon_memory": "axon_map", "groups": "neuron_groups"}


def mapping(kind: str, target: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(program(kind, target)._mapping())))


@pytest.mark.parametrize("kind", ["plain", "bursts"])
def test_every_core_of_loihi_has_its_scarcest_resource(kind: str) -> None:
    found, rows = program(kind).report["core_map"], mapping(kind, "loihi2-sim")
    assert [row[0] for row in found["rows"]] == [int(row["core"]) for row in rows]
    assert found["cores"] == 128
    for (_, layer, used, resource), row in zip(found["rows"], rows, strict=True):
        shares = {key.replace("_", " "): int(row[key]) / LIMITS[limit].value for key, limit in LOIHI.items()}
        shares["memory"] = float(row["used_percent"]) / 100
        assert used == pytest.approx(max(shares.values()), abs=1e-4)
        assert shares[resource] == max(shares.values())
        assert row["populations"].startswith(found["layers"][layer])


def test_every_core_of_speck_too() -> None:
    found, rows = program("plain", "speck2f-sim").report["core_map"], mapping("plain", "speck2f-sim")
    assert found["cores"] == 9
    for (core, layer, used, resource), row in zip(found["rows"], rows, strict=True):
        shares = {f"{m} words": int(row[f"{m}_words"]) / getattr(CORES[core], m) for m in ("kernel", "neuron", "bias")}
        assert used == pytest.approx(max(shares.values()), abs=1e-4)
        assert resource == max(shares, key=shares.__getitem__)
        assert found["layers"][layer] == row["population"]


@given(st.integers(1, 3000), st.data())
def test_picture_legend_and_letters_agree(there: int, data: st.DataObject) -> None:
    on = data.draw(st.lists(st.integers(0, there - 1), min_size=1, max_size=40, unique=True).map(sorted))
    rows = [[core, i % 3, data.draw(st.floats(0, 1.2)), "memory"] for i, core in enumerate(on)]
    found = {"cores": there, "layers": ["a<b>", "b", "c"], "rows": rows}
    svg = ElementTree.fromstring(cores.drawing(found))
    squares = sum(way.get("d", "").count("M") for way in svg.iter("path"))
    assert squares == 2 * len(on) + cores.shown(found) - len(on)
    assert sum(row["cores"] for row in cores.legend(found)) == len(on)
    letters = [place for row in cores.rows_of_text(found, 80) for place in row]
    assert len(letters) == cores.shown(found)
    assert {core: letters[core] for core in on} == {row[0]: row[1] for row in rows}
    assert max(len(row) for row in cores.rows_of_text(found, 40)) <= 32


def test_colours_and_letters_tell_neighbours_apart() -> None:
    colours = [cores.colour(i) for i in range(40)]
    assert all(len(colour) == 7 for colour in colours)
    assert len(set(colours)) == 40
    assert [cores.letter(i) for i in (0, 25, 26)] == ["a", "z", "A"]

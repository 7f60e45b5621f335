"""Two side by side: what is promised and kept, and where a weight that is off by one is first seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.compiler.bench.conftest import DIGITS, SHAPES
from torch import nn

import d2e
from d2e.compiler.bench.compare import Different
from d2e.ir import Conv2d, Linear, UsageError, nirfile
from d2e.nn import IF, Sequential


def flipped(program: d2e.Program, node: str, index: tuple[int, ...], by: int = 1) -> d2e.Program:
    """The same program with one weight off by one."""
    synapse = program.network.nodes[node]
    assert isinstance(synapse, (Conv2d, Linear))
    weight = synapse.weight.copy()
    weight[index] += by
    network = program.network.with_nodes({node: replace(synapse, weight=weight)})
    return replace(program, network=network, folder=None)


@pytest.mark.parametrize(("node", "source", "population"), [("2", "1", "3"), ("6", "3", "7")])
def test_a_weight_that_is_off_by_one_is_found(node, source, population, digits, data, tmp_path):
    busy = digits.run(data[0]).counts[source].sum(axis=0)
    index = (5, int(busy.sum(axis=(1, 2)).argmax()), 1, 1) if node == "2" else (3, int(busy.argmax()))
    other = flipped(digits, node, index)
    with pytest.raises(Different, match="promise the same spikes and differ") as caught:
        d2e.bench(digits, data, compare=("loihi2-sim", other), output=tmp_path / "out")
    assert (caught.value.code, caught.value.exit_code) == ("D2E-BENCH-010", 4)
    facts = caught.value.bench["compare"]
    first = facts["first"]
    assert (first["population"], facts["promised"], facts["counts_of"]) == (population, True, "all populations")
    frames = data[0][first["sample"] : first["sample"] + 1]
    ours, theirs = (p.run(frames, record="spikes").spikes for p in (digits, other))
    at = (0, first["step"], *first["neuron"])
    assert (ours[population][at], theirs[population][at]) == (first["a"], first["b"])
    assert first["a"] != first["b"]
    for name in ours:  # nothing differs before
        assert np.array_equal(ours[name][:, : first["step"]], theirs[name][:, : first["step"]])
    before = [p.run(data[0][: first["sample"]]).counts for p in (digits, other)] if first["sample"] else [{}, {}]
    assert all(np.array_equal(counts, before[1][name]) for name, counts in before[0].items())
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["compare"]["first"] == first
    text = caught.value.bench.text()
    assert f"population '{population}', step {first['step']}, neuron {first['neuron']}" in text
    assert len(text.splitlines()) <= 15


def test_a_weight_that_no_count_shows_is_found(digits, data):
    node = digits.network.nodes["6"]
    at = np.unravel_index(np.argmin(digits.run(data[0]).counts["3"].sum(axis=0)), (32, 4, 4))
    index = (3, int(np.ravel_multi_index(at, (32, 4, 4))))
    with pytest.raises(Different, match=r"node '6', weight \[3, \d+\]") as caught:
        d2e.bench(digits, data, compare=("loihi2-sim", flipped(digits, "6", index)))
    facts = caught.value.bench["compare"]
    value = int(node.weight[index])
    assert facts["network"] == {"node": "6", "array": "weight", "values": 1, "index": [*index], "a": value, "b": value + 1}
    assert (facts["counts_equal"], "first" in facts) == (96, False)
    assert f"network     node '6', weight {[*index]}: {value} in A, {value + 1} in B (1 such)\n" in caught.value.bench.text()


def test_models_in_memory_of_one_class_promise_nothing(data):
    """Nothing tells them apart but their weights."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = Sequential(nn.Flatten(), nn.Linear(64, 10), IF())
        made.append(d2e.compile(model, input_shape=(1, 8, 8), time_steps=16))
    assert made[0].facts == made[1].facts
    facts = d2e.bench(made[0], data, samples=8, compare=tuple(made))["compare"]
    assert (facts["promised"], "network" in facts) == (False, False)
    assert d2e.bench(made[0], data, samples=8, compare=("loihi2-sim", "reference"))["compare"]["promised"]


def test_nothing_to_compare_within_the_time(digits, data):
    found = d2e.bench(digits, data, compare=("loihi2-sim", "reference"), time_limit=1e-9)
    assert (found["compare"]["samples"], "first" in found["compare"]) == (0, False)
    assert "counts      equal on 0 of 0 samples" in found.text()


def test_engines_devices_and_folders(digits, data):
    for sides in (("loihi2-sim", "reference"), ("sim:0{fail=after:9}", "reference"), (str(digits.folder), "sim:0")):
        facts = d2e.bench(digits, data, samples=16, batch=8, compare=sides)["compare"]
        assert facts["promised"]
        assert "first" not in facts
        assert (facts["predictions_equal"], facts["counts_equal"], facts["samples"]) == (16, 16, 16)
        assert facts["a"]["accuracy"] == facts["b"]["accuracy"]


@pytest.mark.lava
def test_beside_lava(digits, data, lava_python, monkeypatch):
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    facts = d2e.bench(digits, data, samples=2, warm_up=0, compare=("loihi2-sim", "loihi2-lava"))["compare"]
    assert (facts["promised"], facts["counts_equal"]) == (True, 2)


def test_programs_that_promise_nothing_are_told_apart_all_the_same(digits, data):
    coarse = d2e.compile(DIGITS / "model.pt", calibration=DIGITS / "calibration.npz", weight_bits=3)
    found = d2e.bench(digits, data, compare=("loihi2-sim", coarse))
    facts = found["compare"]
    assert not facts["promised"]
    assert facts["counts_equal"] < 96
    assert facts["first"]["population"] in digits.populations
    assert "no promise of the same spikes" in found.text()


def test_a_chip_of_another_maker(digits, data):
    speck = d2e.compile(DIGITS / "model.pt", target="speck2f-sim", calibration=DIGITS / "calibration.npz")
    facts = d2e.bench(digits, data, samples=24, compare=("loihi2-sim", speck))["compare"]
    assert (facts["promised"], facts["b"]["engine"]["name"]) == (False, "speck2f-sim")
    assert facts["first"]["population"] in digits.populations


def test_recordings_have_no_steps(shapes):
    other = flipped(shapes, next(n for n, s in shapes.network.nodes.items() if isinstance(s, Conv2d)), (3, 1, 1, 1), by=9)
    with pytest.raises(Different) as caught:
        d2e.bench(shapes, SHAPES / "recordings", compare=("speck2f-sim", other))
    first = caught.value.bench["compare"]["first"]
    assert (first["population"], "step" in first) == ("1", False)
    facts = d2e.bench(shapes, SHAPES / "recordings", compare=("speck2f-sim", "sim:0"))["compare"]
    assert (facts["counts_equal"], facts["promised"]) == (8, True)


def test_what_cannot_be_compared(digits, shapes, data, tmp_path):
    for sides, options, code in (
        (("loihi2-sim", "loihi3"), {}, "D2E-BENCH-012"), (("loihi2-sim", str(tmp_path)), {}, "D2E-BENCH-012"),
        (("loihi2-sim", shapes), {}, "D2E-BENCH-012"), (("loihi2-sim", "sim:0,sim:1"), {}, "D2E-BENCH-002"),
        (("loihi2-sim", "reference"), {"engine": "reference"}, "D2E-BENCH-001"),
        (("loihi2-sim", "reference"), {"resume": tmp_path / "kept"}, "D2E-BENCH-001"),
    ):
        with pytest.raises(UsageError) as caught:
            d2e.bench(digits, data, compare=sides, **options)
        assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_the_network_of_a_changed_program_is_another(digits, tmp_path):
    nirfile.write(flipped(digits, "2", (0, 0, 0, 0)).network, tmp_path / "a.nir")
    assert not nirfile.read(tmp_path / "a.nir").same(digits.network)

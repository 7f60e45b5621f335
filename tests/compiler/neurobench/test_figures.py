"""neurobench.json: its keys, what is absent and why, and that it stays with the program."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.backends.source_networks import STEPS, random_source
from tests.compiler.hosted.networks import transformer
from tests.compiler.neurobench.networks import dense, frames, loader, scaled

import d2e
from d2e.compiler import neurobench
from d2e.ir import EarlyExit, UnsupportedError

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
THEIRS = {"Footprint", "ConnectionSparsity", "ParameterCount", "ClassificationAccuracy", "ActivationSparsity",
          "ActivationSparsityByLayer", "SynapticOperations", "MembraneUpdates"}


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_agree_with_neurobench_in_all_but_the_binary_test(seed):
    """Loops, branches, payloads, LI readouts …: what NeuroBench splits in two by batch is not compared."""
    network, x = random_source(seed)
    program = d2e.compile(network, "loihi2-sim", time_steps=STEPS)
    found = neurobench.metrics(program, (x, np.zeros(len(x), int)))
    theirs = neurobench.benchmark(neurobench.model(program), loader(x, np.zeros(len(x), int), 1))
    assert found["SynapticOperations"].pop("Dense") == theirs["SynapticOperations"].pop("Dense")
    del theirs["SynapticOperations"], found["SynapticOperations"]
    assert found["d2e"]["OnChipSpikes"] == theirs.pop("OnChipSpikes")
    own = found.pop("d2e")
    assert own["OnChipSpikes"] == pytest.approx(program.evaluate(x)["totals"].get("spikes_per_sample", 0))
    for key in found:
        assert found[key] == pytest.approx(theirs[key], rel=1e-6), key


def test_a_saved_program_has_the_figures_of_its_evaluation(tmp_path):
    program = d2e.compile(
        DIGITS / "model.pt", calibration=DIGITS / "calibration.npz", eval=DIGITS / "test.npz", eval_samples=20,
        output=str(tmp_path / "a"),
    )
    found = json.loads((tmp_path / "a" / "neurobench.json").read_text())
    assert THEIRS | {"d2e"} == found.keys()
    assert found["ClassificationAccuracy"] == program.report["accuracy"]["program"]
    assert found["d2e"]["OnChipSpikes"] == pytest.approx(program.report["totals"]["spikes_per_sample"])
    assert found["d2e"]["label"] == "simulated"
    assert found == neurobench.read(tmp_path / "a")
    again = d2e.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert neurobench.read(tmp_path / "b") == found
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert "neurobench.json" in manifest["files"]


def test_without_data_the_figures_of_runs_are_absent_with_a_reason(tmp_path):
    model, size = dense()
    d2e.compile(scaled(model), input_shape=size, output=str(tmp_path / "a"))
    found = neurobench.read(tmp_path / "a")
    assert found.keys() == {"Footprint", "ConnectionSparsity", "ParameterCount", "d2e"}
    assert found["d2e"]["absent"].keys() >= THEIRS - found.keys() | {"OnChipSpikes", "NeuronOperations"}
    assert all(found["d2e"]["absent"].values())


def test_without_labels_there_is_no_accuracy():
    model, size = dense()
    program = d2e.compile(scaled(model), input_shape=size)
    found = neurobench.metrics(program, frames(size, 3)[0])
    assert "ClassificationAccuracy" not in found
    assert found["d2e"]["absent"]["ClassificationAccuracy"] == "the data have no labels"
    assert "SynapticOperations" in found


def test_up_to_the_early_exit():
    """Only the steps that ran count, and what they sent."""
    model, size = dense()
    steps = 5
    program = d2e.compile(scaled(model), input_shape=size, time_steps=steps)
    network = program.network
    rule = EarlyExit(bounds=np.full(steps, 0.6), scale=5.0)
    quick = replace(program, network=network.with_nodes({network.outputs[0]: replace(network.output, exit=rule)}))
    x, y = frames(size, 8, 2)
    ran = quick.run(x).steps
    assert ran.min() < steps
    found, all_steps = neurobench.metrics(quick, (x, y)), neurobench.metrics(program, (x, y))
    assert found["SynapticOperations"]["Dense"] == all_steps["SynapticOperations"]["Dense"] * ran.mean() / steps
    single = [
        neurobench.metrics(replace(program, network=network.with_nodes(
            {network.inputs[0]: replace(network.input, time_steps=int(n))})), (x[i : i + 1, :n], y[i : i + 1]))
        for i, n in enumerate(ran)
    ]
    for key in ("Effective_ACs", "Dense"):
        assert found["SynapticOperations"][key] == pytest.approx(np.mean([s["SynapticOperations"][key] for s in single]))
    assert found["MembraneUpdates"] == pytest.approx(np.mean([s["MembraneUpdates"] for s in single]))


def test_what_runs_on_the_host_is_refused_and_its_parts_are_not():
    images = np.random.default_rng(1).uniform(-1, 1, (4, 1, 4, 4))
    program = d2e.compile(transformer(), calibration=images)
    with pytest.raises(UnsupportedError, match="D2E-NB-002"):
        neurobench.metrics(program, images)
    with pytest.raises(UnsupportedError, match="D2E-NB-002"):
        neurobench.model(program)
    for _, part in program.segments:
        assert neurobench.metrics(part)["Footprint"] > 0

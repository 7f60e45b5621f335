"""The target folder: the same bytes every time, self-contained, and a sinabs model that holds the network's integers."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sinabs.layers
import torch
from sinabs.activation import MembraneReset, MembraneSubtract, SingleSpike
from tests.backends.speck.board_configurations import branches, chain, core, frames_for, with_camera
from tests.backends.speck.sinabs_equality.samna_stand_in import standing_in

from d2e.backends.speck.configuration import Configuration, Destination, Part, Placed, Source
from d2e.backends.speck.emission import sinabs_text
from d2e.backends.speck.emission.emit import emit
from d2e.backends.speck.simulator.run import Simulator
from d2e.ir import UsageError

CONFIGURATIONS = {
    "chain": chain(), "biases": chain(1, biases=True), "readout": chain(2, readout=True), "camera": with_camera(3),
    "branches": branches(),
}


@pytest.fixture(params=CONFIGURATIONS)
def configuration(request: pytest.FixtureRequest) -> Configuration:
    return CONFIGURATIONS[request.param]


def build(folder: Path, **options: Any) -> torch.nn.Module:
    """What ``sinabs_model.py`` of a target folder builds."""
    spec = importlib.util.spec_from_file_location(f"sinabs_model_{folder.name}", folder / "sinabs_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    built: torch.nn.Module = module.build(**options)
    return built


def test_the_same_bytes_every_time(tmp_path: Path, configuration: Configuration) -> None:
    for folder in ("one", "two"):
        emit(configuration, tmp_path / folder)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    runner = {"deploy.py", "encoder.py", "events.py", "samna_board.py", "session.py", "speck_config.json"}
    assert runner | {"README.txt"} < set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert len((tmp_path / "one" / "README.txt").read_text().splitlines()) <= 16


def test_the_configuration_survives_its_file(tmp_path: Path, configuration: Configuration) -> None:
    facts = emit(configuration, tmp_path)
    text = (tmp_path / "speck_config.json").read_text()
    again = Configuration.from_json(text)
    assert again.to_json() == text
    assert again.cnn_layers.keys() == configuration.cnn_layers.keys()
    for i, layer in configuration.cnn_layers.items():
        assert np.array_equal(again.cnn_layers[i].weights, layer.weights)
        assert again.cnn_layers[i].dimensions == layer.dimensions
        assert again.cnn_layers[i].destinations == layer.destinations
    assert again.source == configuration.source
    assert again.populations == configuration.populations
    assert again.dvs_layer == configuration.dvs_layer
    assert facts["cores"] == {n: [p.layer for p in placed.parts] for n, placed in configuration.populations.items()}
    with pytest.raises(UsageError, match="D2E-LOAD-030"):
        Configuration.from_json(text.replace('"schema":1', '"schema":9'))


def test_the_folder_needs_nothing_of_d2e(tmp_path: Path) -> None:
    emit(chain(), tmp_path)
    own = {p.stem for p in tmp_path.glob("*.py")}
    for path in tmp_path.glob("*.py"):
        if path.name == "sinabs_model.py":
            continue
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inside = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else (
                [str(node.module)] if isinstance(node, ast.ImportFrom) else [])
            for module in modules:
                first = module.partition(".")[0]
                allowed = first in own | sys.stdlib_module_names | {"numpy"}
                assert allowed or (first == "samna" and id(node) in inside), f"{path.name} imports {module}"


# --------------------------------------------------------------------------- the sinabs model


def dense(configuration: Configuration, name: str, kind: str) -> np.ndarray:
    """An array of a population, its parts put together, y before x: written out plainly."""
    rows = []
    for part in configuration.populations[name].parts:
        layer = configuration.cnn_layers[part.layer]
        values = getattr(layer, kind)
        for i in range(part.count):
            rows.append(0 if values is None else np.asarray(values[i * part.spread]).T if kind != "weights" else np.stack(
                [one.T for one in values[i * part.spread]]))
    return np.array(rows)


def test_the_sinabs_model_has_the_integers_of_the_chip(tmp_path: Path, configuration: Configuration) -> None:
    assert emit(configuration, tmp_path)["sinabs_model"] == "written"
    model = build(tmp_path)
    for i, (name, placed) in enumerate(configuration.populations.items()):
        layer = configuration.cnn_layers[placed.parts[0].layer]
        conv, spikes = getattr(model, f"conv{i}"), getattr(model, f"spikes{i}")
        assert np.array_equal(conv.weight.detach().numpy(), dense(configuration, name, "weights"))
        assert (conv.stride, conv.padding) == (layer.dimensions.stride[::-1], layer.dimensions.padding[::-1])
        biases = dense(configuration, name, "biases")
        assert np.array_equal(np.zeros_like(biases) if conv.bias is None else conv.bias.detach().numpy(), biases)
        assert (float(spikes.spike_threshold), spikes.min_v_mem) == (layer.threshold_high, layer.threshold_low)
        assert isinstance(spikes.reset_fn, MembraneReset if layer.return_to_zero else MembraneSubtract)
        initial = dense(configuration, name, "neurons_initial_value")
        if initial.any():
            assert np.array_equal(spikes.v_mem[0].numpy(), initial)
    x = torch.as_tensor(frames_for(configuration, batch=1, steps=4)[0], dtype=torch.float32)
    assert np.prod(model(x).shape) == 4 * np.prod(configuration.populations[configuration.output].shape)


def test_what_differs_is_said_in_the_file(tmp_path: Path) -> None:
    told = {"biases": ["Biases of a", "500 Hz"], "branches": ["out: takes features side by side"], "chain": []}
    for name, words in told.items():
        emit(CONFIGURATIONS[name], tmp_path / name)
        text = (tmp_path / name / "sinabs_model.py").read_text()
        assert all(each in text for each in words)
        assert ("side by side" in text) == (name == "branches")


def one_event_per_step(rng: np.random.Generator, space: tuple[int, int, int], steps: int) -> np.ndarray:
    frames = np.zeros((steps, int(np.prod(space))), np.int64)
    frames[np.arange(steps), rng.integers(frames.shape[1], size=steps)] = 1
    return frames.reshape(steps, *space)


@pytest.mark.parametrize("seed", range(4))
def test_one_event_per_step_gives_sinabs_the_spikes_of_the_chip(tmp_path: Path, seed: int) -> None:
    """Where no neuron gets two events in a step that matter: positive weights below the threshold, single spikes."""
    configuration = chain(seed)
    softer = {i: replace(layer, weights=np.abs(layer.weights) // 8, threshold_high=90, return_to_zero=False)
              for i, layer in configuration.cnn_layers.items()}
    configuration = replace(configuration, cnn_layers=softer)
    emit(configuration, tmp_path)
    frames = one_event_per_step(np.random.default_rng(seed), configuration.source.space, 400)
    model = build(tmp_path, spike_fn=SingleSpike)
    theirs = {}
    for i, name in enumerate(configuration.populations):
        getattr(model, f"spikes{i}").register_forward_hook(lambda module, given, out, name=name: theirs.update({name: out}))
    with torch.no_grad():
        model(torch.as_tensor(frames, dtype=torch.float32))
    ours = Simulator(configuration).run(frames[None], "spikes")
    for name, placed in configuration.populations.items():
        assert np.array_equal(theirs[name].numpy().reshape(400, *placed.shape), ours.spikes[name][0]), name
        assert ours.counts[name].sum() > 10, name


def test_a_network_sinabs_cannot_hold_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = chain()
    silent = replace(base, cnn_layers={**base.cnn_layers, 0: replace(base.cnn_layers[0], threshold_high=0)})
    half = replace(base, cnn_layers={**base.cnn_layers, 5: replace(base.cnn_layers[5], destinations=())})
    loop = Configuration(
        "speck2f", {2: core(rng, (1, 3, 3), 1, 3, Destination(2), padding=1)},
        Source((1, 3, 3), (1, 3, 3), (Destination(2),)), {"again": Placed((1, 3, 3), (Part(2, 0, 1),))}, "again",
    )
    cut = replace(base, source=replace(base.source, space=(2, 9, 6), shape=(2, 9, 6)))
    for name, (configuration, words) in {
        "silent": (silent, "'b' has a threshold of 0"), "half": (half, "only some cores of 'b' send to 'out'"),
        "loop": (loop, "'again' receives its own spikes"), "cut": (cut, "'a' receives does not fill its map"),
    }.items():
        facts = emit(configuration, tmp_path / name)
        assert words in str(facts["sinabs_model"])
        assert words in (tmp_path / name / "sinabs_model.txt").read_text()
        assert not (tmp_path / name / "sinabs_model.py").exists()
        assert json.loads((tmp_path / name / "speck_config.json").read_text())["schema"] == 1


def test_a_link_sent_twice_is_merged_with_itself(tmp_path: Path) -> None:
    base = branches()
    twice = replace(base, cnn_layers={**base.cnn_layers, 3: replace(
        base.cnn_layers[3], destinations=(Destination(4), Destination(4)))})
    assert len(sinabs_text.joined(twice)[2].links) == 3
    emit(twice, tmp_path)
    model = build(tmp_path)
    assert sum(isinstance(m, sinabs.layers.Merge) for m in model.modules()) == 3
    assert model(torch.ones(2, 1, 4, 4)).shape == (2, 4, 1, 1)


def test_sinabs_writes_the_same_configuration_for_a_board(tmp_path: Path) -> None:
    """DynapcnnNetwork takes the model as it is; what its builder writes to the chip is what is in speck_config.json."""
    configuration = chain(5, biases=True, whole=True)
    emit(configuration, tmp_path)
    with standing_in():
        dynapcnn = importlib.import_module("sinabs.backend.dynapcnn")
        network = dynapcnn.DynapcnnNetwork(build(tmp_path), input_shape=configuration.source.space, discretize=False)
        written = network.make_config(layer2core_map={0: 3, 1: 0, 2: 6}, device="speck2fdevkit:0")
    blocks = json.loads(configuration.to_json())["configuration"]["cnn_layers"]
    for number in configuration.cnn_layers:
        ours, theirs = blocks[number], written.cnn_layers[number]
        for key in ("weights", "threshold_high", "threshold_low", "return_to_zero"):
            assert ours[key] == getattr(theirs, key), (number, key)
        assert bool(theirs.leak_enable) == ours["leak_enable"]
        if ours["leak_enable"]:
            assert theirs.biases == ours["biases"]
        if "neurons_initial_value" in ours:
            assert theirs.neurons_initial_value == ours["neurons_initial_value"]
        for place, d in enumerate(ours["destinations"]):
            there = theirs.destinations[place]
            assert (there.layer, there.enable, there.pooling, there.feature_shift) == (
                d["layer"], d["enable"], d["pooling"], d["feature_shift"])
        dims = theirs.dimensions
        assert dims.kernel_size == ours["dimensions"]["kernel_size"]
        for key in ("stride", "padding"):
            assert {"x": getattr(dims, key).x, "y": getattr(dims, key).y} == ours["dimensions"][key]

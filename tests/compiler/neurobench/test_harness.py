"""NeuroBench's harness around our programs: failures are errors, never 0.0; without NeuroBench a way out."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.abstract import StaticMetric, WorkloadMetric
from neurobench.metrics.static import Footprint
from neurobench.metrics.workload import (
    ActivationSparsityByLayer,
    ClassificationAccuracy,
    MembraneUpdates,
    NeuronOperations,
    SynapticOperations,
)
from neurobench.models import NeuroBenchModel, TorchModel
from tests.compiler.neurobench.networks import STEPS, biased, dense, frames, loader, scaled
from torch import nn

import d2e
from d2e.compiler import neurobench
from d2e.ir import MissingError, UnsupportedError, UsageError, infer_shapes, linear


@pytest.fixture(scope="module")
def program() -> d2e.Program:
    model, size = biased()
    return d2e.compile(scaled(model), "loihi2-sim", input_shape=size, time_steps=STEPS)


def test_a_program_is_a_neurobench_model(program):
    x, y = frames(program.input_shape, 6)
    model = neurobench.model(program)
    assert isinstance(model, NeuroBenchModel)
    metrics = [[Footprint], [SynapticOperations, neurobench.on_chip_spikes()]]
    found = Benchmark(model, loader(x, y, 4), [], [model.classes], metrics).run(quiet=True)
    ours = neurobench.metrics(program, (x, y))
    assert found["Footprint"] == ours["Footprint"]
    assert found["OnChipSpikes"] == ours["d2e"]["OnChipSpikes"]
    np.testing.assert_array_equal(model(torch.from_numpy(x)), program.run(x).output)


def test_layers_hold_the_programs_integers(program):
    """One byte per weight of 8 bits; biases are parameters too."""
    net = neurobench.model(program).__net__()
    weights = {n: node.weight for n, node in program.network.nodes.items() if node.kind in ("conv1d", "linear")}
    for name, module in net.named_children():
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            assert module.weight.dtype == torch.int8
            np.testing.assert_array_equal(module.weight.numpy(), weights[name])
    assert sum(p.numel() for p in net.parameters()) == neurobench.metrics(program)["ParameterCount"]


def test_the_layers_compute_what_the_network_does(program):
    """So that NeuroBench, which runs them on ones, counts with the right windows."""
    shapes = infer_shapes(program.network)
    for name, module in neurobench.model(program).__net__().named_children():
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            shape = shapes[program.network.incoming[name][0].source]
            given = np.random.default_rng(0).integers(-3, 4, (2, *shape))
            expected = linear.apply(program.network.nodes[name], given, shape)
            np.testing.assert_array_equal(module(torch.from_numpy(given)), expected)


# --------------------------------------------------------------------------- failures


def test_a_failing_metric_is_an_error_and_not_zero(program, capsys):
    x, y = frames(program.input_shape, 4)
    model = neurobench.model(program)
    silent = Benchmark(model, loader(x, y, 2), [], [model.classes], [[], [NeuronOperations]]).run(quiet=True)
    assert silent["NeuronOperations"] == 0.0                          # NeuroBench: it failed, and this is all that is told
    with pytest.raises(UnsupportedError, match="NeuronOperations fails") as caught:
        neurobench.benchmark(model, loader(x, y, 2), static=[], workload=[NeuronOperations])
    assert caught.value.code == "D2E-NB-003"


def test_a_failing_metric_of_any_model_is_an_error():
    model = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(12 * STEPS, 4)))
    x, y = frames((12,), 4)
    with pytest.raises(UnsupportedError, match="ClassificationAccuracy fails"):  # scores, not classes
        neurobench.benchmark(model, loader(x.astype(np.float32), y, 2), static=[], workload=[ClassificationAccuracy])


def test_a_failing_static_metric_is_an_error():
    model = TorchModel(nn.Sequential(nn.Flatten()))                   # nothing to divide by
    x, y = frames((12,), 4)
    with pytest.raises(UnsupportedError, match="ConnectionSparsity fails"):
        neurobench.benchmark(model, loader(x.astype(np.float32), y, 2), workload=[])


class _Other(WorkloadMetric):
    """Of a user's own; returns what `found` is, at the second batch."""

    found: Any = None
    batches = 0

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, model: Any, preds: Any, data: Any) -> Any:
        self.batches += 1
        if self.batches == 1:
            return 1.0
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize("found", [None, {"a": 1}, "high", [1.0], ValueError()])
def test_what_is_no_number_is_an_error(found, program):
    """NeuroBench multiplies it by the batch size, fails, and stores 0.0."""
    x, y = frames(program.input_shape, 4)
    metric = type("Mine", (_Other,), {"found": found})
    model = neurobench.model(program)
    assert Benchmark(model, loader(x, y, 2), [], [model.classes], [[], [metric]]).run(quiet=True)["Mine"] in (0.0, [])
    with pytest.raises(UnsupportedError, match=r"Mine fails: \w") as caught:
        neurobench.benchmark(model, loader(x, y, 2), static=[], workload=[metric])
    assert caught.value.code == "D2E-NB-003"


def test_a_static_metric_that_returns_nothing_is_an_error(program):
    x, y = frames(program.input_shape, 2)
    metric = type("Nothing", (StaticMetric,), {"__call__": lambda self, model: None})
    with pytest.raises(UnsupportedError, match="Nothing fails: it returns nothing"):
        neurobench.benchmark(neurobench.model(program), loader(x, y, 2), static=[metric], workload=[])


def test_layer_sparsity_alone_gets_its_hooks(program):
    """2.3.0 forgets to say that it needs them, and by itself raises."""
    x, y = frames(program.input_shape, 4)
    found = neurobench.benchmark(neurobench.model(program), loader(x, y, 2), static=[], workload=[ActivationSparsityByLayer])
    ours = neurobench.metrics(program, (x, y))
    assert found["ActivationSparsityByLayer"] == pytest.approx(ours["ActivationSparsityByLayer"])


def test_what_is_no_metric_is_refused(program):
    x, y = frames(program.input_shape, 2)
    for static in (int, "footprint", Footprint(), ClassificationAccuracy):
        with pytest.raises(UnsupportedError, match="is no class of NeuroBench's StaticMetric"):
            neurobench.benchmark(neurobench.model(program), loader(x, y, 2), static=[static])


def test_a_folder_without_metrics(tmp_path):
    with pytest.raises(UsageError, match=r"holds no neurobench.json") as caught:
        neurobench.read(tmp_path)
    assert caught.value.code == "D2E-LOAD-020"


def test_membranes_that_a_board_does_not_tell_are_no_zero():
    model, size = dense()
    program = d2e.compile(scaled(model), "speck2f-sim", input_shape=size, time_steps=2)
    x, y = (a[:2] for a in frames(size, 2))
    x = x[:, :2]
    wrapped = neurobench.model(program, engine="simulated-board")
    with pytest.raises(UnsupportedError, match="MembraneUpdates needs membranes"):
        neurobench.benchmark(wrapped, loader(x, y, 2), static=[], workload=[MembraneUpdates])
    found = neurobench.metrics(program, (x, y), engine="simulated-board")
    assert "MembraneUpdates" not in found
    assert "no states" in found["d2e"]["absent"]["MembraneUpdates"]
    assert found["SynapticOperations"] == neurobench.metrics(program, (x, y))["SynapticOperations"]


def test_without_neurobench_there_is_a_way_out(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "neurobench.benchmarks", None)
    with pytest.raises(MissingError, match="D2E-NB-001") as caught:
        neurobench.model(program)
    assert "pip install 'd2e[neurobench]'" in str(caught.value)
    assert neurobench.metrics(program)["Footprint"] > 0               # ours need none

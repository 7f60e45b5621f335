"""Our metrics are NeuroBench's own, 2.3.0, wherever every value between layers is 0 or 1."""

from __future__ import annotations

import functools

import neurobench.metrics.static as static
import neurobench.metrics.workload as workload
import neurobench.version
import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neurobench.benchmarks import Benchmark
from neurobench.models import SNNTorchModel
from neurobench.processors.postprocessors import ChooseMaxCount
from tests.compiler.neurobench.networks import STEPS, biased, convolutions, dense, frames, loader, pooled, scaled
from torch import nn

import d2e
from d2e.compiler import neurobench as ours
from d2e.compiler.program import Program

SHAPES = {"dense": dense, "convolutions": convolutions, "pooled": pooled, "biased": biased}
RESETS = {"subtract": {"reset": "subtract"}, "zero": {"reset": "zero"}}


def same(found: dict, expected: dict) -> None:
    """Equal up to the last digits of NeuroBench's float32 means."""
    assert {k for k in found if k != "d2e"} == {k for k in expected if k != "OnChipSpikes"}
    for key in expected.keys() - {"OnChipSpikes"}:
        assert found[key] == pytest.approx(expected[key], rel=1e-6), key
    assert found["d2e"]["OnChipSpikes"] == pytest.approx(expected.get("OnChipSpikes", found["d2e"]["OnChipSpikes"]))


@functools.cache
def compiled(shape: str, reset: str, target: str) -> Program:
    model, size = SHAPES[shape](**RESETS[reset])
    return d2e.compile(scaled(model), target, input_shape=size, time_steps=STEPS, calibration=frames(size, 16, 9)[0])


def test_the_version_compared_with():
    assert neurobench.version.__version__ == "2.3.0"


@settings(max_examples=25)
@given(
    shape=st.sampled_from(list(SHAPES)), reset=st.sampled_from(list(RESETS)), samples=st.integers(1, 9),
    batch=st.integers(1, 9), seed=st.integers(0, 2**16),
)
def test_metrics_are_those_of_neurobench_whatever_the_batch(shape, reset, samples, batch, seed):
    program = compiled(shape, reset, "loihi2-sim")
    x, y = frames(program.input_shape, samples, seed)
    found = ours.metrics(program, (x, y))
    assert found["SynapticOperations"]["Effective_MACs"] == 0
    assert found["SynapticOperations"]["Effective_ACs"] > 0
    same(found, ours.benchmark(ours.model(program), loader(x, y, batch)))


@pytest.mark.parametrize("engine", ["loihi2-sim", "reference"])
def test_engines_agree(engine):
    program = compiled("dense", "subtract", "loihi2-sim")
    x, y = frames(program.input_shape, 6)
    found, other = ours.metrics(program, (x, y), engine=engine), ours.metrics(program, (x, y))
    assert {**found, "d2e": 0} == {**other, "d2e": 0}


# --------------------------------------------------------------------------- networks that are not made by us


class Written(nn.Module):
    """A snnTorch network as a user writes it, of a program's integers."""

    def __init__(self, program: Program, reset: str) -> None:
        super().__init__()
        network = program.network
        self.neurons = nn.ModuleList()
        self.weights = nn.ModuleList()
        for name in network.populations:
            self.neurons.append(snntorch.Leaky(
                beta=1.0, threshold=float(network.neuron(name).threshold), reset_mechanism=reset,
                reset_delay=reset == "subtract",
            ))
        for node in network.nodes.values():
            if node.kind == "linear":
                layer = nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=False)
            elif node.kind == "conv2d":
                layer = nn.Conv2d(
                    node.weight.shape[1] * node.groups, node.weight.shape[0], node.weight.shape[2:], node.stride,
                    node.padding, node.dilation, node.groups, bias=False,
                )
            else:
                continue
            layer.weight.data = torch.tensor(node.weight, dtype=torch.float32)
            self.weights.append(layer)

    def reset(self) -> None:
        for neuron in self.neurons:
            neuron.reset_mem()

    def forward(self, x):
        mem = None
        for layer, neuron in zip(self.weights, self.neurons, strict=True):
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
            x, mem = neuron(x, neuron.mem)
        return x, mem


@pytest.mark.parametrize("batch", [1, 4, 10])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("build", [dense, convolutions], ids=["dense", "convolutions"])
def test_metrics_are_those_of_the_same_network_in_snntorch(build, reset, batch):
    """Every neuron is an IF that fires above its threshold, as snnTorch's does, and is reset when the chip's is."""
    model, size = build(fire="gt", **RESETS[reset])
    calibration = frames(size, 16, 9)[0]
    program = d2e.compile(scaled(model), "loihi2-sim", input_shape=size, time_steps=STEPS, calibration=calibration)
    x, y = frames(size, 10, 3)
    wrapped = SNNTorchModel(Written(program, reset))
    metrics = [
        [static.ConnectionSparsity],
        [workload.SynapticOperations, workload.ActivationSparsity, workload.MembraneUpdates,
         workload.ClassificationAccuracy],
    ]
    data = loader(x.astype(np.float32), y, batch)
    expected = Benchmark(wrapped, data, [], [ChooseMaxCount()], metrics).run(quiet=True)
    found = ours.metrics(program, (x, y))
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6), key

"""Files that d2e writes, read and run by other tools: the spikes are those of the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nir
import norse.torch as norse
import numpy as np
import pytest
import sinabs.nir
import torch
from snntorch.import_nir import import_from_nir
from spikingjelly.activation_based import nir_exchange

from d2e.ir import IF, LIF, Affine, Conv2d, Flatten, Input, Network, Neuron, Output, SumPool2d, chain, nirfile, reference

STEPS, BATCH, DT = 25, 4, 1e-4


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + shape[0]).normal(0.1, 0.45, shape).astype(np.float32)


def frames_of(*shape: int) -> np.ndarray:
    return (np.random.default_rng(2).random((BATCH, STEPS, *shape)) < 0.4).astype(np.int64)


def mlp(neuron: Neuron) -> Network:
    return chain([
        ("input", Input(shape=(6,), dt=DT)), ("w1", Affine(weight=weights(8, 6), bias=np.zeros(8, np.float32))),
        ("n1", replace(neuron, shape=(8,))), ("w2", Affine(weight=weights(5, 8), bias=np.zeros(5, np.float32))),
        ("n2", replace(neuron, shape=(5,))), ("output", Output(shape=(5,))),
    ])


def graph_of(network: Network, folder: Path, compat: str) -> nir.NIRGraph:
    nirfile.write(network, folder / "n.nir", compat=compat)
    return nir.read(folder / "n.nir")


def by_steps(model, frames: np.ndarray) -> np.ndarray:
    """The output of a model that takes and returns its state."""
    state, sent = None, []
    with torch.no_grad():
        for t in range(STEPS):
            out, state = model(torch.as_tensor(frames[:, t], dtype=torch.float32), state)
            sent.append(out[0] if isinstance(out, tuple) else out)
    return torch.stack(sent, 1).numpy()


def assert_same(network: Network, frames: np.ndarray, theirs: np.ndarray) -> None:
    ours = reference.run(network, frames).output
    assert (ours == theirs).mean() >= 0.9999
    assert 0.01 < (ours > 0).mean() < 0.99


@pytest.mark.parametrize("compat", ["1.0.4", "1.0.8"])
def test_sinabs(compat, tmp_path):
    neuron = IF(shape=(), max_spikes=0, v_min=-1.0)
    network = chain([
        ("input", Input(shape=(2, 8, 8))), ("c", Conv2d(weight=weights(3, 2, 3, 3), bias=np.zeros(3, np.float32))),
        ("n1", replace(neuron, shape=(3, 6, 6))), ("p", SumPool2d(kernel_size=(2, 2), stride=(2, 2))), ("f", Flatten()),
        ("w", Affine(weight=weights(5, 27) - 0.15, bias=np.zeros(5, np.float32))), ("n2", replace(neuron, shape=(5,))),
        ("output", Output(shape=(5,))),
    ])
    model = sinabs.nir.from_nir(graph_of(network, tmp_path, compat), batch_size=BATCH)
    frames = frames_of(2, 8, 8)
    with torch.no_grad():
        out = model(torch.as_tensor(frames, dtype=torch.float32).flatten(0, 1))
    sent = out[0] if isinstance(out, tuple) else out
    assert_same(network, frames, sent.reshape(BATCH, STEPS, 5).numpy())


@pytest.mark.parametrize("compat", ["1.0.4", "1.0.8"])
def test_norse(compat, tmp_path):
    network = mlp(LIF(shape=(), decay_mem=0.8, gain=0.2, threshold=0.2, reset="zero", fire="gt"))
    model = norse.from_nir(graph_of(network, tmp_path, compat), dt=DT)
    frames = frames_of(6)
    assert_same(network, frames, by_steps(model, frames))


def test_spikingjelly(tmp_path):
    network = mlp(LIF(shape=(), decay_mem=0.8, reset="zero"))
    model = nir_exchange.import_from_nir(graph_of(network, tmp_path, "1.0.8"), dt=DT)
    frames = frames_of(6)
    assert_same(network, frames, by_steps(model, frames))


def test_snntorch(tmp_path):
    network = mlp(LIF(shape=(), decay_mem=0.8, reset="zero", fire="gt"))
    model = import_from_nir(graph_of(network, tmp_path, "1.0.8"))
    frames = frames_of(6)
    assert_same(network, frames, by_steps(model, frames))

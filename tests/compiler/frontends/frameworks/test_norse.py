"""Models of Norse 1.1.0 beside the networks read from them: every spike of every neuron, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import nir
import norse.torch as snn
import numpy as np
import pytest
import torch
from norse.torch.functional.reset import reset_subtract, reset_value
from tests.compiler.frontends.frameworks import agreement
from torch import nn

from d2e.compiler.frontends.against import compare
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import UnsupportedError, UsageError, reference

STEPS = 30
frames_of = partial(agreement.frames_of, steps=STEPS)
agrees = partial(agreement.agrees, steps=STEPS)
Numbers = float | torch.Tensor


def tensors(**values: Any) -> dict[str, Any]:
    return {key: torch.as_tensor(value) if isinstance(value, float) else value for key, value in values.items()}


def lif(**values: Any) -> Any:
    """Parameters of a neuron that is fast enough to fire within the frames."""
    return snn.LIFParameters(**{**tensors(tau_mem_inv=300.0, tau_syn_inv=250.0, v_th=0.3), **tensors(**values)})


def box(**values: Any) -> Any:
    return snn.LIFBoxParameters(**{**tensors(tau_mem_inv=400.0, v_th=0.2), **tensors(**values)})


def li(**values: Any) -> Any:
    return snn.LIParameters(**tensors(**values))


def dense(n_in: int, n_out: int, gain: float = 3.0) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, 0.4 / n_in**0.5, gain / n_in**0.5)
    return layer


def planes(n_in: int, n_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(n_in, n_out, 3, padding=1)
    nn.init.normal_(layer.weight, 0.05, 0.5)
    return layer


class OverTime(nn.Module):
    """A ``forward`` of the user's own around layers over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.one = snn.Lift(planes(2, 6)), snn.Lift(nn.AvgPool2d(2)), snn.LIF(lif())
        self.flatten, self.fc, self.two, self.out = nn.Flatten(2), dense(96, 10), snn.LIF(lif()), snn.LI()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, _ = self.one(self.conv(x))
        z, _ = self.two(self.fc(self.flatten(self.pool(z))))
        v, _ = self.out(z)
        return v


class Loop(nn.Module):
    """A ``forward`` that calls cells step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = dense(12, 20), snn.LIFCell(lif())
        self.rec, self.out = snn.LIFRecurrentCell(20, 10, lif()), snn.LICell()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = r = o = None
        sent = []
        for step in range(x.shape[0]):
            z, s = self.lif(self.fc(x[step]), s)
            z, r = self.rec(z, r)
            v, o = self.out(z, o)
            sent.append(v)
        return torch.stack(sent)


class LoopOverCells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = snn.SequentialState(dense(12, 20), snn.LIFCell(lif()), dense(20, 5, 6.0), snn.LIFBoxCell(box()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, sent = None, []
        for frame in x:
            z, state = self.net(frame, state)
            sent.append(z)
        return torch.stack(sent)


MODELS: dict[str, tuple[tuple[int, ...], str, Callable[[], nn.Module]]] = {
    "mlp over time": ((12,), "time-batch", lambda: snn.SequentialState(
        dense(12, 20), snn.LIF(lif()), nn.Dropout(0.5), dense(20, 8, 6.0), snn.IAF(), dense(8, 4), snn.LI())),
    "mlp of cells": ((12,), "step", lambda: snn.SequentialState(
        dense(12, 20), snn.LIFBoxCell(box()), dense(20, 12, 6.0), snn.LIFCell(lif()), dense(12, 8, 6.0), snn.IAFCell(),
        dense(8, 3), snn.LIBoxCell())),
    "convolutions over time": ((2, 8, 8), "time-batch", lambda: snn.SequentialState(
        snn.Lift(planes(2, 6)), snn.LIF(lif()), snn.Lift(nn.LPPool2d(1, 2)), nn.Flatten(2), dense(96, 10), snn.LIF(lif()))),
    "convolutions of cells": ((2, 8, 8), "step", lambda: snn.SequentialState(
        planes(2, 6), nn.BatchNorm2d(6), snn.LIFBoxCell(box()), nn.AvgPool2d(2), nn.Flatten(), dense(96, 10),
        snn.LIFCell(lif()))),
    "recurrent over time": ((12,), "time-batch", lambda: snn.SequentialState(
        snn.LIFRecurrent(12, 24, lif(v_th=1.0)), snn.LIFRecurrent(24, 10, lif(v_th=1.0), autapses=True), snn.LI())),
    "recurrent cells": ((12,), "step", lambda: snn.SequentialState(
        snn.LIFRecurrentCell(12, 24, lif(v_th=1.0)), snn.LILinearCell(24, 4))),
    "cells lifted over time": ((12,), "time-batch", lambda: nn.Sequential(
        snn.Lift(dense(12, 20)), snn.Lift(snn.LIFCell(lif())), snn.Lift(dense(20, 8)), snn.LIF(lif()))),
    "forward over time": ((2, 8, 8), "time-batch", OverTime),
    "forward step by step": ((12,), "time-batch", Loop),
    "forward around a sequence of cells": ((12,), "time-batch", LoopOverCells),
    "nested": ((12,), "time-batch", lambda: snn.SequentialState(
        snn.SequentialState(dense(12, 20), snn.LIF(lif())), dense(20, 6), snn.LIF(lif()))),
    "refractory cells": ((12,), "step", lambda: snn.SequentialState(
        dense(12, 20), snn.LIFRefracCell(snn.LIFRefracParameters(lif(), torch.tensor(3.0))),
        snn.LIFRefracRecurrentCell(20, 10, snn.LIFRefracParameters(lif(), torch.tensor(1.5))))),
    "refractory over time": ((12,), "time-batch", lambda: snn.SequentialState(
        snn.LIFRefracRecurrent(12, 20, snn.LIFRefracParameters(lif())), dense(20, 4, 6.0), snn.LIF(lif()))),
    "lone": ((12,), "time-batch", lambda: snn.LIF(lif())),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_spikes_are_those_of_norse(name: str, seed: int) -> None:
    shape, layout, build = MODELS[name]
    torch.manual_seed(seed)
    agrees(build(), shape, layout, seed)


@pytest.mark.parametrize("cell", [
    snn.LIFCell(lif(v_leak=0.1)), snn.LIFCell(lif(v_reset=-0.2)), snn.LIFCell(lif(v_leak=-0.1, v_reset=0.15)),
    snn.LIFCell(lif(tau_syn_inv=torch.linspace(50, 900, 20), tau_mem_inv=torch.linspace(100, 900, 20))),
    snn.LIFCell(lif(v_th=torch.linspace(0.1, 0.5, 20))), snn.LIFCell(lif(), dt=0.002), snn.LIFCell(lif(method="heaviside")),
    snn.LIFCell(lif(method="tanh")), snn.LIFCell(snn.LIFParameters()),
    snn.LIFBoxCell(box(v_leak=0.1, reset_method=reset_subtract)), snn.LIFBoxCell(box(reset_method=reset_value, v_reset=0.1)),
    snn.LIFBoxCell(box(reset_method=reset_subtract), dt=0.0005), snn.LIFBoxCell(box(tau_mem_inv=1000.0)),
    snn.IAFCell(snn.IAFParameters(v_th=torch.tensor(0.7), v_reset=torch.tensor(-0.4))), snn.IAFCell(),
], ids=lambda cell: f"{type(cell).__name__} {cell.p}"[:120])
def test_parameters(cell: nn.Module) -> None:
    torch.manual_seed(1)
    agrees(snn.SequentialState(dense(12, 20, 6.0), cell), (12,), "step")


@pytest.mark.parametrize("readout", [
    snn.LICell(li(tau_mem_inv=200.0, tau_syn_inv=700.0, v_leak=0.3)), snn.LIBoxCell(snn.LIBoxParameters(torch.tensor(50.0))),
    snn.LIBoxCell(snn.LIBoxParameters(torch.tensor(50.0), torch.tensor(-0.2)), dt=0.004),
], ids=["LI", "LIBox", "LIBox leak"])
def test_readouts(readout: nn.Module) -> None:
    agrees(snn.SequentialState(dense(12, 20), snn.LIFCell(lif()), dense(20, 4), readout), (12,), "step")


def test_a_step_by_hand() -> None:
    """An input at step 0 moves v in step 0; what is left of i moves it again in step 1."""
    model = snn.SequentialState(nn.Identity(), snn.LICell(li(tau_mem_inv=500.0, tau_syn_inv=200.0)))
    network = from_torch(model, (1,))
    node = network.neuron("1")
    assert [float(x) for x in (node.decays[1], node.decays[0], node.gain)] == pytest.approx([0.5, 0.8, 0.5])
    state, sent = None, []
    for frame in (1.0, 0.0, 0.0):
        v, state = model(torch.tensor([[frame]]), state)
        sent.append(float(v))
    assert sent == pytest.approx([0.5, 0.25 + 0.4, 0.325 + 0.32])


@pytest.mark.parametrize(("read", "readout"), [
    (lambda v: v.sum(0), "count"), (lambda v: v.mean(dim=0), "mean"), (lambda v: v[-1], "last"),
], ids=["sum", "mean", "last"])
def test_a_readout_over_time_at_the_end(read: Any, readout: str) -> None:
    class Reading(OverTime):
        def forward(self, x: torch.Tensor) -> Any:
            return read(super().forward(x))

    network = from_torch(Reading(), (2, 8, 8))
    assert network.output.readout == readout


def trained(model: nn.Module, frames: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A few steps of training on frames [time, batch, …]."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(frames)[0].mean(0), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["mlp over time", "convolutions over time", "recurrent over time"])
def test_briefly_trained(name: str) -> None:
    shape, _, build = MODELS[name]
    torch.manual_seed(5)
    model = build()
    before = [p.detach().clone() for p in model.parameters()]
    labels = torch.arange(16) % 2
    rates = torch.rand(2, *shape)[labels] * 0.7
    frames = torch.bernoulli(rates[:, None].expand(16, STEPS, *shape))
    trained(model, frames.transpose(0, 1), labels)
    assert any((p != old).any() for p, old in zip(model.parameters(), before, strict=True))
    found = compare(model, from_torch(model, shape), frames.numpy().astype(np.int64))
    assert found.agreement >= 0.9999, found.first
    assert all(theirs != 0 for theirs, _ in found.spikes.values())


def no_reset(z: torch.Tensor, v: torch.Tensor, reset: torch.Tensor, th: torch.Tensor) -> torch.Tensor:
    return v


class HandedOn(nn.Module):
    """The state of one neuron enters another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = snn.LIF(lif()), snn.LIF(lif())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, s = self.one(x)
        z, _ = self.two(z, s)
        return z


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "LSNN": (lambda: snn.SequentialState(snn.LSNN()), (4,), "D2E-LAYER-008", "adapts its threshold"),
    "LIFAdEx": (lambda: snn.SequentialState(snn.LIFAdExCell()), (4,), "D2E-LAYER-008", "exponential of v and adapts"),
    "LIFEx": (lambda: snn.SequentialState(snn.LIFEx()), (4,), "D2E-LAYER-008", "exponential"),
    "CobaLIF": (lambda: snn.SequentialState(snn.CobaLIFCell(4, 4)), (4,), "D2E-LAYER-008", "conductances"),
    "multiple compartments": (lambda: snn.SequentialState(snn.LIFMCRecurrentCell(4, 4)), (4,), "D2E-LAYER-008", "couples"),
    "encoder": (lambda: snn.SequentialState(snn.PoissonEncoder(8), snn.LIF()), (4,), "D2E-LAYER-009", "encoder"),
    "LConv2d": (lambda: snn.SequentialState(snn.LConv2d(1, 2, 3), snn.LIF()), (1, 4, 4), "D2E-LAYER-006", "LConv2d"),
    "RecurrentSequential": (
        lambda: snn.SequentialState(snn.RecurrentSequential(nn.Linear(4, 4), snn.LIFCell()), snn.LIFCell()), (4,),
        "D2E-LAYER-006", "RecurrentSequential"),
    "reset_method": (lambda: snn.SequentialState(snn.LIFBoxCell(box(reset_method=no_reset))), (4,), "D2E-LAYER-005",
                     "reset_method=.*no_reset"),
    "rho per neuron": (
        lambda: snn.SequentialState(snn.LIFRefracCell(snn.LIFRefracParameters(lif(), torch.arange(4.0)))), (4,),
        "D2E-LAYER-005", "rho_reset"),
    "adjoint": (lambda: snn.SequentialState(snn.LIFCell(lif(method="adjoint"))), (4,), "D2E-LAYER-005", "does not run"),
    "cell behind layers over time": (lambda: snn.SequentialState(snn.LIF(), snn.LIFCell()), (4,), "D2E-LAYER-005",
                                     r"takes \[batch, …\] but receives \[time, batch, …\].*Lift"),
    "convolution without Lift": (lambda: snn.SequentialState(nn.Conv2d(1, 2, 3), snn.LIF()), (1, 8, 8), "D2E-LAYER-005",
                                 "takes .time, batch"),
    "state handed on": (HandedOn, (4,), "D2E-LAYER-006", "a state that is handed to another neuron"),
    "time constant below a step": (lambda: snn.SequentialState(snn.LIFCell(lif(tau_mem_inv=1500.0))), (4,),
                                   "D2E-LAYER-005", "dt . tau_mem_inv reaches 1.5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, shape, code, text = REFUSED[name]
    with pytest.raises(UnsupportedError) as caught:
        from_torch(build(), shape)
    assert caught.value.findings[0].code.startswith(code)
    assert re.search(text, f"{caught.value} {caught.value.findings[0].hint}", re.DOTALL)


def test_pickled_models_need_the_users_word(tmp_path: Any) -> None:
    """Norse's LIF neurons cannot be pickled at all; what can holds more than layers."""
    path = tmp_path / "model.pt"
    torch.save(snn.SequentialState(dense(12, 20), snn.IAFCell()), path)
    with pytest.raises(UsageError, match=r"D2E-LOAD-006.*norse\.torch"):
        load_model(path, input_shape=(12,))
    assert load_model(path, input_shape=(12,), allow_pickle=True).populations == ("1",)


def test_its_nir_file_reads_as_the_model(tmp_path: Any) -> None:
    """Norse writes parameters per neuron only; v_reset and the surrogate are not in the file, and not needed here."""
    torch.manual_seed(3)

    def full(size: int, value: float) -> torch.Tensor:
        return torch.full((size,), value)

    model = snn.SequentialState(
        dense(12, 20), snn.LIFBoxCell(box(tau_mem_inv=full(20, 400.0), v_th=full(20, 0.2), v_leak=full(20, 0.0))),
        dense(20, 6, 6.0), snn.IAFCell(snn.IAFParameters(v_th=full(6, 1.0), v_reset=full(6, 0.0))))
    nir.write(tmp_path / "model.nir", snn.to_nir(model, torch.rand(1, 12)))
    read, network = load_model(tmp_path / "model.nir", profile="norse"), from_torch(model, (12,))
    frames = frames_of(network, 3)
    theirs, ours = (reference.run(each, frames, "spikes").spikes for each in (read, network))
    for other, mine in zip(read.populations, network.populations, strict=True):
        assert ours[mine].sum() > 20
        assert (theirs[other] == ours[mine]).mean() >= 0.9999


def test_no_framework_is_imported() -> None:
    script = "import sys, d2e.compiler.frontends.files; assert not {'norse', 'sinabs', 'samna'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)

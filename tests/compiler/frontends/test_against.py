"""A model beside its own network: the same, or the first place where they differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from d2e import nn as snn
from d2e.cli import main
from d2e.compiler.frontends import against
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import UsageError


def _model() -> snn.Sequential:
    torch.manual_seed(0)
    model = snn.Sequential(nn.Conv2d(2, 4, 3, padding=1), snn.IF(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 6),
                           snn.LIF(decay=0.9, threshold=0.2), nn.Linear(6, 3), snn.LI(decay=0.8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    return model


def test_the_same_model_is_the_same() -> None:
    """Every neuron-step of every population, readouts included."""
    model = _model()
    network = from_torch(model, (2, 6, 6), time_steps=10)
    found = against.compare(model, network, against.sample_frames(network, 4, 0))
    assert found.agreement == 1.0
    assert found.first is None
    assert found.populations == {"1": (5760, 5760), "5": (240, 240), "7": (120, 120)}
    assert all(theirs != 0 for theirs, _ in found.spikes.values())


def test_the_first_difference_is_found() -> None:
    """A weight changed behind d2e's back shows in its layer first, and not in the layer before it."""
    model = _model()
    network = from_torch(model, (2, 6, 6), time_steps=10)
    with torch.no_grad():
        model[4].weight[3] += 0.5
    found = against.compare(model, network, against.sample_frames(network, 4, 0))
    assert found.populations["1"][0] == found.populations["1"][1]
    assert found.first is not None
    assert (found.first.population, found.first.neuron) == ("5", (3,))
    assert found.first.source != found.first.reference
    assert "first difference: 5, step" in against.text(found)
    assert against.told(found)["first_difference"]["neuron"] == [3]


def test_training_mode_and_hooks_stay_as_they_were() -> None:
    """The user's model is as before."""
    model = _model()
    model.train()
    network = from_torch(model, (2, 6, 6), time_steps=2)
    against.compare(model, network, against.sample_frames(network, 1, 0))
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_on_the_command_line(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """``d2e check --against-source``: a table, JSON, and exit code 4 where they differ."""
    snn.save(_model(), tmp_path / "model.pt", input_shape=(2, 6, 6), time_steps=10)
    frames = (np.random.default_rng(0).random((2, 10, 2, 6, 6)) < 0.5).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=frames)

    def check(*args: str) -> int:
        monkeypatch.setattr("sys.argv", ["d2e", "check", str(tmp_path / "model.pt"), "--against-source", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert check("--data", str(tmp_path / "data.npz"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["agreement"] == 1.0
    assert check() == 0
    assert "100.0000 %" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(against, "ENOUGH", 1.1)
        assert check() == 4
    assert "D2E-GATE-002" in capsys.readouterr().err


def test_what_has_no_source_says_so() -> None:
    """A network alone, and a module that is another one."""
    network = from_torch(_model(), (2, 6, 6), time_steps=2)
    with pytest.raises(UsageError, match="D2E-AGAINST-002"):
        against.check_source(network)
    with pytest.raises(UsageError, match="D2E-AGAINST-001"):
        against.compare(nn.Linear(2, 2), network, against.sample_frames(network, 1, 0))

"""Where training runs: devices, precisions, and two processes that train one student."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.compiler.transfer.conftest import CLASSES, SHAPE, STEPS, changed, codes, never, pictures
from torch import nn

import d2e.nn as dn
from d2e.compiler.transfer.keep import Keep
from d2e.compiler.transfer.models import Model
from d2e.compiler.transfer.pairs import Direct, Pairs
from d2e.compiler.transfer.train import Lesson, Settings, fit
from d2e.compiler.transfer.workers import workers
from d2e.ir import MissingError, UsageError

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_is_not_there(transfer, name):
    with pytest.raises(UsageError, match=name) as raised:
        transfer(device=name, listen=never)
    assert codes(raised) == "D2E-TRANS-006"


def test_a_device_that_is_there(transfer):
    assert not changed(transfer(device="cpu", epochs=1).student, transfer(device="cpu:0", epochs=1).student)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precisions_train_float32_weights(transfer, precision):
    found, plain = (transfer(precision=name, epochs=6, device="cpu") for name in (precision, "float32"))
    assert all(p.dtype == torch.float32 for p in found.student.parameters())
    assert "0.weight" in changed(found.student, plain.student)
    assert not changed(found.student, transfer(precision=precision, epochs=6, device="cpu").student)
    accuracies = [run.facts["stages"][-1]["accuracy"] for run in (found, plain)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.15)


def test_several_processes_without_accelerate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingError) as raised:
        workers("cpu", "float32")
    assert codes(raised) == "D2E-TRANS-007"
    assert "d2e[train]" in raised.value.hint
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert (workers("cpu", "float32").rank, workers("cpu", "float32").world) == (0, 1)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of processes -> the folder in which they ran `SCRIPT`."""
    found = {}
    for count in (1, 2):
        found[count] = folder = tmp_path_factory.mktemp(f"processes{count}")
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([sys.executable, *launch, str(SCRIPT), str(folder)], env=environment, capture_output=True,
                              text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    return found


def told(folder: Path, name: str, rank: int = 0) -> dict:
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def test_two_processes_train_the_weights_of_one(launched):
    """Each takes half of every batch, and gradients are the mean of both: the same but for roundings."""
    one, two = (torch.load(launched[count] / "plain" / "student.pt", weights_only=False)["model"] for count in (1, 2))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert changed(one, two), "sums in another order"
    start = told(launched[1], "plain")["start"]
    assert max(np.abs(np.array(start[name]) - value.numpy()).max() for name, value in one.state_dict().items()) > 0.02


def test_one_process_writes_listens_and_keeps(launched):
    folder = launched[2]
    assert sorted(p.name for p in folder.iterdir()) == [
        "kept", "normalised", "normalised-0.json", "normalised-1.json", "plain", "plain-0.json", "plain-1.json"]
    for name in ("plain", "normalised"):
        first, second = (told(folder, name, rank) for rank in (0, 1))
        assert (first["written"], second["written"]) == (str(folder / name), None)
        assert first["heard"] > 0 == second["heard"]


def test_processes_stop_after_the_same_epoch(launched):
    """Batch norms see another half of each batch in either, and so may the accuracies be."""
    first, second = (told(launched[2], "normalised", rank) for rank in (0, 1))
    assert first["epochs"] == second["epochs"]
    assert len(first["epochs"]) < 30


def test_a_batch_is_large_enough_for_all_processes():
    many = workers("cpu", "float32")
    many.world = 4
    x, y = map(torch.from_numpy, pictures(30))
    own = Model(dn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES), dn.LI(0.9)), SHAPE, "mean", {})
    with pytest.raises(UsageError, match="a batch of 3 is too small for 4 processes") as raised:
        fit(own, Lesson(Pairs(x, y), Direct(STEPS)), Settings(batch=3, alpha=1.0), many, never, Keep(None, ""))
    assert codes(raised) == "D2E-TRANS-008"

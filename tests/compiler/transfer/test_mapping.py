"""The event mapping in front of a student: where it starts, what it takes, and a teacher of normalised images."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.compiler.transfer.conftest import CLASSES, SHAPE, STEPS, codes, over_time
from torch import nn

import d2e.nn as dn
from d2e.compiler.transfer.models import Model, mapped
from d2e.ir import UnsupportedError, UsageError

FACTS = {"input_shape": SHAPE, "time_steps": STEPS, "readout": "mean"}


def coloured() -> dn.Sequential:
    torch.manual_seed(3)
    return dn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), dn.LIF(0.5, 0.3, reset="zero"), nn.Flatten(), nn.Linear(320, CLASSES), dn.LI(0.9),
    ).double().eval()


def test_a_mapping_of_a_normalised_teacher_is_its_normalisation_at_borders_too():
    model, images = coloured(), torch.rand(20, 3, 8, 8, dtype=torch.float64)
    mean, std = torch.tensor([0.5, 0.4, 0.1]).reshape(3, 1, 1), torch.tensor([0.25, 0.5, 0.3]).reshape(3, 1, 1)
    student = mapped(Model(model, (3, 8, 8), "mean", {}), (3, 8, 8), mean, std)
    found, wanted = student.module.double()(over_time(images)), model(over_time((images - mean) / std))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("sent", "wanted", "row"), [
    (3, 3, [0, 1, 0]), (6, 3, [0, 0, -1, 1, 0, 0]), (2, 3, [-1, 1]), (2, 1, [-1, 1]), (5, 3, [0.2] * 5)])
def test_where_a_mapping_starts(sent, wanted, row):
    model = Model(nn.Sequential(nn.Conv2d(wanted, 2, 1)), (wanted, 4, 4), "mean", {})
    found = mapped(model, (sent, 4, 4))
    assert found.shape == (sent, 4, 4)
    middle = found.module[0].weight[min(1, wanted - 1), :, 0, 0]
    torch.testing.assert_close(middle, torch.tensor(row, dtype=torch.float32))
    assert found.module[0].bias is None


def test_a_teacher_of_normalised_images(transfer, lesson, exam, teacher):
    """The teacher sees what it was trained on: here, an image taken apart, and put together again."""
    first = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        first.weight.fill_(0.5)
        first.bias.fill_(0.2)
    model = dn.Sequential(first, *copy.deepcopy(teacher))
    found = transfer(model=(model, {**FACTS, "coding": "direct"}), mean=[0.2], std=[0.5], method="zero-shot")
    assert found.facts["teacher"]["accuracy"] == pytest.approx(transfer(method="zero-shot").facts["teacher"]["accuracy"])
    assert found.student[0].weight.item() == 2
    assert found.student[0].bias.item() == pytest.approx(-0.4)
    for given in ({"mean": [0.2]}, {"std": [0.2]}, {"mean": [0.1, 0.2], "std": [0.1, 0.2]}, {"mean": [0.1], "std": [0.0]}):
        with pytest.raises(UsageError, match="for each of 1 channels") as raised:
            transfer(**given)
        assert codes(raised) == "D2E-TRANS-008"


def test_a_mapping_takes_images(transfer):
    model = dn.Sequential(nn.Linear(6, 5), dn.IF(), nn.Linear(5, 3), dn.LI(0.9))
    flat = np.random.default_rng(0).random((40, 6)), np.arange(40) % 3
    for options in ({"event_mapping": True}, {"method": "map"}):
        with pytest.raises(UnsupportedError, match=r"not \[6\] to \[6\]") as raised:
            transfer(model=(model, {"input_shape": (6,)}), data=flat, eval=None, **options)
        assert codes(raised) == "D2E-TRANS-005"
    found = transfer(model=(model, {"input_shape": (6,)}), data=flat, eval=None)
    assert found.facts["time_steps"] == 8

"""Batch norms with the statistics of events."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d2e.compiler import nn as dn
from d2e.compiler.transfer.calibrate import renormalise
from d2e.ir import UnsupportedError


def model() -> nn.Module:
    torch.manual_seed(0)
    return dn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), dn.LIF(0.5, reset="zero"),
                         nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), dn.LIF(0.5, reset="zero"),
                         nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 2), dn.LI(0.0)).eval()


def test_the_statistics_are_those_of_the_frames_and_nothing_else_changes():
    before, frames = model(), (torch.rand(8, 5, 1, 6, 6) < 0.3).float()
    before[1].weight.data = torch.tensor([2.0, 3.0, 1.0])
    after = renormalise(before, [frames[:4], frames[4:]])
    currents = before[0](frames.flatten(0, 1))
    parts = currents.reshape(2, 20, *currents.shape[1:])
    assert torch.allclose(after[1].running_mean, parts.mean(dim=(1, 3, 4)).mean(dim=0), atol=1e-6)
    assert torch.allclose(after[1].running_var, parts.var(dim=(1, 3, 4)).mean(dim=0), atol=1e-5)
    whole = renormalise(before, [frames])
    assert torch.allclose(whole[4].running_mean, before[3](sent_by_the_first(whole, frames)).mean(dim=(0, 2, 3)), atol=1e-5)
    kept = {k: v for k, v in after.state_dict().items() if "running" not in k and "tracked" not in k}
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in kept.items())
    assert torch.equal(before[1].running_mean, torch.zeros(3))
    assert (after[1].momentum, after[1].training, after[7].training) == (0.1, False, False)


def sent_by_the_first(module: nn.Sequential, frames: torch.Tensor) -> torch.Tensor:
    """While statistics are taken, when batch norms use those of the batch itself."""
    current = nn.functional.batch_norm(module[0](frames.flatten(0, 1)), None, None, module[1].weight, module[1].bias, True)
    return module[2](current.reshape(*frames.shape[:2], *current.shape[1:])).flatten(0, 1)


def test_a_model_without_batch_norms_is_told():
    with pytest.raises(UnsupportedError, match="D2E-TRANS-015"):
        renormalise(dn.Sequential(nn.Flatten(), nn.Linear(4, 2), dn.LI(0.0)), [])

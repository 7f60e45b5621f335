"""How far the gradient under events is from the one the teacher was trained with (Theorem 3)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2e.compiler.transfer.rates import BATCH, on_device
from d2e.ir.nodes import Array


def _mean(output: Tensor) -> Tensor:
    return output.mean(dim=1)


def mismatch(
    model: nn.Module, direct: Array | Tensor, encoded: Array | Tensor, labels: Array | Tensor, batch: int = BATCH,
    readout: Callable[[Tensor], Tensor] = _mean,
) -> dict[str, Any]:
    """Compare the gradients of the mean cross-entropy at a teacher's parameters.

    The paper bounds the gradient under e(x) at a direct optimum by TV(X, S), which is 1 (`bounds`) and says nothing;
    so it is measured. Statistics of BatchNorm are the teacher's.

    Args:
        model: the teacher, over [batch, time, *shape].
        direct: frames it was trained on [n, time, *shape].
        encoded: payloads of the same images [n, time, *shape].
        labels: [n] class indices.
        batch: samples at a time.
        readout: logits [batch, classes] of its output [batch, time, …]; by default the mean over time.

    Returns:
        ``{cosine, relative_norm, direct_norm, event_norm, layers: {layer: the same}}`` with g the gradients,
        relative_norm = |g_event - g_direct| / |g_direct|; what a gradient of 0 leaves undefined is absent.
    """
    own = deepcopy(model).eval()
    for parameter in own.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    g, h = (_gradients(own, frames, labels, batch, readout) for frames in (direct, encoded))
    groups: dict[str, list[str]] = {}
    for name in g:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return {**_compared(g, h, list(g)), "layers": {layer: _compared(g, h, names) for layer, names in groups.items()}}


def _gradients(
    model: nn.Module, frames: Array | Tensor, labels: Array | Tensor, batch: int, readout: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Of the mean cross-entropy over all samples, per parameter that it depends on."""
    model.zero_grad(set_to_none=True)
    wanted = torch.as_tensor(labels).long()
    for start in range(0, len(frames), batch):
        logits = readout(model(on_device(frames[start : start + batch], model)))
        own = wanted[start : start + batch].to(logits.device)
        (functional.cross_entropy(logits, own, reduction="sum") / len(frames)).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.double().flatten() for name, p in model.named_parameters() if p.grad is not None}


def _compared(direct: dict[str, Tensor], event: dict[str, Tensor], names: list[str]) -> dict[str, float]:
    g, h = (torch.cat([part[name] for name in names]) for part in (direct, event))
    own, other = float(g.norm()), float(h.norm())
    found = {"direct_norm": own, "event_norm": other}
    if own:
        found["relative_norm"] = float((h - g).norm()) / own
    if own and other:
        found["cosine"] = max(-1.0, min(1.0, float(g @ h) / (own * other)))
    return found

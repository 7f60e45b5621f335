"""The common neuron as one autograd function on a CPU, in place of a dozen operations per time step.

That is IF and LIF with at most one spike per step, reset in the same step, and fixed parameters: a threshold for each neuron
or one for all, and one number for every other.
`dynamics.by_step` is the definition and runs all others; forward this is the same to the bit, backward up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from d2e.ir.errors import UsageError

if TYPE_CHECKING:
    from d2e.compiler.nn.dynamics import Rules

_NAMES = {"threshold", "decay_mem", "gain", "bias", "amplitude", "v_init", "v_reset", "reset_by"}
_PART = 1 << 18
"""Neuron-steps that are worth a thread."""


def fits(current: Tensor, values: Mapping[str, Tensor], rules: Rules) -> bool:
    """Whether `fused` runs a population."""
    ours = rules.kind in ("if", "lif") and rules.max_spikes == 1 and not rules.refractory
    ours = ours and "same" in (rules.reset_when, {"none": "same"}.get(rules.reset)) and values.keys() <= _NAMES
    here = type(current) is Tensor and current.device.type == "cpu" and current.dtype in (torch.float32, torch.float64)
    if not ours or not here or torch.compiler.is_compiling():
        return False
    if not all(v.device.type == "cpu" and not v.requires_grad for v in values.values()):
        return False
    return all(v.ndim == 0 or (name == "threshold" and _spreads(v, current)) for name, v in values.items())


def _spreads(threshold: Tensor, current: Tensor) -> bool:
    """Whether thresholds go over the neurons of a current without more of them, and without another type."""
    pairs = zip(reversed(threshold.shape), reversed(current.shape[2:]), strict=False)
    alike = threshold.ndim <= current.ndim - 2 and all(own in (1, size) for own, size in pairs)
    return alike and torch.promote_types(threshold.dtype, current.dtype) == current.dtype


def fused(current: Tensor, values: Mapping[str, Tensor], rules: Rules) -> Tensor:
    """Payloads [batch, time, *shape] of a population that `fits`, from rest; the result of `dynamics.by_step`."""
    threshold = values["threshold"]
    reset = {"subtract": values.get("reset_by", threshold), "value": values.get("v_reset", 0.0)}.get(rules.reset, 0.0)
    numbers = (
        values.get("decay_mem", 1.0), values.get("gain", 1.0), values.get("bias", 0.0), values.get("amplitude", 1.0),
        values.get("v_init", 0.0),
    )
    keeps = current.requires_grad and torch.is_grad_enabled()
    sent: Tensor = _Fused.apply(current, tuple(map(float, numbers)), (threshold, reset), rules, keeps)  # type: ignore[no-untyped-call]
    return sent


class _Fused(torch.autograd.Function):
    """The loops of kernels.py."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, numbers: tuple[float, ...], levels: tuple[Any, Any], rules: Rules, keeps: bool
    ) -> Tensor:
        from d2e.compiler.nn.kernels import fire

        ctx.order, rows = _rows(current)
        sent, membrane = torch.empty_like(rows), torch.empty_like(rows if keeps else rows[:, :0])
        typed, (thetas, resets) = _typed(current, numbers), (_of_neurons(level, current, ctx.order) for level in levels)
        how = rules.reset in ("zero", "value"), rules.fire == "gt"
        ctx.options, ctx.surrogate = (typed, thetas, *how), (rules.surrogate, rules.slope)

        def run(current: Any, sent: Any, v: Any) -> None:
            fire(current, typed, thetas, resets, *how, sent, v)

        _by_sample(run, _arrays(rows, sent, membrane))
        ctx.save_for_backward(membrane)
        return _frames(sent, ctx.order, current.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from d2e.compiler.nn.kernels import SURROGATES, fire_backward

        if torch.is_grad_enabled():
            raise UsageError(
                "D2E-NN-004", "these neurons have no gradient of their gradient",
                hint="Leave out create_graph=True, or train with learn_threshold=True, which computes step by step.",
            )
        (membrane,) = ctx.saved_tensors
        _, rows = _rows(grads[0], ctx.order)
        found = torch.empty_like(rows)
        name, slope = ctx.surrogate
        options = *ctx.options, SURROGATES[name], *_typed(rows, (slope,))

        def run(grad: Any, v: Any, found: Any) -> None:
            fire_backward(grad, v, *options, found)  # type: ignore[call-arg]

        _by_sample(run, _arrays(rows, membrane, found))
        return _frames(found, ctx.order, grads[0].shape), None, None, None, None


def _rows(frames: Tensor, order: Sequence[int] | None = None) -> tuple[Sequence[int], Tensor]:
    """[batch, time, *shape] as [batch, time, neurons] in the order of memory, and the order of the axes."""
    if order is None:
        order = sorted(range(2, frames.ndim), key=frames.stride, reverse=True)
    rows = frames.detach().permute(0, 1, *order).contiguous()
    return order, rows.view(*rows.shape[:2], math.prod(rows.shape[2:]))


def _frames(rows: Tensor, order: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Back from `_rows` to ``shape``, with the axes in memory as they were."""
    back = [0, 1, *(2 + order.index(axis) for axis in range(2, len(shape)))]
    return rows.view(*shape[:2], *(shape[axis] for axis in order)).permute(back)


def _typed(like: Tensor, numbers: Sequence[float]) -> tuple[Any, ...]:
    return tuple((np.float64 if like.dtype == torch.float64 else np.float32)(number) for number in numbers)


def _of_neurons(level: Tensor | float, current: Tensor, order: Sequence[int]) -> Any:
    """A number, or [neurons] in the order of `_rows`, of the type of ``current``."""
    if not isinstance(level, Tensor) or level.ndim == 0:
        return _typed(current, (float(level),))[0]
    spread = level.detach().to(current.dtype).expand(current.shape[2:]).permute([axis - 2 for axis in order])
    return spread.contiguous().flatten().numpy()


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.numpy() for tensor in tensors]


def _by_sample(kernel: Callable[..., None], arrays: Sequence[Any]) -> None:
    """A kernel over batches, shared among as many threads as torch takes and are worth it."""
    batch = len(arrays[0])
    count = max(1, min(torch.get_num_threads(), batch, arrays[0].size // _PART))
    edges = [batch * part // count for part in range(count + 1)]
    parts = [[array[a:b] for array in arrays] for a, b in pairwise(edges)]
    if count == 1:
        return kernel(*arrays)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda part: kernel(*part), parts))
    return None

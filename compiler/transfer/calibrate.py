"""Threshold calibration: each layer fires on events as often as the teacher's on images, without training or labels.

From the front, each layer's thresholds are bisected on its own dynamics, given the current that the layers before it, with
their new thresholds, really send. One pass over the frames does it: a neuron's current is there once, just before it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from d2e.compiler.nn.containers import Recurrent
from d2e.compiler.nn.dynamics import Rules, scan
from d2e.compiler.nn.neurons import MultiThreshold, Neuron
from d2e.compiler.transfer.rates import counted, evaluating, firing, on_device
from d2e.ir import UnsupportedError
from d2e.ir.nodes import Array

LIMIT = 8.0
_HALVINGS = 12
Rate = Callable[[Tensor], Tensor]


def calibrate(
    student: nn.Module, frames: Array | Tensor, targets: Mapping[str, Array], per: Literal["channel", "layer"] = "channel",
    limit: float = LIMIT,
) -> nn.Module:
    """A copy of a model whose hidden layers fire at given rates.

    What stays as it is: a readout (LI, or neurons whose spikes are the answer), channels that are silent in the teacher, and
    those whose rate no threshold within the limit brings nearer. Statistics of BatchNorm are the student's own.

    Args:
        student: over [batch, time, *shape], its thresholds the teacher's.
        frames: encoded [n, time, *shape], all at once in memory; two or three hundred do.
        targets: `channel_rates` of the teacher on direct frames of the same images, of the same layers in the same order.
        per: one factor for each channel (each neuron of a dense layer), or one for the layer; multi-threshold neurons have
            one in any case.
        limit: most by which a threshold is multiplied or divided. Beyond the factor T that one spike a pixel asks for, a
            rate hardly comes nearer, and the channel's weights grow by as much where thresholds are folded.
    """
    calibrated = deepcopy(student)
    taken = on_device(frames, calibrated)
    found = firing(calibrated)
    last = _readout(calibrated, {name: module for name, (module, _) in found.items()}, taken[:1])
    hooks = [
        module.register_forward_pre_hook(partial(_set, neuron, np.asarray(target), per, limit))
        for (name, (module, neuron)), target in zip(found.items(), targets.values(), strict=True) if name != last
    ]
    try:
        with evaluating(calibrated):
            calibrated(taken)
    finally:
        for hook in hooks:
            hook.remove()
    return calibrated


def renormalise(student: nn.Module, frames: Iterable[Tensor]) -> nn.Module:
    """A copy of a model whose batch norms have the statistics of events: the mean over batches of encoded frames.

    So every channel's current again has the mean and the spread that the weights behind it were trained on.

    Args:
        student: over [batch, time, *shape].
        frames: batches [batch, time, *shape]; about a thousand samples do.

    Raises:
        UnsupportedError: D2E-TRANS-015 for a model without batch norms that keep statistics.
    """
    own = deepcopy(student)
    norms = [m for m in own.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        raise UnsupportedError("D2E-TRANS-015", "the teacher has no batch norms, whose statistics could be those of events",
                               hint="Give --method calibrate, or a latch.")
    momenta = [norm.momentum for norm in norms]
    with evaluating(own):
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # a mean of all batches
        for batch in frames:
            own(on_device(batch, own))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return own


def _readout(model: nn.Module, senders: Mapping[str, nn.Module], frames: Tensor) -> str | None:
    """The neurons whose spikes, in whatever shape, are the model's output."""
    sent: dict[str, int] = {}

    def keep(name: str, module: nn.Module, inputs: Any, out: Tensor) -> None:
        sent[name] = out.untyped_storage().data_ptr()

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in senders.items()]
    try:
        with evaluating(model):
            output = model(frames).untyped_storage().data_ptr()
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, place in sent.items() if place == output), None)


def _set(
    neuron: Neuron, target: Array, per: str, limit: float, module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    """Set a neuron's thresholds before it runs on its current [n, time, channels, …]."""
    current = inputs[0]
    single = per == "layer" or isinstance(neuron, MultiThreshold)
    wanted = torch.as_tensor(target, dtype=torch.float64, device=current.device)
    wanted = wanted.mean().reshape(1) if single else wanted
    shape = [1] if single else [len(wanted), *[1] * (current.ndim - 3)]
    values = neuron.values()
    feedback = module.layer if isinstance(module, Recurrent) else None

    def rate(factors: Tensor) -> Tensor:
        theta = values["threshold"] * factors.reshape(shape).to(current.dtype)
        fired = counted(neuron, scan(current, {**values, "threshold": theta}, Rules(**neuron.rules), feedback))
        own = fired.movedim(2, 0).flatten(1).mean(dim=1, dtype=torch.float64)
        return own.mean().reshape(1) if single else own

    factors = _factors(rate, wanted, limit).reshape(shape).to(values["threshold"].dtype)
    if bool((factors != 1).any()):
        _assign(neuron, values["threshold"] * (factors.reshape(()) if single else factors))


def _factors(rate: Rate, wanted: Tensor, limit: float) -> Tensor:
    """Of the thresholds, by which each rate is nearest to its target; 1 where none is nearer, or the target is 0.

    Bisection of the logarithm, all channels at once: rates fall as thresholds rise.
    """
    best, error = torch.ones_like(wanted), torch.full_like(wanted, math.inf)
    low, high = torch.full_like(wanted, 1 / limit), torch.full_like(wanted, limit)
    tried = torch.ones_like(wanted)
    for _ in range(_HALVINGS):
        found = rate(tried)
        nearer = ((found - wanted).abs() < error) & (wanted > 0)
        best, error = torch.where(nearer, tried, best), torch.where(nearer, (found - wanted).abs(), error)
        low, high = torch.where(found > wanted, tried, low), torch.where(found > wanted, high, tried)
        tried = (low * high).sqrt()
    return best


def _assign(neuron: Neuron, threshold: Tensor) -> None:
    if isinstance(neuron.threshold, nn.Parameter):
        neuron.threshold = nn.Parameter(threshold, requires_grad=neuron.threshold.requires_grad)
    else:
        neuron.threshold = threshold

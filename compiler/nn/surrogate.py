"""Spikes with a gradient: the exact step forward, a smooth stand-in for its derivative backward."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SURROGATES = ("arctan", "triangle", "rectangular")


def derivative(distance: Tensor, surrogate: str, slope: float) -> Tensor:
    """Stand-in for the step's derivative at ``distance`` = v / threshold - 1; each integrates to 1.

    arctan: slope/2 / (1 + (pi/2 slope x)**2);  triangle: slope max(0, 1 - slope |x|);
    rectangular: slope where |x| < 1/(2 slope).
    """
    if surrogate == "arctan":
        return (slope / 2) / (1 + (math.pi / 2 * slope * distance).square())
    if surrogate == "triangle":
        return slope * (1 - slope * distance.abs()).clamp(min=0)
    return slope * (distance.abs() < 0.5 / slope).to(distance.dtype)


class Spikes(torch.autograd.Function):
    """n = clip(floor(v / theta), 0, max_spikes), or ceil(v / theta) - 1 where fire="gt".

    Backward, a membrane sees the step nearest to it: the derivative at v / theta - k, k = round(v / theta).
    """

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, theta: Tensor, fire: str, max_spikes: int, surrogate: str, slope: float
    ) -> Tensor:
        """Count the spikes of one step."""
        ctx.save_for_backward(v, theta)
        ctx.max_spikes, ctx.surrogate, ctx.slope = max_spikes, surrogate, slope
        if max_spikes == 1:
            return (v >= theta if fire == "ge" else v > theta).to(v.dtype)
        n = torch.div(v, theta, rounding_mode="floor") if fire == "ge" else torch.ceil(v / theta) - 1
        return n.clamp(0, max_spikes or None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The surrogate's gradients with respect to v and theta."""
        v, theta = ctx.saved_tensors
        x = v / theta
        nearest = 1.0 if ctx.max_spikes == 1 else x.round().clamp(1, ctx.max_spikes or None)
        slope = grads[0] * derivative(x - nearest, ctx.surrogate, ctx.slope) / theta
        by_theta = (-slope * x).sum_to_size(theta.shape) if ctx.needs_input_grad[1] else None
        return slope, by_theta, None, None, None, None


class Within(torch.autograd.Function):
    """Clamp whose gradient passes through, so that a learned value never sticks at its limit."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float | None) -> Tensor:
        """Clamp."""
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Pass."""
        return grads[0], None, None

"""The dense form: a path's input for all samples and steps at once, time folded into the batch of one torch operator.

float32 where the range analysis proves every sum below 2**24, float64 below 2**53: exact either way.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from d2e.backends.loihi2.simulator.layout import last
from d2e.backends.loihi2.simulator.plan import DensePath
from d2e.ir import Conv1d, Conv2d, Flatten, Linear, Scale, SumPool2d, Synapse, linear
from d2e.ir.nodes import Array, Shape
from d2e.ir.shapes import output_shape, padding_pairs


def dense_input(path: DensePath, frames: Array, target: Shape) -> Array:
    """What a path delivers: ``frames`` [B, T, *shape] of its source -> [B, T, N] int32, channels last."""
    batch, steps = frames.shape[:2]
    kind = torch.float32 if path.bound < 2**24 else torch.float64
    current = torch.from_numpy(np.ascontiguousarray(frames)).reshape(batch * steps, *path.shape).to(kind)
    shape = path.shape
    with torch.inference_mode():
        for node in path.nodes:
            current = _apply(node, current, kind)
            shape = output_shape("dense", node, shape)
    result = last(current.numpy().astype(np.int32).reshape(batch, steps, *target), target)
    if path.lag:
        late = np.zeros_like(result)
        late[:, path.lag :] = result[:, : -path.lag]
        return late
    return np.ascontiguousarray(result)


def _apply(node: Synapse, x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    def tensor(array: Array) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(kind)

    if isinstance(node, Linear):
        return x @ tensor(node.weight).T
    if isinstance(node, (Conv1d, Conv2d)):
        convolve = functional.conv2d if isinstance(node, Conv2d) else functional.conv1d
        zeros = [side for pads in reversed(padding_pairs(node)) for side in pads]
        return convolve(functional.pad(x, zeros), tensor(node.weight), None, node.stride, 0, node.dilation, node.groups)
    if isinstance(node, SumPool2d):
        weight = torch.ones((x.shape[1], 1, *node.kernel_size), dtype=kind)
        return functional.conv2d(x, weight, None, node.stride, node.padding, 1, x.shape[1])
    if isinstance(node, Flatten):
        return x.reshape(x.shape[0], *output_shape("flatten", node, tuple(x.shape[1:])))
    if isinstance(node, Scale):
        return x * tensor(node.scale)
    return torch.from_numpy(linear.apply(node, x.numpy(), tuple(x.shape[1:])))

"""Functions that move, cut, join or average whole frames, as the synapses that compute the same.

Frames are [features], [channels, length] or [channels, height, width]. What picks channels is a 1x1 convolution of zeros and
ones (Linear for features), what picks places a convolution of every channel with one tap; canonicalise merges them into the
weights around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import option_refusal, refusal
from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import Array, Conv1d, Conv2d, Flatten, Linear, Shape

Tap = tuple[int, int, int, int]
"""Along one axis: kernel size, place of the only 1 in it, stride, zeros on both sides."""
_WHOLE: Tap = (1, 0, 1, 0)


def select(build: Builder, name: str, flow: Flow, kept: Sequence[range]) -> Flow:
    """``x[a:b:c, …]``: of every axis of the frame the indices in its range (steps above 0)."""
    if any(len(indices) == 0 for indices in kept):
        raise option_refusal(f"keeps nothing of frames of shape {flow.shape}", name, "Keep at least one of every axis.")
    channels, *space = kept
    matrix = None
    if channels != range(flow.shape[0]):
        matrix = np.zeros((len(channels), flow.shape[0]), np.float32)
        matrix[np.arange(len(channels)), list(channels)] = 1
    return _moved(build, name, flow, matrix, [_picks(n, indices) for n, indices in zip(flow.shape[1:], space, strict=True)])


def _picks(size: int, indices: range) -> Tap:
    """The tap that sends x[start + step * i]: the smallest kernel that gives as many outputs."""
    count, step = len(indices), indices.step if len(indices) > 1 else size
    kernel = max(indices.start + 1, size - step * count + 1)
    return kernel, indices.start, step, 0


def pad(build: Builder, name: str, flow: Flow, zeros: Sequence[tuple[int, int]]) -> Flow:
    """Zeros before and after every axis of the frame; numbers below 0 cut."""
    if any(n + a + b < 1 for n, (a, b) in zip(flow.shape, zeros, strict=True)):
        raise option_refusal(f"keeps nothing of frames of shape {flow.shape}", name, "Keep at least one of every axis.")
    (before, after), *space = zeros
    matrix = _embedding(before, flow.shape[0], after) if before or after else None
    return _moved(build, name, flow, matrix, [_shifts(a, b) for a, b in space])


def _shifts(before: int, after: int) -> Tap:
    """The tap that sends x[i - before]: as many zeros on both sides, and a kernel that skips those too many."""
    zeros = max(0, before, after)
    return 2 * zeros + 1 - before - after, zeros - before, 1, zeros


def concat(build: Builder, name: str, flows: Sequence[Flow]) -> Flow:
    """The frames' channels one after the other: a sum of frames, each with its channels in their place."""
    space = flows[0].shape[1:]
    for flow in flows:
        if flow.shape[1:] != space:
            raise UnsupportedError(
                "D2E-SHAPE-001", f"joins the channels of frames of shapes {flows[0].shape} and {flow.shape}", node=name,
                hint="Bring both to one height and width.",
            )
    if len(flows) == 1:
        return flows[0]
    sizes = [flow.shape[0] for flow in flows]
    placed = [
        _moved(build, name, flow, _embedding(sum(sizes[:i]), sizes[i], sum(sizes[i + 1 :])), [_WHOLE] * len(space))
        for i, flow in enumerate(flows)
    ]
    return build.add_up(name, placed)


def reduce_space(build: Builder, name: str, flow: Flow, axes: Sequence[int], keep: bool, mean: bool) -> Flow:
    """Mean or sum over some of the frame's axes behind its channels."""
    over = sorted(set(axes))
    if not over or over[0] < 1 or over[-1] >= len(flow.shape) or len(flow.shape) > 3:
        what = "mean" if mean else "sum"
        raise refusal(f"a {what} over other axes than those of space", name)
    window = [n if axis in over else 1 for axis, n in enumerate(flow.shape)][1:]
    if len(window) == 2:
        pool = layers.avg_pool2d if mean else layers.sum_pool2d
        flow = pool(build, name, flow, window, window, 0)
    else:
        share = 1 / window[0] if mean else 1.0
        weight = np.full((flow.shape[0], 1, *window), share)
        flow = build.add(name, Conv1d(weight=weight, stride=(window[0],), groups=flow.shape[0]), flow)
    left = [n for axis, n in enumerate(flow.shape) if axis not in over]
    return flow if keep else reshape(build, f"{name}.flatten", flow, tuple(left))


def squeeze(build: Builder, name: str, flow: Flow, axes: Sequence[int]) -> Flow:
    """The frame without those of these axes that have one entry."""
    left = tuple(n for axis, n in enumerate(flow.shape) if axis not in axes or n != 1)
    if not left:
        raise refusal(f"squeeze of frames of shape {flow.shape}", name)
    return reshape(build, name, flow, left)


def reshape(build: Builder, name: str, flow: Flow, shape: Shape) -> Flow:
    """The frame in another shape, where that merges neighbouring axes."""
    if shape == flow.shape:
        return flow
    axes = merged_axes(flow.shape, shape)
    if axes is None:
        raise refusal(f"reshape of frames of shape {flow.shape} into {shape}", name)
    start, end = axes
    return build.add(name, Flatten(start_dim=start, end_dim=-1 if end == len(flow.shape) - 1 else end), flow)


def merged_axes(before: Shape, after: Shape) -> tuple[int, int] | None:
    """The axes of ``before`` whose merging gives ``after``; None where there are none."""
    extra = len(before) - len(after)
    for start in reversed(range(len(after))):
        stop = start + extra + 1
        if extra > 0 and (*before[:start], math.prod(before[start:stop]), *before[stop:]) == after:
            return start, stop - 1
    return None


def _embedding(before: int, size: int, after: int) -> Array:
    """[before + size + after, size]: the channels between channels of zeros."""
    return np.eye(before + size + after, size, -before, np.float32)


def _moved(build: Builder, name: str, flow: Flow, matrix: Array | None, taps: Sequence[Tap]) -> Flow:
    """A matrix [out, in] over the channels (None: each stays), and one tap over the places of each."""
    if matrix is None and all(tap == _WHOLE for tap in taps):
        return flow
    if len(flow.shape) > 3:
        raise option_refusal(
            f"moves the entries of frames of shape {flow.shape}", name,
            "Give it frames [features], [channels, length] or [channels, height, width].",
        )
    if matrix is not None and not taps:
        return build.add(name, Linear(weight=matrix), flow)
    alone = np.ones((flow.shape[0], 1), np.float32)  # every channel is a group
    kernel, place, stride, zeros = zip(*taps, strict=True)
    entries = alone if matrix is None else matrix
    weight = np.zeros((*entries.shape, *kernel), np.float32)
    weight[:, :, *place] = entries
    cls = Conv1d if len(taps) == 1 else Conv2d
    groups = flow.shape[0] if matrix is None else 1
    return build.add(name, cls(weight=weight, stride=stride, padding=zeros, groups=groups), flow)

"""The linear maps against torch in float64, exact integers beyond 2**53, and shapes against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from d2e.ir import (
    Affine,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Network,
    Output,
    Scale,
    SumPool2d,
    UnsupportedError,
    chain,
    infer_shapes,
    linear,
)
from d2e.ir.shapes import output_shape

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def as_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float64))


def torch_conv(node: Conv1d | Conv2d, frames: np.ndarray) -> np.ndarray:
    call = functional.conv1d if isinstance(node, Conv1d) else functional.conv2d
    bias = None if node.bias is None else as_torch(node.bias)
    return call(
        as_torch(frames), as_torch(node.weight), bias, node.stride, node.padding, node.dilation, node.groups
    ).numpy()


@st.composite
def convolutions(draw, *, integer: bool):
    axes = draw(st.sampled_from([1, 2]))
    cls = Conv1d if axes == 1 else Conv2d
    groups, per_group, per_out = (draw(st.integers(1, 3)) for _ in range(3))
    kernel = [draw(st.integers(1, 4)) for _ in range(axes)]
    dilation = [draw(st.integers(1, 3)) for _ in range(axes)]
    same = draw(st.booleans())
    stride = [1 if same else draw(st.integers(1, 3)) for _ in range(axes)]
    padding = [draw(st.integers(0, 3)) for _ in range(axes)]
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [max(1, span - 2 * p) + draw(st.integers(0, 4)) for span, p in zip(spans, padding, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    weight_shape = (groups * per_out, per_group, *kernel)
    frames_shape = (2, groups * per_group, *sizes)
    weight, bias = rng.normal(size=weight_shape), rng.normal(size=groups * per_out)
    if integer:
        weight, bias = rng.integers(-128, 128, weight_shape).astype(np.int8), rng.integers(-9, 9, bias.shape)
    node = cls(
        weight=weight, bias=bias if draw(st.booleans()) else None, groups=groups, stride=tuple(stride),
        dilation=tuple(dilation), padding="same" if same else tuple(padding),
    )
    return node, rng.integers(-3, 4, frames_shape) if integer else rng.normal(size=frames_shape)


@settings(max_examples=150)
@given(case=convolutions(integer=False))
def test_float_convolutions_are_torchs(case):
    node, frames = case
    expected = torch_conv(node, frames)
    assert np.allclose(linear.apply(node, frames, frames.shape[1:]), expected, rtol=1e-12, atol=1e-12)
    assert output_shape("c", node, frames.shape[1:]) == expected.shape[1:]


@settings(max_examples=100)
@given(case=convolutions(integer=True))
def test_integer_convolutions_are_exact(case):
    node, frames = case
    result = linear.apply(node, frames, frames.shape[1:])
    assert result.dtype == np.int64
    assert np.array_equal(result, torch_conv(node, frames))


@settings(max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    extra=st.tuples(st.integers(0, 5), st.integers(0, 5)), pad=st.booleans(), seed=st.integers(0, 99),
)
def test_pools_are_torchs(kernel, stride, extra, pad, seed):
    padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
    shape = (3, kernel[0] + extra[0], kernel[1] + extra[1])
    frames = np.random.default_rng(seed).integers(-9, 9, (2, *shape))
    mean = functional.avg_pool2d(as_torch(frames), kernel, stride, padding).numpy()
    options = {"kernel_size": kernel, "stride": stride, "padding": padding}
    total = linear.apply(SumPool2d(**options), frames, shape)
    assert total.dtype == np.int64
    assert np.allclose(linear.apply(AvgPool2d(**options), frames, shape), mean)
    assert np.allclose(total, mean * kernel[0] * kernel[1])
    assert output_shape("p", SumPool2d(**options), shape) == mean.shape[1:]


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_dense_layers_are_torchs(shape):
    rng = np.random.default_rng(0)
    weight, bias, frames = rng.normal(size=(5, 4)), rng.normal(size=5), rng.normal(size=(2, *shape))
    expected = functional.linear(as_torch(frames), as_torch(weight), as_torch(bias)).numpy()
    affine = Affine(weight=weight, bias=bias)
    assert np.allclose(linear.apply(affine, frames, shape), expected)
    assert np.allclose(linear.apply(Linear(weight=weight), frames, shape), expected - bias)
    assert output_shape("fc", affine, shape) == expected.shape[1:]


@pytest.mark.parametrize(("start", "end"), [(0, -1), (0, 1), (1, 2), (-2, -1), (1, 1), (-3, -2)])
def test_flatten_is_torchs(start, end):
    frames = np.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    axes = [axis + 1 if axis >= 0 else axis for axis in (start, end)]
    expected = torch.flatten(torch.from_numpy(frames), *axes).numpy()
    node = Flatten(start_dim=start, end_dim=end)
    assert np.array_equal(linear.apply(node, frames, (2, 3, 4)), expected)
    assert output_shape("f", node, (2, 3, 4)) == expected.shape[1:]


def test_scale_broadcasts_over_channels():
    frames = np.ones((2, 3, 4))
    result = linear.apply(Scale(scale=np.array([[1.0], [2.0], [3.0]])), frames, (3, 4))
    assert result[1, :, 0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("largest", [2**20, 2**50])
def test_big_integers_are_exact(largest):
    rng = np.random.default_rng(1)
    frames = rng.integers(-largest, largest, (4, 9)) | 1
    matrix = rng.integers(-100, 100, (9, 6))
    rows, columns = frames.tolist(), matrix.T.tolist()
    expected = [[sum(f * m for f, m in zip(r, c, strict=True)) for c in columns] for r in rows]
    assert max(abs(v) for row in expected for v in row) > (2**53 if largest == 2**50 else 0)
    assert linear.contract(frames, matrix).tolist() == expected


def test_narrow_integer_frames_do_not_overflow():
    frames = np.full((1, 3), -128, np.int8)
    assert linear.contract(frames, np.full((3, 1), -128, np.int8)).tolist() == [[3 * 128 * 128]]


# ----- shapes of whole networks


def ends(node, into, out=(2,)) -> Network:
    return chain([("in", Input(shape=into)), ("x", node), ("out", Output(shape=out))])


@pytest.mark.parametrize(("node", "into"), [
    (Linear(weight=np.ones((2, 3))), (4,)),
    (Conv1d(weight=np.ones((2, 3, 2))), (3, 1)),
    (Conv1d(weight=np.ones((2, 3, 2))), (3, 4, 4)),
    (Conv2d(weight=np.ones((2, 3, 1, 1))), (4, 5, 5)),
    (Conv2d(weight=np.ones((3, 2, 1, 1)), groups=2), (4, 5, 5)),
    (Conv2d(weight=np.ones((2, 3, 3, 3)), padding="same", stride=(2, 2)), (3, 8, 8)),
    (SumPool2d(kernel_size=(3, 3), stride=(1, 1)), (1, 2, 5)),
    (SumPool2d(kernel_size=(3, 3), stride=(1, 1)), (25,)),
    (Flatten(start_dim=1, end_dim=0), (2, 2)),
    (Flatten(start_dim=0, end_dim=3), (2, 2)),
    (Scale(scale=np.ones((3, 1))), (2, 4)),
    (Scale(scale=np.ones((1, 1, 4))), (2, 4)),
])
def test_frames_that_do_not_fit_name_the_node(node, into):
    with pytest.raises(UnsupportedError) as caught:
        infer_shapes(ends(node, into))
    assert (caught.value.code, caught.value.node) == ("D2E-SHAPE-001", "x")


def test_an_output_of_another_shape_is_refused():
    with pytest.raises(UnsupportedError, match=r"expects frames of shape \(3,\) but receives \(2,\)"):
        infer_shapes(ends(Linear(weight=np.ones((2, 4))), (4,), out=(3,)))

"""Weights in Lava's terms: digits that add up exactly under its arithmetic, kernels, orders, stable files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2e.backends.loihi2.lava import weights as w
from d2e.ir import Conv1d, Conv2d, SumPool2d, UnsupportedError
from d2e.ir.linear import apply
from d2e.ir.shapes import output_shape


def lava_sum(digit: w.Digit, payload: int) -> np.ndarray:
    """Lava's Dense for one input of this payload (lava utils/weightutils.py, proc/dense/models.py)."""
    mixed = digit.sign_mode == "MIXED"
    sign = -1 if digit.sign_mode == "INHIBITORY" else 1
    clipped = np.clip(sign * digit.weights, -256 if mixed else 0, 255)
    cut = 8 - digit.bits + mixed
    total = sign * ((clipped >> cut) << cut) * payload
    return total << digit.exponent if digit.exponent > 0 else total >> -digit.exponent


@given(
    values=st.one_of(
        st.lists(st.integers(-128, 127), min_size=1, max_size=6),
        st.lists(st.integers(-255, 0), min_size=1, max_size=6),
        st.lists(st.integers(-32000, 32000), min_size=1, max_size=6),
        st.lists(st.integers(0, 255), min_size=1, max_size=4).map(lambda v: [x << 7 for x in v]),
    ),
    bits=st.sampled_from([None, 2, 5, 8]), payload=st.integers(1, 300),
)
def test_digits_add_up(values: list[int], bits: int | None, payload: int) -> None:
    weights = np.array(values)
    digits = w.digits("n", weights, bits)
    assert (sum(lava_sum(d, payload) for d in digits) == weights * payload).all()
    assert all(-8 <= d.exponent <= 7 for d in digits)
    assert len(digits) <= 2


def test_eight_bits_and_single_signed_mantissas_take_one_synapse() -> None:
    assert len(w.digits("n", np.array([-128, 127]))) == 1
    assert len(w.digits("n", np.array([-255 << 7]))) == 1
    assert len(w.digits("n", np.array([-200, 0]))) == 1
    assert len(w.digits("n", np.array([-200, 1]))) == 2


def test_stated_bits_are_kept() -> None:
    assert w.digits("n", np.array([-1, 1]), 6)[0].bits == 6
    assert w.digits("n", np.array([-128, 1]), 6)[0].bits == 8


def test_too_wide_weights_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="D2E-LAVA-013"):
        w.digits("n", np.array([40001, -1]))
    with pytest.raises(UnsupportedError, match="D2E-LAVA-013"):
        w.kernels("n", Conv2d(weight=np.full((1, 1, 2, 2), 300)), 1, 8)


def lava_conv(frame: np.ndarray, k: w.Kernel) -> np.ndarray:
    """Lava's convolution [x, y, c] by its definition: flipped kernel, zero padding."""
    (px, py), (sx, sy), (dx, dy) = k.padding, k.stride, k.dilation
    padded = np.pad(frame, ((px, px), (py, py), (0, 0)))
    out, kx, ky, per = k.weight.shape
    nx = (padded.shape[0] - dx * (kx - 1) - 1) // sx + 1
    ny = (padded.shape[1] - dy * (ky - 1) - 1) // sy + 1
    result = np.zeros((nx, ny, out), np.int64)
    for o in range(out):
        first = o // (out // k.groups) * per
        for x in range(nx):
            for y in range(ny):
                across, down = slice(x * sx, x * sx + dx * kx, dx), slice(y * sy, y * sy + dy * ky, dy)
                window = padded[across, down, first : first + per]
                result[x, y, o] = (window * k.weight[o, ::-1, ::-1]).sum()
    return result


@pytest.mark.parametrize("node", [
    Conv2d(weight=np.arange(-12, 12).reshape(4, 1, 2, 3), stride=(2, 1), padding=(1, 0), groups=2),
    Conv2d(weight=np.arange(-12, 12).reshape(2, 2, 2, 3), padding="same", dilation=(3, 1)),
    Conv2d(weight=np.arange(-16, 16).reshape(2, 2, 4, 2), padding="same"),
    Conv1d(weight=np.arange(-8, 8).reshape(2, 2, 4), padding="same", dilation=(1,)),
    Conv1d(weight=np.arange(-9, 9).reshape(3, 2, 3), padding=(2,), stride=(2,), dilation=(2,)),
    SumPool2d(kernel_size=(2, 3), stride=(1, 2), padding=(1, 1)),
])  # fmt: skip
def test_kernels_mean_the_same_in_lava(node: Conv1d | Conv2d | SumPool2d) -> None:
    shape = (2, 7) if isinstance(node, Conv1d) else (2, 6, 7)
    frame = np.random.default_rng(1).integers(0, 4, shape)
    expected = apply(node, frame[None], shape)[0]
    (k,) = w.kernels("n", node, 2)
    found = lava_conv(w.to_lava(frame, shape), k)
    assert (found == w.to_lava(expected, output_shape("n", node, shape))).all()


@pytest.mark.parametrize("factor", [2, -3, 40])
def test_kernels_beyond_eight_bits_add_up(factor: int) -> None:
    """Lava's Conv has no exponent: several of them stand for one."""
    node = Conv2d(weight=np.arange(-12, 12).reshape(4, 1, 2, 3) * 2, padding=(1, 0), groups=2)
    frame = np.random.default_rng(3).integers(0, 4, (2, 4, 5))
    kernels = w.kernels("n", node, 2, factor)
    assert len(kernels) == (4 if factor == 40 else 1)
    assert all(k.weight.min() >= -256 and k.weight.max() <= 255 for k in kernels)
    found = sum(lava_conv(w.to_lava(frame, frame.shape), k) for k in kernels)
    expected = factor * apply(node, frame[None], frame.shape)[0]
    assert (found == w.to_lava(expected, output_shape("n", node, frame.shape))).all()


def test_more_groups_than_lava_holds() -> None:
    node = SumPool2d(kernel_size=(2, 2), stride=(2, 2))
    frame = np.random.default_rng(2).integers(0, 2, (200, 2, 4))
    (k,) = w.kernels("n", node, 200)
    assert k.groups == 1
    expected = apply(node, frame[None], frame.shape)[0]
    assert (lava_conv(w.to_lava(frame, frame.shape), k) == w.to_lava(expected, (200, 1, 2))).all()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
def test_order_is_where_lava_keeps_each_neuron(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(3).integers(0, 99, shape)
    assert (w.to_lava(values, shape).reshape(-1) == values.reshape(-1)[w.order(shape)]).all()

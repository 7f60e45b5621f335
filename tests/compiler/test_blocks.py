"""Sums over blocks equal those over whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2e.compiler import blocks


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SIZE", 7)


def arrays(seed: int, dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=rng.integers(1, 9, rng.integers(1, 4))).astype(dtype) for _ in range(rng.integers(1, 4))]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.one_of(st.floats(0.1, 100), st.sampled_from([50.0, 99.9, 100.0])))
def test_largest_and_percentile(seed: int, share: float) -> None:
    given_ = arrays(seed)
    values = np.concatenate([np.abs(a.astype(np.float64)).reshape(-1) for a in given_])
    assert blocks.largest(given_) == values.max()
    assert blocks.percentile(given_, share) == pytest.approx(np.percentile(values, share), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.floats(0.01, 2.0), bits=st.integers(2, 12))
def test_rounding_and_its_error(seed: int, step: float, bits: int) -> None:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    for array in arrays(seed):
        whole = np.clip(np.rint(array.astype(np.float64) / step), low, high)
        found = blocks.nearest(array, step, low, high)
        assert found.dtype == (np.int8 if bits <= 8 else np.int16)
        np.testing.assert_array_equal(found, whole)
        assert blocks.squared_error(array, step, low, high) == pytest.approx(np.square(array - whole * step).sum())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_distinct_values(seed: int) -> None:
    few = [np.rint(3 * a) for a in arrays(seed)]
    values = np.unique(np.abs(np.concatenate([a.reshape(-1) for a in few])))
    np.testing.assert_array_equal(blocks.distinct(few, values.size), values)
    assert blocks.distinct(few, values.size - 1) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_row_sums(seed: int) -> None:
    array = np.random.default_rng(seed).integers(-128, 128, (5, 3, 4), np.int8)
    rows = array.reshape(5, -1).astype(np.int64)
    positive, negative = blocks.row_sums(array)
    np.testing.assert_array_equal(positive, np.maximum(rows, 0).sum(axis=1))
    np.testing.assert_array_equal(negative, np.minimum(rows, 0).sum(axis=1))


@pytest.mark.parametrize(("low", "high", "dtype"), [
    (-128, 127, "int8"), (0, 128, "int16"), (-129, 0, "int16"), (0, 1 << 20, "int32"), (0, 1 << 40, "int64"),
])
def test_narrowest(low: int, high: int, dtype: str) -> None:
    assert blocks.narrowest(low, high) == np.dtype(dtype)

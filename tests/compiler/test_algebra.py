"""Each rule of the algebra by itself: the merged map computes what the chain computes, on random windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from d2e.compiler import algebra
from d2e.compiler.passes.canonicalise import simplify
from d2e.ir import AvgPool2d, Conv1d, Conv2d, Delay, Flatten, Linear, Scale, SumPool2d, Synapse, UnsupportedError
from d2e.ir.nodes import Shape
from d2e.ir.shapes import output_shape

RNG = np.random.default_rng(9)


def frames(shape: Shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, *shape))


def assert_equal(chain: list[Synapse], merged: list[Synapse], shape: Shape) -> None:
    x = frames(shape)
    np.testing.assert_allclose(algebra.run_chain(chain, x, shape), algebra.run_chain(merged, x, shape), atol=1e-12)


def random_conv(rng: np.random.Generator, shape: Shape, groups: int | None = None, **fixed: Any) -> Conv2d:
    channels = shape[0]
    groups = groups or int(rng.choice([g for g in (1, 2, channels) if channels % g == 0]))
    kernel = rng.integers(1, 4, 2)
    dilation = tuple(int(rng.integers(1, 3)) for _ in range(2))
    options = {
        "stride": tuple(int(s) for s in rng.integers(1, 4, 2)), "padding": tuple(int(p) for p in rng.integers(0, 3, 2)),
        "dilation": dilation, **fixed,
    }
    out = groups * int(rng.integers(1, 4))
    return Conv2d(weight=rng.normal(size=(out, channels // groups, *kernel)), groups=groups, **options)


def random_pool(rng: np.random.Generator, **fixed: Any) -> SumPool2d:
    kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
    options = {"stride": tuple(int(s) for s in rng.integers(1, 4, 2)), "padding": (0, 0), **fixed}
    return SumPool2d(kernel_size=kernel, **options)


@pytest.mark.parametrize("order", ["pool conv", "conv pool", "conv conv", "pool pool"])
def test_two_windows_merge_or_are_left_alone(order: str) -> None:
    merged_cases = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        shape: Shape = (int(rng.choice([2, 4])), 12, 12)
        kinds = order.split()
        make = {"conv": random_conv, "pool": lambda r, s, **k: random_pool(r, **k)}
        late = {} if rng.random() < 0.5 else {"padding": (0, 0)}
        first = make[kinds[0]](rng, shape)
        middle = output_shape("first", first, shape)
        second = make[kinds[1]](rng, middle, **late)
        try:
            output_shape("second", second, middle)
        except UnsupportedError:
            continue
        one = algebra.merge(first, second, shape)
        if one is None:
            assert any(second.padding), "a second map without padding always merges"
            continue
        merged_cases += 1
        assert len(one) == 1
        assert_equal([first, second], one, shape)
    assert merged_cases >= 20


def test_padding_after_windows_that_tile_merges() -> None:
    rng = np.random.default_rng(1)
    pool = SumPool2d(kernel_size=(2, 3), stride=(2, 3))
    conv = Conv2d(weight=rng.normal(size=(4, 2, 3, 3)), padding=(1, 2))
    (one,) = algebra.merge(pool, conv, (2, 8, 9)) or [None]
    assert isinstance(one, Conv2d)
    assert (one.stride, one.padding) == ((2, 3), (2, 6))
    assert_equal([pool, conv], [one], (2, 8, 9))


def test_padding_after_dilated_windows_does_not_merge() -> None:
    first = Conv2d(weight=np.ones((1, 1, 2, 2)), stride=(2, 2), dilation=(2, 2))
    second = Conv2d(weight=np.ones((1, 1, 3, 3)), padding=(1, 1))
    assert algebra.merge(first, second, (1, 12, 12)) is None


@pytest.mark.parametrize("kernel", [(3, 3), (2, 3)])
def test_padding_same_merges_where_it_is_symmetric(kernel: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    conv = Conv2d(weight=rng.normal(size=(2, 2, *kernel)), padding="same")
    pool = SumPool2d(kernel_size=(2, 2), stride=(2, 2))
    merged = algebra.merge(conv, pool, (2, 6, 6))
    if kernel == (2, 3):
        assert merged is None
    else:
        assert merged is not None
        assert_equal([conv, pool], merged, (2, 6, 6))


def test_groups_survive_pooling() -> None:
    rng = np.random.default_rng(3)
    conv = Conv2d(weight=rng.normal(size=(4, 2, 3, 3)), groups=2)
    pool = SumPool2d(kernel_size=(2, 2), stride=(2, 2))
    for chain in ([conv, pool], [pool, conv]):
        (one,) = algebra.merge(*chain, (4, 8, 8)) or [None]
        assert isinstance(one, Conv2d)
        assert one.groups == 2
        assert_equal(chain, [one], (4, 8, 8))


def factors(shape: Shape) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    channel = (shape[0], *[1] * (len(shape) - 1))
    return [rng.normal(size=s) for s in ((), (1,) * len(shape), channel, shape)]


MAPS: list[tuple[Shape, Synapse]] = [
    ((5,), Linear(weight=np.random.default_rng(0).normal(size=(4, 5)))),
    ((4, 9), Conv1d(weight=np.random.default_rng(1).normal(size=(6, 2, 3)), groups=2, padding=(1,))),
    ((4, 6, 5), Conv2d(weight=np.random.default_rng(2).normal(size=(6, 2, 3, 2)), groups=2, stride=(2, 1))),
    ((4, 6, 6), SumPool2d(kernel_size=(2, 3), stride=(2, 3))),
    ((3, 4), Scale(scale=np.random.default_rng(3).normal(size=(3, 1)))),
]


@pytest.mark.parametrize(("shape", "node"), MAPS, ids=[n.kind for _, n in MAPS])
def test_rows_and_columns_scale(shape: Shape, node: Synapse) -> None:
    out = output_shape("x", node, shape)
    x = frames(shape)
    for factor in factors(out):
        scaled = algebra.scale_rows(node, factor, shape)
        if scaled is not None:
            want = factor * algebra.run_chain([node], x, shape)
            np.testing.assert_allclose(algebra.run_chain([scaled], x, shape), want, atol=1e-12)
        else:
            assert factor.shape == out
    for factor in factors(shape):
        scaled = algebra.scale_columns(node, factor, shape)
        if scaled is not None:
            want = algebra.run_chain([node], factor * x, shape)
            np.testing.assert_allclose(algebra.run_chain([scaled], x, shape), want, atol=1e-12)
        else:
            assert factor.shape == shape


CHAINS: list[tuple[str, Shape, list[Synapse], list[type[Synapse]]]] = [
    ("linear linear", (5,), [Linear(weight=np.ones((4, 5))), Linear(weight=np.arange(8.0).reshape(2, 4))], [Linear]),
    ("scale linear", (5,), [Scale(scale=np.arange(5.0)), Linear(weight=np.ones((4, 5)))], [Linear]),
    ("linear scale", (5,), [Linear(weight=np.ones((4, 5))), Scale(scale=np.arange(4.0))], [Linear]),
    ("scale scale", (2, 3), [Scale(scale=np.arange(3.0)), Scale(scale=np.arange(2.0)[:, None])], [Scale]),
    ("one factor, flatten", (2, 3), [Scale(scale=np.full((1, 1), 3.0)), Flatten()], [Flatten, Scale]),
    ("average", (2, 6, 6), [AvgPool2d(kernel_size=(2, 2), stride=(2, 2))], [Conv2d]),
    ("average flatten linear", (2, 4, 4), [
        AvgPool2d(kernel_size=(2, 2), stride=(2, 2)), Flatten(), Linear(weight=np.arange(24.0).reshape(3, 8)),
    ], [Flatten, Linear]),
    ("scale flatten linear", (2, 4), [
        Scale(scale=np.arange(2.0)[:, None]), Flatten(), Linear(weight=np.arange(24.0).reshape(3, 8)),
    ], [Flatten, Linear]),
    ("flattens", (2, 3, 4), [Flatten(start_dim=1), Flatten(), Linear(weight=np.ones((2, 24)))], [Flatten, Linear]),
    ("partial flatten", (2, 3, 4), [Flatten(start_dim=1), Conv1d(weight=np.ones((3, 2, 2)))], [Flatten, Conv1d]),
    ("conv flatten linear", (1, 3, 3), [
        Conv2d(weight=np.arange(8.0).reshape(2, 1, 2, 2)), Flatten(), Linear(weight=np.arange(16.0).reshape(2, 8)),
    ], [Flatten, Linear]),
    ("nothing", (3,), [], []),
]


@pytest.mark.parametrize(("shape", "chain", "kinds"), [c[1:] for c in CHAINS], ids=[c[0] for c in CHAINS])
def test_chains_become_at_most_a_flatten_and_one_map(shape: Shape, chain: list[Synapse], kinds: list[type]) -> None:
    result = simplify(chain, shape, "name")
    assert [type(n) for n in result] == kinds
    assert_equal(chain, result, shape)


def test_a_chain_without_single_form_is_told() -> None:
    chain: list[Synapse] = [
        Conv2d(weight=np.ones((1, 1, 2, 2)), padding="same"), Conv2d(weight=np.ones((1, 1, 3, 3)), padding=(1, 1)),
    ]
    with pytest.raises(UnsupportedError, match="conv2d -> conv2d") as caught:
        simplify(chain, (1, 5, 5), "here")
    assert (caught.value.code, caught.value.node) == ("D2E-CANON-001", "here")


def test_a_dense_matrix_beyond_the_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "MATRIX_LIMIT", 31)
    chain: list[Synapse] = [Conv2d(weight=np.ones((1, 1, 1, 1))), Flatten(), Linear(weight=np.ones((2, 16)))]
    with pytest.raises(UnsupportedError, match="32 weights, the limit is 31"):
        simplify(chain, (1, 4, 4), "here")


@pytest.mark.parametrize(("shape", "nodes"), [
    ((3, 9, 8), [SumPool2d(kernel_size=(2, 2), stride=(2, 2)), Flatten(), Linear(weight=RNG.normal(size=(5, 48)))]),
    ((2, 7, 8), [AvgPool2d(kernel_size=(3, 2), stride=(1, 2), padding=(1, 1)), Scale(scale=RNG.normal(size=(2, 1, 1)))]),
    ((4, 6, 7), [Conv2d(weight=RNG.normal(size=(6, 2, 3, 2)), groups=2, stride=(2, 1), padding=(1, 0)), Flatten(),
                 Linear(weight=RNG.normal(size=(3, 108)))]),
    ((4, 6, 7), [Conv2d(weight=RNG.normal(size=(4, 1, 3, 2)), groups=4, dilation=(1, 2), padding="same")]),
    ((4, 9), [Conv1d(weight=RNG.normal(size=(6, 2, 3)), groups=2, stride=(2,), dilation=(2,), padding=(2,))]),
    ((2, 3, 4), [Linear(weight=RNG.normal(size=(5, 4))), Flatten(start_dim=1)]),
], ids=lambda v: "-".join(n.kind for n in v) if isinstance(v, list) else "")
def test_a_matrix_does_what_the_chain_does(shape: Shape, nodes: list[Synapse]) -> None:
    matrix = algebra.as_matrix(nodes, shape, "x")
    x = frames(shape)
    want = algebra.run_chain(nodes, x, shape).reshape(len(x), -1)
    np.testing.assert_allclose(x.reshape(len(x), -1) @ matrix.T, want, atol=1e-12)


def test_pooling_before_a_dense_layer_repeats_its_columns() -> None:
    weight = RNG.normal(size=(4, 32 * 32 * 32))
    chain: list[Synapse] = [AvgPool2d(kernel_size=(2, 2), stride=(2, 2)), Flatten(), Linear(weight=weight)]
    _, dense = simplify(chain, (32, 64, 64), "x")
    assert isinstance(dense, Linear)
    want = np.repeat(np.repeat(weight.reshape(4, 32, 32, 32) * 0.25, 2, axis=2), 2, axis=3)
    np.testing.assert_array_equal(dense.weight, want.reshape(4, -1))


def test_a_large_matrix_is_built_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    chain: list[Synapse] = [Conv2d(weight=np.random.default_rng(5).normal(size=(2, 1, 2, 2))), Flatten()]
    whole = algebra.as_matrix(chain, (1, 5, 4), "x")
    monkeypatch.setattr(algebra, "_CHUNK", 45)
    np.testing.assert_array_equal(algebra.as_matrix(chain, (1, 5, 4), "x"), whole)
    assert whole.shape == (24, 20)


def test_delays_add_up_and_a_bias_before_one_is_told() -> None:
    conv = Conv2d(weight=np.ones((1, 1, 1, 1)), bias=np.ones(1))
    rest, steps = algebra.split_delays([Delay(steps=2), conv, Flatten(), Delay(steps=0)], "x")
    assert ([n.kind for n in rest], steps) == (["conv2d", "flatten"], 2)
    with pytest.raises(UnsupportedError) as caught:
        algebra.split_delays([conv, Delay(steps=1)], "x")
    assert caught.value.code == "D2E-CANON-002"

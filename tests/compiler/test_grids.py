"""quantise on a grid unlike Loihi's: whole units, no fractions; weights, biases and thresholds in ranges of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.notes import warnings
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.passes.quantise import Grid, Quantise
from d2e.ir import (
    IF,
    Affine,
    Conv2d,
    FixedPoint,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    SumPool2d,
    UnsupportedError,
    reference,
    verified,
)
from d2e.ir.network import chain

TOP = 32640
GRID = Grid(
    weight_bits=8, conv_bits=8, linear_bits=8, threshold_max=TOP, mantissa_max=0, exponent_max=7, bias_mantissa=32767,
    bias_exponents=range(1), state_max=None, sum_max=1 << 31,
    arithmetic=FixedPoint(fraction_bits=0, u_bits=32, u_overflow="refuse", v_bits=32), bias_max=32767,
    burst_thresholds=False, below_threshold=True,
)


def quantise(network: Network, **options: Any) -> Network:
    passes = [Canonicalise(pooling=(2, 4)), FoldThresholds(), Quantise(**{"grid": GRID, **options})]
    return run_passes(passes, verified(network), TARGETS[0])[-1].network


def one(weight: Any, bias: Any = None, **neuron: Any) -> Network:
    """A dense layer and its neurons."""
    array = np.atleast_2d(np.asarray(weight, float))
    dense: Node = Linear(weight=array) if bias is None else Affine(weight=array, bias=np.full(len(array), float(bias)))
    options: dict[str, Any] = {"threshold": np.float64(1), "v_min": np.float64(-1), **neuron}
    cls = options.pop("cls", IF)
    return chain([("input", Input(shape=array.shape[1:])), ("dense", dense),
                  ("neuron", cls(shape=array.shape[:1], **options)), ("output", Output(shape=array.shape[:1]))])


def chosen(network: Network) -> tuple[np.ndarray, Neuron]:
    return network.nodes["dense"].weight, network.neuron("neuron")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("weight", "bias", "theirs"), [
    (0.3, None, (127, 0, 423)),
    (-1.0, None, (-127, 0, 127)),
    (0.001, None, (33, 0, 32767)),
    (0.3, 2.0, (19, 127, 64)),
    (0.3, -0.1, (127, -42, 423)),
])
def test_units_are_as_fine_as_those_of_sinabs(weight: float, bias: float | None, theirs: tuple[int, int, int]) -> None:
    """sinabs 3.1.3 has one scale for weights, biases of 8 bits and threshold: its integers stand on the right."""
    weights, neuron = chosen(quantise(one(weight, bias), scale="max"))
    assert abs(int(weights[0, 0])) >= abs(theirs[0])
    assert int(neuron.threshold) >= min(theirs[2], TOP)
    assert abs(int(neuron.bias.max())) >= abs(theirs[1])
    unit = float(neuron.quantized.scale)  # type: ignore[union-attr]
    for integer, value in ((weights[0, 0], weight), (neuron.bias.max(), bias or 0.0), (neuron.threshold, 1.0)):
        assert abs(int(integer) * unit - value) <= unit / 2 + 1e-12


def test_a_large_bias_has_its_own_range() -> None:
    for options, wanted in (({"scale": "max"}, (127, 846, 423, -423)), ({}, (126, 840, 420, -420))):  # or nothing rounded
        weights, neuron = chosen(quantise(one(0.3, 2.0), **options))
        assert (int(weights[0, 0]), int(neuron.bias), int(neuron.threshold), int(neuron.v_min)) == wanted  # type: ignore[arg-type]


def test_a_bias_beyond_16_bits_makes_the_unit_coarser() -> None:
    _, neuron = chosen(quantise(one(0.001, 2.0), scale="max"))
    assert int(neuron.bias) <= 32767
    assert int(neuron.threshold) == 16383
    with pytest.raises(UnsupportedError, match="D2E-QUANT-001"):
        quantise(one(0.001, 1e6).with_nodes({"dense": Linear(weight=np.array([[1e-9]]))}))


def test_a_state_to_start_from_changes_no_weight() -> None:
    weights, neuron = chosen(quantise(one(0.3, v_init=np.float64(5))))
    assert (int(weights[0, 0]), int(neuron.v_init)) == (126, 5 * 420)


def test_a_burst_takes_nothing_from_the_resolution() -> None:
    network = one(np.full((2, 40), 0.3), max_spikes=200)
    assert int(chosen(quantise(network, scale="max"))[1].threshold) == 423
    limited = chosen(quantise(network, scale="max", grid=replace(GRID, burst_thresholds=True)))
    assert int(limited[1].threshold) == TOP // 200


def test_levels_are_multiples_of_the_first_and_only_it_needs_to_fit() -> None:
    levels = np.array([1.0, 2.0, 40.0])
    after = quantise(one([[0.002, 0.001]], cls=MultiThreshold, levels=levels, v_min=None))
    found = after.neuron("neuron")
    assert isinstance(found, MultiThreshold)
    assert found.levels[0] > TOP // 40
    np.testing.assert_array_equal(found.levels / found.levels[0], [1, 2, 40])


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("bias", [0.0, 0.1234, -0.05])
def test_everything_is_whole_units_and_fires_as_before(reset: Any, bias: float) -> None:
    after = quantise(one([[0.31, -0.2], [0.7, 0.11]], bias, reset=reset, fire="ge", v_init=np.float64(0.4)))
    node = after.neuron("neuron")
    assert (node.fire, node.reset, node.reset_when, node.reset_by) == ("ge", reset, "same", None)
    unit = float(node.quantized.scale)  # type: ignore[union-attr]
    for integer, value in ((node.bias, bias), (node.v_min, -1.0), (node.v_init, 0.4), (node.threshold, 1.0)):
        np.testing.assert_array_equal(integer, np.rint(value / unit))
    assert warnings(after) == []


@given(
    st.integers(0, 2**16), st.sampled_from([2, 3, 4, 8]), st.booleans(), st.sampled_from(["max", "mse", "percentile"]),
    st.integers(1, 2),
)
@settings(max_examples=80)
def test_no_weight_up_to_the_threshold_exceeds_it(seed: int, bits: int, calibrated: bool, scale: Any, paths: int) -> None:
    """Also where rounding makes up for the errors of other weights, and on exponents."""
    rng = np.random.default_rng(seed)
    theta = np.float64(rng.uniform(0.2, 1.5))
    weight = np.minimum(rng.normal(0.2, 0.8, (6, 2, 2, 2)), theta)
    weight[0, 0] = theta
    shape = (2, 5, 5)
    nodes: dict[str, Node] = {
        "input": Input(shape=shape), "a": Conv2d(weight=weight), "neuron": IF(shape=(6, 4, 4), threshold=theta),
        "b": Conv2d(weight=0.3 * weight), "output": Output(shape=(6, 4, 4)),
    }
    edges = [("input", "a"), ("a", "neuron"), ("neuron", "output"), *([("input", "b"), ("b", "neuron")] * (paths - 1))]
    network = Network({n: v for n, v in nodes.items() if n != "b" or paths > 1}, tuple(edges))  # type: ignore[arg-type]
    frames = rng.integers(0, 2, (4, 8, *shape)) if calibrated else None
    after = quantise(network, weight_bits=bits, scale=scale, calibration=frames)
    assert after.nodes["a"].weight.max() <= int(after.neuron("neuron").threshold)  # type: ignore[attr-defined]
    for name in ("a", "b")[:paths]:
        mark, integers = after.nodes[name].quantized, after.nodes[name].weight  # type: ignore[attr-defined]
        assert mark.bits + mark.exponent <= 8
        assert integers.min() >= -128
        assert integers.max() <= 127


def test_weights_above_the_threshold_stay_above_it() -> None:
    weights, neuron = chosen(quantise(one([[3.0, 0.5, 1.0]])))
    np.testing.assert_allclose(weights[0] / int(neuron.threshold), [3.0, 0.5, 1.0], atol=0.02)


@st.composite
def networks(draw: Callable[..., Any]) -> Network:
    """Convolutions behind pools, biases, hard and soft resets, bursts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    bias = rng.normal(0.02, 0.05, 4) if draw(st.booleans()) else None
    size = draw(st.sampled_from([2, 4]))
    return chain([
        ("input", Input(shape=(2, 12, 12), max_payload=2)),
        ("conv", Conv2d(weight=rng.normal(0.1, 0.3, (4, 2, 3, 3)), padding=(1, 1), bias=bias)),
        ("first", IF(shape=(4, 12, 12), reset=draw(st.sampled_from(["subtract", "zero"])), v_min=np.float64(-1),
                     max_spikes=draw(st.sampled_from([1, 4])))),
        ("pool", SumPool2d(kernel_size=(size, size), stride=(size, size))),
        ("mix", Conv2d(weight=rng.normal(0.1, 0.3, (3, 4, 2, 2)))),
        ("second", IF(shape=(3, 12 // size - 1, 12 // size - 1), v_min=np.float64(-0.5))),
        ("output", Output(shape=(3, 12 // size - 1, 12 // size - 1))),
    ])


@given(networks(), st.booleans())
@settings(max_examples=30)
def test_integers_stay_close_to_the_float_network(network: Network, calibrated: bool) -> None:
    frames = np.random.default_rng(3).integers(0, 3, (4, 12, 2, 12, 12))
    after = quantise(network, calibration=frames if calibrated else None)
    assert all(after.neuron(n).arithmetic == GRID.arithmetic for n in after.populations)
    a, b = (reference.run(n, frames).counts for n in (network, after))
    for name in network.populations:
        assert np.abs(a[name] - b[name]).sum() <= 0.1 * a[name].sum() + 10

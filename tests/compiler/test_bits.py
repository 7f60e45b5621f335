"""Bits per layer: tables, budgets, what one bit means, and the search by what bits change."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import d2e
from d2e.backends.loihi2.limits import GRID
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler import activity
from d2e.compiler.passes.bits import OTHERS, Layer, allocate, stated, table
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.passes.quantise import Quantise
from d2e.ir import (
    IF,
    LI,
    Conv2d,
    Edge,
    Flatten,
    Input,
    Linear,
    Network,
    Node,
    Output,
    Scale,
    UnsupportedError,
    UsageError,
    reference,
)

CHIP = TARGETS[0]


def dense(seed: int = 0, sizes: tuple[int, ...] = (12, 20, 16, 5)) -> tuple[Network, np.ndarray]:
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {"input": Input(shape=sizes[:1], time_steps=16)}
    for i, (a, b) in enumerate(itertools.pairwise(sizes), 1):
        nodes |= {f"fc{i}": Linear(weight=rng.normal(0.3, 1, (b, a)) / np.sqrt(a)), f"n{i}": IF(shape=(b,))}
    nodes["output"] = Output(shape=sizes[-1:])
    network = Network(nodes, tuple(Edge(a, b) for a, b in itertools.pairwise(nodes)))
    return network, (rng.random((24, 16, sizes[0])) < 0.4).astype(np.int64)


def quantise(network: Network, **options: Any) -> Network:
    return run_passes([Canonicalise(), FoldThresholds(), Quantise(grid=GRID, **options)], network, CHIP)[-1].network


def widths(network: Network) -> dict[str, int]:
    return {n: q.bits for n, node in network.nodes.items() if hasattr(node, "weight") and (q := node.quantized)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("given", "found"), [
    (4, {OTHERS: 4}), ("4", {OTHERS: 4}), ("a=3", {OTHERS: 8, "a": 3}), ("5, a = 3,b=1", {OTHERS: 5, "a": 3, "b": 1}),
    ({"a": 2}, {OTHERS: 8, "a": 2}), ("auto", {OTHERS: 8}), ("a=b=2", {OTHERS: 8, "a=b": 2}),
])
def test_tables_of_widths(given: Any, found: dict[str, int]) -> None:
    assert table(given, 8) == found


@pytest.mark.parametrize(("given", "code"), [
    ("", "D2E-USE-013"), ("fine", "D2E-USE-013"), ("a=", "D2E-USE-013"), ("=4", "D2E-USE-013"), ("a=4,,b=2", "D2E-USE-013"),
    (0, "D2E-USE-003"), ("a=9", "D2E-USE-003"), ("a=-1", "D2E-USE-003"), ({"a": 12}, "D2E-USE-003"),
])
def test_what_is_no_table_is_told(given: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        table(given, 8)
    assert caught.value.code == code


def test_widths_are_kept_as_plain_values() -> None:
    assert stated(" 4 ") == 4
    assert stated({"a": np.int64(3)}) == {"a": 3}
    assert stated("auto") == "auto"


@pytest.mark.parametrize("given", ["3,n1=5,fc2=2", {"": 3, "n1": 5, "fc2": 2}])
def test_each_layer_has_the_width_it_was_given(given: Any) -> None:
    network, _ = dense()
    after = quantise(network, weight_bits=given)
    assert widths(after) == {"fc1": 5, "fc2": 2, "fc3": 3}
    for name, bits in widths(after).items():
        weight = after.nodes[name].weight >> after.nodes[name].quantized.exponent  # type: ignore[attr-defined]
        assert -(1 << (bits - 1)) <= weight.min()
        assert weight.max() < 1 << (bits - 1)


@pytest.mark.parametrize(("options", "code"), [
    ({"weight_bits": "auto"}, "D2E-USE-004"), ({"weight_bits": "auto", "calibration": np.zeros((1, 2, 12))}, "D2E-USE-014"),
    ({"budget": 4.0}, "D2E-USE-014"),
    ({"weight_bits": "auto", "budget": 1.5, "calibration": np.zeros((1, 2, 12))}, "D2E-USE-014"),
    ({"weight_bits": "other=4"}, "D2E-USE-015"),
], ids=str)
def test_bits_that_cannot_be_are_told(options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        quantise(dense()[0], **options)
    assert caught.value.code == code


# --------------------------------------------------------------------------- one bit


@pytest.mark.parametrize(("sign", "values"), [(1, {0, 1}), (-1, {-1, 0})])
def test_one_bit_is_nothing_or_one_value_of_the_layers_sign(sign: int, values: set[int]) -> None:
    network, frames = dense(sizes=(12, 20))
    network = network.with_nodes({
        "fc1": Linear(weight=sign * np.abs(network.nodes["fc1"].weight)),  # type: ignore[attr-defined]
        "n1": IF(shape=(20,), bias=np.float64(1.0)),
    })
    after = quantise(network, weight_bits=1)
    synapse = after.nodes["fc1"]
    assert set(np.unique(synapse.weight >> synapse.quantized.exponent)) == values  # type: ignore[attr-defined]
    assert reference.run(after, frames).counts["n1"].any()


def test_one_bit_for_both_signs_is_told() -> None:
    with pytest.raises(UnsupportedError) as caught:
        quantise(dense()[0], weight_bits="n2=1")
    assert (caught.value.code, caught.value.node) == ("D2E-QUANT-005", "fc2")


# --------------------------------------------------------------------------- budgets


def test_allocation_spends_bits_where_they_matter() -> None:
    cheap = Layer("cheap", 1000, {2: 0.01, 4: 0.005, 8: 0.0})
    dear = Layer("dear", 1000, {2: 5.0, 4: 0.5, 8: 0.0})
    assert allocate([cheap, dear], 8) == {"cheap": 8, "dear": 8}
    assert allocate([cheap, dear], 5) == {"cheap": 2, "dear": 8}
    assert allocate([cheap, dear], 3) == {"cheap": 2, "dear": 4}
    assert allocate([cheap, dear], 2) == {"cheap": 2, "dear": 2}


@pytest.mark.parametrize("seed", range(40))
def test_allocation_fits_and_is_near_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = [
        Layer(f"l{i}", int(rng.integers(1, 200)), {b: float(e) for b, e in zip(range(2, 9), np.sort(rng.exponential(
            rng.exponential(), 7))[::-1], strict=True)}) for i in range(4)
    ]
    budget = float(rng.uniform(2, 8))
    total = sum(layer.weights for layer in layers)

    def loss(chosen: dict[str, int]) -> float:
        return sum(layer.errors[chosen[layer.name]] for layer in layers)

    def used(chosen: dict[str, int]) -> int:
        return sum(layer.weights * chosen[layer.name] for layer in layers)

    chosen = allocate(layers, budget)
    assert used(chosen) <= budget * total
    uniform = {layer.name: int(budget) for layer in layers}
    assert loss(chosen) <= loss(uniform) * 1.0000001
    every = ({layer.name: b for layer, b in zip(layers, bits, strict=True)}
             for bits in itertools.product(range(2, 9), repeat=4))
    best = min(loss(c) for c in every if used(c) <= budget * total)
    assert loss(chosen) <= 1.5 * best + 0.05


@pytest.mark.parametrize("budget", [3.0, 4.5])
def test_auto_stays_within_its_budget_and_is_the_same_again(budget: float) -> None:
    network, frames = dense()
    first, again = (quantise(network, weight_bits="auto", budget=budget, calibration=frames) for _ in range(2))
    sizes = {n: first.nodes[n].weight.size for n in widths(first)}  # type: ignore[attr-defined]
    assert sum(sizes[n] * b for n, b in widths(first).items()) <= budget * sum(sizes.values())
    assert first.same(again)
    assert max(widths(first).values()) > 2


def test_compile_takes_tables_and_budgets() -> None:
    network, frames = dense()
    program = d2e.compile(network, weight_bits={"n1": 4}, stop_after="quantise")
    assert widths(program.network)["fc1"] == 4
    low = d2e.compile(network, passes="discretise,canonicalise,fold-thresholds,quantise{weight-bits=3}")
    assert set(widths(low.network).values()) == {3}
    auto = d2e.compile(network, weight_bits="auto", budget=3, calibration=frames, stop_after="quantise")
    assert min(widths(auto.network).values()) < 4


# --------------------------------------------------------------------------- several paths, compensated rounding


def residual(spread: float, seed: int = 0) -> tuple[Network, np.ndarray]:
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "input": Input(shape=(3, 5, 5)), "conv0": Conv2d(weight=rng.normal(0.2, 0.3, (3, 3, 3, 3)), padding=(1, 1)),
        "a": IF(shape=(3, 5, 5)), "conv": Conv2d(weight=rng.normal(0, spread, (3, 3, 3, 3)), padding=(1, 1)),
        "skip": Scale(scale=np.float64(1)), "b": IF(shape=(3, 5, 5)), "flat": Flatten(),
        "fc": Linear(weight=rng.normal(0.02, 0.1, (4, 75))), "c": IF(shape=(4,)), "output": Output(shape=(4,)),
    }
    edges = ["input conv0", "conv0 a", "a conv", "conv b", "a skip", "skip b", "b flat", "flat fc", "fc c", "c output"]
    frames = (rng.random((6, 12, 3, 5, 5)) < 0.4).astype(np.int64)
    return Network(nodes, tuple(Edge(*e.split()) for e in edges)), frames


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_paths_into_one_population_have_their_own_exponents(bits: int, spread: float) -> None:
    network, frames = residual(spread)
    after = quantise(network, weight_bits=bits, time_steps=12)
    marks = {n: after.nodes[n].quantized for n in ("conv", "skip")}  # type: ignore[attr-defined]
    half = 1 << (bits - 1)
    for name, mark in marks.items():
        array = after.nodes[name].weight if name == "conv" else after.nodes[name].scale  # type: ignore[attr-defined]
        assert (array % (1 << mark.exponent) == 0).all()
        assert np.abs(array >> mark.exponent).max() <= half
    assert marks["skip"].exponent > marks["conv"].exponent
    assert np.abs(after.nodes["conv"].weight).max() <= 256, "Lava's convolution holds -256..255"  # type: ignore[attr-defined]
    if bits == 8:
        wanted, found = (reference.run(n, frames).counts["b"] for n in (network, after))
        assert np.abs(wanted - found).mean() < 0.1


def test_compensated_rounding_keeps_more_of_what_the_layers_do() -> None:
    errors: dict[bool, float] = {True: 0, False: 0}
    for seed in range(5):
        network, frames = dense(seed, (40, 30, 20, 6))
        wanted = reference.run(network, frames).counts["n3"]
        for compensate in errors:
            after = quantise(network, weight_bits=3, calibration=frames[:12], compensate=compensate, scale="mse")
            errors[compensate] += float(np.abs(reference.run(after, frames).counts["n3"] - wanted)[12:].sum())
    assert errors[True] < 0.8 * errors[False], errors


@pytest.mark.parametrize("readout", [False, True])
def test_every_layer_is_seen_at_the_output_the_last_one_too(readout: bool) -> None:
    network, frames = dense()
    if readout:
        network = network.with_nodes({"n3": LI(shape=(5,), decay_mem=np.float64(0.9))})
    seen = activity.observe(network, frames)
    for name in ("n1", "n2", "n3"):
        errors = []
        for bits in (2, 4, 8):
            after = quantise(network, weight_bits=f"8,{name}={bits}", calibration=frames)
            alone = network.with_nodes({n: after.nodes[n] for n in (name, f"fc{name[1]}")})
            fired = seen.with_spikes(name, activity.replay(alone, name, seen)[0])
            errors.append(activity.output_error(network, alone, seen, activity.carried(network, name, fired)))
        assert errors[0] > errors[1] > errors[2] >= 0
        assert errors[0] > 0.001

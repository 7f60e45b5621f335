"""Pooling that a target carries out on the way: kept as a node of its own, through every pass, the same spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from d2e.backends.loihi2.limits import GRID
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler import cost
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.encode_input import EncodeInput
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.passes.quantise import Quantise
from d2e.compiler.passes.ranges import population_range
from d2e.compiler.paths import paths_from
from d2e.ir import (
    IF,
    Affine,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    Network,
    Node,
    Output,
    Scale,
    SumPool2d,
    Synapse,
    UnsupportedError,
    infer_shapes,
    reference,
    verified,
)
from d2e.ir.network import chain
from d2e.ir.shapes import output_shape

CHIP = TARGETS[0]
RNG = np.random.default_rng(5)
SIZES = (2, 4)


def pool(size: int, cls: type[Any] = SumPool2d, **other: Any) -> Any:
    return cls(**{"kernel_size": (size, size), "stride": (size, size), **other})


def passed(network: Network, *passes: Any) -> Network:
    return run_passes(passes, verified(network), CHIP)[-1].network


def kept(network: Network) -> Network:
    return passed(network, Canonicalise(pooling=SIZES))


def between(*synapses: Node, shape: tuple[int, ...] = (2, 8, 8), neuron: Callable[..., Any] = IF) -> Network:
    """Input, the synapses s0, s1, …, a population ``hidden``, output."""
    end: tuple[int, ...] = shape
    for node in synapses:
        end = output_shape("s", node, end)
    named = [(f"s{i}", node) for i, node in enumerate(synapses)]
    return chain([("input", Input(shape=shape)), *named, ("hidden", neuron(shape=end)), ("output", Output(shape=end))])


def kinds(network: Network) -> list[str]:
    """Kinds of the synapses in the order of the nodes."""
    return [n.kind for n in network.nodes.values() if isinstance(n, Synapse)]


def conv(out: int, into: int, size: int, **options: Any) -> Conv2d:
    return Conv2d(weight=RNG.normal(0.1, 0.4, (out, into, size, size)), **options)


CASES: dict[str, tuple[list[Node], list[str], int]] = {
    "pool and convolution": ([pool(2), conv(3, 2, 3)], ["sum_pool2d", "conv2d"], 2),
    "average and padding": ([pool(2, AvgPool2d), conv(3, 2, 3, padding=(1, 1))], ["sum_pool2d", "conv2d"], 2),
    "two pools make one": ([pool(2), pool(2, AvgPool2d), conv(3, 2, 1)], ["sum_pool2d", "conv2d"], 4),
    "as many as are allowed": ([pool(4), pool(2), conv(3, 2, 1)], ["sum_pool2d", "conv2d"], 4),
    "a large pool divides": ([pool(8, AvgPool2d), Flatten(), Linear(weight=RNG.normal(size=(5, 2)))],
                             ["sum_pool2d", "flatten", "linear"], 4),
    "a large pool alone": ([pool(6)], ["sum_pool2d", "sum_pool2d"], 2),
    "one that is not allowed times one that is": ([pool(3), pool(2), conv(3, 2, 1)], ["sum_pool2d", "conv2d"], 2),
    "pool and dense layer": ([pool(4), Flatten(), Linear(weight=RNG.normal(size=(5, 8)))],
                             ["sum_pool2d", "flatten", "linear"], 4),
    "a pool alone": ([pool(2)], ["sum_pool2d", "scale"], 2),
    "an average alone": ([pool(2, AvgPool2d)], ["sum_pool2d", "scale"], 2),
    "a pool, a pool that is not allowed": ([pool(2), pool(3)], ["sum_pool2d", "sum_pool2d"], 2),
    "a factor before it": ([Scale(scale=np.float64(0.5)), pool(2), conv(3, 2, 2)], ["sum_pool2d", "conv2d"], 2),
    "a delay before it": ([Delay(steps=2), pool(2), conv(3, 2, 2)], ["sum_pool2d", "conv2d", "delay"], 2),
}


@pytest.mark.parametrize(("synapses", "found", "size"), CASES.values(), ids=CASES)
def test_a_pool_that_leads_stays(synapses: list[Node], found: list[str], size: int) -> None:
    network = between(*synapses)
    after = kept(network)
    assert kinds(after) == found
    first = next(n for n in after.nodes.values() if isinstance(n, SumPool2d))
    assert first.kernel_size == first.stride == (size, size)
    assert_same_spikes(network, after, (2, 8, 8))


@pytest.mark.parametrize("synapses", [
    [pool(3), conv(3, 2, 2)],
    [pool(2, kernel_size=(3, 3)), conv(3, 2, 2)],
    [pool(2, kernel_size=(2, 4), stride=(2, 4)), conv(3, 2, 2)],
    [pool(2, padding=(1, 1)), conv(3, 2, 2)],
    [pool(2, stride=(1, 1)), conv(3, 2, 2)],
    [conv(3, 2, 2), pool(2)],
], ids=["3 x 3", "overlapping", "not square", "padded", "stride 1", "behind the weights"])
def test_any_other_pool_joins_the_convolution(synapses: list[Node]) -> None:
    network = between(*synapses)
    assert kinds(kept(network)) == kinds(passed(network, Canonicalise())) == ["conv2d"]


def test_names_are_those_of_the_layers() -> None:
    network = between(pool(2), pool(2, AvgPool2d), pool(2), conv(3, 2, 1))
    assert list(kept(network).nodes) == ["input", "hidden", "s1", "s3", "output"]
    alone = between(pool(2))
    assert list(kept(alone).nodes) == ["input", "hidden", "s0", "hidden.synapse", "output"]


def test_a_bias_before_the_pool_is_summed_and_one_behind_it_is_not_scaled() -> None:
    network = between(pool(2, AvgPool2d), conv(3, 2, 1, bias=np.array([0.1, 0.2, 0.3])))
    after = kept(network)
    np.testing.assert_allclose(after.neuron("hidden").bias[:, 0, 0], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(after.nodes["s1"].weight, network.nodes["s1"].weight / 4)  # type: ignore[attr-defined]


def test_two_readers_of_a_pool_get_one_each() -> None:
    network = between(pool(2), conv(2, 2, 3, padding=(1, 1)))
    edges = (*network.edges, ("s0", "hidden"))
    after = kept(Network(network.nodes, edges))  # type: ignore[arg-type]
    assert sorted(kinds(after)) == ["conv2d", "scale", "sum_pool2d", "sum_pool2d"]
    assert_same_spikes(Network(network.nodes, edges), after, (2, 8, 8))  # type: ignore[arg-type]


# ----- random networks


@st.composite
def networks(draw: Callable[..., Any]) -> Network:
    """Pools, convolutions and dense layers of odd sizes, between populations of unequal thresholds and amplitudes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape: tuple[int, ...] = (draw(st.integers(1, 3)), draw(st.integers(5, 17)), draw(st.integers(5, 17)))
    nodes: list[tuple[str, Node]] = [("input", Input(shape=shape, max_payload=3))]

    def add(name: str, node: Node) -> None:
        nonlocal shape
        nodes.append((name, node))
        shape = output_shape(name, node, shape)

    for layer in range(draw(st.integers(1, 3))):
        for i in range(draw(st.integers(0, 2))):
            size = draw(st.sampled_from([2, 2, 3, 4]))
            if min(shape[1:]) >= size:
                add(f"pool{layer}{i}", pool(size, draw(st.sampled_from([SumPool2d, AvgPool2d]))))
        size = draw(st.integers(0, 3))
        if 0 < size <= min(shape[1:]):
            bias = rng.normal(0.05, 0.1, 3) if draw(st.booleans()) else None
            weight = rng.normal(0.15, 0.4, (3, shape[0], size, size))
            add(f"conv{layer}", Conv2d(weight=weight, stride=(draw(st.integers(1, 2)),) * 2, bias=bias))
        per = rng.uniform(0.5, 2, (shape[0], 1, 1))
        add(f"if{layer}", IF(
            shape=shape, threshold=per if draw(st.booleans()) else np.float64(1), max_spikes=draw(st.integers(1, 3)),
            amplitude=rng.uniform(0.5, 2, (shape[0], 1, 1)) if draw(st.booleans()) else np.float64(1),
            gain=np.float64(0.7), v_min=draw(st.sampled_from([None, np.float64(-1)])),
        ))
    if draw(st.booleans()):
        add("last", pool(min(2, *shape[1:])))
    add("flat", Flatten())
    weight = rng.normal(0.1, 0.4, (4, shape[0]))
    add("dense", Affine(weight=weight, bias=np.full(4, 0.05)) if draw(st.booleans()) else Linear(weight=weight))
    add("out", IF(shape=shape))
    return chain([*nodes, ("output", Output(shape=shape))])


def assert_same_spikes(before: Network, after: Network, shape: tuple[int, ...], payload: int = 1) -> None:
    frames = np.random.default_rng(1).integers(0, payload + 1, (2, 12, *shape))
    a, b = reference.run(before, frames, "spikes"), reference.run(after, frames, "spikes")
    for name in before.populations:
        np.testing.assert_array_equal(a.spikes[name], b.spikes[name], err_msg=name)


@given(networks())
@settings(max_examples=60)
def test_folded_networks_keep_their_spikes(network: Network) -> None:
    after = passed(network, Canonicalise(pooling=SIZES), FoldThresholds())
    assert_same_spikes(network, after, network.input.shape, 3)


@given(networks())
@settings(max_examples=30)
def test_integers_are_those_of_the_network_without(network: Network) -> None:
    """A pool that stays changes no integer where the populations' units are the same."""
    try:
        whole = passed(network, Canonicalise(), FoldThresholds(), Quantise(grid=GRID, scale="max"))
        after = passed(network, Canonicalise(pooling=SIZES), FoldThresholds(), Quantise(grid=GRID, scale="max"))
    except UnsupportedError as error:
        assume(error.code not in ("D2E-QUANT-001", "D2E-CANON-001"))
        raise
    frames = np.random.default_rng(2).integers(0, 4, (2, 10, *network.input.shape))
    a, b = reference.run(whole, frames, "state"), reference.run(after, frames, "state")
    for name in network.populations:
        scales = [n.neuron(name).quantized.scale for n in (whole, after)]  # type: ignore[union-attr]
        if scales[0] != scales[1]:
            break
        np.testing.assert_array_equal(a.v[name], b.v[name], err_msg=name)


@given(networks())
@settings(max_examples=40)
def test_cost_is_what_events_reach_one_by_one(network: Network) -> None:
    after = kept(network)
    shapes, rng = infer_shapes(after), np.random.default_rng(3)
    sent = {n: rng.integers(0, 3, shapes[n]) for n in ("input", *after.populations)}
    wanted = dict.fromkeys(after.populations, 0)
    pairs = dict.fromkeys(after.populations, 0)
    for source, events in sent.items():
        for path in paths_from(after, source):
            if path.target not in wanted:
                continue
            for where in np.ndindex(*shapes[source]):
                reached = reach(after, path.synapses, where, shapes[source])
                wanted[path.target] += reached * int(events[where])
                pairs[path.target] += reached
    assert cost.synops(after, sent) == wanted
    assert {n: cost.synapses(after, n) for n in after.populations} == pairs


def reach(network: Network, synapses: tuple[str, ...], where: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Targets of one event: the chip's rule, in plain Python."""
    for name in synapses:
        node = network.nodes[name]
        after = output_shape(name, node, shape)
        if isinstance(node, SumPool2d) and name != synapses[-1]:
            k = node.kernel_size[0]
            where = (where[0], where[1] // k, where[2] // k)
            if where[1] >= after[1] or where[2] >= after[2]:
                return 0
        elif isinstance(node, (Conv2d, SumPool2d)):
            kernel = node.weight.shape[2:] if isinstance(node, Conv2d) else node.kernel_size
            count = node.weight.shape[0] // node.groups if isinstance(node, Conv2d) else 1
            for n, out, k, s, p in zip(where[1:], after[1:], kernel, node.stride, node.padding, strict=True):
                count *= sum(0 <= n - (o * s - int(p)) < k for o in range(out))
            return count
        elif isinstance(node, Linear):
            return int(node.weight.shape[0])
        shape = after
    return 1


# ----- single passes


def test_factors_move_through_the_pool() -> None:
    """Amplitudes per channel, and per element where a window has one value."""
    tiles = np.kron(RNG.uniform(0.5, 2, (2, 4, 4)), np.ones((2, 2)))
    for amplitude in (RNG.uniform(0.5, 2, (2, 1, 1)), tiles):
        nodes = [("input", Input(shape=(2, 8, 8))), ("one", Scale(scale=np.float64(1))),
                 ("a", IF(shape=(2, 8, 8), amplitude=amplitude)), ("pool", pool(2)), ("flat", Flatten()),
                 ("dense", Linear(weight=RNG.normal(size=(3, 32)))), ("b", IF(shape=(3,))), ("output", Output(shape=(3,)))]
        after = passed(chain(nodes), Canonicalise(pooling=SIZES), FoldThresholds())
        assert kinds(after)[-3:] == ["sum_pool2d", "flatten", "linear"]
        assert_same_spikes(chain(nodes), after, (2, 8, 8))


def test_factors_that_vary_in_a_window_are_refused() -> None:
    nodes = [("input", Input(shape=(2, 8, 8))), ("a", IF(shape=(2, 8, 8), amplitude=RNG.uniform(0.5, 2, (2, 8, 8)))),
             ("pool", pool(2)), ("conv", conv(3, 2, 1)), ("b", IF(shape=(3, 4, 4))), ("output", Output(shape=(3, 4, 4)))]
    with pytest.raises(UnsupportedError, match="D2E-FOLD-001"):
        passed(chain(nodes), Canonicalise(pooling=SIZES), FoldThresholds())


def test_the_scale_of_the_input_moves_behind_the_pool() -> None:
    network = between(pool(2), conv(3, 2, 3))
    source = {"input": Input(shape=(2, 8, 8), coding="direct")}
    frames = RNG.random((3, 5, 2, 8, 8))
    passes = Canonicalise(pooling=SIZES), EncodeInput(calibration=frames, state_max=1 << 15)
    after = passed(network.with_nodes(source), *passes)
    assert kinds(after) == ["sum_pool2d", "conv2d"]
    scale = after.input.encoder.scale  # type: ignore[union-attr]
    np.testing.assert_allclose(after.nodes["s1"].weight, network.nodes["s1"].weight * scale)  # type: ignore[attr-defined]


def test_ranges_count_every_element_of_a_window() -> None:
    network = kept(between(pool(2), Flatten(), Linear(weight=np.array([[1.0] * 32, [-0.5] * 32]))))
    found = population_range(network, "hidden", 1)
    assert (found.low, found.high) == (-64.0, 128.0)


def test_weights_are_compensated_behind_a_pool() -> None:
    """Calibration runs through the pool: the integers deliver less error than those rounded one by one."""
    network = between(pool(2), conv(6, 2, 3), shape=(2, 12, 12))
    frames = np.random.default_rng(6).integers(0, 2, (8, 10, 2, 12, 12))
    errors = []
    for compensate in (True, False):
        grid = Quantise(grid=GRID, weight_bits=3, calibration=frames, compensate=compensate, scale="max")
        after = passed(network, Canonicalise(pooling=SIZES), FoldThresholds(), grid)
        a, b = (reference.run(n, frames).counts["hidden"] for n in (network, after))
        errors.append(np.abs(a - b).sum())
    assert errors[0] < errors[1]

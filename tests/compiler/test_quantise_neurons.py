"""quantise: bursts, levels and the other options of neurons as integers that the chip's forms can take."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from d2e.backends.loihi2.limits import GRID
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.passes.quantise import Quantise
from d2e.ir import (
    IF,
    LIF,
    CubaLIF,
    D2EError,
    Edge,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    UnsupportedError,
    reference,
    verify,
)

STEPS = 12


def lower(network: Network, **options: Any) -> Network:
    passes = [Canonicalise(), FoldThresholds(), Quantise(grid=GRID, **options)]
    return run_passes(passes, network, TARGETS[0])[-1].network


class Draw:
    """A random network of bursts and levels; with ``step`` all numbers are multiples of it, so nothing is rounded."""

    def __init__(self, seed: int, step: float | None = None, *, leaks: bool = True) -> None:
        self.rng, self.step, self.leaks = np.random.default_rng(seed), step, leaks
        sizes = [int(n) for n in self.rng.integers(2, 6, 3)]
        signed = bool(self.rng.random() < 0.5)
        nodes: dict[str, Node] = {"input": Input(shape=(sizes[0],), max_payload=2, coding="signed" if signed else "spikes")}
        edges = []
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            source = list(nodes)[-1] if i == 0 else f"n{i - 1}"
            nodes |= {f"w{i}": Linear(weight=self.weight(b, a)), f"n{i}": self.neuron(b)}
            edges += [Edge(source, f"w{i}"), Edge(f"w{i}", f"n{i}")]
            if self.rng.random() < 0.4:
                nodes[f"back{i}"] = Linear(weight=self.weight(b, b) / 2)
                edges += [Edge(f"n{i}", f"back{i}", True), Edge(f"back{i}", f"n{i}")]
        self.network = Network({**nodes, "output": Output(shape=(sizes[-1],))}, (*edges, Edge("n1", "output")))
        frames = self.rng.integers(-2 if signed else 0, 3, (3, STEPS, sizes[0]))
        self.frames = np.where(self.rng.random(frames.shape) < 0.6, frames, 0)

    def on_grid(self, values: Any, unit: float = 1.0) -> np.ndarray:
        return np.asarray(values if self.step is None else np.rint(values / (self.step * unit)) * self.step * unit)

    def weight(self, out: int, inputs: int) -> np.ndarray:
        return self.on_grid(self.rng.normal(0.2, 0.6, (out, inputs)), 2)

    def neuron(self, size: int) -> Neuron:
        rng = self.rng
        options: dict[str, Any] = {
            "fire": str(rng.choice(["ge", "gt"])), "reset": str(rng.choice(["subtract", "subtract", "zero", "none"])),
            "reset_when": str(rng.choice(["same", "next"])), "max_spikes": int(rng.integers(1, 9)),
        }
        if rng.random() < 0.3:
            options["v_min"] = self.on_grid(-rng.uniform(0.3, 2))
        if rng.random() < 0.3:
            options["bias"] = self.on_grid(rng.uniform(-0.1, 0.2, size), 2)
        if rng.random() < 0.3 and options["reset_when"] == "same":
            options["refractory"] = int(rng.integers(1, 3))
        kind = rng.choice(["if", "lif", "cuba", "levels"])
        decay = rng.uniform(0.5, 1, size if rng.random() < 0.3 else ()) if self.leaks else np.float64(1)
        if kind == "levels":
            levels = np.cumsum(self.on_grid(rng.choice([0.25, 0.5, 0.75, 0.31], 3) if self.step is None else
                                            rng.choice([0.25, 0.5, 0.75], 3)))
            return MultiThreshold(shape=(size,), levels=levels, signed=bool(rng.random() < 0.5), decay_mem=decay, **options)
        theta = self.on_grid(rng.uniform(0.5, 1.5)) + (self.step or 0)
        if kind == "if" or not self.leaks:
            return IF(shape=(size,), threshold=theta, **options)
        if kind == "lif":
            return LIF(shape=(size,), threshold=theta, decay_mem=decay, **options)
        return CubaLIF(shape=(size,), threshold=theta, decay_mem=decay, decay_syn=np.float64(rng.uniform(0, 0.8)), **options)


def one_synapse(amount: int) -> bool:
    while amount > GRID.mantissa_max and amount % 2 == 0:
        amount //= 2
    return amount <= GRID.mantissa_max


@pytest.mark.parametrize("seed", range(120))
def test_random_populations_are_integers_within_the_limits(seed: int) -> None:
    draw = Draw(seed)
    bits = int(np.random.default_rng(seed).integers(3, 9))
    try:
        after = lower(draw.network, weight_bits=bits, time_steps=STEPS)
    except UnsupportedError as error:
        if error.code != "D2E-QUANT-004" or bits > 5:
            raise
        return
    assert verify(after) == []
    for name in after.populations:
        node = after.neuron(name)
        multi = isinstance(node, MultiThreshold)
        top = int(node.levels[-1]) if multi else int(node.threshold) * node.max_spikes  # type: ignore[attr-defined]
        assert top <= GRID.threshold_max
        soft = node.reset == "subtract" and not (node.decays[0] is not None and node.decays[0].any())
        if multi:
            assert node.levels.dtype.kind == node.payloads.dtype.kind == "i"  # type: ignore[attr-defined]
            taken = node.levels if node.reset_by is None else node.reset_by  # type: ignore[attr-defined]
            amounts = np.diff(taken, prepend=0).tolist()
            mirrored = node.signed  # type: ignore[attr-defined]
            low = -(1 << (bits - 1)) + (1 if mirrored else 0)
            for synapse in (after.nodes[e.source] for e in after.incoming[name]):
                assert (synapse.weight >> synapse.quantized.exponent).min() >= low  # type: ignore[attr-defined]
        else:
            amounts = np.ravel(node.threshold if node.reset_by is None else node.reset_by).tolist()
        if soft:
            assert all(one_synapse(int(a)) for a in amounts)
        if soft or (node.reset == "none" and "cuba" not in node.kind):
            assert (node.bias % 64 == 0).all(), "an always-on neuron brings whole weight units"
    trace = reference.run(after, draw.frames)
    assert trace.output.dtype.kind == "i"


def exact(before: Network, after: Network) -> bool:
    """Whether no weight, bias or floor was rounded."""
    folded = run_passes([Canonicalise(), FoldThresholds()], before, TARGETS[0])[-1].network
    pairs = []
    for name in after.populations:
        mark, a, b = after.neuron(name).quantized, folded.neuron(name), after.neuron(name)
        assert mark is not None
        unit = float(mark.scale)
        pairs += [(a.bias, b.bias * unit / 64)] + ([] if a.v_min is None else [(a.v_min, b.v_min * unit / 64)])  # type: ignore[operator]
        pairs += [(folded.nodes[e.source].weight, after.nodes[e.source].weight * unit)  # type: ignore[attr-defined]
                  for e in after.incoming[name]]
    return all(np.allclose(a, b, rtol=0, atol=1e-9) for a, b in pairs)


def test_where_nothing_is_rounded_every_spike_is_the_floats() -> None:
    compared = bursts = 0
    for seed in range(250):
        draw = Draw(seed, 1 / 32, leaks=False)
        after = lower(draw.network, time_steps=STEPS)
        if not exact(draw.network, after):
            continue
        a, b = reference.run(draw.network, draw.frames, "spikes"), reference.run(after, draw.frames, "spikes")
        for name in draw.network.populations:
            np.testing.assert_array_equal(a.spikes[name], b.spikes[name], err_msg=f"{seed} {name}")
        compared += 1
        bursts += max(int(np.abs(spikes).max()) for spikes in a.spikes.values()) > 1
    assert compared >= 120
    assert bursts >= 90


def between(neuron: Neuron, weight: Any) -> Network:
    weight = np.asarray(weight, np.float64)
    nodes: dict[str, Node] = {"input": Input(shape=(weight.shape[1],)), "syn": Linear(weight=weight), "neuron": neuron,
                              "output": Output(shape=neuron.shape)}
    return Network(nodes, tuple(Edge(a, b) for a, b in itertools.pairwise(nodes)))


@pytest.mark.parametrize("signed", [True, False])
def test_leaky_levels_reset_after_the_decay_and_fire_the_same(signed: bool) -> None:
    rng = np.random.default_rng(3)
    node = MultiThreshold(shape=(6,), levels=np.array([0.5, 1.0, 2.0]), signed=signed, decay_mem=np.float64(0.5), fire="gt")
    network = between(node, np.rint(rng.normal(0.2, 1.5, (6, 4)) * 16) / 16)
    after = lower(network)
    found = after.neuron("neuron")
    assert isinstance(found, MultiThreshold)
    assert (found.reset_when, found.fire) == ("next", "gt")
    np.testing.assert_array_equal(found.reset_by, found.levels // 2)
    frames = rng.integers(0, 2, (5, 6, 4))  # six halvings are six fraction bits: nothing is truncated
    a, b = (reference.run(n, frames, "spikes").spikes["neuron"] for n in (network, after))
    assert set(np.unique(np.abs(a))) == {0, 1, 2, 3}
    np.testing.assert_array_equal(a, b)


def test_decays_that_vary_and_refractory_neurons_keep_their_reset() -> None:
    varied = LIF(shape=(2,), decay_mem=np.array([0.5, 0.9]), max_spikes=2)
    held = LIF(shape=(2,), decay_mem=np.float64(0.9), refractory=2)
    for node in (varied, held):
        found = lower(between(node, np.eye(2))).neuron("neuron")
        assert found.reset_when == "same"
    np.testing.assert_array_equal(lower(between(varied, np.eye(2))).neuron("neuron").decays[1], [2048, 3686])


@pytest.mark.parametrize("most", [1, 2, 8, 100])
def test_the_top_of_a_burst_fits_the_threshold_register(most: int) -> None:
    node = IF(shape=(1,), threshold=np.float64(500), max_spikes=most)
    found = lower(between(node, [[0.5, 1.0]]), scale="max", time_steps=2).neuron("neuron")
    theta = int(found.threshold)
    assert theta * most <= GRID.threshold_max
    assert one_synapse(theta)
    assert theta >= min(255 << 7, GRID.threshold_max // most) * 0.99


@pytest.mark.parametrize(("levels", "multiples"), [
    ([1.0, 2.0, 4.0], [1, 2, 4]), ([0.25, 0.5, 0.75], [1, 2, 3]), ([0.2, 0.6, 1.4], [1, 3, 7]),
    ([1.0, 1.5, 9.5], [2, 3, 19]),
])
def test_ratios_of_levels_are_kept(levels: list[float], multiples: list[int]) -> None:
    node = MultiThreshold(shape=(1,), levels=np.array(levels))
    found = lower(between(node, [[0.4, 1.0]])).neuron("neuron")
    assert isinstance(found, MultiThreshold)
    step = int(found.levels[0]) // multiples[0]
    np.testing.assert_array_equal(found.levels, np.array(multiples) * step)


def test_levels_without_ratio_are_rounded_and_rise() -> None:
    node = MultiThreshold(shape=(1,), levels=np.array([1.0, np.sqrt(2), np.pi, 4.0]), reset="zero")
    found = lower(between(node, [[0.4, 1.0]])).neuron("neuron")
    assert isinstance(found, MultiThreshold)
    assert found.quantized is not None
    unit = float(found.quantized.scale)
    np.testing.assert_allclose(found.levels * unit, node.levels, atol=unit / 2)


def test_levels_that_fall_together_are_told() -> None:
    node = MultiThreshold(shape=(1,), levels=np.array([1.0, 1.001, 1.0019]))
    with pytest.raises(D2EError) as caught:
        lower(between(node, [[40.0, 1.0]]), weight_bits=4)
    assert (caught.value.code, caught.value.node) == ("D2E-QUANT-004", "neuron")
    assert "[1.0, 1.001, 1.002]" in caught.value.message


def test_weights_into_signed_levels_can_be_negated() -> None:
    node = MultiThreshold(shape=(1,), levels=np.array([1.0, 2.0]), signed=True)
    after = lower(between(node, [[-0.99, 0.3]]), weight_bits=2)
    synapse = after.nodes["syn"]
    assert (synapse.weight >> synapse.quantized.exponent).min() == -1  # type: ignore[attr-defined]

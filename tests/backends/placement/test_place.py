"""place in whole compiles: what a layer's parts cost, which share a core, and what crosses chips."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

import d2e
from d2e.backends.loihi2.placement import Place, estimate
from d2e.backends.loihi2.placement.layer import Kernel, layers
from d2e.backends.loihi2.placement.place import COLUMNS
from d2e.backends.loihi2.placement.tile import Cut
from d2e.backends.loihi2.placement.traffic import reached
from d2e.compiler.target import find
from d2e.ir import (
    IF,
    LIF,
    Conv2d,
    Delay,
    Edge,
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
    infer_shapes,
    linear,
)
from d2e.ir.network import chain
from d2e.ir.nodes import integral, real

RNG = np.random.default_rng(0)


def dense(inputs: int, outputs: int, neuron: Neuron | None = None) -> Network:
    weight = np.random.default_rng(0).normal(0.1, 0.5, (outputs, inputs))
    return chain([
        ("input", Input(shape=(inputs,))), ("fc", Linear(weight=weight)),
        ("out", neuron or IF(shape=(outputs,), reset="zero")), ("output", Output(shape=(outputs,))),
    ])


def placement(network: Network, **options: Any) -> Any:
    return d2e.compile(network, **options).network.metadata["placement"]


def rows(found: Any) -> list[dict[str, Any]]:
    return [dict(zip(found["cores"]["columns"], row, strict=True)) for row in found["cores"]["rows"]]


def test_a_dense_layer_pays_sixteen_bits_a_synapse_in_whole_words() -> None:
    found = placement(dense(1000, 100))
    assert found["populations"]["out"] == {"neurons": 100, "synapses": 100_000, "cores": 3, "words_per_core": 9000}
    assert [row["populations"] for row in rows(found)] == ["out[0:34]", "out[34:68]", "out[68:100]"]
    assert found["source"].startswith("fitted from published tables")
    first = dict(zip(COLUMNS, (0, 0, "out[0:34]", 34, 9000, 1000, 34, 0, 1, 65.34), strict=True))
    assert rows(found)[0] == first


def test_fit_is_used_and_limit() -> None:
    fit = placement(dense(1000, 100))["fit"]
    assert fit["cores"] == {"used": 3, "limit": 128}
    assert fit["neurons_per_core"] == {"used": 34, "limit": 4095}
    assert fit["synaptic_words_per_core"] == {"used": 9000, "limit": 12000}
    assert fit["axons_in_per_core"] == {"used": 1000, "limit": 16000}
    assert fit["words_per_core"] == {"used": 9801, "limit": 15000}


def test_a_convolution_pays_its_kernel_once_per_core() -> None:
    kernel = RNG.normal(0.1, 0.2, (16, 1, 3, 3))
    network = chain([
        ("input", Input(shape=(1, 26, 26))), ("conv", Conv2d(weight=kernel)),
        ("maps", IF(shape=(16, 24, 24), reset="zero")), ("output", Output(shape=(16, 24, 24))),
    ])
    found = placement(network)
    assert found["populations"]["maps"] == {"neurons": 9216, "synapses": 9216 * 9, "cores": 3, "words_per_core": 9 * 2}
    assert [row["populations"] for row in rows(found)] == [
        "maps[0:16,0:24,0:8]", "maps[0:16,0:24,8:16]", "maps[0:16,0:24,16:24]",
    ]


def test_too_many_cores_are_a_warning_on_the_simulator_and_an_error_on_the_chip() -> None:
    program = d2e.compile(dense(1000, 100), target="loihi2-sim{cores=2}")
    (found,) = [w for w in program.report["warnings"] if w["code"] == "D2E-FIT-002"]
    assert found["message"].startswith("needs 3 cores (1 chip), 2 are there: out[68:100] would be on core 2; ")
    with pytest.raises(UnsupportedError) as caught:
        d2e.compile(dense(1000, 100), target="loihi2{cores=2}")
    assert (caught.value.code, caught.value.node, caught.value.exit_code) == ("D2E-FIT-002", "out", 3)


def test_chips_are_a_target_option() -> None:
    fit = placement(dense(1000, 100), target="loihi2-sim{chips=2}")["fit"]
    assert (fit["cores"]["limit"], fit["chips"]) == (256, {"used": 1, "limit": 2})
    assert placement(dense(1000, 100), target="loihi2-sim{cores=130}")["fit"]["chips"] == {"used": 1, "limit": 2}


def test_a_soft_reset_pays_a_synapse_and_two_axons_per_neuron() -> None:
    hard, soft = (rows(placement(dense(10, 20, IF(shape=(20,), reset=reset))))[0] for reset in ("zero", "subtract"))
    assert {k: soft[k] - hard[k] for k in ("synaptic_words", "axons_in", "axons_out")} == {
        "synaptic_words": 20, "axons_in": 20, "axons_out": 20,
    }


def test_an_always_on_neuron_shares_the_core_of_its_layer() -> None:
    found = placement(dense(10, 20, IF(shape=(20,), bias=real(0.2))))
    (core,) = rows(found)
    assert core["populations"] == "out[0:20] out.on[0:1]"
    assert (core["neurons"], core["groups"]) == (21, 2)
    assert [found["populations"][n]["cores"] for n in ("out", "out.on")] == [1, 0]


@pytest.mark.parametrize("neuron", [
    IF(shape=(20,), max_spikes=3), MultiThreshold(shape=(20,), levels=real([1.0, 2.0, 4.0]), signed=True),
], ids=["burst", "signed"])
def test_replicas_share_cores_and_graded_neurons_need_none(neuron: Neuron) -> None:
    replicas, graded = (d2e.compile(dense(10, 20, neuron), burst=form) for form in ("replicas", "graded"))
    count = 6 if isinstance(neuron, MultiThreshold) else 3
    (core,) = rows(replicas.network.metadata["placement"])
    assert (core["neurons"], core["groups"]) == (20 * count, count)
    (one,) = rows(graded.network.metadata["placement"])
    assert (one["neurons"], one["groups"], one["axons_in"]) == (20, 1, 10)
    assert core["synaptic_words"] > count * one["synaptic_words"]
    assert estimate(replicas.network) == estimate(graded.network) == 1


def test_layers_share_cores_where_there_are_too_few() -> None:
    nodes: list[tuple[str, Node]] = [("input", Input(shape=(8,)))]
    for i in range(20):
        nodes += [(f"w{i}", Linear(weight=RNG.normal(0.2, 0.5, (8, 8)))), (f"n{i}", IF(shape=(8,), reset="zero"))]
    network = chain([*nodes, ("output", Output(shape=(8,)))])
    wide = placement(network)
    assert (len(rows(wide)), wide["fit"]["groups_per_core"]["used"]) == (20, 1)
    tight = placement(network, target="loihi2-sim{cores=3}")
    assert [row["groups"] for row in rows(tight)] == [8, 8, 4]
    assert sum(p["cores"] for p in tight["populations"].values()) == 3


def test_more_state_takes_more_room() -> None:
    """u and v fill an entry; a refractory counter or a late reset is a 24-bit word more."""
    loads = []
    for options in ({}, {"refractory": 2}, {"reset_when": "next"}, {"reset_when": "next", "refractory": 0}):
        neuron = LIF(
            shape=(100,), decay_mem=integral(4000), threshold=integral(50), fire="gt", arithmetic=FixedPoint(),
            gain=integral(1), amplitude=integral(1), bias=integral(0), v_init=integral(0), v_reset=integral(0), **options,
        )
        lowered = dense(10, 100, neuron).with_nodes({"fc": Linear(weight=integral(np.ones((100, 10))))})
        loads.append(layers(lowered)["out"].load((100,)).neurons)
    assert loads == [100, 150, 150, 150]


def test_the_metadata_is_plain_json() -> None:
    found = placement(dense(1000, 100))
    assert json.loads(json.dumps(found)) == found


def test_a_million_neurons_take_no_memory_of_that_size() -> None:
    """What is computed is per core and per layer, never per neuron or synapse."""
    kernel = Conv2d(weight=np.zeros((64, 64, 3, 3), np.int8), padding=(1, 1))
    nodes: list[tuple[str, Node]] = [("input", Input(shape=(64, 128, 128)))]
    for i in range(3):
        nodes += [(f"w{i}", kernel), (f"n{i}", IF(
            shape=(64, 128, 128), threshold=integral(9), gain=integral(1), amplitude=integral(1), bias=integral(0),
            v_init=integral(0), v_reset=integral(0), arithmetic=FixedPoint(), reset="zero",
        ))]
    network = chain([*nodes, ("output", Output(shape=(64, 128, 128)))])
    tracemalloc.start()
    found = Place(chips=8).run(network, find("loihi2-sim")).metadata["placement"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(row["neurons"] for row in rows(found)) == 3 * 64 * 128 * 128
    assert peak < 2 * 3 * 64 * 128 * 128  # bytes: two per neuron


def recurrent_maps() -> Network:
    """A strided grouped convolution, pooling, and a delayed convolution of the population onto itself."""
    def kernel(*shape: int) -> np.ndarray:
        return RNG.integers(-3, 4, shape)

    def neurons(*shape: int) -> Neuron:
        return IF(shape=shape, threshold=integral(9), gain=integral(1), amplitude=integral(1), bias=integral(0),
                  v_init=integral(0), v_reset=integral(0), arithmetic=FixedPoint(), reset="zero")

    nodes: dict[str, Node] = {
        "input": Input(shape=(4, 12, 12)),
        "conv": Conv2d(weight=kernel(8, 2, 3, 3), groups=2, stride=(2, 2), padding=(1, 1)),
        "maps": neurons(8, 6, 6), "again": Conv2d(weight=kernel(8, 8, 3, 3), padding=(2, 2), dilation=(2, 2)),
        "delay": Delay(steps=2), "pool": SumPool2d(kernel_size=(2, 2), stride=(2, 2)), "pooled": neurons(8, 3, 3),
        "output": Output(shape=(8, 3, 3)),
    }
    edges = [
        ("input", "conv"), ("conv", "maps"), ("maps", "again", True), ("again", "delay"), ("delay", "maps"),
        ("maps", "pool"), ("pool", "pooled"), ("pooled", "output"),
    ]
    return Network(nodes, tuple(Edge(*e) for e in edges))


@pytest.mark.parametrize(("name", "source", "extent_out", "extent_in"), [
    ("maps", "maps", (3, 2, 2), (4, 3, 4)), ("pooled", "maps", (2, 1, 2), (1, 2, 1)),
    ("maps", "input", (2, 3, 1), (2, 5, 4)),
])
def test_tiles_are_connected_as_their_neurons_are(
    name: str, source: str, extent_out: tuple[int, ...], extent_in: tuple[int, ...],
) -> None:
    network = recurrent_maps()
    layer = layers(network)[name]
    (synapses,) = [s for origin, s in layer.arriving if origin == source]
    assert isinstance(synapses, Kernel)
    shape = infer_shapes(network)[source]
    before = Cut(Shaped(shape), extent_in)  # type: ignore[arg-type]
    found = reached(before, Cut(layer, extent_out), synapses)
    node = {"maps": "again", "pooled": "pool"}[name] if source == "maps" else "conv"
    expected = np.zeros_like(found)
    for i, (a, b) in enumerate(zip(*before.corners(), strict=True)):
        frame = np.zeros(shape, np.int64)
        frame[tuple(slice(x, y) for x, y in zip(a, b, strict=True))] = 1
        ones = network.nodes[node]
        if isinstance(ones, Conv2d):
            ones = Conv2d(weight=np.ones_like(ones.weight), groups=ones.groups, stride=ones.stride, padding=ones.padding,
                          dilation=ones.dilation)
        hit = linear.apply(ones, frame[None], shape)[0]  # type: ignore[arg-type]
        for j, (c, d) in enumerate(zip(*Cut(layer, extent_out).corners(), strict=True)):
            expected[i, j] = hit[tuple(slice(x, y) for x, y in zip(c, d, strict=True))].any()
    assert (found >= expected).all()  # a dilated kernel steps over some tiles that lie in its field
    assert node == "again" or (found == expected).all()


class Shaped:
    """A source that is no population: only its shape counts."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def test_recurrent_layers_are_placed() -> None:
    found = Place().run(recurrent_maps(), find("loihi2-sim")).metadata["placement"]
    assert [row["populations"] for row in rows(found)] == ["maps[0:8,0:6,0:6]", "pooled[0:8,0:3,0:3]"]
    words = 2 * 9 * 2 * 1 + 8 * 9 * 1  # two groups of 4 channels; 8 channels
    assert found["populations"]["maps"]["words_per_core"] == words


def test_a_layer_with_a_delay_per_synapse_is_one_list() -> None:
    """Each synapse holds its delay; only where two delays connect the same neurons there are two lists."""
    def words(first: np.ndarray, second: np.ndarray) -> int:
        lif = {"shape": (30,), "threshold": integral(50), "reset": "zero", "arithmetic": FixedPoint()}
        nodes: dict[str, Node] = {
            "input": Input(shape=(20,)), "a": Linear(weight=first), "late": Delay(steps=3), "b": Linear(weight=second),
            "n": IF(**lif), "output": Output(shape=(30,)),  # type: ignore[arg-type]
        }
        edges = [Edge("input", "a"), Edge("a", "n"), Edge("input", "late"), Edge("late", "b"), Edge("b", "n"),
                 Edge("n", "output")]
        layer = layers(Network(nodes, tuple(edges)))["n"]
        return layer.load((30,)).synaptic_words

    weight = np.random.default_rng(0).integers(1, 9, (30, 20))
    late = np.random.default_rng(1).random((30, 20)) < 0.5
    whole = words(weight, weight)
    assert words(weight * late, weight * ~late) * 2 == whole

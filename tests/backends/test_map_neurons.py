"""map_neurons and the rules: every integer neuron the chip can hold keeps its spikes, the others are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from d2e.backends.loihi2.forms import obstacles
from d2e.backends.loihi2.map_neurons import CheckRules, MapNeurons
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.notes import warnings
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.replicas import merged
from d2e.ir import (
    IF,
    LI,
    LIF,
    AvgPool2d,
    Conv2d,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    Quantized,
    Scale,
    UnsupportedError,
    reference,
)
from d2e.ir.network import chain

CHIP = TARGETS[0]
SIZE = 6
WEIGHT = np.random.default_rng(0).integers(-60, 90, (SIZE, 4))
BACK = np.random.default_rng(1).integers(-40, 40, (SIZE, SIZE))


def whole(value: Any) -> np.ndarray:
    return np.asarray(value, np.int64)


def integer(cls: type[Neuron], **options: Any) -> Neuron:
    base = {
        "shape": (SIZE,), "threshold": whole(120), "arithmetic": FixedPoint(), "gain": whole(1), "amplitude": whole(1),
        "bias": whole(0), "v_init": whole(0), "v_reset": whole(0),
    }
    return cls(**{**base, **options})


def network(neuron: Neuron, recurrent: bool = False) -> Network:
    mark = Quantized(8, np.float64(0.01))
    nodes: dict[str, Node] = {
        "input": Input(shape=(4,)), "dense": Linear(weight=WEIGHT, quantized=mark), "neuron": neuron,
        "output": Output(shape=(SIZE,))
    }
    edges = [Edge("input", "dense"), Edge("dense", "neuron"), Edge("neuron", "output")]
    if recurrent:
        nodes["back"] = Linear(weight=BACK, quantized=mark)
        edges += [Edge("neuron", "back", True), Edge("back", "neuron")]
    return Network(nodes, tuple(edges))


def mapped(given: Network, **options: Any) -> Network:
    return run_passes([MapNeurons(**options)], given, CHIP)[-1].network


FRAMES = (np.random.default_rng(2).random((3, 40, 4)) < 0.5).astype(np.int64)
WHOLE = {"bias": whole(np.arange(-3, 3) * 64), "v_init": whole(np.arange(6) * 640)}
FINE = {"bias": whole(np.arange(-150, 150, 50)), "v_init": whole(np.arange(6) * 333)}
CASES: dict[str, tuple[type[Neuron], dict[str, Any]]] = {
    "if soft ge": (IF, {}), "if soft gt": (IF, {"fire": "gt"}), "if soft bias": (IF, WHOLE),
    "if soft next": (IF, {"reset_when": "next"}), "if soft other amount": (IF, {"reset_by": whole(77), **WHOLE}),
    "if hard ge": (IF, {"reset": "zero", **WHOLE}), "if hard gt": (IF, {"reset": "zero", "fire": "gt", **FINE}),
    "if hard next": (IF, {"reset": "zero", "reset_when": "next"}),
    "lif hard": (LIF, {"reset": "zero", "fire": "gt", "decay_mem": whole(3500), **FINE}),
    "lif hard next": (LIF, {"reset": "zero", "fire": "gt", "reset_when": "next", "decay_mem": whole(3500), **FINE}),
    "lif soft": (LIF, {"fire": "gt", "reset_when": "next", "decay_mem": whole(3500), "reset_by": whole(102), **WHOLE}),
    "lif no leak ge": (LIF, {"decay_mem": whole(4096), **WHOLE}),
    "lif all leak": (LIF, {"decay_mem": whole(0), "reset": "zero"}),
    "cuba hard": (CubaLIF, {"reset": "zero", "fire": "gt", "decay_mem": whole(3500), "decay_syn": whole(2800), **FINE}),
    "cuba start": (CubaLIF, {"reset": "zero", "fire": "gt", "decay_mem": whole(3500), "decay_syn": whole(2800),
                             "u_init": whole(np.arange(6) * 500)}),
    "cuba soft without memory": (CubaLIF,
                                 {"fire": "gt", "reset_when": "next", "decay_mem": whole(3500), "decay_syn": whole(0)}),
}


@pytest.mark.parametrize("recurrent", [False, True], ids=["forward", "recurrent"])
@pytest.mark.parametrize("case", CASES)
def test_the_mapped_network_fires_the_same_spikes(case: str, recurrent: bool) -> None:
    cls, options = CASES[case]
    given = network(integer(cls, **options), recurrent)
    after = mapped(given)
    a, b = reference.run(given, FRAMES, "spikes"), reference.run(after, FRAMES, "spikes")
    assert a.counts["neuron"].any()
    np.testing.assert_array_equal(a.spikes["neuron"], b.spikes["neuron"])
    assert warnings(after) == []
    assert isinstance(after.neuron("neuron"), CubaLIF)


@pytest.mark.parametrize("decay_syn", [1000, 2500, 3500])
@pytest.mark.parametrize("decay_mem", [3000, 4000, 4096])
def test_a_soft_reset_behind_a_current_becomes_hard_and_is_warned_of(decay_syn: int, decay_mem: int) -> None:
    """What is lost is what exceeds the threshold: little where a step adds little of it."""
    decays = {"decay_syn": whole(decay_syn), "decay_mem": whole(decay_mem)}
    neuron = integer(CubaLIF, fire="gt", threshold=whole(1500), **decays, **FINE)
    given = network(neuron)
    exact = mapped(given)
    a, b = reference.run(exact, FRAMES), reference.run(given, FRAMES)
    np.testing.assert_array_equal(a.counts["neuron"], b.counts["neuron"])
    assert [w["code"] for w in warnings(exact)] == ["D2E-LOIHI-024"]
    after = mapped(given, graded=False)
    assert [w["code"] for w in warnings(after)] == ["D2E-LOIHI-020"]
    hard = reference.run(network(replace(neuron, reset="zero")), FRAMES, "spikes")
    soft, stock = reference.run(given, FRAMES, "spikes"), reference.run(after, FRAMES, "spikes")
    np.testing.assert_array_equal(stock.spikes["neuron"], hard.spikes["neuron"])
    fired, lost = soft.counts["neuron"].sum(), (soft.counts["neuron"] - stock.counts["neuron"])
    assert np.abs(lost).sum() <= 0.2 * fired + 1


def test_a_tie_of_fractions_is_warned_of() -> None:
    after = mapped(network(integer(LIF, reset="zero", decay_mem=whole(2048))))
    assert [w["code"] for w in warnings(after)] == ["D2E-LOIHI-021"]


def test_a_readout_keeps_its_membrane() -> None:
    given = network(integer(LI, decay_mem=whole(3700), decay_syn=whole(100), bias=whole(33), threshold=whole(1)))
    np.testing.assert_array_equal(reference.run(given, FRAMES).output, reference.run(mapped(given), FRAMES).output)


# --------------------------------------------------------------------------- rules


def codes(given: Network, each: Any = None) -> list[str]:
    with pytest.raises(UnsupportedError) as caught:
        run_passes([each or CheckRules()], given, CHIP)
    assert all(f.hint or f.code in ("D2E-LOIHI-013", "D2E-LOIHI-014") for f in caught.value.findings)
    return [f.code for f in caught.value.findings]


def line(*nodes: tuple[str, Node], **source: Any) -> Network:
    shape = nodes[-1][1].shape  # type: ignore[attr-defined]
    return chain([("input", Input(shape=(4,), **source)), *nodes, ("output", Output(shape=shape))])


DENSE = ("dense", Linear(weight=np.ones((SIZE, 4))))


def test_every_rule_names_its_node() -> None:
    assert codes(line(("late", Delay(steps=63)), DENSE, ("n", IF(shape=(SIZE,))))) == ["D2E-LOIHI-007"]
    readout = ("li", LI(shape=(SIZE,))), ("on", Scale(scale=np.float64(1))), ("n", IF(shape=(SIZE,)))
    assert codes(line(DENSE, *readout)) == ["D2E-LOIHI-008"]


FORMLESS: dict[str, Neuron] = {
    "D2E-LOIHI-003": IF(shape=(SIZE,), max_spikes=3, reset="zero"),
    "D2E-LOIHI-004": IF(shape=(SIZE,), refractory=2),
    "D2E-LOIHI-005": IF(shape=(SIZE,), v_min=np.float64(-1), bias=np.float64(-0.1)),
    "D2E-LOIHI-006": LIF(shape=(SIZE,), decay_mem=np.linspace(0.1, 0.9, SIZE)),
}


@pytest.mark.parametrize("code", FORMLESS)
def test_a_neuron_without_stock_form_is_graded_or_refused(code: str) -> None:
    given = line(DENSE, ("n", FORMLESS[code]))
    assert CheckRules().run(given, CHIP) is given
    assert codes(given, CheckRules(graded=False)) == [code]


def test_every_reason_against_stock_neurons_is_told() -> None:
    more: list[Neuron] = [
        MultiThreshold(shape=(SIZE,), levels=np.array([1.0, 2.0]), reset="zero"),
        MultiThreshold(shape=(SIZE,), levels=np.array([1.0, 2.0]), payloads=np.array([2.0, 1.0])),
        CubaLIF(shape=(SIZE,), decay_syn=np.float64(0.5), reset="none"),
        integer(LIF, decay_mem=whole(3000), max_spikes=2, fire="gt"),
    ]
    for node in more:
        assert codes(line(DENSE, ("n", node)), CheckRules(graded=False)) == ["D2E-LOIHI-003"]
        assert list(obstacles(node))
    assert not list(obstacles(IF(shape=(SIZE,), reset="none")))
    burst = line(DENSE, ("n", CubaLIF(shape=(SIZE,), decay_syn=np.float64(0.5), max_spikes=3)))
    assert codes(burst, CheckRules(burst="replicas")) == ["D2E-LOIHI-020"]


def test_a_floor_that_is_never_reached_costs_nothing() -> None:
    for low, kind in ((0, CubaLIF), (-1, IF)):
        weight = np.where(np.arange(4) == 0, low, 20) * np.ones((SIZE, 4), np.int64)
        given = network(integer(IF, v_min=whole(0))).with_nodes({"dense": Linear(weight=weight)})
        after = mapped(given)
        assert isinstance(after.neuron("neuron"), kind)
        a, b = reference.run(given, FRAMES, "spikes"), reference.run(after, FRAMES, "spikes")
        np.testing.assert_array_equal(a.spikes["neuron"], b.spikes["neuron"])


def test_the_fallback_keeps_to_registers_that_every_microcode_has() -> None:
    """It leaks 1/4096 per step: on these networks a few spikes differ, never many."""
    for options in ({}, WHOLE, {"max_spikes": 3}):
        given = network(integer(IF, **options))
        after = mapped(given, soft_reset="fallback", burst="replicas")
        assert {w["code"] for w in warnings(after)} == {"D2E-LOIHI-023"}
        for name in after.populations:
            node = after.neuron(name)
            assert isinstance(node, CubaLIF)
            assert node.decay_syn < 4096
            assert node.decay_mem > 0
        exact, leaky = reference.run(given, FRAMES), merged(after, reference.run(after, FRAMES))
        total = exact.counts["neuron"].sum()
        assert np.abs(exact.counts["neuron"] - leaky.counts["neuron"]).sum() <= 0.02 * total


def test_auto_takes_replicas_while_they_fit() -> None:
    given = network(integer(IF, max_spikes=4))
    assert MapNeurons().choose(given)["neuron"].kind == "replicas"
    assert MapNeurons(cores=1).choose(network(integer(IF, max_spikes=4)))["neuron"].kind in ("replicas", "graded")
    wide = MapNeurons().choose(network(integer(IF, max_spikes=40)))["neuron"]
    assert (wide.kind, "40" in wide.why) == ("graded", True)
    assert mapped(given).metadata["forms"]["neuron"]["form"] == "replicas"


def test_auto_makes_bursts_graded_whose_replicas_are_too_many_inputs_for_a_core() -> None:
    """4,000 neurons into one: their 4 replicas would be 16,000 weights, a core has 12,000."""
    mark, size = Quantized(8, np.float64(0.01)), 4000
    given = chain([
        ("input", Input(shape=(4,))), ("one", Linear(weight=np.ones((6, 4), np.int64), quantized=mark)),
        ("narrow", integer(IF, max_spikes=4)), ("many", Linear(weight=np.ones((size, 6), np.int64), quantized=mark)),
        ("wide", integer(IF, shape=(size,), max_spikes=4)),
        ("sum", Linear(weight=np.ones((1, size), np.int64), quantized=mark)),
        ("readout", integer(LI, shape=(1,), decay_syn=whole(0), decay_mem=whole(4096))), ("output", Output(shape=(1,))),
    ])
    forms = MapNeurons().choose(given)
    assert {name: form.kind for name, form in forms.items()} == {"narrow": "replicas", "wide": "graded", "readout": "stock"}
    assert "readout" in forms["wide"].why
    with pytest.raises(UnsupportedError) as caught:
        MapNeurons(graded=False).choose(given)
    assert (caught.value.code, caught.value.node) == ("D2E-FIT-001", "readout")


def test_a_dense_layer_on_maps_is_named() -> None:
    ends = ("input", Input(shape=(3, 4))), ("output", Output(shape=(3, 2)))
    nodes = ("dense", Linear(weight=np.ones((2, 4)))), ("n", IF(shape=(3, 2)))
    assert codes(chain([ends[0], *nodes, ends[1]])) == ["D2E-LOIHI-009"]


def test_a_network_that_ends_in_a_layer_is_named_before_anything_else() -> None:
    given = chain([
        ("input", Input(shape=(1, 4, 4))), ("conv", Conv2d(weight=np.ones((1, 1, 1, 1)))), ("n", IF(shape=(1, 4, 4))),
        ("pool", AvgPool2d(kernel_size=(2, 2), stride=(2, 2))), ("flat", Flatten()), ("output", Output(shape=(4,))),
    ])
    with pytest.raises(UnsupportedError) as caught:
        run_passes(CHIP.pipeline({}), given, CHIP)
    assert (caught.value.code, caught.value.node) == ("D2E-LOIHI-002", "flat")


def test_all_findings_come_at_once() -> None:
    bad = IF(shape=(SIZE,), max_spikes=3, reset="zero", v_min=np.float64(-1), refractory=1, bias=np.float64(-1))
    given = line(("late", Delay(steps=63)), DENSE, ("n", bad))
    assert codes(given, CheckRules(graded=False)) == ["D2E-LOIHI-007", "D2E-LOIHI-003", "D2E-LOIHI-004", "D2E-LOIHI-005"]


@pytest.mark.parametrize("options", [{"max_spikes": 2, "reset": "zero"}, {"refractory": 1}, {"v_min": whole(0)}])
def test_mapping_refuses_what_it_would_change(options: dict[str, Any]) -> None:
    assert codes(network(integer(IF, **options)), MapNeurons(graded=False))


def test_words_that_do_not_fit_are_named() -> None:
    wide = network(integer(IF, reset="zero", fire="gt", bias=whole(64 * 9000)))
    assert codes(wide, MapNeurons()) == ["D2E-LOIHI-011"]
    odd = network(integer(IF, reset="zero", fire="gt", bias=whole([1, 100000, 0, 0, 0, 0])))
    assert codes(odd, MapNeurons()) == ["D2E-LOIHI-011"]
    assert codes(network(integer(IF, reset="zero", threshold=whole(1 << 18))), MapNeurons()) == ["D2E-LOIHI-010"]

"""Integer populations as neurons of a core: exact where they can be, else a warning that says what changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2e.backends.speck.limits import LOWEST
from d2e.backends.speck.map_neurons import MapNeurons, ToEvents, eventful, mapped
from d2e.backends.speck.rules import SOURCE_RULES, multiples, source_findings
from d2e.compiler.notes import warnings
from d2e.ir import (
    IF,
    LI,
    LIF,
    Conv2d,
    CubaLIF,
    Delay,
    Edge,
    FixedPoint,
    Input,
    MultiThreshold,
    Network,
    Neuron,
    Output,
    UnsupportedError,
    integral,
    reference,
)
from d2e.ir.network import chain

FIXED = FixedPoint(fraction_bits=0, u_bits=32, v_bits=32)
WHOLE: dict[str, Any] = {"shape": (2, 3, 3), "arithmetic": FIXED, "gain": integral(1), "amplitude": integral(1)}


def _network(neuron: Neuron, weights: np.ndarray | None = None, **source: Any) -> Network:
    kernel = np.array([[[[3]], [[-2]]], [[[5]], [[1]]]]) if weights is None else weights
    shape = neuron.shape
    return chain([
        ("in", Input(shape=(2, 3, 3), **source)), ("conv", Conv2d(weight=kernel)), ("pop", neuron),
        ("out", Output(shape=shape)),
    ])


def _map(network: Network) -> Network:
    result = MapNeurons().run(network, None)  # type: ignore[arg-type]
    assert mapped(result) is None
    return result


def _codes(network: Network) -> list[str]:
    return [w["code"] for w in warnings(network)]


@settings(deadline=None, max_examples=40)
@given(reset=st.sampled_from(["subtract", "zero"]), fire=st.sampled_from(["ge", "gt"]),
       when=st.sampled_from(["same", "next"]), spikes=st.sampled_from([1, 3]), floor=st.sampled_from([None, -1, -7]),
       seed=st.integers(0, 99))
def test_same_spikes_step_by_step(reset: Any, fire: Any, when: Any, spikes: int, floor: int | None, seed: int) -> None:
    """Mapping changes no spike, except exact ties of fire="gt" with a soft reset, which it warns of."""
    spikes = 1 if reset == "zero" else spikes
    neuron = IF(threshold=integral(7), reset=reset, fire=fire, reset_when=when, max_spikes=spikes,
                v_min=None if floor is None else integral(floor), **WHOLE)
    network = _network(neuron)
    frames = np.random.default_rng(seed).integers(0, 2, (2, 12, 2, 3, 3))
    result = _map(network)
    if fire == "gt" and reset == "subtract":
        assert _codes(result) == ["D2E-SPECK-021"]
        return
    assert _codes(result) == []
    assert (reference.run(network, frames).output == reference.run(result, frames).output).all()


@pytest.mark.parametrize(("wanted", "given", "warns"), [
    (None, LOWEST, False), (0, -1, True), (-1, -1, False), (-500, -500, False), (-40000, LOWEST, True),
])
def test_floor_is_always_legal(wanted: int | None, given: int, warns: bool) -> None:
    """threshold_low = 0 is an erratum of the chip; too low a floor could leave 16 bits."""
    neuron = IF(threshold=integral(7), v_min=None if wanted is None else integral(wanted), **WHOLE)
    result = _map(_network(neuron))
    assert int(result.neuron("pop").v_min) == given  # type: ignore[arg-type]
    assert _codes(result) == (["D2E-SPECK-022"] if warns else [])


def test_levels_become_spikes() -> None:
    """1, 2, 3 times the smallest are exact; 1, 2, 4 times are told; 1, 2.5 times are refused."""
    def levels(*values: int, payloads: list[int]) -> MultiThreshold:
        return MultiThreshold(levels=np.array(values), payloads=np.array(payloads), threshold=integral(1), reset="subtract",
                              decay_mem=integral(4096), **WHOLE)

    even = _network(levels(6, 12, 18, payloads=[1, 2, 3]))
    frames = np.random.default_rng(1).integers(0, 3, (2, 9, 2, 3, 3))
    even = even.with_nodes({"in": Input(shape=(2, 3, 3), max_payload=2)})
    result = _map(even)
    assert _codes(result) == []
    assert (reference.run(even, frames).output == reference.run(result, frames).output).all()
    assert int(result.neuron("pop").max_spikes) == 3
    assert _codes(_map(_network(levels(6, 12, 24, payloads=[1, 2, 4])))) == ["D2E-SPECK-027"]
    assert multiples(levels(6, 12, 24, payloads=[1, 2, 4])) is not None
    with pytest.raises(UnsupportedError, match="D2E-SPECK-007"):
        _map(_network(levels(6, 15, payloads=[2, 5])))


def test_strong_weights_and_biases_are_told() -> None:
    """Both are approximate on the chip."""
    strong = _map(_network(IF(threshold=integral(4), **WHOLE)))
    assert _codes(strong) == ["D2E-SPECK-020"]
    assert "1.25 times" in warnings(strong)[0]["message"]
    biased = _map(_network(IF(threshold=integral(9), bias=integral(2), **WHOLE)))
    assert _codes(biased) == ["D2E-SPECK-023"]
    assert "waits for the next event" in warnings(biased)[0]["message"]


def test_events_take_over() -> None:
    """to-events changes the arithmetic to the chip's 16 bits and nothing else."""
    network = _map(_network(IF(threshold=integral(9), **WHOLE)))
    result = ToEvents().run(network, None)  # type: ignore[arg-type]
    assert eventful(network) == "pop"
    assert eventful(result) is None
    fixed = result.neuron("pop").arithmetic
    assert fixed is not None
    assert (fixed.v_bits, fixed.fraction_bits) == (16, 0)


PLAIN: dict[str, Any] = {"shape": (2, 3, 3)}


@pytest.mark.parametrize(("code", "neuron"), [
    ("D2E-SPECK-003", LI(**PLAIN)), ("D2E-SPECK-004", LIF(decay_mem=np.array(0.9), **PLAIN)),
    ("D2E-SPECK-004", CubaLIF(decay_syn=np.array(0.5), **PLAIN)), ("D2E-SPECK-005", IF(reset="none", **PLAIN)),
    ("D2E-SPECK-005", IF(reset_by=np.array(0.5), **PLAIN)), ("D2E-SPECK-006", IF(refractory=2, reset="zero", **PLAIN)),
    ("D2E-SPECK-005", IF(reset="value", v_reset=np.array(2.0), **PLAIN)),
    ("D2E-SPECK-007", MultiThreshold(levels=np.array([1.0, 2.0]), signed=True, **PLAIN)),
    ("D2E-SPECK-007", MultiThreshold(levels=np.array([1.0, 2.5]), **PLAIN)),
    ("D2E-SPECK-007", MultiThreshold(levels=np.array([1.0, 2.0]), reset="zero", **PLAIN)),
])
def test_neurons_that_no_core_has(code: str, neuron: Neuron) -> None:
    """One finding each, with a way out."""
    findings = source_findings(_network(neuron), {})
    assert [f.code for f in findings] == [code]
    assert all(f.hint and f.node == "pop" for f in findings)


def test_neurons_that_every_core_has() -> None:
    """A leak of nothing is none; a current that keeps nothing is none."""
    for neuron in (LIF(decay_mem=np.array(1.0), **PLAIN), CubaLIF(decay_mem=np.array(1.0), **PLAIN),
                   IF(max_spikes=0, **PLAIN), IF(reset="value", v_reset=np.array(-0.5), **PLAIN)):
        assert source_findings(_network(neuron), {}) == []


def test_all_findings_at_once() -> None:
    """Everything is told in one go."""
    network = _network(LIF(decay_mem=np.array(0.9), refractory=1, reset="zero", **PLAIN), coding="signed")
    loop = Network({**network.nodes, "back": Delay(steps=1)},
                   (*network.edges, Edge("pop", "back", True), Edge("back", "pop")))
    assert {f.code for rule in SOURCE_RULES for f in rule(loop)} >= {
        "D2E-SPECK-001", "D2E-SPECK-004", "D2E-SPECK-006", "D2E-SPECK-008"}


@pytest.mark.parametrize(("code", "options", "shape"), [
    ("D2E-SPECK-030", {"input": "camera"}, (3, 4, 4)), ("D2E-SPECK-030", {"input": "camera"}, (1, 200, 4)),
    ("D2E-SPECK-031", {"readout": "pins"}, (2, 3, 3)),
])
def test_options_that_do_not_fit(code: str, options: dict[str, str], shape: tuple[int, int, int]) -> None:
    """The camera has two polarities and 128 pixels, the readout block 15 classes."""
    conv = Conv2d(weight=np.ones((2, shape[0], 1, 1)), stride=(4, 1))
    out = (2, -(-shape[1] // 4), shape[2])
    network = chain([("in", Input(shape=shape)), ("conv", conv), ("pop", IF(shape=out)), ("out", Output(shape=out))])
    codes = [f.code for f in source_findings(network, options) if f.code != "D2E-SPECK-014"]
    assert codes == ([code] if options != {"readout": "pins"} or np.prod(out) > 15 else [])

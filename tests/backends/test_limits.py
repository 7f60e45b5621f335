"""Every width of the chip at its limit and one beyond: the error's code, the layer, the number and the limit.

Limits of cores and chips are in placement/test_limits.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.limits import GRID, LIMITS
from d2e.backends.loihi2.map_neurons import CheckRules, MapNeurons
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.notes import warnings
from d2e.compiler.passes.quantise import Quantise
from d2e.ir import (
    IF,
    LIF,
    Conv2d,
    Delay,
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
    UnsupportedError,
)
from d2e.ir.network import chain

CHIP = TARGETS[1]
assert CHIP.hardware


def whole(value: Any) -> np.ndarray:
    return np.asarray(value, np.int64)


def integer(cls: type[Neuron] = IF, **options: Any) -> Neuron:
    base = {"shape": (1,), "threshold": whole(1), "arithmetic": FixedPoint(), "gain": whole(1), "amplitude": whole(1),
            "bias": whole(0), "v_init": whole(0), "v_reset": whole(0)}
    return cls(**{**base, **options})


def line(neuron: Node, weight: int = 1, payload: int = 1, late: int = 0, marked: bool = False) -> Network:
    mark = Quantized(8, np.float64(1)) if marked else None
    nodes: list[tuple[str, Node]] = [("input", Input(shape=(1,), max_payload=payload))]
    nodes += [("late", Delay(steps=late))] if late else []
    nodes += [("dense", Linear(weight=whole([[weight]]), quantized=mark)), ("n", neuron), ("output", Output(shape=(1,)))]
    return chain(nodes)


def hard(threshold: int) -> Network:
    return line(integer(reset="zero", fire="gt", threshold=whole(threshold)))


def burst(threshold: int) -> Network:
    return line(integer(max_spikes=4, fire="gt", threshold=whole(threshold)))


def levels(top: int) -> Network:
    return line(integer(MultiThreshold, levels=whole([7, top]), decay_mem=whole(4096), fire="gt"))


def payload(largest: int) -> Network:
    node = integer(MultiThreshold, levels=whole([7, 9]), payloads=whole([1, largest]), refractory=1)
    return line(node)


def bias(value: int) -> Network:
    return line(integer(reset="zero", fire="gt", bias=whole([value])))


def least_weight(value: int) -> Network:
    return line(integer(), weight=-value, marked=True)


def shifted_weight(value: int) -> Network:
    return line(integer(), weight=value << 7, marked=True)


TOP = int(LIMITS["threshold"].value)
MANTISSA, EXPONENT = int(LIMITS["bias_mantissa"].value), int(LIMITS["bias_exponent"].value)
WORDS: dict[str, tuple[Any, int, int, str, str]] = {
    "threshold": (hard, TOP, TOP + 1, "D2E-LOIHI-010", "n"),
    "threshold of the last replica": (burst, TOP // 4, TOP // 4 + 1, "D2E-LOIHI-010", "n.4"),
    "level of the last replica": (levels, TOP, TOP + 1, "D2E-LOIHI-010", "n.2"),
    "bias": (bias, MANTISSA << EXPONENT, (MANTISSA + 1) << EXPONENT, "D2E-LOIHI-011", "n"),
    "bias without common exponent": (bias, MANTISSA, (MANTISSA << 1) + 1, "D2E-LOIHI-011", "n"),
    "least weight": (least_weight, 128, 129, "D2E-LOIHI-012", "dense"),
    "weight with the largest exponent": (shifted_weight, 127, 129, "D2E-LOIHI-012", "dense"),
}


@pytest.mark.parametrize("what", WORDS)
def test_words_of_the_lowered_network(what: str) -> None:
    build, most, beyond, code, node = WORDS[what]
    MapNeurons(burst="replicas").run(build(most), CHIP)
    with pytest.raises(UnsupportedError) as caught:
        MapNeurons(burst="replicas").run(build(beyond), CHIP)
    assert (caught.value.code, caught.value.node) == (code, node)
    assert caught.value.hint
    if code == "D2E-LOIHI-010":
        assert str(TOP + 1) in str(caught.value)
        assert f"the limit is {TOP}" in str(caught.value)


def test_largest_weight() -> None:
    MapNeurons().run(line(integer(), weight=127, marked=True), CHIP)
    with pytest.raises(UnsupportedError, match=r"the limit is -128\.\.127") as caught:
        MapNeurons().run(line(integer(), weight=129, marked=True), CHIP)
    assert (caught.value.code, caught.value.node) == ("D2E-LOIHI-012", "dense")


def test_payload_of_a_graded_spike() -> None:
    most = int(LIMITS["payload"].value)
    MapNeurons().run(payload(most), CHIP)
    with pytest.raises(UnsupportedError, match=f"the limit is {most}") as caught:
        MapNeurons().run(payload(most + 1), CHIP)
    assert (caught.value.code, caught.value.node) == ("D2E-LOIHI-015", "n")


def test_steps_of_replicas_before_a_convolution() -> None:
    """A step of 16 times a weight of 127 is 8 convolutions of 255, one of 17 is 9."""
    def steps(largest: int) -> Network:
        maps = {"shape": (1, 1, 1), "decay_mem": whole(4096)}
        node = integer(MultiThreshold, levels=whole([7, 9]), payloads=whole([1, 1 + largest]), **maps)
        nodes: list[tuple[str, Node]] = [
            ("input", Input(shape=(1, 1, 1))), ("first", Conv2d(weight=whole([[[[9]]]]))), ("n", node),
            ("conv", Conv2d(weight=whole([[[[127]]]]))), ("last", integer(shape=(1, 1, 1), reset="zero")),
            ("output", Output(shape=(1, 1, 1))),
        ]
        return chain(nodes)

    MapNeurons(burst="replicas").run(steps(16), CHIP)
    with pytest.raises(UnsupportedError, match="9 convolutions of 8 bits, 8 are allowed") as caught:
        MapNeurons(burst="replicas").run(steps(17), CHIP)
    assert (caught.value.code, caught.value.node) == ("D2E-LOIHI-016", "conv")
    forms = [MapNeurons().choose(steps(largest))["n"].kind for largest in (16, 17)]
    assert forms == ["replicas", "graded"]


def test_delay() -> None:
    most = int(LIMITS["delay"].value)
    CheckRules().run(line(integer(), late=most), CHIP)
    with pytest.raises(UnsupportedError, match=f"{most + 1} steps, the limit is {most}") as caught:
        CheckRules().run(line(integer(), late=most + 1), CHIP)
    assert (caught.value.code, caught.value.node) == ("D2E-LOIHI-007", "late")


def test_accumulator() -> None:
    def quantised(largest: int) -> Network:
        nodes: list[tuple[str, Node]] = [
            ("input", Input(shape=(1,), max_payload=largest)), ("dense", Linear(weight=np.ones((1, 1)))),
            ("n", IF(shape=(1,), threshold=np.float64(1), reset="zero")), ("output", Output(shape=(1,))),
        ]
        return Quantise(grid=GRID, weight_bits=2, scale="max", time_steps=1).run(chain(nodes), CHIP)

    most = int(LIMITS["accumulator"].value)
    quantised(most - 1)
    with pytest.raises(UnsupportedError, match=f"{most:,}") as caught:
        quantised(most)
    assert (caught.value.code, caught.value.node) == ("D2E-RANGE-001", "n")


def test_sum_that_lava_adds_up(tmp_path: Path) -> None:
    most = int(LIMITS["accumulator"].value)
    emit(MapNeurons().run(line(integer(reset="zero"), payload=most - 1), CHIP), tmp_path / "a", time_steps=1)
    with pytest.raises(UnsupportedError) as caught:
        emit(MapNeurons().run(line(integer(reset="zero"), payload=most), CHIP), tmp_path / "b", time_steps=1)
    assert (caught.value.code, caught.value.node) == ("D2E-LAVA-014", "n")
    assert not (tmp_path / "b").exists()


def test_wide_maps_are_a_hazard_of_the_chip_alone() -> None:
    def found(width: int, target: Any) -> list[str]:
        nodes: list[tuple[str, Node]] = [
            ("input", Input(shape=(1, 1, width))), ("conv", Conv2d(weight=whole(np.ones((1, 1, 1, 1))))),
            ("n", integer(reset="zero", shape=(1, 1, width))), ("flat", Flatten()),
            ("dense", Linear(weight=whole(np.ones((1, width))))), ("last", integer(reset="zero")),
            ("output", Output(shape=(1,))),
        ]
        return [w["code"] for w in warnings(MapNeurons(graded=not target.hardware).run(chain(nodes), target))]

    assert found(255, CHIP) == []
    assert found(256, CHIP) == ["D2E-LOIHI-022"]
    assert found(256, TARGETS[0]) == []


def test_decays_beyond_the_documented_bits_are_a_hazard_of_the_chip_alone() -> None:
    def found(neuron: Neuron, **options: Any) -> list[str]:
        return [w["code"] for w in warnings(MapNeurons(**options).run(line(neuron), CHIP))]

    leaky = {"decay_mem": whole(4095), "reset_when": "next", "fire": "gt"}
    assert found(integer(), graded=False) == ["D2E-LOIHI-025"]
    assert found(integer(LIF, **leaky), graded=False) == ["D2E-LOIHI-025"]
    assert found(integer(reset="zero"), graded=False) == []
    assert found(integer(), graded=False, soft_reset="fallback") == ["D2E-LOIHI-023"]
    assert found(integer()) == []

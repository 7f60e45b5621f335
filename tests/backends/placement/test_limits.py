"""Every limit of a core, a chip and a system, at the limit and beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from d2e.backends.loihi2.limits import LIMITS
from d2e.backends.loihi2.placement import Place
from d2e.backends.loihi2.placement.model import Load
from d2e.compiler.notes import warnings
from d2e.compiler.target import Limit, find
from d2e.ir import Conv2d, Linear, Network, Quantized, UnsupportedError
from d2e.ir.nodes import integral, real


def place(network: Network, **options: Any) -> Network:
    return Place(**options).run(network, find("loihi2-sim"))


def cores(network: Network, **options: Any) -> int:
    return int(place(network, **options).metadata["placement"]["fit"]["cores"]["used"])


def zeros(outputs: int, inputs: int) -> Linear:
    return Linear(weight=integral(np.zeros((outputs, inputs))))


@pytest.mark.parametrize(("field", "key", "label"), [
    ("neurons", "neurons", "neurons"), ("synaptic_words", "synaptic_words", "words of synapses"),
    ("axons_in", "axons_in", "axons in"), ("axons_out", "axon_map", "axons out"),
    ("axon_memory", "axon_map", "entries of axon memory"), ("groups", "neuron_groups", "neuron groups"),
])
def test_a_core_holds_its_limit_and_not_one_more(field: str, key: str, label: str) -> None:
    limit = int(LIMITS[key].value)
    assert Load(**{field: limit}).fits
    assert Load(**{field: limit + 1}).beyond() == (label, limit + 1, limit)


def test_all_resources_together_fill_the_pool_of_words() -> None:
    full = Load(neurons=2000, synaptic_words=12000, axons_in=1000, axons_out=1000)
    assert (full.words, full.used, full.fits) == (15000, 1.0, True)
    assert (full + Load(axon_memory=1)).beyond() == ("words of memory", 15001, 15000)


def test_neurons(build: Any) -> None:
    assert cores(build(1).add("n", zeros(4095, 1)).network()) == 1
    assert cores(build(1).add("n", zeros(4096, 1)).network()) == 2


def test_words_of_a_dense_layer(build: Any) -> None:
    """750 axons of 16 words each are 12,000; one axon more needs a second core."""
    assert cores(build(750).add("n", zeros(64, 750)).network()) == 1
    assert cores(build(751).add("n", zeros(64, 751)).network()) == 2


def test_words_of_a_kernel(build: Any) -> None:
    """A row of 16 weights of 8 bit is two words; beyond 6000 rows the channels are cut in two."""
    def maps(inputs: int) -> Network:
        weight = np.zeros((16, inputs, 1, 1), np.int64)
        built: Network = build(inputs, 2, 2).add("n", Conv2d(weight=weight, quantized=Quantized(8, real(1)))).network()
        return built

    assert cores(maps(6000)) == 1
    table = place(maps(6001)).metadata["placement"]
    assert table["fit"]["cores"]["used"] == 2
    assert [row[2] for row in table["cores"]["rows"]] == ["n[0:8,0:2,0:2]", "n[8:16,0:2,0:2]"]


def test_a_kernel_whose_one_channel_exceeds_a_core_is_told(build: Any) -> None:
    def maps(inputs: int) -> Network:
        weight = np.zeros((8, inputs, 1, 1), np.int64)
        built: Network = build(inputs, 1, 1).add("n", Conv2d(weight=weight, quantized=Quantized(8, real(1)))).network()
        return built

    assert cores(maps(12000)) == 1
    with pytest.raises(UnsupportedError) as caught:
        place(maps(12001))
    assert (caught.value.code, caught.value.node, caught.value.exit_code) == ("D2E-FIT-001", "n", 3)
    assert "needs 12,001 words of synapses on core 0, a core has 12,000" in caught.value.message
    assert "kernel" in str(caught.value.hint)


def test_fan_in_of_one_neuron(build: Any) -> None:
    """An axon of its own and a word per input, and the neuron: 8570 inputs fill the pool."""
    assert cores(build(8570).add("n", zeros(1, 8570)).network()) == 1
    with pytest.raises(UnsupportedError) as caught:
        place(build(1).add("before", zeros(8571, 1)).add("n", zeros(1, 8571)).network())
    assert (caught.value.code, caught.value.node) == ("D2E-FIT-001", "n")
    told = "one neuron of it alone, with 8,571 inputs, needs 15,001 words of memory on core 3, a core has 15,000"
    assert told in caught.value.message
    assert "fewer inputs" in str(caught.value.hint)


def test_axons_out(build: Any) -> None:
    """2000 neurons that feed 8 layers have 16,000 axons; one neuron more moves to a second core."""
    assert cores(build(1).add("n", zeros(2000, 1)).fan(8)) == 1 + 8
    assert cores(build(1).add("n", zeros(2001, 1)).fan(8)) == 2 + 8


def test_groups_on_a_shared_core(build: Any) -> None:
    def layers(count: int) -> Network:
        builder = build(1)
        for i in range(count):
            builder.add(f"n{i}", zeros(1, 1))
        built: Network = builder.network()
        return built

    assert cores(layers(8), pack=True) == 1
    assert cores(layers(9), pack=True) == 2
    assert cores(layers(9), pack=False) == 9


def test_cores(build: Any) -> None:
    network = build(1000).dense(48).dense(60).network()
    needed = cores(network, pack=False)
    assert needed == 2
    assert not warnings(place(network, cores=needed))
    (found,) = warnings(place(network, cores=needed - 1, pack=False))
    assert (found["code"], found["node"]) == ("D2E-FIT-002", "fc1")
    assert "needs 2 cores (1 chip), 1 are there: fc3[0:60] would be on core 1" in found["message"]
    with pytest.raises(UnsupportedError) as caught:
        place(network, cores=needed - 1, pack=False, strict=True)
    assert (caught.value.code, caught.value.node, caught.value.exit_code) == ("D2E-FIT-002", "fc1", 3)
    assert "chips=" in str(caught.value.hint)


def test_chips_have_128_cores(build: Any) -> None:
    def one_each(count: int) -> Network:
        built: Network = build(1).add("n", zeros(4095 * count, 1)).network()
        return built

    assert place(one_each(128)).metadata["placement"]["fit"]["chips"] == {"used": 1, "limit": 1}
    assert place(one_each(129), chips=2).metadata["placement"]["fit"]["chips"] == {"used": 2, "limit": 2}
    assert [w["code"] for w in warnings(place(one_each(129)))] == ["D2E-FIT-002"]
    assert [w["code"] for w in warnings(place(one_each(257), chips=2))] == ["D2E-FIT-002"]


def test_no_system_has_more_chips(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "chips", Limit(2, "", ""))  # 1152 in truth
    network = build(1).add("n", zeros(4095 * 257, 1)).network()
    (found,) = warnings(place(network, chips=3))
    assert (found["code"], found["node"]) == ("D2E-FIT-003", "n")
    assert "needs 3 chips, the largest system has 2: n[1048320:1052415] would be on chip 2" in found["message"]
    with pytest.raises(UnsupportedError) as caught:
        place(network, chips=3, strict=True)
    assert caught.value.code == "D2E-FIT-003"
    assert not warnings(place(build(1).add("n", zeros(4095 * 256, 1)).network(), chips=2))

"""Layers that have no cores: every reason has its code, layer, memory, limit and way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.backends.speck.placement.place_layers import layer, queue

from d2e.backends.speck.layer import Layer
from d2e.backends.speck.placement.mapping import assign
from d2e.ir import UnsupportedError


def faults(layers: Sequence[Layer], **options: Any) -> dict[tuple[str, str | None], str]:
    """(code, node) -> message and hint of every finding."""
    with pytest.raises(UnsupportedError) as caught:
        assign(layers, source="input", **options)
    return {(f.code, f.node): f"{f.message}. {f.hint}" for f in caught.value.findings}


def test_one_feature_that_exceeds_every_core() -> None:
    text = faults(queue(layer("big", 300, 16, 40, kernel=16)))["D2E-SPECK-050", "big"]
    assert "needs 4800Ki kernel words, the largest core has 64Ki" in text
    assert "one of its features alone needs 75Ki kernel words" in text
    assert "smaller kernel" in text


def test_a_layer_that_exceeds_all_cores_together() -> None:
    text = faults(queue(layer("big", 1, 64, 100)))["D2E-SPECK-050", "big"]
    assert "needs 400Ki neuron words, the largest core has 64Ki; split over all 9 cores it does not fit either" in text
    assert "pooling" in text


def test_a_layer_for_the_readout_block_that_exceeds_a_core() -> None:
    text = faults([layer("out", 1024, 1, 15, kernel=3)], readout="out")["D2E-SPECK-050", "out"]
    assert "needs 1024Ki kernel words" in text
    assert "readout block reads one core" in text


def test_a_layer_of_which_no_core_has_both_memories_is_split() -> None:
    layers = queue(layer("wide", 64, 32, 32, kernel=3))
    assert (layers[0].memory.kernel, layers[0].memory.neuron) == (32 * 1024, 32 * 1024)
    assert len(assign(layers, source="input").parts["wide"]) == 1
    layers = queue(layer("wide", 128, 32, 32, kernel=3))
    assert (layers[0].memory.kernel, layers[0].memory.neuron) == (64 * 1024, 32 * 1024)
    assert len(assign(layers, source="input").parts["wide"]) == 2
    text = faults([*layers, layer("other", 128, 8, 8)], camera=True)["D2E-SPECK-051", "wide"]
    assert "needs 64Ki kernel words and 32Ki neuron words, no core has both" in text


def test_parts_that_their_source_cannot_reach() -> None:
    layers = queue(layer("pool", 2, 64, 4), layer("conv2", 4, 64, 60))
    text = faults(layers)["D2E-SPECK-051", "conv2"]
    assert "needs 240Ki neuron words, the largest core has 64Ki" in text
    assert "split over 5 cores, 'pool' needs 5 destinations and can have 2" in text
    assert "larger stride" in text


def test_the_camera_has_two_destinations_and_the_host_any_number() -> None:
    layers = queue(layer("conv", 2, 64, 40))
    assert len(assign(layers, source="input").parts["conv"]) == 3
    assert "'input' needs 3 destinations and can have 2" in faults(layers, camera=True)["D2E-SPECK-051", "conv"]


def test_a_source_of_three_layers() -> None:
    readers = [layer(f"r{i}", 4, 8, 4, sources=["stem"]) for i in range(3)]
    text = faults([layer("stem", 2, 8, 4), *readers])["D2E-SPECK-053", "stem"]
    assert "sends to 'r0', 'r1' and 'r2', 3 destinations, and can have 2" in text


def test_a_layer_that_reads_a_source_twice_takes_both_destinations() -> None:
    twice, other = layer("twice", 4, 8, 4, sources=["stem", "stem"]), layer("other", 4, 8, 4, sources=["stem"])
    assert assign([layer("stem", 2, 8, 4), twice], source="input")
    assert ("D2E-SPECK-053", "stem") in faults([layer("stem", 2, 8, 4), twice, other])


def test_a_branch_leaves_no_destination_for_parts() -> None:
    layers = [layer("stem", 2, 8, 4), layer("big", 4, 64, 32, sources=["stem"]), layer("small", 4, 8, 4, sources=["stem"])]
    assert "'stem' needs 3 destinations and can have 2" in faults(layers)["D2E-SPECK-051", "big"]


def test_more_layers_or_parts_than_cores() -> None:
    text = faults(queue(*(layer(f"l{i}", 1, 8, 4) for i in range(11))))["D2E-SPECK-052", None]
    assert "needs 11 cores, there are 9: it has 11 layers" in text
    text = faults(queue(layer("l0", 1, 64, 20), *(layer(f"l{i}", 1, 8, 4) for i in range(1, 9))))["D2E-SPECK-052", None]
    assert "needs 10 cores, there are 9: it has 9 layers, of which 'l0' takes 2" in text


def test_layers_that_fit_only_broken_cores() -> None:
    layers = queue(*(layer(f"l{i}", 4, 8, 4, bias=True) for i in range(8)), layer("plain", 4, 8, 4))
    text = faults(layers)["D2E-SPECK-054", "l0"]
    assert "(each 16 kernel words and 256 neuron words, with biases) fit cores 2, 3, 4, 5, 6, 7 and 8" in text
    assert "too few cores for these 8 layers" in text
    assert "With the cores 0 and 1 they would fit, but biases do not work there" in text
    assert "'plain'" not in text


def test_layers_that_compete_for_the_same_cores() -> None:
    """Three layers of 64Ki kernel words fit the cores 5 and 6 alone; 'narrow' is innocent."""
    heavy = [layer(f"h{i}", 64, 8, 64, kernel=4) for i in range(3)]
    layers = queue(layer("narrow", 2, 8, 64), *heavy, *(layer(f"s{i}", 64, 8, 8) for i in range(5)))
    text = faults(layers)["D2E-SPECK-055", "h0"]
    assert "'h0', 'h1' and 'h2' (each 64Ki kernel words and 4Ki neuron words) fit cores 5 and 6" in text
    assert "too few cores for these 3 layers" in text
    assert "Split they would fit, but need more cores than the other layers leave" in text
    assert "'narrow'" not in text


def test_all_layers_that_want_the_same_cores_are_named() -> None:
    """Five layers of 60Ki neuron words with biases have core 2 and parts of others; an irreducible set would be two."""
    layers = [layer("small", 2, 8, 4), *(layer(f"l{i}", 1, 64, 15, bias=True) for i in range(5))]
    text = faults(layers)["D2E-SPECK-054", "l0"]
    assert "'l0', 'l1', 'l2', 'l3' and 'l4' (each 16 kernel words and 60Ki neuron words, with biases) fit core 2" in text
    assert "too few cores for these 5 layers" in text
    assert "'small'" not in text


def test_a_split_that_would_help_but_for_fan_out() -> None:
    """Four layers of 64Ki neuron words for the cores 0 to 2; every source has both its destinations."""
    sources = ["input", "input", "l0", "l0"]
    layers = [layer(f"l{i}", 2, 64, 16, sources=[source]) for i, source in enumerate(sources)]
    assert assign(layers, source="input")  # the host reaches the parts of l0 or l1
    text = faults(layers, camera=True)["D2E-SPECK-055", "l0"]
    assert "'l0', 'l1', 'l2' and 'l3' (each 32 kernel words and 64Ki neuron words) fit cores 0, 1 and 2" in text
    assert "Split they would fit, but 'input' can have 2 destinations and 'l0' can have 2 destinations" in text


def test_every_finding_is_told_at_once() -> None:
    readers = [layer(f"r{i}", 4, 8, 4, sources=["stem"]) for i in range(3)]
    found = faults([layer("stem", 2, 8, 4), *readers, layer("big", 1, 64, 100), layer("huge", 300, 16, 1, kernel=16)])
    assert {code for code, _ in found} == {"D2E-SPECK-050", "D2E-SPECK-053"}
    assert {node for _, node in found} == {"stem", "big", "huge"}

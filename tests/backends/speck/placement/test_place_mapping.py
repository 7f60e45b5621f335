"""Layers on cores: the best assignment by brute force, biases on cores where they work, and splits that hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.backends.speck.placement.place_layers import layer, queue

from d2e.backends.speck.layer import Layer
from d2e.backends.speck.limits import CORES
from d2e.backends.speck.placement.mapping import Assignment, assign
from d2e.ir import UnsupportedError

KI = 1024
WORDS = [(16 * KI, 64 * KI)] * 3 + [(32 * KI, 32 * KI)] * 2 + [(64 * KI, 16 * KI)] * 2 + [(16 * KI, 16 * KI)] * 2
"""Kernel and neuron words of the cores, as the data sheet has them."""


def words(each: Layer, features: int) -> tuple[int, int]:
    """Kernel and neuron words of so many output features, once more from the data sheet."""
    up = [math.ceil(math.log2(n)) for n in (each.kernel_size**2, features, *each.output[1:])]
    return each.input[0] * 2 ** (up[0] + up[1]), features * 2 ** (up[2] + up[3])


def fits(each: Layer, core: int, features: int) -> bool:
    legal = each.bias is None or (core > 1 and features <= KI)
    return legal and all(need <= there for need, there in zip(words(each, features), WORDS[core], strict=True))


def cost(layers: Sequence[Layer], placed: Sequence[dict[int, int]], synops: dict[str, float]) -> tuple[Any, ...]:
    """The documented cost of core -> features per layer."""
    spots = [(each, core, features) for each, own in zip(layers, placed, strict=True) for core, features in own.items()]
    loads = [synops[each.name] * features / each.output[0] for each, core, features in spots if core > 1]
    waste = sum(sum(WORDS[core]) - sum(words(each, features)) for each, core, features in spots)
    outside = sum(each.bias is not None and core not in (3, 4) for each, core, _ in spots)
    return len(spots), outside, sorted((round(load, 6) for load in loads if load), reverse=True), waste


def chosen(found: Assignment, layers: Sequence[Layer]) -> list[dict[int, int]]:
    return [{part.layer: part.count for part in found.parts[each.name]} for each in layers]


@st.composite
def some_layers(draw: st.DrawFn, most: int, *, biases: bool = True) -> list[Layer]:
    kinds = st.tuples(st.sampled_from([1, 7, 16, 60]), st.sampled_from([1, 8, 20, 32, 64]), st.sampled_from([3, 8, 10, 16]),
                      st.sampled_from([1, 3, 5]), st.booleans() if biases else st.just(False))
    drawn = draw(st.lists(kinds, min_size=1, max_size=most))
    return queue(*(layer(f"l{i}", c, s, f, kernel=k, bias=b) for i, (c, s, f, k, b) in enumerate(drawn)))


def matched(layers: Sequence[Layer]) -> bool:
    """Whether every layer has a whole core of its own: Kuhn's augmenting paths."""
    owner: dict[int, int] = {}

    def take(i: int, seen: set[int]) -> bool:
        for core in range(9):
            if core not in seen and fits(layers[i], core, layers[i].output[0]):
                seen.add(core)
                if core not in owner or take(owner[core], seen):
                    owner[core] = i
                    return True
        return False

    return all(take(i, set()) for i in range(len(layers)))


# --------------------------------------------------------------------------- memory


def test_memory_of_published_examples() -> None:
    assert [(core.kernel, core.neuron) for core in CORES] == WORDS
    assert {core.bias for core in CORES} == {KI}
    assert sum(core.neuron for core in CORES) == 327_680  # neurons of the chip
    example = layer("conv", 16, 64, 32, kernel=3).memory  # sinabs documentation, docs/speck/overview.md
    assert (example.kernel, example.neuron, example.bias) == (8 * KI, 128 * KI, 0)
    odd = layer("odd", 3, 20, 10, kernel=5, bias=True).memory  # rounded up: 25 -> 32 taps, 10 -> 16 features, 20 -> 32 rows
    assert (odd.kernel, odd.neuron, odd.bias) == (3 * 32 * 16, 10 * 32 * 32, 10)


# --------------------------------------------------------------------------- the best assignment


@settings(max_examples=60, deadline=None)
@given(some_layers(4), st.booleans(), st.data())
def test_no_assignment_of_whole_layers_is_better(layers: list[Layer], known: bool, data: st.DataObject) -> None:
    loads = data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.5, 4.0, 9.0]), min_size=len(layers), max_size=len(layers)))
    activity = dict(zip((each.name for each in layers), loads, strict=True)) if known else None
    every = [
        [{core: each.output[0]} for core, each in zip(cores, layers, strict=True)]
        for cores in permutations(range(9), len(layers))
        if all(fits(each, core, each.output[0]) for core, each in zip(cores, layers, strict=True))
    ]
    assume(every)
    synops = activity or {each.name: each.synops for each in layers}
    found = chosen(assign(layers, source="input", activity=activity), layers)
    assert cost(layers, found, synops) == min(cost(layers, placed, synops) for placed in every)


def shares(each: Layer, cores: Sequence[int]) -> dict[int, int] | None:
    """Features one by one to the core that has fewest and still room; the larger core first, then the lower number."""
    room = {core: max((n for n in range(1, each.output[0] + 1) if fits(each, core, n)), default=0) for core in cores}
    given_ = dict.fromkeys(cores, 0)
    for _ in range(each.output[0]):
        open_ = [core for core in cores if given_[core] < room[core]]
        if not open_:
            return None
        given_[min(open_, key=lambda core: (given_[core], -room[core], core))] += 1
    return given_ if all(given_.values()) else None


def ways(layers: Sequence[Layer], counts: Sequence[int], free: frozenset[int]) -> Iterator[list[dict[int, int]]]:
    if not layers:
        yield []
        return
    for cores in combinations(sorted(free), counts[0]):
        own = shares(layers[0], cores)
        if own is not None:
            yield from ([own, *others] for others in ways(layers[1:], counts[1:], free - set(cores)))


@pytest.mark.parametrize(("first", "second"), [(20, 20), (9, 41), (33, 6), (17, 16)])
def test_no_split_is_better(first: int, second: int) -> None:
    """Maps of 64 x 64: 16 features on the cores 0 to 2, 8 on 3 and 4, 4 on the others; both read the host's input."""
    layers = [layer("a", 2, 64, first, bias=first == 33), layer("b", 1, 64, second)]
    synops = {each.name: float(each.synops) for each in layers}
    best = None
    for total in range(2, 7):
        every = [w for n in range(1, total) for w in ways(layers, (n, total - n), frozenset(range(9)))]
        if every:
            best = min(cost(layers, placed, synops) for placed in every)
            break
    found = chosen(assign(layers, source="input"), layers)
    assert cost(layers, found, synops) == best
    assert len(found[0]) + len(found[1]) > 2


def test_the_heaviest_layers_without_biases_work_in_parallel() -> None:
    layers = queue(*(layer(f"l{i}", 1, 8, 4) for i in range(5)))
    found = assign(layers, source="input", activity={"l0": 5, "l1": 90, "l2": 7, "l3": 80, "l4": 6})
    assert {found.parts[name][0].layer for name in ("l1", "l3")} == {0, 1}
    assert {used.population: round(used.load, 3) for used in found.cores}["l1"] == round(90 / 188, 3)


def test_small_layers_leave_the_large_cores_free() -> None:
    found = assign(queue(*(layer(f"l{i}", 1, 8, 4) for i in range(4))), source="input")
    assert sorted(used.core for used in found.cores) == [0, 1, 7, 8]


@settings(max_examples=60, deadline=None)
@given(some_layers(9, biases=False))
def test_whole_cores_are_found_wherever_a_matching_has_them(layers: list[Layer]) -> None:
    assume(matched(layers))
    assert all(len(parts) == 1 for parts in assign(layers, source="input").parts.values())


# --------------------------------------------------------------------------- biases


@settings(max_examples=40, deadline=None)
@given(some_layers(6))
def test_biases_are_never_on_the_cores_0_and_1(layers: list[Layer]) -> None:
    try:
        found = assign(layers, source="input")
    except UnsupportedError:
        assume(False)
    for each in layers:
        cores = {part.layer for part in found.parts[each.name]}
        assert each.bias is None or not cores & {0, 1}
        assert found.doubtful.get(each.name, ()) == (tuple(sorted(cores - {3, 4})) if each.bias is not None else ())


def test_two_layers_with_biases_have_the_cores_3_and_4() -> None:
    layers = queue(*(layer(f"l{i}", 4, 16, 8, bias=i in (0, 2)) for i in range(4)))
    found = assign(layers, source="input")
    assert {found.parts[name][0].layer for name in ("l0", "l2")} == {3, 4}
    assert not found.doubtful


def test_a_third_layer_with_biases_is_told() -> None:
    found = assign(queue(*(layer(f"l{i}", 4, 16, 8, bias=True) for i in range(3))), source="input")
    assert len(found.doubtful) == 1


# --------------------------------------------------------------------------- splits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([12, 16, 32, 64]), st.integers(1, 70), st.booleans()), min_size=1, max_size=5),
       st.booleans())
def test_parts_cover_every_feature_within_memory_and_fan_out(kinds: list[tuple[int, int, bool]], camera: bool) -> None:
    layers = queue(*(layer(f"l{i}", 2, size, features, bias=bias) for i, (size, features, bias) in enumerate(kinds)))
    try:
        found = assign(layers, source="input", camera=camera)
    except UnsupportedError:
        assume(False)
    used = [part.layer for parts in found.parts.values() for part in parts]
    assert sorted(used) == sorted(set(used)) == [each.core for each in found.cores]
    for each in layers:
        parts = found.parts[each.name]
        assert [f for part in parts for f in range(part.first, part.first + part.count)] == list(range(each.output[0]))
        assert all(fits(each, part.layer, part.count) for part in parts)
        assert len(parts) <= 2 or (each.links[0].source == "input" and not camera)
        # as even as memory allows: a part that is smaller by two or more is full
        most = max(part.count for part in parts)
        assert all(part.count >= most - 1 or not fits(each, part.layer, part.count + 1) for part in parts)
    for core in found.cores:
        whole = next(each for each in layers if each.name == core.population)
        own = whole.part(core.part.first, core.part.count).memory
        assert core.words == own


def test_a_large_layer_is_halved() -> None:
    found = assign(queue(layer("conv", 16, 64, 32, kernel=3), layer("next", 32, 8, 8)), source="input")
    assert [(part.first, part.count) for part in found.parts["conv"]] == [(0, 16), (16, 16)]


def test_splitting_makes_room_where_whole_layers_have_none() -> None:
    """Four layers fit only the cores 0 to 2; one of them goes to 3 and 4 in halves."""
    layers = queue(*(layer(f"l{i}", 1, 64, 16) for i in range(4)))
    found = assign(layers, source="input")
    assert not matched(layers)
    assert sorted(len(parts) for parts in found.parts.values()) == [1, 1, 1, 2]


def test_the_readout_block_reads_one_core_with_its_features_apart() -> None:
    layers = queue(layer("l0", 2, 8, 8), layer("out", 8, 1, 10))
    found = assign(layers, source="input", readout="out")
    part = found.parts["out"][0]
    assert (part.first, part.count, part.spread) == (0, 10, 4)
    words_ = next(used.words for used in found.cores if used.population == "out")
    assert words_.neuron == 4 * 9 + 1

"""Our configuration of a chain of layers beside the one that sinabs 3.1.3 writes of the same network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.backends.speck.sinabs_equality.chains import Chain, random_chain
from tests.backends.speck.sinabs_equality.rows import Row, of_d2e, of_sinabs

import d2e
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.lowering import configure, layers
from d2e.compiler.program import Program
from d2e.ir import UnsupportedError

DEVICE = "speck2fdevkit"
WRITTEN = [
    Chain("2x8x8 l4"), Chain("2x8x8 l6b l5 l4"), Chain("1x28x28 c6k5p2 a2 c16k5 a2 l10b"),
    Chain("2x34x34 c8k3p1 s2 c16k3p1 s2 c16k3p1 s2 l10"), Chain("2x16x16 c4k1 c4k2 c4k3p1 c4k4 c4k5p2 c4k6p3 c4k7p3"),
    Chain("1x32x32 c4k3p1 c4k3p1 c4k3p1 c4k3p1 c4k3p1 s2 c4k3p1 c4k3p1 s2 c4k3p1 l10"),  # nine layers
    Chain("2x64x48 c8k5s4,2p2,0 c8k3s1,2p0,1 a4 c5k1"), Chain("1x9x13 c3k3p1 s2 c4k3"),
    Chain("2x20x20 c4k5s2 a2 s2 c4k2 c3k1", reset="zero"), Chain("1x17x33 c4k7s1,4p3,0 s2 c3k2s1,2 c7k1b", v_min=-0.25),
    Chain("2x128x128 c2k4s4 s2 c8k3s2p1 a2 c4k4 c11k1", threshold=2.5), Chain("1x12x12 c32k3 c64k3p1 c10k1b"),
]
CAMERAS = [
    Chain("2x128x128 c4k5s2p2 a2 c8k3p1 a2 c8k3 a2 l4", camera=True), Chain("1x128x128 c3k2s2 s4 c4k3", camera=True),
    Chain("2x96x72 c4k8s4,2p2 c6k3", camera=True), Chain("2x128x128 s2 c2k3p1 s4 c4k3", camera=True),
    Chain("1x128x128 a4 c4k3p1 s4 l5 l2", camera=True),
]
CHAINS = [*WRITTEN, *CAMERAS, *map(random_chain, range(30))]
every_chain = pytest.mark.parametrize("chain", CHAINS, ids=str)


@cache
def compiled(chain: Chain) -> Program:
    target = "speck2f-sim{input=camera}" if chain.camera else "speck2f-sim"
    return d2e.compile(chain.d2e_model(), target=target, input_shape=chain.input_shape, time_steps=8)


@pytest.fixture
def both(build: Callable[[Chain], Any]) -> Callable[[Chain], tuple[list[Row], list[Row]]]:
    """``both(chain)``: our rows and sinabs', core by core along the chain."""

    def rows(chain: Chain) -> tuple[list[Row], list[Row]]:
        network, ours = build(chain), compiled(chain).network
        return of_d2e(configure(ours), layers(ours)), of_sinabs(network, network.make_config(device=DEVICE))

    return rows


@every_chain
def test_structure(chain: Chain, both: Callable[[Chain], tuple[list[Row], list[Row]]]) -> None:
    """Dimensions, stride, padding, destinations, pooling, reset, leak and words of memory are equal."""
    ours, theirs = both(chain)
    for own, other in zip(ours, theirs, strict=True):
        assert own.structure.differences(other.structure) == {}


@every_chain
def test_integers_are_at_least_as_near(chain: Chain, both: Callable[[Chain], tuple[list[Row], list[Row]]]) -> None:
    """Weights per threshold: the squared error is sinabs' or less; bias and floor are the nearest integers."""
    ours, theirs = both(chain)
    for own, other, (weight, bias) in zip(ours, theirs, chain.weights(), strict=True):
        wanted = _oriented(weight, own) / chain.threshold
        assert _error(own, wanted) <= _error(other, wanted) * (1 + 1e-5)
        unit = own.threshold_high / chain.threshold
        assert chain.v_min is not None
        assert abs(own.threshold_low - chain.v_min * unit) <= 0.5 + 1e-6
        if bias is not None:
            assert np.abs(own.biases - bias * unit).max() <= 0.5 + 1e-6


def _oriented(weight: np.ndarray, row: Row) -> np.ndarray:
    """Float weights as the chip's [f_out, f_in, x, y]."""
    features, x, y = row.structure.input_shape
    return weight.reshape(len(weight), features, y, x).swapaxes(2, 3) if weight.ndim == 2 else weight.swapaxes(2, 3)


def _error(row: Row, wanted: np.ndarray) -> float:
    return float(np.square(row.weights / row.threshold_high - wanted).sum() / np.square(wanted).sum())


@every_chain
def test_only_the_output_is_monitored(chain: Chain, build: Callable[[Chain], Any]) -> None:
    ours = configure(compiled(chain).network)
    theirs = build(chain).make_config(device=DEVICE)
    for chip in ours.cnn_layers.values(), dict(enumerate(theirs.cnn_layers)).values():
        assert sum(core.monitor_enable for core in chip) == 1
    (placed,) = ours.populations[ours.output].parts
    assert ours.cnn_layers[placed.layer].monitor_enable


@pytest.mark.parametrize("chain", CAMERAS, ids=str)
def test_camera(chain: Chain, build: Callable[[Chain], Any]) -> None:
    network = build(chain)
    theirs = network.make_config(device=DEVICE).dvs_layer
    ours = configure(compiled(chain).network)
    assert ours.dvs_layer is not None
    assert ours.dvs_layer.cut == (theirs.cut.x, theirs.cut.y)
    assert ours.dvs_layer.origin == (theirs.origin.x, theirs.origin.y)
    assert ours.dvs_layer.pooling == (theirs.pooling.x, theirs.pooling.y)
    assert ours.dvs_layer.merge == theirs.merge
    first = next(iter(ours.populations.values())).parts[0].layer
    assert [d.layer for d in ours.dvs_layer.destinations if d.enable] == [first]


@pytest.mark.parametrize(("text", "fits"), [
    ("2x64x64 c16k3p1 c16k3p1 c16k3p1", True),  # three maps of 64 Ki neurons: cores 0, 1 and 2
    ("2x8x8 c1024k1", True),  # 1024 features
    ("32x6x6 c128k3 c32k3p1", True),  # two layers of 64 Ki kernel words
    ("2x4x4 l9 l9 l9 l9 l9 l9 l9 l9 l9", True),  # nine layers
    ("2x4x4 l9 l9 l9 l9 l9 l9 l9 l9 l9 l9", False),  # ten
    ("1x4x4 c512k1 c512k3p1", False),  # 4096 Ki kernel words
    ("1x64x64 c128k3p1", False),  # 512 Ki neuron words
    ("1x64x64 c16k3p1 c16k3p1 c16k3p1 c16k3p1 c16k3p1 c16k3p1", False),  # six maps of 64 Ki neurons
    ("1x12x12 c128k3p1 c128k3p1 c128k3p1 c128k3p1", False),
])
def test_legality(text: str, fits: bool, build: Callable[[Chain], Any]) -> None:
    chain = Chain(text)
    assert build(chain).is_compatible_with(DEVICE) == fits
    assert _fits(chain) == fits


@pytest.mark.parametrize("text", ["1x64x64 c32k3p1", "1x64x64 c16k3p1 c16k3p1 c16k3p1 c16k3p1", "16x8x8 c256k5p2"])
def test_layers_too_large_for_a_core_are_cut(text: str, build: Callable[[Chain], Any]) -> None:
    """Networks sinabs has no mapping for: here a layer takes several cores, by its features."""
    chain = Chain(text)
    assert not build(chain).is_compatible_with(DEVICE)
    assert max(len(placed.parts) for placed in _configuration(chain).populations.values()) > 1


def test_biases_that_fit_broken_cores_alone_are_refused(build: Callable[[Chain], Any]) -> None:
    """Three biased maps of 64 Ki neurons fit the cores 0, 1 and 2; on 0 and 1 biases are reported broken."""
    chain = Chain("1x64x64 c16k3p1b c16k3p1b c16k3p1b c8k3p1b c8k3p1b")
    theirs = build(chain).make_config(device=DEVICE)
    assert [theirs.cnn_layers[core].leak_enable for core in (0, 1)] == [True, True]
    with pytest.raises(UnsupportedError, match="D2E-SPECK-054"):
        compiled(chain)


@pytest.mark.parametrize("seed", range(16))
def test_legality_of_random_chains(seed: int, build: Callable[[Chain], Any]) -> None:
    """What sinabs maps is placed whole; what it does not map is refused, or cut."""
    rng = np.random.default_rng(seed)
    side, depth = int(rng.choice([16, 32, 64])), int(rng.integers(1, 8))
    widths = 2 ** rng.integers(2, {16: 9, 32: 7, 64: 5}[side], depth)
    words = [f"c{width}k3p1{'b' * int(rng.random() < 0.3)}" for width in widths]
    chain = Chain(" ".join([f"2x{side}x{side}", *words]), seed=seed)
    whole = _fits(chain) and all(len(placed.parts) == 1 for placed in _configuration(chain).populations.values())
    assert whole == build(chain).is_compatible_with(DEVICE)


def _fits(chain: Chain) -> bool:
    try:
        compiled(chain)
    except UnsupportedError as error:
        if error.code.startswith("D2E-SPECK-05"):
            return False
        raise
    return True


def _configuration(chain: Chain) -> Configuration:
    return configure(compiled(chain).network)

"""quantise: exact properties of the integers it chooses, what it refuses, what it warns of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2e.backends.loihi2.limits import GRID
from d2e.backends.loihi2.map_neurons import MapNeurons
from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.notes import warnings
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.passes.quantise import Quantise
from d2e.ir import (
    IF,
    LI,
    LIF,
    Affine,
    Conv2d,
    CubaLIF,
    Edge,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Output,
    SumPool2d,
    UnsupportedError,
    UsageError,
    reference,
)

CHIP = TARGETS[0]
RNG = np.random.default_rng(7)
WEIGHT = RNG.normal(0.1, 0.4, (5, 3))


def between(neuron: Neuron, synapse: Node | None = None, shape: tuple[int, ...] = (3,), payload: int = 1) -> Network:
    nodes: dict[str, Node] = {
        "input": Input(shape=shape, max_payload=payload), "syn": synapse or Linear(weight=WEIGHT), "neuron": neuron,
        "output": Output(shape=neuron.shape),
    }
    return Network(nodes, (Edge("input", "syn"), Edge("syn", "neuron"), Edge("neuron", "output")))


def quantise(network: Network, **options: Any) -> Network:
    passes = [Canonicalise(), FoldThresholds(), Quantise(grid=GRID, **options)]
    return run_passes(passes, network, CHIP)[-1].network


def weight(network: Network, name: str = "syn") -> np.ndarray:
    array: np.ndarray = network.nodes[name].weight  # type: ignore[attr-defined]
    return array


def unit(network: Network, name: str = "neuron") -> float:
    mark = network.neuron(name).quantized
    assert mark is not None
    return float(mark.scale)


def spikes(*shape: int, steps: int = 20, rate: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(1).random((4, steps, *shape)) < rate).astype(np.int64)


NEURONS = {
    "soft": IF(shape=(5,), threshold=np.float64(0.93)),
    "hard": IF(shape=(5,), threshold=np.float64(0.93), reset="zero"),
    "leaky": LIF(shape=(5,), threshold=np.float64(0.93), reset="zero", decay_mem=np.float64(0.9)),
    "leaky soft": LIF(shape=(5,), threshold=np.float64(0.93), decay_mem=np.float64(0.9)),
    "current": CubaLIF(shape=(5,), threshold=np.float64(0.93), reset="zero",
                       decay_mem=np.float64(0.9), decay_syn=np.float64(0.7)),
}


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", ["max", "percentile", "mse", "spikes"])
@pytest.mark.parametrize("kind", NEURONS)
def test_the_threshold_is_exact_and_weights_lie_on_the_grid(kind: str, method: str, bits: int) -> None:
    calibration = spikes(3) if method == "spikes" else None
    try:
        after = quantise(between(NEURONS[kind]), weight_bits=bits, scale=method, calibration=calibration, compensate=False)
    except UnsupportedError as error:
        if bits > 2 or error.code not in ("D2E-QUANT-002", "D2E-QUANT-003"):
            raise
        return
    node, step = after.neuron("neuron"), unit(after)
    assert node.threshold.dtype.kind == "i"
    assert float(node.threshold) * step == pytest.approx(0.93, rel=1e-12)
    exponent = after.nodes["syn"].quantized.exponent  # type: ignore[attr-defined]
    assert exponent <= max(0, min(3, 6 - bits))
    assert (weight(after) % (1 << exponent) == 0).all()
    w, top, step = weight(after) >> exponent, (1 << (bits - 1)) - 1, step * (1 << exponent)
    assert w.dtype.kind == "i"
    assert -top - 1 <= w.min()
    assert w.max() <= top
    np.testing.assert_array_equal(w, np.clip(np.rint(WEIGHT / step), -top - 1, top))
    if node.reset == "subtract" and node.reset_when == "same":
        odd = int(node.threshold)
        while odd > 255:
            assert odd % 2 == 0, "a soft threshold is a mantissa of 8 bits and an exponent"
            odd //= 2
    if method == "max":
        assert np.abs(w * step - WEIGHT).max() <= step / 2 * (1 + 1e-9), "max keeps every weight"


def test_a_soft_threshold_far_above_its_weights_still_fits_a_synapse(tmp_path: Path) -> None:
    network = between(IF(shape=(5,), threshold=np.float64(1000)), Linear(weight=np.abs(WEIGHT) + 0.1))
    after = quantise(network, scale="max", time_steps=4)
    assert int(after.neuron("neuron").threshold) == 255 << 7
    CHIP.emit(MapNeurons().run(after, CHIP), tmp_path, time_steps=4)


def test_the_least_squares_unit_is_no_worse_than_the_others() -> None:
    rng = np.random.default_rng(0)
    outlier = np.where(rng.random((40, 30)) < 0.002, 3.0, rng.normal(0, 0.2, (40, 30)))
    error = {}
    for method in ("max", "percentile", "mse"):
        after = quantise(between(IF(shape=(40,)), Linear(weight=outlier), (30,)), weight_bits=4, scale=method)
        error[method] = float(np.square(weight(after) * unit(after) - outlier).sum())
    assert error["mse"] <= min(error.values())


def test_the_spike_search_is_no_worse_than_max_on_its_own_data() -> None:
    network = between(IF(shape=(5,), threshold=np.float64(0.7)), Affine(weight=WEIGHT, bias=np.full(5, 0.02)))
    frames = spikes(3)
    wanted = reference.run(network, frames).counts["neuron"]

    def error(**options: Any) -> int:
        after = quantise(network, weight_bits=3, **options)
        return int(np.abs(reference.run(after, frames).counts["neuron"] - wanted).sum())

    assert error(calibration=frames, scale="spikes", bias_correction=False) <= error(scale="max")


def test_decays_are_rounded_to_twelve_bits() -> None:
    node = quantise(between(NEURONS["current"])).neuron("neuron")
    assert [int(d) for d in node.decays if d is not None] == [round(0.7 * 4096), round(0.9 * 4096)]


def test_a_leaky_soft_reset_is_taken_after_the_decay() -> None:
    after = quantise(between(NEURONS["leaky soft"]))
    node = after.neuron("neuron")
    assert (node.reset_when, node.fire) == ("next", "gt")
    assert int(node.reset_by) == pytest.approx(0.9 * int(node.threshold), rel=0.005)
    w, frames = weight(after).astype(np.int64), spikes(3)
    keep, theta, amount = int(node.decays[1]), int(node.threshold) << 6, int(node.reset_by) << 6
    v, fired, expected = np.zeros((4, 5), np.int64), np.zeros((4, 5), np.int64), []
    for t in range(20):  # the declared meaning, by hand
        v = np.sign(v) * ((np.abs(v) * keep) >> 12) - fired * amount + ((frames[:, t] @ w.T) << 6)
        fired = (v > theta).astype(np.int64)
        expected.append(fired)
    assert np.any(expected)
    np.testing.assert_array_equal(reference.run(after, frames, "spikes").spikes["neuron"], np.stack(expected, 1))


def test_a_current_without_memory_is_rewritten_like_a_lif() -> None:
    node = CubaLIF(shape=(5,), decay_mem=np.float64(0.8), decay_syn=np.float64(0.0))
    assert quantise(between(node)).neuron("neuron").reset_when == "next"


@pytest.mark.parametrize(("node", "fire"), [
    (IF(shape=(5,)), "ge"), (LIF(shape=(5,), decay_mem=np.float64(1)), "ge"), (NEURONS["leaky"], "gt"),
    (CubaLIF(shape=(5,), decay_mem=np.float64(1), decay_syn=np.float64(0.5), reset="zero"), "gt"),
    (IF(shape=(5,), reset="zero", bias=np.float64(0.01234)), "gt"), (IF(shape=(5,), fire="gt"), "gt"),
], ids=["if", "no leak", "leak", "current", "fine bias", "gt"])
def test_greater_or_equal_stays_where_states_are_whole(node: Neuron, fire: str) -> None:
    assert quantise(between(node)).neuron("neuron").fire == fire


@pytest.mark.parametrize("size", [0.003, 0.3, 30.0, 900.0])
def test_biases_are_a_mantissa_and_the_finest_exponent(size: float) -> None:
    bias = np.array([1.0, -0.5, 0.123, 0.9, 0.01]) * size
    network = between(LIF(shape=(5,), decay_mem=np.float64(0.9), reset="zero", bias=bias, threshold=np.float64(2)))
    after = quantise(network, scale="max")
    found, wanted = after.neuron("neuron").bias, bias / unit(after) * 64
    exponents = [e for e in range(8) if np.abs(wanted).max() / (1 << e) <= 4095.5]
    if not exponents:
        assert np.abs(found - wanted).max() <= 0.5  # the chip's rules name it
        return
    assert (found % (1 << exponents[0]) == 0).all()
    assert np.abs(found - wanted).max() <= (1 << exponents[0]) / 2
    assert np.abs(found >> exponents[0]).max() <= 4095


def test_the_bias_of_a_soft_reset_is_whole_weight_units() -> None:
    after = quantise(between(IF(shape=(5,), bias=np.array([0.1, 0.2, -0.3, 0.0, 0.05]))))
    found = after.neuron("neuron").bias
    assert (found % 64 == 0).all()
    assert np.abs(found / 64 * unit(after) - [0.1, 0.2, -0.3, 0.0, 0.05]).max() <= unit(after) / 2


def test_sums_over_windows_weigh_as_much_as_they_did() -> None:
    pool = SumPool2d(kernel_size=(2, 2), stride=(2, 2))
    network = between(IF(shape=(2, 2, 2), threshold=np.float64(2.5)), pool, (2, 4, 4))
    after, frames = quantise(network), spikes(2, 4, 4)
    a, b = (reference.run(n, frames, "spikes").spikes["neuron"] for n in (network, after))
    assert a.any()
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weights_on_a_grid_stay_what_they_are(bits: int, dtype: type) -> None:
    top = (1 << (bits - 1)) - 1
    steps = np.random.default_rng(bits).integers(-top, top + 1, (5, 3))
    after = quantise(between(IF(shape=(5,), threshold=np.float64(0.35 * 5)), Linear(weight=(steps * 0.35).astype(dtype))),
                     weight_bits=bits)
    np.testing.assert_allclose(weight(after) * unit(after), steps * 0.35, atol=1e-5)


def test_a_bias_without_weights_is_kept() -> None:
    after = quantise(between(IF(shape=(5,), bias=np.full(5, 0.26), reset="zero"), Linear(weight=np.zeros((5, 3)))))
    assert int(reference.run(after, spikes(3)).counts["neuron"].min()) == 5


def test_bias_correction_cancels_the_mean_error_of_each_channel() -> None:
    conv = Conv2d(weight=RNG.normal(0.1, 0.3, (3, 2, 2, 2)), bias=np.array([0.1, 0.2, -0.1]))
    network, frames = between(IF(shape=(3, 3, 3), reset="zero"), conv, (2, 4, 4)), spikes(2, 4, 4)
    off = quantise(network, weight_bits=3, scale="max", calibration=frames, bias_correction=False)
    on = quantise(network, weight_bits=3, scale="max", calibration=frames)

    def error(after: Network) -> np.ndarray:
        from d2e.compiler import activity

        float_network = run_passes([Canonicalise(), FoldThresholds()], network, CHIP)[-1].network
        seen = activity.observe(float_network, frames)
        missing = activity.mean_input_error(float_network, after, "neuron", unit(after), seen, seen)
        change = after.neuron("neuron").bias / 64 * unit(after) - np.array([0.1, 0.2, -0.1]).reshape(3, 1, 1)
        return np.abs(missing - change)

    assert error(on).max() <= unit(on) / 2
    assert error(on).max() < error(off).max()


def test_levels_are_integers_and_the_largest_is_exact() -> None:
    node = MultiThreshold(shape=(5,), levels=np.array([0.4, 0.8, 1.6]), signed=True)
    after = quantise(between(node)).neuron("neuron")
    assert isinstance(after, MultiThreshold)
    assert after.levels.dtype.kind == "i"
    assert float(after.levels[-1]) * float(after.quantized.scale) == pytest.approx(1.6)  # type: ignore[union-attr]


def test_a_readout_has_no_threshold_to_divide() -> None:
    after = quantise(between(LI(shape=(5,), decay_mem=np.float64(0.9))), scale="max")
    assert np.abs(weight(after)).max() == 127
    output = reference.run(after, spikes(3)).output / 64 * unit(after)
    wanted = reference.run(between(LI(shape=(5,), decay_mem=np.float64(0.9))), spikes(3)).output
    assert np.abs(output - wanted).max() < 0.02 * np.abs(wanted).max()


# --------------------------------------------------------------------------- refused


def refused(network: Network, **options: Any) -> UnsupportedError:
    with pytest.raises(UnsupportedError) as caught:
        quantise(network, **options)
    assert caught.value.node == "neuron"
    assert caught.value.hint
    return caught.value


def test_a_layer_without_weights_is_told() -> None:
    assert refused(between(IF(shape=(5,)), Linear(weight=np.zeros((5, 3))))).code == "D2E-QUANT-001"


def test_weights_that_vanish_beside_the_threshold_are_told() -> None:
    network = between(IF(shape=(5,), threshold=np.float64(1e6)), Linear(weight=np.full((5, 3), 0.1)))
    error = refused(network)
    assert error.code == "D2E-QUANT-001"
    assert "round to zero beside a threshold of 1e+06" in error.message


def test_a_layer_that_falls_silent_is_told() -> None:
    weights = np.concatenate([np.full((5, 8), 0.2), np.full((5, 1), -30.0)], axis=1)
    frames = np.ones((2, 20, 9), np.int64)
    frames[:, :, 8] = 0
    network = between(IF(shape=(5,)), Linear(weight=weights), (9,))
    error = refused(network, weight_bits=4, scale="max", calibration=frames, compensate=False)
    assert error.code == "D2E-QUANT-002"


def test_a_layer_that_saturates_is_told() -> None:
    weights = np.concatenate([np.full((5, 8), -1.2), np.full((5, 1), 32.0)], axis=1)  # the brakes round away
    network = between(IF(shape=(5,), threshold=np.float64(26)), Linear(weight=weights), (9,))
    frames = np.ones((2, 20, 9), np.int64)
    assert reference.run(network, frames).counts["neuron"].mean() / 20 < 0.9
    assert refused(network, weight_bits=2, scale="max", calibration=frames).code == "D2E-QUANT-003"


def test_one_steps_input_beyond_the_accumulator_is_told() -> None:
    network = between(IF(shape=(5,)), Linear(weight=np.ones((5, 400))), (400,), payload=255)
    assert refused(network, scale="max").code == "D2E-RANGE-001"
    narrower = between(IF(shape=(5,)), Linear(weight=np.ones((5, 40))), (40,), payload=255)
    assert [w["code"] for w in warnings(quantise(narrower, scale="max"))] == ["D2E-RANGE-003"]


def test_a_state_that_may_overflow_is_a_warning_with_its_bound() -> None:
    network = between(IF(shape=(5,), threshold=np.float64(1)), Linear(weight=np.ones((5, 3))))
    assert warnings(quantise(network, scale="max", time_steps=8)) == []
    long, unknown = quantise(network, scale="max", time_steps=800), quantise(network, scale="max")
    (found,) = warnings(long)
    assert (found["code"], found["node"]) == ("D2E-RANGE-003", "neuron")
    assert "state reaches 304,800 weight units and wraps beyond 131,072" in found["message"]
    assert "without limit" in warnings(unknown)[0]["message"]


@pytest.mark.parametrize(("options", "code"), [
    ({"weight_bits": 0}, "D2E-USE-003"), ({"weight_bits": 9}, "D2E-USE-003"), ({"scale": "spikes"}, "D2E-USE-004"),
    ({"scale": "best"}, "D2E-USE-012"), ({"percentile": 101.0}, "D2E-USE-012"), ({"percentile": 0.0}, "D2E-USE-012"),
])
def test_options_out_of_range_are_told(options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        Quantise(grid=GRID, **options)
    assert caught.value.code == code

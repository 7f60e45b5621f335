"""encode-input and the options around it: real-valued input as payloads of the chip, from scale to every engine."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import d2e
from d2e.compiler.data import Data, fit
from d2e.compiler.encoders import clipped_share
from d2e.compiler.notes import warnings
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.encode_input import EncodeInput
from d2e.compiler.passes.manager import run_passes
from d2e.compiler.target import find
from d2e.ir import (
    IF,
    LI,
    LIF,
    AvgPool2d,
    Conv2d,
    CubaLIF,
    D2EError,
    Delay,
    Edge,
    Encoder,
    Flatten,
    Input,
    Linear,
    Network,
    Node,
    Output,
    SumPool2d,
    UnsupportedError,
    UsageError,
    chain,
    reference,
)

CHIP = find("loihi2-sim")
STEPS = 6


def dense(seed: int = 0, **source: Any) -> Network:
    rng = np.random.default_rng(seed)
    options = {"shape": (5,), "coding": "direct", "time_steps": STEPS} | source
    return chain([
        ("in", Input(**options)), ("fc", Linear(weight=rng.normal(0, 0.5, (7, 5)))),
        ("n", IF(shape=(7,), bias=rng.normal(0, 0.1, 7))), ("out", Output(shape=(7,))),
    ])


def conv(seed: int, image: tuple[int, ...] = (2, 6, 6)) -> Network:
    """Two convolutions and a dense layer, a skip from the input, options drawn from the seed."""
    rng = np.random.default_rng(seed)

    def neuron(*shape: int) -> Node:
        kind = int(rng.integers(3))
        reset: Any = str(rng.choice(["zero", "subtract"]))
        if kind == 0:
            return IF(shape=shape, reset=reset)
        if kind == 1:
            return LIF(shape=shape, decay_mem=0.8, reset=reset)
        return CubaLIF(shape=shape, decay_mem=0.7, decay_syn=0.3, reset="zero")

    nodes: dict[str, Node] = {
        "in": Input(shape=image, coding="direct", time_steps=STEPS),
        "pool": (AvgPool2d, SumPool2d)[seed % 2](kernel_size=(2, 2), stride=(2, 2)),
        "c1": Conv2d(weight=rng.normal(0, 0.4, (3, 2, 3, 3)), bias=rng.normal(0, 0.1, 3), padding=(1, 1)),
        "n1": neuron(3, 3, 3), "flat": Flatten(), "fc": Linear(weight=rng.normal(0.05, 0.3, (4, 27))),
        "n2": neuron(4), "skip_flat": Flatten(), "late": Delay(steps=1),
        "skip": Linear(weight=rng.normal(0, 0.1, (4, 72))), "out": Output(shape=(4,)),
    }
    line = ["in", "pool", "c1", "n1", "flat", "fc", "n2", "out"]
    skip = ["in", "skip_flat", "late", "skip", "n2"]
    return Network(nodes, tuple(Edge(a, b) for way in (line, skip) for a, b in pairwise(way)))


def encoded(network: Network, **options: Any) -> Network:
    return run_passes([Canonicalise(), EncodeInput(**options)], network, CHIP)[-1].network


def codes(network: Network) -> list[str]:
    return [w["code"] for w in warnings(network)]


# ----- the scale


@pytest.mark.parametrize(("options", "coding", "largest", "scale"), [
    ({"low": 0.0, "high": 1.0}, "spikes", 255, 1 / 255), ({"low": 0.0, "high": 1.0, "bits": 4}, "spikes", 15, 1 / 15),
    ({"low": -1.0, "high": 0.5}, "signed", 127, 1 / 127), ({"low": -0.5, "high": 2.0, "bits": 2}, "signed", 1, 2.0),
    ({"low": 0.5, "high": 2.0, "bits": 1}, "spikes", 1, 2.0),
    ({"low": 0.0, "high": 1.0, "bits": 16}, "spikes", 65535, 1 / 65535),
])
def test_a_stated_range_gives_the_scale(options, coding, largest, scale):
    after = encoded(dense(), **options)
    source = after.input
    assert (source.coding, source.max_payload) == (coding, largest)
    assert source.encoder is not None
    assert source.encoder.scale == pytest.approx(scale)
    weight = after.nodes["fc"].weight  # type: ignore[attr-defined]
    np.testing.assert_allclose(weight, dense().nodes["fc"].weight * scale)  # type: ignore[attr-defined]


def test_the_range_is_that_of_the_calibration_data():
    frames = np.random.default_rng(0).uniform(-0.3, 0.9, (4, STEPS, 5))
    source = encoded(dense(), calibration=frames).input
    assert source.coding == "signed"
    assert source.encoder is not None
    assert source.max_payload * source.encoder.scale == pytest.approx(frames.max())


def test_data_on_a_grid_lose_nothing():
    frames = np.random.default_rng(0).integers(0, 17, (4, STEPS, 5)) / np.float32(16)
    after = encoded(dense(), calibration=frames)
    assert (after.input.max_payload, after.input.coding) == (240, "spikes")  # the most up to 255 that 16 divides
    assert_array_equal(reference.check_frames(after, frames), (frames * 240).astype(int))
    assert encoded(dense(), calibration=frames, low=0.0, high=1.0, bits=5).input.max_payload == 16
    assert encoded(dense(), calibration=frames, low=0.0, high=1.0, bits=4).input.max_payload == 15


def test_a_percentile_clips_outliers_and_says_so():
    frames = np.random.default_rng(0).uniform(0, 1, (10, STEPS, 5))
    frames[0, 0, 0] = 50.0
    after = encoded(dense(), calibration=frames, percentile=99.0)
    assert after.input.encoder is not None
    assert after.input.max_payload * after.input.encoder.scale < 1
    assert codes(after) == ["D2E-ENC-005"]
    assert "of the calibration data" in warnings(after)[0]["message"]


def test_the_share_of_clipped_evaluation_data_is_measured():
    frames = np.full((10, STEPS, 5), 0.5)
    beyond = frames.copy()
    beyond[:, :, 0] = 2.0
    after = encoded(dense(), low=0.0, high=1.0, evaluation=beyond)
    assert codes(after) == ["D2E-ENC-005"]
    assert warnings(after)[0]["message"].startswith("20 % of the values of the evaluation data")
    assert "0 to 1" in warnings(after)[0]["message"]
    assert clipped_share(after, beyond) == 0.2
    assert clipped_share(after, frames) == 0
    assert clipped_share(after, beyond.astype(int)) == 0  # integers are payloads
    spiking = dense(coding="spikes", encoder=Encoder("rate", np.float64(1.0)))
    assert codes(encoded(spiking, evaluation=beyond)) == ["D2E-ENC-005"]


@pytest.mark.parametrize(("options", "code"), [
    ({}, "D2E-ENC-004"), ({"low": 0.0}, "D2E-ENC-004"), ({"calibration": np.zeros((1, STEPS, 5))}, "D2E-ENC-004"),
    ({"low": 0.0, "high": 1.0, "bits": 17}, "D2E-ENC-006"), ({"low": -1.0, "high": 1.0, "bits": 1}, "D2E-ENC-006"),
    ({"low": 0.0, "high": 1.0, "percentile": 0.0}, "D2E-ENC-006"),
])
def test_what_cannot_be_encoded(options, code):
    with pytest.raises(UsageError) as caught:
        encoded(dense(), **options)
    assert caught.value.code == code


def test_a_target_states_its_width_and_whether_it_takes_signs():
    assert encoded(dense(), low=0.0, high=1.0, widest=3).input.max_payload == 7
    assert encoded(dense(), low=0.0, high=1.0, widest=3, bits=5, signed=False).input.max_payload == 31
    for options in ({"low": -0.5, "high": 1.0}, {"calibration": np.linspace(-1, 1, 20).reshape(2, 2, 5)}):
        with pytest.raises(UnsupportedError, match="D2E-ENC-008") as caught:
            encoded(dense(), signed=False, **options)
        assert CHIP.name in str(caught.value)
        assert ">= 0" in str(caught.value.hint)


# ----- what it computes


@pytest.mark.parametrize("seed", range(20))
def test_values_on_the_grid_give_the_same_spikes(seed):
    """Rounding of the input is all that changes: where there is none, nothing changes."""
    network = run_passes([Canonicalise()], conv(seed), CHIP)[-1].network
    frames = np.random.default_rng(seed).integers(-127, 128, (3, STEPS, 2, 6, 6)) * 0.01
    after = EncodeInput(low=-1.27, high=1.27).run(network, CHIP)
    before, now = reference.run(network, frames, "spikes"), reference.run(after, frames, "spikes")
    for name in network.populations:
        assert_array_equal(before.spikes[name], now.spikes[name])


def test_payloads_get_fewer_bits_where_states_would_outgrow_the_chip():
    """Weights of one sign and no spikes: v grows to minus T times the drive, which the chip's 24 bits must hold."""
    network = chain([
        ("in", Input(shape=(4,), coding="direct", time_steps=50)), ("fc", Linear(weight=np.full((2, 4), -1.0))),
        ("n", IF(shape=(2,))), ("out", Output(shape=(2,))),
    ])
    frames = np.random.default_rng(0).uniform(0.9, 1.0, (3, 50, 4))
    after = encoded(network, calibration=frames, state_max=1 << 17)
    # peak = 4 * about 0.95 * 50 + 1; room = 2**16 / (peak * 127)
    assert after.input.max_payload == 2
    assert codes(after) == ["D2E-ENC-007"]
    assert encoded(network, calibration=frames, state_max=1 << 17, bits=8).input.max_payload == 255
    assert encoded(network, calibration=frames).input.max_payload == 255
    fewer = encoded(network, calibration=frames, state_max=1 << 17, weight_bits=4).input.max_payload
    assert fewer in (46, 47, 48, 49, 50)
    assert encoded(network, calibration=frames, state_max=1 << 17, weight_bits=1).input.max_payload >= fewer


# ----- the whole pipeline


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["direct", "first"])
def test_engines_agree_on_real_values(seed, kind):
    network, rng = conv(seed), np.random.default_rng(seed)
    images = rng.uniform(-0.2 if seed % 2 else 0, 1, (5, 2, 6, 6))
    program = d2e.compile(network, encoder=kind, calibration=images, eval=(images, np.zeros(5, np.int64)))
    sim = program.run(images, record="state")
    for other in (program.run(images, record="state", engine="reference"),
                  program.run(reference.check_frames(program.network, images), record="state")):
        assert_array_equal(sim.output, other.output)
        for name in network.populations:
            assert_array_equal(sim.v[name], other.v[name])
            assert_array_equal(sim.spikes[name], other.spikes[name])
    rows = [row["pass"] for row in program.report["accuracy"]["passes"]]
    assert "encode-input" in rows
    source = reference.run(network.with_nodes({"in": Input(
        shape=(2, 6, 6), coding="direct", time_steps=STEPS, encoder=Encoder(kind))}), images)  # type: ignore[arg-type]
    gap = sum(int(np.abs(sim.counts[n] - source.counts[n]).sum()) for n in network.populations)
    assert gap <= 0.1 * sum(int(c.sum()) for c in source.counts.values()) + 5


@pytest.mark.parametrize("text", ["rate", "bernoulli{seed=3}", "ttfs", "latency", "ttfs-strict", "phase", "latency{latch}"])
def test_spiking_encoders_cost_nothing(text):
    """The source network sees the same spikes as the program."""
    images = np.random.default_rng(1).random((6, 5))
    program = d2e.compile(dense(coding="spikes"), encoder=text, calibration=images, eval=(images, np.arange(6)))
    kind, _, seed = text.partition("{")
    encoder = program.network.input.encoder
    assert encoder is not None
    assert (encoder.kind, encoder.seed) == (kind, 3 if seed.startswith("seed") else 0)
    assert encoder.scale == 1.0
    rows = {row["pass"]: row for row in program.report["accuracy"]["passes"]}
    assert rows["encode-input"]["max_count_error"] == 0
    frames = encoder.encode(encoder.spread(images, STEPS), 0, 1)
    assert_array_equal(program.run(images).counts["n"], program.run(frames).counts["n"])
    assert program.measure((images, np.arange(6))).accuracy == program.report["accuracy"]["program"]


def test_range_and_sign_of_a_spiking_encoder():
    program = d2e.compile(dense(coding="spikes", max_payload=3), encoder="rate", input_range=(-255, 255))
    source = program.network.input
    assert source.encoder is not None
    assert (source.coding, source.max_payload, float(source.encoder.scale)) == ("signed", 3, 85.0)


def test_a_program_keeps_its_encoder(tmp_path: Path):
    images = (np.random.default_rng(0).random((12, 5)) * 255).astype(np.uint8)
    labels = np.arange(12) % 7
    program = d2e.compile(dense(), calibration=images, eval=(images, labels), output=str(tmp_path / "p"))
    again = d2e.load(tmp_path / "p")
    assert again.network.same(program.network)
    real = images.astype(np.float32)
    assert_array_equal(again.run(real).output, program.run(real).output)
    assert again.measure((images, labels)).accuracy == program.report["accuracy"]["program"]
    report = again.evaluate((np.repeat(images[:, None], STEPS, axis=1), labels))
    assert report["accuracy"]["program"] == program.report["accuracy"]["program"]
    with pytest.raises(UsageError, match="D2E-ENC-002"):
        again.run(images)
    beyond = [w["message"] for w in again.evaluate((real * 10, labels))["warnings"] if w["code"] == "D2E-ENC-005"]
    assert len(beyond) == 1
    assert "of the data given lie beyond" in beyond[0]


@pytest.mark.parametrize(("network", "options", "code"), [
    (dense(), {}, "D2E-ENC-004"), (dense(), {"encoder": "morse"}, "D2E-ENC-006"),
    (dense(), {"encoder": "rate{seed=3}"}, "D2E-ENC-006"), (dense(), {"encoder": "rate", "coding": "direct"}, "D2E-ENC-006"),
    (dense(), {"input_range": (1.0, 0.0)}, "D2E-ENC-006"), (dense(), {"input_range": (0.0, np.inf)}, "D2E-ENC-006"),
    (dense(), {"input_range": (0.0, 1.0, 2.0)}, "D2E-ENC-006"),
    (dense(coding="spikes"), {"input_range": (0.0, 1.0)}, "D2E-ENC-006"),
    (dense(), {"input_range": (0.0, 1.0), "input_bits": 17}, "D2E-ENC-006"),
    (dense(time_steps=None), {"calibration": np.ones((3, 5))}, "D2E-ENC-001"),
    (dense(), {"encoder": "ttfs", "eval": (np.random.default_rng(0).random((2, STEPS, 5)), np.arange(2))}, "D2E-ENC-003"),
    (dense(), {"calibration": np.ones((3, 4))}, "D2E-INPUT-001"),
])
def test_faults_of_the_options(network, options, code):
    with pytest.raises(D2EError) as caught:
        d2e.compile(network, **options)
    assert caught.value.code == code


@pytest.mark.lava
@pytest.mark.parametrize(("seed", "kind"), [(0, "direct"), (1, "direct"), (2, "first"), (3, "rate"), (4, "ttfs")])
@pytest.mark.usefixtures("lava_python")
def test_lava_agrees(seed, kind):
    images = np.random.default_rng(seed).uniform(-0.3 if seed == 1 else 0, 1, (3, 2, 6, 6))
    program = d2e.compile(conv(seed), encoder=kind, calibration=images)
    sim, lava = (program.run(images, engine=e, record="state") for e in ("loihi2-sim", "loihi2-lava"))
    assert_array_equal(sim.output, lava.output)
    for name in sim.v:
        assert_array_equal(sim.spikes[name], lava.spikes[name])
        assert_array_equal(sim.u[name], lava.u[name])
        assert_array_equal(sim.v[name], lava.v[name])


# ----- data


def test_data_sets_hold_what_the_model_was_trained_on():
    pixels = np.arange(10, dtype=np.uint8).reshape(2, 5)
    real = fit(Data(pixels), dense())
    assert real.frames.shape == (2, STEPS, 5)
    assert real.frames.dtype == np.float32
    lowered = dense(coding="spikes", max_payload=255, encoder=Encoder("direct", np.float64(2.0)))
    kept = fit(Data(np.repeat(pixels[:, None], STEPS, axis=1)), lowered)
    assert kept.frames.dtype.kind == "f"
    assert reference.check_frames(lowered, kept.frames)[1, 0].tolist() == [2, 3, 4, 4, 4]
    again = fit(kept, lowered)
    assert_array_equal(again.frames, kept.frames)
    spikes = fit(Data(np.ones((2, STEPS, 5), np.int64)), dense(coding="spikes", encoder=Encoder("ttfs", np.float64(1.0))))
    assert spikes.frames.dtype.kind == "i"


def test_a_readout_of_real_values():
    network = chain([
        ("in", Input(shape=(3,), coding="direct", time_steps=4)), ("fc", Linear(weight=np.array([[0.5, -0.25, 1.0]]))),
        ("li", LI(shape=(1,), decay_mem=np.float64(0.5))), ("out", Output(shape=(1,), readout="last")),
    ])
    images = np.random.default_rng(0).uniform(-1, 1, (6, 3))
    program = d2e.compile(network, calibration=images)
    mark = program.network.neuron("li").quantized
    assert mark is not None
    expected = reference.run(network, images).output
    np.testing.assert_allclose(program.run(images).output * float(mark.scale) / 64, expected, atol=0.05)

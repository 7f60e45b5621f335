"""The latch on the chip: what the encoder would send at every step is held there, bit for bit alike, from plain events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d2e
from d2e.compiler.data import Data, fit
from d2e.compiler.passes.latch_input import LATCH, LatchInput
from d2e.compiler.paths import paths_from
from d2e.compiler.target import find
from d2e.ir import (
    IF,
    LI,
    LIF,
    Affine,
    AvgPool2d,
    Conv2d,
    CubaLIF,
    Edge,
    Encoder,
    Flatten,
    Input,
    Linear,
    Network,
    Neuron,
    Output,
    UsageError,
    reference,
    verified,
)
from d2e.ir.encoding import LATCHING

STEPS = 6
PASSES = ",".join(each.name for each in find("loihi2-sim").pipeline({}))
ON_HOST = PASSES.replace("latch-input", "latch-input{chip=false}")


def network(first: Neuron, seed: int = 0, branch: str = "none", **source: Any) -> Network:
    """Convolution with padding and bias, the first population, a dense layer of IF; ``branch``: a path besides."""
    rng = np.random.default_rng(seed)
    entry = Input(**{
        "shape": (2, 4, 4), "time_steps": STEPS, "encoder": Encoder("ttfs", np.float64(1.0), latch=True), **source})
    nodes = {
        "in": entry, "conv": Conv2d(weight=rng.normal(0.1, 0.3, (3, 2, 3, 3)), bias=rng.normal(0, 0.1, 3), padding=(1, 1)),
        "pool": AvgPool2d(kernel_size=(2, 2), stride=(2, 2)), "first": replace(first, shape=(3, 2, 2)),
        "flat": Flatten(), "dense": Affine(weight=rng.normal(0.1, 0.4, (4, 12)), bias=rng.normal(0, 0.1, 4)),
        "last": IF(shape=(4,)), "out": Output(shape=(4,)),
        "around": Flatten(), "skip": Linear(weight=rng.normal(0.1, 0.3, (4, 32))),
        "back": Conv2d(weight=rng.normal(0, 0.2, (3, 3, 1, 1))),
    }
    edges = [Edge(a, b) for a, b in zip(list(nodes)[:7], list(nodes)[1:8], strict=True)]
    if branch == "skip":  # a population that hears the input and another one
        edges += [Edge("in", "around"), Edge("around", "skip"), Edge("skip", "last")]
    if branch == "back":  # the first population also hears itself
        edges += [Edge("first", "back", True), Edge("back", "first")]
    used = {name for edge in edges for name in edge[:2]}
    return verified(Network({n: node for n, node in nodes.items() if n in used}, tuple(edges)))


HOLDING = [IF(shape=(1,), reset="zero"), IF(shape=(1,), reset="zero", fire="gt", bias=np.float64(0.05)),
           LIF(shape=(1,), reset="zero", decay_mem=np.float64(0.8)), IF(shape=(1,), reset="value", v_reset=np.float64(-0.1)),
           CubaLIF(shape=(1,), reset="zero", decay_syn=np.float64(0.0), decay_mem=np.float64(0.5), fire="gt")]
OTHERS = [IF(shape=(1,)), IF(shape=(1,), reset="none"), LIF(shape=(1,), decay_mem=np.float64(0.7), reset_when="next"),
          CubaLIF(shape=(1,), reset="zero", decay_syn=np.float64(0.5), decay_mem=np.float64(0.9)),
          IF(shape=(1,), max_spikes=3)]


def both(source: Network) -> tuple[d2e.Program, d2e.Program]:
    """The program with its latch on the chip, and the one whose host sends every event again."""
    return d2e.compile(source), d2e.compile(source, passes=ON_HOST)


def events(program: d2e.Program, images: np.ndarray) -> np.ndarray:
    return reference.check_frames(program.network, images)


def check(source: Network, images: np.ndarray) -> d2e.Program:
    """The chip's latch gives the host's results, from the plain encoder's events, in the simulator and the reference."""
    chip, host = both(source)
    found, expected = chip.run(images, record="spikes"), host.run(images, record="spikes")
    plainly = chip.run(images, engine="reference", record="spikes")
    for result in (found, plainly):
        np.testing.assert_array_equal(result.output, expected.output)
        for name in expected.spikes:
            np.testing.assert_array_equal(result.spikes[name], expected.spikes[name])
    encoder = source.input.encoder
    assert encoder is not None
    low = -source.input.max_payload if source.input.coding == "signed" else 0
    assert host.network.input.encoder is not None
    assert host.network.input.encoder.latch
    plain = replace(encoder, latch=False)
    np.testing.assert_array_equal(
        events(chip, images), plain.encode(plain.spread(images, STEPS), low, source.input.max_payload))
    assert np.abs(events(chip, images)).sum() < np.abs(events(host, images)).sum()
    return chip


@settings(max_examples=15)
@given(st.sampled_from(HOLDING), st.sampled_from(LATCHING), st.integers(0, 2**32), st.sampled_from([1, 3]), st.booleans())
def test_a_hard_reset_holds_its_current(first: Neuron, kind: Any, seed: int, payload: int, signed: bool) -> None:
    source = network(first, seed, max_payload=payload, coding="signed" if signed else "spikes",
                     encoder=Encoder(kind, np.float64(1 / payload), latch=True))
    images = np.random.default_rng(seed).uniform(-1 if signed else 0, 1, (5, 2, 4, 4))
    images.flat[:2] = 0.9  # something fires before the last step
    chip = check(source, images)
    node = chip.network.neuron("first")
    assert isinstance(node, CubaLIF)
    assert node.decay_syn == 4096
    assert not any(n.metadata.get(LATCH) for n in chip.network.nodes.values())
    assert "D2E-ENC-009" not in {w["code"] for w in chip.report["warnings"]}


@settings(max_examples=15)
@given(st.sampled_from(OTHERS), st.sampled_from(LATCHING), st.integers(0, 2**32), st.sampled_from(["none", "skip", "back"]))
def test_others_get_a_population_that_holds_the_input(first: Neuron, kind: Any, seed: int, branch: str) -> None:
    source = network(first, seed, branch, encoder=Encoder(kind, np.float64(1.0), latch=True))
    images = np.random.default_rng(seed).random((5, 2, 4, 4))
    images.flat[:2] = 0.9
    chip = check(source, images)
    assert chip.network.nodes["in.latch"].metadata.get(LATCH)
    assert {"name": "in.latch", "kind": "latch"}.items() <= chip.report["layers"][
        [row["name"] for row in chip.report["layers"]].index("in.latch")].items()


def test_a_population_that_hears_itself_does_not_hold() -> None:
    chip = check(network(HOLDING[0], branch="back"), np.random.default_rng(0).random((4, 2, 4, 4)))
    assert {path.target for path in paths_from(chip.network, "in.latch")} == {"first"}


def test_only_those_that_cannot_hold_read_the_latch() -> None:
    chip = check(network(HOLDING[0], branch="skip"), np.random.default_rng(0).random((4, 2, 4, 4)))
    ends = {path.target for path in paths_from(chip.network, "in.latch")}
    assert ends == {"last"}
    assert chip.network.neuron("first").decays[0] == 4096


def test_a_readout_holds_its_current() -> None:
    rng = np.random.default_rng(0)
    source = verified(Network({
        "in": Input(shape=(5,), time_steps=STEPS, encoder=Encoder("ttfs", np.float64(1.0), latch=True)),
        "fc": Affine(weight=rng.normal(0, 0.5, (3, 5)), bias=rng.normal(0, 0.1, 3)),
        "read": LI(shape=(3,), decay_mem=np.float64(0.9)), "out": Output(shape=(3,), readout="last"),
    }, (Edge("in", "fc"), Edge("fc", "read"), Edge("read", "out"))))
    chip = check(source, rng.random((6, 5)))
    assert "in.latch" not in chip.network.nodes


@pytest.mark.parametrize("entry", [{"max_payload": 3}, {"coding": "signed"}])
def test_what_the_chip_cannot_hold_stays_on_the_host_with_a_warning(entry: dict[str, Any]) -> None:
    source = network(OTHERS[0], **entry)
    chip, host = both(source)
    images = np.random.default_rng(0).random((4, 2, 4, 4))
    np.testing.assert_array_equal(chip.run(images).output, host.run(images).output)
    np.testing.assert_array_equal(events(chip, images), events(host, images))
    told = next(w for w in chip.report["warnings"] if w["code"] == "D2E-ENC-009")
    assert "up to 6 events in place of one: 'first' cannot hold" in told["message"]


def test_registers_of_every_microcode_hold_no_current() -> None:
    program = d2e.compile(network(HOLDING[0]), soft_reset="fallback")
    assert "D2E-ENC-009" in {w["code"] for w in program.report["warnings"]}
    assert program.network.input.encoder.latch  # type: ignore[union-attr]


def test_without_a_latch_nothing_changes() -> None:
    source = network(HOLDING[0], encoder=Encoder("ttfs", np.float64(1.0)))
    after = dict(d2e.compile(source).stages)
    assert after["latch-input"] is after["quantise"] or after["latch-input"].same(after["quantise"])
    assert LatchInput(chip=False).run(source, find("loihi2-sim")) is source


def test_events_of_the_input_are_counted() -> None:
    images = np.random.default_rng(1).random((20, 2, 4, 4))
    labels = np.zeros(20, np.int64)
    source = network(HOLDING[0])
    chip = d2e.compile(source, eval=(images, labels))
    host = d2e.compile(source, eval=(images, labels), passes=ON_HOST)
    counted = [p.report["totals"]["input_events_per_sample"] for p in (chip, host)]
    assert counted == [np.abs(events(p, images)).sum() / 20 for p in (chip, host)]
    rows = {row["pass"]: row for row in chip.report["accuracy"]["passes"]}
    assert {**rows["latch-input"], "pass": ""} == {**rows["quantise"], "pass": ""}
    assert [{**row, "pass": ""} for row in chip.report["accuracy"]["passes"]] == [
        {**row, "pass": ""} for row in host.report["accuracy"]["passes"]]


def test_a_data_set_of_integers_is_refused() -> None:
    source = network(HOLDING[0])
    frames = np.ones((2, STEPS, 2, 4, 4), np.int64)
    with pytest.raises(UsageError) as caught:
        fit(Data(frames), source)
    assert caught.value.code == "D2E-ENC-010"
    chip = d2e.compile(source)
    assert fit(Data(frames[:, 0]), chip.network).frames.dtype.kind == "f"  # pixels are real values
    assert chip.run(frames).output.shape == (2, STEPS, 4)  # the program itself takes plain events


def test_programs_come_back(tmp_path: Path) -> None:
    images = np.random.default_rng(2).random((3, 2, 4, 4))
    for name, passes in (("chip", None), ("host", ON_HOST)):
        program = d2e.compile(network(OTHERS[0]), passes=passes, output=str(tmp_path / name))
        loaded = d2e.load(tmp_path / name)
        assert loaded.network.same(program.network)
        np.testing.assert_array_equal(loaded.run(images).output, program.run(images).output)


def test_speck_takes_the_latch_of_the_host() -> None:
    program = d2e.compile(network(OTHERS[0]), target="speck2f-sim")
    assert "D2E-ENC-009" in {w["code"] for w in program.report["warnings"]}
    images = np.random.default_rng(3).random((3, 2, 4, 4))
    sent = events(program, images)
    assert (np.diff(sent, axis=1) >= 0).all()
    assert sent.sum() > 48
    np.testing.assert_array_equal(program.run(images).output, program.run(images, engine="reference").output)


@pytest.mark.lava
@pytest.mark.parametrize("first", [HOLDING[2], OTHERS[0]], ids=["held", "latched"])
def test_lava_holds_it_alike(first: Neuron, lava_python: Path) -> None:
    source = network(first)
    chip, host = both(source)
    images = np.random.default_rng(4).random((3, 2, 4, 4))
    expected = host.run(images, record="spikes")
    found = chip.run(images, engine="loihi2-lava", record="spikes")
    assert expected.output.any()
    np.testing.assert_array_equal(found.output, expected.output)
    for name in expected.spikes:
        np.testing.assert_array_equal(found.spikes[name], expected.spikes[name])

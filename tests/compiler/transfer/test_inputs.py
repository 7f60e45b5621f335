"""What the student reads: the payloads that its program receives, a simulated camera's events, or recordings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.compiler.transfer.conftest import CLASSES, SHAPE, STEPS, changed, codes, never, over_time
from torch import nn

import d2e
import d2e.nn as dn
from d2e.compiler import data as data_sets
from d2e.compiler.encoders import parse
from d2e.compiler.events.camera import Camera
from d2e.compiler.frontends.files import load_model
from d2e.compiler.transfer.inputs import MOST_EVENTS, reads
from d2e.compiler.transfer.pairs import Encoded, Pairs
from d2e.ir import UsageError

ENCODINGS = (
    "ttfs", "ttfs{latch}", "ttfs-strict", "ttfs-strict{latch}", "ttfs-inclusive", "ttfs-inclusive{latch}", "latency",
    "latency{latch}", "rate", "bernoulli", "bernoulli{seed=5}", "phase")
SMALL = (1, 3, 2)
IMAGES = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), *map(st.just, SMALL)), elements=st.one_of(
    st.sampled_from([0.0, 1.0]), st.integers(0, 24).map(lambda k: np.float32(k / 24)), st.floats(0, 1, width=32)))


def pairs_of(images: np.ndarray) -> Pairs:
    return Pairs(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.long))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, d2e.Program]:
    """Encoding -> the program of a student that reads it."""
    folder = tmp_path_factory.mktemp("students")
    torch.manual_seed(0)
    model = dn.Sequential(nn.Conv2d(1, 2, 2), dn.IF(0.5), nn.Flatten(), nn.Linear(4, 3), dn.IF(0.4))
    found = {}
    for encoding in ENCODINGS:
        dn.save(model, folder / "student.pt", input_shape=SMALL, time_steps=STEPS, encoder=encoding)
        found[encoding] = d2e.compile(folder / "student.pt", "loihi2-sim")
    return found


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=30)
@given(images=IMAGES)
def test_the_student_reads_what_its_program_receives(programs, encoding, images):
    program = programs[encoding]
    found = reads(encoding, pairs_of(images), None, STEPS, 0)
    assert (found.shape, found.max_payload, found.facts) == (SMALL, 1, {"encoder": encoding})
    sent = pairs_of(images).sent(found.send)
    assert (sent.dtype, sent.shape) == (torch.float32, (len(images), STEPS, *SMALL))
    assert set(sent.unique().tolist()) <= {0.0, 1.0}
    received = program.network.input.encoder.encode(over_time(images).numpy(), 0, 1)
    np.testing.assert_array_equal(program.run(images).output, program.run(received).output)
    latched = "latch" in encoding  # held on the chip
    np.testing.assert_array_equal(sent.numpy(), np.cumsum(received, axis=1) if latched else received)
    for i in range(len(images)):
        assert torch.equal(pairs_of(images[i : i + 1]).sent(found.send)[0], sent[i]), "wherever it stands in a batch"


def test_double_precision_images_send_the_same_in_double():
    images = np.random.default_rng(0).random((4, *SMALL)).astype(np.float32)
    encoded = Encoded(parse("ttfs"), STEPS)
    sent = encoded(torch.from_numpy(images))
    assert torch.equal(encoded(torch.from_numpy(images).double()), sent.double())


@pytest.mark.parametrize("encoding", ["ttfs{latch}", "bernoulli{seed=5}"])
def test_a_students_checkpoint_carries_its_encoder(transfer, encoding, tmp_path):
    found = transfer(method="zero-shot", encoding=encoding, output=str(tmp_path / "out"))
    carried = load_model(tmp_path / "out" / "student.pt").input
    assert (carried.coding, carried.time_steps, carried.max_payload, carried.shape) == ("spikes", STEPS, 1, SHAPE)
    expected = parse(encoding)
    assert [getattr(carried.encoder, name) for name in ("kind", "seed", "latch", "scale")] == [
        getattr(expected, name) for name in ("kind", "seed", "latch", "scale")]
    assert found.facts["encoding"] == encoding


# --------------------------------------------------------------------------- a simulated camera


def test_a_camera_sees_every_image_alike_wherever_it_stands():
    images = np.random.default_rng(0).random((5, 3, 8, 8)).astype(np.float32)
    found = reads("dvs", pairs_of(images), None, STEPS, 3)
    assert (found.shape, found.send, found.max_payload) == ((2, 8, 8), None, MOST_EVENTS)
    assert found.facts == {"coding": "spikes", "max_payload": MOST_EVENTS}
    sent = found.prepared(pairs_of(images), STEPS).sent(None)
    np.testing.assert_array_equal(sent.numpy(), Camera(limit=MOST_EVENTS, seed=3).record(images, STEPS))
    assert 0 < sent.max() <= MOST_EVENTS
    assert torch.equal(found.prepared(pairs_of(images[3:4]), STEPS).sent(None)[0], sent[3])


def test_a_camera_has_two_channels_and_the_student_a_mapping(transfer, tmp_path):
    found = transfer(encoding="dvs", epochs=4, output=str(tmp_path / "out"))
    assert found.student[0].weight.shape == (1, 2, 1, 1)
    assert found.facts["event_mapping"]
    before, after = found.facts["stages"]
    assert after["accuracy"] > before["accuracy"]
    assert after["holds"]
    source = load_model(tmp_path / "out" / "student.pt").input
    assert (source.coding, source.shape, source.max_payload, source.encoder) == ("spikes", (2, 8, 8), MOST_EVENTS, None)


def test_a_camera_sees_images_only(transfer):
    model = dn.Sequential(nn.Linear(6, 5), dn.IF(), nn.Linear(5, 3), dn.LI(0.9))
    flat = np.random.default_rng(0).random((40, 6)), np.arange(40) % 3
    with pytest.raises(UsageError) as raised:
        transfer(model=(model, {"input_shape": (6,)}), data=flat, eval=None, encoding="dvs")
    assert raised.value.code == "D2E-EVT-002"


# --------------------------------------------------------------------------- recordings


def recorded(samples: tuple[np.ndarray, np.ndarray], most: int = 2, dtype: type = np.uint8) -> np.ndarray:
    """Counts [n, T, 2, 8, 8]: where an image is bright, two polarities over time."""
    bright = samples[0][:, None] > np.linspace(0.2, 0.9, STEPS)[:, None, None, None]
    return (most * np.concatenate([bright, ~bright & (samples[0][:, None] > 0.5)], axis=2)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.uint16])
def test_recordings_in_place_of_an_encoding(transfer, lesson, exam, dtype):
    found = transfer(events=recorded(lesson, dtype=dtype), eval_events=recorded(exam, dtype=dtype), epochs=2)
    plain = transfer(events=recorded(lesson), eval_events=recorded(exam), epochs=2)
    assert (changed(found.student, plain.student), found.facts) == (set(), plain.facts)
    assert (found.facts["encoding"], found.facts["event_mapping"]) == ("events", True)
    assert found.facts["stages"][0]["input_events"] == pytest.approx(recorded(exam).sum() / 90)
    assert "ceiling_bits" not in found.facts["encoder"]


def test_recordings_of_booleans_and_of_held_out_images(transfer, lesson):
    found = transfer(events=recorded(lesson, 1, bool), eval=None, method="zero-shot")
    assert found.facts["data"] == {"train": 216, "held": 24}


def test_recordings_may_be_of_the_images_shape_and_name_their_labels(transfer, lesson, tmp_path):
    own = recorded(lesson)[:, :, :1]
    np.savez(tmp_path / "events.npz", x=own, y=lesson[1])
    found = transfer(events=tmp_path / "events.npz", eval=None, epochs=1)
    assert not found.facts["event_mapping"]
    assert found.student[0].weight.shape[1] == 1


def test_the_student_takes_the_largest_count_of_all_recordings(transfer, lesson, exam, tmp_path):
    transfer(events=recorded(lesson, 3), eval_events=recorded(exam, 5), method="zero-shot", output=str(tmp_path / "out"))
    assert load_model(tmp_path / "out" / "student.pt").input.max_payload == 5


def test_a_program_reads_recordings(transfer, lesson, exam):
    found = transfer(events=recorded(lesson), eval_events=recorded(exam), epochs=1, targets=["loihi2-sim"])
    program = found.programs["loihi2-sim"]
    report = program.evaluate(data_sets.Data(recorded(exam), exam[1]))
    assert found.facts["programs"][0]["accuracy"] == report["accuracy"]["program"]


def spoilt(what: str, samples: tuple[np.ndarray, np.ndarray]) -> object:
    x = recorded(samples)
    match what:
        case "steps":
            return x[:, :3]
        case "size":
            return x[..., :7]
        case "few":
            return x[:-1]
        case "labels":
            return x, (samples[1] + 1) % CLASSES
        case "negative":
            return np.where(x > 0, -1, 0)
        case "halves":
            return x / 4
        case "nan":
            return np.where(x > 0, np.nan, 0)
        case "many":
            return x.astype(np.int64) << 32
    return x[:, 0, 0, 0, 0]


@pytest.mark.parametrize("what", ["steps", "few", "labels", "negative", "halves", "nan", "many", "no frames"])
@pytest.mark.parametrize("place", ["events", "eval_events"])
def test_recordings_of_something_else(transfer, lesson, exam, place, what):
    whole = {"events": (recorded(lesson), lesson), "eval_events": (recorded(exam), exam)}
    given = {key: spoilt(what, samples) if key == place else good for key, (good, samples) in whole.items()}
    with pytest.raises(UsageError) as raised:
        transfer(**given, listen=never)
    assert codes(raised) == "D2E-TRANS-012"
    assert {"events": "training data", "eval_events": "evaluation data"}[place] in str(raised.value) or what == "steps"


def test_recordings_of_another_size_than_the_images(transfer, lesson):
    with pytest.raises(d2e.ir.UnsupportedError) as raised:
        transfer(events=spoilt("size", lesson), eval=None, listen=never)
    assert codes(raised) == "D2E-TRANS-005"


@pytest.mark.parametrize("given", ["events", "eval_events", "eval_events alone"])
def test_recordings_of_one_of_both(transfer, lesson, exam, given):
    options = {"events": recorded(lesson)} if given == "events" else {"eval_events": recorded(exam)}
    if given == "eval_events alone":
        options["eval"] = None
    with pytest.raises(UsageError, match="not both images with events") as raised:
        transfer(**options)
    assert codes(raised) == "D2E-TRANS-012"

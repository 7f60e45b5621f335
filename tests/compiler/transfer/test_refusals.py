"""What `d2e.transfer` refuses, before it trains: options, teachers, images, labels, encodings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.compiler.transfer.conftest import SHAPE, STEPS, codes, network, never, pictures
from torch import nn

import d2e
import d2e.nn as dn
from d2e.ir import UnsupportedError, UsageError

FACTS = {"input_shape": SHAPE, "time_steps": STEPS, "readout": "mean"}


@pytest.mark.parametrize(("options", "told"), [
    ({"method": "other"}, "zero-shot, normalise, calibrate, map, tsf, skd"),
    ({"start": "other"}, "teacher, normalised, calibrated"),
    ({"divergence": "kl"}, "forward-kl, "), ({"augment": "crop"}, "none, shift, flip-shift"),
    ({"precision": "int8"}, "float32, bfloat16, float16"), ({"epochs": 0}, "1 or more"), ({"batch": 1}, "2 or more"),
    ({"learning_rate": 0.0}, "above 0"), ({"learning_rate": float("nan")}, "above 0"), ({"warm_up": 1.0}, "0 to below 1"),
    ({"weight_decay": -1.0}, "0 or more"), ({"alpha": 1.5}, "0 to 1"), ({"alpha": float("nan")}, "0 to 1"),
    ({"temperature": 0.0}, "above 0"), ({"patience": 0}, "1 or more"), ({"seed": -1}, "0 or more"),
    ({"method": "tsf", "alpha": 0.5}, "or give --method skd"),
    ({"targets": ["loihi2{cores=4}", "loihi2{cores=8}"]}, "every chip once"),
], ids=str)
def test_options_that_mean_nothing_are_told_before_the_model_is_read(options, told):
    with pytest.raises(UsageError) as raised:
        d2e.transfer("nowhere.pt", data="nowhere.npz", **options)
    assert (codes(raised), told in raised.value.hint) == ("D2E-TRANS-008", True)


def silent() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize(("model", "error", "code"), [
    ((silent(), FACTS), UnsupportedError, "D2E-TRANS-003"),
    ((network(), {**FACTS, "readout": "first"}), UnsupportedError, "D2E-TRANS-004"),
    ((network(), {**FACTS, "coding": "spikes"}), UsageError, "D2E-TRANS-002"),
    ((network(), {**FACTS, "coding": "signed"}), UsageError, "D2E-TRANS-002"),
    ((network(), {**FACTS, "encoder": "ttfs{latch}"}), UsageError, "D2E-TRANS-002"),
    ((network(), {"time_steps": 4}), UsageError, "D2E-LOAD-011"),
    ("nowhere.pt", UsageError, "D2E-LOAD-001"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_teachers_that_cannot_be(transfer, model, error, code):
    with pytest.raises(error) as raised:
        transfer(model=model)
    assert codes(raised) == code


@pytest.mark.parametrize("options", [{"method": "normalise"}, {"start": "normalised"}], ids=str)
def test_a_teacher_without_batch_norms_cannot_be_normalised(transfer, options):
    with pytest.raises(UnsupportedError) as raised:
        transfer(model=(network(normalised=False), FACTS), listen=never, **options)
    assert codes(raised) == "D2E-TRANS-015"


def test_a_network_that_is_no_module(transfer):
    with pytest.raises(UsageError, match="is a Network") as raised:
        transfer(model=(d2e.compiler.frontends.files.load_model(network(), input_shape=SHAPE), FACTS))
    assert codes(raised) == "D2E-TRANS-001"


def test_a_teacher_that_does_better_on_events_than_on_images(transfer):
    """One half of an image is grey: too dark to make a neuron fire, and it sends spikes that do."""
    y = np.arange(200) % 2
    x = np.zeros((200, *SHAPE), np.float32)
    for image, label in zip(x, y, strict=True):
        image[0, 4 * label : 4 * label + 4] = 0.25
    model = dn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False), dn.LIF(0.01, 1.0, reset="zero"))
    with torch.no_grad():
        model[1].weight.fill_(0.0)
        model[1].weight[0, :32] = model[1].weight[1, 32:] = 0.1
    given, facts = {"data": (x, y), "eval": (x, y), "method": "zero-shot"}, {"input_shape": SHAPE, "time_steps": 4}
    with pytest.raises(UsageError, match=r"100\.0 % rightly on events and 50\.0 % on images") as raised:
        transfer(model=(model, facts), **given)
    assert codes(raised) == "D2E-TRANS-002"
    found = transfer(model=(model, {**facts, "coding": "direct"}), **given)
    assert (found.facts["teacher"]["accuracy"], found.facts["stages"][0]["accuracy"]) == (0.5, 1.0)


def altered(what: str):
    x, y = (each.copy() for each in pictures(60))
    match what:
        case "0..255":
            x = (255 * x).astype(np.uint8)
        case "below 0":
            x[3, 0, 2, 2] = -0.01
        case "nan":
            x[3, 0, 2, 2] = np.nan
        case "9x9":
            x = np.zeros((60, 1, 9, 9), np.float32)
        case "over time":
            x = np.repeat(x[:, None], STEPS, axis=1)
        case "label 3":
            y[5] = 3
        case "label -1":
            y[5] = -1
    return x, y


@pytest.mark.parametrize(("what", "code", "told"), [
    ("0..255", "D2E-TRANS-010", "from 0 to 24"), ("below 0", "D2E-TRANS-010", "from -0.01"), ("nan", "D2E-INPUT-002", "NaN"),
    ("9x9", "D2E-INPUT-001", "[60, 1, 9, 9]"), ("over time", "D2E-INPUT-001", "[60, 4, 1, 8, 8]"),
    ("label 3", "D2E-DATA-003", "from 0 to 3"), ("label -1", "D2E-DATA-003", "from -1 to 2"),
])
@pytest.mark.parametrize("place", ["data", "eval"])
def test_images_and_labels_that_do_not_fit(transfer, place, what, code, told):
    with pytest.raises(UsageError) as raised:
        transfer(**{place: altered(what)}, listen=never)
    assert raised.value.code == code
    assert told in str(raised.value)
    assert {"data": "training data", "eval": "evaluation data"}[place] in str(raised.value)


def test_images_without_labels_and_too_few_of_them(transfer, lesson):
    x, y = lesson
    for place in ("data", "eval"):
        with pytest.raises(UsageError, match="no labels") as raised:
            transfer(**{place: x})
        assert codes(raised) == "D2E-DATA-003"
    with pytest.raises(UsageError, match="19 samples are too few") as raised:
        transfer(data=(x[:19], y[:19]))
    assert raised.value.code == "D2E-TRANS-011"
    assert transfer(data=(x[:20], y[:20]), epochs=1, batch=4).facts["data"] == {"train": 18, "held": 2, "eval": 90}


@pytest.mark.parametrize(("encoding", "code"), [
    ("direct", "D2E-TRANS-009"), ("first", "D2E-TRANS-009"), ("delta{step=0.1}", "D2E-TRANS-009"), ("morse", "D2E-ENC-006"),
    ("", "D2E-ENC-006"),
])
def test_encodings_that_make_no_events(transfer, encoding, code):
    with pytest.raises(UsageError) as raised:
        transfer(encoding=encoding)
    assert codes(raised) == code


def test_events_and_flat_inputs_are_not_moved(transfer):
    for options in ({"encoding": "dvs"}, {"events": np.zeros((240, STEPS, 2, 8, 8), np.uint8), "eval": None}):
        with pytest.raises(UsageError, match="before they are encoded") as raised:
            transfer(augment="shift", **options)
        assert codes(raised) == "D2E-TRANS-008"
    flat = dn.Sequential(nn.Linear(6, 3), dn.LIF(0.5))
    data = np.random.default_rng(0).random((40, 6)), np.arange(40) % 3
    with pytest.raises(UsageError, match=r"not \[6\]") as raised:
        transfer(model=(flat, {"input_shape": (6,)}), data=data, eval=None, augment="shift")
    assert codes(raised) == "D2E-TRANS-008"


def test_a_loss_that_is_no_number_writes_nothing(transfer, tmp_path):
    with pytest.raises(UsageError) as raised:
        transfer(learning_rate=float("inf"), output=str(tmp_path / "out"))
    assert codes(raised) == "D2E-TRANS-013"
    assert not list(tmp_path.iterdir())


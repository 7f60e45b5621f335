"""`d2e.transfer` as a whole: what each method changes, what chooses nothing, what is left alone, and what is refused."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests.compiler.transfer.conftest import (
    CLASSES,
    QUICK,
    SHAPE,
    STEPS,
    changed,
    codes,
    network,
    never,
    over_time,
    pictures,
    taught,
    weights,
)
from torch import nn

import d2e
import d2e.nn as dn
from d2e.compiler.transfer.models import load_teacher
from d2e.ir import UsageError

THRESHOLDS = {"2.threshold", "4.threshold"}
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
FACTS = {"input_shape": SHAPE, "time_steps": STEPS, "readout": "mean"}


def lacking(value: object) -> list[object]:
    """What stands where a number was not measured."""
    if isinstance(value, dict):
        return [found for each in value.values() for found in lacking(each)]
    if isinstance(value, (list, tuple)):
        return [found for each in value for found in lacking(each)]
    return [value] if value is None or (isinstance(value, float) and not math.isfinite(value)) else []


# --------------------------------------------------------------------------- what each method changes


def test_the_weights_of_zero_shot_are_the_teachers(transfer, teacher):
    found = transfer(method="zero-shot")
    assert not changed(found.student, teacher)
    assert [stage["name"] for stage in found.facts["stages"]] == ["zero-shot"]
    assert not {"epochs", "settings", "pearson", "programs"} & found.facts.keys()
    assert (found.programs, found.folder, found.student.training) == ({}, None, False)


def test_calibration_changes_thresholds_alone(transfer, teacher):
    found = transfer(method="calibrate")
    ours, theirs = weights(found.student), weights(teacher)
    assert {name for name in ours if ours[name].shape != theirs[name].shape} == THRESHOLDS
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() - THRESHOLDS)
    before, after = found.facts["stages"]
    wanted = list(found.facts["teacher"]["rates"].values())
    assert [before["name"], after["name"]] == ["zero-shot", "calibrated"]
    for own, start, target in zip(after["rates"].values(), before["rates"].values(), wanted, strict=True):
        assert abs(own - target) < abs(start - target)


def test_normalising_changes_statistics_alone(transfer, teacher):
    found = transfer(method="normalise")
    assert changed(found.student, teacher) == STATISTICS
    assert [stage["name"] for stage in found.facts["stages"]] == ["zero-shot", "normalised"]
    assert (found.student[1].momentum, found.student.training) == (0.1, False)


@pytest.mark.parametrize("affine", [True, False])
def test_map_changes_the_mapping_alone(transfer, lesson, affine):
    model = network(dropout=0.1)
    model[1] = nn.BatchNorm2d(4, affine=affine)
    taught(model, lesson, epochs=1)
    found = transfer(model=(model, {**FACTS, "coding": "direct"}), method="map")
    assert changed(dn.Sequential(*list(found.student)[1:]), model) == set()
    assert found.student[0].weight.shape == (1, 1, 1, 1)
    assert found.student[0].weight.item() != 1
    assert found.facts["event_mapping"]
    assert all(p.requires_grad for p in found.student.parameters())


@pytest.mark.parametrize("method", ["tsf", "skd"])
def test_training_changes_all_weights_and_batch_norms_and_no_thresholds(transfer, teacher, method):
    found = transfer(method=method)
    assert changed(found.student, teacher) == {
        *(f"{i}.{name}" for i in (0, 1, 3, 7) for name in ("weight", "bias")), *STATISTICS}
    assert found.facts["settings"]["alpha"] == {"tsf": 1.0, "skd": 0.4}[method]
    assert ("divergence" in found.facts["settings"]) == (method == "skd")
    assert [stage["name"] for stage in found.facts["stages"]] == ["zero-shot", "student"]


def test_training_may_start_from_calibrated_thresholds(transfer):
    found = transfer(method="tsf", start="calibrated", epochs=1)
    assert [stage["name"] for stage in found.facts["stages"]] == ["zero-shot", "calibrated", "student"]
    thresholds = weights(transfer(method="calibrate").student)
    for name in THRESHOLDS:
        np.testing.assert_array_equal(weights(found.student)[name], thresholds[name])


def test_training_may_start_from_statistics_of_events(transfer):
    found, plain = transfer(method="map", start="normalised", epochs=1), transfer(method="normalise")
    assert [stage["name"] for stage in found.facts["stages"]] == ["zero-shot", "normalised", "student"]
    assert not changed(dn.Sequential(*list(found.student)[1:]), plain.student)


@pytest.mark.parametrize("divergence", ["reverse-kl", "symmetric-kl", "mse", "l1"])
def test_other_divergences_make_other_students(transfer, divergence):
    plain, other = transfer(epochs=1), transfer(epochs=1, divergence=divergence)
    assert "0.weight" in changed(plain.student, other.student)
    assert other.facts["settings"]["divergence"] == divergence


def test_skd_without_the_teacher_is_tsf(transfer):
    assert not changed(transfer(method="skd", alpha=1.0).student, transfer(method="tsf").student)


def test_the_student_learns(transfer):
    before, after = transfer(epochs=8).facts["stages"]
    assert before["accuracy"] < 0.7
    assert after["accuracy"] > before["accuracy"] + 0.1
    assert after["kl"] < before["kl"] / 2


# --------------------------------------------------------------------------- what chooses nothing


@pytest.mark.parametrize(
    "options", [{"method": "normalise"}, {"method": "calibrate"}, {"method": "skd", "alpha": 0.0}], ids=str)
def test_labels_choose_nothing_where_none_are_asked_for(transfer, lesson, options):
    x, y = lesson
    other = (x, np.random.default_rng(3).permutation(y))
    assert not changed(transfer(**options).student, transfer(data=other, **options).student)


@pytest.mark.parametrize("options", [{}, {"method": "tsf", "start": "calibrated", "patience": 1}], ids=str)
def test_evaluation_data_choose_nothing(transfer, options):
    plain, other, none = (transfer(eval=data, **options) for data in (pictures(90, 1), pictures(50, 8), None))
    assert not changed(plain.student, other.student)
    assert not changed(plain.student, none.student)
    assert plain.facts.get("epochs") == other.facts.get("epochs")
    assert plain.facts["stages"] != other.facts["stages"]
    assert [run.facts["data"] for run in (plain, other, none)] == [
        {"train": 216, "held": 24, "eval": 90}, {"train": 216, "held": 24, "eval": 50}, {"train": 216, "held": 24}]


def test_held_out_data_are_the_last_tenth_and_choose_nothing_but_when_to_stop(transfer, lesson):
    x, y = (each.copy() for each in lesson)
    plain = transfer()
    x[216:], y[216:] = 1 - x[216:], (y[216:] + 1) % CLASSES
    other = transfer(data=(x, y))
    assert not changed(plain.student, other.student)
    assert [row["loss"] for row in plain.facts["epochs"]] == [row["loss"] for row in other.facts["epochs"]]
    assert plain.facts["epochs"] != other.facts["epochs"]


def test_data_are_read_from_files_and_whole_numbers_as_well(transfer, shelf, lesson):
    plain = transfer(epochs=1)
    again = transfer(epochs=1, data=str(shelf / "train.npz"), eval=shelf / "test.npz", model=str(shelf / "teacher.pt"))
    assert (changed(plain.student, again.student), plain.facts) == (set(), again.facts)
    white = (lesson[0] > 0.5).astype(np.uint8), lesson[1].astype(np.uint8)
    assert transfer(method="zero-shot", data=white, eval=None).facts["data"]["train"] == 216


# --------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("options", [
    {"method": "zero-shot"}, {"method": "normalise"}, {"method": "calibrate"}, {"method": "map"},
    {"start": "calibrated", "augment": "flip-shift"}, {"mean": [0.2], "std": [0.5]}, {"encoding": "dvs"},
    {"encoding": "bernoulli{seed=1}"}, {"targets": ["loihi2-sim"]}, {"plain": True},
], ids=str)
def test_the_teacher_and_the_users_random_numbers_stay_as_they_are(transfer, teacher, options):
    own = copy.deepcopy(teacher).train()
    own = nn.Sequential(*own) if options.get("plain") else own
    options = {name: value for name, value in options.items() if name != "plain"}
    own[3].weight.requires_grad_(False)
    before, modes = copy.deepcopy(own), [m.training for m in own.modules()]
    trainable = [p.requires_grad for p in own.parameters()]
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = transfer(model=(own, {**FACTS, "coding": "direct"}), epochs=1, **options)
    assert (changed(own, before), [m.training for m in own.modules()]) == (set(), modes)
    assert [p.requires_grad for p in own.parameters()] == trainable
    assert all(p.requires_grad for p in found.student.parameters())
    assert not {id(p) for p in own.parameters()} & {id(p) for p in found.student.parameters()}
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numbers


def test_the_students_graph_is_free(transfer):
    """It can be copied and trained on."""
    student = copy.deepcopy(transfer(epochs=1).student)
    student(over_time(pictures(2)[0])).sum().backward()
    assert student[0].weight.grad is not None


# --------------------------------------------------------------------------- a run that was cut off


class Cut(Exception):
    pass


WHOLE = {**QUICK, "epochs": 4, "augment": "flip-shift", "patience": 4, "start": "calibrated"}


def test_a_run_cut_off_and_taken_up_again_is_the_same(transfer, tmp_path):
    def cut(done, total, what):
        if what.startswith("epoch 3") and done == 2:
            raise Cut

    kept = str(tmp_path / "state" / "kept.pt")
    whole = transfer(**WHOLE)
    with pytest.raises(Cut):
        transfer(**WHOLE, resume=kept, listen=cut)
    again = transfer(**WHOLE, resume=kept)
    assert (changed(whole.student, again.student), again.facts) == (set(), whole.facts)
    ended = transfer(**WHOLE, resume=kept, listen=never)
    assert (changed(whole.student, ended.student), ended.facts) == (set(), whole.facts)


@pytest.mark.parametrize("other", [
    {"seed": 1}, {"time_steps": 3}, {"encoding": "latency"}, {"epochs": 3}, {"data": pictures(240, 4)}, {"batch": 31},
    {"learning_rate": 0.2}, {"precision": "bfloat16"}, {"method": "skd"}, {"start": "calibrated"}, {"warm_up": 0.2},
    {"weight_decay": 0.1}, {"augment": "shift"}, {"patience": 1}, {"event_mapping": True}, "held", "readout", "teacher",
], ids=lambda other: other if isinstance(other, str) else next(iter(other)))
def test_a_file_of_another_run_is_refused(transfer, shelf, teacher, lesson, tmp_path, other):
    kept = str(tmp_path / "kept.pt")
    plain = {"method": "tsf", "epochs": 1, "resume": kept}
    transfer(**plain)
    if other == "held":
        other = {"data": (lesson[0], np.where(np.arange(240) < 239, lesson[1], (lesson[1] + 1) % CLASSES))}
    elif other == "readout":
        other = {"model": (teacher, {**FACTS, "readout": "last"})}
    elif other == "teacher":
        model = copy.deepcopy(teacher)
        model[2].rules["surrogate"] = "triangle"
        other = {"model": (model, FACTS)}
    with pytest.raises(UsageError, match="of another run") as raised:
        transfer(**{**plain, **other}, listen=never)
    assert codes(raised) == "D2E-TRANS-014"
    transfer(**plain, listen=never)


# --------------------------------------------------------------------------- what is said


def test_the_bound_holds_in_all_stages_and_epochs(transfer):
    facts = transfer(epochs=4, start="calibrated").facts
    rows = [*facts["stages"], *(row["held"] for row in facts["epochs"])]
    assert len(rows) == 7
    for row in rows:
        assert row["holds"]
        assert row["soft_gap"] <= row["tv"] + 1e-9 <= row["bound"] + 2e-9
        assert row["bound"] == pytest.approx(math.sqrt(row["kl"] / 2))
    assert -1 <= facts["pearson"] <= 1
    assert facts["gradient"]["layers"].keys() == {"0", "1", "3", "7"}
    assert facts["encoder"]["entropy_bits"] <= facts["encoder"]["ceiling_bits"] == pytest.approx(math.log2(STEPS + 1))
    assert facts["teacher"]["rates"].keys() == facts["stages"][0]["rates"].keys() == {"2", "4"}
    assert not lacking(facts)


def test_accuracies_are_those_of_the_models(transfer, teacher, exam):
    found = transfer()
    with torch.no_grad():
        events = d2e.ir.Encoder("ttfs", np.float64(1)).encode(over_time(exam[0]), 0, 1).float()
        answers = [model(frames).mean(1).argmax(1).numpy() for model, frames in (
            (teacher, over_time(exam[0])), (teacher, events), (found.student, events))]
    told = [found.facts["teacher"]["accuracy"], *(stage["accuracy"] for stage in found.facts["stages"])]
    assert told == [pytest.approx((each == exam[1]).mean()) for each in answers]
    assert found.facts["stages"][1]["input_events"] == pytest.approx(events.sum() / len(events))


def test_a_mapped_student_has_no_gradient_of_its_shape(transfer):
    facts = transfer(encoding="dvs", epochs=1).facts
    assert "gradient" not in facts
    assert not lacking(facts)


def test_steps_are_the_teachers_unless_stated(transfer, teacher):
    assert transfer(method="zero-shot").facts["time_steps"] == STEPS
    assert transfer(method="zero-shot", time_steps=6).facts["time_steps"] == 6
    assert load_teacher((teacher, {"input_shape": SHAPE}), None, None, False)[1] == 8
    for options in ({"time_steps": 0}, {"time_steps": -2}, {"model": (teacher, {**FACTS, "time_steps": 0})}):
        with pytest.raises(UsageError, match=r"time_steps (0|-2)") as raised:
            transfer(**options)
        assert codes(raised) == "D2E-TRANS-008"

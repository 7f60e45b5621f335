"""The training loop: its schedule, steps and seeds, and that a run which was cut off ends as if it had not been."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.compiler.transfer.conftest import CLASSES, SHAPE, STEPS, changed, network, pictures
from torch import nn
from torch.nn import functional

import d2e.nn as dn
from d2e.compiler.transfer.keep import Keep
from d2e.compiler.transfer.models import Model
from d2e.compiler.transfer.pairs import Direct, Pairs, augmented
from d2e.compiler.transfer.train import Lesson, Settings, fit, learning_rate
from d2e.compiler.transfer.workers import workers
from d2e.ir import UsageError

WHOLE = Settings(epochs=5, batch=16, learning_rate=0.1, augment="flip-shift", patience=3, seed=7)


def samples(count: int = 64) -> Pairs:
    x, y = pictures(count)
    return Pairs(torch.from_numpy(x), torch.from_numpy(y))


def student(dropout: float = 0.2) -> Model:
    return Model(network(dropout=dropout), SHAPE, "mean", {})


def lesson(pairs: Pairs, seed: int = 1) -> Lesson:
    """A teacher with a view of its own."""
    view = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(seed))
    return Lesson(pairs, Direct(STEPS), ask=lambda images: images.flatten(1) @ view)


def held_out(model: Model) -> dict[str, float]:
    pairs = samples(90)
    found = model.answers(lambda at: Direct(STEPS)(pairs.images[at]), len(pairs))
    return {"accuracy": float((found.argmax(1) == pairs.labels).float().mean()), "mean": float(found.mean())}


def trained(
    settings: Settings = WHOLE, path: Path | None = None, *, listen=None, taught=None, precision="float32", run="run"
):
    """(module, rows) after a run."""
    own = student()
    given = lesson(samples()) if taught is None else taught
    rows = fit(own, given, settings, workers("cpu", precision), held_out, Keep(path, run), listen)
    return own.module, rows


# --------------------------------------------------------------------------- what a step is


def test_the_rate_rises_from_a_tenth_and_falls_as_a_cosine():
    settings = Settings(batch=128, warm_up=0.1)
    assert settings.highest_rate == 0.05
    found = [learning_rate(settings, step, 100) for step in range(100)]
    assert found[0] == pytest.approx(0.005)
    assert found[5] == pytest.approx(0.05 * 0.55)
    assert found[10] == pytest.approx(0.05)
    assert found[55] == pytest.approx(0.025)
    assert found[99] == pytest.approx(0.05 * 0.5 * (1 + np.cos(np.pi * 89 / 90)))
    assert max(found) == found[10]
    assert all(a > b for a, b in pairwise(found[10:]))


@given(total=st.integers(1, 500), warm_up=st.floats(0, 0.99), rate=st.floats(1e-4, 10))
def test_rates_are_within_their_limits(total, warm_up, rate):
    settings = Settings(learning_rate=rate, warm_up=warm_up)
    found = [learning_rate(settings, step, total) for step in range(total)]
    assert all(0 <= each <= rate * (1 + 1e-12) for each in found)
    assert found[0] == pytest.approx(0.1 * rate if warm_up else rate)
    assert learning_rate(settings, total, total) == pytest.approx(0, abs=1e-9 * rate)


def by_hand(pairs: Pairs, answers: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, list[float]]:
    """Weights of one linear layer, whose answer is the mean over time, after full-batch steps; and the losses."""
    torch.manual_seed(0)
    w, buffer, losses = nn.Linear(64, CLASSES, bias=False).weight.detach().clone(), torch.zeros(CLASSES, 64), []
    for step in range(settings.epochs):
        w.requires_grad_(True)
        z = pairs.images.flatten(1) @ w.T
        p, q = functional.softmax(answers / 2, 1), functional.log_softmax(z / 2, 1)
        divergence = 4 * (p * (p.log() - q)).sum(1).mean()
        loss = 0.3 * functional.cross_entropy(z, pairs.labels) + 0.7 * divergence
        gradient = torch.autograd.grad(loss, w)[0] + 0.01 * w.detach()
        buffer = gradient if step == 0 else 0.9 * buffer + gradient
        w = w.detach() - learning_rate(settings, step, settings.epochs) * (gradient + 0.9 * buffer)
        losses.append(loss.item())
    return w, losses


def test_steps_are_those_of_nesterov_on_labels_and_teacher():
    pairs, answers = samples(30), torch.randn(30, CLASSES)
    settings = Settings(epochs=4, batch=30, learning_rate=0.5, warm_up=0.5, weight_decay=0.01, alpha=0.3, temperature=2.0)
    torch.manual_seed(0)
    layer = nn.Linear(64, CLASSES, bias=False)
    own = Model(dn.Sequential(nn.Flatten(), layer), SHAPE, "mean", {})
    given = Lesson(pairs, Direct(STEPS), answers=answers)
    rows = fit(own, given, settings, workers("cpu", "float32"), held_out, Keep(None, ""))
    wanted, losses = by_hand(pairs, answers, settings)
    torch.testing.assert_close(layer.weight.detach(), wanted, rtol=1e-5, atol=1e-6)
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-5)
    assert [row["lr"] for row in rows] == pytest.approx([learning_rate(settings, step, 4) for step in range(4)])
    for row in rows:
        assert row["loss"] == pytest.approx(0.3 * row["ce"] + 0.7 * row["divergence"], rel=1e-5)


def test_every_sample_is_seen_once_in_an_epoch_in_another_order_each():
    pairs, seen = samples(50), []

    def send(images):
        seen.append(images.flatten(1)[:, 0])
        return Direct(STEPS)(images)

    trained(Settings(epochs=2, batch=20, alpha=1.0), taught=Lesson(pairs, send))
    epochs = [torch.cat(seen[:3]), torch.cat(seen[3:])]
    assert [len(part) for part in seen] == [17, 17, 16, 17, 17, 16]
    for order in epochs:
        assert torch.equal(order.sort().values, pairs.images.flatten(1)[:, 0].sort().values)
    assert not torch.equal(*epochs)


def test_labels_alone_ignore_the_teacher():
    settings, pairs = Settings(epochs=2, batch=16, alpha=1.0), samples()
    plain, rows = trained(settings, taught=Lesson(pairs, Direct(STEPS)))
    for other in (lesson(pairs), Lesson(pairs, Direct(STEPS), answers=torch.randn(64, CLASSES))):
        again, found = trained(settings, taught=other)
        assert (changed(plain, again), found) == (set(), rows)
    assert all("divergence" not in row for row in rows)
    assert [row["loss"] for row in rows] == [row["ce"] for row in rows]


def test_other_teachers_make_other_students():
    one, other = (trained(taught=lesson(samples(), seed))[0] for seed in (1, 2))
    assert "0.weight" in changed(one, other)


def test_what_is_not_to_be_trained_is_not():
    own = student()
    own.module[0].requires_grad_(False)
    own.module[1].requires_grad_(False)
    before = copy.deepcopy(own.module)
    fit(own, lesson(samples()), WHOLE, workers("cpu", "float32"), held_out, Keep(None, ""))
    assert {name.partition(".")[0] for name in changed(before, own.module)} == {"3", "7"}


# --------------------------------------------------------------------------- seeds


def test_equal_seeds_are_equal_to_the_bit_and_leave_other_random_numbers_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    (one, rows), (two, again) = trained(), trained()
    torch.manual_seed(5)
    three, _ = trained()
    assert (changed(one, two), changed(one, three), rows) == (set(), set(), again)
    other, others = trained(Settings(**{**WHOLE.__dict__, "seed": 8}))
    assert changed(one, other)
    assert others != rows
    torch.manual_seed(0)  # as every test starts, and as `student` sets it
    assert (torch.equal(torch.get_rng_state(), states[0]), np.random.get_state()[1].tolist()) == (True, states[1])


def test_training_draws_nothing_from_the_users_random_numbers():
    own, state = student(), torch.get_rng_state()
    fit(own, lesson(samples()), WHOLE, workers("cpu", "float32"), held_out, Keep(None, ""))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["shift", "flip-shift"])
def test_augmented_images_are_moved_over_zeros(kind):
    images = torch.rand(40, 2, 16, 8) + 0.1
    found = augmented(images, kind, torch.Generator().manual_seed(0))
    padded = functional.pad(images, (1, 1, 2, 2))
    moves = set()
    for image, wide in zip(found, padded, strict=True):
        own = {(flip, y, x) for flip in (False, True) for y in range(5) for x in range(3) if torch.equal(
            (wide.flip(2) if flip else wide)[:, y : y + 16, x : x + 8], image)}
        assert len(own) == 1
        moves |= own
    assert {flip for flip, _, _ in moves} == ({False} if kind == "shift" else {False, True})
    assert len({(y, x) for _, y, x in moves}) > 8
    assert augmented(images, "none", torch.Generator()) is images


# --------------------------------------------------------------------------- cut off, and on with it


class Cut(Exception):
    pass


def cutting(epoch: int, step: int):
    def listen(done: int, total: int, what: str) -> None:
        if what.startswith(f"epoch {epoch} ") and done == step:
            raise Cut

    return listen


@pytest.mark.parametrize("epoch", range(1, WHOLE.epochs + 1))
def test_a_run_cut_off_in_an_epoch_ends_as_if_it_had_not_been(epoch, tmp_path):
    settings = Settings(**{**WHOLE.__dict__, "patience": 5})
    whole, rows = trained(settings)
    with pytest.raises(Cut):
        trained(settings, tmp_path / "kept", listen=cutting(epoch, 2))
    module, found = trained(settings, tmp_path / "kept")
    assert (changed(whole, module), found) == (set(), rows)
    assert len(rows) == 5


def test_a_run_cut_off_twice(tmp_path):
    for epoch in (2, 4):
        with pytest.raises(Cut):
            trained(path=tmp_path / "kept", listen=cutting(epoch, 4))
    module, rows = trained(path=tmp_path / "kept")
    whole, found = trained()
    assert (changed(whole, module), found) == (set(), rows)


def test_the_best_epoch_may_be_one_before_the_cut(tmp_path):
    accuracies, best = [0.5, 0.9, 0.7, 0.6, 0.8], []

    def run(first: int, cut: int | None) -> nn.Module:
        told = iter(accuracies[first:])

        def measure(model: Model) -> dict[str, float]:
            accuracy = next(told)
            best.extend([copy.deepcopy(model.module)] if accuracy == 0.9 else [])
            return {"accuracy": accuracy}

        own = student()
        fit(own, lesson(samples()), WHOLE, workers("cpu", "float32"), measure, Keep(tmp_path / "kept", "run"),
            None if cut is None else cutting(cut, 1))
        return own.module

    with pytest.raises(Cut):
        run(0, 4)
    assert not changed(run(3, None), best[0])


def test_a_scale_is_kept(tmp_path):
    module = nn.Linear(2, 2)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    one, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8.0, 4.0))
    Keep(tmp_path / "kept", "run").write(module, optimiser, one, [], None)
    Keep(tmp_path / "kept", "run").restore(module, optimiser, other)
    assert other.get_scale() == 8


def test_a_run_in_float16_goes_on_too(tmp_path):
    whole, rows = trained(precision="float16")
    with pytest.raises(Cut):
        trained(path=tmp_path / "kept", listen=cutting(3, 1), precision="float16")
    assert torch.load(tmp_path / "kept")["scaler"]["_growth_tracker"] > 0
    module, found = trained(path=tmp_path / "kept", precision="float16")
    assert (changed(whole, module), found) == (set(), rows)


def never(*_):
    raise AssertionError("it trained")


def test_a_run_that_had_ended_trains_nothing_more(tmp_path):
    whole, rows = trained(path=tmp_path / "kept")
    kept = (tmp_path / "kept").read_bytes()
    module, found = trained(path=tmp_path / "kept", listen=never)
    assert (changed(whole, module), found) == (set(), rows)
    assert (tmp_path / "kept").read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_file_of_another_run_or_of_none(tmp_path):
    trained(path=tmp_path / "kept")
    whole = (tmp_path / "kept").read_bytes()
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("mine")
    (tmp_path / "folder").mkdir()
    torch.save({"run": "run"}, tmp_path / "other")
    for name in ("short", "text", "folder", "other"):
        with pytest.raises(UsageError, match="no state of a training run") as caught:
            trained(path=tmp_path / name)
        assert caught.value.code == "D2E-TRANS-014"
        assert "remove it" in caught.value.hint
    with pytest.raises(UsageError, match="other model, data or options") as caught:
        trained(path=tmp_path / "kept", run="another")
    assert caught.value.code == "D2E-TRANS-014"
    assert (tmp_path / "kept").read_bytes() == whole
    assert (tmp_path / "text").read_text() == "mine"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError) as caught:
        trained(path=tmp_path / "file" / "kept", listen=never)
    assert caught.value.code == "D2E-FILE-011"
    assert "--resume" in caught.value.hint


# --------------------------------------------------------------------------- when it ends


def test_patience_ends_it_and_keeps_the_best_epoch():
    told, states = iter([0.5, 0.8, 0.9, 0.9, 0.7, 0.95]), []

    def measure(model: Model) -> dict[str, float]:
        states.append(copy.deepcopy(model.module))
        return {"accuracy": next(told)}

    own = student()
    settings = Settings(epochs=6, batch=16, patience=2, seed=1)
    rows = fit(own, lesson(samples()), settings, workers("cpu", "float32"), measure, Keep(None, ""))
    assert [row["held"]["accuracy"] for row in rows] == [0.5, 0.8, 0.9, 0.9, 0.7]
    assert not changed(own.module, states[2])
    assert changed(own.module, states[4])


def test_patience_that_outlasts_the_epochs_keeps_the_best_one_too():
    told, states = iter([0.5, 0.9, 0.8]), []

    def measure(model: Model) -> dict[str, float]:
        states.append(copy.deepcopy(model.module))
        return {"accuracy": next(told)}

    own = student()
    rows = fit(own, lesson(samples()), Settings(epochs=3, batch=16, patience=9), workers("cpu", "float32"), measure,
               Keep(None, ""))
    assert len(rows) == 3
    assert not changed(own.module, states[1])


def test_what_is_heard_while_it_trains():
    heard = []
    _, rows = trained(Settings(epochs=2, batch=16, augment="shift"), listen=lambda *told: heard.append(told))
    accuracy = 100 * rows[0]["held"]["accuracy"]
    assert heard == [
        *((done, 4, "epoch 1 of 2") for done in range(1, 5)),
        *((done, 4, f"epoch 2 of 2, {accuracy:.1f} % held-out before") for done in range(1, 5))]


@pytest.mark.parametrize(("batch", "told"), [(16, "the loss is nan in epoch 1, step 2"),
                                            (64, "weights are no numbers after epoch 1")])
def test_a_loss_or_a_weight_that_is_no_number_ends_it(batch, told, tmp_path):
    with pytest.raises(UsageError, match=told) as caught:
        trained(Settings(epochs=3, batch=batch, learning_rate=float("inf")), tmp_path / "kept")
    assert caught.value.code == "D2E-TRANS-013"
    assert "--learning-rate" in caught.value.hint
    assert torch.load(tmp_path / "kept")["rows"] == []

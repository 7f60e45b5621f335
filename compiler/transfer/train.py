"""The training loop: the student towards labels and teacher, the same numbers whether it ran through or was cut off.

Every epoch draws its order, its augmentation and its dropout from (seed, epoch) alone, so what was kept after an epoch
is all that the next one needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2e.compiler.transfer.keep import Keep
from d2e.compiler.transfer.losses import DIVERGENCES
from d2e.compiler.transfer.models import Model
from d2e.compiler.transfer.pairs import Pairs, Send, augmented
from d2e.compiler.transfer.workers import Workers
from d2e.ir import UsageError

_CALMER = "Give a lower --learning-rate, or --precision float32."
Listen = Callable[[int, int, str], None]
Measure = Callable[[Model], Mapping[str, Any]]


@dataclass(frozen=True)
class Settings:
    """Of training; the defaults are the paper's, but for the number of epochs.

    Attributes:
        epochs: times through the data.
        batch: samples per step.
        learning_rate: at its highest; None: 0.1 * batch / 256.
        warm_up: share of all steps in which it rises, from a tenth of that; a cosine takes it to 0 in the others.
        momentum: of Nesterov's SGD.
        weight_decay: likewise.
        alpha: weight of the labels against the teacher.
        temperature: tau, of the teacher's and the student's softmax.
        divergence: a key of `losses.DIVERGENCES`.
        augment: one of `pairs.AUGMENTATIONS`.
        patience: epochs without a better accuracy on held-out data after which it ends, with the best epoch's weights;
            None: all epochs, the last one's weights.
        seed: of everything drawn.
    """

    epochs: int = 10
    batch: int = 256
    learning_rate: float | None = None
    warm_up: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    alpha: float = 0.4
    temperature: float = 1.0
    divergence: str = "forward-kl"
    augment: str = "none"
    patience: int | None = None
    seed: int = 0

    @property
    def highest_rate(self) -> float:
        """The learning rate after the warm-up."""
        return 0.1 * self.batch / 256 if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True, eq=False)
class Lesson:
    """What the student learns from.

    Attributes:
        pairs: samples.
        send: makes the student's input of images; None: the pairs hold it.
        answers: the teacher's logits [n, classes]; None: ``ask`` is called with every batch, as augmented.
        ask: teacher's logits of images; None where only labels count.
    """

    pairs: Pairs
    send: Send | None
    answers: Tensor | None = None
    ask: Callable[[Tensor], Tensor] | None = None


def fit(
    student: Model, lesson: Lesson, settings: Settings, workers: Workers, measure: Measure, keep: Keep,
    listen: Listen | None = None,
) -> list[dict[str, Any]]:
    """Train the student in place.

    Args:
        student: its parameters with ``requires_grad`` are trained.
        lesson: see `Lesson`.
        settings: see `Settings`.
        workers: where.
        measure: called with the student after every epoch; its "accuracy" decides with ``patience``.
        keep: holds the state of a run that is cut off.
        listen: called with (done, total, "epoch N of M …") after every step.

    Returns:
        A row per epoch: epoch, lr, loss, ce, divergence, train_accuracy, held.

    Raises:
        UsageError: D2E-TRANS-013 where the loss or a weight is no number, -008 for batches that leave a process without
            a sample.
    """
    student.module.to(workers.device)
    optimiser = torch.optim.SGD(
        [p for p in student.module.parameters() if p.requires_grad], lr=settings.highest_rate,
        momentum=settings.momentum, nesterov=settings.momentum > 0, weight_decay=settings.weight_decay,
    )
    steps = math.ceil(len(lesson.pairs) / settings.batch)
    if (least := len(lesson.pairs) // steps) < workers.world:
        raise UsageError("D2E-TRANS-008", f"a batch of {least} is too small for {workers.world} processes",
                         hint="Give a larger --batch.")
    rows, best = keep.restore(student.module, optimiser, workers.scaler)
    if not rows and workers.rank == 0:
        keep.write(student.module, optimiser, workers.scaler, rows, best)  # a place that cannot be written is told now
    trained = replace(student, module=workers.prepared(student.module))
    for epoch in range(len(rows), settings.epochs):
        if _enough(rows, settings.patience):
            break
        before = f", {100 * rows[-1]['held']['accuracy']:.1f} % held-out before" if rows else ""
        tell = None if listen is None else _counted(listen, steps, f"epoch {epoch + 1} of {settings.epochs}{before}")
        row = _epoch(trained, lesson, settings, workers, optimiser, epoch, steps, tell)
        _check_weights(student.module, epoch)
        rows.append(workers.agreed({**row, "held": dict(measure(student))}))
        if settings.patience is not None and _best(rows) == len(rows) - 1:
            best = {k: v.detach().cpu().clone() for k, v in student.module.state_dict().items()}
        if workers.rank == 0:
            keep.write(student.module, optimiser, workers.scaler, rows, best)
    if best is not None:
        student.module.load_state_dict(best)
    return rows


def _check_weights(module: nn.Module, epoch: int) -> None:
    """The last step of an epoch has no loss after it that would tell."""
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise UsageError("D2E-TRANS-013", f"weights are no numbers after epoch {epoch + 1}", hint=_CALMER)


def _counted(listen: Listen, steps: int, what: str) -> Callable[[int], None]:
    return lambda done: listen(done, steps, what)


def _best(rows: list[dict[str, Any]]) -> int:
    """The first epoch of highest accuracy on held-out data."""
    return max(range(len(rows)), key=lambda i: rows[i]["held"]["accuracy"])


def _enough(rows: list[dict[str, Any]], patience: int | None) -> bool:
    return patience is not None and bool(rows) and len(rows) - 1 - _best(rows) >= patience


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """At a step of ``total``: linear from a tenth to all in the warm-up, then half a cosine to 0."""
    rising = settings.warm_up * total
    if step < rising:
        return settings.highest_rate * (0.1 + 0.9 * step / rising)
    return settings.highest_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1e-9)))


def _epoch(
    student: Model, lesson: Lesson, settings: Settings, workers: Workers, optimiser: torch.optim.Optimizer,
    epoch: int, steps: int,
    tell: Callable[[int], None] | None,
) -> dict[str, Any]:
    pairs, divergence = lesson.pairs, DIVERGENCES[settings.divergence]
    drawn = torch.Generator().manual_seed(_mixed(settings.seed, epoch))
    order = torch.randperm(len(pairs), generator=drawn).tensor_split(steps)
    sums = {"loss": 0.0, "ce": 0.0, "divergence": 0.0, "train_accuracy": 0.0}
    rate, total = 0.0, settings.epochs * steps
    student.to_train()
    with torch.random.fork_rng():
        torch.manual_seed(_mixed(settings.seed, epoch) + workers.rank)
        for done, index in enumerate(order, 1):
            rate = learning_rate(settings, epoch * steps + done - 1, total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            own = index[workers.rank :: workers.world]
            batch = pairs.at(own).to(workers.device)
            if pairs.events is None:
                batch = Pairs(augmented(batch.images, settings.augment, drawn), batch.labels)
            teacher = _teacher(lesson, own, batch, settings.alpha)
            with workers.autocast():
                logits = student.logits(batch.sent(lesson.send)).float()
                ce = functional.cross_entropy(logits, batch.labels)
                distance = ce.new_zeros(()) if teacher is None else divergence(teacher, logits, settings.temperature)
                loss = settings.alpha * ce + (1 - settings.alpha) * distance
            if not torch.isfinite(loss):
                raise UsageError("D2E-TRANS-013", f"the loss is {loss.item()} in epoch {epoch + 1}, step {done}",
                                 hint=_CALMER)
            workers.step(loss * (len(own) * workers.world / len(index)), optimiser)  # their mean is that of the batch
            share = len(index) / len(pairs)
            right = (logits.argmax(1) == batch.labels).float().mean()
            for key, value in zip(sums, (loss, ce, distance, right), strict=True):
                sums[key] += value.item() * share
            if tell is not None:
                tell(done)
    if teacher is None:
        del sums["divergence"]
    return {"epoch": epoch + 1, "lr": rate, **sums}


def _teacher(lesson: Lesson, own: Tensor, batch: Pairs, alpha: float) -> Tensor | None:
    """The teacher's logits of a batch; None where they count nothing."""
    if alpha == 1:
        return None
    if lesson.answers is not None:
        return lesson.answers[own].to(batch.images.device)
    assert lesson.ask is not None
    return lesson.ask(batch.images)


def _mixed(seed: int, epoch: int) -> int:
    """One seed of both."""
    return (seed * 1_000_003 + epoch * 7_919) % (1 << 62)

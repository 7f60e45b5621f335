"""`transfer`: a direct-coded spiking network in, one that reads events out. The command line is a thin layer over it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2e.compiler import data as data_sets
from d2e.compiler.choices import check_ranges
from d2e.compiler.files import check_folder
from d2e.compiler.frontends.files import Source
from d2e.compiler.program import Program
from d2e.compiler.transfer import pairs
from d2e.compiler.transfer.deploy import CALIBRATION, Student, folder_of, program_row, write
from d2e.compiler.transfer.inputs import reads
from d2e.compiler.transfer.keep import Keep
from d2e.compiler.transfer.losses import DIVERGENCES
from d2e.compiler.transfer.measure import Meter
from d2e.compiler.transfer.models import Model, load_teacher, mapped
from d2e.compiler.transfer.pairs import AUGMENTATIONS, Direct, Pairs
from d2e.compiler.transfer.train import Lesson, Listen, Settings, fit
from d2e.compiler.transfer.workers import PRECISIONS, workers
from d2e.ir import UsageError
from d2e.ir.nodes import Shape

METHODS = ("zero-shot", "normalise", "calibrate", "map", "tsf", "skd")
"""By what they change: nothing, statistics, thresholds, the event mapping, all weights by labels, by labels and teacher."""
TRAINED = METHODS[3:]
STARTS = ("teacher", "normalised", "calibrated")
FEWEST_SAMPLES, MOST_HELD = 20, 2000


@dataclass
class Transfer:
    """A student and what was measured on the way.

    Attributes:
        student: a torch module over [batch, time, *shape of its input], in evaluation mode, on the CPU.
        facts: of report.json: teacher, stages, epochs, encoder, programs …
        programs: target -> the compiled student.
        folder: where it was saved; None: it was not.
    """

    student: nn.Module
    facts: dict[str, Any]
    programs: dict[str, Program] = field(default_factory=dict)
    folder: Path | None = None


def transfer(
    model: Source, *, data: data_sets.Source, encoding: str = "ttfs", time_steps: int | None = None, method: str = "skd",
    eval: data_sets.Source | None = None, events: data_sets.Source | None = None,
    eval_events: data_sets.Source | None = None, input_shape: Shape | None = None, mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None, event_mapping: bool = False, start: str = "teacher", alpha: float | None = None,
    temperature: float = 1.0, divergence: str = "forward-kl", epochs: int = 10, batch: int = 256,
    learning_rate: float | None = None, warm_up: float = 0.1, weight_decay: float = 0.0, augment: str = "none",
    patience: int | None = None, seed: int = 0, device: str | None = None, precision: str = "float32",
    targets: Sequence[str] = (), allow_pickle: bool = False, resume: str | None = None, output: str | None = None,
    listen: Listen | None = None,
) -> Transfer:
    """Make a direct-coded spiking network read events: Luu et al. 2026, "Direct-to-Event Spiking Neural Network Transfer".

    The teacher sees the image at every step. The student has its architecture and starts from its weights, and sees what an
    encoder sends of the image, or a camera's events of it.

    Args:
        model: the teacher: ``.pt``, ``pkg.module:factory`` or a torch module of d2e.nn neurons over [batch, time, *shape].
        data: images [n, *shape] in 0..1 and labels to learn from; the last tenth of them, at most 2,000, is held out.
        encoding: an encoder as of `d2e.compile` ("ttfs", "ttfs{latch}", "latency" …), or "dvs": the events of a simulated
            camera that moves over the image.
        time_steps: T; None: the teacher's.
        method: "zero-shot" (the teacher's weights as they are), "normalise" (batch norms with the statistics of events),
            "calibrate" (thresholds that give the teacher's rates), "map" (only the event mapping is trained), "tsf" (trained
            on the labels), "skd" (on labels and teacher).
        eval: images and labels that the stages are measured on; None: those held out. They choose nothing.
        events: recordings of the images of ``data`` [n, T, *shape], in place of an encoding.
        eval_events: those of ``eval``.
        input_shape: of one image, where the model does not say it.
        mean, std: per channel, of a teacher that was trained on (image - mean) / std.
        event_mapping: put a 1x1 convolution, trained too, in front of the student; it is always there where events have
            other channels than the image, with ``mean``, and with method "map".
        start: what training starts from: "teacher", its weights; "normalised" or "calibrated", what these methods give.
        alpha: weight of the labels against the teacher (0.4; tsf: 1).
        temperature: tau of both softmaxes.
        divergence: forward-kl, reverse-kl, symmetric-kl, mse or l1.
        epochs, batch, learning_rate, warm_up, weight_decay, patience: see `train.Settings`.
        augment: of the images before they are encoded: none, shift (by up to an eighth), or flip-shift.
        seed: of everything drawn: equal seeds give equal students, on one machine.
        device: "cpu", "cuda" …; None: a GPU where there is one.
        precision: of training: float32, bfloat16 or float16.
        targets: to compile the student for, with its encoder; checked before training.
        allow_pickle: load a ``.pt`` that runs code. Only for files you trust.
        resume: a file that keeps the state of training; a run that was cut off goes on with it, to the same result.
        output: write student.pt, report.json, report.html, epochs.csv and the programs to this folder.
        listen: called with (done, total, what) while it trains.

    Raises:
        UsageError: D2E-TRANS-001, -002, -006, -008..014 for what was given, D2E-ENC-006 for an unknown encoding, and those
            of data, files and loading.
        UnsupportedError: D2E-TRANS-003..005, -015 for a teacher that cannot be transferred; what targets cannot take.
        MissingError: D2E-TRANS-007 where accelerate is missing.
    """
    settings = Settings(
        epochs=epochs, batch=batch, learning_rate=learning_rate, warm_up=warm_up, weight_decay=weight_decay,
        alpha=_alpha(method, alpha), temperature=temperature, divergence=divergence, augment=augment, patience=patience,
        seed=seed,
    )
    _check(settings, method, start, precision, targets)
    if output is not None:
        check_folder(Path(output))
    teacher, steps = load_teacher(model, input_shape, time_steps, allow_pickle)
    normal = _normal(mean, std, teacher.shape)
    whole, test = _samples(data, events, eval, eval_events, teacher.shape)
    enters = reads(encoding, whole, test, steps, seed)
    whole = enters.prepared(whole, steps)
    test = None if test is None else enters.prepared(test, steps)
    if augment != "none" and whole.events is not None:
        raise UsageError("D2E-TRANS-008", f"augment {augment!r} changes images before they are encoded; these are events",
                         hint="Leave --augment out.")
    if augment != "none" and len(teacher.shape) != 3:
        raise UsageError("D2E-TRANS-008", f"augment {augment!r} moves images [channels, height, width], not "
                         f"{list(teacher.shape)}", hint="Leave --augment out.")
    learned, held = whole.split(min(MOST_HELD, len(whole) // 10))
    crew = workers(device, precision)
    teacher.module.to(crew.device).eval().requires_grad_(False)
    meter = Meter(teacher, Direct(steps, *normal), enters, learned, held, held if test is None else test, crew.device)
    for part, what in ((whole, "training data"), (meter.test, "evaluation data")):
        pairs.check_labels(part, meter.answers[0].shape[1], what)
    has_mapping = event_mapping or method == "map" or mean is not None or enters.shape != teacher.shape
    student = teacher.copy()
    student.module.requires_grad_(method != "map")
    student = mapped(student, enters.shape, *normal) if has_mapping else student
    student.module.to(crew.device)
    meter.zero_shot(student)
    few = learned.at(slice(0, CALIBRATION))
    Student(student.on_cpu(), enters, steps).check(targets, few)
    prepared = {"normalise": "normalised", "calibrate": "calibrated"}.get(method, start)
    if prepared != "teacher":
        student = meter.renormalised(student) if prepared == "normalised" else meter.calibrated(student)
        meter.stage(prepared, student)
    rows: list[dict[str, Any]] = []
    if method in TRAINED:
        lesson = _lesson(meter, settings)
        keep = Keep(resume, _run(student, lesson, meter.held, settings, [precision, enters.encoding, steps]))
        rows = fit(student, lesson, settings, crew, meter.held_out, keep, None if crew.rank else listen)
        meter.stage("student", student)
    facts: dict[str, Any] = {
        "schema": 1, "method": method, "encoding": enters.encoding, "time_steps": steps, "seed": seed, "start": start,
        "event_mapping": has_mapping, **({"settings": _told(settings)} if method in TRAINED else {}),
        **meter.facts(student, rows),
    }
    final = Student(student.on_cpu(), enters, steps)
    return _finished(final, facts, targets, few, meter.test, None if crew.rank else output)


def _finished(
    student: Student, facts: dict[str, Any], targets: Sequence[str], few: Pairs, test: Pairs, output: str | None
) -> Transfer:
    """With its programs, and written."""
    with tempfile.TemporaryDirectory() as folder:
        student.save(path := Path(folder) / "student.pt")
        programs = student.compiled(path, targets, few, test)
    if programs:
        facts["programs"] = [program_row(*each) for each in programs.items()]
    if output is not None:
        write(Path(output), student, programs, facts)
    return Transfer(student.model.module, facts, programs, None if output is None else Path(output))


def _alpha(method: str, given: float | None) -> float:
    if method == "tsf" and given not in (None, 1):
        raise UsageError("D2E-TRANS-008", f"alpha {given:g} goes with skd: tsf is alpha 1, the labels alone",
                         hint="Leave --alpha out, or give --method skd.")
    return (1.0 if method == "tsf" else 0.4) if given is None else given


def _check(settings: Settings, method: str, start: str, precision: str, targets: Sequence[str]) -> None:
    for name, value, known in (
        ("method", method, METHODS), ("start", start, STARTS), ("divergence", settings.divergence, tuple(DIVERGENCES)),
        ("augment", settings.augment, AUGMENTATIONS), ("precision", precision, tuple(PRECISIONS)),
    ):
        if value not in known:
            raise UsageError("D2E-TRANS-008", f"{name} {value!r} is not known", hint=f"It is {', '.join(known)}.")
    if len({folder_of(target) for target in targets}) < len(targets):
        raise UsageError("D2E-TRANS-008", f"targets {', '.join(targets)} would be written to one folder",
                         hint="Give every chip once; d2e-compile takes the student to another one.")
    rate = settings.highest_rate
    check_ranges(settings, {
        "epochs": (settings.epochs >= 1, "1 or more"), "batch": (settings.batch >= 2, "2 or more"),
        "learning_rate": (rate > 0, "above 0"), "warm_up": (0 <= settings.warm_up < 1, "0 to below 1"),
        "weight_decay": (settings.weight_decay >= 0, "0 or more"), "alpha": (0 <= settings.alpha <= 1, "0 to 1"),
        "temperature": (settings.temperature > 0, "above 0"),
        "patience": (settings.patience is None or settings.patience >= 1, "1 or more"),
        "seed": (settings.seed >= 0, "0 or more"),
    }, "D2E-TRANS-008")


def _normal(mean: Sequence[float] | None, std: Sequence[float] | None, shape: Shape) -> tuple[Tensor | None, Tensor | None]:
    """[channels, 1, 1] of both."""
    if mean is None and std is None:
        return None, None
    if mean is None or std is None or {len(mean), len(std)} != {shape[0]} or len(shape) != 3 or min(std) <= 0:
        raise UsageError("D2E-TRANS-008", f"mean and std are not one number for each of {shape[0]} channels, std above 0",
                         hint="Give both as the teacher was trained: --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25.")
    return torch.tensor(mean).reshape(-1, 1, 1), torch.tensor(std).reshape(-1, 1, 1)


def _samples(
    data: data_sets.Source, events: data_sets.Source | None, eval: data_sets.Source | None,
    eval_events: data_sets.Source | None, shape: Shape,
) -> tuple[Pairs, Pairs | None]:
    """To learn from, and to measure on."""
    if (eval_events is not None and eval is None) or (eval is not None and (events is None) != (eval_events is None)):
        raise UsageError("D2E-TRANS-012", "training and evaluation data are not both images with events",
                         hint="Give --events with --data, and --eval-events with --eval, or neither.")
    whole = pairs.load(data, shape, "training data", events)
    if len(whole) < FEWEST_SAMPLES:
        raise UsageError("D2E-TRANS-011", f"{len(whole)} samples are too few to learn from, {FEWEST_SAMPLES} are the least")
    return whole, None if eval is None else pairs.load(eval, shape, "evaluation data", eval_events)


def _lesson(meter: Meter, settings: Settings) -> Lesson:
    """The teacher is asked once for every image, or, where images are augmented, for every batch."""
    if settings.alpha == 1:
        return Lesson(meter.learned, meter.reads.send)
    if settings.augment == "none":
        return Lesson(meter.learned, meter.reads.send, answers=meter.ask(meter.learned.images))
    return Lesson(meter.learned, meter.reads.send, ask=meter.ask)


def _run(student: Model, lesson: Lesson, held: Pairs, settings: Settings, options: list[Any]) -> str:
    """Tells a training run: its weights at the start, its data, its options."""
    found = hashlib.sha256(json.dumps([asdict(settings), student.readout, *options], sort_keys=True).encode())
    found.update(str(student.module).encode())
    samples = [tensor for part in (lesson.pairs, held) for tensor in (part.images, part.labels, part.events)]
    for tensor in (*student.module.state_dict().values(), *samples, lesson.answers):
        if tensor is not None:
            found.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return found.hexdigest()


def _told(settings: Settings) -> dict[str, Any]:
    """Settings for the report, as far as they count."""
    found = {**asdict(settings), "learning_rate": settings.highest_rate}
    unused = ("seed", "divergence", "temperature") if settings.alpha == 1 else ("seed",)
    return {k: v for k, v in found.items() if v is not None and k not in unused}

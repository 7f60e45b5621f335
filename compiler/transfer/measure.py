"""What is measured of teacher and student, on data that choose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2e.compiler.transfer import energy, entropy, gradients, rates
from d2e.compiler.transfer.bounds import Comparison, compare, pearson
from d2e.compiler.transfer.calibrate import calibrate, renormalise
from d2e.compiler.transfer.inputs import Reads
from d2e.compiler.transfer.models import Model
from d2e.compiler.transfer.pairs import Direct, Pairs, array
from d2e.ir import UsageError

CALIBRATED, NORMALISED, COUNTED, ENCODED = 256, 1024, 1000, 2000
"""Samples that set thresholds; that set batch norms; whose spikes are counted; whose encodings are."""
BATCH = 128


@dataclass(eq=False)
class Meter:
    """Measures models against the teacher.

    Attributes:
        teacher: on its device.
        direct: its input.
        reads: the student's input.
        learned, held, test: samples to learn from; held out of them; that stages are measured on.
        device: where models run.
        stages: rows of the report, in the order they were measured.
    """

    teacher: Model
    direct: Direct
    reads: Reads
    learned: Pairs
    held: Pairs
    test: Pairs
    device: torch.device
    stages: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, images: Tensor) -> Tensor:
        """The teacher's logits."""
        return self.teacher.answers(lambda at: self.direct(images[at].to(self.device)), len(images))

    @cached_property
    def answers(self) -> tuple[Tensor, Tensor]:
        """The teacher's logits on ``held`` and on ``test``."""
        held = self.ask(self.held.images)
        return held, held if self.test is self.held else self.ask(self.test.images)

    def sent(self, pairs: Pairs) -> Tensor:
        """What the student receives [n, T, *shape], on the CPU."""
        return pairs.sent(self.reads.send)

    def logits(self, student: Model, pairs: Pairs) -> Tensor:
        """The student's."""
        return student.answers(lambda at: self.sent(pairs.at(at)).to(self.device), len(pairs))

    def held_out(self, student: Model) -> dict[str, Any]:
        """The row of an epoch."""
        return self._compared(student, self.held, self.answers[0]).facts()

    def stage(self, name: str, student: Model) -> Comparison:
        """Measure a student, and keep the row."""
        found = self._compared(student, self.test, self.answers[1])
        counted = self.test.at(slice(0, COUNTED))
        frames = self.sent(counted)
        sent = rates.spikes(student.module, frames)
        wiring = energy.wiring(student.on_cpu().module, student.shape)
        events = energy.events_per_element(np.asarray(frames))
        first, synops = wiring.first(events), wiring.synops(sent)
        self.stages.append({
            "name": name, **found.facts(), "rates": rates.means(sent, frames.shape[1]),
            "input_events": float(events.sum()), "spikes": float(sum(n.sum() for n in sent.values())),
            "synops": first + synops, "counted_samples": len(counted),
            "energy": [energy.event_row(name, first, synops)],
        })
        return found

    def _compared(self, student: Model, pairs: Pairs, answers: Tensor) -> Comparison:
        return compare(array(answers), array(self.logits(student, pairs)), np.asarray(pairs.labels))

    def zero_shot(self, student: Model) -> None:
        """The teacher's weights on events.

        Raises:
            UsageError: D2E-TRANS-002 where they do better than on images, beyond chance, and nothing says they read images.
        """
        found = self.stage("zero-shot", student)
        n, direct, event = found.samples, found.teacher_accuracy, found.accuracy
        error = np.sqrt((direct * (1 - direct) + event * (1 - event)) / n)
        if event - direct > 4 * error and not self.teacher.direct:
            raise UsageError(
                "D2E-TRANS-002", f"the teacher answers {100 * event:.1f} % rightly on events and {100 * direct:.1f} % on "
                "images: it seems to be trained on events", hint="Give the direct-coded network it came from; a checkpoint "
                "that states coding='direct' is taken at its word.")

    def calibrated(self, student: Model) -> Model:
        """With thresholds at which its hidden layers fire as often as the teacher's."""
        few = self.learned.at(slice(0, CALIBRATED))
        wanted = rates.channel_rates(self.teacher.module, self.direct(few.images))
        return replace(student, module=calibrate(student.module, self.sent(few), wanted))

    def renormalised(self, student: Model) -> Model:
        """With batch norms of events' statistics."""
        some = self.learned.at(slice(0, NORMALISED))
        batches = (self.sent(some.at(slice(i, i + BATCH))) for i in range(0, len(some), BATCH))
        return replace(student, module=renormalise(student.module, batches))

    def facts(self, student: Model, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Of teacher, stages, epochs, encoder, gradient, collapse and energy; see `report`."""
        counted = self.test.at(slice(0, COUNTED))
        frames = self.direct(counted.images)
        sent = rates.spikes(self.teacher.module, frames)
        wiring = energy.wiring(self.teacher.on_cpu().module, self.teacher.shape)
        synops, before = wiring.synops(sent), self.stages[0]
        own = rates.means(sent, frames.shape[1])
        encoded = self.test.at(slice(0, ENCODED))
        correlation = pearson([row["held"]["kl"] for row in rows], [row["held"]["top1_gap"] for row in rows])
        return {
            "data": {"train": len(self.learned), "held": len(self.held),
                     **({} if self.test is self.held else {"eval": len(self.test)})},
            "teacher": {
                "accuracy": before["teacher_accuracy"], "soft_accuracy": before["teacher_soft_accuracy"], "rates": own,
                "spikes": float(sum(n.sum() for n in sent.values())), "synops": synops, "mac_first": wiring.mac_first,
            },
            "stages": [{k: v for k, v in stage.items() if k != "energy"} for stage in self.stages],
            **({"epochs": rows} if rows else {}), **({} if correlation is None else {"pearson": correlation}),
            "encoder": entropy.encoder_facts(np.asarray(self.sent(encoded)), np.asarray(encoded.images), self.reads.symbols),
            **self._gradient(student), "collapse": rates.collapse(own, self.stages[-1]["rates"]),
            "energy": [*energy.direct_rows("teacher", wiring.mac_first, synops, frames.shape[1]),
                       *(row for stage in self.stages for row in stage["energy"])],
        }

    def _gradient(self, student: Model) -> Mapping[str, Any]:
        """Theorem 3, where teacher and student have inputs of one shape."""
        if student.shape != self.teacher.shape:
            return {}
        few = self.learned.at(slice(0, CALIBRATED))
        found = gradients.mismatch(self.teacher.module, self.direct(few.images), self.sent(few), few.labels,
                                   readout=self.teacher.read)
        return {"gradient": found}

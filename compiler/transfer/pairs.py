"""The data of a transfer: images for the teacher, what is sent of them for the student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from d2e.compiler import data as data_sets
from d2e.ir import Encoder, UsageError
from d2e.ir.nodes import Array, Shape

Send = Callable[[Tensor], Tensor]
AUGMENTATIONS = ("none", "shift", "flip-shift")
LARGEST = 1 << 24
"""Of one element and step: beyond it float32 has no whole numbers any more."""


@dataclass(frozen=True, eq=False)
class Direct:
    """The teacher's input: the image, normalised if it was trained so, at every step.

    Attributes:
        time_steps: T.
        mean, std: [channels, 1, 1] taken off and divided by; None: images as they are.
    """

    time_steps: int
    mean: Tensor | None = None
    std: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """[batch, T, *shape] of images [batch, *shape]."""
        if self.mean is not None and self.std is not None:
            images = (images - self.mean.to(images.device)) / self.std.to(images.device)
        return images[:, None].expand(-1, self.time_steps, *images.shape[1:])


@dataclass(frozen=True, eq=False)
class Encoded:
    """The student's input: payloads of an encoder, those that the compiled program receives.

    Attributes:
        encoder: with its scale.
        time_steps: T.
    """

    encoder: Encoder
    time_steps: int

    def __call__(self, images: Tensor) -> Tensor:
        """[batch, T, *shape], of the images' floating type."""
        frames = images[:, None].expand(-1, self.time_steps, *images.shape[1:])
        return self.encoder.encode(frames, 0, 1).to(images.dtype)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples.

    Attributes:
        images: [n, *shape] in 0..1.
        labels: [n] class indices.
        events: [n, T, *shape of events] payloads that stand for the images; None: they are encoded.
    """

    images: Tensor
    labels: Tensor
    events: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def at(self, index: Tensor | slice) -> Pairs:
        """Some of them."""
        return Pairs(self.images[index], self.labels[index], None if self.events is None else self.events[index])

    def to(self, device: torch.device) -> Pairs:
        """On a device."""
        return Pairs(self.images.to(device), self.labels.to(device), None if self.events is None else self.events.to(device))

    def sent(self, send: Send | None) -> Tensor:
        """What the student receives [n, T, *shape]: their events, or what is made of the images."""
        if self.events is not None:
            return self.events.to(self.images.dtype)
        assert send is not None
        return send(self.images)

    def split(self, held: int) -> tuple[Pairs, Pairs]:
        """All but the last ``held``, and these."""
        return self.at(slice(0, len(self) - held)), self.at(slice(len(self) - held, len(self)))


def load(source: data_sets.Source, shape: Shape, what: str, events: data_sets.Source | None = None) -> Pairs:
    """Images with labels, and events of the same samples if there are any.

    Raises:
        UsageError: D2E-INPUT-001 for another shape, -002 for NaN, D2E-DATA-003 without labels, D2E-TRANS-010 for values
            beyond 0..1, -012 for events of other samples or of what is no count.
    """
    data = data_sets.load(source, what)
    if data.frames.shape[1:] != shape:
        raise UsageError("D2E-INPUT-001", f"{what} of shape {list(data.frames.shape)} are not images "
                         f"[n, {', '.join(map(str, shape))}]", hint="Give images as the teacher takes them, without time.")
    if data.labels is None:
        raise UsageError("D2E-DATA-003", f"the {what} have no labels", hint="Save them with numpy.savez(x=…, y=…).")
    images = np.asarray(data.frames, np.float32)
    if not np.isfinite(images).all():
        raise UsageError("D2E-INPUT-002", f"the {what} hold NaN or infinity")
    if images.min() < 0 or images.max() > 1:
        raise UsageError(
            "D2E-TRANS-010", f"the {what} reach from {images.min():g} to {images.max():g}; events stand for values in 0..1",
            hint="Divide pixels by 255; a teacher of normalised images takes --mean and --std.",
        )
    pairs = Pairs(torch.from_numpy(images), torch.from_numpy(data.labels.astype(np.int64)))
    return pairs if events is None else _with_events(pairs, data_sets.load(events, f"events of the {what}"), what)


def _with_events(pairs: Pairs, events: data_sets.Data, what: str) -> Pairs:
    same = events.labels is None or (
        len(events) == len(pairs) and bool((torch.from_numpy(events.labels.astype(np.int64)) == pairs.labels).all()))
    if len(events) != len(pairs) or not same or events.frames.ndim < 3:
        raise UsageError("D2E-TRANS-012", f"the events of the {what} are not those of its {len(pairs)} images: "
                         f"{list(events.frames.shape)}{'' if same else ', other labels'}",
                         hint="Give frames [n, time, *shape], one recording for each image, in the same order.")
    return replace(pairs, events=torch.from_numpy(_counts(events.frames, what)))


def _counts(frames: Array, what: str) -> Array:
    """Counts of events in the smallest integers that hold them."""
    whole = frames.dtype.kind != "f" or bool((np.isfinite(frames) & (np.rint(frames) == frames)).all())
    if not whole or frames.size == 0 or frames.min() < 0 or frames.max() > LARGEST:
        raise UsageError("D2E-TRANS-012", f"the events of the {what} are no counts, whole numbers from 0 to {LARGEST:,}",
                         hint="Count the events of every pixel and time step.")
    return np.ascontiguousarray(frames, np.uint8 if frames.max() < 256 else np.int32)


def check_labels(pairs: Pairs, classes: int, what: str) -> None:
    """Raise unless every label is one of the outputs.

    Raises:
        UsageError: D2E-DATA-003.
    """
    low, high = int(pairs.labels.min()), int(pairs.labels.max())
    if low < 0 or high >= classes:
        raise UsageError("D2E-DATA-003", f"the labels of the {what} reach from {low} to {high}, the teacher has {classes} "
                         "outputs", hint="Labels are class indices from 0.")


def augmented(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Images [batch, C, H, W], each moved by up to an eighth of its size over zeros, and half of them mirrored.

    Args:
        images: before they are encoded.
        kind: "none", "shift", or "flip-shift".
        generator: of the numbers drawn, on the CPU.
    """
    if kind == "none":
        return images
    count, _, height, width = images.shape
    if kind == "flip-shift":
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    down, right = height // 8, width // 8
    padded = torch.nn.functional.pad(images, (right, right, down, down))
    y = torch.randint(0, 2 * down + 1, (count, 1, 1, 1), generator=generator).to(images.device)
    x = torch.randint(0, 2 * right + 1, (count, 1, 1, 1), generator=generator).to(images.device)
    rows = y + torch.arange(height, device=images.device)[None, None, :, None]
    columns = x + torch.arange(width, device=images.device)[None, None, None]
    sample = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def array(logits: Tensor) -> Array:
    """As numpy, for measuring."""
    return np.asarray(logits.double().numpy())

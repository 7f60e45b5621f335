"""A small task, bars and spots on noise, and a direct-coded teacher of it that was trained in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import d2e
import d2e.nn as dn
from d2e.ir import D2EError

SHAPE, CLASSES, STEPS = (1, 8, 8), 3, 4
QUICK = {"epochs": 3, "batch": 32, "learning_rate": 0.1}
Samples = tuple[np.ndarray, np.ndarray]


def pictures(count: int, seed: int = 0) -> Samples:
    """Images [count, 1, 8, 8] in 0..1 of a row, a column or a spot, and which of them it is."""
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, CLASSES, count), 0.25 * rng.random((count, *SHAPE))
    for image, label, at in zip(x[:, 0], y, rng.integers(1, 6, count), strict=True):
        image[[at, slice(None), slice(at, at + 2)][label], [slice(None), at, slice(at, at + 2)][label]] += 0.7
    return x.astype(np.float32), y


def network(normalised: bool = True, dropout: float = 0.0) -> dn.Sequential:
    """Two convolutions of hard-reset LIF neurons, and a membrane per class."""
    torch.manual_seed(0)
    return dn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4) if normalised else nn.Identity(), dn.LIF(0.5, 1.0, reset="zero"),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), dn.LIF(0.5, 0.5, reset="zero"), nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(96, CLASSES), dn.LI(0.9))


def over_time(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The image at every step."""
    return torch.as_tensor(images)[:, None].expand(-1, STEPS, *images.shape[1:])


def taught(model: nn.Module, samples: Samples, epochs: int = 12) -> nn.Module:
    """Trained on the images themselves."""
    frames, labels = over_time(samples[0]), torch.from_numpy(samples[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(60):
            loss = functional.cross_entropy(model(frames[part]).mean(1), labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    """All that a model has learned or measured."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def changed(model: nn.Module, other: nn.Module) -> set[str]:
    """Names of what is not bit for bit the same."""
    ours, theirs = weights(model), weights(other)
    assert ours.keys() == theirs.keys()
    return {name for name, value in ours.items() if not np.array_equal(value, theirs[name])}


def codes(raised: pytest.ExceptionInfo[D2EError]) -> str:
    """The code of an error that says what to do."""
    assert raised.value.hint
    return raised.value.code


def never(*_: object) -> None:
    """In place of ``listen``."""
    raise AssertionError("it trained")


@pytest.fixture(scope="session")
def lesson() -> Samples:
    """240 images to learn from."""
    return pictures(240)


@pytest.fixture(scope="session")
def exam() -> Samples:
    """90 others."""
    return pictures(90, 1)


@pytest.fixture(scope="session")
def teacher(lesson: Samples) -> nn.Module:
    """Who answers nearly all of them rightly."""
    return taught(network(dropout=0.1), lesson)


@pytest.fixture(scope="session")
def shelf(teacher: nn.Module, lesson: Samples, exam: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher.pt, train.npz and test.npz."""
    folder = tmp_path_factory.mktemp("shelf")
    dn.save(teacher, folder / "teacher.pt", input_shape=SHAPE, time_steps=STEPS, coding="direct", readout="mean")
    for name, (x, y) in (("train", lesson), ("test", exam)):
        np.savez(folder / f"{name}.npz", x=x, y=y)
    return folder


@pytest.fixture
def transfer(shelf: Path, lesson: Samples, exam: Samples) -> Callable[..., d2e.Transfer]:
    """``d2e.transfer`` of the teacher with a quick training, unless other options are given."""

    def run(**options: Any) -> d2e.Transfer:
        model = options.pop("model", shelf / "teacher.pt")
        return d2e.transfer(model, **{"data": lesson, "eval": exam, **QUICK, **options})

    return run

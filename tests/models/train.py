"""Trains the models of these tests on scikit-learn's digits, each in well under two minutes on a CPU.

    python -m tests.models.train [leaky] [recurrent] [residual]

Writes NAME.pt. Code and split are those of examples/digits, whose test.npz and calibration.npz serve these models too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples.digits.train import rate_code
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tests.models.residual import STEPS, Residual
from torch import Tensor, nn
from torch.nn import functional

from d2e import nn as snn

HERE = Path(__file__).resolve().parent


def rows(images: np.ndarray) -> np.ndarray:
    """Images [n, 8, 8] as 10 steps of 8 payloads up to 16: a row a step, then two of silence."""
    return np.pad(images, ((0, 0), (0, 2), (0, 0))).astype(np.uint8)


def leaky() -> nn.Module:
    """Hard-reset LIF; BatchNorm and AvgPool to fold, biases."""
    options: dict[str, Any] = {"decay": 0.9, "threshold": 1.0, "reset": "zero"}
    return snn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), snn.LIF(**options),
        nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.AvgPool2d(2), snn.LIF(**options),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(24 * 4 * 4, 10), snn.LIF(**options),
    )


def recurrent() -> nn.Module:
    """Recurrent hard-reset CubaLIF, read by a leaky membrane at the last step."""
    hidden = snn.CubaLIF(decay_syn=0.3, decay_mem=0.9, threshold=1.0, reset="zero")
    entry, back = nn.Linear(8, 128), nn.Linear(128, 128)
    with torch.no_grad():
        entry.weight *= 0.25  # payloads reach 16
        back.weight *= 0.5
    return snn.Sequential(entry, snn.Recurrent(hidden, back), nn.Linear(128, 10), snn.LI(decay=0.9))


MODELS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "leaky": (leaky, 12, 3e-3), "recurrent": (recurrent, 200, 2e-3), "residual": (Residual, 15, 3e-3),
}
"""Name -> (maker, epochs, learning rate)."""


def scores(model: nn.Module, frames: Tensor, name: str) -> Tensor:
    """Class scores: spike counts, or the membrane at the last step."""
    out: Tensor = model(frames)
    return out[:, -1] if name == "recurrent" else out.sum(dim=1)


def train(model: nn.Module, name: str, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    """Cross-entropy on the scores; digits shift by up to a pixel from batch to batch."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2 * rate, epochs=epochs, steps_per_epoch=-(-len(x) // 64))
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            frames = torch.roll(x[part], int(torch.randint(-1, 2, ())), x.ndim - 1)
            loss = functional.cross_entropy(scores(model, frames, name), y[part])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    model.eval()


def save(model: nn.Module, name: str) -> None:
    if name == "residual":
        torch.save(model.state_dict(), HERE / "residual.pt")
    elif name == "recurrent":
        snn.save(model, HERE / "recurrent.pt", input_shape=(8,), time_steps=10, max_payload=16, readout="last", name=name)
    else:
        snn.save(model, HERE / "leaky.pt", input_shape=(1, 8, 8), time_steps=STEPS, name=name)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)  # small networks: more threads wait for each other
    digits = load_digits()
    images, labels = digits.images.astype(np.int64), digits.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    y_train, y_test = split[2:]
    for name in names:
        torch.manual_seed(0)
        code = rows if name == "recurrent" else rate_code
        x_train, x_test = code(split[0]), code(split[1])
        make, epochs, rate = MODELS[name]
        model = make()
        start = time.perf_counter()
        train(model, name, torch.from_numpy(x_train).float(), torch.from_numpy(y_train), epochs, rate)
        with torch.no_grad():
            right = scores(model, torch.from_numpy(x_test).float(), name).argmax(dim=1).numpy() == y_test
        seconds = time.perf_counter() - start
        print(f"{name}: held-out {100 * right.mean():.2f} % ({seconds:.0f} s)")
        save(model, name)


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))

r"""Train small convolutional spiking networks on scikit-learn's digits, in under two minutes on a CPU.

Writes, beside this file: model.pt (16 steps of plain spikes) and burst.pt (4 steps, up to 4 spikes each), each with its
input shape and steps; for both, test.npz (held-out digits, with labels) and calibration.npz (some training digits). Then:

    d2e-compile examples/digits/model.pt --calibration examples/digits/calibration.npz --eval examples/digits/test.npz
    d2e-compile examples/digits/burst.pt --burst graded \
        --calibration examples/digits/burst-calibration.npz --eval examples/digits/burst-test.npz
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

from d2e import nn as snn

LEVELS = 16
HERE = Path(__file__).resolve().parent


def rate_code(images: np.ndarray, steps: int) -> np.ndarray:
    """Pixels 0..16 [n, 8, 8] as evenly spread spikes [n, steps, 1, 8, 8] that add up to the pixel, 16 / steps at a time."""
    ramp = np.arange(steps + 1).reshape(-1, 1, 1, 1) * images[None] // steps
    return np.moveaxis(np.diff(ramp, axis=0), 0, 1)[:, :, None].astype(np.uint8)


def build(max_spikes: int = 1) -> snn.Sequential:
    """Two convolutions and a dense layer of soft-reset IF neurons."""
    return snn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), snn.IF(threshold=1.0, reset="subtract", max_spikes=max_spikes),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), snn.IF(threshold=1.0, reset="subtract", max_spikes=max_spikes),
        nn.Flatten(), nn.Dropout(0.4),
        nn.Linear(32 * 4 * 4, 10), snn.IF(threshold=1.0, reset="subtract", max_spikes=max_spikes),
    )


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 20, batch: int = 64) -> None:
    """Cross-entropy on the output's spike counts."""
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, epochs=epochs, steps_per_epoch=-(-len(x) // batch))
    for epoch in range(epochs):
        total = 0.0
        for part in torch.randperm(len(x)).split(batch):
            loss = functional.cross_entropy(model(x[part]).sum(dim=1) / 4, y[part], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part)
        print(f"epoch {epoch + 1:2d}  loss {total / len(x):.4f}")


def example(file: str, prefix: str, name: str, steps: int, max_spikes: int) -> None:
    """Train one network, save it with its data, and say how good it is."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = digits.images.astype(np.int64), digits.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    x_train, x_test = (rate_code(part, steps) for part in split[:2])
    y_train, y_test = split[2:]
    model = build(max_spikes)
    train(model, torch.from_numpy(x_train).float(), torch.from_numpy(y_train))
    model.eval()
    with torch.no_grad():
        right = (model(torch.from_numpy(x_test).float()).sum(dim=1).argmax(dim=1).numpy() == y_test).mean()
    print(f"{name}: held-out accuracy {100 * right:.2f} %")
    snn.save(
        model, HERE / f"{file}.pt", input_shape=(1, 8, 8), time_steps=steps, max_payload=LEVELS // steps, name=name
    )
    np.savez_compressed(HERE / f"{prefix}test.npz", x=x_test, y=y_test.astype(np.uint8))
    np.savez_compressed(HERE / f"{prefix}calibration.npz", x=x_train[:128])


if __name__ == "__main__":
    example("model", "", "digits", steps=16, max_spikes=1)
    example("burst", "burst-", "digits-burst", steps=4, max_spikes=4)

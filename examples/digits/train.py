"""Train a small convolutional spiking network on scikit-learn's digits, in under two minutes on a CPU.

Writes, beside this file: model.pt (the network, its input shape and steps), test.npz (held-out digits as spikes, with
labels) and calibration.npz (some training digits as spikes). Then:

    d2e-compile examples/digits/model.pt --calibration examples/digits/calibration.npz --eval examples/digits/test.npz
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

STEPS = 16
HERE = Path(__file__).resolve().parent


def rate_code(images: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """Pixels 0..16 [n, 8, 8] as evenly spaced spikes [n, steps, 1, 8, 8]: p of 16 steps fire for a pixel of p."""
    ramp = np.arange(steps + 1).reshape(-1, 1, 1, 1) * images[None] // 16
    return np.moveaxis(np.diff(ramp, axis=0), 0, 1)[:, :, None].astype(np.uint8)


def build() -> snn.Sequential:
    """Two convolutions and a dense layer of soft-reset IF neurons."""
    return snn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), snn.IF(threshold=1.0, reset="subtract"),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), snn.IF(threshold=1.0, reset="subtract"),
        nn.Flatten(), nn.Dropout(0.4),
        nn.Linear(32 * 4 * 4, 10), snn.IF(threshold=1.0, reset="subtract"),
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


def main() -> None:
    """Train, save, and say how good it is."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = digits.images.astype(np.int64), digits.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    x_train, x_test = (rate_code(part) for part in split[:2])
    y_train, y_test = split[2:]
    model = build()
    train(model, torch.from_numpy(x_train).float(), torch.from_numpy(y_train))
    model.eval()
    with torch.no_grad():
        right = (model(torch.from_numpy(x_test).float()).sum(dim=1).argmax(dim=1).numpy() == y_test).mean()
    print(f"held-out accuracy {100 * right:.2f} %")
    snn.save(model, HERE / "model.pt", input_shape=(1, 8, 8), time_steps=STEPS, name="digits")
    np.savez_compressed(HERE / "test.npz", x=x_test, y=y_test.astype(np.uint8))
    np.savez_compressed(HERE / "calibration.npz", x=x_train[:128])


if __name__ == "__main__":
    main()

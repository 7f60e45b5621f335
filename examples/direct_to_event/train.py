r"""Train a direct-coded spiking network on scikit-learn's digits, the teacher of a transfer to events, in seconds on a CPU.

Writes, beside this file: teacher.pt, train.npz (images and labels to learn from) and test.npz (held-out ones). Then:

    d2e transfer examples/direct_to_event/teacher.pt --encoding ttfs --method skd --epochs 40 --batch 64 \
        --data examples/direct_to_event/train.npz --eval examples/direct_to_event/test.npz \
        --target loihi2-sim --target speck2f-sim -o build/digits-events

The teacher sees the image itself at every one of 8 steps; the student sees every pixel send one spike, or none. Both chips
take it: its neurons have no leak and its layers no bias, which Speck has neither of.
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

STEPS = 8
HERE = Path(__file__).resolve().parent


def build() -> snn.Sequential:
    """Two convolutions and a dense layer of IF neurons; the answer is who fires most often."""

    def neurons() -> snn.IF:
        return snn.IF(threshold=1.0, reset="subtract", v_min=-1.0)

    return snn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), neurons(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False), neurons(),
        nn.Flatten(), nn.Linear(24 * 4 * 4, 10, bias=False), neurons(),
    )


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 20, batch: int = 64) -> None:
    """Cross-entropy on the output's spike counts, the image at every step."""
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, epochs=epochs, steps_per_epoch=-(-len(x) // batch))
    for epoch in range(epochs):
        total = 0.0
        for part in torch.randperm(len(x)).split(batch):
            loss = functional.cross_entropy(model(over_time(x[part])).sum(dim=1), y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part)
        print(f"epoch {epoch + 1:2d}  loss {total / len(x):.4f}")


def over_time(images: torch.Tensor) -> torch.Tensor:
    """Images [batch, *shape] at every step [batch, time, *shape]."""
    return images[:, None].expand(-1, STEPS, *images.shape[1:])


def main() -> None:
    """Train the teacher, and save it with its data."""
    torch.manual_seed(0)
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=360, random_state=0, stratify=digits.target)
    model = build()
    train(model, torch.from_numpy(x_train), torch.from_numpy(y_train))
    model.eval()
    with torch.no_grad():
        answers = model(over_time(torch.from_numpy(x_test))).sum(dim=1).argmax(dim=1).numpy()
    print(f"teacher: {100 * (answers == y_test).mean():.2f} % of {len(y_test)} held-out digits, image at every step")
    snn.save(model, HERE / "teacher.pt", input_shape=(1, 8, 8), time_steps=STEPS, coding="direct", readout="count")
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        np.savez_compressed(HERE / f"{name}.npz", x=(16 * x).astype(np.uint8) / np.float32(16), y=y.astype(np.uint8))


if __name__ == "__main__":
    main()

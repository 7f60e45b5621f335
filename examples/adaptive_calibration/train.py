r"""Train a small ReLU network on scikit-learn's digits, in seconds on a CPU; d2e converts it into a spiking one.

Writes, beside this file: model.pt (an ordinary torch network that knows no time and no spikes, with the shape of its input),
calibration.npz (600 training images, without labels) and test.npz (held-out images, with labels). Then:

    d2e convert examples/adaptive_calibration/model.pt --method adaptive -T 4 --max-burst 4 -o build/digits.nir \
        --calibration examples/adaptive_calibration/calibration.npz --eval examples/adaptive_calibration/test.npz
    d2e-compile build/digits.nir --target loihi2-sim \
        --calibration examples/adaptive_calibration/calibration.npz --eval examples/adaptive_calibration/test.npz

The method is Adaptive Calibration (Wang et al., AAAI 2025); docs/conversion.md says what it does.
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

HERE = Path(__file__).resolve().parent
CALIBRATION = 600


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution that keeps the size, and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


def build() -> nn.Sequential:
    """A convolution, a residual block of two, another convolution, and a dense layer; `d2e.nn.Residual` is body(x) + x."""
    return nn.Sequential(
        conv(1, 8), nn.ReLU(),
        snn.Residual(nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8))), nn.ReLU(), nn.AvgPool2d(2),
        conv(8, 16), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16 * 2 * 2, 10),
    )


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 20, batch: int = 64) -> None:
    """Cross-entropy."""
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, epochs=epochs, steps_per_epoch=-(-len(x) // batch))
    for epoch in range(epochs):
        total = 0.0
        for part in torch.randperm(len(x)).split(batch):
            loss = functional.cross_entropy(model(x[part]), y[part], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part)
        print(f"epoch {epoch + 1:2d}  loss {total / len(x):.4f}")


def main() -> None:
    """Train and write the files."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target
    x, x_test, y, y_test = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    model = build()
    train(model, torch.from_numpy(x), torch.from_numpy(y))
    model.eval()
    with torch.no_grad():
        right = (model(torch.from_numpy(x_test)).argmax(dim=1).numpy() == y_test).mean()
    print(f"held-out accuracy {100 * right:.2f} %")
    snn.save(model, HERE / "model.pt", input_shape=(1, 8, 8), name="digits-ann")
    np.savez_compressed(HERE / "calibration.npz", x=x[:CALIBRATION])
    np.savez_compressed(HERE / "test.npz", x=x_test, y=y_test.astype(np.uint8))


if __name__ == "__main__":
    main()

"""A convolutional spiking network trained on MNIST, compiled for loihi2-sim at several weight widths.

    python benchmarks/mnist.py --data DIR [--train 12000] [--test 2000] [--output benchmarks/results/mnist.txt]

DIR (or D2E_DATA) holds mnist_train.npz and mnist_test.npz: x, uint8 [n, 28, 28], and y. Training takes some minutes on two
cores. Prints accuracy float and compiled, the largest count error, spikes and the simulator's time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import d2e
from d2e import nn as snn

STEPS = 16
BITS = (8, 6, 4, 3, 2)


def rate_code(images: np.ndarray) -> np.ndarray:
    """Pixels 0..255 [n, 28, 28] as evenly spaced spikes [n, STEPS, 1, 28, 28]."""
    ramp = np.arange(STEPS + 1).reshape(-1, 1, 1, 1) * images[None].astype(np.int64) // 256
    return np.moveaxis(np.diff(ramp, axis=0), 0, 1)[:, :, None].astype(np.uint8)


def build() -> snn.Sequential:
    """conv16 - conv32 with stride 2 - average pooling - dense, soft-reset IF neurons."""
    return snn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), snn.IF(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), snn.IF(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10), snn.IF(),
    )


def train(model: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int, batch: int = 64) -> None:
    """Cross-entropy on spike counts."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, epochs=epochs, steps_per_epoch=-(-len(x) // batch))
    for epoch in range(epochs):
        total = 0.0
        for part in torch.randperm(len(x)).numpy().reshape(-1, batch):
            loss = functional.cross_entropy(
                model(torch.from_numpy(rate_code(x[part])).float()).sum(dim=1) / 2, torch.from_numpy(y[part])
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part)
        print(f"epoch {epoch + 1}  loss {total / len(x):.4f}", file=sys.stderr)
    model.eval()


def main() -> None:
    """Train, compile, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("D2E_DATA"), help="folder of mnist_{train,test}.npz")
    parser.add_argument("--train", type=int, default=12_800, help="training images, a multiple of 64")
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.data is None:
        parser.error("give --data DIR or set D2E_DATA: a folder with mnist_train.npz and mnist_test.npz")
    torch.manual_seed(0)
    with np.load(args.data / "mnist_train.npz") as file:
        x, y = file["x"][: args.train], file["y"][: args.train].astype(np.int64)
    with np.load(args.data / "mnist_test.npz") as file:
        held_out = rate_code(file["x"][: args.test]), file["y"][: args.test].astype(np.int64)
    model = build()
    train(model, x, y, args.epochs)
    lines = [f"MNIST, {args.train} training and {args.test} test images, {STEPS} steps",
             f"{'weight bits':<14}{'float':>9}{'program':>9}{'count error':>13}{'spikes':>9}{'ms/sample':>11}"]
    for bits in BITS:
        program = d2e.compile(
            model, input_shape=(1, 28, 28), time_steps=STEPS, weight_bits=bits, calibration=rate_code(x[:128]),
            calibration_samples=64, eval=held_out,
        )
        program.run(held_out[0][:64])
        start = time.perf_counter()
        program.run(held_out[0])
        each = 1e3 * (time.perf_counter() - start) / args.test
        accuracy, totals = program.report["accuracy"], program.report["totals"]
        lines.append(
            f"{bits:<14}{100 * accuracy['source']:>8.2f}%{100 * accuracy['program']:>8.2f}%"
            f"{accuracy['passes'][-1]['max_count_error']:>13}{totals['spikes_per_sample']:>9,.0f}{each:>11.3f}"
        )
        print(lines[-1], file=sys.stderr)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

r"""Train a small convolutional spiking network on the events of moving shapes for Speck, in minutes on a CPU.

Writes, beside this file: model.pt, test.npz (held-out recordings as frames of counts, with labels), calibration.npz (some
training frames) and recordings/ (one held-out recording of each shape, as timed events). Then:

    d2e-compile examples/shapes/model.pt --target speck2f-sim -o build/shapes \
        --calibration examples/shapes/calibration.npz --eval examples/shapes/test.npz
    d2e run build/shapes --events examples/shapes/recordings/cross.npz

What makes a network fit for this chip, and how it is trained here:

- No leak and no bias: a core has neither between its events. The neurons are IF with a floor, soft reset and any number of
  spikes per step; sum pooling is free, the chip does it where it sends an event.
- A neuron fires at most once per input event. A weight above the threshold would leave charge behind that no later event
  asks for, so weights are clipped to the threshold after every step.
- The chip has no steps: spikes leave before the inhibition of the same moment arrives, so a layer sends more of them than a
  simulation in steps says. Only the start is trained in steps, few and coarse; then the chip's simulator runs every batch.
- Every spike costs synaptic operations, and too many a second stall the chip: the loss holds spikes near a target.

Gradients go through the counts of whole recordings, as in a network of rectified sums: a neuron without leak and with soft
reset sends about charge / threshold spikes (Meng et al., "Training High-Performance Low-Latency Spiking Neural Networks by
Differentiation on Spike Representation", CVPR 2022). So any simulator can run forward, and no graph over time is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import events
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import d2e
from d2e import nn as snn

HERE = Path(__file__).resolve().parent
Run = Callable[[snn.Sequential, Tensor], list[Tensor]]
"""Spikes of every population, [batch, *shape], over all steps of frames [batch, time, 2, y, x]."""

STEPS = 20
COARSE = 5
"""Of ``STEPS`` become one while training starts."""
MAX_PAYLOAD = 15
THRESHOLD = 1.0
SPIKES = 2500
"""Per recording in the hidden layers, which the loss aims at."""
TRAIN, TEST, SHIPPED, CALIBRATION = 4000, 1000, 120, 24


def build() -> snn.Sequential:
    """Three convolutions and a dense layer; each fits any core of the chip."""

    def neurons() -> snn.IF:
        return snn.IF(threshold=THRESHOLD, reset="subtract", max_spikes=0, v_min=-2 * THRESHOLD)

    model = snn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=1, bias=False), neurons(),
        nn.Conv2d(8, 24, 3, padding=1, bias=False), neurons(), snn.SumPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1, bias=False), neurons(), snn.SumPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, len(events.SHAPES), bias=False), neurons(),
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.5)  # so that spikes reach the last layer from the start
    return model


def in_steps(model: snn.Sequential, frames: Tensor) -> list[Tensor]:
    """Spikes of every population over all steps."""
    counts = []
    with torch.no_grad():
        for layer in model:
            frames = snn.Sequential(layer)(frames)
            if isinstance(layer, snn.IF):
                counts.append(frames.sum(dim=1))
    return counts


def on_chip(model: snn.Sequential, frames: Tensor) -> list[Tensor]:
    """Spikes of every population on the chip: the model is compiled as it is now, and run event by event."""
    program = d2e.compile(model, "speck2f-sim", input_shape=tuple(frames.shape[2:]), time_steps=frames.shape[1],
                          max_payload=MAX_PAYLOAD, scale="max")
    counts = program.run(frames.numpy().astype(np.uint8)).counts
    return [torch.from_numpy(counts[name]).float() for name in program.populations]


def with_gradients(model: snn.Sequential, frames: Tensor, counts: list[Tensor]) -> list[Tensor]:
    """The counts, with the gradients of rectified sums."""
    total, found, measured = frames.sum(dim=1), [], iter(counts)
    rise = total
    for layer in model:
        if isinstance(layer, snn.IF):
            total = _rectified(total, rise, next(measured))
            found.append(total)
            continue
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            rise = functional_call(layer, {"weight": layer.weight.clamp(min=0)}, total)
        total = layer(total)
    return found


def _rectified(charge: Tensor, rise: Tensor, spikes: Tensor) -> Tensor:
    """Spikes with the gradient of the charge that made them; a little of it where a neuron was almost active.

    ``charge`` = ``rise`` - fall. At the floor a part of the fall is lost, and counts for nothing: only
    ``rise`` - ``spikes`` of it was felt.
    """
    fall = rise - charge
    felt = ((rise - spikes * THRESHOLD) / fall.clamp(min=1e-6)).clamp(0, 1).detach()
    slope = torch.where(spikes > 0, 1.0, torch.where(charge > -3 * THRESHOLD, 0.1, 0.0))
    smooth = slope * (rise - felt * fall) / THRESHOLD
    return spikes + smooth - smooth.detach()


def mirrored(frames: Tensor) -> Tensor:
    """Frames flipped at random; a mirrored shape is of the same class, and so is one of the other contrast."""
    if torch.rand(()) < 0.5:
        frames = frames.transpose(3, 4)
    return frames.flip([axis for axis in (2, 3, 4) if torch.rand(()) < 0.5])


def train(model: snn.Sequential, x: Tensor, y: Tensor, run: Run, epochs: int, rate: float, batch: int = 64) -> None:
    """Cross-entropy on the output's counts, and a penalty that holds the activity; ``run`` counts spikes."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs=epochs, steps_per_epoch=-(-len(x) // batch))
    start = time.perf_counter()
    for epoch in range(epochs):
        right, spikes = 0, 0.0
        for part in torch.randperm(len(x)).split(batch):
            frames = mirrored(x[part].float())
            *hidden, out = with_gradients(model, frames, run(model, frames))
            active = torch.stack([layer.sum() for layer in hidden]).sum() / len(part)
            loss = functional.cross_entropy(out / 10, y[part], label_smoothing=0.05) + 0.2 * (active / SPIKES - 1) ** 2
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for weight in model.parameters():
                    weight.clamp_(-THRESHOLD, THRESHOLD)
            right += int((out.argmax(dim=1) == y[part]).sum())
            spikes += active.item() * len(part)
        print(f"epoch {epoch + 1:2d}  accuracy {100 * right / len(x):.1f} %  {spikes / len(x):,.0f} spikes "
              f"({time.perf_counter() - start:.0f} s)", flush=True)


def per_cent(guesses: Tensor, y: Tensor) -> float:
    """Accuracy."""
    return 100 * float((guesses == y).float().mean())


def measure(model: snn.Sequential, x: Tensor, y: Tensor, recordings: list[events.Events], calibration: np.ndarray) -> None:
    """Say how good the model is in steps, and the program on frames and on timed events."""
    program = d2e.compile(HERE / "model.pt", "speck2f-sim", calibration=calibration)
    timed = [program.stream(vars(recording)).counts[list(program.populations)[-1]].argmax() for recording in recordings]
    found = {
        "in steps": in_steps(model, x.float())[-1].argmax(dim=1),
        "on the chip, frames": torch.from_numpy(program.run(x.numpy()).output.sum(axis=1).argmax(axis=1)),
        "on the chip, timed events": torch.tensor(timed),
    }
    print(f"held-out accuracy on {len(x)} recordings:", "; ".join(f"{k} {per_cent(v, y):.1f} %" for k, v in found.items()))


def save(model: snn.Sequential, x: Tensor, y: Tensor, recordings: list[events.Events], calibration: np.ndarray) -> None:
    """The model and its data, all small."""
    snn.save(model, HERE / "model.pt", input_shape=(2, events.SIZE, events.SIZE), time_steps=STEPS, max_payload=MAX_PAYLOAD,
             dt=1e-6 * events.DURATION_US / STEPS, name="shapes")
    np.savez_compressed(HERE / "test.npz", x=x[:SHIPPED].numpy(), y=y[:SHIPPED].numpy().astype(np.uint8))
    np.savez_compressed(HERE / "calibration.npz", x=calibration)
    (HERE / "recordings").mkdir(exist_ok=True)
    for name, recording in zip(events.SHAPES, recordings, strict=False):
        columns = {key: getattr(recording, key).astype(np.uint8) for key in ("x", "y", "p")}
        np.savez_compressed(HERE / "recordings" / f"{name}.npz", t=recording.t.astype(np.uint32), **columns)


def main() -> None:
    """Make the data, train in two stages, save, measure."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a small network: more threads wait for each other
    x, y = map(torch.from_numpy, events.dataset(TRAIN, 1, STEPS))
    recordings, labels = events.recordings(TEST, 2)
    x_test, y_test = torch.from_numpy(np.stack([events.frames(r, STEPS) for r in recordings])), torch.from_numpy(labels)
    model = build()
    coarse = x.reshape(TRAIN, STEPS // COARSE, COARSE, *x.shape[2:]).sum(dim=2)
    train(model, coarse, y, in_steps, epochs=40, rate=5e-3)
    train(model, x, y, on_chip, epochs=20, rate=2e-3)
    calibration = x[:CALIBRATION].numpy()
    save(model, x_test, y_test, recordings, calibration)
    measure(model, x_test, y_test, recordings, calibration)


if __name__ == "__main__":
    main()

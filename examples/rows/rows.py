r"""A recurrent network of snnTorch that reads digits row by row, and `build`, the factory that d2e takes.

    pip install snntorch
    cd examples/rows
    d2e check rows:build --against-source --data test.npz       # snnTorch's spikes are d2e's
    d2e-compile rows:build --calibration calibration.npz --eval test.npz

``python rows.py`` trains it again, in under a minute on a CPU: weights.npz, and for both commands test.npz (held-out digits
with labels) and calibration.npz (some training digits). The digits are scikit-learn's, 8 x 8 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import snntorch
import torch
from snntorch import surrogate
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
REPEAT = 4
"""Steps for which a row is shown; a white pixel sends a spike in each."""
HIDDEN = 128


class Rows(nn.Module):
    """8 columns -> recurrent current-based neurons -> 10 classes, as snnTorch's tutorials write a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        shared: dict[str, Any] = {"alpha": 0.8, "beta": 0.95, "reset_mechanism": "zero", "spike_grad": surrogate.atan()}
        self.fc1 = nn.Linear(8, HIDDEN)
        self.lif1 = snntorch.RSynaptic(linear_features=HIDDEN, **shared)
        self.fc2 = nn.Linear(HIDDEN, 10)
        self.lif2 = snntorch.Synaptic(**shared)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output spikes [time, batch, 10] of spikes [time, batch, 8]."""
        spk1, syn1, mem1 = self.lif1.init_rsynaptic()
        syn2, mem2 = self.lif2.init_synaptic()
        sent = []
        for step in range(x.size(0)):
            spk1, syn1, mem1 = self.lif1(self.fc1(x[step]), spk1, syn1, mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            sent.append(spk2)
        return torch.stack(sent)


def build() -> tuple[nn.Module, dict[str, Any]]:
    """The trained model, and what it does not say itself."""
    with np.load(HERE / "weights.npz") as kept:
        weights = {name: torch.from_numpy(kept[name]) for name in kept.files}
    model = Rows()
    model.load_state_dict(weights)
    return model, {"input_shape": (8,), "time_steps": 8 * REPEAT}


def encode(images: np.ndarray) -> np.ndarray:
    """Pixels 0..16 [n, 8, 8] as spikes [n, 8 * REPEAT, 8]: row after row, a pixel of 16 sends `REPEAT` of them."""
    ramp = np.arange(REPEAT + 1).reshape(-1, 1, 1, 1) * images[None] // 16
    return np.moveaxis(np.diff(ramp, axis=0), 0, 2).reshape(len(images), -1, 8).astype(np.uint8)


def train(x: torch.Tensor, y: torch.Tensor, epochs: int = 60, batch: int = 64) -> Rows:
    """Cross-entropy on the output's spike counts."""
    model = Rows()
    with torch.no_grad():
        model.fc1.weight.mul_(2)
        model.lif1.recurrent.weight.mul_(0.5)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, epochs=epochs, steps_per_epoch=-(-len(x) // batch))
    for epoch in range(epochs):
        for part in torch.randperm(len(x)).split(batch):
            loss = functional.cross_entropy(model(x[part].transpose(0, 1)).sum(0) / 2, y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1:2d}  loss {loss.item():.4f}")
    return model


def main() -> None:
    """Train and write the files."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    torch.manual_seed(1)
    torch.set_num_threads(1)
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        encode(digits.images.astype(int)), digits.target, test_size=360, random_state=0, stratify=digits.target)
    model = train(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    np.savez_compressed(HERE / "weights.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    np.savez_compressed(HERE / "test.npz", x=x_test, y=y_test.astype(np.uint8))
    np.savez_compressed(HERE / "calibration.npz", x=x[:96])


if __name__ == "__main__":
    main()

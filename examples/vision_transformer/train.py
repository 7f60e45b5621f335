r"""Train a small vision transformer on scikit-learn's digits, in a minute on a CPU; d2e converts it to one time step.

    python examples/vision_transformer/train.py

writes, beside this file: weights.pt (of an ordinary torch network with LayerNorm, softmax attention and GELU, that knows no
time and no spikes), calibration.npz (600 training images, without labels) and test.npz (360 held-out images, with labels).
`build` makes the network of them. From the folder above examples/:

    d2e convert examples.vision_transformer.train:build --method single-step -o build/vit.nir \
        --calibration examples/vision_transformer/calibration.npz --eval examples/vision_transformer/test.npz
    d2e-compile build/vit.nir --target loihi2-sim --burst graded -o build/vit \
        --calibration examples/vision_transformer/calibration.npz --eval examples/vision_transformer/test.npz
    d2e run build/vit --data examples/vision_transformer/test.npz

Linear layers and GELU run on the chip, as neurons of several thresholds; attention, LayerNorm and the residual sums run on
the host between them (docs/conversion.md, "Transformers").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from d2e import nn as snn

HERE = Path(__file__).resolve().parent
CALIBRATION = 600
DIM, HEADS, BLOCKS, PATCH = 32, 4, 2, 2


class Patches(nn.Module):
    """Images [n, 1, 8, 8] as tokens [n, 16, dim], each with what its place adds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, DIM, PATCH, PATCH)
        self.place = nn.Parameter(0.02 * torch.randn(1, (8 // PATCH) ** 2, DIM))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens."""
        return self.conv(images).flatten(2).transpose(1, 2) + self.place


class Transformer(nn.Module):
    """A pre-norm vision transformer with mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.blocks = nn.Sequential(*(nn.Sequential(
            snn.Residual(nn.Sequential(nn.LayerNorm(DIM), snn.SelfAttention(DIM, HEADS))),
            snn.Residual(nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))),
        ) for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10]."""
        return self.head(self.norm(self.blocks(self.patches(images))).mean(dim=1))


def build() -> tuple[nn.Module, dict[str, object]]:
    """The trained network, as a factory that `d2e convert` takes."""
    model = Transformer()
    model.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
    return model.eval(), {"input_shape": (1, 8, 8), "name": "digits-vit"}


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 60, batch: int = 64) -> None:
    """Cross-entropy, on images with noise."""
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, epochs=epochs, steps_per_epoch=-(-len(x) // batch))
    for epoch in range(epochs):
        total = 0.0
        for part in torch.randperm(len(x)).split(batch):
            noisy = x[part] + 0.1 * torch.randn_like(x[part])
            loss = functional.cross_entropy(model(noisy), y[part], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part)
        print(f"epoch {epoch + 1:2d}  loss {total / len(x):.4f}")


def main() -> None:
    """Train and write the files."""
    from sklearn.datasets import load_digits  # scikit-learn is needed to train, not to build
    from sklearn.model_selection import train_test_split

    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target
    x, x_test, y, y_test = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    model = Transformer()
    train(model, torch.from_numpy(x), torch.from_numpy(y))
    model.eval()
    with torch.no_grad():
        right = (model(torch.from_numpy(x_test)).argmax(dim=1).numpy() == y_test).mean()
    print(f"held-out accuracy {100 * right:.2f} %")
    torch.save(model.state_dict(), HERE / "weights.pt")
    np.savez_compressed(HERE / "calibration.npz", x=x[:CALIBRATION])
    np.savez_compressed(HERE / "test.npz", x=x_test, y=y_test.astype(np.uint8))


if __name__ == "__main__":
    main()

"""The two networks of the simulator benchmark, with their input spikes and the spike counts they must give.

numpy only, so that every engine (d2e, Lava, the frameworks in their own environments) can read the very same
arrays. `make_networks` makes them, `spike_counts` says what a correct engine counts, `save` writes a file.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Fire = Literal["ge", "gt"]
FIRE: tuple[Fire, Fire] = ("ge", "gt")
MAX_WEIGHT = 126  # even weights only: Loihi's signed 8-bit weights have no odd values


@dataclass(frozen=True)
class Layer:
    """One layer: weight shape, neurons, firing threshold, mean and spread of the weights, stride.

    Thresholds are powers of two, so that ``weight / threshold`` and every potential are exact in float32.
    """

    shape: tuple[int, ...]
    neurons: int
    threshold: int
    mean: float
    spread: float
    stride: int = 1


@dataclass(frozen=True)
class Spec:
    """A network: time steps, input shape and layers; the neurons after every layer are soft-reset IF."""

    steps: int
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]


SPECS: dict[str, Spec] = {
    "mlp": Spec(64, (784,), (Layer((256, 784), 256, 512, -2.0, 48.0), Layer((10, 256), 10, 512, 0.0, 48.0))),
    "cnn": Spec(
        32,
        (1, 28, 28),
        (
            Layer((16, 1, 3, 3), 16 * 28 * 28, 256, 32.0, 60.0),
            Layer((32, 16, 3, 3), 32 * 14 * 14, 256, 2.0, 40.0, stride=2),
            Layer((10, 6272), 10, 512, 0.0, 10.0),
        ),
    ),
}


def make_networks(seed: int = 0, samples: int = 32) -> dict[str, Array]:
    """Random weights on Loihi's 8-bit grid, and input spikes with the statistics of rate-coded MNIST.

    For each network (``mlp``: 784-256-10, 64 steps; ``cnn``: 1x28x28, conv16 3x3 pad 1, conv32 3x3 stride 2
    pad 1, dense10, 32 steps) and each layer ``i``:

    - ``<net>.<i>.weight_int``: int16, even, normally distributed and clipped to +-126. With the integer
      threshold ``<net>.<i>.threshold`` this is the network that d2e and Lava run.
    - ``<net>.<i>.weight``: float32, ``weight_int / threshold``, for engines with threshold 1. All are dyadic
      numbers: float32 sums are exact, and every engine with the same fire rule must give the same spikes.
    - ``x_<net>``: uint8 [samples, T, ...]. One thick random stroke per sample inside the central 20x20 pixels
      covers 19 % of the image; each of its pixels has a rate of its own, up to 0.5 (mean 1/3), and spikes are
      Bernoulli draws at that rate. On average 6 to 7 % of the inputs spike in a step.
    - ``spikes_<net>_ge``, ``spikes_<net>_gt``: int64 [samples, layers], what a correct engine counts
      (`spike_counts`).

    There is no bias and no leak. Means and spreads of the weights were chosen so that 5 to 15 % of a hidden
    layer's neurons spike in a step.

    Args:
        seed: of the random generator; the same seed gives the same arrays.
        samples: number of input samples per network.

    Returns:
        The arrays by key, ready for `numpy.savez`.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for name, spec in SPECS.items():
        for i, layer in enumerate(spec.layers):
            drawn = rng.normal(layer.mean, layer.spread, layer.shape)
            even = 2 * np.rint(np.clip(drawn, -MAX_WEIGHT, MAX_WEIGHT) / 2)
            arrays[f"{name}.{i}.weight_int"] = even.astype(np.int16)
            arrays[f"{name}.{i}.weight"] = (even / layer.threshold).astype(np.float32)
            arrays[f"{name}.{i}.threshold"] = np.array(layer.threshold, np.int32)
        rates = np.stack([_stroke(rng) for _ in range(samples)])
        draws = rng.random((spec.steps, samples, 28, 28)) < rates
        x = draws.swapaxes(0, 1).reshape(samples, spec.steps, *spec.input_shape)
        arrays[f"x_{name}"] = x.astype(np.uint8)
        for fire in FIRE:
            arrays[f"spikes_{name}_{fire}"] = spike_counts(arrays, name, fire)
    return arrays


def _stroke(rng: np.random.Generator) -> Array:
    """Spike rates [28, 28]: a 3x3 brush walks about in the central 20x20 until it has touched 149 pixels."""
    touched = np.zeros((28, 28), bool)
    y, x = rng.integers(9, 19, 2)
    while touched.sum() < 149:
        dy, dx = rng.integers(-1, 2, 2)
        for _ in range(rng.integers(2, 6)):  # straight pieces
            y, x = np.clip([y + dy, x + dx], 5, 22)
            touched[y - 1 : y + 2, x - 1 : x + 2] = True
    return np.asarray(touched * 0.5 * np.sqrt(rng.random((28, 28))))


def spike_counts(arrays: dict[str, Array], network: str, fire: Fire = "gt") -> Array:
    """Spikes of each sample and layer, summed over neurons and steps, in exact integer arithmetic.

    All layers see step ``t`` in step ``t``; an engine with a step of delay per layer loses the last steps.

    Args:
        arrays: what `make_networks` returned.
        network: ``"mlp"`` or ``"cnn"``.
        fire: a neuron fires at ``v >= threshold`` ("ge": SpikingJelly, sinabs) or at ``v > threshold`` ("gt":
            Loihi, snnTorch, Norse); then the threshold is subtracted.

    Returns:
        int64 [samples, layers].
    """
    counts = []
    for x in arrays[f"x_{network}"]:  # one by one: the windows of a convolution are large
        s = x[None].astype(np.float32)
        for i, layer in enumerate(SPECS[network].layers):
            weight = arrays[f"{network}.{i}.weight_int"].astype(np.float32)
            s = _if_neurons(_synapses(s, weight, layer.stride), layer.threshold, fire)
            counts.append(int(s.sum()))
    return np.array(counts).reshape(-1, len(SPECS[network].layers))


def _synapses(s: Array, weight: Array, stride: int) -> Array:
    """Input sums of a dense layer or a 3x3 convolution with padding 1 over [N, T, ...]; exact below 2**24."""
    if weight.ndim == 2:
        return np.asarray(s.reshape(*s.shape[:2], -1) @ weight.T)
    padded = np.pad(s, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(-2, -1))
    sums = np.tensordot(windows[..., ::stride, ::stride, :, :], weight, axes=((2, 5, 6), (1, 2, 3)))
    return np.moveaxis(sums, -1, 2)


def _if_neurons(current: Array, threshold: int, fire: Fire) -> Array:
    """Spikes of soft-reset IF neurons over [N, T, ...]."""
    spikes = np.empty_like(current)
    v = np.zeros_like(current[:, 0])
    for t in range(current.shape[1]):
        v += current[:, t]
        spikes[:, t] = v >= threshold if fire == "ge" else v > threshold
        v -= threshold * spikes[:, t]
    return spikes


def save(path: Path, seed: int = 0, samples: int = 32) -> dict[str, Array]:
    """Write the arrays of `make_networks` to an npz file and return them."""
    arrays = make_networks(seed, samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


def main() -> None:
    """Write the npz file and print how often each layer spikes, per neuron and step."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    arrays = save(args.file, args.seed)
    for name, spec in SPECS.items():
        steps = len(arrays[f"x_{name}"]) * spec.steps
        counts = arrays[f"spikes_{name}_gt"].sum(0)
        rates = [n / (steps * layer.neurons) for n, layer in zip(counts, spec.layers, strict=True)]
        print(f"{name}: input {arrays[f'x_{name}'].mean():.3f}, layers", *(f"{rate:.3f}" for rate in rates))


if __name__ == "__main__":
    main()

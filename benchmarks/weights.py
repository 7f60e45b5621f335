"""What weight bits cost: how weights are rounded, bits per layer within a budget, a power of two per channel.

    python benchmarks/weights.py [--data DIR] [--output benchmarks/results/weights.txt]

The two digits examples (examples/digits/train.py makes them) on their 360 held-out digits; with DIR, which holds
mnist_train.npz and mnist_test.npz, also the network of benchmarks/mnist.py. "error" is the mean difference between the
program's and the float network's spike count of an output neuron.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import d2e
from d2e.compiler.frontends.files import load_model
from d2e.compiler.measure import reference_run
from d2e.compiler.paths import paths_into
from d2e.ir import Network, UnsupportedError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "digits"
BITS = (8, 6, 5, 4, 3, 2)
BUDGETS = (5.0, 4.0, 3.0, 2.5)
PASSES = "discretise,canonicalise,check-rules,encode-input,fold-thresholds,quantise{compensate=false},map-neurons,place"
CHANNEL_EXPONENTS = range(4)


class Case:
    """A trained network with its data; the float network's counts are computed once."""

    def __init__(self, name: str, network: Network, calibration: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        self.name, self.network, self.calibration, self.x, self.y = name, network, calibration, x, y
        self.wanted = reference_run(network, x).output.sum(axis=1)

    def measured(self, network: Network | None = None, **options: Any) -> str:
        """Accuracy and error of a compile."""
        try:
            program = d2e.compile(network or self.network, **options)
        except UnsupportedError as error:
            return f"{error.code:>16}"
        found = program.run(self.x).output.sum(axis=1)
        return f"{100 * (found.argmax(axis=1) == self.y).mean():>8.2f}%{np.abs(found - self.wanted).mean():>7.3f}"


def rounding(case: Case) -> Iterator[str]:
    """Three ways to the same number of bits."""
    yield f"{case.name}: float {100 * (case.wanted.argmax(axis=1) == case.y).mean():.2f} %, {len(case.y)} samples"
    yield f"{'weight bits':<13}{'no calibration':>18}{'nearest':>18}{'compensated':>18}"
    yield f"{'':<13}" + f"{'accuracy':>11}{'error':>7}" * 3
    for bits in BITS:
        plain = case.measured(weight_bits=bits)
        near = case.measured(weight_bits=bits, calibration=case.calibration, passes=PASSES)
        best = case.measured(weight_bits=bits, calibration=case.calibration)
        yield f"{bits:<13}{plain:>18}{near:>18}{best:>18}"
        print(f"{case.name} {bits}", file=sys.stderr)


def budgets(case: Case) -> Iterator[str]:
    """The same mean number of bits for every layer, and shared out."""
    yield f"{case.name}, compensated: one width for all layers, and --weight-bits auto"
    yield f"{'mean bits':<13}{'uniform':>18}{'auto':>18}  widths"
    for budget in BUDGETS:
        same = case.measured(weight_bits=int(budget), calibration=case.calibration) if budget == int(budget) else ""
        options: dict[str, Any] = {"weight_bits": "auto", "budget": budget, "calibration": case.calibration}
        quantised = d2e.compile(case.network, stop_after="quantise", **options).network
        chosen = [
            next(quantised.nodes[s].quantized.bits for s in path.synapses if hasattr(quantised.nodes[s], "quantized"))  # type: ignore[attr-defined]
            for name in case.network.populations for path in paths_into(quantised, name) if len(path.synapses)
        ]
        yield f"{budget:<13g}{same:>18}{case.measured(**options):>18}  {' '.join(map(str, chosen))}"
        print(f"{case.name} {budget}", file=sys.stderr)


def channels(case: Case) -> Iterator[str]:
    """Weights rounded before the compile, which at 8 bits then loses nothing: one step per layer, or one per channel.

    A channel's step is the layer's times a power of two; on the chip each further exponent is one more synapse.
    """
    yield f"{case.name}, no calibration: a step per layer, and a power of two of it per channel"
    yield f"{'weight bits':<13}{'per layer':>18}{'per channel':>18}"
    for bits in (4, 3, 2):
        parts = [case.measured(case.network.map(lambda _, node: _on_grid(node, bits, shifts)), weight_bits=8)  # noqa: B023
                 for shifts in (range(1), CHANNEL_EXPONENTS)]
        yield f"{bits:<13}{parts[0]:>18}{parts[1]:>18}"


def _on_grid(node: Any, bits: int, shifts: range) -> Any:
    if not hasattr(node, "weight"):
        return node
    rows = node.weight.reshape(len(node.weight), -1).astype(np.float64)
    half, best = 1 << (bits - 1), None
    for step in np.abs(rows).max() / half * np.geomspace(0.1, 1.5, 40):
        steps = step * 2.0 ** np.array(shifts)[:, None, None]
        rounded = np.clip(np.rint(rows / steps), -half, half - 1) * steps
        errors = np.square(rounded - rows).sum(axis=2)
        if best is None or errors.min(axis=0).sum() < best[0]:
            best = errors.min(axis=0).sum(), rounded[errors.argmin(axis=0), np.arange(len(rows))]
    assert best is not None
    return type(node)(**{**vars(node), "weight": best[1].reshape(node.weight.shape)})


def cases(data: Path | None) -> Iterator[Case]:
    """The examples, and MNIST where there are data."""
    for name, file, prefix in (("digits", "model.pt", ""), ("digits, bursts", "burst.pt", "burst-")):
        with np.load(EXAMPLES / f"{prefix}test.npz") as test, np.load(EXAMPLES / f"{prefix}calibration.npz") as seen:
            yield Case(name, load_model(EXAMPLES / file), seen["x"], test["x"], test["y"].astype(np.int64))
    if data is not None:
        yield _mnist(data)


def _mnist(data: Path) -> Case:
    from mnist import STEPS, build, rate_code, train

    torch.manual_seed(0)
    with np.load(data / "mnist_train.npz") as file:
        x, y = file["x"][:12_800], file["y"][:12_800].astype(np.int64)
    model = build()
    train(model, x, y, 2)
    with np.load(data / "mnist_test.npz") as file:
        held_out = rate_code(file["x"][:1000]), file["y"][:1000].astype(np.int64)
    network = load_model(model, input_shape=(1, 28, 28), time_steps=STEPS)
    return Case("MNIST", network, rate_code(x[:64]), *held_out)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of mnist_{train,test}.npz")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[str] = []
    for case in cases(args.data):
        for table in (rounding, budgets, channels):
            lines += [*table(case), ""]
            print("\n".join(lines[-9:]), file=sys.stderr)
    text = "\n".join(lines)
    print(text, end="")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Training steps of d2e.nn: neurons as one compiled loop over time, beside the same step by step.

    python benchmarks/nn_training.py [--pairs 15] [--output benchmarks/results/nn_training.txt]

Each row is a forward and a backward pass over [32, 8, 1, 28, 28] (a layer alone: [32, 8, 16, 28, 28]). Both ways run in turn
on the same frames, on one thread; what is written is the median of the ratios of neighbours in processor time, with the
quartiles, so that other work on the machine meets both. The outputs are compared too.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

import d2e.nn
from d2e.compiler.nn.fused import fits

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.spiking_models.cnn import spiking_cnn
from examples.spiking_models.sew_resnet import sew_resnet
from examples.spiking_models.vgg import spiking_vgg
from examples.spiking_models.wrn import spiking_wrn

MODELS: dict[str, Callable[[], nn.Module]] = {
    "LIF, hard reset, alone": lambda: d2e.nn.LIF(0.5, reset="zero"),
    "IF, soft reset, alone": lambda: d2e.nn.IF(),
    "spiking_cnn()": spiking_cnn, "spiking_vgg()": spiking_vgg, "spiking_wrn()": spiking_wrn, "sew_resnet()": sew_resnet,
}
BATCH, STEPS = 32, 8


def seconds(model: nn.Module, frames: Tensor, fused: bool) -> tuple[float, Tensor]:
    """Processor time of one forward and backward pass, and the output."""
    model.zero_grad()
    frames.grad = None
    with mock.patch("d2e.compiler.nn.dynamics.fits", fits if fused else lambda *_: False):
        start = time.process_time()
        out = model(frames)
        out.backward(torch.ones_like(out))
        return time.process_time() - start, out.detach()


def ratios(model: nn.Module, frames: Tensor, pairs: int) -> list[float]:
    """Time step by step over time fused, for every pair; which goes first alternates."""
    found = []
    for pair in range(-2, pairs):  # two to warm up
        took, outputs = {}, {}
        for fused in ((True, False), (False, True))[pair % 2]:
            took[fused], outputs[fused] = seconds(model, frames, fused)
        if not torch.equal(outputs[True], outputs[False]):
            raise SystemExit("the outputs differ")
        if pair >= 0:
            found.append(took[False] / took[True])
    return found


def main() -> None:
    """Measure every model and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        f"python benchmarks/nn_training.py --pairs {options.pairs}",
        f"torch {torch.__version__}, {platform.machine()}; batch {BATCH}, T = {STEPS}, forward and backward",
        "step by step / fused: median of paired ratios (quartiles)",
    ]
    for name, build in MODELS.items():
        alone = "alone" in name
        frames = torch.rand(BATCH, STEPS, 16 if alone else 1, 28, 28).requires_grad_(alone)
        low, middle, high = statistics.quantiles(ratios(build(), frames, options.pairs), n=4)
        lines.append(f"{name:<24} {middle:6.2f}  ({low:.2f} .. {high:.2f})")
        print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

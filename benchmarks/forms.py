"""What each form of a neuron on Loihi 2 costs, and how far the approximate ones drift; nothing here is timed.

    python benchmarks/forms.py [--output benchmarks/results/forms.txt]

First table: the burst example in both forms, as compiled and measured on its held-out digits. Second: random layers of
neurons whose form is approximate, against the same network in its exact form.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import d2e
from d2e import nn as snn

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "digits"
NETWORKS = 20


def burst_forms() -> list[str]:
    """Cores, spikes and synops of the burst example in every form, and whether predictions agree."""
    data = {key: EXAMPLE / f"burst-{key}.npz" for key in ("calibration", "test")}
    lines = ["burst example (phi = 4, 4 steps, 360 held-out digits)",
             f"{'form':<12}{'neurons':>9}{'synapses':>10}{'cores':>7}{'spikes':>10}{'synops':>10}{'accuracy':>10}"]
    outputs = {}
    with np.load(data["test"]) as file:
        frames = file["x"]
    for burst in ("replicas", "graded"):
        program = d2e.compile(EXAMPLE / "burst.pt", burst=burst, calibration=data["calibration"], eval=data["test"])
        totals, right = program.report["totals"], program.report["accuracy"]["program"]
        outputs[burst] = program.run(frames).output
        lines.append(
            f"{burst:<12}{totals['neurons']:>9,}{totals['synapses']:>10,}{totals['cores']:>7}"
            f"{totals['spikes_per_sample']:>10,.1f}{totals['synops_per_sample']:>10,.0f}{100 * right:>9.2f}%"
        )
    same = bool((outputs["replicas"] == outputs["graded"]).all())
    lines.append(f"outputs of all samples and steps {'identical' if same else 'DIFFERENT'} in both forms")
    return lines


def layer(seed: int, neuron: Any) -> snn.Sequential:
    """Two random layers of 64 and 32 neurons that fire at moderate rates."""
    torch.manual_seed(seed)
    model = snn.Sequential(nn.Linear(32, 64, bias=False), neuron(), nn.Linear(64, 32, bias=False), neuron())
    with torch.no_grad():
        for each in (model[0], model[2]):
            each.weight.copy_(torch.randn_like(each.weight) * 0.25 + 0.04)
    return model


def drift(neuron: Any, steps: int, target: str, **options: Any) -> tuple[float, float]:
    """Mean and worst share of spikes that differ in the counts of a network, over `NETWORKS` networks."""
    shares = []
    for seed in range(NETWORKS):
        frames = (np.random.default_rng(seed).random((8, steps, 32)) < 0.3).astype(np.int64)
        model = layer(seed, neuron)
        exact = d2e.compile(model, input_shape=(32,), time_steps=steps).run(frames)
        other = d2e.compile(model, target, input_shape=(32,), time_steps=steps, **options).run(frames)
        moved = sum(float(np.abs(exact.counts[n] - other.counts[n]).sum()) for n in exact.counts)
        shares.append(moved / max(1.0, sum(float(c.sum()) for c in exact.counts.values())))
    return float(np.mean(shares)), float(np.max(shares))


def drifts() -> list[str]:
    """The table of approximate forms."""
    cases: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "CubaLIF (0.5, 0.9), soft reset becomes hard": (
            lambda: snn.CubaLIF(0.5, 0.9, reset="subtract"), "loihi2", {}),
        "CubaLIF (0.8, 0.95), soft reset becomes hard": (
            lambda: snn.CubaLIF(0.8, 0.95, reset="subtract"), "loihi2", {}),
        "IF, soft reset, fallback registers": (lambda: snn.IF(), "loihi2-sim", {"soft_reset": "fallback"}),
        "LIF 0.9, soft reset, fallback registers": (
            lambda: snn.LIF(0.9, reset="subtract"), "loihi2-sim", {"soft_reset": "fallback"}),
        "IF burst of 4, replicas, fallback registers": (
            lambda: snn.IF(max_spikes=4), "loihi2-sim", {"soft_reset": "fallback", "burst": "replicas"}),
    }
    lines = [f"drift of approximate forms: share of spike counts moved, mean (worst) of {NETWORKS} random networks",
             f"{'':<46}{'16 steps':>18}{'64 steps':>18}{'256 steps':>18}"]
    for name, (neuron, target, options) in cases.items():
        found = [drift(neuron, steps, target, **options) for steps in (16, 64, 256)]
        lines.append(f"{name:<46}" + "".join(f"{f'{100 * m:.2f}% ({100 * w:.2f}%)':>18}" for m, w in found))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the tables here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    text = "\n".join([*burst_forms(), "", *drifts()]) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

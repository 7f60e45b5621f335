"""Single-step conversion of ResNet-20 on CIFAR-10: levels, spacing and budgets, on the whole test set.

    python benchmarks/single_step.py --data DIR [--images 10000] [--only VARIANT,…]

For the data see resnet20.py. Rows are kept in results/single_step.jsonl as they are measured, a later run measures what is
missing; results/single_step.txt, and adaptive.svg with adaptive.py's rows, are made of all rows. Test images and labels
choose nothing.

synops: a crossed level is a spike, times the synapses it reaches. messages: what is sent is one spike that carries an
integer of so many bits. energy: synops at 0.9 pJ an addition against the ANN's multiplications at 4.6 pJ, 45 nm
(Horowitz 2014): an estimate for comparison with papers, of no chip.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import adaptive
import numpy as np
import resnet20

import d2e
from d2e.compiler import equivalence
from d2e.compiler.convert.single_step.engine import Plan, simulate, traffic
from d2e.compiler.convert.single_step.staircase import Staircase
from d2e.compiler.convert.skeleton import Skeleton
from d2e.ir import Network

HERE = Path(__file__).parent / "results"
KEPT = HERE / "single_step.jsonl"
FITTED, CHUNK = 512, 250
ADDITION, MULTIPLICATION, MACS = 0.9e-12, 4.6e-12, 40.6e6
"""Joules, and multiplications of one image in the ANN."""
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"uniform, N {n}": {"levels": n, "spacing": "uniform"} for n in (4, 8, 16, 32)},
    **{f"fitted, N {n}": {"levels": n} for n in (4, 8, 16, 32)},
    **{f"fitted, N {n}, budget {share}": {"levels": n, "budget": share} for n in (8, 16, 32) for share in (0.8, 0.6, 0.4)},
    "fitted, N 8, bayes": {"levels": 8, "search": "bayes"},
    "uniform, N 8, floor": {"levels": 8, "spacing": "uniform", "start": "floor"},
}
CASES = 4
"""Images that certify the cases of the layers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--only", help="variants, separated by semicolons")
    given = parser.parse_args()
    data = resnet20.folder(given.data)
    model = resnet20.trained(data)
    calibration = resnet20.images(data, "train_10k", FITTED + 2000)[0]
    x, y = resnet20.images(data, "test", given.images)
    rows = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    for name, options in VARIANTS.items():
        wanted = {"variant": name, "images": len(x)}
        if any(wanted.items() <= row.items() for row in rows) or (given.only and name not in given.only.split(";")):
            continue
        begun = time.perf_counter()
        network = d2e.convert(model, method="single-step", calibration=calibration, calibration_samples=FITTED,
                              input_shape=(3, 32, 32), **options)
        seconds = round(time.perf_counter() - begun)
        rows.append({**wanted, "seconds": seconds, **measured(network, x, y)})
        with KEPT.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(line(rows[-1], rows), flush=True)
    ann = adaptive.accuracy_of_ann(model, x, y)
    (HERE / "single_step.txt").write_text(table(rows, ann, len(x)) + cases(model, calibration))
    adaptive.chart(adaptive.kept_rows(), HERE / "adaptive.svg", ann)
    print((HERE / "single_step.txt").read_text())


def stairs(network: Network) -> tuple[Skeleton, Plan]:
    """A converted network for the conversion's engine, which equals the reference and is quick on the whole test set."""
    skeleton = Skeleton(network)
    plan = {}
    for layer in skeleton.rectifiers:
        node: Any = network.neuron(layer.name)
        one = (layer.channels, *[1] * (len(layer.shape) - 1))
        scale, amplitude = (np.broadcast_to(v, one).ravel() for v in (node.threshold, node.amplitude))
        unit = float((amplitude / scale)[0])
        plan[layer.name] = Staircase(scale, node.levels, node.payloads, unit, np.zeros(layer.channels))
    return skeleton, plan


def measured(network: Network, x: Any, y: Any) -> dict[str, Any]:
    """Accuracy and traffic per image."""
    (skeleton, plan), right = stairs(network), 0
    totals = dict.fromkeys(("spikes", "synops", "messages", "message_synops", "bits"), 0.0)
    for i in range(0, len(x), CHUNK):
        part = x[i : i + CHUNK]
        run = simulate(skeleton, plan, {}, part)
        right += int((run.logits(skeleton).argmax(axis=1) == y[i : i + CHUNK]).sum())
        for sent in traffic(skeleton, plan, run.n).values():
            for key in totals:
                totals[key] += getattr(sent, key) * len(part) / len(x)
    facts = network.metadata["conversion"]
    return {"accuracy": right / len(x), **totals, "kl": facts["kl"], "payloads": {
        name: [int(p) for p in each.payloads] for name, each in plan.items()}}


def above(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Points of accuracy above uniform levels of as many synops."""
    points = sorted((r["synops"], r["accuracy"]) for r in rows if r["variant"].startswith("uniform, N")
                    and "floor" not in r["variant"])
    if row["variant"].startswith("uniform") or len(points) < 2 or row["synops"] < points[0][0]:
        return ""
    return f"{100 * (row['accuracy'] - np.interp(row['synops'], *zip(*points, strict=True))):+.2f}"


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    saved = 1 - row["synops"] * ADDITION / (MACS * MULTIPLICATION)
    return (f"{row['variant']:<28}{100 * row['accuracy']:7.2f}{row['spikes'] / 1e3:8.0f} k{row['synops'] / 1e6:8.1f} M"
            f"{row['messages'] / 1e3:8.0f} k{row['message_synops'] / 1e6:8.1f} M{row['bits'] / row['messages']:7.1f}"
            f"{1e6 * row['synops'] * ADDITION:8.0f} uJ{100 * saved:6.0f} %{row['seconds']:7} s{above(row, rows):>8}")


def table(rows: list[dict[str, Any]], ann: float, images: int) -> str:
    own, order = [row for row in rows if row["images"] == images], list(VARIANTS)
    own.sort(key=lambda row: order.index(row["variant"]))
    head = (f"{'variant':<28}{'%':>7}{'spikes':>10}{'synops':>10}{'messages':>10}{'synops':>10}{'bits':>7}{'energy':>11}"
            f"{'saved':>8}{'convert':>9}{'line':>8}")
    return "\n".join([
        f"ResNet-20 on CIFAR-10 in one step, {images} test images; ANN {100 * ann:.2f} %. "
        "python benchmarks/single_step.py --data DIR",
        "per image; messages: what a neuron sends is one spike with an integer of so many bits, reaching so many synapses;",
        "energy: estimated, 0.9 pJ a synop, saved against 40.6 M multiplications at 4.6 pJ (45 nm, Horowitz 2014);",
        "line: points above uniform levels of as many synops; convert: seconds on this machine, search included",
        head, *(line(row, own) for row in own),
    ]) + "\n"


def cases(model: Any, calibration: Any) -> str:
    """What the checker says of the network of T = 8 steps, as published, whose rate the levels stand for."""
    network = d2e.convert(model, calibration=calibration, calibration_samples=FITTED, input_shape=(3, 32, 32), time_steps=8,
                          max_burst=1, calibrate="light")
    found = equivalence.check(network, calibration[-CASES:], input_range=(0.0, 1.0))
    head = f"The same network with T = 8, phi 1: may one step take its place? ({CASES} images)"
    return f"\n{head}\n{equivalence.text(found)}\n"


if __name__ == "__main__":
    main()

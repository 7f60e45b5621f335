"""Adaptive Calibration of ResNet-20 on CIFAR-10: every part of the method at several time steps, on the whole test set.

    python benchmarks/adaptive.py --data DIR [--steps 4,8] [--images 10000] [--only "A;B"]

For the data see resnet20.py. Rows are kept in results/adaptive.jsonl as they are measured, a later run measures what is
missing; results/adaptive.txt and adaptive.svg are made of all rows. Synops are spikes times synapses reached, a burst of n
counted n times ("messages": once, as where it travels as one graded spike). Test images and labels choose nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import resnet20

import d2e
from d2e.compiler.convert.adaptive.calibrate import State
from d2e.compiler.convert.adaptive.engine import Burst, simulate, synops
from d2e.compiler.convert.skeleton import Skeleton, activate, integrated
from d2e.ir import Network

HERE = Path(__file__).parent / "results"
FITTED, CHUNK = 512, 125
PAPER = {"calibrate": "light"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain IF (phi 1)": {**PAPER, "max_burst": 1},
    "uniform phi 2": {**PAPER, "max_burst": 2},
    "uniform phi 3": {**PAPER, "max_burst": 3},
    "uniform phi 4": {**PAPER, "max_burst": 4},
    "AdaFire (paper)": {**PAPER, "search": "paper", "budget": 0.8},
    "AdaFire + SSC (paper)": {**PAPER, "search": "paper", "budget": 0.8, "compress": 0.5},
    "phi 1, ours": {"max_burst": 1},
    "uniform phi 2, ours": {"max_burst": 2},
    "uniform phi 3, ours": {"max_burst": 3},
    "uniform phi 4, ours": {"max_burst": 4},
    "search 0.6": {"budget": 0.6},
    "search 0.8": {"budget": 0.8},
    "search 0.4": {"budget": 0.4},
    "search 0.6 + SSC": {"budget": 0.6, "compress": 0.5},
    "search 0.6 + IAT": {"budget": 0.6, "early_exit": 0.3},
    "search 0.6 + SSC + IAT": {"budget": 0.6, "compress": 0.5, "early_exit": 0.3},
}
LINES = {"paper": ("plain IF (phi 1)", "uniform phi 2", "uniform phi 3", "uniform phi 4"),
         "ours": ("phi 1, ours", "uniform phi 2, ours", "uniform phi 3, ours", "uniform phi 4, ours")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--steps", default="1,2,4,8,16")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--only", help="variants, separated by semicolons")
    given = parser.parse_args()
    data = resnet20.folder(given.data)
    model = resnet20.trained(data)
    calibration = resnet20.images(data, "train_10k", FITTED + 2000)[0]
    x, y = resnet20.images(data, "test", given.images)
    rows = kept_rows()
    with tempfile.TemporaryDirectory() as folder:
        measure(given, model, calibration, x, y, rows, folder)
    write(rows, model, x, y)


def kept_rows(name: str = "adaptive") -> list[dict[str, Any]]:
    """What was measured before."""
    kept = HERE / f"{name}.jsonl"
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def measure(
    given: argparse.Namespace, model: Any, calibration: Any, x: Any, y: Any, rows: list[dict[str, Any]], folder: str,
) -> None:
    """What is missing in ``rows``; searches of the same calibration share what they measure in ``folder``."""
    for steps in map(int, given.steps.split(",")):
        for name, options in VARIANTS.items():
            wanted = {"steps": steps, "variant": name, "images": len(x)}
            known = any(wanted.items() <= row.items() for row in rows)
            if known or (given.only and name not in given.only.split(";")) or ("IAT" in name and steps < 2):
                continue
            measurements = Path(folder) / f"{steps}-{options.get('calibrate')}-{'early_exit' in options}.jsonl"
            fresh, begun = not measurements.exists(), time.perf_counter()
            network = d2e.convert(model, calibration=calibration, calibration_samples=FITTED, input_shape=(3, 32, 32),
                                  time_steps=steps, resume=str(measurements) if "budget" in options else None, **options)
            seconds = round(time.perf_counter() - begun)
            row = {**wanted, "seconds": seconds, "fresh": fresh or "budget" not in options, **measured(network, x, y)}
            rows.append(row)
            with (HERE / "adaptive.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(line(row, rows), flush=True)


def write(rows: list[dict[str, Any]], model: Any, x: Any, y: Any) -> None:
    """The table and the chart."""
    ann = accuracy_of_ann(model, x, y)
    text = table(rows, ann, len(x))
    (HERE / "adaptive.txt").write_text(text)
    chart(rows, HERE / "adaptive.svg", ann)
    print(text)


def spiking(network: Network) -> State:
    """A converted network for the conversion's engine, which equals the reference and is quick on the whole test set."""
    skeleton = Skeleton(network)
    plan = {}
    for layer in skeleton.rectifiers:
        node = network.neuron(layer.name)
        one = (layer.channels, *[1] * (len(layer.shape) - 1))
        per = [np.broadcast_to(v, one).ravel() for v in (node.threshold, node.v_init)]
        plan[layer.name] = Burst(per[0], per[1], np.zeros(layer.channels), node.max_spikes)
    return State(skeleton, plan)


def measured(network: Network, x: Any, y: Any) -> dict[str, Any]:
    """Accuracy, mean steps, spikes, synops; up to each sample's exit where the network has a rule."""
    state, steps, rule = spiking(network), int(network.input.time_steps or 1), network.output.exit
    right, full, ran, spikes, total, messages = 0, np.zeros(steps), 0, 0, 0.0, 0.0
    for i in range(0, len(x), CHUNK):
        part, labels = x[i : i + CHUNK], y[i : i + CHUNK]
        n, evidence = simulate(state.skeleton, state.plan, part, steps)
        answers = evidence.argmax(axis=2)
        full += (answers == labels[:, None]).sum(axis=0)
        at = np.full(len(part), steps) if rule is None else rule.steps(evidence, "last")
        right += int((answers[np.arange(len(at)), at - 1] == labels).sum())
        ran += int(at.sum())
        if rule is not None:
            for each in n.values():
                each[np.arange(steps)[None] >= at[:, None]] = 0
        spikes += sum(int(each.sum(dtype=np.int64)) for each in n.values())
        total += sum(synops(state.skeleton, n).values()) * len(part)
        messages += sum(synops(state.skeleton, n, messages=True).values()) * len(part)
    return {
        "accuracy": right / len(x), "accuracy_full": full[-1] / len(x), "mean_steps": ran / len(x),
        "spikes": spikes / len(x), "synops": total / len(x), "messages": messages / len(x),
        "bursts": list(network.metadata["conversion"]["bursts"].values()),
        "ratios": list(network.metadata["conversion"]["ratios"].values()),
    }


def accuracy_of_ann(model: Any, x: Any, y: Any) -> float:
    from d2e.compiler.frontends.ann import load_ann

    skeleton = Skeleton(integrated(load_ann(model, input_shape=(3, 32, 32))))
    right = 0
    for i in range(0, len(x), CHUNK):
        answers = activate(skeleton, x[i : i + CHUNK])[1]["readout"].argmax(axis=1)
        right += int((answers == y[i : i + CHUNK]).sum())
    return right / len(x)


def above(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Points of accuracy above the uniform bursts of the same steps and synops, the better of both lines."""
    if row["variant"] in (*LINES["paper"], *LINES["ours"]):
        return ""
    found = []
    for names in LINES.values():
        points = sorted((r["synops"], r["accuracy"]) for r in rows if r["steps"] == row["steps"] and r["variant"] in names)
        if points and row["synops"] >= points[0][0]:
            found.append(np.interp(row["synops"], *zip(*points, strict=True)))
    return f"{100 * (row['accuracy'] - max(found)):+.2f}" if found else ""


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    return (f"{row['steps']:>3}  {row['variant']:<24}{100 * row['accuracy']:8.2f}{row['mean_steps']:8.2f}"
            f"{row['spikes'] / 1e3:10.0f} k{row['synops'] / 1e6:10.1f} M{row['messages'] / 1e6:10.1f} M"
            f"{row['seconds']:8} s{'' if row['fresh'] else '*':1}{above(row, rows):>8}")


def table(rows: list[dict[str, Any]], ann: float, images: int) -> str:
    own = [row for row in rows if row["images"] == images]
    order = list(VARIANTS)
    own.sort(key=lambda row: (row["steps"], order.index(row["variant"])))
    head = (f"{'T':>3}  {'variant':<24}{'%':>8}{'steps':>8}{'spikes':>12}{'synops':>12}{'messages':>12}{'convert':>10}"
            f"{'line':>8}")
    return "\n".join([
        f"ResNet-20 on CIFAR-10, {images} test images; ANN {100 * ann:.2f} %. python benchmarks/adaptive.py --data DIR",
        "spikes and synops per image; messages: a burst counts once; convert: seconds on this machine, search included;",
        "*: uses what another search at this T has measured",
        "line: points above uniform bursts of as many synops at the same T, the paper's or ours, whichever is better there",
        head, *(line(row, own) for row in own),
    ]) + "\n"


def chart(rows: list[dict[str, Any]], path: Path, ann: float) -> None:
    """Accuracy against synops of both methods; the line joins networks of 16 levels (T * phi, in one step N)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "d2e"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    single = kept_rows("single_step")
    groups = {"T steps, uniform bursts, paper": LINES["paper"], "T steps, uniform bursts, ours": LINES["ours"],
              "T steps, AdaFire (paper)": tuple(v for v in VARIANTS if v.startswith("AdaFire")),
              "T steps, search": tuple(v for v in VARIANTS if v.startswith("search") and "+" not in v),
              "T steps, search + SSC/IAT": tuple(v for v in VARIANTS if v.startswith("search") and "+" in v)}
    clouds = {label: [r for r in rows if r["variant"] in names] for label, names in groups.items()}
    clouds["one step, uniform levels"] = [r for r in single if r["variant"].startswith("uniform")]
    clouds["one step, fitted levels"] = [r for r in single if r["variant"].startswith("fitted")]
    for (label, own), marker in zip(clouds.items(), "osv^DPX", strict=True):
        axes.scatter([r["synops"] / 1e6 for r in own], [100 * r["accuracy"] for r in own], s=20, marker=marker, label=label)
    level = sorted((r for r in rows if r["variant"] in LINES["paper"] and r["steps"] * r["bursts"][0] == 16),
                   key=lambda r: -r["steps"]) + [r for r in single if r["variant"] == "uniform, N 16"]
    axes.plot([r["synops"] / 1e6 for r in level], [100 * r["accuracy"] for r in level], ":k", label="16 levels, uniform")
    for row in level:
        axes.annotate(f"T {row.get('steps', 1)}", (row["synops"] / 1e6, 100 * row["accuracy"]), fontsize=7,
                      xytext=(4, -8), textcoords="offset points")
    axes.axhline(100 * ann, color="black", linewidth=0.8, label="ANN")
    axes.set(xlabel="synops per image, millions", ylabel="accuracy, %", xlim=(0, 260), ylim=(70, 93),
             title="ResNet-20 on CIFAR-10, converted")
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()

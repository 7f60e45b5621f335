"""Direct-to-event transfer: direct-coded teachers, and students that read events, on whole test sets and several seeds.

    python benchmarks/transfer.py --data DIR [--set fashion_mnist] [--model cnn] [--train 10000] [--seeds 3] [--only "A;B"]

DIR (or D2E_DATA) holds fashion_mnist_train.npz and fashion_mnist_test.npz, or cifar10_train_10k.npz and cifar10_test.npz:
x, uint8 [n, size, size] or [n, size, size, 3], and y. Models are those of examples/spiking_models. Teachers are kept in
.bench/, rows in results/transfer.jsonl as they are measured; a later run measures what is missing, and writes
results/transfer.txt of all rows. All students of a teacher are trained for as many epochs, on the same images, with the same
settings but for what their name says. Test images and labels choose nothing. A GPU is used where there is one.

synops count the input's: for a teacher, synops of spikes and beside them the multiplications of its first layer per step;
energy is an estimate for comparison with papers, of no chip (45 nm, Horowitz 2014: 0.9 pJ an addition, 4.6 pJ a
multiplication), the teacher's with its first layer computed at every step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # examples

from examples.spiking_models.cnn import spiking_cnn
from examples.spiking_models.sew_resnet import sew_resnet
from examples.spiking_models.vgg import spiking_vgg
from examples.spiking_models.wrn import spiking_wrn

import d2e
from d2e import nn as snn
from d2e.compiler.transfer.keep import Keep
from d2e.compiler.transfer.models import Model
from d2e.compiler.transfer.pairs import Direct, Pairs
from d2e.compiler.transfer.train import Lesson, Settings, fit
from d2e.compiler.transfer.workers import workers

ROOT = Path(__file__).resolve().parents[1]
RESULTS, KEPT = ROOT / "benchmarks" / "results", ROOT / ".bench" / "transfer"
STEPS, BATCH = 8, 128
MODELS = {"cnn": spiking_cnn, "wrn": spiking_wrn, "vgg": spiking_vgg, "sew": sew_resnet}
FILES = {"fashion_mnist": ("fashion_mnist_train.npz", "fashion_mnist_test.npz"),
         "cifar10": ("cifar10_train_10k.npz", "cifar10_test.npz")}
PUBLISHED = "published (Luu et al. 2026, Spiking-WRN20, CIFAR-10): direct 90.11, zero-shot 28.69, TSF 50.66, SKD 74.18"
HEAD = (f"{'':<28}{'seeds':>5}{'%':>7}{'±':>6}{'of direct':>11}{'KL':>8}{'bound':>7}{'rate':>7}{'events in':>11}"
        f"{'synops':>11}{'energy':>9}")
VARIANTS: dict[str, dict[str, Any]] = {
    "zero-shot, ttfs": {"method": "zero-shot"},
    "zero-shot, ttfs-strict": {"method": "zero-shot", "encoding": "ttfs-strict"},
    "zero-shot, ttfs-inclusive": {"method": "zero-shot", "encoding": "ttfs-inclusive"},
    "zero-shot, latency": {"method": "zero-shot", "encoding": "latency"},
    "zero-shot, latch": {"method": "zero-shot", "encoding": "ttfs{latch}"},
    "batch norms, ttfs": {"method": "normalise"},
    "batch norms, latch": {"method": "normalise", "encoding": "ttfs{latch}"},
    "thresholds, ttfs": {"method": "calibrate"},
    "thresholds, latch": {"method": "calibrate", "encoding": "ttfs{latch}"},
    "event mapping, ttfs": {"method": "map"},
    "TSF, ttfs": {"method": "tsf"},
    "SKD, ttfs": {},
    "SKD, ttfs, tau 4": {"temperature": 4.0},
    "SKD, ttfs, reverse KL": {"divergence": "reverse-kl"},
    "SKD, ttfs, symmetric KL": {"divergence": "symmetric-kl"},
    "SKD, ttfs, MSE": {"divergence": "mse"},
    "SKD, ttfs, l1": {"divergence": "l1"},
    "TSF, ttfs, thresholds first": {"method": "tsf", "start": "calibrated"},
    "SKD, ttfs, thresholds first": {"start": "calibrated"},
    "TSF, ttfs-strict": {"method": "tsf", "encoding": "ttfs-strict"},
    "SKD, ttfs-strict": {"encoding": "ttfs-strict"},
    "TSF, latch": {"method": "tsf", "encoding": "ttfs{latch}"},
    "SKD, latch": {"encoding": "ttfs{latch}"},
    "TSF, dvs": {"method": "tsf", "encoding": "dvs"},
    "SKD, dvs": {"encoding": "dvs"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("D2E_DATA"))
    parser.add_argument("--set", default="fashion_mnist", choices=FILES)
    parser.add_argument("--model", default="cnn", choices=MODELS)
    parser.add_argument("--train", type=int, default=10000)
    parser.add_argument("--test", type=int, default=10000)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="variants, separated by semicolons")
    given = parser.parse_args()
    if not given.data:
        parser.error("give --data DIR (or D2E_DATA) with the files named above")
    train, test = (images(Path(given.data) / name, count)
                   for name, count in zip(FILES[given.set], (given.train, given.test), strict=True))
    rows = kept_rows()
    KEPT.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        run = {"set": given.set, "model": given.model, "train": len(train[0]), "test": len(test[0]), "seed": seed,
               "teacher_epochs": given.teacher_epochs, "epochs": given.epochs}
        path = teacher(run, train)
        for name, options in VARIANTS.items():
            known = any({**run, "variant": name}.items() <= row.items() for row in rows)
            if not known and (given.only is None or name in given.only.split(";")):
                rows.append(measured(path, run, name, options, train, test))
                with (RESULTS / "transfer.jsonl").open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(line(name, [rows[-1]]), f"{rows[-1]['seconds']} s", flush=True)
    text = table(rows)
    (RESULTS / "transfer.txt").write_text(text)
    print(text)


def kept_rows() -> list[dict[str, Any]]:
    """What was measured before."""
    kept = RESULTS / "transfer.jsonl"
    return [json.loads(row) for row in kept.read_text().splitlines()] if kept.exists() else []


def images(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` images [n, channels, size, size] in 0..1, and their labels."""
    with np.load(path) as file:
        x, y = file["x"][:count], file["y"][:count].astype(np.int64)
    x = x[:, None] if x.ndim == 3 else np.moveaxis(x, 3, 1)
    return np.ascontiguousarray(x).astype(np.float32) / 255, y


def teacher(run: dict[str, Any], data: tuple[np.ndarray, np.ndarray]) -> Path:
    """A checkpoint of the direct-coded network, trained once and kept."""
    shape = data[0].shape[1:]
    name = "-".join(str(run[key]) for key in ("set", "model", "train", "teacher_epochs", "seed"))
    path = KEPT / f"{name}.pt"
    if path.exists():
        return path
    torch.manual_seed(run["seed"])
    module = MODELS[run["model"]](channels=shape[0], size=shape[1])
    model, crew = Model(module, shape, "mean", {}), workers(None, "float32")
    settings = Settings(epochs=run["teacher_epochs"], batch=BATCH, alpha=1.0, seed=run["seed"])
    lesson = Lesson(Pairs(*map(torch.from_numpy, data)), Direct(STEPS))
    begun = time.perf_counter()
    rows = fit(model, lesson, settings, crew, lambda _: {"accuracy": 0.0}, Keep(path.with_suffix(".part"), name))
    print(f"teacher {name}: {100 * rows[-1]['train_accuracy']:.2f} % on its training images in the last epoch, "
          f"{time.perf_counter() - begun:.0f} s", flush=True)
    snn.save(module.cpu().eval(), path, input_shape=shape, time_steps=STEPS, coding="direct", readout="mean")
    path.with_suffix(".part").unlink()
    return path


def measured(
    path: Path, run: dict[str, Any], name: str, options: dict[str, Any], train: Any, test: Any
) -> dict[str, Any]:
    """A row."""
    begun = time.perf_counter()
    part = KEPT / f"{path.stem}-{''.join(c if c.isalnum() else '_' for c in name)}-{run['epochs']}.part"
    found = d2e.transfer(str(path), data=train, eval=test, epochs=run["epochs"], batch=BATCH, seed=run["seed"],
                         resume=str(part), **options).facts
    part.unlink(missing_ok=True)
    stage, energy = found["stages"][-1], {row["of"]: row["value_j"] for row in reversed(found["energy"])}
    kept = ("accuracy", "soft_accuracy", "kl", "kl_error", "bound", "soft_gap", "tv", "input_events", "spikes", "synops")
    return {
        **run, "variant": name, **{key: stage[key] for key in kept},
        "holds": all(row["holds"] for row in [*found["stages"], *(epoch["held"] for epoch in found.get("epochs", ()))]),
        "rate": float(np.mean(list(stage["rates"].values()))), "energy_j": energy[stage["name"]],
        "teacher": {"rate": float(np.mean(list(found["teacher"]["rates"].values()))), "energy_j": energy["teacher"],
                    **{key: found["teacher"][key] for key in ("accuracy", "spikes", "synops", "mac_first")}},
        "seconds": round(time.perf_counter() - begun),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A block for each set of images, model and training."""
    keys = ("set", "model", "train", "test", "teacher_epochs", "epochs")
    lines = ["Direct-to-event transfer, T 8: python benchmarks/transfer.py --data DIR; mean, deviation of seeds", PUBLISHED]
    for block in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        own = [row for row in rows if tuple(row[key] for key in keys) == block]
        images, model, train, test, before, epochs = block
        direct = [{**row["teacher"], "variant": "direct"} for row in {row["seed"]: row for row in own}.values()]
        lines += [
            "", f"{images}, {model}: {train} training images, teacher {before} epochs, students {epochs}; {test} test "
            f"images", HEAD, line("direct", direct),
            *(line(name, part) for name in VARIANTS if (part := [row for row in own if row["variant"] == name])),
            *versus(own),
        ]
    return "\n".join(lines) + "\n"


def versus(rows: Sequence[dict[str, Any]]) -> list[str]:
    """SKD's accuracy less TSF's from the same teacher, where both start alike and read the same."""
    found = {(row["variant"], row["seed"]): 100 * row["accuracy"] for row in rows}
    lines = []
    for name in VARIANTS:
        other = name.replace("SKD", "TSF")
        seeds = sorted(seed for variant, seed in found if variant == name and (other, seed) in found)
        if name.startswith("SKD") and seeds:
            each = " ".join(f"{found[name, seed] - found[other, seed]:+.2f}" for seed in seeds)
            lines.append(f"{name} less {other}: {each}")
    return lines


def line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Mean over the seeds."""
    accuracy = 100 * np.array([row["accuracy"] for row in rows])
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("rate", "synops", "energy_j")}
    start = f"{name:<28}{len(rows):5}{accuracy.mean():7.2f}{accuracy.std(ddof=1) if len(rows) > 1 else float('nan'):6.2f}"
    figures = f"{mean['rate']:7.3f}", f"{mean['synops'] / 1e3:9.0f} k{1e6 * mean['energy_j']:6.2f} uJ"
    if name == "direct":
        macs = rows[0]["mac_first"]
        return f"{start}{'':>26}{figures[0]}{'':>11}{figures[1]}  and {STEPS} x {macs / 1e3:.0f} k multiplications"
    share = 100 * np.mean([row["accuracy"] / row["teacher"]["accuracy"] for row in rows])
    kl, events = (float(np.mean([row[key] for row in rows])) for key in ("kl", "input_events"))
    holds = "holds" if all(row["holds"] for row in rows) else "FAILS"
    return f"{start}{share:10.1f} %{kl:8.3f}{holds:>7}{figures[0]}{events:11.0f}{figures[1]}"


if __name__ == "__main__":
    main()

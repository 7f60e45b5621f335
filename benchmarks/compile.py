"""Compiling large networks: time, peak memory and cores of VGG-16 and of a million neurons.

    python benchmarks/compile.py [--only vgg16-32] [--output benchmarks/results/compile.txt]

Weights are random. Every network is built with torch and `d2e.nn` and saved; then ``d2e-compile`` compiles the file and
writes the program folder, Lava package included. Time is that of the whole command; memory is its peak resident memory less
that of compiling two neurons (which imports the same), as a multiple of the model's weights in float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def vgg16(size: int) -> tuple[Any, tuple[int, ...]]:
    """VGG-16 (configuration D) for frames [3, size, size], a neuron layer after every layer."""
    from torch import nn

    import d2e.nn

    layers: list[nn.Module] = []
    channels = 3
    for step in VGG16:
        if isinstance(step, str):
            layers += [nn.AvgPool2d(2), d2e.nn.IF()]
        else:
            layers += [nn.Conv2d(channels, step, 3, padding=1, bias=False), d2e.nn.IF()]
            channels = step
    features = channels * (size // 32) ** 2
    layers.append(nn.Flatten())
    for outputs in (4096, 4096, 1000):
        layers += [nn.Linear(features, outputs, bias=False), d2e.nn.IF()]
        features = outputs
    return nn.Sequential(*layers), (3, size, size)


def million() -> tuple[Any, tuple[int, ...]]:
    """About a million neurons in convolutions, pooling and dense layers."""
    from torch import nn

    import d2e.nn

    layers: list[nn.Module] = []
    channels = 2
    for outputs, stride in ((24, 1), (32, 2), (64, 1), (96, 2), (128, 2), (256, 2)):
        layers += [nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False), d2e.nn.IF()]
        channels = outputs
    layers += [nn.AvgPool2d(2), d2e.nn.IF(), nn.Flatten()]
    features = channels * 4 * 4
    for outputs in (4096, 2048, 100):
        layers += [nn.Linear(features, outputs, bias=False), d2e.nn.IF()]
        features = outputs
    return nn.Sequential(*layers), (2, 128, 128)


def two() -> tuple[Any, tuple[int, ...]]:
    """Next to nothing."""
    from torch import nn

    import d2e.nn

    return nn.Sequential(nn.Linear(2, 2), d2e.nn.IF()), (2,)


NETWORKS: dict[str, Callable[[], tuple[Any, tuple[int, ...]]]] = {
    "vgg16-224": lambda: vgg16(224), "vgg16-32": lambda: vgg16(32), "million": million,
}


def build(name: str, path: str) -> dict[str, Any]:
    """Save a network with random weights; says how many it has."""
    import torch

    import d2e.nn

    torch.manual_seed(0)
    model, shape = {**NETWORKS, "two": two}[name]()
    d2e.nn.save(model, path, input_shape=shape, time_steps=4)
    return {"weights": sum(p.numel() for p in model.parameters() if p.ndim > 1)}


def measure(path: str, folder: str) -> dict[str, Any]:
    """Run ``d2e-compile``, the only child of this process, and say what it took and found."""
    command = [sys.executable, "-m", "d2e.cli", "compile", path, "--json", "-q", "-o", folder]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    if done.returncode:
        return {"seconds": seconds, "peak": peak, "fit": done.stderr.strip().splitlines()[-1].removeprefix("error: ")}
    report = json.loads(done.stdout)
    found = [w for w in report["warnings"] if w["code"].startswith("D2E-FIT")]
    fit = "fits" if not found else f"{found[0]['code']}: {found[0]['message']}"
    counts = {key: report["totals"][key] for key in ("neurons", "synapses", "cores")}
    return {"seconds": seconds, "peak": peak, "fit": fit, **counts}


def apart(*arguments: str) -> dict[str, Any]:
    """`build` or `measure` in a process of its own: a child inherits its parent's peak."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(name: str) -> dict[str, Any]:
    """Build and compile a network."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{name}.pt"
        return {**apart("--build", name, path), **apart("--measure", path, f"{folder}/program")}


def main() -> None:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=tuple(NETWORKS))
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.build or args.measure:
        print(json.dumps(build(*args.build) if args.build else measure(*args.measure)))
        return
    least = run("two")
    base = f"two neurons: {least['seconds']:.1f} s, {least['peak'] / 1e6:.0f} MB"
    lines = [f"d2e-compile, target loihi2-sim, one chip ({base})", "",
             f"{'network':<12}{'weights':>10}{'neurons':>12}{'synapses':>14}{'cores':>8}{'time':>10}{'memory':>10}"]
    for name in [args.only] if args.only else NETWORKS:
        found = run(name)
        ratio = (found["peak"] - least["peak"]) / (4 * found["weights"])
        counts = [f"{found[key]:,}" if key in found else "-" for key in ("neurons", "synapses", "cores")]
        lines.append(f"{name:<12}{found['weights'] / 1e6:>8.1f} M{counts[0]:>12}{counts[1]:>14}{counts[2]:>8}"
                     f"{found['seconds']:>8.1f} s{ratio:>8.2f} x")
        lines += [f"    {found['fit']}", ""]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Compiling large networks: time, peak memory and cores of VGG-16 and of a million neurons.

    python benchmarks/compile.py [--only vgg16-32] [--output benchmarks/results/compile.txt]

Weights are random. Every network is built with torch and `d2e.nn` and compiled with ``d2e.compile`` in a process of its
own; memory is the peak resident memory of that process less that of one which compiles two neurons (and so imports the
same), as a multiple of the model's weights in float32. The model itself is 1 x of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
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


NETWORKS: dict[str, Callable[[], tuple[Any, tuple[int, ...]]]] = {
    "vgg16-224": lambda: vgg16(224), "vgg16-32": lambda: vgg16(32), "million": million,
}


def peak() -> int:
    """Most resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(name: str | None) -> dict[str, Any]:
    """Compile a network (None: two neurons) and say what it took."""
    import torch
    from torch import nn

    import d2e
    import d2e.nn

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model, shape = NETWORKS[name]() if name else (nn.Sequential(nn.Linear(2, 2), d2e.nn.IF()), (2,))
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    start = time.perf_counter()
    try:
        program = d2e.compile(model, target="loihi2-sim", input_shape=shape, time_steps=4)
        found = [w for w in program.report["warnings"] if w["code"].startswith("D2E-FIT")]
        totals, fit = program.report["totals"], "fits" if not found else f"{found[0]['code']}: {found[0]['message']}"
        facts = {"neurons": totals["neurons"], "synapses": totals["synapses"], "cores": totals["cores"], "fit": fit}
    except d2e.ir.UnsupportedError as error:
        facts = {"fit": str(error)}
    return {"seconds": time.perf_counter() - start, "peak": peak(), "weights": weights, **facts}


def run(name: str | None) -> dict[str, Any]:
    """`child` in a fresh process."""
    command = [sys.executable, __file__, "--child", name or ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=tuple(NETWORKS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(child(args.child or None)))
        return
    idle = run(None)["peak"]
    lines = ["target loihi2-sim, one chip; memory: peak, in multiples of the model's float32 weights (1 x is the model)", ""]
    lines.append(f"{'network':<12}{'weights':>10}{'neurons':>12}{'synapses':>14}{'cores':>8}{'time':>10}{'memory':>10}")
    for name in [args.only] if args.only else NETWORKS:
        found = run(name)
        ratio = (found["peak"] - idle) / (4 * found["weights"])
        counts = [f"{found[key]:,}" if key in found else "-" for key in ("neurons", "synapses", "cores")]
        lines.append(f"{name:<12}{found['weights'] / 1e6:>8.1f} M{counts[0]:>12}{counts[1]:>14}{counts[2]:>8}"
                     f"{found['seconds']:>8.1f} s{ratio:>8.2f} x")
        lines += [f"    {found['fit']}", ""]
        print("\n".join(lines), flush=True)
        if args.output:
            with args.output.open("w" if name == next(iter(NETWORKS)) else "a", encoding="utf-8") as out:
                out.write("\n".join(lines) + "\n")
        lines = []


if __name__ == "__main__":
    main()

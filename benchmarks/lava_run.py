"""Lava's evaluation of a data set: all samples in one continuous run, beside a fresh run per sample.

    python benchmarks/lava_run.py [--samples N] [--fresh N] [--output benchmarks/results/lava_run.txt]

The digits example with its 360 test samples and the multi-layer perceptron of benchmarks/networks.py, both with soft
resets (one blank frame between samples). The results of both ways are compared bit for bit. A fresh run costs the same
for every sample, so a few of them are timed; the interpreter's start is taken off both. Best of three; needs `make lava`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from networks import save
from simulator import lowered

import d2e
from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import LavaTrace, run_lava
from d2e.ir import Network

REPEATS = 3
EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"


def networks() -> Iterator[tuple[str, Network, Any]]:
    """Name, lowered network, frames."""
    with np.load(EXAMPLE / "test.npz") as test, np.load(EXAMPLE / "calibration.npz") as calibration:
        program = d2e.compile(str(EXAMPLE / "model.pt"), target="loihi2-sim", calibration=calibration["x"])
        yield "digits", program.network, test["x"]
    with tempfile.TemporaryDirectory() as folder:
        arrays = save(Path(folder) / "networks.npz")
    yield "mlp", lowered("mlp", arrays), np.concatenate([arrays["x_mlp"].astype(np.int64)] * 4)


def timed(folder: Path, frames: Any, *, fresh: bool) -> tuple[float, LavaTrace]:
    """Seconds and result of a run."""
    start = time.perf_counter()
    trace = run_lava(folder, frames, fresh=fresh, time_out=7200)
    return time.perf_counter() - start, trace


def rows(name: str, network: Network, frames: Any, fresh: int) -> Iterator[str]:
    """The lines of one network."""
    with tempfile.TemporaryDirectory() as folder:
        emit(network, Path(folder), time_steps=frames.shape[1])
        best = [np.inf] * 3
        for _ in range(REPEATS):
            ways = (frames[:1], True), (frames[: fresh + 1], True), (frames, False)
            runs = [timed(Path(folder), part, fresh=way) for part, way in ways]
            best = [min(before, seconds) for before, (seconds, _) in zip(best, runs, strict=True)]
            expected, found = runs[1][1], runs[2][1]
            if not found.one_run.all() or not np.array_equal(found.output[: fresh + 1], expected.output):
                raise SystemExit(f"{name}: the two ways differ, or did not run as asked")
    start, apart, together = best
    single = (apart - start) / fresh
    batch = (together - start + single) / len(frames)
    yield f"{name}, {len(frames)} samples of {frames.shape[1]} steps"
    yield f"  fresh run per sample      {1e3 * single:>9.1f} ms per sample   ({fresh} timed)"
    yield f"  one continuous run        {1e3 * batch:>9.1f} ms per sample   {single / batch:.1f} x faster, same bits"
    yield f"  all of them               {len(frames) * single:>9.0f} s -> {len(frames) * batch:.0f} s"


def main() -> None:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, help="of each network; default: all")
    parser.add_argument("--fresh", type=int, default=12, help="fresh runs to time")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    lines = ["lava-nc 0.10.0 on the processor, 2 cores, best of 3"]
    for name, network, frames in networks():
        for line in rows(name, network, frames[: args.samples], args.fresh):
            lines.append(line)
            print(line, flush=True)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

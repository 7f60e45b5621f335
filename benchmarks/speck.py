"""The event-driven Speck simulator: events and synaptic operations a second, beside sinabs' time-stepped simulation.

    python benchmarks/speck.py [--no-sinabs] [--all-cores] [--output benchmarks/results/speck.txt]

Two networks that fit the chip, with random 8-bit weights and the outline of a moving shape as input: one as for N-MNIST
(2 x 34 x 34, about 4,200 events in 300 ms), one as for DVS Gesture (2 x 128 x 128, 60,000 events in one second), 100 time
steps each. sinabs (`python benchmarks/frameworks/install.py sinabs`) runs the same integers in time steps, as its users
do before a chip is at hand; what it computes is not what the chip does, and the table of spikes shows by how much.
Times are the quickest of many runs, sinabs' at its better batch size: processor time of one thread; with --all-cores also
by the clock with two, for which the machine must have nothing else to do. Read the ratios, machines differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from frameworks.install import FOLDER, installed

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.events import Events, from_frames
from d2e.backends.speck.limits import ARITHMETIC
from d2e.backends.speck.lowering import configure
from d2e.backends.speck.placement.place import Place
from d2e.backends.speck.simulator.run import Simulator
from d2e.compiler.target import find
from d2e.ir import IF, Conv2d, Flatten, Input, Linear, Node, Output, SumPool2d
from d2e.ir.network import chain
from d2e.ir.nodes import integral

STEPS = 100
CLOCKS = {1: time.thread_time, 2: time.perf_counter}
SCRIPT = Path(__file__).parent / "frameworks" / "speck_sinabs.py"


@dataclass(frozen=True)
class Layer:
    """A convolution (kernel 0: a dense layer), its weights' mean and spread, its threshold, and the pool after it."""

    features: int
    kernel: int
    mean: float
    spread: float
    threshold: int
    stride: int = 1
    pooling: int = 1

    @property
    def padding(self) -> int:
        """That keeps the size of the map."""
        return self.kernel // 2


@dataclass(frozen=True)
class Spec:
    """A network and its input: pixels a side, events, samples and microseconds of a sample."""

    size: int
    events: int
    duration_us: int
    samples: int
    layers: tuple[Layer, ...]


SPECS = {
    "N-MNIST, conv 8, conv 16, dense 10": Spec(34, 4200, 300_000, 16, (
        Layer(8, 3, 10, 40, 380, pooling=2), Layer(16, 3, 8, 40, 420, pooling=2), Layer(10, 0, 2, 30, 900),
    )),
    "DVS Gesture, conv 16, 32, 64, 64, dense 11": Spec(128, 60_000, 1_000_000, 4, (
        Layer(16, 5, 6, 30, 700, stride=2, pooling=2), Layer(32, 3, 3, 30, 750, pooling=2),
        Layer(64, 3, 1, 30, 800, pooling=2), Layer(64, 3, 1, 30, 800, pooling=2), Layer(11, 0, 1, 30, 900),
    )),
}


def frames(spec: Spec, seed: int = 1) -> np.ndarray:
    """Events of a ring that wanders about, as counts [sample, step, polarity, y, x]; one event in ten is noise."""
    rng = np.random.default_rng(seed)
    found = np.zeros((spec.samples, STEPS, 2, spec.size, spec.size), np.uint8)
    for sample in found:
        at, angle = rng.uniform(0, 1, spec.events), rng.uniform(0, 2 * np.pi, spec.events)
        phase = 2 * np.pi * (at[:, None] * [2, 3] + rng.uniform(0, 1, 2))
        centre, speed = 0.5 + 0.2 * np.sin(phase), np.cos(phase) * [2, 3]
        normal = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        radius = 0.2 + 0.02 * rng.standard_normal(spec.events)
        place = np.where(rng.random((spec.events, 1)) < 0.1, rng.random((spec.events, 2)), centre + radius[:, None] * normal)
        y, x = np.clip(place * spec.size, 0, spec.size - 1).astype(int).T
        np.add.at(sample, ((at * STEPS).astype(int), ((normal * speed).sum(axis=1) > 0).astype(int), y, x), 1)
    return found


def weights(spec: Spec, seed: int = 0) -> list[np.ndarray]:
    """int8 [out, in, k, k], or [out, in] of a dense layer."""
    rng, features, size, found = np.random.default_rng(seed), 2, spec.size, []
    for layer in spec.layers:
        shape = (features, layer.kernel, layer.kernel) if layer.kernel else (features * size**2,)
        drawn = np.rint(rng.normal(layer.mean, layer.spread, (layer.features, *shape)))
        found.append(np.clip(drawn, -127, 127).astype(np.int8))
        features, size = layer.features, -(-size // layer.stride) // layer.pooling if layer.kernel else 1
    return found


def configuration(spec: Spec, arrays: list[np.ndarray]) -> Configuration:
    """The network on the chip's cores."""
    nodes: list[tuple[str, Node]] = [("input", Input(shape=(2, spec.size, spec.size), max_payload=255))]
    size = spec.size
    for i, (layer, array) in enumerate(zip(spec.layers, arrays, strict=True)):
        weight = array.astype(np.int64)
        shape: tuple[int, ...] = (layer.features,)
        if layer.kernel:
            size = -(-size // layer.stride)
            shape = (layer.features, size, size)
            nodes.append((f"w{i}", Conv2d(weight=weight, stride=(layer.stride,) * 2, padding=(layer.padding,) * 2)))
        else:
            nodes += [(f"f{i}", Flatten()), (f"w{i}", Linear(weight=weight))]
        nodes.append((f"n{i}", IF(
            shape=shape, threshold=integral(layer.threshold), v_min=integral(-layer.threshold), arithmetic=ARITHMETIC,
            bias=integral(0), v_init=integral(0), gain=integral(1), amplitude=integral(1))))
        if layer.pooling > 1:
            nodes.append((f"p{i}", SumPool2d(kernel_size=(layer.pooling,) * 2, stride=(layer.pooling,) * 2)))
            size //= layer.pooling
    network = chain([*nodes, ("output", Output(shape=shape))])
    return configure(Place().run(network, find("speck2f-sim")))


def quickest(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the quickest of the calls within two seconds, after a warm-up."""
    call()
    found, begun = [], time.perf_counter()
    while len(found) < 5 or time.perf_counter() < begun + 2:
        start = clock()
        call()
        found.append(clock() - start)
    return min(found)


@dataclass
class Run:
    """How an engine did: milliseconds per sample, and spikes per sample of each layer."""

    what: str
    ms: float
    spikes: list[float]


def streamed(spec: Spec, simulator: Simulator, x: np.ndarray) -> Iterator[str]:
    """Timed events of one sample after the other, processor time of one thread."""
    samples: list[Events] = [from_frames(sample, step_us=spec.duration_us / STEPS) for sample in x]
    done = [simulator.stream(events) for events in samples]
    seconds = quickest(lambda: [simulator.stream(events) for events in samples], time.thread_time)
    events, spikes = sum(map(len, samples)), sum(int(n.sum()) for run in done for n in run.counts.values())
    synops = sum(sum(run.synops.values()) for run in done)
    peak = max(core.peak_synops_per_s for run in done for core in run.cores.values())
    yield f"one thread, timed events: {1e3 * seconds / len(x):.2f} ms per sample of {spec.duration_us / 1e3:.0f} ms"
    yield (f"  {events / seconds / 1e6:.2f} M input events/s, {(events + spikes) / seconds / 1e6:.1f} M events and "
           f"spikes/s, {synops / seconds / 1e6:,.0f} M synops/s ({synops / len(x) / 1e6:.2f} M per sample)")
    yield f"  busiest core in 1 ms of input: {peak / 1e6:.1f} M synops/s of real time"


def ours(simulator: Simulator, x: np.ndarray, threads: list[int]) -> Iterator[Run]:
    """Batches of frames; events are made of the frames within the time."""
    spikes = [float(n.sum()) / len(x) for n in simulator.run(x).counts.values()]
    for count in threads:
        seconds = quickest(partial(simulator.run, x, threads=count), CLOCKS[count])
        yield Run(f"d2e speck2f-sim, frames, {count} thread{'s' * (count > 1)}", 1e3 * seconds / len(x), spikes)


def sinabs(spec: Spec, arrays: list[np.ndarray], x: np.ndarray, threads: list[int]) -> Iterator[Run]:
    """The same integers in time steps, in sinabs' own environment."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.npz"
        layers = [{**asdict(layer), "padding": layer.padding} for layer in spec.layers]
        named: dict[str, Any] = {"x": x, "layers": json.dumps(layers), **{f"w{i}": w for i, w in enumerate(arrays)}}
        np.savez(file, **named)
        python = FOLDER / "sinabs" / "bin" / "python"
        command = [str(python), str(SCRIPT), str(file), *map(str, threads)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        for line in answer.stdout.splitlines():
            yield Run(**json.loads(line))


def table(runs: list[Run]) -> Iterator[str]:
    """Times with their ratios to the first row, and spikes per sample of each layer."""
    for run in runs:
        spikes = "".join(f"{n:>12,.0f}" for n in run.spikes)
        yield f"  {run.what:<44}{run.ms:>10.2f}{run.ms / runs[0].ms:>8.1f} x{spikes}"


def main() -> None:
    """Print, and perhaps write, the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-sinabs", action="store_true")
    parser.add_argument("--all-cores", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    threads = [1, 2] if args.all_cores else [1]
    if not args.no_sinabs and not installed("sinabs"):
        parser.error("sinabs is not installed: python benchmarks/frameworks/install.py sinabs, or --no-sinabs")
    lines = ["ms per sample, ratio to the first row, spikes of each layer per sample"]
    for name, spec in SPECS.items():
        x, arrays = frames(spec), weights(spec)
        simulator = Simulator(configuration(spec, arrays))
        runs = [*ours(simulator, x, threads), *(() if args.no_sinabs else sinabs(spec, arrays, x, threads))]
        lines += ["", f"{name}: {spec.events:,} events, {STEPS} steps", *table(runs), *streamed(spec, simulator, x)]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

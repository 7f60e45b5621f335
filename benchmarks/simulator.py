"""loihi2-sim beside Lava, bare torch kernels and the SNN frameworks, on the same two networks in one run; and bursts.

    python benchmarks/simulator.py [--no-lava] [--no-frameworks] [--output benchmarks/results/simulator.txt]

Networks and input spikes: benchmarks/networks.py. Every engine's spike counts are checked against exact integers before
it is timed. Lava needs `make lava`, the frameworks `python benchmarks/frameworks/install.py`. Times are medians, in
milliseconds per sample; read the ratios, machines differ. The burst rows run both networks with up to 4 spikes a step, as
graded neurons and as replicas, in turn with the binary ones: processor time of one thread, the quickest of many runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from frameworks import measure as frameworks
from networks import SPECS, save

from d2e.backends.loihi2.lava.emit import emit
from d2e.backends.loihi2.lava.engine import run_lava
from d2e.backends.loihi2.map_neurons import Burst, MapNeurons
from d2e.backends.loihi2.simulator.run import Form, Simulator
from d2e.compiler.target import find
from d2e.ir import IF, Conv2d, FixedPoint, Flatten, Input, Linear, Network, Output, chain

THREADS = 2
BATCHES = (1, 8, 32)
BURST = 4
FORMS: tuple[Form, ...] = ("events", "int8", "float")
Row = tuple[str, str, float]


def lowered(name: str, arrays: dict[str, Any], spikes: int = 1, burst: Burst = "replicas") -> Network:
    """The integer network as it runs on Loihi; ``spikes``: most of a neuron per step."""
    spec = SPECS[name]
    nodes: list[tuple[str, Any]] = [("input", Input(shape=spec.input_shape))]
    shape = spec.input_shape
    for i, layer in enumerate(spec.layers):
        weight = arrays[f"{name}.{i}.weight_int"].astype(np.int64)
        if weight.ndim == 4:
            nodes.append((f"w{i}", Conv2d(weight=weight, stride=(layer.stride,) * 2, padding=(1, 1))))
            shape = (weight.shape[0], shape[1] // layer.stride, shape[2] // layer.stride)
        else:
            nodes += [(f"f{i}", Flatten())] if len(shape) > 1 else []
            nodes.append((f"w{i}", Linear(weight=weight)))
            shape = (weight.shape[0],)
        one, zero = np.asarray(1, np.int64), np.asarray(0, np.int64)
        theta = np.asarray(layer.threshold, np.int64)
        nodes.append((f"n{i}", IF(
            shape=shape, threshold=theta, gain=one, amplitude=one, bias=zero, v_init=zero, v_reset=zero,
            arithmetic=FixedPoint(), max_spikes=spikes,
        )))
    return MapNeurons(burst=burst).run(chain([*nodes, ("output", Output(shape=shape))]), find("loihi2-sim"))


def timed(call: Callable[[], Any], repeats: int = 15) -> float:
    """Median seconds of a call, after a warm-up."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def d2e_rows(name: str, arrays: dict[str, Any]) -> Iterator[Row]:
    """loihi2-sim at each batch size, and each form of the synapses alone at the largest."""
    network, frames = lowered(name, arrays), arrays[f"x_{name}"]
    simulator = Simulator(network)
    found = simulator.run(frames).counts
    layers = range(len(SPECS[name].layers))
    counts = np.stack([found[f"n{i}"].reshape(len(frames), -1).sum(axis=1) for i in layers], axis=1)
    if not np.array_equal(counts, arrays[f"spikes_{name}_ge"]):
        raise SystemExit(f"loihi2-sim does not give the spikes of {name}")
    for batch in BATCHES:
        part = frames[:batch]
        yield f"d2e loihi2-sim, batch {batch}", "exact", 1e3 * timed(lambda part=part: simulator.run(part)) / batch
    for form in FORMS:
        forced = Simulator(network, form)
        seconds = timed(lambda forced=forced: forced.run(frames))
        yield f"d2e loihi2-sim, {form} only, batch 32", "exact", 1e3 * seconds / len(frames)


def burst_rows(name: str, arrays: dict[str, Any]) -> Iterator[Row]:
    """Bursts in both forms beside binary spikes, one thread."""
    frames = arrays[f"x_{name}"]
    cases: dict[str, Network] = {
        "binary spikes": lowered(name, arrays),
        **{f"bursts of {BURST}, {form}": lowered(name, arrays, BURST, form) for form in ("graded", "replicas")},
    }
    simulators = {what: Simulator(network) for what, network in cases.items()}
    _, one, other = (simulator.run(frames).output for simulator in simulators.values())
    if not np.array_equal(one, other):
        raise SystemExit(f"graded neurons and replicas of {name} differ")
    seconds: dict[str, list[float]] = {what: [] for what in cases}
    for _ in range(15):
        for what, simulator in simulators.items():
            start = time.thread_time()
            simulator.run(frames, threads=1)
            seconds[what].append(time.thread_time() - start)
    for what, network in cases.items():
        neurons = sum(int(np.prod(network.neuron(n).shape)) for n in network.populations)
        yield what, f"{neurons:,} neurons", 1e3 * min(seconds[what]) / len(frames)


def torch_rows(name: str, arrays: dict[str, Any]) -> Iterator[Row]:
    """The matmuls and convolutions alone in float32, (batch, time) folded: no neuron, no spike, no recording."""
    spec = SPECS[name]
    best = min(_bare(name, arrays, batch) / batch for batch in BATCHES)
    yield "torch float32 synapses alone", f"best of batch {', '.join(map(str, BATCHES))}; {spec.steps} steps", 1e3 * best


def _bare(name: str, arrays: dict[str, Any], batch: int) -> float:
    frames = torch.from_numpy(arrays[f"x_{name}"][:batch]).float().flatten(0, 1)
    inputs, weights = [frames], []
    for i, layer in enumerate(SPECS[name].layers):
        weight = torch.from_numpy(arrays[f"{name}.{i}.weight"])
        weights.append((weight, layer.stride))
        inputs.append(torch.relu(_synapses(inputs[-1], weight, layer.stride).sign()))

    def run() -> None:
        for x, (weight, stride) in zip(inputs, weights, strict=False):
            _synapses(x, weight, stride)

    with torch.inference_mode():
        return timed(run)


def _synapses(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    if weight.ndim == 4:
        return functional.conv2d(x, weight, stride=stride, padding=1)
    return functional.linear(x.flatten(1), weight)


def lava_rows(name: str, arrays: dict[str, Any]) -> Iterator[Row]:
    """Lava's fixed_pt models: a fresh run per sample, and one continuous run; the interpreter's start is taken off."""
    frames = arrays[f"x_{name}"].astype(np.int64)
    network = lowered(name, arrays)
    with tempfile.TemporaryDirectory() as folder:
        emit(network, Path(folder), time_steps=frames.shape[1])

        def seconds(x: Any, fresh: bool) -> float:
            start = time.perf_counter()
            found = run_lava(Path(folder), x, fresh=fresh)
            passed = time.perf_counter() - start
            counts = [int(found.counts[f"n{i}"].sum()) for i in range(len(SPECS[name].layers))]
            if counts != arrays[f"spikes_{name}_ge"][: len(x)].sum(axis=0).tolist():
                raise SystemExit(f"Lava does not give the spikes of {name}")
            return passed

        seconds(frames[:1], True)
        one, five = (float(np.median([seconds(frames[:n], True) for _ in range(3)])) for n in (1, 5))
        yield "lava-nc 0.10.0, fresh run per sample", "exact", 1e3 * (five - one) / 4
        few, more = (float(np.median([seconds(frames[:n], False) for _ in range(3)])) for n in (2, 10))
        yield "lava-nc 0.10.0, one continuous run", "exact, reset between samples", 1e3 * (more - few) / 8


def framework_rows(file: Path, name: str) -> Iterator[Row]:
    """The fastest exact variant of each framework that is installed, eager and compiled."""
    for environment in frameworks.available():
        cases = [
            case for extra in ((), ("--compile",))
            for case in frameworks.measure(file, environment, options=("--networks", name, *extra))
        ]
        for case in frameworks.best(cases):
            what = f"{case['variant']}, batch {case['batch']}"
            yield f"{case['framework']} {case['version']}", what, case["ms_per_sample"]


def main() -> None:
    """Print, and perhaps write, the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-lava", action="store_true")
    parser.add_argument("--no-frameworks", action="store_true")
    parser.add_argument("--only-bursts", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    lines = [f"ms per sample, {THREADS} threads; ratio to loihi2-sim at its best batch size"]
    if args.output:
        args.output.write_text("", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "networks.npz"
        arrays = save(file)
        for name in () if args.only_bursts else SPECS:
            rows = [*d2e_rows(name, arrays), *torch_rows(name, arrays)]
            rows += [] if args.no_lava else lava_rows(name, arrays)
            rows += [] if args.no_frameworks else framework_rows(file, name)
            best = min(ms for _, _, ms in rows[: len(BATCHES)])
            lines += table(f"{name}, {SPECS[name].steps} steps", rows, best)
            write(args.output, lines)
            lines = []
        torch.set_num_threads(1)
        for name in SPECS:
            rows = list(burst_rows(name, arrays))
            lines = table(f"{name}, processor time of one thread, batch 32", rows, rows[0][2])
            write(args.output, lines)


def table(title: str, rows: list[Row], best: float) -> list[str]:
    """Lines of a table, with ratios to ``best``."""
    return ["", title, *(f"  {what:<40}{ms:>10.3f}{ms / best:>10.1f} x   {note}" for what, note, ms in rows)]


def write(file: Path | None, lines: list[str]) -> None:
    """Print lines, and append them to a file where there is one."""
    text = "\n".join(lines) + "\n"
    print(text, end="", flush=True)
    if file:
        with file.open("a", encoding="utf-8") as out:
            out.write(text)


if __name__ == "__main__":
    main()

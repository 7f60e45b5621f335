"""What the four run_<framework>.py share: weights and spikes from the npz file, the timing loop, JSON lines.

Imported inside each framework's own environment: needs torch and numpy, never d2e. The networks are described
in benchmarks/networks.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

STEPS = {"mlp": 64, "cnn": 32}
WARM_UPS = 3
MIN_REPEATS = 9
MIN_SECONDS = 1.0


@dataclass
class Engine:
    """One way to run one network in a framework.

    Attributes:
        variant: what is particular about it; printed with every result.
        model: holds the weights, in the order of the layers, and gets them from `set_weights`.
        run: the timed call, from input spikes to output spikes, state reset included.
        neurons: one module per layer, whose output (or first output) is that layer's spikes.
        layout: order of the first two input dimensions, time and batch.
        input_gain: weights are multiplied by it, for neurons that scale their input by its inverse.
    """

    variant: str
    model: torch.nn.Module
    run: Callable[[torch.Tensor], Any]
    neurons: Sequence[torch.nn.Module]
    layout: Literal["TB", "BT"] = "TB"
    input_gain: float = 1.0


def set_weights(engine: Engine, arrays: dict[str, Any], network: str) -> None:
    """Copy ``<network>.<i>.weight`` into the i-th module with a weight."""
    modules = [m for m in engine.model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    for i, module in enumerate(modules):
        weight = torch.from_numpy(arrays[f"{network}.{i}.weight"])
        assert module.weight.shape == weight.shape, (network, i, module.weight.shape, weight.shape)
        module.weight.copy_(weight * engine.input_gain)


def first(output: Any) -> torch.Tensor:
    """The spikes of a module's output: the tensor, or the first of the tuple."""
    tensor: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def spikes(engine: Engine, x: torch.Tensor) -> list[int]:
    """Number of spikes of each layer."""
    totals = [0.0] * len(engine.neurons)

    def count(layer: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            totals[layer] += float(first(output).sum(dtype=torch.float64))

        return hook

    hooks = [neuron.register_forward_hook(count(i)) for i, neuron in enumerate(engine.neurons)]
    engine.run(x)
    for hook in hooks:
        hook.remove()
    return [round(total) for total in totals]


def seconds(engine: Engine, x: torch.Tensor) -> float:
    """Median time of one call, after warm-up."""
    for _ in range(WARM_UPS):
        engine.run(x)
    times: list[float] = []
    while len(times) < MIN_REPEATS or sum(times) < MIN_SECONDS:
        start = time.perf_counter()
        engine.run(x)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def agreement(arrays: dict[str, Any], network: str, batch: int, totals: list[int]) -> str:
    """The fire rule with which exact arithmetic gives these spike counts, or "no": another network."""
    for fire in ("ge", "gt"):
        if arrays[f"spikes_{network}_{fire}"][:batch].sum(0).tolist() == totals:
            return fire
    return "no"


def compiled(engine: Engine) -> Engine:
    """The same engine through torch.compile, for one input shape."""
    torch.compiler.reset()
    run = torch.compile(engine.run, dynamic=False)
    return replace(engine, variant=f"{engine.variant}, torch.compile", run=run)


def measure(
    engine: Engine, arrays: dict[str, Any], network: str, batch: int, through_compiler: bool
) -> dict[str, Any]:
    """Time one case; the spikes of a compiled engine are counted in the eager one, its output must agree."""
    x = torch.from_numpy(arrays[f"x_{network}"][:batch]).float()
    x = x.transpose(0, 1).contiguous() if engine.layout == "TB" else x
    totals = spikes(engine, x)
    timed = compiled(engine) if through_compiler else engine
    case = {
        "variant": timed.variant,
        "network": network,
        "batch": batch,
        "ms_per_sample": round(1000 * seconds(timed, x) / batch, 4),
        "spikes_total": totals,
        "agrees": agreement(arrays, network, batch, totals),
    }
    if first(timed.run(x)).sum() != totals[-1]:
        case["agrees"] = "no"
    return case


def main(framework: str, engines: Callable[[str], list[Engine]]) -> None:
    """Time every engine of ``engines(network)`` and print one JSON line per network, engine and batch size.

    Keys: framework, version, variant, network, batch, ms_per_sample, spikes_total (of each layer, over the
    batch) and agrees (see `agreement`). The input is converted to float32 and to the engine's layout before,
    not within the timed call.
    """
    parser = argparse.ArgumentParser(description=f"Time {framework} on the benchmark's networks.")
    parser.add_argument("file", help="npz file written by benchmarks/networks.py")
    parser.add_argument("--networks", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="use torch.compile (slow to start)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    arrays = dict(np.load(args.file))
    version = {"framework": framework, "version": importlib.metadata.version(framework)}
    with torch.no_grad():
        for network in args.networks:
            for engine in engines(network):
                set_weights(engine, arrays, network)
                engine.model.eval()
                for batch in args.batches:
                    case = measure(engine, arrays, network, batch, args.compile)
                    print(json.dumps({**version, **case}), flush=True)

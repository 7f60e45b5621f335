"""A network of benchmarks/speck.py in sinabs: `IAFSqueeze` on the same integers, time folded into the batch.

Run by benchmarks/speck.py in sinabs' own environment, with a file and numbers of threads; only ``sinabs`` and
``sinabs.layers`` are imported, for ``sinabs.backend`` needs samna. Prints a JSON line per number of threads, of the
better batch size: what, ms, spikes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sinabs  # type: ignore[import-not-found,unused-ignore]
import sinabs.layers  # type: ignore[import-not-found,unused-ignore]
import torch
from common import first
from torch import nn


def network(arrays: dict[str, Any], steps: int) -> nn.Sequential:
    """Layers as a sinabs user writes them; neurons fire as often in a step as their threshold fits (the default)."""
    modules: list[nn.Module] = []
    for i, layer in enumerate(json.loads(str(arrays["layers"]))):
        weight = torch.from_numpy(arrays[f"w{i}"]).float()
        if layer["kernel"]:
            made: nn.Module = nn.Conv2d(
                weight.shape[1], weight.shape[0], layer["kernel"], layer["stride"], layer["padding"], bias=False)
        else:
            modules.append(nn.Flatten())
            made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        made.weight.data = weight
        threshold = float(layer["threshold"])
        neurons = sinabs.layers.IAFSqueeze(
            num_timesteps=steps, spike_threshold=torch.tensor(threshold), min_v_mem=-threshold)
        modules += [made, neurons]
        if layer["pooling"] > 1:
            modules.append(sinabs.layers.SumPool2d(layer["pooling"]))
    return nn.Sequential(*modules)


def main() -> None:
    """Time both batch sizes with each number of threads."""
    arrays = dict(np.load(sys.argv[1]))
    frames = torch.from_numpy(arrays["x"])
    net = network(arrays, frames.shape[1])
    totals: dict[int, float] = {}
    for i, module in enumerate(m for m in net if isinstance(m, sinabs.layers.IAFSqueeze)):
        module.register_forward_hook(lambda _m, _x, out, i=i: totals.update({i: float(first(out).sum())}))
    with torch.no_grad():
        for threads in map(int, sys.argv[2:]):
            torch.set_num_threads(threads)
            clock = time.process_time if threads == 1 else time.perf_counter
            seconds, batch = min((quickest(net, frames[:n].flatten(0, 1).float(), clock) / n, n) for n in (1, len(frames)))
            sinabs.reset_states(net)
            net(frames.flatten(0, 1).float())
            what = f"sinabs {sinabs.__version__}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
            spikes = [n / len(frames) for n in totals.values()]
            print(json.dumps({"what": what, "ms": 1e3 * seconds, "spikes": spikes}), flush=True)


def quickest(net: nn.Module, x: torch.Tensor, clock: Callable[[], float]) -> float:
    """Seconds of the quickest of the runs within two seconds, after a warm-up; states are reset within the time."""
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < 5 or time.perf_counter() < begun + 2:
        start = clock()
        sinabs.reset_states(net)
        net(x)
        found.append(clock() - start)
    return min(found[1:])


if __name__ == "__main__":
    main()

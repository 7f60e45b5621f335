"""Samples through Lava's models on this computer: all in one run where that is exact, else each in a fresh one.

In one run sample k's frame t reaches the population at depth d at Lava step lead + k * period + t + 1 + d. Every
population starts each sample at rest (network.py). Where a path is longer than the pipeline, blank frames lie between
samples in which its source must be silent; whether it was is watched, and if not the next sample is run afresh.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _shim
import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from processes import recorder

MEMORY = 256 << 20  # bytes that the frames and the record of one run may take, about


class Windows(NamedTuple):
    """Where the frames of each sample are in one run.

    Attributes:
        lead: blank frames before the first sample.
        period: steps from sample to sample.
        frames: of a sample.
    """

    lead: int
    period: int
    frames: int


def simulate(network: Any, frames: np.ndarray, record: str, fresh: bool) -> dict[str, np.ndarray]:
    """Samples [batch, time, *shape]; every array [batch, ...] in the order of the source network.

    ``one_run`` [batch] says which samples were in a run with others.
    """
    parts: list[dict[str, np.ndarray]] = []
    apart = fresh or bool(network.FRESH) or len(frames) == 1
    for samples in [frames[k : k + 1] for k in range(len(frames))] if apart else chunks(network, frames, record):
        found, reached = _run(network, samples, record)
        for k in np.flatnonzero(reached):
            alone, _ = _run(network, samples[k : k + 1], record)
            for key, values in found.items():
                values[k] = alone[key][0]
        parts.append(found)
        _shim.progress(len(samples))
    return joined(parts)


def stream(network: Any, samples: np.ndarray) -> tuple[np.ndarray, Windows]:
    """Samples one after another with blank frames before and between them; one alone as it is."""
    count, steps = samples.shape[:2]
    if count == 1:
        return samples[0], Windows(0, steps, steps)
    windows = Windows(network.LEAD, steps + network.GAP, steps)
    frames = np.zeros((windows.lead + count * windows.period - network.GAP, *samples.shape[2:]), samples.dtype)
    for k, sample in enumerate(samples):
        first = windows.lead + k * windows.period
        frames[first : first + steps] = sample
    return frames, windows


def chunks(network: Any, frames: np.ndarray, record: str) -> Iterator[np.ndarray]:
    """As many samples per run as memory allows."""
    steps = frames.shape[1] + network.GAP
    neurons = sum(int(np.prod(facts["shape"])) for facts in network.POPULATIONS.values())
    per_neuron = {"counts": 8, "spikes": 8 + steps, "state": 8 + 17 * steps}[record]
    needed = 4 * steps * int(np.prod(frames.shape[2:])) + neurons * per_neuron
    size = max(1, MEMORY // needed)
    for first in range(0, len(frames), size):
        yield frames[first : first + size]


def _run(network: Any, samples: np.ndarray, record: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One Lava run, and into which of its samples another one reached."""
    together = len(samples) > 1
    frames, windows = stream(network, samples)
    steps = len(frames) + network.EXTRA_STEPS
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=recorder.MODELS)
    with tempfile.TemporaryDirectory() as folder:
        recorder.watch(Path(folder), network.POPULATIONS, windows, len(samples), steps, record)
        populations = network.build(frames, steps, windows if together else None)
        first = next(iter(populations.values()))
        try:
            run_steps(network, populations, first, steps, config, host_start=not together)
        finally:
            first.stop()
        return _collect(network, Path(folder), samples.shape[:2])


def run_steps(
    network: Any, populations: dict[str, Any], first: Any, steps: int, config: Any, *, host_start: bool
) -> None:
    """Run all steps; populations of network.HOST_START get bias, u and v when the first frame arrives."""
    done, late = 0, network.HOST_START if host_start else {}
    for now in sorted({facts["step"] for facts in late.values()}):
        first.run(condition=RunSteps(num_steps=now - done), run_cfg=config)
        done = now
        for name, facts in late.items():
            if facts["step"] == now:
                for what in ("bias_mant", "u", "v"):
                    register = getattr(populations[name], what)
                    register.set(np.broadcast_to(facts[what], register.shape).astype(np.int32))
    first.run(condition=RunSteps(num_steps=steps - done), run_cfg=config)


def _collect(network: Any, folder: Path, lead: tuple[int, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    result: dict[str, np.ndarray] = {
        "output": np.zeros((*lead, *network.OUTPUT_SHAPE), np.int64), "one_run": np.full(lead[:1], lead[0] > 1)
    }
    reached = np.zeros(lead[0], bool)
    for name, facts in network.POPULATIONS.items():
        with np.load(folder / f"{facts['index']}.npz") as kept:
            reached |= kept["reached"]
            ordered = {what: from_lava(kept[what], facts["shape"]) for what in kept.files if what != "reached"}
        if facts["readout"]:
            sent = ordered.pop("sent").astype(np.int64)
            result["output"] += facts["readout"] * sent.reshape(result["output"].shape)
        result.update({f"{what}/{name}": values for what, values in ordered.items()})
    return result, reached & (lead[0] > 1)


def from_lava(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[..., *Lava's axes] -> [..., *shape]: Lava keeps (x, y, channel)."""
    lava_rank = 3 if len(shape) in (2, 3) else 1
    lead = values.shape[: values.ndim - lava_rank]
    reverse = values.reshape(*lead, *shape[::-1])
    axes = tuple(range(len(lead)))
    return np.ascontiguousarray(reverse.transpose(*axes, *reversed(range(len(lead), reverse.ndim))))


def joined(parts: list[Any]) -> dict[str, np.ndarray]:
    """The results of several runs as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

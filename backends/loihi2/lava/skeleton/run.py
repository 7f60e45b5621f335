"""Runs this package with Lava: ``python run.py --input frames.npy --output result.npz``.

Needs lava-nc 0.10.0, numpy < 2 and scipy; nothing of d2e. Frames are integers [batch, time, *input shape]; where
network.py has an ENCODER, numbers of a floating type are real values, and images [batch, *input shape] need no time.
The result holds ``output`` [batch, time, *out], ``counts/NAME`` [batch, *shape] and, with --record spikes or
state, ``spikes/NAME``, ``u/NAME`` and ``v/NAME`` [batch, time, *shape]; the pipeline's latency is removed.
``one_run`` [batch] says which samples shared a Lava run with others, which changes no number. With --hardware the
readout alone comes back, and ``profile/WHAT`` [runs, ...] holds what Intel's profiler measured, in its units.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import _shim
import chip
import encoder
import numpy as np
import samples

EXIT_USAGE = 2


def load_network(folder: Path) -> Any:
    """The module ``network.py`` of a package folder."""
    spec = importlib.util.spec_from_file_location("network", folder / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(network: Any, frames: np.ndarray) -> np.ndarray:
    """Real frames [batch, time, *shape], or images [batch, *shape], as integers; anything else as it is."""
    shape, facts = tuple(network.INPUT_SHAPE), network.ENCODER
    if facts is None or frames.dtype.kind != "f" or not np.isfinite(frames).all():
        return frames
    own = encoder.Encoder(facts["kind"], np.array(facts["scale"]), facts["seed"], facts["latch"])
    if frames.shape[1:] == shape and facts["time_steps"]:
        frames = own.spread(frames, facts["time_steps"])
    changing = own.kind in encoder.TIMED and frames.ndim > 1 and (frames != frames[:, :1]).any()
    if frames.shape[2:] != shape or changing:
        return frames
    payloads: np.ndarray = own.encode(frames, *network.PAYLOADS)
    return payloads


def check_frames(network: Any, frames: np.ndarray) -> np.ndarray:
    """Frames as integers [batch, time, *shape]; leaves with exit code 2 where they do not fit."""
    shape = tuple(network.INPUT_SHAPE)
    low, high = network.PAYLOADS
    whole: np.ndarray = np.rint(frames).astype(np.int32)
    if frames.ndim != len(shape) + 2 or frames.shape[2:] != shape:
        message = f"input of shape {list(frames.shape)} is not [batch, time, {', '.join(map(str, shape))}]"
    elif 0 in frames.shape:
        message = "the input holds no frame"
    elif (whole != frames).any() or whole.min() < low or whole.max() > high:
        message = f"the input must hold integers from {low} to {high}"
    else:
        return whole
    print(message, file=sys.stderr)
    raise SystemExit(EXIT_USAGE)


def run_package(folder: Path, frames: np.ndarray, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """All samples of ``frames`` through the package in ``folder``."""
    network = load_network(folder)
    whole = check_frames(network, encoded(network, frames))
    if options.hardware:
        result: dict[str, np.ndarray] = chip.run_on_chip(
            network, whole, fresh=options.fresh, profile=not options.no_profile
        )
        return result
    result = samples.simulate(network, whole, options.record, options.fresh)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs this package with Lava.")
    parser.add_argument("--input", type=Path, help="integer frames [batch, time, *input shape], .npy")
    parser.add_argument("--output", type=Path, help="result, .npz")
    parser.add_argument("--record", choices=("counts", "spikes", "state"), default="counts")
    parser.add_argument("--fresh", action="store_true", help="run every sample by itself (slower, same result)")
    parser.add_argument("--time-out", type=float, default=600.0, metavar="S", help="end a run that hangs")
    parser.add_argument("--hardware", action="store_true", help="run on Loihi 2 (needs lava-loihi)")
    parser.add_argument("--no-profile", action="store_true", help="with --hardware: ask Intel's profiler nothing")
    parser.add_argument("--jobs", type=Path, help="instead: a .json list of {folder, input, output}")
    options = parser.parse_args()
    here = Path(__file__).resolve().parent
    jobs = [{"folder": here, "input": options.input, "output": options.output}]
    if options.jobs is not None:
        jobs = json.loads(options.jobs.read_text())
    if options.hardware:
        for job in jobs:
            chip.check_network(load_network(Path(job["folder"])))
        chip.check_hardware()
    if options.jobs is None and (options.input is None or options.output is None):
        parser.error("--input and --output are needed")
    inputs = [np.load(job["input"], allow_pickle=False) for job in jobs]
    _shim.watchdog(options.time_out, sum(map(len, inputs)))
    for job, frames in zip(jobs, inputs, strict=True):
        result: dict[str, Any] = run_package(Path(job["folder"]), frames, options)
        np.savez(job["output"], **result)
    _shim.watchdog(0)


if __name__ == "__main__":
    main()

"""Runs this program on a Speck: ``python deploy.py --input frames.npy --output result.npz``.

Needs samna and a development kit; never run on a board. Frames are integers [batch, time, *input shape], in .npy or as
``x`` of an .npz; real values where the program has an encoder. Events are an .npz (or a structured .npy) with ``t``
(microseconds from the sample's start), ``x``, ``y``, ``p`` (feature; polarity) and, for several samples, ``sample``. The
result holds ``output`` [batch, time, *out] and ``counts/NAME`` [batch, *shape] of the output, with --monitor all of every
population, with --record spikes ``spikes/NAME`` [batch, time, *shape]; ``wall_s`` and ``last_spike_us`` [batch]; with
--power ``power/rails`` and, in watts per rail, ``power/idle``, ``power/total`` and ``power/dynamic``.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import encoder
import events
import numpy as np
import samna_board
import session

EXIT_USAGE = 2


class Misuse(Exception):
    """What is wrong with the call, in one sentence."""


def load_input(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz, the columns of a structured .npy, or a .npy as ``x``."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                return dict(loaded)
            return {name: loaded[name] for name in loaded.dtype.names} if loaded.dtype.names else {"x": loaded}
    except OSError as error:
        raise Misuse(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:
        raise Misuse(f"{path} is no whole .npy or .npz file") from None


def step_us(source: dict[str, Any]) -> float:
    """Microseconds per time step."""
    return float(events.STEP_US if source["dt"] is None else 1e6 * source["dt"])


# --------------------------------------------------------------------------- frames


def encoded(source: dict[str, Any], frames: np.ndarray) -> np.ndarray:
    """Real frames [batch, time, *shape], or images [batch, *shape], as integers; anything else as it is."""
    facts, shape = source["encoder"], tuple(source["shape"])
    if facts is None or frames.dtype.kind != "f" or not np.isfinite(frames).all():
        return frames
    own = encoder.Encoder(facts["kind"], np.array(facts["scale"]), facts["seed"], facts["latch"])
    if frames.shape[1:] == shape and source["time_steps"]:
        frames = own.spread(frames, source["time_steps"])
    changing = own.kind in encoder.TIMED and frames.ndim > 1 and (frames != frames[:, :1]).any()
    if frames.shape[2:] != shape or changing:
        return frames
    payloads: np.ndarray = own.encode(frames, 0, source["max_payload"])
    return payloads


def from_frames(source: dict[str, Any], frames: np.ndarray, order: str) -> list[tuple[Any, int]]:
    """Every sample as events, with its steps; ``order``: of the events within a step."""
    shape, high = tuple(source["shape"]), source["max_payload"]
    frames = encoded(source, frames)
    if frames.ndim != len(shape) + 2 or frames.shape[2:] != shape:
        raise Misuse(f"input of shape {list(frames.shape)} is not [batch, time, {', '.join(map(str, shape))}]")
    if 0 in frames.shape:
        raise Misuse("the input holds no frame")
    whole = np.rint(frames).astype(np.int64) if np.isfinite(frames).all() else np.full(frames.shape, -1)
    if (whole != frames).any() or whole.min() < 0 or whole.max() > high:
        raise Misuse(f"the input must hold integers from 0 to {high}")
    return [
        (events.from_frames(sample.reshape(-1, *source["space"]), step_us=step_us(source), order=order), len(sample))
        for sample in whole
    ]


# --------------------------------------------------------------------------- recorded events


def from_events(source: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[tuple[Any, int]]:
    """Every sample of recorded events, with its steps."""
    missing = sorted({"t", "x", "y"} - arrays.keys())
    if missing:
        raise Misuse(f"events need the arrays t, x, y and p; {', '.join(missing)} is missing")
    zeros = np.zeros(len(arrays["t"]), np.int64)
    t, y, x, p, sample = (np.asarray(arrays.get(key, zeros)) for key in ("t", "y", "x", "p", "sample"))
    if any(a.shape != t.shape or a.ndim != 1 or a.dtype.kind not in "iub" for a in (t, y, x, p, sample)):
        raise Misuse("the arrays of the events must be integers, equally many each")
    if not len(t):
        raise Misuse("the input holds no event")
    if source["space"][0] < 3:  # polarities: -1 is 0, and one feature takes both
        p = np.maximum(p, 0) if source["space"][0] == 2 else zeros
    for name, values, size in zip(("p", "y", "x"), (p, y, x), source["space"], strict=True):
        if values.min() < 0 or values.max() >= size:
            raise Misuse(f"{name} of the events reaches from {values.min()} to {values.max()}, not 0 to {size - 1}")
    if t.min() < 0 or sample.min() < 0 or (np.diff(sample) < 0).any() or (np.diff(t)[np.diff(sample) == 0] < 0).any():
        raise Misuse("samples must be numbered from 0, and t must not fall within a sample")
    steps = source["time_steps"] or int(t.max() // step_us(source)) + 1
    return [
        (events.Events(*(np.asarray(a[sample == i], np.int64) for a in (t, p, y, x))), steps)
        for i in range(int(sample.max()) + 1)
    ]


# --------------------------------------------------------------------------- running


def prepare(config: dict[str, Any], monitor: str, slow_clock: float | None) -> Any:
    """Mark the monitored cores and set the clock; the populations that are heard."""
    network = config["network"]
    if slow_clock is not None:
        config["slow_clock_hz"], network["source"]["dt"] = slow_clock, 1 / slow_clock
    heard = session.places(config)
    if monitor == "output":
        heard = {network["output"]: heard[network["output"]]}
    for place in heard.values():
        for core, *_ in place.parts:
            config["configuration"]["cnn_layers"][core]["monitor_enable"] = True
    return heard


def samples_of(config: dict[str, Any], options: argparse.Namespace) -> list[tuple[Any, int]]:
    """What is streamed, with the steps of each sample."""
    source = config["network"]["source"]
    if options.camera is not None:
        if "dvs_layer" not in config["configuration"]:
            raise Misuse("this program takes its events from the host; compile it with {input=camera} for the chip's camera")
        return [(options.camera, math.ceil(options.camera * 1e6 / step_us(source)))]
    arrays = load_input(options.input)
    if "t" in arrays:
        return from_events(source, arrays)
    return from_frames(source, arrays.get("x", np.zeros(0)), config["notes"].get("events", "mixed"))


def run(config: dict[str, Any], options: argparse.Namespace) -> dict[str, np.ndarray]:
    """All samples of the input through the board."""
    heard = prepare(config, options.monitor, options.slow_clock)
    samples = samples_of(config, options)
    board = samna_board.SamnaBoard(config["chip"], options.device, power=options.power)
    board.open()
    try:
        board.configure(config)
        stream = board.stream if options.camera is None else board.see
        step = step_us(config["network"]["source"])
        result: dict[str, np.ndarray] = session.run_samples(
            stream, heard, config["network"]["output"], samples, step, options.record)
        power = board.power() or {}
    finally:
        board.close()
    if power:
        result["power/rails"] = np.array(list(power))
        for what in ("idle", "total", "dynamic", "measurements"):
            result[f"power/{what}"] = np.array([power[rail][what] for rail in power])
    return result


def save(path: Path, result: dict[str, Any]) -> None:
    """Write the result."""
    try:
        with path.open("wb") as file:
            np.savez(file, **result)
    except OSError as error:
        raise Misuse(f"{path} cannot be written: {error.strerror or error}") from None


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def main() -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Runs this program on a Speck development kit.")
    parser.add_argument("--input", type=Path, help="frames (.npy, .npz) or events (.npz)")
    parser.add_argument("--camera", type=positive, metavar="SECONDS", help="instead: what the chip's camera sees")
    parser.add_argument("--output", type=Path, help="result, .npz")
    parser.add_argument("--board", choices=("samna",), default="samna", help="how the board is reached")
    parser.add_argument("--device", metavar="NAME", help="such as Speck2fDevKit, or speck2fdevkit:1 for the second")
    parser.add_argument("--monitor", choices=("output", "all"), default="output",
                        help="whose spikes are sent to the host (all costs bandwidth)")
    parser.add_argument("--record", choices=("counts", "spikes"), default="counts")
    parser.add_argument("--power", action="store_true", help="measure the power of every rail")
    parser.add_argument("--slow-clock", type=positive, metavar="HZ",
                        help="rate of the clock that adds biases; a step of frames lasts one period")
    parser.add_argument("--check", action="store_true", help="only let samna validate the configuration; needs no board")
    options = parser.parse_args()
    config = json.loads((Path(__file__).resolve().parent / "speck_config.json").read_text(encoding="utf-8"))
    try:
        if options.check:
            samna_board.validated(getattr(samna_board.load_samna(), config["chip"]), config)
            print("the configuration is valid")
            return 0
        if (options.input is None) == (options.camera is None) or options.output is None:
            parser.error("--input (or --camera) and --output are needed")
        save(options.output, run(config, options))
    except Misuse as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except samna_board.BoardError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())

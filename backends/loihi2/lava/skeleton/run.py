"""Runs this package with Lava: ``python run.py --input frames.npy --output result.npz``.

Needs lava-nc 0.10.0, numpy < 2 and scipy; nothing of d2e. Frames are integers [batch, time, *input shape].
The result holds ``output`` [batch, time, *out], ``counts/NAME`` [batch, *shape] and, with --record spikes or
state, ``spikes/NAME``, ``u/NAME`` and ``v/NAME`` [batch, time, *shape]; the pipeline's latency is removed.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import _shim
import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from processes import recorder

EXIT_USAGE = 2
EXIT_UNSUPPORTED = 3
EXIT_MISSING = 5


def load_network(folder: Path) -> Any:
    """The module ``network.py`` of a package folder."""
    spec = importlib.util.spec_from_file_location("network", folder / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def run_sample(network: Any, frames: np.ndarray, record: str) -> dict[str, np.ndarray]:
    """One sample [time, *shape] in a fresh Lava run; every array in the order of the source network."""
    steps = len(frames) + network.EXTRA_STEPS
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=recorder.MODELS)
    with tempfile.TemporaryDirectory() as folder:
        recorder.watch(Path(folder), network.POPULATIONS, len(frames), steps, record)
        populations = network.build(frames, steps)
        first = next(iter(populations.values()))
        try:
            _run(network, populations, first, steps, config)
        finally:
            first.stop()
        return _collect(network, Path(folder), len(frames))


def _run(network: Any, populations: dict[str, Any], first: Any, steps: int, config: Any) -> None:
    """Run all steps; populations of network.HOST_START get bias, u and v when their first frame arrives."""
    done = 0
    for now in sorted({facts["step"] for facts in network.HOST_START.values()}):
        first.run(condition=RunSteps(num_steps=now - done), run_cfg=config)
        done = now
        for name, facts in network.HOST_START.items():
            if facts["step"] == now:
                for what in ("bias_mant", "u", "v"):
                    register = getattr(populations[name], what)
                    register.set(np.broadcast_to(facts[what], register.shape).astype(np.int32))
    first.run(condition=RunSteps(num_steps=steps - done), run_cfg=config)


def _collect(network: Any, folder: Path, frames: int) -> dict[str, np.ndarray]:
    result: dict[str, np.ndarray] = {"output": np.zeros((frames, *network.OUTPUT_SHAPE), np.int64)}
    for name, facts in network.POPULATIONS.items():
        with np.load(folder / f"{facts['index']}.npz") as kept:
            ordered = {what: _from_lava(kept[what], facts["shape"]) for what in kept.files}
        result[f"counts/{name}"] = ordered.pop("count")
        if facts["readout"]:
            sent = ordered.pop("sent").astype(np.int64)
            result["output"] += facts["readout"] * sent.reshape(frames, *network.OUTPUT_SHAPE)
        result.update({f"{what}/{name}": values for what, values in ordered.items()})
    return result


def _from_lava(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[..., *Lava's axes] -> [..., *shape]: Lava keeps (x, y, channel)."""
    lava_rank = 3 if len(shape) in (2, 3) else 1
    lead = values.shape[: values.ndim - lava_rank]
    reverse = values.reshape(*lead, *shape[::-1])
    axes = tuple(range(len(lead)))
    return np.ascontiguousarray(reverse.transpose(*axes, *reversed(range(len(lead), reverse.ndim))))


def run_package(folder: Path, frames: np.ndarray, record: str, chip: bool) -> dict[str, np.ndarray]:
    """All samples of ``frames`` through the package in ``folder``."""
    network = load_network(folder)
    whole = check_frames(network, frames)
    samples = [run_on_chip(network, s) if chip else run_sample(network, s, record) for s in whole]
    kept = {"counts": ("output", "counts/"), "spikes": ("output", "counts/", "spikes/")}.get(record, ("",))
    return {key: np.stack([s[key] for s in samples]) for key in samples[0] if key.startswith(kept)}


def check_chip(network: Any) -> None:
    """Leave with exit code 3 where a chip cannot run the network."""
    silent = [name for name, facts in network.POPULATIONS.items() if facts["readout"] and facts["silent"]]
    if network.GRADED:
        _refuse(f"{_named(network.GRADED, 'sends', 'send')} graded spikes, which need microcode that is not part of Lava")
    if silent:
        _refuse(f"{_named(silent, 'reads', 'read')} out v, which no chip sends; end the network with spikes")


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(EXIT_UNSUPPORTED)


def _named(names: Any, one: str, many: str) -> str:
    listed = ", ".join(map(repr, names))
    return f"population {listed} {one}" if len(names) == 1 else f"populations {listed} {many}"


def run_on_chip(network: Any, frames: np.ndarray) -> dict[str, np.ndarray]:
    """One sample on Loihi 2, through Intel's adapters: the spikes of the readout alone come back.

    Written after lava-nc's ``networks/gradedvecnetwork.py``; d2e's authors have no chip to run it on.
    """
    from lava.magma.core.run_configs import Loihi2HwCfg
    from lava.proc import embedded_io as eio
    from lava.proc.io.sink import RingBuffer

    def entry(buffer: Any) -> Any:
        heard = buffer.s_out
        adapter = eio.spike.PyToNxAdapter(shape=heard.shape, num_message_bits=network.MESSAGE_BITS)
        heard.connect(adapter.inp)
        return adapter.out

    network.entry, network.APART = entry, True
    steps = len(frames) + network.EXTRA_STEPS
    populations = network.build(frames, steps)
    sinks = {}
    for name, facts in network.POPULATIONS.items():
        if facts["readout"]:
            spikes = populations[name].s_out
            adapter = eio.spike.NxToPyAdapter(shape=spikes.shape, num_message_bits=0)
            sinks[name] = RingBuffer(shape=spikes.shape, buffer=steps)
            spikes.connect(adapter.inp)
            adapter.out.connect(sinks[name].a_in)
    first = populations[next(iter(sinks))]
    try:
        _run(network, populations, first, steps, Loihi2HwCfg())
        heard = {name: sink.data.get().astype(np.int64) for name, sink in sinks.items()}
    finally:
        first.stop()
    result: dict[str, np.ndarray] = {"output": np.zeros((len(frames), *network.OUTPUT_SHAPE), np.int64)}
    for name, data in heard.items():
        facts = network.POPULATIONS[name]
        fired = _from_lava(np.moveaxis(data, -1, 0)[facts["depth"] :][: len(frames)], facts["shape"])
        result["output"] += facts["readout"] * fired.reshape(result["output"].shape)
        result[f"counts/{name}"] = fired.sum(axis=0)
    return result


def check_hardware() -> None:
    """Leave with exit code 5 unless Intel's lava-loihi is installed."""
    if importlib.util.find_spec("lava.magma.core.model.nc") is None:
        print(
            "Loihi 2 needs lava-loihi, which is not installed here; members of the INRC get it from Intel.",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_MISSING)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs this package with Lava, every sample in a fresh run.")
    parser.add_argument("--input", type=Path, help="integer frames [batch, time, *input shape], .npy")
    parser.add_argument("--output", type=Path, help="result, .npz")
    parser.add_argument("--record", choices=("counts", "spikes", "state"), default="counts")
    parser.add_argument("--time-out", type=float, default=600.0, metavar="S", help="end a run that hangs")
    parser.add_argument("--hardware", action="store_true", help="run on Loihi 2 (needs lava-loihi)")
    parser.add_argument("--jobs", type=Path, help="instead: a .json list of {folder, input, output}")
    options = parser.parse_args()
    here = Path(__file__).resolve().parent
    jobs = [{"folder": here, "input": options.input, "output": options.output}]
    if options.jobs is not None:
        jobs = json.loads(options.jobs.read_text())
    if options.hardware:
        for job in jobs:
            check_chip(load_network(Path(job["folder"])))
        check_hardware()
    if options.jobs is None and (options.input is None or options.output is None):
        parser.error("--input and --output are needed")
    _shim.watchdog(options.time_out)
    for job in jobs:
        frames = np.load(job["input"], allow_pickle=False)
        result: dict[str, Any] = run_package(
            Path(job["folder"]), frames, options.record, options.hardware
        )
        np.savez(job["output"], **result)
    _shim.watchdog(0)


if __name__ == "__main__":
    main()

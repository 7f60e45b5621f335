"""Samples on Loihi 2 through Intel's adapters and profiler (lava-loihi): the spikes of the readout alone come back.

Written after lava-nc's ``networks/gradedvecnetwork.py`` and ``utils/profiler.py``, and after public users of Intel's
profiler. d2e's authors have no chip: this has only ever run with stand-ins for lava-loihi.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import importlib.util
import sys
from typing import Any, NoReturn

import numpy as np
from samples import chunks, from_lava, joined, run_steps, stream

EXIT_UNSUPPORTED = 3
EXIT_MISSING = 5


def check_network(network: Any) -> None:
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


def check_hardware() -> None:
    """Leave with exit code 5 unless Intel's lava-loihi is installed."""
    if importlib.util.find_spec("lava.magma.core.model.nc") is None:
        print(
            "Loihi 2 needs lava-loihi, which is not installed here; members of the INRC get it from Intel.",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_MISSING)


def run_on_chip(network: Any, frames: np.ndarray, *, fresh: bool, profile: bool) -> dict[str, np.ndarray]:
    """Samples [batch, time, *shape]: in one run where nothing reaches from sample to sample, else one by one.

    Blank frames between samples would have to be silent, and on a chip nobody watches them. Beside the result of
    samples.simulate, limited to the readout, ``profile/WHAT`` [runs, ...] holds what the profiler measured.
    """
    apart = fresh or bool(network.FRESH) or network.GAP > 0 or len(frames) == 1
    groups = [frames[k : k + 1] for k in range(len(frames))] if apart else list(chunks(network, frames, "counts"))
    parts, measures = [], []
    for group in groups:
        found, told = _run(network, group, profile)
        parts.append(found)
        measures.append(told)
    result: dict[str, np.ndarray] = joined(parts)
    for what in measures[0]:
        values = [each[what] for each in measures if what in each]
        if len({v.shape for v in values}) == 1:
            result[f"profile/{what}"] = np.stack(values)
    return result


def _run(network: Any, samples: np.ndarray, profile: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """One run on the chip, and what the profiler measured."""
    from lava.magma.core.run_configs import Loihi2HwCfg

    frames, windows = stream(network, samples)
    steps = len(frames) + network.EXTRA_STEPS
    heard, adapters = _adapters(steps)
    network.entry, network.APART = adapters, True
    populations = network.build(frames, steps, windows if len(samples) > 1 else None)
    readouts = {name: facts for name, facts in network.POPULATIONS.items() if facts["readout"]}
    sinks = {name: heard(populations[name].s_out) for name in readouts}
    config = Loihi2HwCfg()
    profiler = probed(config, steps) if profile else None
    first = populations[next(iter(sinks))]
    try:
        run_steps(network, populations, first, steps, config, host_start=len(samples) == 1)
        data = {name: sink.data.get().astype(np.int64) for name, sink in sinks.items()}
    finally:
        first.stop()
    result: dict[str, np.ndarray] = {
        "output": np.zeros((*samples.shape[:2], *network.OUTPUT_SHAPE), np.int64),
        "one_run": np.full(len(samples), len(samples) > 1),
    }
    for name, facts in readouts.items():
        first_step = windows.lead + facts["depth"]
        fired = np.moveaxis(data[name], -1, 0)[first_step : first_step + len(samples) * windows.period]
        fired = from_lava(fired, facts["shape"]).reshape(*samples.shape[:2], *facts["shape"])
        result["output"] += facts["readout"] * fired.reshape(result["output"].shape)
        result[f"counts/{name}"] = fired.sum(axis=1)
    return result, measured(profiler)


def _adapters(steps: int) -> tuple[Any, Any]:
    """(a sink for a port, network.py's entry), both through Intel's adapters between the host and the chip."""
    from lava.proc import embedded_io as eio
    from lava.proc.io.sink import RingBuffer

    def entry(buffer: Any, bits: int) -> Any:
        adapter = eio.spike.PyToNxAdapter(shape=buffer.s_out.shape, num_message_bits=bits)
        buffer.s_out.connect(adapter.inp)
        return adapter.out

    def heard(port: Any) -> Any:
        adapter = eio.spike.NxToPyAdapter(shape=port.shape, num_message_bits=0)
        sink = RingBuffer(shape=port.shape, buffer=steps)
        port.connect(adapter.inp)
        adapter.out.connect(sink.a_in)
        return sink

    return heard, entry


PROBES = ("execution_time_probe", "energy_probe", "activity_probe", "memory_probe")
MEASURES = (
    "execution_time", "spiking_time", "management_time", "learning_time", "host_time", "power", "static_power",
    "dynamic_power", "vdd_power", "vddm_power", "vddio_power", "energy", "static_energy", "dynamic_energy",
    "num_alloc_chips",
)


def probed(config: Any, steps: int) -> Any:
    """Intel's profiler with every probe that it has; None where there is none."""
    from lava.utils.profiler import Profiler

    try:
        profiler = Profiler.init(config)
    except NotImplementedError as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return None
    for name in PROBES:
        needs_steps = name in ("execution_time_probe", "energy_probe")
        try:
            getattr(profiler, name)(**({"num_steps": steps} if needs_steps else {}))
        except Exception as error:  # closed software: a probe it lacks must not cost the run
            print(f"{name} is not available: {error}", file=sys.stderr)
    return profiler


def measured(profiler: Any) -> dict[str, np.ndarray]:
    """What a profiler has to tell, in its own units; a run is not lost because it lacks some of it."""
    found: dict[str, np.ndarray] = {}
    for name in MEASURES:
        try:
            value = np.asarray(getattr(profiler, name), dtype=float)
        except Exception:  # closed software: each probe answers only where it was set and has run
            continue
        found[name] = value
    return found

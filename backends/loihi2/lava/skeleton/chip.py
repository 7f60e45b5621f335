"""Samples on Loihi 2 through Intel's adapters (lava-loihi): the spikes of the readout alone come back.

Written after lava-nc's ``networks/gradedvecnetwork.py``; d2e's authors have no chip to run it on.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import importlib.util
import sys
from typing import Any, NoReturn

import numpy as np
from samples import from_lava, run_steps

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


def run_on_chip(network: Any, frames: np.ndarray) -> dict[str, np.ndarray]:
    """One sample."""
    from lava.magma.core.run_configs import Loihi2HwCfg
    from lava.proc import embedded_io as eio
    from lava.proc.io.sink import RingBuffer

    def entry(buffer: Any, bits: int) -> Any:
        heard = buffer.s_out
        adapter = eio.spike.PyToNxAdapter(shape=heard.shape, num_message_bits=bits)
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
        run_steps(network, populations, first, steps, Loihi2HwCfg(), host_start=True)
        heard = {name: sink.data.get().astype(np.int64) for name, sink in sinks.items()}
    finally:
        first.stop()
    result: dict[str, np.ndarray] = {"output": np.zeros((len(frames), *network.OUTPUT_SHAPE), np.int64)}
    for name, data in heard.items():
        facts = network.POPULATIONS[name]
        fired = from_lava(np.moveaxis(data, -1, 0)[facts["depth"] :][: len(frames)], facts["shape"])
        result["output"] += facts["readout"] * fired.reshape(result["output"].shape)
        result[f"counts/{name}"] = fired.sum(axis=0)
    return result

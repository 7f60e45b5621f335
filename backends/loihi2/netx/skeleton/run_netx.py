"""Runs ``.net`` files with lava-dl 0.6.0's own netx on the CPU: ``python run_netx.py jobs.json``; needs nothing of d2e.

Run by the interpreter of the Lava environment. jobs.json is a list of {net, input, output, message_bits, layers, lead,
continuous}: ``input`` holds frames [batch, time, *shape] (.npy), ``output`` receives ``spikes`` and ``v`` of the last layer
[batch, time, *shape] (.npz), the latency removed. ``lead``: the first layer is an input layer with neurons, which netx
feeds through their bias. ``continuous``: all samples in one run, with netx's reset between them.
"""
# ruff: noqa: TID251
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


def netx() -> Any:
    """``lava.lib.dl.netx.hdf5``, with stand-ins for torch and slayer, which it imports and does not use here.

    Lava's Conv comes first: with a torch in reach it would compute with that.
    """
    importlib.import_module("lava.proc.conv.process")
    slayer = "lava.lib.dl.slayer"
    names = ("torch", slayer, f"{slayer}.neuron", f"{slayer}.neuron.rf")
    modules = {name: types.ModuleType(name) for name in names}
    modules["torch"].__dict__.update(Tensor=type("Tensor", (), {}), tensor=None)
    modules[f"{slayer}.neuron.rf"].__dict__.update(neuron_params=None)
    sys.modules.update(modules)
    return importlib.import_module("lava.lib.dl.netx.hdf5")


def run_once(hdf5: Any, job: dict[str, Any], frames: np.ndarray, interval: int | None) -> dict[str, np.ndarray]:
    """Spikes and ``v`` of the last layer for frames [time, *shape] in one Lava run, frame for frame.

    The layers' biases run before frame 0 has reached them, so each layer is reset when it does, and again every
    ``interval`` steps: netx's reset, one step later than its default where the first layer is no input layer.
    """
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import Read, RingBuffer
    from lava.proc.io.source import RingBuffer as Source

    arguments = {"net_config": job["net"], "num_layers": job["layers"], "input_message_bits": job["message_bits"]}
    lead = bool(job["lead"])
    lag = len(hdf5.Network(**arguments).layers) - lead
    steps = len(frames) + lag
    network = hdf5.Network(**arguments, reset_interval=interval or steps + 2, reset_offset=0 if lead else 1)
    shown = to_lava(frames, network.inp.shape)
    if lead:
        network.in_layer.neuron.bias_mant.init = shown[0].astype(np.int32)
    else:
        Source(data=np.moveaxis(shown, 0, -1).astype(np.int32)).s_out.connect(network.inp)
    heard, state = RingBuffer(shape=network.out.shape, buffer=steps), Read(buffer=steps)
    network.out.connect(heard.a_in)
    state.connect_var(network.out_layer.neuron.v)
    try:
        network.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        result = {"spikes": heard.data.get(), "v": state.data.get()}
    finally:
        network.stop()
    return {what: from_lava(values.astype(np.int64), lag) for what, values in result.items()}


def to_lava(frames: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[time, C, H, W] or [time, C, L] as netx wants it: (W, H, C), (L, 1, C), or flat in the order of [C, H, W]."""
    axes = range(1, frames.ndim) if len(shape) == 1 else range(frames.ndim - 1, 0, -1)
    return frames.transpose(0, *axes).reshape(len(frames), *shape)


def from_lava(values: np.ndarray, lag: int) -> np.ndarray:
    """[*shape of netx, time] as [time, C, H, W] or [time, N], without the steps before frame 0."""
    return np.ascontiguousarray(values.transpose(*range(values.ndim - 1, -1, -1))[lag:])


def run_job(hdf5: Any, job: dict[str, Any]) -> None:
    """All samples of one job."""
    frames = np.load(job["input"], allow_pickle=False)
    if job["continuous"]:
        batch, time = frames.shape[:2]
        whole = run_once(hdf5, job, frames.reshape(batch * time, *frames.shape[2:]), time)
        result = {what: values.reshape(batch, time, *values.shape[1:]) for what, values in whole.items()}
    else:
        samples = [run_once(hdf5, job, sample, None) for sample in frames]
        result = {what: np.stack([s[what] for s in samples]) for what in ("spikes", "v")}
    np.savez(job["output"], **result)  # type: ignore[arg-type]


def main() -> None:
    """The command line: jobs.json, the folder that holds ``_shim.py``, and a limit in seconds."""
    jobs, shim, seconds = sys.argv[1:]
    sys.path.insert(0, shim)
    watchdog = importlib.import_module("_shim").watchdog
    watchdog(float(seconds))
    hdf5 = netx()
    for job in json.loads(Path(jobs).read_text()):
        run_job(hdf5, job)
    watchdog(0)


if __name__ == "__main__":
    main()

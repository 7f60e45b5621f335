"""Writes ``network.net``: the lowered network for lava-dl's netx (0.6.0), the way to Loihi 2 that Intel published.

Equal networks give equal bytes. The format is that of lava-dl slayer's ``export_hdf5``, read by ``netx/hdf5.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from d2e.backends.loihi2.netx.layer import Layer, as_frames
from d2e.backends.loihi2.netx.plan import plan
from d2e.ir import Finding, Network, raise_findings
from d2e.ir.nodes import Shape

FILE = "network.net"
REASONS = "network.net.txt"
_REFRACTORY = 1  # written by slayer, read by nobody


def expressible(network: Network) -> list[Finding]:
    """One sentence per layer of a lowered network that netx cannot express; none: `write` writes it."""
    return plan(network)[1]


def emit(network: Network, folder: Path, *, time_steps: int | None) -> dict[str, Any]:
    """Write ``network.net`` into ``folder``, or ``network.net.txt`` with what prevents it.

    Returns:
        {"netx": facts of `write`} or {"netx_reasons": sentences}.
    """
    findings = expressible(network)
    if not findings:
        return {"netx": write(network, folder / FILE, time_steps=time_steps)}
    reasons = [f"{f.node}: {f.message}. {f.hint or ''}".rstrip() for f in findings]
    text = "\n".join(["netx cannot express this network:", *reasons, ""])
    (folder / REASONS).write_text(text, encoding="utf-8")
    return {"netx_reasons": reasons}


def write(network: Network, path: Path, *, time_steps: int | None = None) -> dict[str, Any]:
    """Write a lowered network as a ``.net`` file.

    Returns:
        How netx runs it: ``input_message_bits``, ``reset_offset`` (with any ``reset_interval``, which clears each layer when
        its first frame arrives), ``latency`` in steps, ``outputs`` (neurons of the last layer that are output, the first),
        ``copies`` (layers whose neurons are repeated, and how often).

    Raises:
        UnsupportedError: D2E-NETX-010 with every layer that netx cannot express.
    """
    import h5py

    layers, findings = plan(network)
    raise_findings(findings)
    source = network.input
    with h5py.File(path, "w", libver=("earliest", "v108"), track_order=False) as file:
        group = file.create_group("layer")
        flat = layers[0].flatten and len(source.shape) not in (2, 3)
        _input(group.create_group("0"), (int(np.prod(source.shape)),) if flat else source.shape)
        number = 1
        for layer in layers:
            if layer.flatten and not flat:
                _flatten(group.create_group(str(number)), layer.weight.shape[1])
                number += 1
            flat = False
            _layer(group.create_group(str(number)), layer)
            number += 1
        _numbers(file.create_group("simulation"), {"Ts": 1, "tSample": time_steps or source.time_steps or 1})
    return {
        "input_message_bits": _message_bits(source.max_payload, source.coding), "reset_offset": 1, "latency": len(layers),
        "outputs": int(np.prod(layers[-1].shape)) - layers[-1].helpers,
        "copies": {layer.name: layer.copies for layer in layers if layer.copies > 1},
    }


def _message_bits(payload: int, coding: str) -> int:
    """0: plain spikes; else the width of the input's payloads."""
    signed = coding == "signed"
    return 0 if payload == 1 and not signed else payload.bit_length() + signed


def _input(group: Any, shape: Shape) -> None:
    _text(group, "input")
    _numbers(group, {"shape": as_frames(shape)})


def _flatten(group: Any, size: int) -> None:
    _text(group, "flatten")
    _numbers(group, {"shape": (size,)})


def _layer(group: Any, layer: Layer) -> None:
    kernel = layer.kernel
    _text(group, "conv" if kernel else "dense" if layer.recurrent is None else "dense_rec")
    fields: dict[str, Any] = {"shape": layer.shape, "weight": layer.weight}
    if kernel is not None:
        fields |= {
            "inChannels": layer.weight.shape[1] * kernel.groups, "outChannels": layer.shape[0],
            "kernelSize": layer.weight.shape[2:], "stride": kernel.stride, "padding": kernel.padding,
            "dilation": kernel.dilation, "groups": kernel.groups,
        }
    else:
        fields |= {"inFeatures": layer.weight.shape[1], "outFeatures": layer.shape[0]}
    if layer.recurrent is not None:
        fields["weight_rec"] = layer.recurrent
    if layer.bias.any():
        fields["bias"] = layer.bias.transpose() if layer.bias.ndim == 3 else layer.bias
    if layer.delay is not None:
        fields["delay"] = layer.delay
    _numbers(group, fields)
    neuron = group.create_group("neuron")
    _text(neuron, "CUBA")
    syn, mem, threshold = layer.registers
    _numbers(neuron, {
        "iDecay": syn, "vDecay": mem, "vThMant": threshold, "refDelay": _REFRACTORY, "gradedSpike": False,
    })


def _text(group: Any, kind: str) -> None:
    group.create_dataset("type", data=np.array([kind.encode()], "S10"), track_times=False)


def _numbers(group: Any, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        array = np.asarray(value)
        whole = array if array.dtype == bool else array.astype(np.int32)
        group.create_dataset(name, data=np.ascontiguousarray(whole).reshape(array.shape), track_times=False)

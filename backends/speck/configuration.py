"""What is written to the chip, under the attribute names of ``samna.speck2f.configuration``; reads and writes its JSON.

The chip's orientation: x before y wherever samna has it so. The file is ours (samna's own JSON is another, undocumented
one); ``deploy.py`` beside it sets the same attributes on a samna object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from d2e.backends.speck.events import STEP_US
from d2e.ir import UsageError
from d2e.ir.nodes import Array

SCHEMA = 1


@dataclass(frozen=True)
class Destination:
    """Where a core's events go: coordinates are divided by ``pooling``, ``feature_shift`` is added to the feature."""

    layer: int
    pooling: int = 1
    feature_shift: int = 0
    enable: bool = True


@dataclass(frozen=True)
class Dimensions:
    """(features, x, y) of input and output, the square kernel, and (x, y) of stride and padding."""

    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    kernel_size: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class CnnLayer:
    """``CnnLayerConfig``.

    Attributes:
        dimensions: see there.
        weights: int8 [f_out][f_in][x][y].
        biases: int16 [f_out]; None: leak off.
        neurons_initial_value: int16 [f_out][x][y]; None: zeros.
        threshold_high, threshold_low, return_to_zero: of its neurons.
        destinations: at most 2.
        monitor_enable: its spikes are sent to the host too.
    """

    dimensions: Dimensions
    weights: Array
    biases: Array | None
    neurons_initial_value: Array | None
    threshold_high: int
    threshold_low: int
    return_to_zero: bool
    destinations: tuple[Destination, ...] = ()
    monitor_enable: bool = False


@dataclass(frozen=True)
class DvsLayer:
    """``DVSLayerConfig``: what the chip's camera sends on. ``cut`` is the last pixel after pooling; pairs are (x, y)."""

    destinations: tuple[Destination, ...]
    origin: tuple[int, int] = (0, 0)
    cut: tuple[int, int] = (127, 127)
    pooling: tuple[int, int] = (1, 1)
    merge: bool = False


@dataclass(frozen=True)
class Part:
    """``count`` features of a population, from ``first`` on, on core ``layer`` as its features 0, spread, 2 * spread …."""

    layer: int
    first: int
    count: int
    spread: int = 1


@dataclass(frozen=True)
class Placed:
    """A population on the chip.

    Attributes:
        shape: in the network, [features, *space].
        parts: its features on cores, in rising order.
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Source:
    """The network's input.

    Attributes:
        shape: of a frame in the network.
        space: (features, height, width) of its events, the same elements in the same order.
        destinations: cores that the host sends every event to, in this order (``pooling`` is the host's then and any).
        max_payload: most events of an element in one step.
        time_steps: per sample; None: taken from the data.
        dt: seconds per step; None: not stated.
        encoder: kind, scale (nested lists or a number), seed and latch of `d2e.ir.Encoder`; None: frames are counts already.
    """

    shape: tuple[int, ...]
    space: tuple[int, int, int]
    destinations: tuple[Destination, ...]
    max_payload: int = 1
    time_steps: int | None = None
    dt: float | None = None
    encoder: Mapping[str, Any] | None = None

    @property
    def step_us(self) -> float:
        """Microseconds per time step."""
        return STEP_US if self.dt is None else 1e6 * self.dt


@dataclass(frozen=True)
class Configuration:
    """Everything a board, or its simulator, must know.

    Attributes:
        chip: "speck2f" or "speck2e".
        cnn_layers: core number -> its configuration; cores without one are not used.
        source: the network's input.
        populations: name -> where it is, in the order of the network.
        output: the population that is read.
        slow_clock_hz: rate of the slow clock that adds the biases; None: no layer has biases.
        dvs_layer: the camera's block; None: the host sends the events.
        readout: classes on the chip's readout pins; None: the host reads the output's spikes.
    """

    chip: str
    cnn_layers: Mapping[int, CnnLayer]
    source: Source
    populations: Mapping[str, Placed]
    output: str
    slow_clock_hz: float | None = None
    dvs_layer: DvsLayer | None = None
    readout: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The file ``speck_config.json``."""
        layers = [_layer_json(self.cnn_layers[i]) if i in self.cnn_layers else None for i in range(9)]
        samna: dict[str, Any] = {"cnn_layers": layers}
        if self.dvs_layer is not None:
            samna["dvs_layer"] = _dvs_json(self.dvs_layer)
        if self.readout is not None:
            samna["readout"] = {"enable": True, "readout_configuration_sel": 3}
        data = {
            "schema": SCHEMA, "chip": self.chip, "configuration": samna,
            "network": {
                "source": _plain(self.source), "output": self.output,
                "populations": {name: _plain(placed) for name, placed in self.populations.items()},
            },
            "slow_clock_hz": self.slow_clock_hz, "readout_classes": self.readout, "notes": dict(self.notes),
        }
        return json.dumps(data, separators=(",", ":"), sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Configuration:
        """Read what `to_json` wrote.

        Raises:
            UsageError: D2E-LOAD-030 for text that is no such file.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}")
            samna, network = data["configuration"], data["network"]
            source = network["source"]
            return cls(
                chip=data["chip"],
                cnn_layers={i: _layer(raw) for i, raw in enumerate(samna["cnn_layers"]) if raw is not None},
                source=Source(**{
                    **source, "shape": tuple(source["shape"]), "space": tuple(source["space"]),
                    "destinations": tuple(Destination(**d) for d in source["destinations"]),
                }),
                populations={
                    name: Placed(tuple(raw["shape"]), tuple(Part(**part) for part in raw["parts"]))
                    for name, raw in network["populations"].items()
                },
                output=network["output"], slow_clock_hz=data["slow_clock_hz"], readout=data["readout_classes"],
                dvs_layer=_dvs(samna["dvs_layer"]) if "dvs_layer" in samna else None, notes=data["notes"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError("D2E-LOAD-030", f"this is no speck_config.json of schema {SCHEMA} ({error})",
                             hint="Compile the model again.") from None


def _plain(value: Any) -> Any:
    """A dataclass as JSON values."""
    if hasattr(value, "__dataclass_fields__"):
        return {key: _plain(getattr(value, key)) for key in value.__dataclass_fields__}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _xy(pair: tuple[int, int]) -> dict[str, int]:
    return {"x": pair[0], "y": pair[1]}


def _pair(raw: Mapping[str, int]) -> tuple[int, int]:
    return raw["x"], raw["y"]


def _space_json(shape: tuple[int, int, int]) -> dict[str, Any]:
    return {"feature_count": shape[0], "size": _xy(shape[1:])}


def _space(raw: Mapping[str, Any]) -> tuple[int, int, int]:
    return (raw["feature_count"], *_pair(raw["size"]))


def _layer_json(layer: CnnLayer) -> dict[str, Any]:
    d = layer.dimensions
    leaks = layer.biases is not None
    return {
        "dimensions": {
            "input_shape": _space_json(d.input_shape), "output_shape": _space_json(d.output_shape),
            "kernel_size": d.kernel_size, "stride": _xy(d.stride), "padding": _xy(d.padding),
        },
        "weights": layer.weights.tolist(),
        **({"biases": layer.biases.tolist()} if layer.biases is not None else {}),
        **({} if layer.neurons_initial_value is None else {"neurons_initial_value": layer.neurons_initial_value.tolist()}),
        "threshold_high": layer.threshold_high, "threshold_low": layer.threshold_low,
        "return_to_zero": layer.return_to_zero, "leak_enable": leaks, "leak_internal_slow_clk_enable": False,
        "monitor_enable": layer.monitor_enable, "destinations": [_plain(d) for d in layer.destinations],
    }


def _layer(raw: Mapping[str, Any]) -> CnnLayer:
    d = raw["dimensions"]
    return CnnLayer(
        Dimensions(_space(d["input_shape"]), _space(d["output_shape"]), d["kernel_size"], _pair(d["stride"]),
                   _pair(d["padding"])),
        np.array(raw["weights"], np.int8), np.array(raw["biases"], np.int16) if raw["leak_enable"] else None,
        np.array(raw["neurons_initial_value"], np.int16) if "neurons_initial_value" in raw else None,
        raw["threshold_high"], raw["threshold_low"], raw["return_to_zero"],
        tuple(Destination(**each) for each in raw["destinations"]), raw["monitor_enable"],
    )


def _dvs_json(dvs: DvsLayer) -> dict[str, Any]:
    return {
        "destinations": [{"layer": d.layer, "enable": d.enable} for d in dvs.destinations], "origin": _xy(dvs.origin),
        "cut": _xy(dvs.cut), "pooling": _xy(dvs.pooling), "merge": dvs.merge,
    }


def _dvs(raw: Mapping[str, Any]) -> DvsLayer:
    return DvsLayer(tuple(Destination(**d) for d in raw["destinations"]), _pair(raw["origin"]), _pair(raw["cut"]),
                    _pair(raw["pooling"]), raw["merge"])

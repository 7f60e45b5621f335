"""A stand-in for the vendor's samna: the documented classes, defaults, types, ranges; a board that answers from a file.

Strict where samna is C++ behind pybind11: an attribute that is not there, a float for an integer and an integer beyond its
C type raise. Ranges are the validator's. A struct takes a dict with exactly its fields. Time is a fake clock that
``time.sleep`` moves. The file named by SAMNA_STAND_IN is JSON: ``devices``, ``answers`` (an .npz, ``SAMPLE/CORE`` [n, 4]:
microseconds from the sample's start, feature, y, x), ``log`` (where calls, configuration and input events go).
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

SETUP = json.loads(Path(os.environ["SAMNA_STAND_IN"]).read_text())
CALLS: list = []
INPUTS: list = []
APPLIED: list = []
LEAD_US = 100_000
RAILS_W = (6.0e-5, 5.0e-5, 3.6e-4, 8.0e-5, 6.0e-4)
BUSY_W = 1.0e-3


class Clock:
    now = 0.0

    @classmethod
    def sleep(cls, seconds):
        cls.now += seconds


time.sleep = Clock.sleep


@atexit.register
def _write_log():
    Path(SETUP["log"]).write_text(json.dumps({"calls": CALLS, "inputs": INPUTS, "applied": APPLIED}))


# --------------------------------------------------------------------------- types


def integer(low, high):
    def check(value):
        if isinstance(value, float) or not isinstance(value, int) or not low <= value <= high:
            raise TypeError(f"incompatible function arguments: {value!r}")
        return int(value)
    return check


def boolean(value):
    if not isinstance(value, bool):
        raise TypeError(f"incompatible function arguments: {value!r}")
    return value


def nested(depth, leaf):
    def check(value):
        if not isinstance(value, list):
            raise TypeError(f"incompatible function arguments: {type(value)}")
        return [leaf(v) if depth == 1 else nested(depth - 1, leaf)(v) for v in value]
    return check


INT = integer(-(1 << 31), (1 << 31) - 1)
BYTE = integer(0, 255)
INT8, INT16 = integer(-128, 127), integer(-(1 << 15), (1 << 15) - 1)


class Struct:
    """A C++ struct: FIELDS name -> (check or Struct class, default)."""

    FIELDS: ClassVar[dict] = {}

    def __init__(self):
        for name, (kind, default) in self.FIELDS.items():
            object.__setattr__(self, name, kind() if isinstance(kind, type) else default() if callable(default) else default)

    def __setattr__(self, name, value):
        if name not in self.FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        kind = self.FIELDS[name][0]
        if isinstance(kind, type):
            if not isinstance(value, dict) or value.keys() != kind.FIELDS.keys():
                raise TypeError(f"incompatible function arguments: {value!r}")
            made = kind()
            for key, part in value.items():
                setattr(made, key, part)
            value = made
        elif kind is None:
            raise AttributeError(f"{name} is read only here")
        else:
            value = kind(value)
        object.__setattr__(self, name, value)

    def plain(self):
        def of(value):
            if isinstance(value, Struct):
                return value.plain()
            return [of(v) for v in value] if isinstance(value, list) else value
        return {name: of(getattr(self, name)) for name in self.FIELDS}


def struct(name, **fields):
    return type(name, (Struct,), {"FIELDS": fields})


def pair(value):
    return struct("Vec2", x=(BYTE, value), y=(BYTE, value))


Shape = struct("Shape", feature_count=(INT, 1), size=(pair(1), None))
Dimensions = struct("Dimensions", input_shape=(Shape, None), output_shape=(Shape, None), kernel_size=(INT, 1),
                    stride=(pair(1), None), padding=(pair(0), None))
Destination = struct("Destination", layer=(BYTE, 0), enable=(boolean, False), pooling=(BYTE, 1), feature_shift=(INT, 0))
CnnLayer = struct(
    "CnnLayerConfig", dimensions=(Dimensions, None), weights=(nested(4, INT8), list), biases=(nested(1, INT16), list),
    neurons_initial_value=(nested(3, INT16), list), threshold_high=(INT, 0), threshold_low=(INT, -1),
    return_to_zero=(boolean, False), leak_enable=(boolean, False), leak_internal_slow_clk_enable=(boolean, False),
    monitor_enable=(boolean, False), output_decimator_enable=(boolean, False), output_decimator_interval=(BYTE, 0),
    input_congestion_balancer_enable=(boolean, False), destinations=(None, lambda: [Destination(), Destination()]),
)
DvsDestination = struct("DvsDestination", layer=(BYTE, 0), enable=(boolean, False))
Mirror = struct("Mirror", x=(boolean, False), y=(boolean, False))
Dvs = struct(
    "DVSLayerConfig", cut=(pair(127), None), origin=(pair(0), None),
    destinations=(None, lambda: [DvsDestination(), DvsDestination()]),
    merge=(boolean, False), mirror=(Mirror, None), mirror_diagonal=(boolean, False), monitor_enable=(boolean, False),
    raw_monitor_enable=(boolean, False), on_channel=(boolean, True), off_channel=(boolean, True),
    pass_sensor_events=(boolean, False), pooling=(pair(1), None),
)
Readout = struct("ReadoutConfig", enable=(boolean, False), monitor_enable=(boolean, False),
                 readout_configuration_sel=(BYTE, 0), output_mode_sel=(BYTE, 0), threshold=(INT, 0))
SpeckConfiguration = struct("SpeckConfiguration", cnn_layers=(None, lambda: [CnnLayer() for _ in range(9)]),
                            dvs_layer=(Dvs, None), readout=(Readout, None))
Spike = struct("Spike", layer=(BYTE, 0), x=(BYTE, 0), y=(BYTE, 0), feature=(integer(0, 1023), 0),
               timestamp=(integer(0, (1 << 32) - 1), 0))
DvsEvent = struct("DvsEvent", p=(boolean, False), x=(BYTE, 0), y=(BYTE, 0), timestamp=(INT, 0))


def validate_configuration(config):
    """(valid, text), by the documented ranges."""
    wrong = []
    for core, layer in enumerate(config.cnn_layers):
        if not layer.weights:
            continue
        d = layer.dimensions
        into, out = d.input_shape, d.output_shape

        def refuse(condition, text, core=core):
            if condition:
                wrong.append(f"cnn_layers[{core}]: {text}")

        refuse(max(into.size.x, into.size.y) > 128 or max(out.size.x, out.size.y) > 64, "size")
        refuse(max(into.feature_count, out.feature_count) > 1024, "feature count")
        refuse(not 1 <= d.kernel_size <= 16, "kernel size")
        refuse({d.stride.x, d.stride.y} - {1, 2, 4, 8}, "stride")
        refuse(max(d.padding.x, d.padding.y) > 7, "padding")
        shape = (out.feature_count, into.feature_count, d.kernel_size, d.kernel_size)
        refuse(np.shape(layer.weights) != shape, f"weights are not {shape}")
        refuse(np.shape(layer.biases) != shape[:1], "biases")
        refuse(any(layer.biases) and not layer.leak_enable, "biases without leak_enable")
        refuse(np.shape(layer.neurons_initial_value) != (shape[0], out.size.x, out.size.y), "initial values")
        refuse(not 0 <= layer.threshold_high <= 32767, "threshold_high")
        refuse(not -32768 <= layer.threshold_low <= -1, "threshold_low must be within\n-32768 and -1")
        for to in layer.destinations:
            refuse(to.enable and to.layer not in (*range(9), 12), "destination")
            refuse(to.pooling not in (1, 2, 4), "pooling")
    return not wrong, "; ".join(wrong)


# --------------------------------------------------------------------------- the board


class Board:
    """A development kit with its model, watch, io and power monitor in one."""

    def __init__(self):
        self.queue, self.sample, self.began, self.metering = [], itertools.count(), None, None
        with np.load(SETUP["answers"]) as answers:
            self.answers = dict(answers)

    def get_model(self):
        return self

    get_stop_watch = get_io_module = get_power_monitor = get_model

    def get_sink_node(self):
        return self

    def get_source_node(self):
        return self

    def apply_configuration(self, config):
        assert isinstance(config, SpeckConfiguration)
        CALLS.append("apply")
        APPLIED.append(config.plain())

    def set_slow_clk(self, on):
        CALLS.append(["slow_clk", boolean(on)])

    def set_slow_clk_rate(self, hertz):
        CALLS.append(["slow_clk_rate", hertz])

    def reset(self):
        CALLS.append("watch reset")
        self.began = Clock.now

    def start(self):
        CALLS.append("watch start")

    def stop(self):
        CALLS.append("watch stop")
        self.began = None

    def write(self, events):
        CALLS.append("write")
        assert all(isinstance(e, Spike) for e in events)
        INPUTS.append([[e.timestamp, e.layer, e.feature, e.y, e.x] for e in events])
        sample = next(self.sample)
        for key, rows in self.answers.items():
            if key.startswith(f"{sample}/"):
                for t, feature, y, x in rows.tolist():
                    self.queue.append(spike(int(key.partition("/")[2]), feature, y, x, t + LEAD_US))
        self.queue.append(DvsEvent())
        self.queue.append(spike(8, 1, 0, 0, LEAD_US))

    def get_events(self):
        since = 0 if self.began is None else (Clock.now - self.began) * 1e6
        due = [e for e in self.queue if e.timestamp <= since]
        self.queue = [e for e in self.queue if e.timestamp > since]
        return due

    def start_auto_power_measurement(self, hertz):
        CALLS.append("power start")
        self.metering = (Clock.now, hertz)

    def stop_auto_power_measurement(self):
        CALLS.append("power stop")
        began, hertz = self.metering
        busy = BUSY_W if self.began is not None else 0.0
        for k in range(round((Clock.now - began) * hertz)):
            for channel, watts in enumerate(RAILS_W):
                METER.append(SimpleNamespace(channel=channel, value=watts * (0.5 if k % 2 else 1.5) + busy, timestamp=0))


METER: list = []


def spike(layer, feature, y, x, timestamp):
    made = Spike()
    made.layer, made.feature, made.y, made.x, made.timestamp = layer, feature, y, x, timestamp
    return made


class Meter:
    def get_events(self):
        found = METER[:]
        METER.clear()
        return found


BOARD = Board()
_sinks = itertools.count()


def sink_from(node):
    """The first sink is the chip's, the second the power monitor's."""
    return BOARD if next(_sinks) == 0 else Meter()


def open_device(info):
    CALLS.append(["open", info.device_type_name, info.usb_device_address])
    return None if info.device_type_name.endswith("Busy") else BOARD


graph = SimpleNamespace(source_to=lambda node: BOARD, sink_from=sink_from)
device = SimpleNamespace(
    get_unopened_devices=lambda: [
        SimpleNamespace(device_type_name=name, usb_device_address=i) for i, name in enumerate(SETUP["devices"])
    ],
    open_device=open_device, close_device=lambda board: CALLS.append("close"),
)
speck2f = speck2e = SimpleNamespace(
    configuration=SimpleNamespace(SpeckConfiguration=SpeckConfiguration), validate_configuration=validate_configuration,
    event=SimpleNamespace(Spike=Spike, DvsEvent=DvsEvent),
)

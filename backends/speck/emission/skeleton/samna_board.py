"""A Speck 2e or 2f on its development kit, through the vendor's library samna: configuration, events, power.

Needs hardware: never run on a board. Each call is one that samna's reference or sinabs' documentation shows
(docs/speck: power_monitoring, leak_neuron, device_management); tried with a stand-in for samna that knows the documented
classes, defaults and ranges. It imports numpy, and samna when a board is opened or a configuration checked. The samna on
PyPI is a stub whose import installs the vendor's library with pip.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
RAILS = ("io", "ram", "logic", "pixel_digital", "pixel_analog")
"""Channels 0 to 4 of the power monitor."""
LEAD_US = 100_000
"""A sample's first event comes this much after the board's watch starts; events due at once arrive bunched."""
APPLIED_S = 1.0
"""Wait after a configuration is sent."""
QUIET_S = 0.1
"""A sample is over once so long nothing came."""
IDLE_S = 2.0
POWER_HZ = 100.0

NOT_INSTALLED = (
    "samna is not installed (pip install samna fetches a stub, whose first import installs the vendor's library)"
)
EXIT_INVALID, EXIT_MISSING = 3, 5


class Spikes(NamedTuple):
    """Spikes of one core, in its own coordinates: neither pooled nor shifted. Timestamps in microseconds; int64 [n]."""

    timestamp: Ints
    feature: Ints
    y: Ints
    x: Ints


class BoardError(Exception):
    """What keeps a board from running, in one sentence.

    Attributes:
        exit_code: 3 the configuration is not valid, 5 samna or the board is missing.
        what: "samna", "device" or "invalid".
    """

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what
        self.exit_code = EXIT_INVALID if what == "invalid" else EXIT_MISSING


def installed() -> bool:
    """Whether samna is there: looked up, not imported."""
    return importlib.util.find_spec("samna") is not None


def load_samna() -> Any:
    """The module samna."""
    if not installed():
        raise BoardError("samna", NOT_INSTALLED)
    try:
        import samna  # noqa: TID251
    except Exception as error:  # the stub runs pip: anything can go wrong there
        raise BoardError("samna", f"samna is installed but cannot be imported: {error}") from error
    return samna


# --------------------------------------------------------------------------- configuration


def build(chip: Any, config: Mapping[str, Any]) -> Any:
    """The SpeckConfiguration of a speck_config.json.

    What a program leaves out is written as zeros (initial states, biases without leak), as sinabs does; unused cores keep
    samna's defaults, no kill bit is touched, and the camera sends nothing, because the host does.

    Args:
        chip: samna.speck2e or samna.speck2f.
        config: the file, as read.
    """
    blocks = config["configuration"]
    made = chip.configuration.SpeckConfiguration()
    made.dvs_layer.pass_sensor_events = False
    for core, layer in enumerate(blocks["cnn_layers"]):
        if layer is not None:
            apply(made.cnn_layers[core], _completed(layer))
    for name in ("dvs_layer", "readout"):
        if name in blocks:
            apply(getattr(made, name), blocks[name])
    return made


def apply(struct: Any, values: Mapping[str, Any]) -> None:
    """Set attributes of a samna object; destinations are set where they are, other structs are given as dicts."""
    for name, value in values.items():
        if name == "destinations":
            for place, destination in enumerate(value):
                apply(struct.destinations[place], destination)
        else:
            setattr(struct, name, value)


def _completed(layer: Mapping[str, Any]) -> dict[str, Any]:
    shape = layer["dimensions"]["output_shape"]
    features, size = shape["feature_count"], shape["size"]
    zeros = {
        "biases": np.zeros(features, int).tolist(),
        "neurons_initial_value": np.zeros((features, size["x"], size["y"]), int).tolist(),
    }
    return {**zeros, **layer}


def validated(chip: Any, config: Mapping[str, Any]) -> Any:
    """`build`, and samna's own verdict."""
    try:
        made = build(chip, config)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise BoardError("invalid", f"samna does not take the configuration: {error}") from error
    valid, text = chip.validate_configuration(made)
    if not valid:
        raise BoardError("invalid", f"samna says that the configuration is not valid: {' '.join(str(text).split())}")
    return made


# --------------------------------------------------------------------------- the board


class SamnaBoard:
    """One development kit: `open`, `configure`, `stream` sample by sample (or `see`), `counts`, `power`, `close`.

    Every sample starts from rest: the configuration, initial states included, is sent again before it. (A state can also
    be written neuron by neuron, with WriteNeuronValue; how addresses are laid out for maps that are no power of two is
    not documented, so that is not done.) The phase of the slow clock against the samples is not under control.
    """

    def __init__(self, chip: str, device: str | None = None, *, power: bool = False) -> None:
        """Nothing happens yet.

        Args:
            chip: "speck2f" or "speck2e".
            device: such as "Speck2fDevKit", "speck2fmodule" or "speck2fdevkit:1"; None: the first kit with this chip.
            power: whether power is measured.
        """
        self.chip, self.device, self.measures = chip, device, power
        self._handle: Any = None

    def open(self) -> None:
        """Import samna and open the kit."""
        self._samna = load_samna()
        self._module = getattr(self._samna, self.chip)
        self._handle = self._samna.device.open_device(self._choose(self._samna.device.get_unopened_devices()))
        if self._handle is None:
            raise BoardError("device", "the board was found but cannot be opened; unplug it, or end what else uses it")
        self._watch = self._handle.get_stop_watch()
        model = self._handle.get_model()
        self._source = self._samna.graph.source_to(model.get_sink_node())
        self._sink = self._samna.graph.sink_from(model.get_source_node())
        if self.measures:
            self._monitor = self._handle.get_power_monitor()
            self._meter = self._samna.graph.sink_from(self._monitor.get_source_node())

    def _choose(self, infos: Sequence[Any]) -> Any:
        wanted, _, number = (self.device or self.chip).lower().partition(":")
        fitting = [info for info in infos if info.device_type_name.lower().startswith(wanted)]
        index = int(number) if number.isdigit() else 0
        if index < len(fitting):
            return fitting[index]
        there = ", ".join(info.device_type_name for info in infos) or "none"
        raise BoardError("device", f"no board {self.device or self.chip!r} is free (found: {there})")

    def configure(self, config: Mapping[str, Any]) -> None:
        """Validate and send a configuration; measure the idle power where power is measured.

        Args:
            config: speck_config.json as read; cores with ``monitor_enable`` are heard.
        """
        self._config = config
        self._made = validated(self._module, config)
        self._layers = {i: layer for i, layer in enumerate(config["configuration"]["cnn_layers"]) if layer is not None}
        self._monitored = {i for i, layer in self._layers.items() if layer["monitor_enable"]}
        self._apply()
        self._rested = True
        hertz = config["slow_clock_hz"]
        if hertz is not None:
            clock = self._handle.get_io_module()
            clock.set_slow_clk(True)
            clock.set_slow_clk_rate(hertz)
        self._watts: dict[str, dict[int, list[float]]] = {"idle": {}, "total": {}}
        if self.measures:
            self._wait(IDLE_S, "idle")

    def _apply(self) -> None:
        self._handle.get_model().apply_configuration(self._made)
        time.sleep(APPLIED_S)

    def stream(self, events: Any) -> dict[int, Spikes]:
        """One sample, from rest.

        Args:
            events: timestamp (microseconds from the sample's start), feature, y and x, in the coordinates of the input.

        Returns:
            Monitored core -> its spikes; timestamps from the sample's start.
        """
        self._rest()
        heard: list[Any] = []
        inputs = self._inputs(events)
        if inputs:
            self._watch.reset()
            self._watch.start()
            self._source.write(inputs)
            time.sleep(LEAD_US * 1e-6)
            self._wait(float(np.max(events.timestamp)) * 1e-6, "total")
            heard = self._until_quiet()
        return self._sorted(heard, LEAD_US)

    def see(self, seconds: float) -> dict[int, Spikes]:
        """What the chip's own camera shows it for a while, from rest; as `stream`."""
        self._rest()
        model = self._handle.get_model()
        self._watch.reset()
        self._watch.start()
        self._made.dvs_layer.pass_sensor_events = True
        model.apply_configuration(self._made)
        self._wait(seconds, "total")
        self._made.dvs_layer.pass_sensor_events = False
        model.apply_configuration(self._made)
        return self._sorted(self._until_quiet(), 0)

    def _rest(self) -> None:
        """All states as the configuration says, nothing left in the sink."""
        if not self._rested:
            self._apply()
        self._rested = False
        self._sink.get_events()

    def _until_quiet(self) -> list[Any]:
        heard: list[Any] = []
        while True:
            time.sleep(QUIET_S)
            fresh = self._sink.get_events()
            heard.extend(fresh)
            if not fresh:
                self._watch.stop()
                return heard

    def _wait(self, seconds: float, what: str) -> None:
        """Wait, measuring the power where it is asked for."""
        if not self.measures:
            time.sleep(seconds)
            return
        self._meter.get_events()
        self._monitor.start_auto_power_measurement(POWER_HZ)
        time.sleep(seconds)
        self._monitor.stop_auto_power_measurement()
        for event in self._meter.get_events():
            self._watts[what].setdefault(int(event.channel), []).append(float(event.value))

    def _inputs(self, events: Any) -> list[Any]:
        """samna's spikes to every core that the input goes to, in order; what falls beside a core's map is left out."""
        sent = []
        columns = [np.asarray(a).tolist() for a in (events.timestamp, events.feature, events.y, events.x)]
        for moment, feature, y, x in zip(*columns, strict=True):
            for goal in self._config["network"]["source"]["destinations"]:
                room = self._layers[goal["layer"]]["dimensions"]["input_shape"]
                f, row, column = feature + goal["feature_shift"], y // goal["pooling"], x // goal["pooling"]
                if f < room["feature_count"] and row < room["size"]["y"] and column < room["size"]["x"]:
                    spike = self._module.event.Spike()
                    spike.layer, spike.feature, spike.y, spike.x = goal["layer"], f, row, column
                    spike.timestamp = LEAD_US + moment
                    sent.append(spike)
        return sent

    def _sorted(self, heard: Sequence[Any], start_us: int) -> dict[int, Spikes]:
        """The spikes of every monitored core, timed from ``start_us`` of the watch."""
        columns: dict[int, list[tuple[int, int, int, int]]] = {core: [] for core in self._monitored}
        for event in heard:
            if isinstance(event, self._module.event.Spike) and event.layer in columns:
                columns[event.layer].append((event.timestamp - start_us, event.feature, event.y, event.x))
        self._heard = {core: Spikes(*np.array(rows, np.int64).reshape(-1, 4).T) for core, rows in columns.items()}
        return self._heard

    def counts(self) -> dict[int, Ints]:
        """Spikes per neuron [features, height, width] of every monitored core in the sample streamed last."""
        found = {}
        for core, spikes in self._heard.items():
            shape = self._layers[core]["dimensions"]["output_shape"]
            counts = np.zeros((shape["feature_count"], shape["size"]["y"], shape["size"]["x"]), np.int64)
            np.add.at(counts, (spikes.feature, spikes.y, spikes.x), 1)
            found[core] = counts
        return found

    def power(self) -> dict[str, dict[str, float]] | None:
        """Mean power of every rail that was measured, in watts; None where nothing was.

        ``idle`` is measured after `configure`, before any event; ``total`` while events of samples are sent, their
        waits left out; ``dynamic`` is total - idle. ``measurements`` counts the values behind ``total``: the monitor
        gives at most 100 per second, so that short samples have few. Each value may be off by 50 microwatts (datasheet).
        """
        idle, total = self._watts["idle"], self._watts["total"]
        found = {}
        for channel, rail in enumerate(RAILS):
            if idle.get(channel) and total.get(channel):
                rest, busy = float(np.mean(idle[channel])), float(np.mean(total[channel]))
                found[rail] = {"idle": rest, "total": busy, "dynamic": busy - rest, "measurements": len(total[channel])}
        return found or None

    def close(self) -> None:
        """Give the kit back; nothing where it was never opened."""
        if self._handle is not None:
            self._samna.device.close_device(self._handle)
            self._handle = None

"""The Speck targets: the pipeline they compose, the engines they run, the files they emit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d2e.backends.speck import aer
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.events import Events
from d2e.backends.speck.limits import ARITHMETIC, LIMITS, POOLINGS, THRESHOLD_MAX
from d2e.backends.speck.lowering import configure
from d2e.backends.speck.map_neurons import CheckRules, MapNeurons, ToEvents, eventful
from d2e.backends.speck.placement.place import Place
from d2e.compiler.device import SIMULATED, Device, Found
from d2e.compiler.passes.base import Pass
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.discretise import Discretise
from d2e.compiler.passes.encode_input import EncodeInput
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.latch_input import LatchInput
from d2e.compiler.passes.quantise import Grid, Quantise
from d2e.compiler.target import Limit, Option, Streamed, check_engine, one_of
from d2e.ir import FixedPoint, Network, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

if TYPE_CHECKING:
    from d2e.backends.speck.device.protocol import Board
    from d2e.backends.speck.simulator.run import Simulator

WEIGHT_BITS = int(LIMITS["weight_bits"].value)
GRID = Grid(
    weight_bits=WEIGHT_BITS, conv_bits=WEIGHT_BITS, linear_bits=WEIGHT_BITS, threshold_max=THRESHOLD_MAX, mantissa_max=0,
    exponent_max=7, bias_mantissa=int(LIMITS["bias"].value), bias_exponents=range(1), bias_max=int(LIMITS["bias"].value),
    state_max=None, sum_max=1 << 62, burst_thresholds=False, below_threshold=True,
    arithmetic=FixedPoint(fraction_bits=0, u_bits=32, u_overflow="refuse", v_bits=32),
)
"""Weights of 8 bits, biases and thresholds of 16 bits, each in its own range; the state gets its 16 bits in to-events."""

INPUT_BITS = 4
"""Width of real values as payloads unless stated: a payload of n is n events."""

OPTIONS = {
    "input": one_of("host", "camera", help="who sends the events"),
    "pooling": one_of("1", "2", "4", help="of the camera's pixels; the largest that fits unless stated"),
    "readout": one_of("host", "pins", help="who reads the output: its spikes, or the readout block's classes"),
    "events": one_of("mixed", "raster", help="order of a frame's events within its step"),
    "order": one_of("depth", "breadth", help="order in which the simulator lets spikes go on"),
}


@dataclass(frozen=True)
class SpeckTarget:
    """Speck, or its simulator.

    Attributes:
        chip: "speck2f" or "speck2e".
        hardware: whether the default engine is a board.
    """

    name: str
    summary: str
    chip: str
    engines: tuple[str, ...]
    predictor: str
    hardware: bool = False
    bit_exact_with: str | None = "the chip's documented rules"
    state_bits: int = ARITHMETIC.v_bits
    limits: Mapping[str, Limit] = field(default_factory=lambda: LIMITS)
    options: Mapping[str, Option] = field(default_factory=lambda: OPTIONS)

    def pipeline(self, options: Mapping[str, Any]) -> Sequence[Pass]:
        """Source network to placed neurons that live by events."""
        low, high = options.get("input_range") or (None, None)
        own = {"chip": self.chip, **{key: options[key] for key in OPTIONS if key in options}}
        return [
            Discretise(dt=options.get("dt")), Canonicalise(pooling=POOLINGS[1:]), CheckRules(options=own),
            EncodeInput(bits=options.get("input_bits"), low=low, high=high, calibration=options.get("calibration"),
                        evaluation=options.get("evaluation"), widest=INPUT_BITS, signed=False),
            FoldThresholds(), Quantise.asked(GRID, options), LatchInput(chip=False), MapNeurons(),
            Place(camera=own.get("input") == "camera", calibration=options.get("calibration")), ToEvents(),
        ]

    def lowered(self, network: Network) -> bool:
        """Whether a network has its cores and runs by events."""
        return eventful(network) is None and "placement" in network.metadata

    def prepare(self, network: Network, engine: str) -> None:
        """Raise what would stop `run`.

        Raises:
            UsageError: D2E-USE-007 for an engine this target does not have.
            MissingError: D2E-SPECK-070 where samna is not installed.
        """
        check_engine(self.name, self.engines, engine)
        if engine == self.chip:
            from d2e.backends.speck.device.samna import require

            require()

    def run(
        self, network: Network, frames: Array, *, engine: str, record: Record = "counts", folder: Path | None = None
    ) -> Trace:
        """Run a lowered network; see `d2e.ir.reference.run`. Spikes are told by the step of the event that caused them.

        Raises:
            MissingError: D2E-SPECK-070.. without samna or a board.
        """
        self.prepare(network, engine)
        checked = reference.check_frames(network, frames)
        if engine == self.predictor:
            return simulator(network).run(checked, record)
        if engine == "reference":
            from d2e.backends.speck.simulator.reference import run as run_plainly

            return run_plainly(configure(network), checked, record, **_ways(network))
        from d2e.backends.speck.device.run import run_on_board

        return run_on_board(_board(self.chip, engine), configure(network), checked, record)

    def stream(self, network: Network, recording: Any, *, window_us: int) -> Streamed:
        """Run timed events in the simulator; see `d2e.compiler.target.EventDriven`.

        Raises:
            UsageError: D2E-DATA-001, D2E-SPECK-062..064 for a recording that does not fit.
        """
        placed = simulator(network)
        source = placed.configuration.source
        given = isinstance(recording, (np.ndarray, Mapping))
        events = aer.from_array(recording, source.space) if given else aer.read(recording, source.space)
        done = placed.stream(events, window_us=window_us)
        populations = placed.configuration.populations
        return Streamed(
            done.duration_us, len(events), done.counts, done.synops,
            {name: max(done.cores[part.layer].peak_synops_per_s for part in own.parts) for name, own in populations.items()},
            done.output.timestamp, _flat(done.output, placed.configuration),
        )

    def overflows(self, network: Network) -> Mapping[str, int]:
        """Population -> updates that left 16 bits in all simulator runs of this network so far."""
        return simulator(network).overflows

    def emit(self, network: Network, folder: Path, *, time_steps: int | None) -> Mapping[str, Any]:
        """Write ``speck_config.json``, ``deploy.py`` and ``sinabs_model.py``."""
        from d2e.backends.speck.emission.emit import emit

        return emit(configure(network), folder)

    def latency(self, network: Network) -> int:
        """Steps from a frame to the output it causes: none, events go on at once."""
        return 0

    # ----- devices, see `d2e.compiler.device.HasDevices`

    @property
    def kinds(self) -> tuple[str, ...]:
        """A development kit with this chip."""
        return (self.chip,)

    @property
    def exact(self) -> tuple[str, ...]:
        """All that keep to the documented rules; the chip itself works in parallel."""
        return (self.predictor, "reference", "simulated-board")

    def devices(self) -> Sequence[Found]:
        """Whether samna is there to look for kits."""
        from d2e.backends.speck.emission.skeleton import samna_board

        there = samna_board.installed()
        return [Found(f"{self.chip}:0", there, "a development kit, sought when it is opened" if there else
                      "samna is not installed")]

    def device(self, kind: str, which: str) -> Device:
        """A kit by its number or by its name and number, ``speck2fdevkit:1``; or the simulated board."""
        from d2e.backends.speck.device.samna import SamnaBoard
        from d2e.backends.speck.device.speck import SimulatedSpeck, SpeckDevice

        if kind == SIMULATED:
            return SimulatedSpeck()
        return SpeckDevice(SamnaBoard(self.chip, f"{kind}:{which}" if which.isdigit() else which, power=True))

    def core_of(self, network: Network) -> Mapping[str, Array]:
        """Population -> core of every neuron [*shape]."""
        return {
            name: np.broadcast_to(np.concatenate([np.full(p.count, p.layer) for p in placed.parts]).reshape(
                -1, *([1] * (len(placed.shape) - 1))), placed.shape)
            for name, placed in configure(network).populations.items()
        }


def _flat(events: Events, configuration: Configuration) -> Array:
    """Index of the neuron of each event in its flattened population."""
    parts = configuration.populations[configuration.output].parts
    _, width, height = configuration.cnn_layers[parts[0].layer].dimensions.output_shape
    index: Array = (events.feature * height + events.y) * width + events.x
    return index


def _ways(network: Network) -> dict[str, Any]:
    """How frames become events, and in which order these are simulated."""
    options = network.metadata.get("speck", {})
    return {"order": options.get("order", "depth"), "events": options.get("events", "mixed")}


@lru_cache(maxsize=4)
def simulator(network: Network) -> Simulator:
    """The simulator of a network, planned once (networks are immutable and compare by identity)."""
    from d2e.backends.speck.simulator.run import Simulator

    return Simulator(configure(network), **_ways(network))


def _board(chip: str, engine: str) -> Board:
    if engine == chip:
        from d2e.backends.speck.device.samna import SamnaBoard

        return SamnaBoard(chip)
    from d2e.backends.speck.device.simulated import SimulatedBoard

    return SimulatedBoard()


def _targets(chip: str, name: str) -> tuple[SpeckTarget, SpeckTarget]:
    simulated = f"{chip}-sim"
    return (
        SpeckTarget(simulated, f"SynSense {name}, simulated event by event on this computer", chip,
                    (simulated, "reference", "simulated-board"), simulated),
        SpeckTarget(chip, f"SynSense {name}, the board (needs hardware and samna)", chip,
                    (chip, simulated, "reference", "simulated-board"), simulated, hardware=True),
    )


TARGETS: tuple[SpeckTarget, ...] = (*_targets("speck2f", "Speck 2f"), *_targets("speck2e", "Speck 2e"))

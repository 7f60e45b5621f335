"""The Loihi 2 targets: the pipeline they compose, the engines they run, the files they emit."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2e.backends.loihi2.forms import lowered
from d2e.backends.loihi2.limits import ARITHMETIC, GRID, LIMITS
from d2e.backends.loihi2.map_neurons import CheckRules, MapNeurons
from d2e.backends.loihi2.placement import Place
from d2e.compiler.device import SIMULATED, Device, Found
from d2e.compiler.passes.base import Pass
from d2e.compiler.passes.bits import table
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.passes.discretise import Discretise
from d2e.compiler.passes.encode_input import EncodeInput
from d2e.compiler.passes.fold_thresholds import FoldThresholds
from d2e.compiler.passes.latch_input import LatchInput
from d2e.compiler.passes.quantise import Quantise
from d2e.compiler.target import Limit, Option, check_engine, positive
from d2e.ir import Network, reference
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

if TYPE_CHECKING:
    from d2e.backends.loihi2.simulator.run import Simulator


OPTIONS = {"cores": positive("cores there are"), "chips": positive("chips there are, instead of cores")}


@dataclass(frozen=True)
class Loihi2Target:
    """Loihi 2, or its simulator.

    Attributes:
        hardware: whether the default engine is the chip.
    """

    name: str
    summary: str
    engines: tuple[str, ...]
    hardware: bool = False
    predictor: str = "loihi2-sim"
    state_bits: int = ARITHMETIC.v_bits
    bit_exact_with: str | None = "lava-nc 0.10.0 fixed_pt"
    limits: Mapping[str, Limit] = field(default_factory=lambda: LIMITS)
    options: Mapping[str, Option] = field(default_factory=lambda: OPTIONS)

    def pipeline(self, options: Mapping[str, Any]) -> Sequence[Pass]:
        """Source network to the chip's neurons on counted cores."""
        burst: Any = options.get("burst") or "auto"
        soft_reset: Any = options.get("soft_reset") or "exact"
        low, high = options.get("input_range") or (None, None)
        cores = options.get("cores") or (options.get("chips") or 1) * int(LIMITS["cores"].value)
        return [
            Discretise(dt=options.get("dt")), Canonicalise(), CheckRules(burst=burst, graded=not self.hardware),
            EncodeInput(bits=options.get("input_bits"), low=low, high=high, calibration=options.get("calibration"),
                        evaluation=options.get("evaluation"), state_max=GRID.state_max,
                        weight_bits=max(table(options.get("weight_bits") or "8", GRID.weight_bits).values())),
            FoldThresholds(), Quantise.asked(GRID, options), LatchInput(chip=soft_reset == "exact"),
            MapNeurons(burst=burst, soft_reset=soft_reset, graded=not self.hardware,
                       cores=cores),
            Place(cores=cores, strict=self.hardware),
        ]

    def lowered(self, network: Network) -> bool:
        """Whether every population of a network has been given its form."""
        return "forms" in network.metadata and lowered(network) is None

    def prepare(self, network: Network, engine: str) -> None:
        """Raise what would stop `run`.

        Raises:
            UsageError: D2E-USE-007 for an engine this target does not have.
            MissingError: D2E-LAVA-001 without the Lava environment, through which the chip is reached as well.
        """
        check_engine(self.name, self.engines, engine)
        if engine in ("loihi2-lava", "loihi2"):
            from d2e.backends.loihi2.lava import env

            env.find()

    def run(
        self, network: Network, frames: Array, *, engine: str, record: Record = "counts", folder: Path | None = None
    ) -> Trace:
        """Run a lowered network; see `d2e.ir.reference.run`.

        Raises:
            MissingError: D2E-LAVA-001, or D2E-HW-001 without Intel's lava-loihi.
        """
        self.prepare(network, engine)
        if engine == "loihi2-sim":
            return simulator(network).run(frames, record)
        if engine == "reference":
            return reference.run(network, frames, record)
        from d2e.backends.loihi2.lava.engine import run_lava

        checked = reference.check_frames(network, frames)
        chip = engine == "loihi2"
        patience = 600.0 + 2.0 * len(checked)  # seconds: long enough for what runs, short of forever for what hangs
        if folder is not None:
            return run_lava(folder, checked, record=record, hardware=chip, time_out=patience)
        with tempfile.TemporaryDirectory(prefix="d2e-target-") as temporary:
            self.emit(network, Path(temporary), time_steps=checked.shape[1])
            return run_lava(Path(temporary), checked, record=record, hardware=chip, time_out=patience)

    def overflows(self, network: Network) -> Mapping[str, int]:
        """Population -> states that left 24 bits in all simulator runs of this network so far."""
        return simulator(network).overflows

    def emit(self, network: Network, folder: Path, *, time_steps: int | None) -> Mapping[str, Any]:
        """Write the Lava package, and ``network.net`` for lava-dl's netx or ``network.net.txt`` with what prevents it.

        Raises:
            UnsupportedError: D2E-TIME-001 or D2E-LAVA-010.. where Lava cannot hold the network exactly.
        """
        from d2e.backends.loihi2.lava.emit import emit
        from d2e.backends.loihi2.netx.write import emit as emit_netx

        facts = emit(network, folder, time_steps=time_steps or 1)
        return {**facts, **emit_netx(network, folder, time_steps=time_steps)}

    def latency(self, network: Network) -> int:
        """Steps from a frame to the output it causes."""
        from d2e.backends.loihi2.lava.schedule import schedule

        return schedule(network).latency

    # ----- devices, see `d2e.compiler.device.HasDevices`

    @property
    def kinds(self) -> tuple[str, ...]:
        """Boards of Intel's research cloud, or one's own."""
        return ("loihi2",)

    @property
    def exact(self) -> tuple[str, ...]:
        """The simulator, the reference and Lava's models of the chip; the chip itself was never compared."""
        return ("loihi2-sim", "loihi2-lava", "reference")

    def devices(self) -> Sequence[Found]:
        """Whether the Lava environment and Intel's lava-loihi in it are there."""
        from d2e.backends.loihi2.device import missing

        fault = missing()
        return [Found("loihi2:0", fault is None, "a chip that lava-loihi finds when it is opened" if fault is None
                      else fault.message)]

    def device(self, kind: str, which: str) -> Device | None:
        """The chip that Intel's software finds, or the board of that name; None: the predictor as a simulated board."""
        from d2e.backends.loihi2.device import LoihiDevice

        return None if kind == SIMULATED else LoihiDevice(None if which.isdigit() else which)

    def core_of(self, network: Network) -> Mapping[str, Array]:
        """Population -> core of every neuron [*shape], by the rows of the placement's table."""
        from d2e.backends.loihi2.device import core_of

        return core_of(network)


@lru_cache(maxsize=4)
def simulator(network: Network) -> Simulator:
    """The simulator of a network, planned once (networks are immutable and compare by identity)."""
    from d2e.backends.loihi2.simulator.run import Simulator

    return Simulator(network)


TARGETS: tuple[Loihi2Target, ...] = (
    Loihi2Target(
        "loihi2-sim", "Intel Loihi 2, predicted bit for bit on this computer",
        ("loihi2-sim", "loihi2-lava", "reference"),
    ),
    Loihi2Target(
        "loihi2", "Intel Loihi 2, the chip (needs hardware and Intel's lava-loihi)",
        ("loihi2", "loihi2-lava", "loihi2-sim", "reference"), hardware=True,
    ),
)

"""encode-input: an input of real values becomes one of integer payloads; the first layers take their scale.

A payload n of the encoder stands for n * scale, so every linear map behind the input is multiplied by the scale: what the
network computes changes by the rounding of the input alone, and the accuracy table shows it as a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from d2e.compiler import algebra
from d2e.compiler.encoders import note_clipping
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical
from d2e.compiler.paths import linear_map, paths_from, paths_into
from d2e.ir import (
    LI,
    Delay,
    Encoder,
    MultiThreshold,
    Network,
    Node,
    Synapse,
    UnsupportedError,
    UsageError,
    infer_shapes,
    real,
)
from d2e.ir.nodes import Array, Input, Shape
from d2e.ir.reference import Population
from d2e.ir.shapes import output_shape

if TYPE_CHECKING:
    from d2e.compiler.target import Target

_MOST_BITS = 16
_SAMPLES = 16
_OFF_GRID = 1e-4
"""Of a step: what single precision leaves of a value on a grid."""


def encoded(network: Network) -> str | None:
    """The input sends integers."""
    return network.inputs[0] if network.input.coding == "direct" else None


@dataclass(frozen=True)
class EncodeInput(Pass):
    """See the module.

    Attributes:
        bits: width of a payload, with its sign where the input has negative values; None: ``widest``, or fewer where the
            first populations' states would otherwise leave ``state_max`` on the calibration data.
        low, high: smallest and largest value of the input; None: those of the calibration data.
        percentile: of |value| kept where the calibration data say the range; the rest is clipped.
        calibration: real frames [batch, time, *shape] the model sees in use.
        evaluation: real frames too; the share of their values that is clipped becomes a warning.
        state_max: bound of the target on a state, in weight units; None: there is none.
        weight_bits: width of the signed weights to come.
        widest: bits of a payload unless stated.
        signed: whether the target takes payloads below 0.
    """

    name: ClassVar[str] = "encode-input"
    requires: ClassVar[tuple[Property, ...]] = (canonical,)
    ensures: ClassVar[tuple[Property, ...]] = (encoded,)

    bits: int | None = None
    low: float | None = None
    high: float | None = None
    percentile: float = 100.0
    calibration: Array | None = None
    evaluation: Array | None = None
    state_max: int | None = None
    weight_bits: int = 8
    widest: int = 8
    signed: bool = True

    def run(self, network: Network, target: Target) -> Network:
        """The network with an input of integers; one that has it already only gets the warnings.

        Raises:
            UsageError: D2E-ENC-004 where nothing says the input's range, -006 for options out of theirs.
            UnsupportedError: D2E-ENC-008 for values below 0 where the target takes none.
        """
        if network.input.coding == "direct":
            network = self._encoded(network, target)
        return self._warned(network)

    def _encoded(self, network: Network, target: Target) -> Network:
        name = network.inputs[0]
        low, high = self._range(name)
        if low < 0 and not self.signed:
            raise UnsupportedError(
                "D2E-ENC-008", f"takes values down to {low:.3g}, and {target.name} takes payloads from 0 only", node=name,
                hint="Shift the data the model is trained on to be >= 0, or give both signs as two channels.",
            )
        largest = max(abs(low), abs(high))
        wide = payload_top(self.widest if self.bits is None else self.bits, low)
        room = self._room(network, largest) if self.bits is None else wide
        steps, wished = (_grid(self.calibration, largest, min(wide, limit)) for limit in (max(room, 1), wide))
        encoder = replace(network.input.encoder or Encoder(), scale=real(largest / steps))
        source = replace(network.input, coding="signed" if low < 0 else "spikes", max_payload=steps, encoder=encoder)
        network = _scaled(network, source)
        if steps < wished:
            return warn(network, "D2E-ENC-007", f"its payloads reach {steps} instead of {wished}: with more, states of the "
                        "layer behind it would outgrow the chip on the calibration data", name)
        return network

    def _range(self, name: str) -> tuple[float, float]:
        if not 0 < self.percentile <= 100:
            raise UsageError("D2E-ENC-006", f"the percentile {self.percentile:g} of the input lies outside 0..100")
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if self.calibration is None:
            raise UsageError("D2E-ENC-004", "takes real values, and nothing says their range", node=name,
                             hint="Give --calibration, or --input-range LOW,HIGH.")
        values = _once(self.calibration)
        limit = float(np.percentile(np.abs(values), self.percentile))
        low, high = max(float(values.min()), -limit), min(float(values.max()), limit)
        if low == high == 0:
            raise UsageError("D2E-ENC-004", "sees only zeros in the calibration data", node=name,
                             hint="Give other --calibration data, or --input-range LOW,HIGH.")
        return low, high

    def _room(self, network: Network, largest: float) -> int:
        """How many steps ``largest`` may have so that the states behind the input stay within half of ``state_max``.

        A population whose widest weight w is top = 2**(weight_bits - 1) - 1 units, 1 at least, behind payloads of largest /
        steps, has a unit of w * largest / (steps * top); the largest |state| V on the calibration data is V / unit of them.
        """
        if self.calibration is None or self.state_max is None:
            return 1 << _MOST_BITS
        top = max(1, (1 << (self.weight_bits - 1)) - 1)
        rooms = [
            0.5 * self.state_max * weight * largest / (peak * top)
            for weight, peak in _peaks(network, self.calibration[:_SAMPLES]) if weight * peak > 0
        ]
        return int(min([*rooms, 1 << _MOST_BITS]))

    def _warned(self, network: Network) -> Network:
        for what, frames in (("calibration data", self.calibration), ("evaluation data", self.evaluation)):
            if frames is not None:
                network = note_clipping(network, frames, what)
        return network


def _peaks(network: Network, frames: Array) -> Iterator[tuple[float, float]]:
    """(largest weight from the input, largest state) of every population it feeds, per its threshold.

    The state is that of the float neuron with the input's current alone, before it fires.
    """
    shape = network.input.shape
    for name in network.populations:
        node = network.neuron(name)
        paths = [p for p in paths_into(network, name) if p.source == network.inputs[0]]
        chains = [[n for n in map(network.nodes.get, p.synapses) if isinstance(n, Synapse)] for p in paths]
        maps = [[n for n in chain if not isinstance(n, Delay)] for chain in chains]
        if not maps:
            continue
        factor = node.gain if isinstance(node, LI) else node.gain / node.threshold
        rows = [algebra.scale_rows(chain[-1], factor, _before(chain, shape)) or chain[-1] for chain in maps]
        weight = max(float(np.abs(algebra.weight_of(row)).max()) for row in rows)
        fired = 1.0 if isinstance(node, LI | MultiThreshold) else float(node.max_spikes or 1)
        unit = 1.0 if isinstance(node, LI) else node.threshold
        peak = 0.0
        for sample in frames:
            drive = np.sum([algebra.run_chain(chain, _once(sample[None])[0], shape) for chain in maps], axis=0)
            population = Population(name, node, 1)
            for current in np.broadcast_to(drive, (len(sample), *drive.shape[1:])):
                population.step(current[None])
                peak = max(peak, *(float(np.abs(s / unit).max()) for s in (population.u * node.gain, population.v)))
        yield weight, peak + fired


def _before(chain: list[Synapse], shape: Shape) -> Shape:
    """Shape of what the last map of a chain receives."""
    for node in chain[:-1]:
        shape = output_shape("input", node, shape)
    return shape


def payload_top(bits: int, low: float) -> int:
    """The largest payload of a width, for an input whose smallest value is ``low``."""
    least = 2 if low < 0 else 1
    if not least <= bits <= _MOST_BITS:
        raise UsageError("D2E-ENC-006", f"input bits {bits} are outside {least}..{_MOST_BITS}",
                         hint="Give --input-bits in that range.")
    return (1 << (bits - 1 if low < 0 else bits)) - 1


def _once(frames: Array) -> Array:
    """Frames [batch, time, …] that repeat an image in one place of memory, as one frame; others as they are."""
    return frames[:, :1] if frames.strides[1] == 0 else frames


def _grid(values: Array | None, largest: float, top: int) -> int:
    """Into how many steps ``largest`` is divided: the most up to ``top`` that lose nothing of the data, else ``top``."""
    if values is None:
        return top
    distinct = np.unique(np.minimum(np.abs(_once(values)), largest))
    if distinct.size > top + 1:
        return top
    for fewest in range(1, top):
        p = distinct / (largest / fewest)
        if np.abs(p - np.rint(p)).max() < _OFF_GRID:
            return top // fewest * fewest
    return top


def _scaled(network: Network, source: Input) -> Network:
    """The network with this input, and with every linear map behind it multiplied by its encoder's scale."""
    assert source.encoder is not None
    assert source.encoder.scale is not None
    name = network.inputs[0]
    shapes = infer_shapes(network)
    changed: dict[str, Node] = {name: source}
    for path in paths_from(network, name):
        own = linear_map(network, path)
        assert own is not None  # canonical
        node = network.nodes[own]
        assert isinstance(node, Synapse)
        scaled = algebra.scale_columns(node, source.encoder.scale, shapes[network.incoming[own][0].source])
        assert scaled is not None  # one number moves into every map
        changed[own] = scaled
    return network.with_nodes(changed)

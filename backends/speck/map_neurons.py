"""map-neurons and to-events: integer populations become the neurons of a core, and steps become events.

A core's neuron adds a weight per event, fires at v >= threshold_high at most once per event, and takes the threshold (or
goes to 0). `MapNeurons` writes every population in those terms, still step by step, so that its own cost shows as a row of
the accuracy table; `ToEvents` changes no number but the meaning: from there on the event-driven simulator runs the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from d2e.backends.speck.geometry import Geometry, geometries
from d2e.backends.speck.limits import ARITHMETIC, LOWEST, STATE_MAX
from d2e.backends.speck.rules import camera_view, multiples, odd_maps, source_findings
from d2e.compiler.measure import EVENTS, SINGLE_SPIKES
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, discrete, folded, integer
from d2e.ir import IF, Finding, MultiThreshold, Network, Neuron, raise_findings
from d2e.ir.nodes import integral

if TYPE_CHECKING:
    from d2e.compiler.target import Target


def mapped(network: Network) -> str | None:
    """Every population is an integer IF neuron with a floor, as a core has it."""
    for name in network.populations:
        node = network.neuron(name)
        plain = isinstance(node, IF) and node.fire == "ge" and node.reset in ("subtract", "zero") and node.v_min is not None
        if not plain or node.arithmetic is None or node.reset_by is not None or node.reset_when != "same":
            return name
    return None


def eventful(network: Network) -> str | None:
    """The network is event driven, with states of 16 bits."""
    driven = network.metadata.get("speck", {}).get("driven_by") == "events"
    return None if driven else next(iter(network.populations), network.inputs[0])


@dataclass(frozen=True)
class CheckRules(Pass):
    """check-rules: everything the chip cannot take, told at once, before any work is done.

    Attributes:
        options: of the target.
    """

    name: ClassVar[str] = "check-rules"
    requires: ClassVar[tuple[Property, ...]] = (canonical, discrete)

    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, network: Network, target: Target) -> Network:
        """The network with the target's options in its metadata.

        Raises:
            UnsupportedError: D2E-SPECK-001..031, the first finding with all of them in the message.
        """
        raise_findings(source_findings(network, self.options))
        view = camera_view(network, self.options)
        if view is not None:
            network = warn(network, "D2E-SPECK-026", view, network.inputs[0])
        return network.with_metadata(speck=dict(self.options))


@dataclass(frozen=True)
class MapNeurons(Pass):
    """Populations as neurons of a core, still in steps. See the module."""

    name: ClassVar[str] = "map-neurons"
    requires: ClassVar[tuple[Property, ...]] = (canonical, folded, integer)
    ensures: ClassVar[tuple[Property, ...]] = (mapped,)

    def run(self, network: Network, target: Target) -> Network:
        """The network with IF neurons of the chip.

        Raises:
            UnsupportedError: D2E-SPECK-007 where the levels of integers are no multiples of the smallest, -033 where states
                start beyond 16 bits.
        """
        result = network
        for name in network.populations:
            result = _neuron(result, name)
        geometry, findings = geometries(result)
        raise_findings([*findings, *(f for n in result.populations for f in _start_fits(n, result.neuron(n)))])
        for name, what in odd_maps(result, geometry):
            result = warn(result, "D2E-SPECK-025", what, name)
        for name, each in geometry.items():
            result = _strong_weights(_biased(result, name), name, each)
        return result


@dataclass(frozen=True)
class ToEvents(Pass):
    """From steps to events: every event updates states at once, and spikes go on at once."""

    name: ClassVar[str] = "to-events"
    requires: ClassVar[tuple[Property, ...]] = (mapped,)
    ensures: ClassVar[tuple[Property, ...]] = (eventful,)

    def run(self, network: Network, target: Target) -> Network:
        """The same numbers, run by events."""
        narrow = network.with_nodes({
            n: replace(network.neuron(n), arithmetic=ARITHMETIC, max_spikes=1) for n in network.populations
        })
        own = {**network.metadata.get("speck", {}), "driven_by": "events"}
        return narrow.with_metadata(speck=own, **{EVENTS: True})


def _neuron(network: Network, name: str) -> Network:
    """One population as an IF neuron of the chip, with a warning for whatever that changes."""
    node = network.neuron(name)
    if isinstance(node, MultiThreshold):
        network, node = _counted(network, name, node)
    network, threshold = _ties(network, name, node)
    network, floor = _floor(network, name, node)
    return network.with_nodes({name: IF(
        shape=node.shape, threshold=integral(threshold), gain=node.gain, bias=node.bias, reset=node.reset, fire="ge",
        max_spikes=node.max_spikes, v_min=integral(floor), v_init=node.v_init, v_reset=integral(0),
        amplitude=node.amplitude, arithmetic=node.arithmetic, quantized=node.quantized, metadata=node.metadata,
    )})


def _counted(network: Network, name: str, node: MultiThreshold) -> tuple[Network, Neuron]:
    """Levels that are multiples of the smallest as that many spikes of one neuron."""
    times = multiples(node)
    if times is None:
        raise_findings([Finding(
            "D2E-SPECK-007", f"its levels become {node.levels.tolist()}, which are no multiples of the smallest", name,
            "Use more --weight-bits, or levels further apart.")])
    assert times is not None
    if (np.diff(times, prepend=0) != 1).any() or (node.levels != node.levels[0] * times).any():
        network = warn(
            network, "D2E-SPECK-027", f"its levels, {', '.join(map(str, times))} times the smallest, become as many spikes "
            "of one neuron: in one step it rounds less coarsely than the source, over all steps the same charge is sent up "
            "to the rest; the table of passes shows the drift", name)
    single = [*network.metadata.get(SINGLE_SPIKES, ()), name]
    network = network.with_metadata(**{SINGLE_SPIKES: single})
    burst = IF(shape=node.shape, threshold=node.levels[0], bias=node.bias, reset="subtract", fire=node.fire,
               max_spikes=int(times[-1]), v_min=node.v_min, v_init=node.v_init, gain=node.gain, amplitude=node.amplitude,
               arithmetic=node.arithmetic, quantized=node.quantized, metadata=node.metadata)
    return network, burst


def _ties(network: Network, name: str, node: Neuron) -> tuple[Network, int]:
    """The chip fires at v >= threshold: above the threshold means at one more, exact where a spike leaves 0 behind."""
    threshold = int(node.threshold)
    if node.fire == "ge":
        return network, threshold
    if node.reset == "zero":
        return network, threshold + 1
    network = warn(network, "D2E-SPECK-021", "fires above its threshold, the chip's neurons at it; the two differ where a "
                   "state meets the threshold exactly", name)
    return network, threshold


def _floor(network: Network, name: str, node: Neuron) -> tuple[Network, int]:
    """A legal ``threshold_low``: at most -1, and so high that no weight leaves 16 bits."""
    if node.v_min is None:
        return network, LOWEST
    wanted = int(node.v_min.max())
    floor = min(max(wanted, LOWEST), -1)
    if (node.v_min != floor).any():
        network = warn(network, "D2E-SPECK-022", f"its floor of {int(node.v_min.min())} units becomes {floor}: the chip has "
                       f"one per layer, between {LOWEST} and -1 (0 is an erratum)", name)
    return network, floor


def _start_fits(name: str, node: Neuron) -> Iterator[Finding]:
    if np.abs(node.v_init).max() > STATE_MAX:
        yield Finding("D2E-SPECK-033", f"starts at up to {int(np.abs(node.v_init).max())} units, a state holds {STATE_MAX}",
                      name, "Start nearer to the threshold, or use fewer --weight-bits.")


def _biased(network: Network, name: str) -> Network:
    node = network.neuron(name)
    if not node.bias.any():
        return network
    rise = " A state above the threshold waits for the next event to fire." if (node.bias > 0).any() else ""
    return warn(network, "D2E-SPECK-023", "its bias becomes the chip's leak: added at every edge of a slow clock, once "
                f"per time step and not in step with the events.{rise} This is approximate; the table of passes shows the "
                "drift", name)


def _strong_weights(network: Network, name: str, geometry: Geometry) -> Network:
    """A weight above the threshold would fire more than one spike at one event; the chip keeps the rest for later."""
    threshold = int(network.neuron(name).threshold)
    strong = geometry.kernels > threshold
    if not strong.any():
        return network
    share = 100 * strong.sum() / max(1, np.count_nonzero(geometry.kernels))
    return warn(network, "D2E-SPECK-020", f"{share:.2g} % of its weights exceed its threshold, the largest "
                f"{geometry.kernels.max() / threshold:.3g} times: such an event adds more than one spike takes, the rest "
                "fires at later events only. Train with weights up to the threshold", name)

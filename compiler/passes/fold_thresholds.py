"""fold_thresholds: gains, thresholds per channel, spike amplitudes and reset values move into the weights.

After it one population has one threshold, gain 1, amplitude 1, resets to 0, and sends whole numbers of which a limit is
known. Exact: dividing everything that makes up ``v`` by the same factor changes no comparison; the folded float network
fires the same spikes. Only payloads in no ratio of small integers are rounded, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from d2e.compiler import algebra
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, discrete, folded, integer
from d2e.compiler.passes.exits import amplitude_unit, in_new_unit
from d2e.compiler.passes.ranges import spike_bound
from d2e.compiler.passes.ratios import as_multiples
from d2e.compiler.paths import Path, linear_map, paths_from, paths_into
from d2e.ir import (
    CubaLIF,
    MultiThreshold,
    Network,
    Output,
    SumPool2d,
    Synapse,
    UnsupportedError,
    infer_shapes,
)
from d2e.ir.nodes import LI, Array, Shape, real
from d2e.ir.shapes import output_shape

if TYPE_CHECKING:
    from d2e.compiler.target import Target

PAYLOAD_MAX = 255
"""Largest payload of a multi-threshold level, in units of the factor that moves into the weights."""
PAYLOAD_ERROR = 0.01
"""Relative error at which smaller payloads are preferred: a step between levels is a factor on weights of 8 bits."""


@dataclass(frozen=True)
class FoldThresholds(Pass):
    """See the module."""

    name: ClassVar[str] = "fold-thresholds"
    requires: ClassVar[tuple[Property, ...]] = (canonical, discrete)
    ensures: ClassVar[tuple[Property, ...]] = (folded,)

    def run(self, network: Network, target: Target) -> Network:
        """The folded network.

        Raises:
            UnsupportedError: D2E-FOLD-001 where a factor varies within a channel of a convolution;
                D2E-FOLD-002 where a reset value cannot be the origin; -003 for output amplitudes that differ or
                are not above 0; -005 where nothing limits the spikes of one step; D2E-EXIT-003 where an early exit would
                judge numbers of different units.
        """
        if integer(network) is None:  # folded integers, such as a .net file's: they stay integers
            return network
        for name in network.populations:
            network = _fold_payloads(network, name)
        network = in_new_unit(network, amplitude_unit)
        for name in network.populations:
            network = _fold_amplitude(network, name)
            network = _fold_reset_value(network, name)
            network = _fold_inputs(network, name)
        for name in network.populations:
            network = _limit_spikes(network, name)
        return network


def _fold_payloads(network: Network, name: str) -> Network:
    """Payloads of levels as integers; what one of them stands for joins the amplitude."""
    node = network.neuron(name)
    if not isinstance(node, MultiThreshold):
        return network
    sent = as_multiples(node.levels if node.payloads is None else node.payloads, PAYLOAD_MAX, PAYLOAD_ERROR)
    if not sent.exact:
        network = warn(
            network, "D2E-FOLD-004", f"its payloads {np.unique(sent.integers).tolist()} times {sent.factor:.4g} are "
            f"rounded by up to {100 * sent.error:.2g} %; levels in ratios of small integers are exact", name,
        )
    amplitude = node.amplitude * sent.factor
    return network.with_nodes({name: replace(node, payloads=real(sent.integers), amplitude=amplitude)})


def _limit_spikes(network: Network, name: str) -> Network:
    """The largest burst that can happen in place of no limit; it changes no spike."""
    node = network.neuron(name)
    if node.max_spikes or isinstance(node, (LI, MultiThreshold)):
        return network
    steps = network.input.time_steps
    bounds = [b for t in (None, steps) if (b := spike_bound(network, name, t)) is not None]
    if not bounds:
        raise UnsupportedError(
            "D2E-FOLD-005", "has no limit of spikes per step, and nothing bounds what it can fire", node=name,
            hint="Give it max_spikes, or the input a coding with max_payload.",
        )
    return network.with_nodes({name: replace(node, max_spikes=bounds[0])})


def _fold_reset_value(network: Network, name: str) -> Network:
    """Measure ``v`` from the reset value: v' = v - v_reset.

    n > 1 counts thresholds from 0, and a reset after the decay leaves ``v_reset`` undecayed: both tie v to its origin.
    """
    node = network.neuron(name)
    if node.reset != "value":
        return network
    base = node.v_reset
    if not base.any() or isinstance(node, LI):
        return network.with_nodes({name: replace(node, reset="zero", v_reset=real(0.0))})
    if isinstance(node, MultiThreshold) or (node.threshold <= base).any():
        raise UnsupportedError(
            "D2E-FOLD-002", f"resets to {base.max():g}, which is not below its threshold", node=name,
            hint="Use a reset value below the threshold.",
        )
    keep = real(1.0) if node.decays[1] is None else node.decays[1]
    if node.max_spikes != 1 or (node.reset_when == "next" and (keep != 1).any()):
        raise UnsupportedError(
            "D2E-FOLD-002", f"resets to {base.max():g}, and " + (
                "fires more than one spike a step" if node.max_spikes != 1 else "leaks with its reset in the next step"
            ), node=name, hint="Reset to 0.",
        )
    shifted = replace(
        node, reset="zero", v_reset=real(0.0), threshold=node.threshold - base, v_init=node.v_init - base,
        bias=node.bias - (1 - keep) * base, v_min=None if node.v_min is None else node.v_min - base,
    )
    return network.with_nodes({name: shifted})


def _fold_inputs(network: Network, name: str) -> Network:
    """Scale everything that makes up ``v`` so that gain is 1 and the threshold one number."""
    node = network.neuron(name)
    theta = node.threshold
    if isinstance(node, LI):
        common, factor = real(1.0), np.ones(())
    elif isinstance(node, MultiThreshold):
        common, factor = real(1.0), 1.0 / theta
    else:
        common = real(theta.max())
        factor = np.ones(()) if (theta == common).all() else common / theta
    rows = node.gain * factor
    if (rows != 1).any():
        network = _scale_into(network, name, rows)
    states = ["bias", "v_reset", "v_init", "v_min", *([] if isinstance(node, MultiThreshold) else ["reset_by"])]
    scaled: dict[str, Any] = {
        f: getattr(node, f) * factor if (factor != 1).any() else getattr(node, f)
        for f in states if getattr(node, f) is not None
    }
    if isinstance(node, CubaLIF):
        scaled["u_init"] = node.u_init * rows if (rows != 1).any() else node.u_init
    return network.with_nodes({name: replace(node, threshold=common, gain=real(1.0), **scaled)})


def _fold_amplitude(network: Network, name: str) -> Network:
    node = network.neuron(name)
    amplitude = node.amplitude
    if (amplitude == 1).all() or isinstance(node, LI):
        return network.with_nodes({name: replace(node, amplitude=real(1.0))})
    shapes = infer_shapes(network)
    for path in paths_from(network, name):
        if isinstance(network.nodes[path.target], Output):
            if (amplitude != amplitude.flat[0]).any() or amplitude.flat[0] <= 0:
                raise UnsupportedError(
                    "D2E-FOLD-003", "its output neurons send spikes of unequal amplitude, or of none above 0", node=name,
                    hint="Give them one amplitude above 0.",
                )
            continue  # one amplitude for all: counts instead of amplitudes, the same order of classes
        network = _change(network, path, amplitude, shapes[name], rows=False)
    return network.with_nodes({name: replace(node, amplitude=real(1.0))})


def _scale_into(network: Network, name: str, factor: Array) -> Network:
    shapes = infer_shapes(network)
    for path in list(paths_into(network, name)):
        network = _change(network, path, factor, shapes[path.source], rows=True)
    return network


def _change(network: Network, path: Path, factor: Array, shape: Shape, *, rows: bool) -> Network:
    """Multiply the one linear map of a path by a factor of its target's rows or its source's columns."""
    own = linear_map(network, path)
    for name in path.synapses:
        node = network.nodes[name]
        assert isinstance(node, Synapse)
        if name == own:
            scaled = (algebra.scale_rows if rows else algebra.scale_columns)(node, np.asarray(factor), shape)
            if scaled is None:
                raise _varies(path.target if rows else path.source, name)
            return network.with_nodes({name: scaled})
        after = output_shape(name, node, shape)
        if not rows and factor.size > 1:
            moved = _behind(node, np.broadcast_to(factor, shape), after)
            if moved is None:
                raise _varies(path.source, name)
            factor = moved
        shape = after
    return network


def _behind(node: Synapse, factor: Array, after: Shape) -> Array | None:
    """A factor of each element before a Flatten, Delay or pool as one behind it; None where it varies in a window."""
    if not isinstance(node, SumPool2d):
        return factor.reshape(after)
    (high, wide), (_, rows, columns) = node.kernel_size, after
    tiles = factor[:, : rows * high, : columns * wide].reshape(-1, rows, high, columns, wide)
    first = tiles[:, :, :1, :, :1]
    return first.reshape(after) if (tiles == first).all() else None


def _varies(population: str, name: str) -> UnsupportedError:
    return UnsupportedError(
        "D2E-FOLD-001", f"thresholds, gains or amplitudes of {population!r} vary within a channel and cannot move into a "
        "convolution", node=name, hint="Use one value per channel.",
    )

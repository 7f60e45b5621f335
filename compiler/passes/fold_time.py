"""fold-time and unfold-time: T steps of neurons with soft reset become one step of neurons with T * phi levels, and back.

All values of the folded network are means over the T steps. Where `equivalence.check` calls a population exact, and all
before it, its counts are those of the T steps; elsewhere one step is the ideal quantiser that the steps strive for, and a
warning says how far apart they may be. Temporal-to-spatial equivalence, arXiv 2510.23383, theorems 1 to 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler import equivalence
from d2e.compiler.equivalence import MOST_LEVELS, LayerCase
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, discrete
from d2e.compiler.paths import paths_into
from d2e.compiler.soft_reset import one_step, refusal, soft_reset
from d2e.ir import (
    IF,
    LI,
    Delay,
    Finding,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    UsageError,
    raise_findings,
    verified,
)
from d2e.ir.nodes import Array, real

if TYPE_CHECKING:
    from d2e.compiler.target import Target


@dataclass(frozen=True)
class FoldTime(Pass):
    """T steps into one.

    A population with threshold theta, phi spikes per step and start v_init becomes::

        MultiThreshold(levels=1 … phi * T, threshold=theta / T, bias=bias + v_init / T, amplitude=payload / T,
                       decay_mem=0, reset="none", v_init=0, the same fire and gain)

    and a readout without leak an LI without memory: what it sends is 1 / T of what it held after T steps.

    Attributes:
        strict: refuse a population that is not proven exact, in place of a warning.
        calibration: images [n, *input shape] on which the warnings measure the differences.
        input_range: least and largest value of the input, for the proofs.
    """

    name: ClassVar[str] = "fold-time"
    requires: ClassVar[tuple[Property, ...]] = (discrete,)

    strict: bool = False
    calibration: Array | None = None
    input_range: tuple[float, float] | None = None

    def run(self, network: Network, target: Target | None = None) -> Network:
        """The network of one step.

        Raises:
            UnsupportedError: D2E-EQUIV-001 where the input is not an image shown at T steps; -003 with all populations that
                cannot be rewritten; -004 for spikes that nothing limits; -005 for an output that is no sum or mean; -006 for
                what is not exact, with ``strict``.
            UsageError: D2E-EQUIV-002 for calibration images that change from step to step.
        """
        return folded(network, equivalence.check(network, self.calibration, input_range=self.input_range), self.strict)


def folded(network: Network, cases: Sequence[LayerCase], strict: bool = False) -> Network:
    """The network of one step, given the cases of its populations; raises as `FoldTime`."""
    raise_findings([*_refused(cases), *_output_findings(network), *(_inexact(cases) if strict else ())])
    steps = equivalence.time_steps(network)
    out = network.outputs[0]
    nodes: dict[str, Node] = {
        network.inputs[0]: replace(network.input, time_steps=1), out: replace(network.output, exit=None)}
    for case in cases:
        node = network.neuron(case.name)
        if isinstance(node, LI):
            nodes[case.name] = replace(
                node, decay_mem=real(0.0), v_init=real(0.0), bias=node.bias + real(node.v_init) / steps)
        elif case.levels is not None:
            nodes[case.name] = one_step(node, steps, case.levels)
    if network.output.exit is not None:
        network = warn(network, "D2E-EQUIV-008", "its early exit is left out: one step leaves nothing to save", out)
    for case in cases:
        if not case.exact:
            network = warn(network, "D2E-EQUIV-007", _apart(case), case.name)
    return verified(network.with_nodes(nodes))


def _refused(cases: Sequence[LayerCase]) -> Iterator[Finding]:
    for case in cases:
        if not case.rewritable:
            yield Finding("D2E-EQUIV-003", f"cannot become one step ({case.case}): {case.why}", case.name,
                          "One step replaces soft resets without leak; train or convert the layer so.")
        elif case.case != equivalence.READOUT and (case.levels is None or case.levels > MOST_LEVELS):
            found = "nothing limits" if case.levels is None else f"{case.levels:,} levels would hold"
            yield Finding("D2E-EQUIV-004", f"{found} the spikes of its T steps", case.name,
                          "Give it max_spikes, or state the range of the input.")


def _inexact(cases: Sequence[LayerCase]) -> Iterator[Finding]:
    return (Finding("D2E-EQUIV-006", _apart(case), case.name, "Leave strict out to convert it with a warning.")
            for case in cases if case.rewritable and not case.exact)


def _apart(case: LayerCase) -> str:
    """What is known of a population that is not exact."""
    known = "nothing bounds the difference" if case.bound is None else f"counts differ by at most {case.bound}"
    found = case.measured
    seen = "" if found is None else (
        f"; measured on {found.samples} samples, {100 * found.different:.2g} % of counts differ, by {found.largest} at most")
    return f"one step is not proven to fire as {case.levels} levels in time ({case.case}: {case.why}); {known}{seen}"


def _output_findings(network: Network) -> Iterator[Finding]:
    """An output whose value after T steps is not a multiple of what one step gives."""
    name, readout = network.outputs[0], network.output.readout
    for path in paths_into(network, name):
        membrane = isinstance(network.nodes[path.source], LI)
        maps = [network.nodes[s] for s in path.synapses]
        if path.recurrent or any(isinstance(node, Delay) and node.steps for node in maps):
            yield _finding(name, f"it receives {path.source!r} late, so that the last steps are missing")
        elif membrane and readout != "last":
            yield _finding(name, f"its readout {readout!r} adds up the membrane of {path.source!r} over time")
        elif membrane and any(map(_biased, maps)):
            yield _finding(name, f"a bias is added to the membrane of {path.source!r}, once and not per step")
        elif not membrane and readout not in ("count", "mean"):
            yield _finding(name, f"its readout {readout!r} is no sum of what {path.source!r} sends")


def _biased(node: Node) -> bool:
    bias = getattr(node, "bias", None)
    return bias is not None and bool(np.any(bias))


def _finding(name: str, message: str) -> Finding:
    return Finding("D2E-EQUIV-005", message, name, "Read spikes by 'count' or 'mean', an LI population by 'last'.")


@dataclass(frozen=True)
class UnfoldTime(Pass):
    """One step into T: the inverse of `FoldTime`. N levels become phi = N / T spikes per step at T times the threshold.

    Attributes:
        steps: T; divides the levels of every population.
        start: v before the first step, as a share of the threshold; the bias gives back what it adds.
    """

    name: ClassVar[str] = "unfold-time"
    requires: ClassVar[tuple[Property, ...]] = (discrete,)

    steps: int = 1
    start: float = 0.0

    def run(self, network: Network, target: Target | None = None) -> Network:
        """The network of T steps. Whether it fires the same is what `equivalence.check` says of it.

        Raises:
            UsageError: D2E-EQUIV-009 for fewer steps than 1.
            UnsupportedError: D2E-EQUIV-001 where the input is not an image shown at one step; -005 for an output that is
                no sum or mean; -010 with all populations that are not memoryless with N even levels, N a multiple of T.
        """
        if self.steps < 1:
            raise UsageError("D2E-EQUIV-009", f"{self.steps} steps are fewer than 1", hint="Give the T of the network.")
        shown = equivalence.time_steps(network)
        reasons = {n: self._refusal(network.neuron(n), shown) for n in network.populations}
        raise_findings([*(Finding("D2E-EQUIV-010", why, n, "Unfold what FoldTime made, or networks of that form.")
                          for n, why in reasons.items() if why is not None), *_output_findings(network)])
        nodes: dict[str, Node] = {network.inputs[0]: replace(network.input, time_steps=self.steps)}
        for name in network.populations:
            node = network.neuron(name)
            if isinstance(node, MultiThreshold):
                nodes[name] = self._over_time(node)
            elif isinstance(node, LI):
                nodes[name] = replace(node, decay_mem=real(1.0))
        return verified(network.with_nodes(nodes))

    def _refusal(self, node: Neuron, shown: int) -> str | None:
        """Why a population cannot be spread over time; None where it can."""
        if shown != 1:
            return f"it runs {shown} steps already"
        if not isinstance(node, (LI, MultiThreshold)) or node.decay_mem.any() or node.v_init.any():
            return "it is not memoryless (decay_mem 0, v_init 0)"
        if isinstance(node, MultiThreshold) and (node.reset != "none" or node.refractory):
            return "it has a reset or a refractory period"
        soft = replace(node, decay_mem=real(1.0), reset="subtract", reset_by=None)
        found = refusal(soft)
        if found is not None:
            return found[1]
        if isinstance(node, MultiThreshold) and len(node.levels) % self.steps:
            return f"its {len(node.levels)} levels do not share out among {self.steps} steps"
        return None

    def _over_time(self, node: MultiThreshold) -> Neuron:
        cell = soft_reset(replace(node, decay_mem=real(1.0), reset="subtract", reset_by=None))
        theta, phi, payload = cell.theta * self.steps, len(node.levels) // self.steps, cell.payload * self.steps
        start, bias = real(0.0), node.bias
        if self.start:
            start, bias = theta * self.start, node.bias - cell.theta * self.start
        if not cell.signed:
            return IF(shape=node.shape, threshold=theta, gain=node.gain, bias=bias, fire=node.fire, max_spikes=phi,
                      v_init=start, amplitude=payload, metadata=node.metadata)
        return MultiThreshold(shape=node.shape, levels=np.arange(1.0, phi + 1), signed=True, threshold=theta, gain=node.gain,
                              bias=bias, fire=node.fire, v_init=start, amplitude=payload, metadata=node.metadata)


def fold_time(
    network: Network, calibration: data_sets.Source | None = None, strict: bool = False, *,
    input_range: tuple[float, float] | None = None,
) -> Network:
    """A network of T steps as one of one step, with what is known of the difference.

    Temporal-to-spatial equivalence, arXiv 2510.23383, theorems 1 to 3, with conditions and bounds of our own.

    Args:
        network: of soft-reset neurons (IF with bursts, uniform MultiThreshold), that shows images at each of T steps.
        calibration: images [n, *input shape] on which counts of T steps and of one are compared: a path, an array or (x, y).
        strict: refuse what is not proven exact.
        input_range: least and largest value of the input, for the proofs.

    Returns:
        The network; ``metadata["equivalence"]`` has ``time_steps`` and the case of each population under ``layers``.

    Raises:
        UnsupportedError: D2E-EQUIV-001 and -003 to -006, see `FoldTime.run`.
        UsageError: D2E-EQUIV-002 for calibration images that change over the steps; D2E-DATA-001 to -003 for files.
    """
    images = None if calibration is None else data_sets.load(calibration, "calibration data").frames
    cases = equivalence.check(network, images, input_range=input_range)
    facts = {"time_steps": equivalence.time_steps(network), "layers": [case.facts() for case in cases]}
    return folded(network, cases, strict).with_metadata(equivalence=facts)


def unfold_time(network: Network, steps: int, *, start: float = 0.0) -> Network:
    """A network of one step as one of T; see `UnfoldTime`, whose errors it raises.

    Args:
        network: of memoryless MultiThreshold populations whose levels are 1, 2, … N times one step, N a multiple of T.
        steps: T.
        start: v before the first step, as a share of the threshold; 0.5 lets spikes come early, without changing the sum.

    Returns:
        The network. Its inputs are images shown at each of T steps.
    """
    return UnfoldTime(steps, start).run(network)

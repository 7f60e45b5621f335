"""Temporal-to-spatial equivalence: which populations of a T-step network fire in one step what they fire in T.

`check` names the case of every population, proves what static ranges allow, and measures the rest on images;
`passes.fold_time` rewrites. The cases and their proofs are in docs/equivalence.md, the arithmetic in `soft_reset`.

Temporal-to-spatial equivalence, arXiv 2510.23383, theorems 1 to 3; conditions and bounds beyond them are our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from d2e.compiler.intervals import drives
from d2e.compiler.paths import paths_from, paths_into
from d2e.compiler.soft_reset import SoftReset, one_step, refusal, soft_reset
from d2e.ir import LI, Delay, Input, Network, Output, UnsupportedError, UsageError, reference
from d2e.ir.nodes import Array

MOST_LEVELS = 1 << 16
"""Of one step: beyond, a population is not rewritten."""
CONSTANT, CONSTANT_SIGNED = "A constant input", "G signed levels, constant input"
WITHIN, BEYOND = "B/E drive proven within [0, phi*theta]", "C non-negative, may exceed phi*theta"
SIGNED = "D signed, varying"
READOUT = "readout without leak"
Range: TypeAlias = "tuple[Array | float, Array | float]"
_AT_ONCE = 1 << 22
"""Values of one kind recorded at once."""


@dataclass(frozen=True)
class Certificate:
    """What T steps and one step did with the same real drive: measured, not proven.

    Attributes:
        samples: images measured.
        within: share of (sample, neuron) whose drive met the condition under which both fire alike.
        different: share of (sample, neuron) whose counts differ.
        largest: difference in counts.
        mean: of the difference over all (sample, neuron).
    """

    samples: int
    within: float
    different: float
    largest: int
    mean: float


@dataclass(frozen=True)
class LayerCase:
    """One population.

    Attributes:
        name: of the population.
        case: its row in the table of docs/equivalence.md.
        why: what the case hangs on, in a sentence.
        rewritable: whether one step of levels can take its place at all.
        levels: phi * T; None where not rewritable, for a readout, and where nothing limits its spikes.
        exact: proven for every input: counts of T steps are those of one step that receives the mean of the same inputs.
        proven: share of its neurons of which that is proven.
        bound: proven largest difference of a neuron's counts; 0 where exact, None where nothing bounds it.
        throughout: it and all populations before it are exact, so that its counts are those of the folded network.
        measured: on images, if some were given.
    """

    name: str
    case: str
    why: str
    rewritable: bool
    levels: int | None = None
    exact: bool = False
    proven: float = 0.0
    bound: int | None = None
    throughout: bool = False
    measured: Certificate | None = None

    def facts(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def check(
    network: Network, frames: Array | None = None, *, input_range: Range | None = None
) -> list[LayerCase]:
    """The case of every population of a network that shows images for T steps.

    Args:
        network: float; ``network.input`` is coded "direct" and states T.
        frames: images [n, *input shape] for the certificates, or frames [n, T, *input shape] that are the same at all steps.
        input_range: least and largest value the input can have, numbers or [*input shape], for the proofs; None: not known.

    Returns:
        One `LayerCase` per population, in order.

    Raises:
        UnsupportedError: D2E-EQUIV-001 where the input is not an image shown at each of T steps.
        UsageError: D2E-EQUIV-002 for frames that change from step to step or leave ``input_range``; D2E-INPUT-001 and -002
            for those of a wrong shape or with NaN.
    """
    steps = time_steps(network)
    images = None if frames is None else _images(network, frames, input_range)
    ranges = drives(network, input_range)
    found: dict[str, LayerCase] = {}
    for name in network.populations:
        node, refused = network.neuron(name), _refusal(network, name)
        if refused is not None:
            found[name] = LayerCase(name, *refused, rewritable=False)
            continue
        sources = {p.source for p in paths_into(network, name)}
        before = all(isinstance(network.nodes[s], Input) or found[s].throughout for s in sources)
        if isinstance(node, LI):
            found[name] = LayerCase(name, READOUT, "it adds up its inputs", True, None, True, 1.0, 0, before)
            continue
        constant = all(isinstance(network.nodes[s], Input) for s in sources) or steps == 1
        low, high = (np.broadcast_to(bound, node.shape) for bound in ranges[name])
        case = _case(name, soft_reset(node), low, high, constant, steps)
        found[name] = replace(case, throughout=before and case.exact)
    cases = list(found.values())
    if images is None:
        return cases
    levels = {c.name: c.levels for c in cases if c.levels is not None and c.levels <= MOST_LEVELS}
    measured = _measured(network, images, levels)
    return [replace(case, measured=measured.get(case.name)) for case in cases]


def time_steps(network: Network) -> int:
    """T of a network whose input is an image shown at each of T steps.

    Raises:
        UnsupportedError: D2E-EQUIV-001 where it is not.
    """
    source = network.input
    said = (
        f"is coded {source.coding!r}" if source.coding != "direct" else "states no number of time steps"
        if source.time_steps is None else "is shown at the first step only"
        if source.encoder is not None and source.encoder.kind != "direct" else None
    )
    if said is not None or source.time_steps is None:
        raise UnsupportedError(
            "D2E-EQUIV-001", f"{said}; time is folded where an image is shown at each of a known number of steps",
            node=network.inputs[0], hint="Use an input coded 'direct' with time_steps.",
        )
    return source.time_steps


def _images(network: Network, frames: Array, input_range: Range | None) -> Array:
    """Images [n, *input shape]."""
    data = reference.check_frames(network, frames)
    if input_range is not None and ((data < input_range[0]) | (data > input_range[1])).any():
        raise UsageError("D2E-EQUIV-002", f"frames reach from {data.min():g} to {data.max():g}, outside the stated range of "
                         "the input", node=network.inputs[0], hint="State a range that holds for every input.")
    if data.shape[1] != time_steps(network) or (data != data[:, :1]).any():
        raise UsageError("D2E-EQUIV-002", f"frames of shape {list(data.shape)} are not images shown at "
                         f"{time_steps(network)} steps", node=network.inputs[0], hint="Give images [n, *input shape].")
    return np.asarray(data[:, 0])


def _refusal(network: Network, name: str) -> tuple[str, str] | None:
    """(case, reason) why a population is not rewritable, by its neurons or by what leads to them."""
    for path in paths_into(network, name):
        if path.recurrent:
            return "recurrence", f"it receives {path.source!r} of the step before"
        if any(isinstance(d := network.nodes[s], Delay) and d.steps for s in path.synapses):
            return "delay", f"what {path.source!r} sends comes later, and its last steps never"
    node = network.neuron(name)
    if isinstance(node, LI) and any(not isinstance(network.nodes[p.target], Output) for p in paths_from(network, name)):
        return "membrane sent", "its membrane is a running sum and feeds other populations"
    return refusal(node)


def _case(name: str, cell: SoftReset, low: Array, high: Array, constant: bool, steps: int) -> LayerCase:
    apart = np.broadcast_to(cell.bound(low, high, np.asarray(constant), steps), low.shape)
    exact, bound = apart == 0, float(apart.max())
    case, why = _named(cell, low, high, constant, bool(exact.all()))
    return LayerCase(
        name, case, why, True, cell.levels(high, steps), bool(exact.all()), float(exact.mean()),
        int(bound) if math.isfinite(bound) else None,
    )


def _named(cell: SoftReset, low: Array, high: Array, constant: bool, exact: bool) -> tuple[str, str]:
    """(case, what it hangs on)."""
    top, home = cell.most * cell.theta, "0" if cell.signed else "[0, theta]"
    if constant:
        return CONSTANT_SIGNED if cell.signed else CONSTANT, (
            f"v starts in {home}, or the proven drive makes up for it" if exact
            else f"v starts outside {home}, and the drive is not proven small enough to make up for it")
    rising, falling = ((low >= 0) & (high <= top)).all(), ((high <= 0) & (low >= -top)).all()
    if rising or (cell.signed and falling):
        return WITHIN, "no step brings more than phi spikes, and none takes charge back" if exact else (
            "levels of the other sign may fire at the start")
    small = "the proven drive is too small for it to matter"
    if (low >= 0).all():
        most = f"a step may bring {float((high / cell.theta).max()):.3g} thresholds, phi is {cell.most:g}"
        return BEYOND, small if exact else most
    return SIGNED, small if exact else "input that comes late may take back charge that has fired"


def _measured(network: Network, images: Array, levels: dict[str, int]) -> dict[str, Certificate]:
    """Certificates of the populations named."""
    steps = time_steps(network)
    size = steps * sum(math.prod(network.neuron(n).shape) for n in network.populations)
    sums: dict[str, list[Array]] = {name: [] for name in levels}
    for part in _parts(len(images), max(1, _AT_ONCE // size)):
        trace = reference.run(network, np.repeat(images[part, None], steps, axis=1), "state")
        for name in levels:
            node = network.neuron(name)
            cell, u = soft_reset(node), trace.u[name]
            drive = node.gain * u + node.bias
            low, high = drive.min(axis=1), drive.max(axis=1)
            folded = reference.Population(name, one_step(node, steps, levels[name]), len(u))
            folded.step(u.mean(axis=1))
            apart = np.abs(folded.n - trace.spikes[name].sum(axis=1))
            within = np.broadcast_to(cell.exact(low, high, low == high, steps), apart.shape)
            sums[name].append(np.array([within.sum(), (apart > 0).sum(), apart.max(initial=0), apart.sum(), apart.size]))
    found = {}
    for name, rows in sums.items():
        table = np.array(rows)
        within, different, _, total, count = table.sum(axis=0)
        found[name] = Certificate(len(images), float(within / count), float(different / count), int(table[:, 2].max()),
                                  float(total / count))
    return found


def _parts(total: int, most: int) -> Iterator[slice]:
    return (slice(i, min(i + most, total)) for i in range(0, total, most))


def text(cases: Sequence[LayerCase]) -> str:
    """A table of cases, one line per population; what was measured says on how many samples."""
    measured = [c.measured.samples for c in cases if c.measured is not None]
    head = ["layer", "case", "levels", "exact", "bound"]
    head += ["within", "differ", "largest", "mean"] if measured else []
    rows = [head, *(_row(case, bool(measured)) for case in cases)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if measured:
        lines.append(f"exact and bound are proven; within, differ, largest and mean are measured on {measured[0]} samples")
    lines += [f"{case.name}: {case.why}" for case in cases if not case.exact]
    return "\n".join(lines)


def _row(case: LayerCase, with_measured: bool) -> list[str]:
    exact = "proven" if case.exact else "no" if not case.proven else f"{100 * case.proven:.1f} %"
    bound = "-" if not case.rewritable else "not known" if case.bound is None else str(case.bound)
    row = [case.name, case.case, "-" if case.levels is None else str(case.levels), exact, bound]
    if not with_measured:
        return row
    found = case.measured
    return [*row, "-", "-", "-", "-"] if found is None else [
        *row, f"{100 * found.within:.1f} %", f"{100 * found.different:.1f} %", str(found.largest), f"{found.mean:.3g}"]

"""Compiles a network of which a part runs on the host: every segment for the chip, and one report of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler.hosted.program import HostedProgram
from d2e.compiler.hosted.report import accuracy_of, report_of
from d2e.compiler.hosted.split import Segment, split
from d2e.compiler.hosted.steps import inner
from d2e.compiler.measure import classify
from d2e.compiler.passes.bits import AUTO, OTHERS, Bits, table
from d2e.compiler.program import Program
from d2e.compiler.report import Report
from d2e.compiler.target import Target
from d2e.ir import Network, UsageError
from d2e.ir.nodes import Array

_WIDEST = 8


def refuse(options: Mapping[str, Any]) -> None:
    """Raise where an option is given that says something of one pipeline of passes: every segment has its own.

    Raises:
        UsageError: D2E-USE-019.
    """
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError("D2E-USE-019", f"{', '.join(given)}: not for a network of which a part runs on the host, as every "
                         "part on the chip has passes of its own", hint="Leave them out.")


def compile_hosted(
    network: Network, target: Target, compiled: Callable[..., Program], weight_bits: Bits, of_input: Mapping[str, Any],
    calibration: Array | None, evaluation: data_sets.Data | None, facts: Mapping[str, Any],
) -> HostedProgram:
    """The program of a network with host nodes.

    Args:
        network: float, verified.
        target: of the segments.
        compiled: `d2e.compile` of a segment's network.
        weight_bits: as of `d2e.compile`, layers of all segments.
        of_input: options of ``compiled`` for the segments that the network's own input enters.
        calibration: frames [n, time, *shape] for the choice of scales; segments get what enters them on these.
        evaluation: on which the whole is measured.
        facts: of the manifest.

    Raises:
        UnsupportedError: D2E-HOST-002..009 where the network cannot be cut, and what ``compiled`` raises.
        UsageError: D2E-USE-015, -019 for weight bits of a layer that is not there, or "auto".
    """
    segments = split(network)
    bits = _bits(weight_bits, segments)
    entering = None if calibration is None else inner(network, calibration)[0]
    measured, output = (None, np.zeros(0)) if evaluation is None else inner(network, evaluation.frames)
    programs = []
    for segment, widths in zip(segments, bits, strict=True):
        fit, seen = (None if given is None else segment.entering(given[segment.source]) for given in (entering, measured))
        own = of_input if segment.source in network.inputs else {}
        programs.append((segment, compiled(segment.network, weight_bits=widths, calibration=fit, eval=seen, **own)))
    kinds = {name: network.nodes[name].kind for name in network.populations}
    program = HostedProgram(network, target, kinds, Report({}), facts, segments=programs)
    accuracy: Mapping[str, Any] = {}
    if evaluation is not None and evaluation.labels is not None:
        before = float((classify(network, output) == evaluation.labels).mean())
        accuracy = accuracy_of(network, evaluation, before, program.measure(evaluation).accuracy)
    program.report = report_of(network, target.name, segments, [each.report for _, each in programs], accuracy)
    return program


def _bits(bits: Bits, segments: Sequence[Segment]) -> list[Bits]:
    """The weight bits of every segment: of a table, those of its own layers."""
    if bits == AUTO:
        refuse({"weight-bits auto": True})
    if not isinstance(bits, Mapping) and "=" not in str(bits):
        return [bits] * len(segments)
    widths = table(bits, _WIDEST)
    known = {name for segment in segments for name in segment.network.nodes}
    for name in widths.keys() - known - {OTHERS}:
        raise UsageError("D2E-USE-015", f"weight bits name a layer {name!r} that is not there",
                         hint="d2e inspect lists the layers.")
    return [{k: w for k, w in widths.items() if k == OTHERS or k in each.network.nodes} for each in segments]

"""Compiles a network of which a part runs on the host: every segment for the chip, and one report of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler.hosted.program import HostedProgram, encoded, over_time
from d2e.compiler.hosted.split import on_host, reshaped, split
from d2e.compiler.measure import classify
from d2e.compiler.program import Program
from d2e.compiler.report import Report
from d2e.compiler.report.report import SCHEMA
from d2e.compiler.target import Target
from d2e.ir import LI, Flatten, GateError, MultiThreshold, Network, UsageError, host, infer_shapes, reference
from d2e.ir.host import Host
from d2e.ir.nodes import Array

_CHUNK = 64


def compile_hosted(
    network: Network, target: Target, compiled: Callable[[Network, bool, Array | None, Array | None], Program],
    calibration: Array | None, evaluation: data_sets.Data | None, facts: Mapping[str, Any],
) -> HostedProgram:
    """The program of a network with host nodes.

    Args:
        network: float, verified.
        target: of the segments.
        compiled: makes the program of a segment's network, told whether the network's own input enters it, and given
            calibration and evaluation frames of what enters.
        calibration: frames [n, time, *shape] for the choice of scales; segments get what enters them on these.
        evaluation: on which the whole is measured.
        facts: of the manifest.

    Raises:
        UnsupportedError: D2E-HOST-002..006 where the network cannot be cut, and what ``compiled`` raises.
    """
    segments = split(network)
    entering = None if calibration is None else inner(network, calibration)[0]
    measured, output = (None, np.zeros(0)) if evaluation is None else inner(network, evaluation.frames)
    programs = []
    for segment in segments:
        own = [None if given is None else segment.entering(given[segment.source]) for given in (entering, measured)]
        programs.append((segment, compiled(segment.network, segment.source in network.inputs, *own)))
    kinds = {name: network.nodes[name].kind for name in network.populations}
    program = HostedProgram(network, target, kinds, Report({}), facts, segments=programs)
    before = None if evaluation is None or evaluation.labels is None else float(
        (classify(network, output) == evaluation.labels).mean())
    program.report = _report(program, before, evaluation)
    return program


def inner(network: Network, frames: Array) -> tuple[dict[str, Array], Array]:
    """(source of a segment -> what enters it, the output), [n, time, *shape], of the float network.

    Chip populations are run by the reference interpreter, a few samples at a time.
    """
    parts = [_inner(network, frames[i : i + _CHUNK]) for i in range(0, len(frames), _CHUNK)]
    entering = {name: np.concatenate([each[0][name] for each in parts]) for name in parts[0][0]}
    return entering, np.concatenate([each[1] for each in parts])


def _inner(network: Network, frames: Array) -> tuple[dict[str, Array], Array]:
    segments = {s.end: s for s in split(network)}
    sites, flat, name_of_input = on_host(network), reshaped(network), network.inputs[0]
    values, entering = {name_of_input: frames}, {name_of_input: frames}
    for name in network.order:
        node, into = network.nodes[name], network.incoming[name]
        if isinstance(node, Host) or (isinstance(node, Flatten) and name in flat):
            values[name] = over_time(node, np.asarray(sum(values[e.source] for e in into)))
        elif name in sites:
            assert isinstance(node, MultiThreshold)
            arriving = np.asarray(sum(values[e.source] for e in into))
            values[name], entering[name], _ = encoded(name, node, arriving)
        elif name in segments:
            segment = segments[name]
            given = segment.entering(entering[segment.source])
            values[name] = segment.leaving(reference.run(segment.network, given).output, segment.factor)
    output = values[network.incoming[network.outputs[0]][0].source]
    used = {s.source for s in segments.values()}
    return {name: found for name, found in entering.items() if name in used}, output


def check_drop(program: HostedProgram, most: float) -> None:
    """Raise where more than ``most`` points are lost.

    Raises:
        GateError: D2E-GATE-001.
        UsageError: D2E-USE-010 where nothing was measured.
    """
    found = program.report.get("accuracy", {})
    if "source" not in found:
        raise UsageError("D2E-USE-010", "max-drop needs evaluation data with labels", hint="Give --eval.")
    lost = 100 * (found["source"] - found["program"])
    if lost > most:
        raise GateError("D2E-GATE-001", f"the program loses {lost:.2f} points, {most:g} are allowed",
                        hint="Give more calibration data, or more --weight-bits.")


def _report(program: HostedProgram, before: float | None, evaluation: data_sets.Data | None) -> Report:
    parts = [each.report for _, each in program.segments]
    layers = [row for part in parts for row in part["layers"]]
    totals: dict[str, Any] = {}
    for part in parts:
        for key, value in part["totals"].items():
            totals[key] = totals.get(key, 0) + value
    conversion = program.network.metadata.get("conversion", {})
    after = None if before is None or evaluation is None else program.measure(evaluation).accuracy
    accuracy: dict[str, Any] = {} if after is None or evaluation is None else {"accuracy": {
        **_of_ann(conversion, evaluation), "source": before, "program": after, "passes": [], "samples": len(evaluation)}}
    first = parts[0]
    return Report({
        "schema": SCHEMA, "target": program.target.name, "engine": first["engine"], **accuracy,
        **({"conversion": conversion} if conversion else {}), "layers": layers, "totals": totals,
        "host": _host(program.network), "boundaries": _boundaries(program), "energy": [],
        "warnings": [w for part in parts for w in part["warnings"]],
        **({"fit": {"cores": {"used": totals["cores"], "limit": first["fit"]["cores"]["limit"]}},
            "fit_source": first.get("fit_source", "")} if "cores" in totals and "fit" in first.data else {}),
    })


def _of_ann(conversion: Mapping[str, Any], data: data_sets.Data) -> dict[str, float]:
    found = conversion.get("accuracy", {})
    return {"ann": float(found["ann"])} if found and found["data_sha256"] == data.fingerprint else {}


def _host(network: Network) -> list[dict[str, Any]]:
    """What the host computes for one frame."""
    shapes = infer_shapes(network)
    rows = []
    for name in network.hosts:
        node = network.nodes[name]
        assert isinstance(node, Host)
        rows.append({"name": name, "kind": node.kind,
                     "macs": host.macs(node, shapes[network.incoming[name][0].source])})
    levels = {name: network.neuron(name) for name in on_host(network)}
    rows += [{"name": name, "kind": "levels", "values": int(np.prod(node.shape))} for name, node in levels.items()]
    return rows


def _boundaries(program: HostedProgram) -> list[dict[str, Any]]:
    """Where values pass between host and chip, in order."""
    shapes = infer_shapes(program.network)
    rows = []
    for segment, _ in program.segments:
        node = program.network.nodes[segment.end]
        rows.append({
            "into": segment.source, "values": int(np.prod(shapes[segment.source])), "out_of": segment.end,
            "read": "membrane" if isinstance(node, LI) else "spikes", "values_read": int(np.prod(shapes[segment.end])),
        })
    return rows

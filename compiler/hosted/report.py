"""The report of a program of several segments: those of the segments, added up, and what the host does between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler import energy
from d2e.compiler.hosted.split import Segment, on_host
from d2e.compiler.report import Report
from d2e.compiler.report.graph import graph
from d2e.compiler.report.remedies import with_way_out
from d2e.compiler.report.report import SCHEMA
from d2e.ir import LI, Network, host, infer_shapes
from d2e.ir.host import Host


def report_of(
    network: Network, target: str, segments: Sequence[Segment], parts: Sequence[Report], accuracy: Mapping[str, Any]
) -> Report:
    """The report of the whole.

    Args:
        network: float.
        target: its name.
        segments, parts: with the report of each.
        accuracy: of the whole, without what is known of the ANN; empty: not measured.
    """
    totals: dict[str, Any] = {}
    for part in parts:
        for key, value in part["totals"].items():
            totals[key] = totals.get(key, 0) + value
    conversion, first = network.metadata.get("conversion", {}), parts[0]
    fit = {} if "cores" not in totals or "fit" not in first.data else {"cores": {
        "used": totals["cores"], "limit": first["fit"]["cores"]["limit"]}}
    return Report({
        "schema": SCHEMA, "target": target, "engine": first["engine"], **({"accuracy": accuracy} if accuracy else {}),
        **({"conversion": conversion} if conversion else {}), "layers": [row for part in parts for row in part["layers"]],
        "totals": totals, "host": _host(network), "boundaries": _boundaries(network, segments),
        "energy": energy.summed([part.get("energy", []) for part in parts]), **_pictures(network, parts),
        "warnings": [*_too_few(fit), *(warning for part in parts for warning in part["warnings"])],
        **({"fit": fit, "fit_source": first.get("fit_source", "")} if fit else {}),
    })


def _pictures(network: Network, parts: Sequence[Report]) -> dict[str, Any]:
    """What the page shows of the whole; cores and a sample's spikes are on the pages of the parts."""
    found: dict[str, Any] = {
        "energy_published": parts[0].get("energy_published", []),
        "histograms": [row for part in parts for row in part.get("histograms", [])],
        "graph": {"source": graph(network)},
    }
    return {key: value for key, value in found.items() if value}


def _too_few(fit: Mapping[str, Mapping[str, int]]) -> list[dict[str, str]]:
    """A warning where the parts do not fit side by side."""
    if not fit or fit["cores"]["used"] <= fit["cores"]["limit"]:
        return []
    used, limit = fit["cores"]["used"], fit["cores"]["limit"]
    message = f"the parts on the chip take {used:,} cores together, {limit:,} are there: they cannot stand side by side"
    return [with_way_out({"code": "D2E-FIT-004", "message": message})]


def accuracy_of(network: Network, data: data_sets.Data, source: float, program: float | None) -> dict[str, Any]:
    """The accuracy of the ANN, where these are the data of its conversion, of the float network and of the program."""
    if program is None:
        return {}
    found = network.metadata.get("conversion", {}).get("accuracy", {})
    ann = {"ann": float(found["ann"])} if found and found["data_sha256"] == data.fingerprint else {}
    return {**ann, "source": source, "program": program, "passes": [], "samples": len(data)}


def _host(network: Network) -> list[dict[str, Any]]:
    """What the host computes for one frame."""
    shapes = infer_shapes(network)
    rows = []
    for name in network.hosts:
        node = network.nodes[name]
        assert isinstance(node, Host)
        rows.append({"name": name, "kind": node.kind,
                     "macs": host.macs(node, shapes[network.incoming[name][0].source])})
    populations = {name: network.neuron(name) for name in on_host(network)}
    rows += [{"name": name, "kind": "readout" if isinstance(node, LI) else "levels", "values": int(np.prod(node.shape))}
             for name, node in populations.items()]
    return rows


def _boundaries(network: Network, segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Where values pass between host and chip, in order."""
    shapes = infer_shapes(network)
    rows = []
    for segment in segments:
        read = "membrane" if isinstance(network.nodes[segment.end], LI) else "spikes"
        rows.append({
            "into": segment.source, "values": int(np.prod(shapes[segment.source])), "out_of": segment.end, "read": read,
            "values_read": int(np.prod(shapes[segment.end])),
        })
    return rows

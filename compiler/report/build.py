"""Builds the report of a compiled program from the network, its placement and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2e.compiler import cost, energy
from d2e.compiler.data import Data
from d2e.compiler.measure import Measured, comparable
from d2e.compiler.notes import warnings
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.passes.latch_input import LATCH
from d2e.compiler.paths import paths_into
from d2e.compiler.replicas import replicas
from d2e.compiler.report import details
from d2e.compiler.report.cores import core_map
from d2e.compiler.report.graph import graphs
from d2e.compiler.report.remedies import with_way_out
from d2e.compiler.report.report import SCHEMA, Report
from d2e.ir import LI, Network, Neuron
from d2e.ir.reference import Trace


def build_report(
    network: Network, *, target: str, engine: str, bit_exact_with: str | None, source_kinds: Mapping[str, str],
    passes: Sequence[Mapping[str, Any]] = (), source: Measured | None = None, program: Measured | None = None,
    latency: int | None = None, overflows: Mapping[str, int] | None = None, state_bits: int = 0,
    steps: int | None = None, data: Data | None = None, stages: Sequence[tuple[str, Network]] = (),
    sample: Trace | None = None, given: energy.Constants | None = None,
) -> Report:
    """The report of a lowered network.

    Args:
        network: lowered and placed.
        target, engine, bit_exact_with: where the program's figures come from.
        source_kinds: population -> kind in the source network.
        passes: rows of the accuracy table.
        source, program: measured on the same data.
        latency: steps from a frame to its output.
        overflows: population -> states that left their width in the runs measured.
        state_bits: that width.
        steps: per sample, for the rates.
        data: that they were measured on.
        stages: (pass, network) from the source on, for the pictures of what the passes did.
        sample: the trace of the first sample with spikes, replicas apart.
        given: energy constants of the user's.
    """
    placement = network.metadata.get("placement", {})
    synops = _synops(network, program)
    early = _early_exit(network, program, steps)
    ran = early.get("mean_steps", steps)
    source = None if source is None else comparable(source, network)
    layers = [
        {**_layer(network, name, own, placement, source_kinds, program, synops, ran),
         **_drift(network, name, source, program), **({} if program is None else details.overflows(overflows, own))}
        for name, own in replicas(network).items()
    ]
    totals: dict[str, Any] = {key: sum(row[key] for row in layers) for key in ("neurons", "synapses")}
    for key in ("cores", "spikes_per_sample", "synops_per_sample"):
        values = [row[key] for row in layers if key in row]
        if values:
            totals[key] = sum(values)
    if "cores" in placement.get("fit", {}):
        totals["cores"] = placement["fit"]["cores"]["used"]
    if program is not None:
        totals["input_events_per_sample"] = float(program.input_messages.sum())
    if latency is not None:
        totals["latency_steps"] = latency
    conversion = network.metadata.get("conversion", {})
    report: dict[str, Any] = {
        "schema": SCHEMA, "target": target, "engine": {"name": engine, "bit_exact_with": bit_exact_with},
        **_accuracy(passes, source, program, _of_ann(conversion, data)),
        **({"conversion": conversion} if conversion else {}),
        **({"early_exit": early} if early else {}), "layers": layers, "totals": totals,
        **({"fit": placement["fit"], "fit_source": placement["source"]} if "fit" in placement else {}),
        "energy": [] if program is None else energy.estimates(target, energy.activity(network, program), given),
        "warnings": [with_way_out(w) for w in
                     (*warnings(network), *_overflow_warnings(network, overflows or {}, state_bits))],
        **_pictures(network, target, stages, program, data, sample),
    }
    return Report(report)


def _pictures(
    network: Network, target: str, stages: Sequence[tuple[str, Network]], program: Measured | None, data: Data | None,
    sample: Trace | None,
) -> dict[str, Any]:
    """What the page and `d2e inspect` show beside the tables, as far as there are data."""
    found: dict[str, Any] = {
        "energy_published": [] if program is None else energy.published(target), "core_map": core_map(network),
        "histograms": details.histograms(stages), "graph": graphs(network, stages),
        "raster": {} if sample is None or data is None else details.raster(network, data.frames[:1], sample),
    }
    return {key: value for key, value in found.items() if value}


def _of_ann(conversion: Mapping[str, Any], data: Data | None) -> dict[str, float]:
    """The accuracy of the ANN that a network was converted from, where it was measured on these data."""
    found = conversion.get("accuracy", {})
    known = data is not None and bool(found) and found["data_sha256"] == data.fingerprint
    return {"ann": float(found["ann"])} if known else {}


def _accuracy(
    passes: Sequence[Mapping[str, Any]], source: Measured | None, program: Measured | None, ann: Mapping[str, float]
) -> dict[str, Any]:
    if source is None or program is None:
        return {} if program is None or program.accuracy is None else {
            "accuracy": {"passes": list(passes), "program": program.accuracy, "samples": program.samples}
        }
    shares = {} if source.accuracy is None or program.accuracy is None else {
        "source": source.accuracy, "program": program.accuracy
    }
    return {"accuracy": {**ann, **shares, "passes": list(passes), "samples": program.samples}}


def _early_exit(network: Network, program: Measured | None, steps: int | None) -> dict[str, Any]:
    """What the network's early exit saves: steps, spikes of all populations; and the accuracy it would have without."""
    rule = network.output.exit
    if rule is None or program is None or program.spikes_full is None or not steps:
        return {} if rule is None else {"rule": rule.rule}
    mean, sent = float(program.steps.mean()), float(sum(n.sum() for n in program.messages.values()))
    return {
        "rule": rule.rule, "mean_steps": mean, "time_steps": steps, "saved_steps": 1 - mean / steps,
        **({} if program.accuracy_full is None else {"accuracy_full": program.accuracy_full}),
        "spikes_full_per_sample": program.spikes_full,
        "saved_spikes": 1 - sent / program.spikes_full if program.spikes_full else 0.0,
        "steps": np.bincount(program.steps, minlength=steps + 1)[1:].tolist(), **details.accuracy_by_step(program),
    }


def _kind(node: Neuron, kind: str) -> str:
    """What a population is: of this kind in the source, or what a pass added it for."""
    return "always-on" if node.metadata.get(HELPER) else LATCH if node.metadata.get(LATCH) else kind


def _layer(
    network: Network, name: str, own: Sequence[str], placement: Mapping[str, Any], kinds: Mapping[str, str],
    program: Measured | None, synops: Mapping[str, float], steps: float | None,
) -> dict[str, Any]:
    """The row of a population of the source, which ``own`` populations of the lowered network stand for."""
    node = network.neuron(own[0])
    size = sum(cost.neurons(network, n) for n in own)
    row: dict[str, Any] = {
        "name": name, "kind": _kind(node, kinds.get(name, node.kind)),
        "neurons": size, "synapses": sum(cost.synapses(network, n) for n in own),
    }
    form = network.metadata.get("forms", {}).get(name, {}).get("form")
    if form not in (None, "stock"):
        row["form"] = form if len(own) == 1 else f"{len(own)} {form}"
    bits = [
        q.bits for p in paths_into(network, own[0]) for s in p.synapses
        if (q := getattr(network.nodes[s], "quantized", None)) is not None
    ]
    if bits:
        row["weight_bits"] = max(bits)
    if all(n in placement.get("populations", {}) for n in own):
        row["cores"] = sum(placement["populations"][n]["cores"] for n in own)
    if program is not None:
        sent = sum(float(program.messages[n].sum()) for n in own)
        row["synops_per_sample"] = sum(synops[n] for n in own)
        if not isinstance(node, LI):
            row["spikes_per_sample"] = sent
        if steps and not isinstance(node, LI):
            row["rate"] = sent / size / steps
            row |= details.silent_and_full(network, own, program.counts[name], program.steps)
    return row


def _drift(network: Network, name: str, source: Measured | None, program: Measured | None) -> dict[str, float]:
    """How often a population fires in the source, and by what share more or less in the program; bursts of n count n."""
    if source is None or program is None or name not in source.counts or name not in program.counts:
        return {}
    if isinstance(network.nodes.get(name), LI):  # a readout never fires
        return {}
    before, after = (float(found.counts[name].sum()) / found.samples for found in (source, program))
    return {"spikes_source_per_sample": before, **({"drift": after / before - 1} if before else {})}


def _synops(network: Network, program: Measured | None) -> dict[str, float]:
    """Synaptic operations per sample into each population, as far as they were measured."""
    if program is None:
        return {}
    sent = {n: program.messages[n] for n in network.populations if not isinstance(network.nodes[n], LI)}
    return cost.synops(network, {**sent, network.inputs[0]: program.input_messages})


def _overflow_warnings(network: Network, overflows: Mapping[str, int], bits: int) -> list[dict[str, Any]]:
    """One per population of the source: its replicas hold the same charge."""
    counted = {name: max(overflows.get(n, 0) for n in own) for name, own in replicas(network).items()}
    return [
        {"code": "D2E-RANGE-004", "node": name, "message": f"its state left {bits} bits {count} times in the runs measured; "
         "the program is still predicted exactly, but these values wrapped or saturated"}
        for name, count in counted.items() if count
    ]

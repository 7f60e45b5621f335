"""NeuroBench's metrics of a program under NeuroBench's own keys, in exact integers, and ours beside them.

Definitions and every difference from NeuroBench 2.3.0 are in docs/neurobench.md. A metric that cannot be computed is
absent, and ``d2e.absent`` says why; none is ever 0 for want of data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d2e.compiler import cost
from d2e.compiler import data as data_sets
from d2e.compiler.neurobench.layers import Connection, arrays, connections
from d2e.compiler.neurobench.tally import Tally, tally
from d2e.compiler.replicas import replicas
from d2e.ir import LI, Linear, Network, UnsupportedError, UsageError, infer_shapes, linear
from d2e.ir.nodes import Array

if TYPE_CHECKING:
    from d2e.compiler.program import Program

FILE = "neurobench.json"
SCHEMA = 1
_UNMEASURED = "not measured: there were no evaluation data"
_ELSEWHERE = {
    "NeuronOperations": "NeuroBench counts operations of four of snnTorch's neurons alone",
    "MSE": "a regression metric", "SMAPE": "a regression metric", "R2": "a regression metric",
    "CocoMap": "a metric of object detection",
}
_WORKLOAD = (
    "ClassificationAccuracy", "ActivationSparsity", "ActivationSparsityByLayer", "SynapticOperations", "MembraneUpdates",
    "OnChipSpikes", "OnChipSpikesByLayer",
)


def metrics(program: Program, data: data_sets.Source | None = None, *, engine: str | None = None) -> dict[str, Any]:
    """The metrics of a program, and on data those of its runs.

    Args:
        program: a program of one chip part.
        data: frames and labels, as `Program.evaluate` takes them; None: the static metrics alone.
        engine: as in `Program.run`.

    Returns:
        NeuroBench's keys, and ``d2e``: our metrics, what was run, and why a key is absent.

    Raises:
        UnsupportedError: D2E-NB-002 for a program of which a part runs on the host.
        UsageError, MissingError: as `Program.evaluate`.
    """
    network = program.network
    if network.hosts:
        raise on_the_host(network)
    found, absent = _static(network)
    absent |= _ELSEWHERE
    own: dict[str, Any] = {"schema": SCHEMA}
    if data is None:
        return {**found, "d2e": {**own, "absent": {**dict.fromkeys(_WORKLOAD, _UNMEASURED), **absent}}}
    name = engine or program.target.predictor
    program.target.prepare(network, name)
    counted = tally(program, data_sets.fit(data_sets.load(data), network), name)
    chip = getattr(program.target, "hardware", False) and name == program.target.engines[0]
    own |= {"engine": name, "label": "measured" if chip else "simulated", "samples": counted.samples}
    for table, part in ((found, _workload(network, counted, absent)), (own, _on_chip(network, counted))):
        table |= part
    return {**found, "d2e": {**own, "absent": absent}}


def text(program: Program) -> str:
    """What the file of a saved program holds: as it was loaded, or of the data it was compiled with, or static metrics."""
    kept = None if program.folder is None else program.folder / FILE
    if program.evaluation is None and kept is not None and kept.is_file():
        return kept.read_text(encoding="utf-8")
    return as_json(metrics(program, program.evaluation))


def as_json(found: Mapping[str, Any]) -> str:
    """Metrics as the text of a file."""
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def read(folder: str | Path) -> dict[str, Any]:
    """The metrics in a program's folder.

    Raises:
        UsageError: D2E-LOAD-020 for a folder without.
    """
    try:
        found: dict[str, Any] = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("D2E-LOAD-020", f"{folder} holds no {FILE}: {getattr(error, 'strerror', None) or error}",
                         hint="Name the folder of a program.") from None
    return found


def on_the_host(network: Network) -> UnsupportedError:
    """The error for a network of which a part runs on the host."""
    return UnsupportedError("D2E-NB-002", "a part of the network runs on the host, which NeuroBench does not know",
                            node=network.hosts[0], hint="Take its parts on the chip, program.segments.")


# --------------------------------------------------------------------------- static


def _static(network: Network) -> tuple[dict[str, Any], dict[str, str]]:
    held = [arrays(node) for node in network.nodes.values()]
    weights = [node.weight for node in connections(network).values()]
    found: dict[str, Any] = {
        "Footprint": sum(a.nbytes for pair in held for table in pair for a in table.values()),
        "ParameterCount": sum(a.size for parameters, _ in held for a in parameters.values()),
    }
    total = sum(w.size for w in weights)
    if not total:
        return found, {"ConnectionSparsity": "the network has no weights"}
    zeros = sum(int(w.size - np.count_nonzero(w)) for w in weights)
    return {**found, "ConnectionSparsity": round(zeros / total, 4)}, {}


# --------------------------------------------------------------------------- of runs


def _workload(network: Network, counted: Tally, absent: dict[str, str]) -> dict[str, Any]:
    """NeuroBench's keys; fills in why others are absent."""
    found: dict[str, Any] = {"SynapticOperations": _operations(network, counted)}
    if counted.correct is None:
        absent["ClassificationAccuracy"] = "the data have no labels"
    else:
        found["ClassificationAccuracy"] = counted.correct / counted.samples
    places = {name: size * counted.steps for name, size in counted.neurons.items()}
    if places:
        found["ActivationSparsity"] = 1 - sum(counted.active.values()) / sum(places.values())
        found["ActivationSparsityByLayer"] = {name: 1 - counted.active[name] / size for name, size in places.items()}
    else:
        absent |= dict.fromkeys(("ActivationSparsity", "ActivationSparsityByLayer"), "the network has no neurons that fire")
    if counted.updates is None:
        absent["MembraneUpdates"] = counted.why_no_states
    elif places:
        found["MembraneUpdates"] = counted.updates / counted.samples
    else:
        absent["MembraneUpdates"] = "the network has no neurons that fire"
    return found


def _operations(network: Network, counted: Tally) -> dict[str, float]:
    """Per sample: spikes and payloads times the weights other than 0 that they reach, and all inputs times all weights."""
    shapes = infer_shapes(network)
    totals = {"Effective_MACs": 0, "Effective_ACs": 0, "Dense": 0}
    for name, node in connections(network).items():
        for key, reached in (("Effective_ACs", counted.plain[name]), ("Effective_MACs", counted.payloads[name])):
            totals[key] += int(_reach(node, reached))
        totals["Dense"] += cost.connections([node], shapes[network.incoming[name][0].source]) * counted.steps
    return {key: value / counted.samples for key, value in totals.items()}


def _reach(node: Connection, reached: Array) -> int:
    """Inputs [*shape] times the weights other than 0 that each reaches."""
    ones = (node.weight != 0).astype(np.int64)
    binary = Linear(weight=ones) if isinstance(node, Linear) else replace(node, weight=ones, bias=None)
    return int(linear.apply(binary, reached[None], reached.shape).sum())


def _on_chip(network: Network, counted: Tally) -> dict[str, Any]:
    """Messages per sample that the chip's neurons send, those of replicas and helpers too."""
    layers = {
        name: math.fsum(counted.messages[n] for n in own) / counted.samples
        for name, own in replicas(network).items() if not isinstance(network.neuron(own[0]), LI)
    }
    return {"OnChipSpikes": sum(counted.messages[n] for n in network.populations) / counted.samples,
            "OnChipSpikesByLayer": layers}

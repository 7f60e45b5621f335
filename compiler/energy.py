"""Energy: published constants with their sources, and what they make of activity that was measured.

An estimate is a sum over kinds of operations, per sample::

    value_j = sum over kinds of count(kind) * constant(kind)

No energy per operation is published for Loihi 2 (only that it is faster than Loihi 1) nor for Speck. So Loihi 2 gets Loihi
1's constants, as a proxy that says so, and Speck none; what was published of whole systems stands beside, never multiplied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from d2e.compiler import cost
from d2e.compiler.measure import EVENTS, Measured
from d2e.compiler.paths import Path as Chain
from d2e.compiler.paths import paths_from
from d2e.ir import LI, Conv1d, Conv2d, MultiThreshold, Network, Neuron, UsageError, infer_shapes

KINDS: dict[str, str] = {
    "synops": "synaptic operations: spikes times the synapses they reach",
    "conv_synops": "those through convolutions",
    "dense_synops": "all other synaptic operations",
    "additions": "synaptic operations of single spikes",
    "multiplications": "synaptic operations of payloads, real values of the input among them, at every step",
    "updates": "neuron updates: neurons times steps; on a chip that lives by events its synaptic operations",
    "spikes": "spikes that neurons send, a graded one counted once",
}
GIVEN = "given"
"""Name of the estimate by the user's own constants."""
_MOST_J = 1e-3
"""No operation of a chip takes as much: a larger constant was meant in other units."""


@dataclass(frozen=True)
class Constants:
    """Joules per operation, from one source.

    Attributes:
        name: of the estimate.
        joules: kind of `KINDS` -> J.
        source: where they are published.
        note: what they leave out.
        targets: first letters of the targets they stand for; empty: of no chip, every target is compared by them.
    """

    name: str
    joules: Mapping[str, float]
    source: str
    note: str = ""
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A figure of a whole chip or board, for the order of size; nothing is computed from it.

    Attributes:
        what: is stated.
        value, unit: J or W.
        label: how its authors got it.
        source: of the figure.
        targets: as in `Constants`.
    """

    what: str
    value: float
    unit: str
    label: str
    source: str
    targets: tuple[str, ...]


ADDITION_J, MULTIPLICATION_J = 0.9e-12, 4.6e-12
"""32-bit floating point in 45 nm, a multiplication with its addition, as conversion papers take them (Horowitz, "Computing's
energy problem", ISSCC 2014)."""
SOURCE = "0.9 pJ an addition, 4.6 pJ a multiplication; 45 nm, Horowitz 2014; of no chip"
_PROXY = "Loihi 1 constants as a proxy, none are published for Loihi 2"

CONSTANTS: tuple[Constants, ...] = (
    Constants(
        "Loihi 1, stated", {"synops": 23.6e-12, "updates": 81e-12, "spikes": 1.7e-12},
        f"{_PROXY}: Davies et al., IEEE Micro 2018, table 2, from simulated circuits before silicon",
        "every update as an active one (inactive: 52 pJ), spikes within a tile; no static power", ("loihi2",),
    ),
    Constants(
        "Loihi 1, fitted",
        {"conv_synops": 24.0e-12, "dense_synops": 35.5e-12, "updates": 51.2e-12 + 21.6e-12, "spikes": 69.3e-12 + 111e-12},
        f"{_PROXY}: SANA-FE, arch/loihi.yaml, fitted to measurements of Nahuku boards",
        "one message a spike, no hops between tiles, no static power", ("loihi2",),
    ),
    Constants("45 nm", {"additions": ADDITION_J, "multiplications": MULTIPLICATION_J}, SOURCE,
              "as papers count; real values multiply at every step, zeros never"),
)

_FRADY = "derived in Frady et al. 2020"
_PILOTNET = "lava-dl notebooks, PilotNet on Loihi 2"
_RAILS = "Speck devkit at rest, power rails, sinabs' power_monitoring.ipynb"
_YAO = "Yao et al., Nature Communications 2024, 10.1038/s41467-024-47811-6, table 1"
PUBLISHED: tuple[Published, ...] = (
    Published("PilotNet, leaky neurons, 16 steps: per inference", 1.66e-3, "J", "measured", _PILOTNET, ("loihi2",)),
    Published("of that, dynamic", 1.09e-3, "J", "measured", _PILOTNET, ("loihi2",)),
    Published("the same: power", 0.679, "W", "measured", _PILOTNET, ("loihi2",)),
    Published("of that, static", 0.232, "W", "measured", _PILOTNET, ("loihi2",)),
    Published("PilotNet, sigma-delta neurons: power, bound by input and output", 0.276, "W", "measured", _PILOTNET,
              ("loihi2",)),
    Published("static power of a Loihi 1 chip", 0.104, "W", "estimated", _FRADY, ("loihi2",)),
    Published("rail IO", 61.7e-6, "W", "measured", _RAILS, ("speck",)),
    Published("rail RAM", 51.7e-6, "W", "measured", _RAILS, ("speck",)),
    Published("rail LOGIC", 367.0e-6, "W", "measured", _RAILS, ("speck",)),
    Published("rail PIXEL_DIGITAL", 78.9e-6, "W", "measured", _RAILS, ("speck",)),
    Published("rail PIXEL_ANALOG", 610.9e-6, "W", "measured", _RAILS, ("speck",)),
    Published("processor at rest", 0.42e-3, "W", "measured", _YAO, ("speck",)),
    Published("DVS gestures, a plain network: power", 9.5e-3, "W", "measured", _YAO, ("speck",)),
    Published("DVS gestures, a network with less activity: power", 3.8e-3, "W", "measured", _YAO, ("speck",)),
)

Given: TypeAlias = "Mapping[str, Any] | str | os.PathLike[str]"


def activity(network: Network, found: Measured) -> dict[str, float]:
    """Operations per sample of every kind of `KINDS`.

    Args:
        network: lowered.
        found: measured of it.
    """
    shapes, counts = infer_shapes(network), dict.fromkeys(KINDS, 0.0)
    sent = {n: found.messages[n] for n in network.populations if not isinstance(network.nodes[n], LI)}
    for source, spikes in {network.inputs[0]: found.input_messages, **sent}.items():
        counts["spikes"] += float(spikes.sum()) if source in sent else 0.0
        kind = "multiplications" if _graded(network, source) else "additions"
        for chain in paths_from(network, source):
            if chain.target not in network.populations:
                continue
            synops = float((spikes * cost.path_fan_out(network, chain, shapes)).sum())
            for each in ("synops", kind, "conv_synops" if _convolves(network, chain) else "dense_synops"):
                counts[each] += synops
    neurons = sum(cost.neurons(network, name) for name in network.populations)
    counts["updates"] = counts["synops"] if network.metadata.get(EVENTS) else neurons * float(np.mean(found.steps))
    return counts


def _graded(network: Network, name: str) -> bool:
    """Whether what a node sends multiplies weights, not only adds them."""
    node = network.nodes[name]
    if isinstance(node, Neuron):
        return isinstance(node, MultiThreshold) or node.max_spikes != 1
    valued = network.input.coding == "direct" or network.input.max_payload != 1
    return valued and not network.metadata.get(EVENTS)


def _convolves(network: Network, chain: Chain) -> bool:
    return any(isinstance(network.nodes[s], (Conv1d, Conv2d)) for s in chain.synapses)


def estimates(target: str, counts: Mapping[str, float], given: Constants | None = None) -> list[dict[str, Any]]:
    """Rows of report["energy"]: per set of constants that stands for a target, and of the user's own.

    Args:
        target: its name.
        counts: of `activity`.
        given: of `own`.
    """
    every = [c for c in CONSTANTS if not c.targets or target.startswith(c.targets)]
    return [_row(c, counts) for c in ([given] if given else []) + every]


def _row(constants: Constants, counts: Mapping[str, float]) -> dict[str, Any]:
    parts = [{"kind": kind, "count": counts[kind], "each_j": each}
             for kind, each in constants.joules.items() if counts[kind]]
    return {
        "of": constants.name, "value_j": sum(counts[kind] * each for kind, each in constants.joules.items()),
        "label": "estimated", "source": constants.source, **({"note": constants.note} if constants.note else {}),
        "parts": parts,
    }


def published(target: str) -> list[dict[str, Any]]:
    """Rows of report["energy_published"]."""
    return [{"what": p.what, "value": p.value, "unit": p.unit, "label": p.label, "source": p.source}
            for p in PUBLISHED if target.startswith(p.targets)]


def summed(parts: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The estimates of several programs that run one after the other, by their names; one that a part lacks is left out."""
    found: list[dict[str, Any]] = []
    for row in parts[0] if parts else []:
        same = [own for part in parts for own in part if own["of"] == row["of"]]
        if len(same) == len(parts):
            listed = {part["kind"]: part for own in same for part in own["parts"]}
            joined = [{**part, "count": sum(p["count"] for own in same for p in own["parts"] if p["kind"] == kind)}
                      for kind, part in listed.items()]
            note = "; ".join(filter(None, (row.get("note"), "of what runs on the chip alone")))
            found.append({**row, "value_j": sum(own["value_j"] for own in same), "note": note, "parts": joined})
    return found


def own(given: Given | None) -> Constants | None:
    """The user's constants: of a JSON file or a mapping, kinds of `KINDS` in joules, ``source`` and maybe ``note``.

    Raises:
        UsageError: D2E-ENERGY-001 for a file that cannot be read, D2E-ENERGY-002 for what is no constant or has no source.
    """
    if given is None:
        return None
    table = dict(_read(given))
    source, note = table.pop("source", None), table.pop("note", "")
    if not (isinstance(source, str) and source and isinstance(note, str)):
        raise UsageError("D2E-ENERGY-002", "energy constants do not say where they are from",
                         hint='Add "source": "…", which the report shows.')
    wrong = [kind for kind, value in table.items() if kind not in KINDS or not _is_joules(value)]
    if wrong or not table:
        raise UsageError("D2E-ENERGY-002", f"{wrong[0]!r} is no energy of an operation" if wrong else
                         "there is no constant among the energy constants",
                         hint=f"Joules, 0 or more and below {_MOST_J:g} (23.6 pJ: 23.6e-12), of {', '.join(KINDS)}.")
    return Constants(GIVEN, {kind: float(value) for kind, value in table.items()}, source, note)


def _is_joules(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MOST_J


def _read(given: Given) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("D2E-ENERGY-001", f"energy constants {given} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise UsageError("D2E-ENERGY-001", f"energy constants {given} are no JSON", hint=_HINT) from None
    if not isinstance(found, dict):
        raise UsageError("D2E-ENERGY-001", f"energy constants {given} are no JSON object", hint=_HINT)
    return found


_HINT = 'Write {"source": "our board", "synops": 2e-12}.'

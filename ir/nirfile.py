"""`.nir` files: our networks as standard NIR nodes, our meaning in `metadata["d2e"]`; and any NIR file back.

Files follow nir 1.0.8's HDF5 layout and are written with h5py alone, so that one network always gives the
same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d2e.ir import nirspyx
from d2e.ir.errors import UnsupportedError, UsageError
from d2e.ir.network import Edge, Network
from d2e.ir.nirforeign import foreign_nodes
from d2e.ir.nirgraph import Edges, batch_axes, close_cycles, flattened, one_end_each, settle_shapes
from d2e.ir.nirhdf5 import read_tree
from d2e.ir.nirnodes import SCHEMA, decode, plain, standard_differs, to_tree
from d2e.ir.nirprofile import Choices
from d2e.ir.nirstandard import Tree
from d2e.ir.nirtraits import resolved
from d2e.ir.nodes import Node, Shape
from d2e.ir.shapes import infer_shapes
from d2e.ir.verify import verified

NIR_VERSION = "1.0.8"
VERSIONS = ("1.0.4", NIR_VERSION)
_METADATA_IN_1_0_4 = ("NIRGraph", "Affine", "Conv1d", "Delay", "Flatten", "SumPool2d", "IF", "LI", "LIF", "CubaLIF")
_COMPRESSED_FROM = 256


# --------------------------------------------------------------------------- writing


def write(network: Network, path: str | os.PathLike[str], *, compat: str = NIR_VERSION) -> None:
    """Write a network as a `.nir` file that every NIR tool opens and that `read` gives back exactly.

    The same network gives the same bytes. The file appears whole or not at all.

    Args:
        network: a valid one.
        path: of the file.
        compat: version of the nir package that shall read it, one of ``VERSIONS``; sinabs 3.1.3 needs "1.0.4".

    Raises:
        UsageError: D2E-FILE-001 where the file cannot be written, -004 for metadata that are not plain JSON, D2E-NIR-001
            for an unknown version.
        UnsupportedError: the network is not valid (`verify`); D2E-NIR-008 where that version cannot say it.
    """
    tree = network_tree(network)
    if compat not in VERSIONS:
        raise UsageError("D2E-NIR-001", f"--nir-compat {compat!r} is not known", hint=f"Known: {', '.join(VERSIONS)}.")
    if compat != NIR_VERSION:
        tree = _for_1_0_4(tree)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        _write_file(temporary, {"version": compat, "node": tree})
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(
            "D2E-FILE-001", f"cannot write {str(target)!r}: {_reason(error)}",
            hint="Choose a folder that exists and is writable.",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def network_tree(network: Network) -> Tree:
    """The network as the nested dictionary that ``nir.NIRGraph.from_dict`` takes and a `.nir` file holds."""
    shapes = infer_shapes(verified(network))
    dt = _written_dt(network)
    facts = {
        "schema": SCHEMA, "dt": dt, "nodes": list(network.nodes), "metadata": plain(network.metadata),
        "recurrent": [[e.source, e.target] for e in network.edges if e.recurrent],
    }
    frames = {name: _frame(network, shapes, name) for name in network.nodes}
    return {
        "type": "NIRGraph",
        "nodes": {name: to_tree(node, frames[name], dt) for name, node in network.nodes.items()},
        "edges": [(e.source, e.target) for e in network.edges],
        "metadata": {"d2e": {"json": json.dumps(facts, sort_keys=True)}},
    }


def _for_1_0_4(tree: Tree) -> Tree:
    """The graph as nir 1.0.4 reads it: no v_reset, no CubaLI, our metadata in the graph where a node may have none.

    From the classes of nir 1.0.4: v_reset and CubaLI came with 1.0.6, and Input, Output, Linear, Conv2d, Scale and
    AvgPool2d take no metadata there.
    """
    nodes: Tree = {}
    moved: Tree = {}
    for name, node in tree["nodes"].items():
        reason = _refused_by_1_0_4(node)
        if reason:
            raise UnsupportedError("D2E-NIR-008", reason, node=name, hint="Write it for a newer nir.")
        nodes[name] = {key: value for key, value in node.items() if key != "v_reset"}
        if node["type"] not in _METADATA_IN_1_0_4:
            moved[name] = nodes[name].pop("metadata")["d2e"]
    return {**tree, "nodes": nodes, "metadata": {**tree["metadata"], "d2e_nodes": moved}}


def _refused_by_1_0_4(node: Tree) -> str | None:
    if np.any(node.get("v_reset", 0.0)):
        return "resets to a value other than 0, which nir 1.0.4 has no field for"
    if node["type"] == "CubaLI":
        return "is a readout with a synaptic state, CubaLI, which nir 1.0.4 does not have"
    if node["type"] == "Conv1d" and isinstance(node["padding"], str):
        return f"pads by {node['padding']!r}, on which nir 1.0.4 fails in one dimension"
    return None


def _written_dt(network: Network) -> float:
    """Seconds per step that the standard fields are written for: the input's, or 1 (time in steps)."""
    return float(network.input.dt or 1.0)


def _frame(network: Network, shapes: Mapping[str, Shape], name: str) -> Shape:
    """Shape of what arrives at a node; what it sends, where nothing does."""
    into = network.incoming[name]
    return shapes[into[0].source if into else name]


def _write_file(path: Path, tree: Tree) -> None:
    import h5py

    with h5py.File(path, "w", track_order=False) as file:
        _write_group(file, tree)


def _write_group(group: Any, tree: Tree) -> None:
    import h5py

    for name, value in tree.items():
        if isinstance(value, dict):
            _write_group(group.create_group(name), value)
        elif isinstance(value, (str, list)):
            group.create_dataset(name, data=value, dtype=h5py.string_dtype(), track_times=False)
        elif isinstance(value, np.ndarray) and value.size >= _COMPRESSED_FROM:
            group.create_dataset(name, data=value, dtype=value.dtype, compression="gzip", track_times=False)
        else:
            group.create_dataset(name, data=value, track_times=False)


# --------------------------------------------------------------------------- reading


def read(
    path: str | os.PathLike[str], *, profile: str | None = None, dt: float | None = None,
    reset: str | None = None, fire: str | None = None, max_spikes: int | None = None,
    time_steps: int | None = None,
) -> Network:
    """Read a `.nir` file.

    A file that d2e wrote comes back exactly. Any other file leaves choices open that change what the network
    computes: a profile and the flags settle them, a flag going before the profile, never a guess.
    Neurons of such a file carry `Continuous` time constants until the discretise pass.

    Args:
        path: the file.
        profile: the convention of the tool that wrote it, one of ``nirprofile.PROFILES``, with its options in braces;
            None: the tool whose traits alone the file has, which the network's warnings then name.
        dt: seconds per time step.
        reset: "subtract", "zero", "value" (to v_reset) or "none"; "subtract-next" acts one step later.
        fire: "ge" (v >= threshold) or "gt" (v > threshold).
        max_spikes: most spikes per neuron and step, 0 for no limit.
        time_steps: steps per sample, noted in the Input.

    Raises:
        UsageError: D2E-FILE-002 for a file that cannot be opened, -003 for one that is not whole HDF5;
            D2E-NIR-001 for an unknown profile or value, -002 with all open choices, -003 for no NIR graph,
            -005 for damaged d2e metadata, -006 for sizes beyond all bounds, -007 for a flag against the file.
        UnsupportedError: D2E-NIR-004 for what d2e has no node for; `verify`'s codes for a network without
            meaning.
    """
    choices = Choices(profile, dt, reset, fire, max_spikes)
    tree = read_tree(Path(path))
    version = tree.get("version")
    choices = replace(choices, version=version if isinstance(version, str) else None)
    return network_from_tree(tree.get("node"), choices, time_steps)


def network_from_tree(tree: Any, choices: Choices, time_steps: int | None = None) -> Network:
    """The network of a NIR graph as nested dictionaries (``nir.NIRGraph.to_dict()`` or a file's contents)."""
    nodes, edges = flattened(tree)
    facts = _graph_facts(tree)
    nodes = _with_moved_metadata(nodes, tree)
    ours = {name for name, node in nodes.items() if _is_ours(node)}
    found = {name: decode(nodes[name], name) for name in ours}
    if len(ours) < len(nodes):
        return _with_input(_foreign(nodes, edges, found, facts, choices), choices, time_steps)
    choices.refuse_against_file()
    network = _joined(found, edges, facts)
    verified(network)
    _check_unedited(network, nodes, ours, facts.get("dt") or _written_dt(network))
    return _with_input(network, choices, time_steps)


def _is_ours(node: Tree) -> bool:
    metadata = node.get("metadata")
    return isinstance(metadata, dict) and "d2e" in metadata


def _with_moved_metadata(nodes: dict[str, Tree], tree: Tree) -> dict[str, Tree]:
    """Nodes whose metadata stand in the graph's, as in files for nir 1.0.4, with their metadata."""
    metadata = tree.get("metadata")
    moved = metadata.get("d2e_nodes") if isinstance(metadata, dict) else None
    held = moved if isinstance(moved, dict) else {}
    return {
        name: {**node, "metadata": {"d2e": held[name]}} if name in held and not _is_ours(node) else node
        for name, node in nodes.items()
    }


def _joined(found: Mapping[str, Node], edges: Edges, facts: Tree) -> Network:
    """The network of these nodes, in the order and with the recurrent edges that the graph's metadata state."""
    first = [name for name in facts.get("nodes", ()) if name in found]
    ordered = {name: found[name] for name in dict.fromkeys([*first, *found])}
    if "recurrent" not in facts:
        return Network(ordered, close_cycles(ordered, edges))
    held = set(facts["recurrent"])
    return Network(ordered, tuple(Edge(*e, tuple(e) in held) for e in edges), facts["metadata"])


def _foreign(nodes: dict[str, Tree], edges: Edges, ours: Mapping[str, Node], facts: Tree, choices: Choices) -> Network:
    """The network of a file with nodes of another tool."""
    one_end_each(nodes)
    others = {name: node for name, node in nodes.items() if name not in ours}
    choices, fitting, notes = resolved(others, edges, choices)
    if choices.name == "spyx":
        others, edges = nirspyx.adapted({**others}, edges, choices)
    extra = batch_axes(others, edges)
    for name, node in others.items():
        if extra and node["type"] == "Input":
            others[name] = {**node, "shape": np.ravel(node["shape"])[extra:]}
            shape = np.ravel(node["shape"]).tolist()
            message = f"the input's shape is {shape}; {shape[:extra]} is a sample's batch, not part of a frame"
            notes.append({"code": "D2E-NIR-013", "message": message, "node": name})
    network = _joined({**ours, **foreign_nodes(others, choices, fitting)}, edges, facts)
    network = settle_shapes(network, set(others))
    verified(network)
    if ours:
        _check_unedited(network, nodes, set(ours), facts.get("dt") or _written_dt(network))
    name = network.inputs[0]
    if choices.dt is None and choices.seconds is not None:
        network = network.with_nodes({name: replace(network.input, dt=choices.seconds)})
    return network.with_metadata(warnings=[*network.metadata.get("warnings", ()), *notes]) if notes else network


def _graph_facts(tree: Any) -> Tree:
    metadata = tree.get("metadata")
    extra = metadata.get("d2e") if isinstance(metadata, dict) else None
    if extra is None:
        return {}
    try:
        facts = json.loads(extra["json"])
        pairs = [(str(source), str(target)) for source, target in facts["recurrent"]]
        names, own = [str(name) for name in facts["nodes"]], dict(facts["metadata"])
        if facts["schema"] == SCHEMA:
            return {"nodes": names, "recurrent": pairs, "metadata": own, "dt": float(facts["dt"])}
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError):
        pass
    raise UsageError(
        "D2E-NIR-005", f"the graph's d2e metadata do not follow schema {SCHEMA}",
        hint="Write the file again with this d2e.",
    )


def _with_input(network: Network, choices: Choices, time_steps: int | None) -> Network:
    """The network with ``dt`` and ``time_steps`` noted in its Input."""
    name = network.inputs[0]
    node = network.input
    if choices.dt is not None and node.dt not in (None, choices.dt):
        raise UsageError(
            "D2E-NIR-007", f"the file states dt = {node.dt}, not {choices.dt}", node=name,
            hint="Leave --dt out.",
        )
    changed = replace(
        node, dt=node.dt if choices.dt is None else choices.dt,
        time_steps=node.time_steps if time_steps is None else time_steps,
    )
    return network.with_nodes({name: changed})


def _check_unedited(network: Network, trees: Tree, ours: set[str], dt: float) -> None:
    """Refuse a file whose standard fields another tool changed: its d2e metadata would undo the change."""
    shapes = infer_shapes(network)
    for name in sorted(ours):
        field = standard_differs(trees[name], network.nodes[name], _frame(network, shapes, name), dt)
        if field:
            raise UsageError(
                "D2E-NIR-005", f"{field!r} and the d2e metadata disagree: another tool changed the file",
                node=name, hint="Remove the d2e metadata of the node, or write the file again.",
            )


def _reason(error: OSError) -> str:
    return error.strerror or str(error).splitlines()[0]

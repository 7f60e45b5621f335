"""`.nir` files: our networks as standard NIR nodes, our meaning in `metadata["d2e"]`; and any NIR file back.

Files follow nir 1.0.8's HDF5 layout and are written with h5py alone, so that one network always gives the
same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d2e.ir.errors import UsageError
from d2e.ir.network import Edge, Network
from d2e.ir.nirgraph import close_cycles, flattened, malformed, settle_shapes
from d2e.ir.nirnodes import SCHEMA, Tree, decode, plain, standard_differs, to_tree
from d2e.ir.nirprofile import Choices, foreign_nodes
from d2e.ir.nodes import Shape
from d2e.ir.shapes import infer_shapes
from d2e.ir.verify import verified

NIR_VERSION = "1.0.8"
MAX_BYTES = 1 << 34
_MAX_DEPTH = 32
_COMPRESSED_FROM = 256


# --------------------------------------------------------------------------- writing


def write(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network as a `.nir` file that every NIR tool opens and that `read` gives back exactly.

    The same network gives the same bytes. The file appears whole or not at all.

    Raises:
        UsageError: D2E-FILE-001 where the file cannot be written, -004 for metadata that are not plain JSON.
        UnsupportedError: the network is not valid (`verify`).
    """
    tree = network_tree(network)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        _write_file(temporary, {"version": NIR_VERSION, "node": tree})
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
        profile: the convention of the tool that wrote it, one of ``nirprofile.PROFILES``.
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
    return network_from_tree(_read_file(Path(path)).get("node"), choices, time_steps)


def network_from_tree(tree: Any, choices: Choices, time_steps: int | None = None) -> Network:
    """The network of a NIR graph as nested dictionaries (``nir.NIRGraph.to_dict()`` or a file's contents)."""
    nodes, edges = flattened(tree)
    ours = {name for name, node in nodes.items() if "d2e" in node.get("metadata", {})}
    facts = _graph_facts(tree)
    found = {name: decode(nodes[name], name) for name in ours}
    found |= foreign_nodes({name: node for name, node in nodes.items() if name not in ours}, choices)
    first = [name for name in facts.get("nodes", ()) if name in found]
    ordered = {name: found[name] for name in dict.fromkeys([*first, *found])}
    if "recurrent" in facts:
        held = {(source, target) for source, target in facts["recurrent"]}
        network = Network(ordered, tuple(Edge(*e, tuple(e) in held) for e in edges), facts["metadata"])
    else:
        network = Network(ordered, close_cycles(ordered, edges))
    if len(ours) < len(found):
        network = settle_shapes(network, set(found) - ours)
    verified(network)
    if ours:
        _check_unedited(network, nodes, ours, facts.get("dt") or _written_dt(network))
    if len(ours) == len(found):
        choices.refuse_against_file()
    return _with_input(network, choices, time_steps)


def _graph_facts(tree: Any) -> Tree:
    extra = tree.get("metadata", {}).get("d2e") if isinstance(tree, dict) else None
    if extra is None:
        return {}
    try:
        facts = json.loads(extra["json"])
        if facts["schema"] == SCHEMA and facts.keys() >= {"nodes", "recurrent", "metadata", "dt"}:
            return dict(facts)
    except (KeyError, TypeError, ValueError):
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


def _read_file(path: Path) -> Tree:
    import h5py

    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(
            "D2E-FILE-002", f"cannot read {str(path)!r}: {_reason(error)}", hint="Check the path."
        ) from None
    try:
        with h5py.File(path, "r") as file:
            return _read_group(file, [MAX_BYTES], 0)
    except (OSError, RuntimeError, KeyError, ValueError, MemoryError) as error:
        raise UsageError(
            "D2E-FILE-003", f"{str(path)!r} is not a whole HDF5 file ({str(error).splitlines()[0][:120]})",
            hint="Copy or export it again.",
        ) from None


def _read_group(group: Any, budget: list[int], depth: int) -> Tree:
    import h5py

    tree: Tree = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
            tree[name] = _read_group(item, budget, depth + 1)
        elif isinstance(item, h5py.Dataset):
            budget[0] -= math.prod(item.shape or ()) * item.dtype.itemsize
            if budget[0] < 0:
                raise UsageError(
                    "D2E-NIR-006", f"the file holds more than {MAX_BYTES >> 30} GiB of numbers", node=name,
                    hint="Is a shape in it wrong?",
                )
            value = item[()]
            tree[name] = value.decode("utf-8") if isinstance(value, bytes) else value
        else:
            raise malformed(f"{item!r} is no part of a NIR graph", name)
    return tree


def _reason(error: OSError) -> str:
    return error.strerror or str(error).splitlines()[0]

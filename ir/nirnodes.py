"""One node of ours as a standard NIR node and back: fields any NIR tool reads (`nirstandard`), plus `metadata["d2e"]`.

The metadata hold what NIR cannot say, so that a node comes back exactly. Weights stand in the standard fields only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from d2e.ir.encoding import Encoder
from d2e.ir.errors import UsageError
from d2e.ir.exit import EarlyExit
from d2e.ir.nirstandard import Tree, standard
from d2e.ir.nodes import KINDS, Continuous, Conv1d, Conv2d, FixedPoint, Linear, Node, Quantized, Shape

SCHEMA = 1
_WEIGHTED = (Linear, Conv1d, Conv2d)
_PARTS: dict[str, Any] = {cls.__name__: cls for cls in (Quantized, FixedPoint, Continuous, Encoder, EarlyExit)}


def to_tree(node: Node, frame: Shape, dt: float) -> Tree:
    """A node as the dictionary of a standard NIR node.

    Args:
        node: of a verified network.
        frame: shape of what arrives at it (what it sends, for an Input).
        dt: seconds per step that the time constants are written for.

    Returns:
        "type", the fields of that type, and "metadata".
    """
    return {**standard(node, frame, dt), "metadata": {"d2e": _encode(node)}}


# --------------------------------------------------------------------------- metadata


def _encode(node: Node) -> Tree:
    """A node as one JSON string and the arrays it refers to (scalars stand in the JSON)."""
    arrays: Tree = {}
    shared = ("weight", "bias") if isinstance(node, _WEIGHTED) else ()
    facts: Tree = {}
    for f in fields(node):
        value = getattr(node, f.name)
        if f.name in shared and value is not None:
            facts[f.name] = {"standard": list(value.shape)}
        elif f.name != "metadata":
            facts[f.name] = _encode_value(value, f.name, arrays)
    text = {"schema": SCHEMA, "kind": node.kind, "fields": facts, "metadata": plain(node.metadata)}
    return {"json": json.dumps(text, sort_keys=True), **arrays}


def _encode_value(value: Any, name: str, arrays: Tree) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return {"dtype": value.dtype.str, "value": value.item()}
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if is_dataclass(value) and not isinstance(value, type):
        parts = ((f.name, getattr(value, f.name)) for f in fields(value))
        inner = {part: _encode_value(v, f"{name}.{part}", arrays) for part, v in parts}
        return {"class": type(value).__name__, "fields": inner}
    if isinstance(value, tuple):
        return [int(v) for v in value]
    return value


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata, if they survive JSON.

    Raises:
        UsageError: D2E-FILE-004 where they hold something other than plain JSON values.
    """
    facts = dict(metadata)
    try:
        if json.loads(json.dumps(facts)) == facts:
            return facts
    except (TypeError, ValueError):
        pass
    raise UsageError(
        "D2E-FILE-004", f"metadata {sorted(map(str, facts))} are not plain JSON values",
        hint="Keep dictionaries with text keys, lists, text, numbers, booleans and None.",
    )


def decode(tree: Tree, name: str) -> Node:
    """The node that `to_tree` made this of.

    Args:
        tree: the dictionary of a standard node with ``metadata["d2e"]``.
        name: of the node, for messages.

    Raises:
        UsageError: D2E-NIR-005 where the metadata do not describe a node of this version.
    """
    extra = tree["metadata"]["d2e"]
    try:
        text = json.loads(extra["json"])
        if text["schema"] != SCHEMA:
            raise UsageError(
                "D2E-NIR-005", f"its metadata follow schema {text['schema']}, this d2e reads {SCHEMA}",
                node=name, hint="Read it with the d2e that wrote it.",
            )
        values = {field: _decode_value(v, field, tree, extra) for field, v in text["fields"].items()}
        node: Node = _made(KINDS[text["kind"]], {**values, "metadata": text["metadata"]})
        return node
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise UsageError(
            "D2E-NIR-005", f"its d2e metadata cannot be read ({type(error).__name__}: {error})", node=name,
            hint="Write the file again, or remove its d2e metadata and state a profile.",
        ) from None


def _decode_value(value: Any, name: str, tree: Tree, extra: Tree) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if "standard" in value:
        array = np.asarray(tree[name])
        return array[(0,) * (array.ndim - len(value["standard"]))]
    if "dtype" in value:
        return np.array(value["value"], value["dtype"])
    if "array" in value:
        return np.asarray(extra[value["array"]])
    inner = {k: _decode_value(v, f"{name}.{k}", tree, extra) for k, v in value["fields"].items()}
    return _made(_PARTS[value["class"]], inner)


def _made(cls: Any, values: Tree) -> Any:
    """An object of a dataclass, if every value is of its field's type."""
    for name, hint in _hints(cls).items():
        if name in values and not _fits(values[name], hint):
            raise TypeError(f"{name} of {cls.__name__} is {values[name]!r}")
    return cls(**values)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: hint for name, hint in get_type_hints(cls).items() if name in names}


def _fits(value: Any, hint: Any) -> bool:
    kind, options = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in options
    if kind in (Union, UnionType):
        return any(_fits(value, option) for option in options)
    if kind is tuple:
        whole = isinstance(value, tuple) and all(isinstance(v, int) for v in value)
        return whole and (... in options or len(value) == len(options))
    if kind is np.ndarray:
        return isinstance(value, np.ndarray) and value.dtype.kind in "iubf"
    if hint is float or hint is int:
        if isinstance(value, np.ndarray):
            return value.ndim == 0 and value.dtype.kind in ("iu" if hint is int else "iuf")
        return isinstance(value, (int, hint))
    return isinstance(value, kind or hint)


def standard_differs(tree: Tree, node: Node, frame: Shape, dt: float) -> str | None:
    """The first standard field of a file's node that contradicts its metadata; None where all agree."""
    for field, expected in standard(node, frame, dt).items():
        found = tree.get(field)
        old = field == "v_reset" and found is None and not np.any(expected)  # nir up to 1.0.5 has no such field
        if not old and not _agree(found, expected):
            return field
    return None


def _agree(found: Any, expected: Any) -> bool:
    if isinstance(expected, str) or isinstance(found, str) or found is None:
        return bool(found is not None and found == expected)
    return np.shape(found) == np.shape(expected) and np.allclose(found, expected, rtol=1e-6, atol=0.0)

"""One node of ours as a standard NIR node and back: fields any NIR tool reads, plus `metadata["d2e"]`.

The standard fields hold the closest meaning NIR has; the metadata hold what NIR cannot say, so that a node
comes back exactly. Weights stand in the standard fields only.
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
from d2e.ir.nodes import (
    IF,
    KINDS,
    LI,
    Affine,
    Array,
    Continuous,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    FixedPoint,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Neuron,
    Node,
    Output,
    Quantized,
    Scale,
    Shape,
    _Pool,
)

SCHEMA = 1
Tree = dict[str, Any]
_WEIGHTED = (Linear, Conv1d, Conv2d)
_PARTS: dict[str, Any] = {cls.__name__: cls for cls in (Quantized, FixedPoint, Continuous, Encoder, EarlyExit)}
_MOST_KEPT = 1 - 2.0**-52


# --------------------------------------------------------------------------- to NIR


def to_tree(node: Node, frame: Shape, dt: float) -> Tree:
    """A node as the dictionary of a standard NIR node.

    Args:
        node: of a verified network.
        frame: shape of what arrives at it (what it sends, for an Input).
        dt: seconds per step that the time constants are written for.

    Returns:
        "type", the fields of that type, and "metadata".
    """
    return {**_standard(node, frame, dt), "metadata": {"d2e": _encode(node)}}


def _standard(node: Node, frame: Shape, dt: float) -> Tree:
    if isinstance(node, (Input, Output)):
        return {"type": type(node).__name__, "shape": np.array(node.shape, np.int64)}
    if isinstance(node, Linear):
        arrays = {"weight": node.weight} | ({"bias": node.bias} if isinstance(node, Affine) else {})
        full = {name: _full(array, (*frame[:-1], *array.shape)) for name, array in arrays.items()}
        return {"type": type(node).__name__, **full}
    if isinstance(node, (Conv1d, Conv2d)):
        return _conv(node, frame)
    if isinstance(node, _Pool):
        names = ("kernel_size", "stride", "padding")
        return {"type": type(node).__name__, **{n: np.array(getattr(node, n), np.int64) for n in names}}
    if isinstance(node, Flatten):
        start, end = node.start_dim % len(frame), node.end_dim % len(frame)
        axes = {"start_dim": start, "end_dim": -1 if end == len(frame) - 1 else end}
        return {"type": "Flatten", "input_type": np.array(frame, np.int64), **axes}
    if isinstance(node, Scale):
        return {"type": "Scale", "scale": _full(node.scale, frame)}
    if isinstance(node, Delay):
        return {"type": "Delay", "delay": _full(node.steps * dt, frame)}
    assert isinstance(node, Neuron)
    return _neuron(node, dt)


def _full(value: Any, shape: Shape) -> Array:
    return np.broadcast_to(value, shape)  # a view: a file may state shapes that no memory holds


def _conv(node: Conv1d | Conv2d, frame: Shape) -> Tree:
    def size(value: tuple[int, ...]) -> Any:
        return int(value[0]) if isinstance(node, Conv1d) else np.array(value, np.int64)

    return {
        "type": type(node).__name__, "weight": node.weight, "groups": node.groups,
        "input_shape": size(frame[1:]), "stride": size(node.stride), "dilation": size(node.dilation),
        "padding": node.padding if isinstance(node.padding, str) else size(node.padding),
        "bias": np.zeros(node.weight.shape[0], node.weight.dtype) if node.bias is None else node.bias,
    }


def _neuron(node: Neuron, dt: float) -> Tree:
    """The fields of the nearest NIR neuron, such that its Euler step with ``dt`` has our decays.

    NIR's ``tau v' = (v_leak - v) + r I`` gives ``v = (1 - dt/tau) v + r dt/tau I + dt/tau v_leak``; hence
    tau = dt / (1 - decay), r = gain / (1 - decay), v_leak = bias / (1 - decay), w_in = 1 / (1 - decay_syn).
    No leak at all has no tau; it is written as the slowest leak a float64 can tell from none.
    """
    unit = 2.0**-node.arithmetic.fraction_bits if node.arithmetic else 1.0
    one = 2.0**node.arithmetic.decay_bits if node.arithmetic else 1.0
    kept = (np.float64(0.0) if decay is None else decay.astype(np.float64) / one for decay in node.decays)
    lost_syn, lost_mem = (1 - np.minimum(decay, _MOST_KEPT) for decay in kept)
    settled = Continuous(
        tau_mem=dt / lost_mem, tau_syn=dt / lost_syn, w_in=1 / lost_syn, v_leak=node.bias * unit / lost_mem,
        r=node.gain / dt if isinstance(node, IF) else node.gain / lost_mem,
    )
    open_ = node.continuous or Continuous()

    def value(name: str, default: float = 0.0) -> Any:
        stated = getattr(open_, name) if node.continuous else getattr(settled, name)
        return default if stated is None else stated

    base, rest = _base(node)
    found: dict[str, Any] = {"r": value("r", 1.0)} | rest
    if base != "IF":
        found["tau_mem" if base.startswith("Cuba") else "tau"] = value("tau_mem", dt)
        found["v_leak"] = value("v_leak")
    if base.startswith("Cuba"):
        found |= {"tau_syn": value("tau_syn", dt), "w_in": value("w_in", 1.0)}
    if base in ("IF", "LIF", "CubaLIF"):
        found["v_reset"] = node.v_reset * unit if node.reset == "value" else 0.0
    return {"type": base, **{name: _full(np.asarray(v, np.float64), node.shape) for name, v in found.items()}}


def _base(node: Neuron) -> tuple[str, Tree]:
    """The NIR type nearest to a neuron, and its threshold."""
    if isinstance(node, LI):
        open_ = node.continuous
        current = open_.tau_syn is not None if open_ else bool((node.decay_syn != 0).any())
        return ("CubaLI" if current else "LI"), {}
    if isinstance(node, MultiThreshold):
        return "LIF", {"v_threshold": node.threshold * node.levels[0]}
    name = "IF" if isinstance(node, IF) else "CubaLIF" if isinstance(node, CubaLIF) else "LIF"
    return name, {"v_threshold": node.threshold}


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
    for field, expected in _standard(node, frame, dt).items():
        found = tree.get(field)
        old = field == "v_reset" and found is None and not np.any(expected)  # nir up to 1.0.5 has no such field
        if not old and not _agree(found, expected):
            return field
    return None


def _agree(found: Any, expected: Any) -> bool:
    if isinstance(expected, str) or isinstance(found, str) or found is None:
        return bool(found is not None and found == expected)
    return np.shape(found) == np.shape(expected) and np.allclose(found, expected, rtol=1e-6, atol=0.0)

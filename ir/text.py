"""The text form of a network, for eyes and goldens: one line per node, arrays as shape, range and a hash."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import numpy as np

from d2e.ir.network import Network
from d2e.ir.nodes import Array, Node


def to_text(network: Network) -> str:
    """The network as text; equal networks (same order) give equal text, on every machine."""
    lines = [f"network {_value(dict(network.metadata))}" if network.metadata else "network"]
    for name in network.order:
        edges = network.incoming[name]
        into = ", ".join(f"{e.source}{' (previous step)' if e.recurrent else ''}" for e in edges)
        lines.append(f"  %{name} = {_node(network.nodes[name])}" + (f" <- {into}" if into else ""))
    return "\n".join(lines) + "\n"


def _node(node: Node) -> str:
    options = [
        f"{f.name}={_value(getattr(node, f.name))}"
        for f in fields(node)
        if f.name != "metadata" and not _is_default(getattr(node, f.name), f)
    ]
    extra = f" {_value(dict(node.metadata))}" if node.metadata else ""
    return f"{node.kind}({', '.join(options)}){extra}"


def _is_default(value: Any, f: Any) -> bool:
    if f.default is MISSING:
        return False
    if isinstance(value, np.ndarray):
        return f.default is not None and value.ndim == 0 and float(value) == float(f.default)
    return type(value) is type(f.default) and value == f.default


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return array_text(value)
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(
            f"{f.name}={_value(getattr(value, f.name))}"
            for f in fields(value) if not _is_default(getattr(value, f.name), f)
        )
        return f"{type(value).__name__}({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in sorted(value.items())) + "}"
    return repr(value)


def array_text(array: Array) -> str:
    """Small arrays in full, large ones as type, shape, range and the first digits of their SHA-256."""
    if array.size <= 4:
        return repr(array.tolist())
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:8]
    kind = array.dtype.newbyteorder("=").name
    size = "x".join(map(str, array.shape))
    return f"{kind}[{size}] {array.min():.6g}..{array.max():.6g} #{digest}"

"""A ``.net`` file as plain numbers and texts: every layer's fields, checked as they are asked for; nothing in it is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2e.compiler.frontends import safe
from d2e.ir.errors import UsageError
from d2e.ir.nodes import Array

_MAX_BYTES = 1 << 32
_MAX_DEPTH = 4
_MAX_INT = 1 << 31


def malformed(layer: str | None, message: str) -> UsageError:
    """The fault of a file that netx would not read either."""
    return UsageError("D2E-NETX-001", message, node=layer, hint="Export the network again with lava-dl.")


@dataclass(frozen=True)
class Fields:
    """The fields of a layer, or of its neuron.

    Attributes:
        name: of the layer, for errors.
        values: text, array or a group of such.
    """

    name: str
    values: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def group(self, key: str) -> Fields:
        """A group of fields."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise malformed(self.name, f"has no group {key!r}")
        return Fields(self.name, value)

    def text(self, key: str) -> str:
        """A word such as a type."""
        value = self.values.get(key)
        if isinstance(value, np.ndarray) and value.dtype.kind in "SO" and value.size >= 1:
            value = value.reshape(-1)[0]
        if isinstance(value, bytes):
            return value.decode("ascii", "replace")
        if isinstance(value, str):
            return value
        raise malformed(self.name, f"does not say its {key}")

    def integers(self, key: str) -> Array:
        """Numbers as netx takes them: fractions cut off."""
        value = self.values.get(key)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iubf" or not value.size:
            raise malformed(self.name, f"has no numbers {key!r}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise malformed(self.name, f"{key} holds NaN or infinity")
        if float(np.abs(value.astype(np.float64)).max()) >= _MAX_INT:
            raise malformed(self.name, f"{key} holds numbers beyond 32 bits")
        return value.astype(np.int64)

    def integer(self, key: str) -> int:
        """One number."""
        values = self.integers(key)
        if values.size != 1:
            raise malformed(self.name, f"{key} holds {values.size} numbers, one is needed")
        return int(values.reshape(-1)[0])

    def sizes(self, key: str) -> tuple[int, ...]:
        """A list of sizes."""
        return tuple(int(n) for n in self.integers(key).reshape(-1))

    def pair(self, key: str) -> tuple[int, int]:
        """Two sizes (rows, columns), or one for both."""
        found = self.sizes(key)
        if len(found) not in (1, 2):
            raise malformed(self.name, f"{key} holds {len(found)} numbers, one or two are needed")
        return found[0], found[-1]


def read_layers(path: Path) -> tuple[list[Fields], Mapping[str, Any]]:
    """The layers of a file in order, and its other fields.

    Raises:
        UsageError: D2E-LOAD-001..003, D2E-FILE-002 for a path that is no file, D2E-FILE-003 for a file that is not whole
            HDF5, D2E-NETX-001 for one that holds no netx layers.
    """
    import h5py

    checked = safe.checked_path(path)
    try:
        with h5py.File(checked, "r") as file:
            tree = _read_group(file, [_MAX_BYTES], 0)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        why = (str(error).splitlines() or ["no reason"])[0][:120]
        raise UsageError("D2E-FILE-003", f"{str(path)!r} is not a whole HDF5 file ({why})",
                         hint="Copy or export it again.") from None
    layers = tree.pop("layer", None)
    if not isinstance(layers, dict) or not layers:
        raise malformed(None, f"{str(path)!r} has no group 'layer' with layers in it, so it is no netx file")
    return list(_in_order(layers)), tree


def _in_order(layers: Mapping[str, Any]) -> Iterator[Fields]:
    for number in range(len(layers)):
        fields = layers.get(str(number))
        if not isinstance(fields, dict):
            raise malformed(None, f"{len(layers)} layers are there, but none is called {number}")
        yield Fields(f"layer{number}", fields)


def _read_group(group: Any, budget: list[int], depth: int) -> dict[str, Any]:
    """Groups and data sets as dicts and arrays. Links to other files or places are not followed."""
    import h5py

    tree: dict[str, Any] = {}
    for name in group:
        item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
            tree[name] = _read_group(item, budget, depth + 1)
            continue
        if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
            raise malformed(None, f"{name!r} is no part of a netx file")
        budget[0] -= math.prod(item.shape or (0,)) * item.dtype.itemsize
        if budget[0] < 0:
            raise malformed(None, f"{name!r} makes the file hold more than {_MAX_BYTES >> 30} GiB of numbers")
        tree[name] = np.asarray(item[()])
    return tree

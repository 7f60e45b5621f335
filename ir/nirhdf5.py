"""The contents of an HDF5 file as nested dictionaries, read so that no file can make the reader crash or swell.

Links, data outside the file, and shapes that promise far more numbers than the file holds are refused unread.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from d2e.ir.errors import UsageError
from d2e.ir.nirgraph import Tree, malformed

MAX_BYTES = 1 << 34
_MAX_DEPTH = 32
_MAX_ITEMS = 1 << 20
_FREE = 1 << 20
_RATIO = 2048  # deflate makes numbers at most 1032 times smaller


def read_tree(path: Path) -> Tree:
    """The groups of a file as dictionaries, its datasets as arrays, numbers and text.

    Raises:
        UsageError: D2E-FILE-002 for a file that cannot be opened, -003 for one that is not whole HDF5; D2E-NIR-003 for
            links and what is no part of a NIR graph, -006 for sizes beyond all bounds.
    """
    import h5py

    try:
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UsageError("D2E-FILE-002", f"cannot read {str(path)!r}: {reason}", hint="Check the path.") from None
    try:
        with h5py.File(path, "r") as file:
            return _Reader(min(MAX_BYTES, (1 << 30) + 64 * size)).group(file, 0)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(
            "D2E-FILE-003", f"{str(path)!r} is not a whole HDF5 file ({reason})", hint="Copy or export it again.",
        ) from None


class _Reader:
    """Bytes and items that may still be read."""

    def __init__(self, budget: int) -> None:
        self.budget, self.items = budget, _MAX_ITEMS
        self.seen: set[int] = set()

    def group(self, group: Any, depth: int) -> Tree:
        import h5py

        tree: Tree = {}
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise malformed(f"{type(link).__name__} leads elsewhere; a NIR file holds everything itself", name)
            item = group[name]
            self._once(item, name)
            if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
                tree[name] = self.group(item, depth + 1)
            elif isinstance(item, h5py.Dataset):
                tree[name] = self._value(item, name)
            else:
                what = f"a group nested deeper than {_MAX_DEPTH}" if isinstance(item, h5py.Group) else repr(item)
                raise malformed(f"{what} is no part of a NIR graph", name)
        return tree

    def _once(self, item: Any, name: str) -> None:
        """Refuse what was read before: hard links may form cycles."""
        import h5py

        address = int(h5py.h5o.get_info(item.id).addr)
        self.items -= 1
        if address in self.seen:
            raise malformed("the same part of the file has two names; its groups may form a cycle", name)
        if self.items < 0:
            raise UsageError("D2E-NIR-006", f"the file has more than {_MAX_ITEMS} parts", node=name, hint="Is it whole?")
        self.seen.add(address)

    def _value(self, item: Any, name: str) -> Any:
        if item.is_virtual or item.external:
            raise malformed("its numbers are in another file; a NIR file holds everything itself", name)
        size = math.prod(item.shape or ()) * item.dtype.itemsize
        self.budget -= size
        if self.budget < 0 or size > _FREE + _RATIO * item.id.get_storage_size():
            raise UsageError(
                "D2E-NIR-006", f"a shape of {item.shape} promises {size:.3g} bytes, more than the file can hold",
                node=name, hint="Is the shape wrong, or the file cut off?",
            )
        value = item[()]
        return value.decode("utf-8") if isinstance(value, bytes) else value

"""Headings, lines of facts and tables in a terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED = 120
"""Columns where nobody knows how wide the screen is."""
_FOLDED = 30
"""Columns that words need at least; what is longer goes on in the next line."""


class Column(NamedTuple):
    """A column of a table; where the screen is narrow, those of the highest rank are left out, but never the first."""

    title: str
    cells: list[str]
    rank: int = 0
    words: bool = False


def console() -> Console:
    """Stdout; without colours where NO_COLOR is set or nobody looks."""
    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal or "COLUMNS" in found._environ else Console(
        highlight=False, markup=False, emoji=False, width=_PIPED)


def heading(words: str, to: Console) -> None:
    """An empty line and a bold one."""
    to.print()
    to.print(Text(words, "bold"))


def facts(rows: Sequence[tuple[str, str, str]], to: Console) -> None:
    """Lines of (name, value, style)."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value, style in rows:
        table.add_row(Text(name, "dim"), Text(value, style))
    to.print(table)


def table(columns: Sequence[Column], to: Console) -> None:
    """A table of as many columns as fit; ones without any cell are left out."""
    kept = [c for c in columns if any(c.cells)]
    while len(kept) > 2 and sum(_least(c, c is kept[0]) + 2 for c in kept) > to.width:
        kept.remove(max(reversed(kept[1:]), key=lambda c: c.rank))
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for i, column in enumerate(kept):
        folds = column.words or i == 0
        made.add_column(column.title, justify="left" if folds else "right", overflow="fold", no_wrap=not folds)
    for row in zip(*(column.cells for column in kept), strict=True):
        made.add_row(*(Text(cell) for cell in row))
    to.print(made)


def _least(column: Column, first: bool) -> int:
    """Letters without which a column cannot be read."""
    widest = max(cell_len(each) for each in (column.title, *column.cells))
    return min(widest, _FOLDED) if first or column.words else widest

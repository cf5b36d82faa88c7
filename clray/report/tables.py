"""The one look of all tables: aligned columns, a thin rule under the heads and between sections."""

from __future__ import annotations

from rich.box import Box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

INDENT = 2
"""Columns that tables stand in from the left."""

_RULED = Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")


def ruled_table(*heads: str, gap: int = 2) -> Table:
    """A table with these heads; the first column reads from the left, the others are numbers.

    Args:
        heads: of the columns.
        gap: spaces between columns.
    """
    table = Table(
        box=_RULED,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
        header_style="dim",
        border_style="dim",
    )
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=bool(index))
    return table


def plain_table(columns: int) -> Table:
    """A table without heads or rules, read from the left."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(columns):
        table.add_column(justify="left", overflow="fold")
    return table


def indented(content: RenderableType) -> Padding:
    """``content``, standing in from the left."""
    return Padding(content, (0, 0, 0, INDENT), expand=False)

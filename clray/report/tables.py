"""The one look of all tables: aligned columns, a thin rule under the heads and between sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

INDENT = 2
"""Columns that tables stand in from the left."""
GAP = 2
"""Spaces between the columns of a board's tables."""
ALWAYS = 100
"""How much a column matters that is never left out."""

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


@dataclass(frozen=True)
class Column:
    """One column of a table of which some may be left out.

    Attributes:
        head: above it.
        cells: from the first row to the last.
        keep: how much it matters, up to ``ALWAYS``.
        left: whether it reads from the left.
        fold: whether its cells may take several lines.
    """

    head: str
    cells: Sequence[Text]
    keep: int = ALWAYS
    left: bool = False
    fold: bool = False

    @property
    def width(self) -> int:
        """Of its longest line."""
        return max(
            cell_len(line)
            for text in (self.head, *(cell.plain for cell in self.cells))
            for line in text.split("\n")
        )


def fitted(columns: Sequence[Column], room: int) -> list[Column]:
    """Leaves out what matters least until the rest has room."""
    kept = list(columns)
    while total_width(kept) > room and min(column.keep for column in kept) < ALWAYS:
        kept.remove(min(kept, key=lambda column: column.keep))
    return kept


def total_width(columns: Sequence[Column]) -> int:
    """Of all columns with the gaps between them."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def ruled_columns(columns: Sequence[Column], num_ranked: int, num_rows: int) -> Table:
    """The columns as a table; rows that are not ranked stand below a rule."""
    table = ruled_table(*(column.head for column in columns), gap=GAP)
    for drawn, column in zip(table.columns, columns, strict=True):
        drawn.justify = "left" if column.left else "right"
        drawn.no_wrap, drawn.overflow = not column.fold, "fold"
    for index in range(num_rows):
        table.add_row(
            *(column.cells[index] for column in columns),
            style="" if index < num_ranked else "dim",
            end_section=index == num_ranked - 1 and num_rows > num_ranked,
        )
    return table

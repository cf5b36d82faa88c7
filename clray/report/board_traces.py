"""What continual evaluation says about a board's rows, as a second table below the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from clray.report.board_table import ALARM
from clray.report.continual import Measure, cell, measures_shown, notes, traced
from clray.report.stored import Board, Row
from clray.report.tables import INDENT, Column, fitted, indented, ruled_columns, total_width


def traces_table(board: Board, width: int) -> list[RenderableType]:
    """A title, the table and what it means, for a terminal ``width`` columns wide; nothing where
    there are no traces."""
    rows = traced(board)
    if not rows:
        return []
    title = Text("Continual evaluation", style="bold")
    if board.stamp:
        title.append(f"  {board.stamp}", style=ALARM)
    room = width - INDENT
    columns = _columns(board, rows, intervals=True)
    if total_width(columns) > room:  # more measures tell more than intervals do
        columns = fitted(_columns(board, rows, intervals=False), room)
    num_ranked = sum(not row.bound for row in rows)
    table = ruled_columns(columns, num_ranked, len(rows))
    return [
        indented(title),
        indented(table),
        Text(),
        *(indented(Text(note, style="dim")) for note in notes(board)),
    ]


def _columns(board: Board, rows: Sequence[Row], intervals: bool) -> list[Column]:
    first = Column("method", [Text(row.name) for row in rows], left=True, fold=True)
    return [
        first,
        *(
            Column(_head(one), [Text(cell(board, row, one, intervals)) for row in rows], one.keep)
            for one in measures_shown(rows)
        ),
    ]


def _head(measure: Measure) -> str:
    """In lines of one or two words."""
    lines: list[str] = []
    for word in measure.head.split(" "):
        if lines and len(lines[-1]) + len(word) < 10:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)

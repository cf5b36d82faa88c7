"""The accuracy matrix as a table: a row for each task learned, a column for each task tested."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from clray.report.numbers import evenly, fraction
from clray.report.stored import Record
from clray.report.tables import INDENT, indented, ruled_table

SHOWN = 20
"""At most so many tasks are shown; of longer streams, so many spread evenly."""

_CELL = len("0.912")


def matrix_table(records: Sequence[Record], width: int) -> RenderableType:
    """R for a terminal ``width`` columns wide; what is not learned yet is dim.

    Where the columns do not fit, they go on in a second table below.
    """
    measured = [record for record in records if record.accuracy is not None]
    if not measured:
        return indented(Text("nothing was measured", style="dim"))
    num_tasks = max(len(record.accuracy or ()) for record in measured)
    shown = evenly(num_tasks, SHOWN)
    rows = [record for record in measured if record.task in shown]
    label_width = max(len("after task"), *(len(_label(record, num_tasks)) for record in rows))
    room = width - INDENT - label_width
    gap = 2 if (len(shown) + 1) * (_CELL + 2) <= room else 1
    fit = max(1, room // (_CELL + gap) - 1)
    chunks = [shown[start : start + fit] for start in range(0, len(shown), fit)]
    parts: list[RenderableType] = []
    for index, columns in enumerate(chunks):
        last = index == len(chunks) - 1
        heads = [str(column + 1) for column in columns] + ["mean"] * last
        table = ruled_table("after task", *heads, gap=gap)
        for record in rows:
            cells = [_cell(record, column) for column in columns]
            mean = [Text(fraction(_mean(record)), style="bold")] if last else []
            table.add_row(_label(record, num_tasks), *cells, *mean)
        parts += [indented(table), Text()] if not last else [indented(table)]
    if len(shown) < num_tasks:
        note = f"{len(shown)} of {num_tasks} tasks, evenly spread; the records hold all"
        parts.append(indented(Text(note, style="dim")))
    return Group(*parts)


def _label(record: Record, num_tasks: int) -> str:
    number = str(record.task + 1)
    plain = record.name in ("", number, str(record.task))
    return number if plain else f"{number.rjust(len(str(num_tasks)))}  {record.name}"


def _cell(record: Record, column: int) -> Text:
    row = record.accuracy or []
    value = row[column] if column < len(row) else None
    future = column > record.task
    if value is None:
        return Text("·", style="dim")
    return Text(fraction(value), style="dim" if future else "")


def _mean(record: Record) -> float | None:
    """Over the tasks learned so far."""
    seen = [value for value in (record.accuracy or [])[: record.task + 1] if value is not None]
    return sum(seen) / len(seen) if len(seen) == record.task + 1 else None

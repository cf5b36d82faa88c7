"""A board as a table: ranked rows, bounds below a rule, and as many columns as have room."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clray.objective import front, scores
from clray.report.numbers import (
    count,
    duration,
    fraction,
    knobs,
    measured,
    trajectory,
    words,
)
from clray.report.ranking import bounds, failures, ranked
from clray.report.significance import letters
from clray.report.stored import Board, Row
from clray.report.tables import (
    ALWAYS,
    GAP,
    INDENT,
    Column,
    fitted,
    indented,
    plain_table,
    ruled_columns,
    total_width,
)

ALARM = "bold red"
"""How numbers are marked that are too good to compare with."""

FRONT = "•"
"""Marks the rows that no other one beats in every objective."""

_CHOSEN = 34
"""The chosen hyperparameters stand in the table where so many columns are left, else below it."""


def board_table(board: Board, width: int) -> RenderableType:
    """The table, what was chosen, and what failed, for a terminal ``width`` columns wide."""
    rows = [*ranked(board), *bounds(board)]
    parts: list[RenderableType] = []
    if rows:
        columns = fitted(_columns(board, rows), width - INDENT)
        chosen = [_chosen(row) for row in rows]
        room = width - INDENT - total_width(columns) - GAP
        inside = any(chosen) and room >= _CHOSEN
        if inside:
            cells = [_wrapped(text, room) for text in chosen]
            columns.insert(2, Column("chosen hyperparameters", cells, left=True, fold=True))
        parts.append(indented(ruled_columns(columns, len(ranked(board)), len(rows))))
        if any(chosen) and not inside:
            below = plain_table(2)
            room = width - INDENT - GAP - max(cell_len(row.name) for row in rows)
            for row, text in zip(rows, chosen, strict=True):
                if text:
                    style = "dim" if row.bound else ""
                    below.add_row(row.name, _wrapped(text, room), style=style)
            parts += [Text(), indented(below)]
    troubles = _troubles(board)
    if troubles.row_count:
        parts += [Text()] * bool(parts) + [indented(troubles)]
    return Group(*parts)


def metrics_shown(board: Board) -> list[str]:
    """The objectives, and then what always matters."""
    objectives = [objective.metric for objective in board.objectives]
    return list(dict.fromkeys([*objectives, "average_accuracy", "forgetting"]))


def overall_front(board: Board) -> set[str]:
    """Names of the ranked rows that no other one beats on test; empty with one objective."""
    if len(board.objectives) == 1:
        return set()
    means = {row.name: {m: found.mean for m, found in row.test.items()} for row in ranked(board)}
    points = {name: scores(known, board.objectives) for name, known in means.items()}
    whole = {name: point for name, point in points.items() if point is not None}
    names = list(whole)
    return {names[i] for i in front(list(whole.values()))}


def _columns(board: Board, rows: Sequence[Row]) -> list[Column]:
    places = {row.name: str(place) for place, row in enumerate(ranked(board), start=1)}
    on_front = overall_front(board)

    def column(
        head: str, write: Callable[[Row], str], keep: int = ALWAYS, style: str = ""
    ) -> Column:
        return Column(head, [Text(write(row), style=style) for row in rows], keep)

    first = [
        column("", lambda row: places.get(row.name, "")),
        Column("method", [Text(row.name) for row in rows], left=True, fold=True),
    ]
    if rows[0].name in places:
        first[1].cells[0].stylize("bold")
    if on_front:
        first.append(column("front", lambda row: FRONT if row.name in on_front else ""))
    if board.stamp:
        first.append(column("", lambda row: board.stamp or "", style=ALARM))
    marks = letters(board, board.objective.metric)
    measures = []
    objectives = {objective.metric for objective in board.objectives}
    for index, metric in enumerate(metrics_shown(board)):
        texts = [_estimate(row, metric) for row in rows]
        head = words(metric).replace(" ", "\n")
        keep = ALWAYS if metric in objectives else 80 - index
        measures.append(Column(head, list(map(Text, texts)), keep))
        if index == 0 and marks:
            cells = [Text(marks.get(row.name, "")) for row in rows]
            measures.append(Column("", cells, left=True))
    if any(row.order_disparity for row in rows):
        for index, head in enumerate(("AOPD", "MOPD")):
            measures.append(column(head, partial(_disparity, index=index), 60))
    if any(row.transfer for row in rows):
        measures += [
            column("rank cor-\nrelation", lambda row: _transfer(row, "rank_correlation"), 50),
            column("regret", lambda row: _transfer(row, "regret"), 50),
        ]
    costs = [
        column("parameters", lambda row: count(row.parameters), 10),
        column("examples\nkept", lambda row: count(row.examples), 20),
        column("training\ntime", lambda row: duration(row.train_seconds), 30),
    ]
    return [*first, *measures, *costs]


def _estimate(row: Row, metric: str) -> str:
    found = row.on_test(metric)
    return measured(metric, found.mean, found.interval)


def _disparity(row: Row, index: int) -> str:
    return fraction(row.order_disparity[index] if row.order_disparity else None)


def _transfer(row: Row, name: str) -> str:
    return fraction(getattr(row.transfer, name, None))


def _chosen(row: Row) -> str:
    return trajectory(row.trajectory) if row.trajectory else knobs(row.values)


def _wrapped(text: str, room: int) -> Text:
    """Rich would also break at hard spaces."""
    return Text(textwrap.fill(text, max(room, 1), break_on_hyphens=False, break_long_words=False))


def _troubles(board: Board) -> Table:
    """What has no place in the table, and what went wrong for those that have one."""
    lost = failures(board)
    table = plain_table(3)
    for row in lost:
        table.add_row(row.name, Text("failed", style="red"), row.error or "nothing on test")
    for row in board.rows:
        notes = [row.error] if row.error and row not in lost else []
        for note in (*notes, *row.warnings):
            table.add_row(row.name, Text("note", style="yellow"), note)
    return table

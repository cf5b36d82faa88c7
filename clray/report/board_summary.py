"""Several boards side by side: who ranks where, and which ranks change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from clray.report.board_table import ALARM
from clray.report.numbers import NONE, measure, words
from clray.report.ranking import bounds, ranked
from clray.report.significance import compare
from clray.report.stored import Board, Row
from clray.report.tables import INDENT, indented, plain_table, ruled_table

_GAP = 2


def summary(boards: Sequence[Board], width: int) -> RenderableType:
    """A row for each method, a column for each board; for a terminal ``width`` columns wide.

    Where the columns do not fit, they go on in a second table below.
    """
    labels = _labels(boards)
    columns = [[_cell(board, label) for label in labels] for board in boards]
    heads = [board.name + (f"\n{board.stamp}" if board.stamp else "") for board in boards]
    room = width - INDENT - max(cell_len(label) for label in ["method", *labels])
    chunks: list[list[int]] = [[]]
    left = room
    for index, column in enumerate(columns):
        need = _GAP + max(map(cell_len, [*heads[index].split("\n"), *(c.plain for c in column)]))
        if need > left and chunks[-1]:
            chunks.append([])
            left = room
        chunks[-1].append(index)
        left -= need
    parts: list[RenderableType] = [Text("ranks", style="bold"), Text()]
    for chunk in chunks:
        table = ruled_table("method", *(heads[index] for index in chunk), gap=_GAP)
        for drawn, index in zip(table.columns[1:], chunk, strict=True):
            if boards[index].stamp:
                drawn.header_style = ALARM
        for place, label in enumerate(labels):
            table.add_row(label, *(columns[index][place] for index in chunk))
        parts += [indented(table), Text()]
    return Group(*parts, *_changes(boards))


def rank_changes(reference: Board, board: Board) -> list[tuple[str, str, bool]]:
    """Pairs of labels in the other order than on the reference: who has overtaken whom, and
    whether the difference is significant on both boards."""
    before, after = _ranks(reference), _ranks(board)
    certain = _significant(reference) & _significant(board)
    shared = [label for label in before if label in after]
    return [
        (second, first, frozenset((first, second)) in certain)
        for first, second in combinations(shared, 2)
        if after[first] > after[second]
    ]


def _best(rows: Sequence[Row]) -> dict[str, tuple[int, Row]]:
    """Each label's first row, and its place among the labels: of a front, the point that leads."""
    found: dict[str, tuple[int, Row]] = {}
    for row in rows:
        found.setdefault(row.label, (len(found) + 1, row))
    return found


def _ranks(board: Board) -> dict[str, int]:
    return {label: rank for label, (rank, _) in _best(ranked(board)).items()}


def _significant(board: Board) -> set[frozenset[str]]:
    label_of = {row.name: label for label, (_, row) in _best(ranked(board)).items()}
    return {
        frozenset((label_of[one.first], label_of[one.second]))
        for one in compare(board, board.objective.metric)
        if one.significant and one.first in label_of and one.second in label_of
    }


def _labels(boards: Sequence[Board]) -> list[str]:
    """As the first board has them, and then who is only on later ones; bounds last."""
    first = [row.label for board in boards for row in ranked(board)]
    last = [row.label for board in boards for row in bounds(board)]
    lost = [row.label for board in boards for row in board.rows]
    return list(dict.fromkeys([*first, *last, *lost]))


def _cell(board: Board, label: str) -> Text:
    style = "red" if board.stamp else ""
    metric = board.objective.metric
    known, apart = _best(ranked(board)), _best(bounds(board))
    if label in known:
        rank, row = known[label]
        bold = " bold" if rank == 1 else ""
        return Text(f"{rank}  {measure(metric, row.on_test(metric).mean)}", style=style + bold)
    if label in apart:
        mean = apart[label][1].on_test(metric).mean
        return Text(measure(metric, mean), style=style or "dim")
    failed = any(row.label == label for row in board.rows)
    return Text("failed", style="red") if failed else Text(NONE, style="dim")


def _changes(boards: Sequence[Board]) -> list[RenderableType]:
    """What each board has in another order than the first one of its benchmark."""
    table = plain_table(2)
    starred = False
    for board in boards:
        reference = next(other for other in boards if other.arena == board.arena)
        if reference is board:
            continue
        overtaken: dict[str, list[str]] = {}
        for winner, loser, certain in rank_changes(reference, board):
            overtaken.setdefault(winner, []).append(loser + "*" * certain)
            starred |= certain
        texts = [f"{winner} overtakes {', '.join(losers)}" for winner, losers in overtaken.items()]
        table.add_row(board.name, "; ".join(texts) or f"ranks as {reference.name}")
    metric = words(boards[0].objective.metric)
    note = f"Rank and {metric} on test; bounds are not ranked."
    if starred:
        note += " * significant on both boards."
    parts: list[RenderableType] = [indented(table), Text()] if table.row_count else []
    if table.row_count:
        parts.insert(0, indented(Text("Against the first board of the same benchmark:")))
    return [*parts, indented(Text(note, style="dim"))]

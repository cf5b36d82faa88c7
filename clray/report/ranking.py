"""Who stands where on a board: ranked rows, bounds and failures."""

from __future__ import annotations

from clray.report.stored import Board, Row


def score(board: Board, row: Row) -> float | None:
    """The row's mean of the first objective on test, turned so that larger is better; None where
    there is none or not all test runs completed: a mean over those that did would flatter."""
    found = row.on_test(board.objective.metric)
    if found.mean is None or not found.values or None in found.values:
        return None
    return board.objective.sign * found.mean


def ranked(board: Board) -> list[Row]:
    """The rows that are ranked, best first: neither bounds nor failures."""
    return _sorted(board, [row for row in board.rows if not row.bound])


def bounds(board: Board) -> list[Row]:
    """The bounds that have a result, best first."""
    return _sorted(board, [row for row in board.rows if row.bound])


def failures(board: Board) -> list[Row]:
    """The rows without a result, or whose test runs did not all complete."""
    return [row for row in board.rows if score(board, row) is None]


def _sorted(board: Board, rows: list[Row]) -> list[Row]:
    scored = [(found, row) for row in rows if (found := score(board, row)) is not None]
    return [row for _, row in sorted(scored, key=lambda pair: -pair[0])]

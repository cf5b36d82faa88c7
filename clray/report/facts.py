"""The tables that stand openly on the page: standings, budgets, transfer, ranks, progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clray.report.board_notes import shared_between_orders
from clray.report.continual import COURSES, FALLS, cell, measures_shown, notes, traced
from clray.report.numbers import NONE, count, duration, estimate, fraction, knobs, words
from clray.report.ranking import bounds, failures, ranked
from clray.report.significance import letters
from clray.report.stored import Board, Row
from clray.report.view import View

LARGE = ("parameters", "bytes", "steps", "examples_seen", "examples_processed")
"""Measures that are written as counts."""


@dataclass(frozen=True)
class Line:
    """One row of such a table.

    Attributes:
        label: the method's, which gives its colour; "" for none.
        cells: as they are written, the first one is the row's name.
        kind: "", "first", "bound" or "failed".
    """

    label: str
    cells: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Sheet:
    """An open table.

    Attributes:
        title: above it; "" for none.
        heads: of its columns.
        lines: its rows.
        note: below it.
        prose: numbers of the columns that read from the left.
    """

    title: str
    heads: Sequence[str]
    lines: Sequence[Line]
    note: str = ""
    prose: Sequence[int] = field(default=(0,))


def standings(view: View, metrics: Sequence[str]) -> list[Sheet]:
    """A board's leaderboard: ranks, metrics with intervals, what was chosen, and costs."""
    board = view.board
    if board is None:
        return []
    same = letters(board, metrics[0]) if metrics else {}
    orders = any(row.order_disparity for row in board.rows)
    lines = [
        Line(row.label, _standing(row, str(place), metrics, same, orders), _first(place))
        for place, row in enumerate(ranked(board), start=1)
    ]
    lines += [
        Line(row.label, _standing(row, "bound", metrics, same, orders), "bound")
        for row in bounds(board)
    ]
    width = 3 + len(metrics) + len([True for on in (same, orders) if on]) + orders + 2
    for row in failures(board):
        reason = row.error or "nothing on test"
        lines.append(Line(row.label, [row.name, "failed", reason, *[""] * (width - 2)], "failed"))
    heads = ["method", "rank", *(words(metric) for metric in metrics)]
    heads += ["same"] if same else []
    heads += ["AOPD", "MOPD"] if orders else []
    heads += ["chosen hyperparameters", "parameters", "examples kept", "training"]
    troubles = [(row, row.error) for row in board.rows if row.error and row in view.rows]
    troubles += [(row, warning) for row in board.rows for warning in row.warnings]
    remarks = [f"{row.name}: {trouble.rstrip('.')}." for row, trouble in troubles]
    told = ["Rows that share a letter do not differ significantly."] if same else []
    if orders:
        told.append("AOPD, MOPD: average and maximum order disparity of the tasks' accuracies.")
    if shared := shared_between_orders(board):
        told.append(shared)
    return [
        Sheet(
            "",
            heads,
            lines,
            " ".join([*told, *remarks]),
            (0, heads.index("chosen hyperparameters")),
        )
    ]


def continual(view: View) -> list[Sheet]:
    """What traces of continual evaluation say about each row."""
    board = view.board
    rows = traced(board) if board is not None else []
    if board is None or not rows:
        return []
    shown, sheets = measures_shown(rows), list[Sheet]()
    for title, some in (("Depth and gaps", FALLS), ("Accuracy over updates", COURSES)):
        columns = [one for one in shown if one in some]
        lines = [
            Line(
                row.label,
                [row.name, *(cell(board, row, one) for one in columns)],
                "bound" if row.bound else "",
            )
            for row in rows
        ]
        note = " ".join(notes(board)) if some is COURSES else ""
        sheets.append(Sheet(title, ["method", *(one.head for one in columns)], lines, note))
    return sheets


def budgets(view: View) -> list[Sheet]:
    """What each choice cost, and how its trials ended."""
    board = view.board
    if board is None or not board.rows:
        return []
    seen: dict[str, Row] = {}
    for row in board.rows:
        seen.setdefault(row.label, row)
    lines = [
        Line(
            row.label,
            [
                row.label,
                str(row.budget.trials),
                str(row.trials.completed),
                str(row.trials.stopped),
                str(row.trials.diverged + row.trials.failed),
                count(row.budget.task_trainings),
                count(row.budget.examples_seen),
                duration(row.budget.seconds),
            ],
        )
        for row in seen.values()
    ]
    heads = ["method", "trials", "completed", "stopped early", "diverged or failed"]
    heads += ["task trainings", "examples seen", "time"]
    return [Sheet("What the choice cost", heads, lines)]


def transfer(view: View) -> list[Sheet]:
    """How well a choice on one benchmark holds on another."""
    rows = [row for row in (view.board.rows if view.board else []) if row.transfer]
    if not rows:
        return []
    lines = [
        Line(
            row.label,
            [
                row.name,
                str(found.configurations),
                fraction(found.rank_correlation),
                fraction(found.regret),
            ],
        )
        for row in rows
        if (found := row.transfer) is not None
    ]
    note = (
        "Over the configurations that were learned on both benchmarks: Spearman's correlation of "
        "their ranks, and by how much the chosen one falls short of the best."
    )
    heads = ["method", "configurations", "rank correlation", "regret"]
    return [Sheet("How the choice transfers", heads, lines, note)]


def ranks(views: Sequence[View]) -> list[Sheet]:
    """The place and the score of each method on every board: a row for each method."""
    boards = [(view, view.board) for view in views if view.board is not None]
    if len(boards) < 2:
        return []
    lines = []
    for label in views[0].labels:
        places = [_place(board, label) for _, board in boards]
        if any(places):
            lines.append(Line(label, [label, *(place or NONE for place in places)]))
    heads = ["method", *(_marked(view) for view, _ in boards)]
    told = dict.fromkeys(f"†: {view.warning}." for view, _ in boards if view.warning)
    note = "Rank, and the first objective on test. " + " ".join(told)
    return [Sheet("Ranks on every board", heads, lines, note.strip())]


def progress(view: View) -> list[Sheet]:
    """How far a running job is."""
    if view.board is not None:
        return []
    objective = view.objectives[0]
    lines = []
    for label, trials in view.searches().items():
        values = [line.value for line in trials if line.value is not None]
        best = (max if objective.sign == 1 else min)(values) if values else None
        states = [line.state for line in trials]
        planned = (
            view.spec.methods[label].trials if view.spec and label in view.spec.methods else None
        )
        lines.append(
            Line(
                label if label in view.labels else trials[0].label,
                [
                    label,
                    f"{len(trials)}" + (f" of {planned}" if planned else ""),
                    str(states.count("completed")),
                    str(states.count("stopped")),
                    str(states.count("diverged") + states.count("failed")),
                    measure(objective.metric, best),
                ],
            )
        )
    heads = ["method", "trials", "completed", "stopped early", "diverged or failed", "best so far"]
    note = f"{words(objective.metric).capitalize()} on what the choice looks at. "
    return [Sheet("So far", heads, lines, note + "The same sweep command goes on.")]


def measure(metric: str, mean: float | None, interval: float | None = None) -> str:
    """A measure as it is written: an accuracy with its interval, or a count."""
    return count(mean) if metric in LARGE else estimate(mean, interval)


def _standing(
    row: Row, place: str, metrics: Sequence[str], same: dict[str, str], orders: bool
) -> list[str]:
    found = [row.on_test(metric) for metric in metrics]
    cells = [row.name, place]
    cells += [measure(m, e.mean, e.interval) for m, e in zip(metrics, found, strict=True)]
    cells += [same.get(row.name, "")] if same else []
    if orders:
        cells += [fraction(value) for value in row.order_disparity or (None, None)]
    chosen = knobs(row.values) or NONE
    if row.trajectory:
        chosen = "anew for each task"
    return [*cells, chosen, count(row.parameters), count(row.examples), duration(row.train_seconds)]


def _marked(view: View) -> str:
    return view.title + (" †" if view.warning else "")


def _first(place: int) -> str:
    return "first" if place == 1 else ""


def _place(board: Board, label: str) -> str:
    rows = ranked(board)
    labels = list(dict.fromkeys(row.label for row in rows))
    metric = board.objective.metric
    row = next((row for row in [*rows, *bounds(board)] if row.label == label), None)
    if row is None:
        return ""
    score = measure(metric, row.on_test(metric).mean)
    return score if row.bound else f"{labels.index(label) + 1}. {score}"

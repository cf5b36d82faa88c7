"""Several boards of a job beside one another: who changes places, and what a choice costs."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    Value,
    focused,
    method_color,
)
from clray.report.numbers import words
from clray.report.ranking import ranked
from clray.report.stored import Board, Row
from clray.report.view import View


def protocol_of(board: Board) -> str:
    """What the board's selection protocol is called, with a mark where it chose on test."""
    name = str(board.selection.get("label") or board.selection.get("name") or board.title)
    return f"{name} †" if board.chosen_on == "test" or board.leak else name


def first_rows(board: Board) -> list[Row]:
    """The ranked rows; of several points of one method's front, the first."""
    found: dict[str, Row] = {}
    for row in ranked(board):
        found.setdefault(row.label, row)
    return list(found.values())


def rank_changes(views: Sequence[View]) -> list[Figure]:
    """The place of each method under each protocol, a panel for each benchmark."""
    arenas = _arenas(views)
    panels, rows = [], []
    for arena, boards in arenas.items():
        cells = [
            {
                "method": row.label,
                "protocol": protocol_of(board),
                "place": place,
                "score": row.on_test(board.objective.metric).mean,
            }
            for board in boards
            for place, row in enumerate(first_rows(board), start=1)
        ]
        rows += [[arena, c["protocol"], c["place"], c["method"], c["score"]] for c in cells]
        if len(boards) > 1:
            metric = words(boards[0].objective.metric)
            panels.append(_bump(views[0].labels, arena, boards, cells, metric))
    if not panels:
        return []
    flagged = any(protocol_of(b).endswith("†") for some in arenas.values() for b in some)
    caption = "The place of each method on test, under each way to choose hyperparameters."
    if flagged:
        caption += " †: numbers that are too good, see the board."
    figure = Figure(
        name="rank-changes",
        title="Rank changes between protocols",
        caption=caption,
        panels=panels,
        table=Table(["benchmark", "protocol", "rank", "method", "score"], rows),
        key=Key(methods=list(dict.fromkeys(str(row[3]) for row in rows))),
        columns=1 if len(panels) < 3 else 2,
        wide=True,
    )
    return [figure]


def budgets(views: Sequence[View]) -> list[Figure]:
    """What each protocol reached, against what its choice cost."""
    panels, rows = [], []
    for arena, boards in _arenas(views).items():
        if len(boards) < 2:
            continue
        cells: list[dict[str, Value]] = [
            {
                "method": row.label,
                "protocol": protocol_of(board),
                "trainings": row.budget.task_trainings,
                "score": found.mean,
                "low": found.mean - (found.interval or 0.0),
                "high": found.mean + (found.interval or 0.0),
            }
            for board in boards
            for row in first_rows(board)
            if (found := row.on_test(board.objective.metric)).mean is not None
            and row.budget.task_trainings
        ]
        if cells:
            panels.append(_budget_panel(views[0].labels, arena, boards, cells))
            rows += [[arena, c["protocol"], c["method"], c["trainings"], c["score"]] for c in cells]
    if not panels:
        return []
    figure = Figure(
        name="budgets",
        title="What a choice costs, and what it brings",
        caption="Tasks that were learned in the search (logarithmic), and the test result of what "
        "was chosen. A shape for each protocol.",
        panels=panels,
        table=Table(["benchmark", "protocol", "method", "task trainings", "score"], rows),
        key=Key(
            methods=list(dict.fromkeys(str(row[2]) for row in rows)),
            symbols=[
                (SIGNS[i % len(SIGNS)], name)
                for i, name in enumerate(dict.fromkeys(str(row[1]) for row in rows))
            ],
        ),
        columns=2,
    )
    return [figure]


SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left")
SIGNS = ("●", "■", "▲", "◆", "✚", "▼", "◀")
"""The same shapes, as text."""


def _arenas(views: Sequence[View]) -> dict[str, list[Board]]:
    arenas: dict[str, list[Board]] = {}
    for view in views:
        if view.board is not None and ranked(view.board):
            arenas.setdefault(view.board.arena, []).append(view.board)
    return arenas


def _bump(
    labels: Sequence[str],
    arena: str,
    boards: Sequence[Board],
    cells: list[dict[str, Value]],
    metric: str,
) -> Panel:
    source = Source(cells)
    names = [protocol_of(board) for board in boards]
    shown = list(dict.fromkeys(str(cell["method"]) for cell in cells))
    total = max(int(str(cell["place"])) for cell in cells)
    x = alt.X(
        "protocol:N",
        sort=names,
        title=None,
        scale=alt.Scale(type="point", padding=0.6),
        axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False, grid=True),
    )
    y = alt.Y(
        "place:Q",
        title="rank",
        scale=alt.Scale(domain=[total + 0.4, 0.6], nice=False),
        axis=alt.Axis(values=list(range(1, total + 1)), format="d", grid=False, domain=False),
    )
    color = method_color(labels, shown)
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("protocol:N"),
        alt.Tooltip("place:Q", title="rank"),
        alt.Tooltip("score:Q", title=metric, format=".4f"),
    ]
    base = source.chart().encode(x=x, y=y, color=color, opacity=focused())
    ends = {"left": names[0], "right": names[-1]}
    sides = [
        base.transform_filter(f"datum.protocol === {name!r}")
        .mark_text(align="right" if side == "left" else "left", dx=-20 if side == "left" else 20)
        .encode(text=alt.Text("method:N"))
        for side, name in ends.items()
    ]
    layers = [
        base.mark_line(strokeWidth=3, interpolate="monotone", opacity=0.7).encode(
            detail=alt.Detail("method:N")
        ),
        base.mark_circle(size=820, opacity=1).encode(tooltip=tips),
        source.chart()
        .mark_text(fontSize=10, fontWeight="bold", color="#ffffff")
        .encode(x=x, y=y, text=alt.Text("score:Q", format=".2f"), opacity=focused()),
        *sides,
    ]
    return Panel(layers, (source,), arena, max(140, 46 * total), 620)


def _budget_panel(
    labels: Sequence[str], arena: str, boards: Sequence[Board], cells: list[dict[str, Value]]
) -> Panel:
    source = Source(cells)
    names = list(dict.fromkeys(str(cell["protocol"]) for cell in cells))
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(names))]
    metric = words(boards[0].objective.metric)
    x = alt.X(
        "trainings:Q",
        title="task trainings in the search",
        scale=alt.Scale(type="log", padding=12),
        axis=alt.Axis(format="~s", tickCount=5, labelOverlap=True),
    )
    y = alt.Y("score:Q", title=metric, scale=alt.Scale(zero=False))
    color = method_color(labels, list(dict.fromkeys(str(cell["method"]) for cell in cells)))
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("protocol:N"),
        alt.Tooltip("trainings:Q", title="task trainings", format=","),
        alt.Tooltip("score:Q", title=metric, format=".4f"),
    ]
    base = source.chart()
    layers = [
        base.mark_line(strokeWidth=1, strokeDash=[3, 3]).encode(
            x=x, y=y, color=color, opacity=focused(0.45)
        ),
        base.mark_rule(strokeWidth=1.5).encode(
            x=x,
            y=alt.Y("low:Q", title=metric, scale=alt.Scale(zero=False)),
            y2=alt.Y2("high:Q"),
            color=color,
            opacity=focused(0.6),
        ),
        base.mark_point(size=90).encode(
            x=x,
            y=y,
            color=color,
            shape=alt.Shape(
                "protocol:N",
                scale=alt.Scale(domain=names, range=shapes),
                legend=alt.Legend(title=None, orient="bottom", columns=4),
            ),
            opacity=focused(),
            tooltip=tips,
        ),
    ]
    return Panel(layers, (source,), arena, 280, 440)

"""Several jobs side by side: standings, differences of the methods they share, and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from clray.report.figures import curves
from clray.report.figures.boards import first_rows
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
from clray.report.ranking import bounds
from clray.report.stored import Row
from clray.report.view import View


def standings(views: Sequence[View]) -> list[Figure]:
    """The leaderboards of all, on one scale: a line for each board, a dot for each method."""
    metric = _metric(views)
    cells: list[dict[str, Value]] = [
        {
            "board": where(view),
            "method": row.label,
            "bound": row.bound,
            "mean": found.mean,
            "low": found.mean - (found.interval or 0.0),
            "high": found.mean + (found.interval or 0.0),
        }
        for view in views
        for row in _rows(view)
        if (found := row.on_test(metric)).mean is not None
    ]
    if not cells:
        return []
    source = Source(cells)
    shown = _shown(views, cells)
    places = list(dict.fromkeys(str(cell["board"]) for cell in cells))
    color = method_color(views[0].labels, shown)
    x = alt.X(
        "mean:Q",
        title=words(metric),
        scale=alt.Scale(zero=False),
        axis=alt.Axis(grid=True, tickCount=8),
    )
    y = alt.Y(
        "board:N",
        sort=places,
        title=None,
        axis=alt.Axis(domain=False, ticks=False, labelLimit=260),
    )
    aside = alt.YOffset("method:N", sort=shown)
    tips = [
        alt.Tooltip("board:N"),
        alt.Tooltip("method:N"),
        alt.Tooltip("mean:Q", title=words(metric), format=".4f"),
        alt.Tooltip("low:Q", title="from", format=".4f"),
        alt.Tooltip("high:Q", title="to", format=".4f"),
    ]
    base = source.chart()
    shape = alt.ShapeValue("circle", condition={"test": "datum.bound", "value": "diamond"})
    layers = [
        base.mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q", title=words(metric), scale=alt.Scale(zero=False)),
            x2=alt.X2("high:Q"),
            y=y,
            yOffset=aside,
            color=color,
            opacity=focused(0.7),
        ),
        base.mark_point(size=80).encode(
            x=x, y=y, yOffset=aside, color=color, shape=shape, opacity=focused(), tooltip=tips
        ),
    ]
    height = max(120, len(places) * max(40, 14 * len(shown)))
    figure = Figure(
        name="standings",
        title="Leaderboards side by side",
        caption=f"{words(metric).capitalize()} on test, with 95 % intervals; bounds are diamonds.",
        panels=[Panel(layers, (source,), "", height, 760)],
        table=Table(
            ["board", "method", words(metric), "from", "to"],
            [[c["board"], c["method"], c["mean"], c["low"], c["high"]] for c in cells],
        ),
        key=Key(methods=shown),
        columns=1,
        stamp=_stamp(views),
    )
    return [figure]


def differences(views: Sequence[View]) -> list[Figure]:
    """How much better or worse a method is than on the first board, for all methods of both."""
    if len(views) < 2:
        return []
    metric, first = _metric(views), views[0]
    start = {row.label: row.on_test(metric) for row in _rows(first)}
    cells: list[dict[str, Value]] = []
    for view in views[1:]:
        for row in _rows(view):
            here, there = row.on_test(metric), start.get(row.label)
            if there is None or here.mean is None or there.mean is None:
                continue
            half = None
            if here.interval is not None and there.interval is not None:
                half = math.hypot(here.interval, there.interval)
            difference = here.mean - there.mean
            cells.append(
                {
                    "board": where(view),
                    "method": row.label,
                    "difference": difference,
                    "low": difference - (half or 0.0),
                    "high": difference + (half or 0.0),
                }
            )
    if not cells:
        return []
    shown = _shown(views, cells)
    panels = [
        _difference_panel(first, place, [c for c in cells if c["board"] == place], metric, shown)
        for place in dict.fromkeys(str(cell["board"]) for cell in cells)
    ]
    figure = Figure(
        name="differences",
        title=f"Against {where(first)}",
        caption=f"{words(metric).capitalize()} of the methods they share, less that on "
        f"{where(first)}. Bars: the two 95 % intervals together, as of independent runs.",
        panels=panels,
        table=Table(
            ["board", "method", "difference", "from", "to"], [list(c.values()) for c in cells]
        ),
        key=Key(methods=shown),
        stamp=_stamp(views),
    )
    return [figure]


def side_curves(views: Sequence[View]) -> list[Figure]:
    """The average-accuracy curves of all, a panel for each board."""
    panels, rows, shown = [], [], []
    for view in views:
        cells, labels = curves.curves_of(view)
        if cells:
            panels.append(curves.panel(cells, view.labels, labels, where(view), 380))
            rows += [[where(view), *row] for row in curves.table(cells).rows]
            shown += labels
    if not panels:
        return []
    figure = Figure(
        name="average-accuracy",
        title="Average accuracy after each task",
        caption="Mean accuracy on the tasks learned so far, over the final runs.",
        panels=panels,
        table=Table(["board", "method", "after task", "average accuracy", "from", "to"], rows),
        key=Key(methods=list(dict.fromkeys(shown))),
        columns=2,
        stamp=_stamp(views),
    )
    return [figure]


def where(view: View) -> str:
    """The job's name, with the board's where it has several; marked where it chose on test."""
    name = f"{view.job.name}: {view.name}" if view.name else view.job.name
    return f"{name} †" if view.warning else name


def _stamp(views: Sequence[View]) -> str | None:
    return "; ".join(dict.fromkeys(f"†: {v.warning}" for v in views if v.warning)) or None


def _metric(views: Sequence[View]) -> str:
    metrics = {view.objectives[0].metric for view in views}
    return metrics.pop() if len(metrics) == 1 else "average_accuracy"


def _shown(views: Sequence[View], cells: Sequence[dict[str, Value]]) -> list[str]:
    there = {cell["method"] for cell in cells}
    return [label for label in views[0].labels if label in there]


def _rows(view: View) -> list[Row]:
    return [*first_rows(view.board), *bounds(view.board)] if view.board else []


def _difference_panel(
    first: View, place: str, cells: list[dict[str, Value]], metric: str, shown: list[str]
) -> Panel:
    source = Source(cells)
    color = method_color(first.labels, shown)
    y = alt.Y("method:N", sort=shown, title=None, axis=alt.Axis(domain=False, ticks=False))
    title = f"difference in {words(metric)}"
    base = source.chart()
    zero = Source([{"zero": 0}])
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("difference:Q", format="+.4f"),
        alt.Tooltip("low:Q", title="from", format="+.4f"),
        alt.Tooltip("high:Q", title="to", format="+.4f"),
    ]
    layers = [
        zero.chart()
        .mark_rule(strokeWidth=1)
        .encode(x=alt.X("zero:Q", title=title, axis=alt.Axis(tickCount=5))),
        base.mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q", title=title),
            x2=alt.X2("high:Q"),
            y=y,
            color=color,
            opacity=focused(0.7),
        ),
        base.mark_point(size=80).encode(
            x=alt.X("difference:Q", title=title), y=y, color=color, opacity=focused(), tooltip=tips
        ),
    ]
    return Panel(layers, (source, zero), place, max(80, 28 * len(cells)), 320)

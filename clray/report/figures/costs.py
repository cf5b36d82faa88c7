"""What each task costs: parameters and bytes that are kept, and seconds."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt

from clray.metrics import interval
from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    Value,
    focused,
    focused_fill,
    method_color,
)
from clray.report.view import Run, View


def costs(view: View) -> list[Figure]:
    """Parameters, bytes and examples kept after each task, and the seconds that it took."""
    measures: list[tuple[str, str, Callable[[Run], list[float | None]]]] = [
        ("parameters", "~s", lambda run: [f.get("parameters") for f in run.footprints]),
        ("bytes kept", "~s", lambda run: [f.get("bytes") for f in run.footprints]),
        ("examples kept", "~s", lambda run: [f.get("examples") for f in run.footprints]),
        ("seconds for the task", ",.3~f", lambda run: list(run.seconds)),
    ]
    panels, rows = [], []
    for title, form, read in measures:
        cells = _cells(view, read)
        if any(cell["mean"] for cell in cells):
            panels.append(_panel(view, title, form, cells))
            rows += [[c["row"], title, c["after"], c["mean"], c["low"], c["high"]] for c in cells]
    if not panels:
        return []
    shown = list(dict.fromkeys(view.label_of(name) for name in view.runs))
    figure = Figure(
        name="costs",
        title="What each task costs",
        caption="After each task: parameters of the learner, everything it keeps (model, memory, "
        "importances) in bytes, examples in its memory; and the seconds the task took. "
        "Mean over the final runs, with 95 % intervals where they differ.",
        panels=panels,
        table=Table(["method", "measure", "after task", "mean", "from", "to"], rows),
        key=Key(methods=shown),
        columns=2,
    )
    return [figure]


def _cells(view: View, read: Callable[[Run], list[float | None]]) -> list[dict[str, Value]]:
    cells: list[dict[str, Value]] = []
    for name, runs in view.runs.items():
        columns = [read(run) for run in runs]
        for t in range(max(map(len, columns))):
            known = [c[t] for c in columns if t < len(c)]
            values = [value for value in known if value is not None]
            if not values:
                continue
            mean, half = interval(values)
            cells.append(
                {
                    "row": name,
                    "method": view.label_of(name),
                    "after": t + 1,
                    "mean": mean,
                    "low": max(0.0, mean - (half or 0.0)),
                    "high": mean + (half or 0.0),
                }
            )
    return cells


def _panel(view: View, title: str, form: str, cells: list[dict[str, Value]]) -> Panel:
    source = Source(cells)
    total = max(int(str(cell["after"])) for cell in cells)
    shown = list(dict.fromkeys(str(cell["method"]) for cell in cells))
    x = alt.X(
        "after:Q",
        title="task",
        axis=alt.Axis(format="d", tickMinStep=1),
        scale=alt.Scale(domain=[1, max(2, total)], nice=False),
    )
    axis = alt.Axis(format=form, title=None)
    y = alt.Y("mean:Q", axis=axis, scale=alt.Scale(zero=True))
    tips = [
        alt.Tooltip("row:N", title="method"),
        alt.Tooltip("after:Q", title="task"),
        alt.Tooltip("mean:Q", title=title, format=",.5~g"),
    ]
    base = source.chart().encode(
        x=x, color=method_color(view.labels, shown), detail=alt.Detail("row:N")
    )
    layers = [
        base.mark_area(opacity=1).encode(
            y=alt.Y("low:Q", axis=axis), y2=alt.Y2("high:Q"), fillOpacity=focused_fill(0.15, 0.02)
        ),
        base.mark_line().encode(y=y, opacity=focused()),
        base.mark_point(size=30 if total <= 30 else 8).encode(y=y, opacity=focused(), tooltip=tips),
    ]
    return Panel(layers, (source,), title, 190, 340)

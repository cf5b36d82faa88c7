"""Hyperparameters that are chosen anew for each task: what they were, task by task."""

from __future__ import annotations

import altair as alt

from clray.report.figures.axes import SHORT, SPREAD, powers_of_ten
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
from clray.report.numbers import knob as written
from clray.report.stored import Row
from clray.report.view import View


def trajectories(view: View) -> list[Figure]:
    """A panel for each knob: its value at each task, a line for each method."""
    rows = [row for row in view.rows if row.trajectory]
    paths = list(dict.fromkeys(p for row in rows for point in row.trajectory or [] for p in point))
    panels = [panel for path in paths if (panel := _panel(view, rows, path)) is not None]
    if not panels:
        return []
    shown = list(dict.fromkeys(row.label for row in rows))
    table: list[list[Value]] = [
        [row.name, task, path, written(value)]
        for row in rows
        for task, point in enumerate(row.trajectory or [], start=1)
        for path, value in point.items()
    ]
    figure = Figure(
        name="trajectories",
        title="Hyperparameters over the tasks",
        caption="What was chosen for each task; knobs that never changed are left out.",
        panels=panels,
        table=Table(["method", "task", "knob", "value"], table),
        key=Key(methods=shown),
        stamp=view.warning,
    )
    return [figure]


def _panel(view: View, rows: list[Row], path: str) -> Panel | None:
    cells: list[dict[str, Value]] = [
        {"row": row.name, "method": row.label, "task": task, "value": point[path]}
        for row in rows
        for task, point in enumerate(row.trajectory or [], start=1)
        if path in point
    ]
    values = [cell["value"] for cell in cells]
    if len({(cell["row"], str(cell["value"])) for cell in cells}) == len(rows):
        return None
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        cells = [{**cell, "value": written(cell["value"])} for cell in cells]
        y = alt.Y("value:N", title=None)
    else:
        log = min(numbers) > 0 and max(numbers) / min(numbers) > SPREAD
        scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
        ticks = powers_of_ten(min(numbers), max(numbers)) if log else []
        chosen = {"values": ticks} if len(ticks) > 1 else {"tickCount": 5}
        axis = alt.Axis(labelExpr=SHORT, labelOverlap=True, **chosen)
        y = alt.Y("value:Q", title=None, scale=scale, axis=axis)
    source = Source(cells)
    total = max(int(str(cell["task"])) for cell in cells)
    x = alt.X(
        "task:Q",
        title="task",
        axis=alt.Axis(format="d", tickMinStep=1),
        scale=alt.Scale(domain=[1, max(2, total)], nice=False, padding=6),
    )
    color = method_color(view.labels, list(dict.fromkeys(str(cell["method"]) for cell in cells)))
    tips = [
        alt.Tooltip("row:N", title="method"),
        alt.Tooltip("task:Q"),
        alt.Tooltip("value:N", title=path),
    ]
    base = source.chart().encode(
        x=x, y=y, color=color, detail=alt.Detail("row:N"), opacity=focused()
    )
    lines = base.mark_line(interpolate="step", strokeWidth=1.8)
    layers = [lines, base.mark_point(size=40).encode(tooltip=tips)]
    return Panel(layers, (source,), path, 180, 300)

"""How far each method is after each task: average accuracy with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from clray.metrics import average_accuracy, interval
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


def curve(view: View) -> list[Figure]:
    """The average accuracy after each task, with a 95 % interval, of all methods."""
    if not view.runs:
        return []
    cells = _cells(view)
    shown = list(dict.fromkeys(str(cell["method"]) for cell in cells))
    number = max(len(runs) for runs in view.runs.values())
    spread = ", with 95 % intervals" if number > 1 else ""
    figure = Figure(
        name="average-accuracy",
        title="Average accuracy after each task",
        caption="Mean accuracy on the tasks learned so far; mean over "
        f"{number} final run{'s' * (number != 1)}{spread}. Bounds are dashed.",
        panels=[panel(cells, view.labels, shown)],
        table=table(cells),
        key=Key(methods=shown),
        columns=1,
        wide=False,
        stamp=view.warning,
    )
    return [figure]


def curves_of(view: View) -> tuple[list[dict[str, Value]], list[str]]:
    """The curve's numbers, and the labels in it: what several jobs beside one another show."""
    cells = _cells(view)
    return cells, list(dict.fromkeys(str(cell["method"]) for cell in cells))


def panel(
    cells: Sequence[Mapping[str, Value]],
    labels: Sequence[str],
    shown: Sequence[str],
    title: str = "",
    width: int = 560,
) -> Panel:
    """One plot of such curves.

    Args:
        cells: with row, method, bound, after, mean, low and high.
        labels: all methods of the page.
        shown: those in the legend.
        title: above it.
        width: in the picture.
    """
    source = Source([dict(cell) for cell in cells])
    total = max((int(str(cell["after"])) for cell in cells), default=1)
    x = alt.X(
        "after:Q",
        title="after task",
        axis=alt.Axis(format="d", tickMinStep=1),
        scale=alt.Scale(domain=[1, max(2, total)], nice=False),
    )
    y = alt.Y("mean:Q", title="average accuracy", scale=alt.Scale(zero=False))
    color = method_color(labels, shown)
    tips = [
        alt.Tooltip("row:N", title="method"),
        alt.Tooltip("after:Q", title="after task"),
        alt.Tooltip("mean:Q", title="average accuracy", format=".4f"),
        alt.Tooltip("low:Q", title="from", format=".4f"),
        alt.Tooltip("high:Q", title="to", format=".4f"),
    ]
    base = source.chart().encode(x=x, color=color, detail=alt.Detail("row:N"))
    dash = alt.StrokeDashValue([1, 0], condition={"test": "datum.bound", "value": [5, 4]})
    layers = [
        base.mark_area(opacity=1).encode(
            y=alt.Y("low:Q", title="average accuracy", scale=alt.Scale(zero=False)),
            y2=alt.Y2("high:Q"),
            fillOpacity=focused_fill(0.16, 0.02),
        ),
        base.mark_line(strokeWidth=2.2).encode(y=y, strokeDash=dash, opacity=focused()),
        base.mark_point(size=40 if total <= 30 else 10).encode(
            y=y, opacity=focused(), tooltip=tips
        ),
    ]
    return Panel(layers, (source,), title, 260, width)


def table(cells: Sequence[Mapping[str, Value]]) -> Table:
    """The numbers of such curves."""
    columns = ("row", "after", "mean", "low", "high")
    rows = [[cell[column] for column in columns] for cell in cells]
    return Table(["method", "after task", "average accuracy", "from", "to"], rows)


def _cells(view: View) -> list[dict[str, Value]]:
    bound = {row.name: row.bound for row in view.rows}
    cells: list[dict[str, Value]] = []
    for name, runs in view.runs.items():
        for t in range(min(len(run.R) for run in runs)):
            known = [v for run in runs if (v := _after(run, t)) is not None]
            if not known:
                continue
            mean, half = interval(known)
            low, high = (mean - half, mean + half) if half is not None else (mean, mean)
            cells.append(
                {
                    "row": name,
                    "method": view.label_of(name),
                    "bound": bound[name],
                    "after": t + 1,
                    "mean": mean,
                    "low": max(0.0, low),
                    "high": min(1.0, high),
                }
            )
    return cells


def _after(run: Run, task: int) -> float | None:
    return average_accuracy(run.R[: task + 1])

"""The accuracy matrix, task by task: heat maps, accuracies over time, forgetting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from clray.metrics import interval
from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    Value,
    beside,
    focused,
    method_color,
    ramp_color,
)
from clray.report.figures.look import RAMP
from clray.report.numbers import evenly
from clray.report.view import Run, View

WRITTEN = 10
"""Up to so many tasks, the accuracies are written into the cells."""
NAMED = 12
"""Up to so many tasks, axes show the tasks' names."""
LINES = 20
"""Tasks that are drawn over time at most."""


def accuracy_matrix(view: View) -> list[Figure]:
    """A heat map of each method's accuracy matrix, mean over the final runs."""
    if not view.runs:
        return []
    panels, rows = [], []
    for name, runs in view.runs.items():
        names, mean = _names(runs), _mean_matrix(runs)
        panels.append(_heat(name, names, mean))
        rows += [
            [name, f"{t + 1}", names[t], *mean[t], *[None] * (_width(view) - len(mean[t]))]
            for t in range(len(mean))
        ]
    early = any(len(row) > t + 1 for runs in view.runs.values() for t, row in enumerate(runs[0].R))
    early = early and _width(view) <= LINES
    heads = ["method", "after", "task", *[str(i + 1) for i in range(_width(view))]]
    figure = Figure(
        name="accuracy-matrix",
        title="Accuracy matrix",
        caption="Row: after learning that task; column: accuracy on that task. "
        + _over(view)
        + (" Cells above the diagonal are tasks not learned yet." if early else ""),
        panels=panels,
        table=Table(heads, rows),
        key=Key(ramp=(RAMP, "0", "1", "accuracy")),
        columns=beside(len(panels)),
        stamp=view.warning,
    )
    return [figure]


def tasks_over_time(view: View) -> list[Figure]:
    """The accuracy on each task while later ones are learned: a panel for each method."""
    runs_by_name = {name: runs for name, runs in view.runs.items() if len(runs[0].R) > 1}
    if not runs_by_name:
        return []
    panels, rows = [], []
    for name, runs in runs_by_name.items():
        names, mean = _names(runs), _mean_matrix(runs)
        shown = evenly(len(mean), LINES)
        panels.append(_lines(name, names, mean, shown))
        rows += [
            [name, names[i], *[mean[t][i] if t >= i else None for t in range(len(mean))]]
            for i in shown
        ]
    total = _width(view)
    some = f" {LINES} of {total} tasks, evenly spread." if total > LINES else ""
    figure = Figure(
        name="tasks-over-time",
        title="Accuracy of each task over time",
        caption=f"A line for each task, from when it is learned on.{some} {_over(view)}",
        panels=panels,
        table=Table(
            ["method", "task", *[f"after {t + 1}" for t in range(total)]],
            [[*row, *[None] * (total + 2 - len(row))] for row in rows],
        ),
        key=Key(ramp=(RAMP[:-1], "first task", "last task", "")),
        columns=beside(len(panels)),
        stamp=view.warning,
    )
    return [figure]


def forgetting(view: View) -> list[Figure]:
    """How far each task has fallen from its best at the end, aligned by the tasks' names; by their
    positions where runs differ in what their tasks are."""
    places: dict[str, None] = {}
    found: dict[tuple[str, str], list[float]] = {}
    named = len({frozenset(run.names) for runs in view.runs.values() for run in runs}) == 1
    for name, runs in view.runs.items():
        for run in runs:
            names = run.names if named else [str(i + 1) for i in range(len(run.names))]
            for task, value in zip(names, run.forgetting, strict=True):
                places.setdefault(task)
                if value is not None:
                    found.setdefault((name, task), []).append(value)
    if not found:
        return []
    order = list(places)
    cells: list[dict[str, Value]] = []
    for (name, task), values in found.items():
        mean, half = interval(values)
        low, high = (mean - half, mean + half) if half is not None else (mean, mean)
        cells.append(
            {
                "row": name,
                "method": view.label_of(name),
                "task": task,
                "place": order.index(task) + 1,
                "mean": mean,
                "low": low,
                "high": high,
            }
        )
    source = Source(cells)
    shown = list(dict.fromkeys(view.label_of(name) for name, _ in found))
    color = method_color(view.labels, shown)
    y = alt.Y("mean:Q", title="forgetting")
    tips = [
        alt.Tooltip("row:N", title="method"),
        alt.Tooltip("task:N"),
        alt.Tooltip("mean:Q", title="forgetting", format=".4f"),
        alt.Tooltip("low:Q", title="from", format=".4f"),
        alt.Tooltip("high:Q", title="to", format=".4f"),
    ]
    base = source.chart()
    layers: list[alt.Chart]
    if len(order) <= NAMED:
        x = alt.X("task:N", sort=order, title="task", axis=alt.Axis(labelAngle=_angle(order)))
        aside = alt.XOffset("row:N", sort=list(view.runs))
        layers = [
            base.mark_rule(strokeWidth=2).encode(
                x=x,
                xOffset=aside,
                y=alt.Y("low:Q", title="forgetting"),
                y2=alt.Y2("high:Q"),
                color=color,
                opacity=focused(0.7),
            ),
            base.mark_point(size=55).encode(
                x=x, xOffset=aside, y=y, color=color, opacity=focused(), tooltip=tips
            ),
        ]
    else:
        x = alt.X("place:Q", title="task", axis=alt.Axis(format="d", tickMinStep=1))
        line = {"x": x, "color": color, "detail": alt.Detail("row:N")}
        layers = [
            base.mark_area(opacity=0.12).encode(
                y=alt.Y("low:Q", title="forgetting"), y2=alt.Y2("high:Q"), **line
            ),
            base.mark_line(strokeWidth=1.5).encode(y=y, opacity=focused(0.9), **line),
            base.mark_point(size=14).encode(y=y, opacity=focused(0.9), tooltip=tips, **line),
        ]
    figure = Figure(
        name="forgetting",
        title="Forgetting of each task",
        caption="How far the accuracy on each task lies below its best at the end of the stream. "
        "Below 0: later tasks helped. " + _over(view, whiskers=True),
        panels=[Panel(layers, (source,), "", 260, 560)],
        table=Table(
            ["method", "task", "forgetting", "from", "to"],
            [[c["row"], c["task"], c["mean"], c["low"], c["high"]] for c in cells],
        ),
        key=Key(methods=shown),
        columns=1,
        wide=False,
        stamp=view.warning,
    )
    return [figure]


def _heat(name: str, names: Sequence[str], mean: Sequence[Sequence[float | None]]) -> Panel:
    total = len(mean)
    cells: list[dict[str, Value]] = [
        {"after": t + 1, "task": i + 1, "accuracy": value, "later": i > t}
        for t in range(total)
        for i, value in enumerate(mean[t][:total])
        if value is not None and (i <= t or total <= LINES)
    ]
    source = Source(cells)
    ticks = [i + 1 for i in evenly(total, NAMED)]
    axis = alt.Axis(values=ticks, domain=False, ticks=False, labelAngle=0, labelOverlap="greedy")
    across = axis
    if total <= NAMED and list(names) != [str(i + 1) for i in range(total)]:
        chosen = "{" + ",".join(f"{t}:{_quoted(names[t - 1])}" for t in ticks) + "}[datum.value]"
        angle = _angle(names)
        across = alt.Axis(
            values=ticks, domain=False, ticks=False, labelAngle=angle, labelExpr=chosen
        )
    x = alt.X("task:O", title="accuracy on task", axis=across)
    y = alt.Y("after:O", title="after task", axis=axis)
    tips = [
        alt.Tooltip("after:O", title="after task"),
        alt.Tooltip("task:O", title="on task"),
        alt.Tooltip("accuracy:Q", format=".4f"),
    ]
    faint = alt.OpacityValue(1, condition={"test": "datum.later", "value": 0.35})
    color = ramp_color("accuracy", "accuracy", RAMP, 0, 1)
    squares = source.chart().mark_rect().encode(x=x, y=y, color=color, opacity=faint, tooltip=tips)
    layers = [squares]
    if total <= WRITTEN:
        text = source.chart().mark_text(fontSize=10)
        ink = alt.ColorValue(
            "#ffffff", condition={"test": "datum.accuracy > 0.6", "value": "#111111"}
        )
        written = alt.Text("accuracy:Q", format=".2f")
        layers += [
            text.transform_filter("!datum.later").encode(x=x, y=y, text=written, color=ink),
            text.transform_filter("datum.later").encode(
                x=x, y=y, text=written, opacity=alt.OpacityValue(0.7)
            ),
        ]
    height = min(320, max(150, 28 * total)) if total <= LINES else 300
    return Panel(layers, (source,), name, height, 300)


def _lines(
    name: str, names: Sequence[str], mean: Sequence[Sequence[float | None]], shown: Sequence[int]
) -> Panel:
    total = len(mean)
    source = Source(
        [
            {"task": i + 1, "name": names[i], "after": t + 1, "accuracy": mean[t][i]}
            for i in shown
            for t in range(i, total)
            if i < len(mean[t]) and mean[t][i] is not None
        ]
    )
    color = ramp_color("task", "task", RAMP[:-1], 1, total)
    x = alt.X(
        "after:Q",
        title="after task",
        axis=alt.Axis(format="d", tickMinStep=1),
        scale=alt.Scale(domain=[1, total], nice=False),
    )
    y = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]))
    tips = [
        alt.Tooltip("name:N", title="task"),
        alt.Tooltip("after:Q", title="after task"),
        alt.Tooltip("accuracy:Q", format=".4f"),
    ]
    base = source.chart().encode(x=x, y=y, color=color, detail=alt.Detail("task:N"))
    size = 30 if total <= NAMED else 8
    layers = [base.mark_line(), base.mark_point(size=size).encode(tooltip=tips)]
    return Panel(layers, (source,), name, 200, 300)


def _mean_matrix(runs: Sequence[Run]) -> list[list[float | None]]:
    """Entry by entry, over the runs that measured it; tasks by their position."""
    length = min(len(run.R) for run in runs)
    mean: list[list[float | None]] = []
    for t in range(length):
        width = min(length, max(len(run.R[t]) for run in runs))
        entries: list[float | None] = []
        for i in range(width):
            known = [v for run in runs if i < len(run.R[t]) and (v := run.R[t][i]) is not None]
            entries.append(math.fsum(known) / len(known) if known else None)
        mean.append(entries)
    return mean


def _names(runs: Sequence[Run]) -> list[str]:
    """The tasks' names, or their positions where runs learned them in different orders."""
    same = all(run.names == runs[0].names for run in runs)
    return runs[0].names if same else [str(i + 1) for i in range(len(runs[0].names))]


def _width(view: View) -> int:
    return max(len(run.R) for runs in view.runs.values() for run in runs)


def _over(view: View, whiskers: bool = False) -> str:
    number = max(len(runs) for runs in view.runs.values())
    spread = ", with 95 % intervals" if whiskers and number > 1 else ""
    mixed = any(run.names != runs[0].names for runs in view.runs.values() for run in runs)
    orders = "; tasks by their position in each run's order" if mixed and not whiskers else ""
    return f"Mean over {number} final run{'s' * (number != 1)}{spread}{orders}."


def _angle(names: Sequence[str]) -> int:
    return 0 if max(map(len, names), default=0) <= 4 else -40


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

"""Parallel coordinates: each trial a line through its knobs to what it came to."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from clray.report.figures.axes import KnobAxis
from clray.report.figures.figure import Figure, Key, Panel, Source, Table, Value, pixel, ramp_color
from clray.report.figures.look import RAMP
from clray.report.figures.searching import measured
from clray.report.numbers import knob as written
from clray.report.numbers import words
from clray.report.stored import TrialLine
from clray.report.view import View


def parallel(
    view: View, label: str, lines: Sequence[TrialLine], axes: Sequence[KnobAxis], name: str
) -> Figure:
    """The figure of one search.

    Args:
        view: the board.
        label: the method's.
        lines: its completed trials.
        axes: of its knobs, from left to right; the objectives follow.
        name: of the picture.
    """
    goals = [
        KnobAxis(o.metric, min(found), max(found))
        for index, o in enumerate(view.objectives)
        if (found := [v for t in lines if (v := measured(t, o, index == 0)) is not None])
    ]
    names = [axis.name for axis in axes]
    heads = [a.name if names.count(a.name) == 1 else a.path for a in axes]
    heads += [words(goal.path) for goal in goals]
    cells: list[dict[str, Value]] = []
    rows: list[list[Value]] = []
    for line in lines:
        result = measured(line, view.objectives[0], first=True)
        values: list[tuple[KnobAxis, Value]] = [(a, line.values.get(a.path)) for a in axes]
        values += [(g, measured(line, view.objectives[i], i == 0)) for i, g in enumerate(goals)]
        if result is None or any(value is None for axis, value in values if not axis.categories):
            continue
        rows.append([line.number, line.chosen, *[value for _, value in values]])
        cells += [
            {
                "trial": line.number,
                "line": len(rows),
                "axis": head,
                "place": axis.place(value),
                "shown": written(value),
                "value": result,
                "chosen": line.chosen,
            }
            for head, (axis, value) in zip(heads, values, strict=True)
        ]
    source = Source(cells)
    ends = Source(
        [
            {"axis": head, "low": axis.ends[0], "high": axis.ends[1]}
            for head, axis in zip(heads, [*axes, *goals], strict=True)
        ]
    )
    return Figure(
        name=name,
        title=f"Parallel coordinates: {label}",
        caption=f"{len(rows)} completed trials, each a line through its hyperparameters to "
        f"{words(view.objectives[0].metric)}, which gives it its colour; the chosen one is bold.",
        panels=[_panel(source, ends, heads, goals[0], view)],
        table=Table(["trial", "chosen", *heads], rows),
        key=Key(
            ramp=(RAMP, *goals[0].ends, words(view.objectives[0].metric)),
            symbols=(("━", "chosen"),),
        ),
        columns=1,
        stamp=view.warning,
        group=label,
    )


def _panel(source: Source, ends: Source, heads: list[str], goal: KnobAxis, view: View) -> Panel:
    height = 250
    axis = alt.Axis(
        labelAngle=0, orient="top", domain=False, ticks=False, grid=True, labelPadding=20
    )
    x = alt.X(
        "axis:N", sort=heads, title=None, axis=axis, scale=alt.Scale(type="point", padding=0.3)
    )
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    title = words(view.objectives[0].metric)
    color = ramp_color("value", title, RAMP, goal.low, goal.high)
    tips = [
        alt.Tooltip("trial:Q"),
        alt.Tooltip("axis:N", title="knob"),
        alt.Tooltip("shown:N", title="value"),
        alt.Tooltip("value:Q", title=title, format=".4~g"),
    ]
    base = source.chart()
    lines = base.mark_line(strokeWidth=1.1, strokeOpacity=0.45)
    chosen = base.transform_filter("datum.chosen").mark_line(strokeWidth=3.2, color="#e5484d")
    text = ends.chart().mark_text(fontSize=10, opacity=0.75)
    layers = [
        lines.encode(x=x, y=y, color=color, detail=alt.Detail("line:N")),
        chosen.encode(x=x, y=y, detail=alt.Detail("line:N")),
        base.mark_point(size=12, fillOpacity=0.5).encode(x=x, y=y, color=color, tooltip=tips),
        text.encode(x=x, y=pixel(height + 12), text=alt.Text("low:N")),
        text.encode(x=x, y=pixel(-10), text=alt.Text("high:N")),
    ]
    return Panel(layers, (source, ends), "", height, 900)

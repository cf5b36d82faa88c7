"""What the knobs did: slices, pairs of knobs with a surface, and parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import altair as alt

from clray.objective import Objective
from clray.report.figures.axes import KnobAxis, knob_axes
from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    Value,
    beside,
    file_part,
    ramp_color,
    ramp_scale,
)
from clray.report.figures.look import RAMP
from clray.report.figures.parallel import parallel
from clray.report.figures.searching import measured
from clray.report.figures.surface import CELLS, surface
from clray.report.numbers import knob as written
from clray.report.numbers import words
from clray.report.stored import TrialLine
from clray.report.view import View

PAIRED = 4
"""The knobs that mattered most, whose pairs are drawn."""
FEWEST = 4
"""Completed trials that a search needs, to be drawn."""


def knobs(view: View) -> list[Figure]:
    """Slices, contours and parallel coordinates of each method's search."""
    figures = []
    for label, lines in view.searches().items():
        done = [line for line in lines if line.state == "completed"]
        axes = knob_axes(done, view.dimensions(label))
        if len(done) >= FEWEST and axes:
            axes = _by_importance(view, label, axes)
            figures.append(_slices(view, label, done, axes))
            if len(axes) > 1:
                figures += _contours(view, label, done, axes)
                figures.append(parallel(view, label, done, axes, f"parallel.{file_part(label)}"))
    return figures


def _by_importance(view: View, label: str, axes: list[KnobAxis]) -> list[KnobAxis]:
    """The axes, those that mattered most for the first objective first."""
    metric = view.objectives[0].metric
    rows = view.board.rows if view.board else []
    shares = next(
        (r.importances[metric] for r in rows if r.label == label and metric in r.importances), {}
    )
    return sorted(axes, key=lambda axis: -shares.get(axis.path, 0.0))


def _slices(view: View, label: str, lines: Sequence[TrialLine], axes: list[KnobAxis]) -> Figure:
    panels, rows = [], []
    for index, objective in enumerate(view.objectives):
        for axis in axes:
            cells: list[dict[str, Value]] = [
                {
                    "x": axis.value(line.values[axis.path]),
                    "y": measured(line, objective, index == 0),
                    "trial": line.number,
                    "chosen": line.chosen,
                }
                for line in lines
                if axis.path in line.values
            ]
            source = Source(cells)
            panels.append(_slice_panel(source, axis, objective, len(lines)))
            rows += _slice_rows(axis, objective, index, lines)
    return Figure(
        name=f"slices.{file_part(label)}",
        title=f"Slices: {label}",
        caption=f"{len(lines)} completed trials, one knob at a time; "
        "later trials are brighter, the chosen one is ringed.",
        panels=panels,
        table=Table(["objective", "knob", "from", "to", "trials", "mean", "best"], rows),
        key=Key(ramp=(RAMP, "first trial", "last trial", ""), symbols=(("◯", "chosen"),)),
        columns=beside(len(panels), four=True),
        stamp=view.warning,
        group=label,
    )


def _slice_panel(source: Source, axis: KnobAxis, objective: Objective, total: int) -> Panel:
    x = axis.x("x")
    y = alt.Y("y:Q", title=words(objective.metric), scale=alt.Scale(zero=False))
    tips = [
        alt.Tooltip("trial:Q"),
        alt.Tooltip(f"x:{axis.kind}", title=axis.name),
        alt.Tooltip("y:Q", title=words(objective.metric), format=".4~g"),
    ]
    base = source.chart().transform_filter("isValid(datum.y)")
    layers = [
        base.mark_circle(size=30, opacity=1, fillOpacity=0.75).encode(
            x=x, y=y, color=ramp_color("trial", "trial", RAMP, 0, total), tooltip=tips
        ),
        base.transform_filter("datum.chosen")
        .mark_point(size=150, filled=False, strokeWidth=2, shape="circle", color="#e5484d")
        .encode(x=x, y=y, tooltip=tips),
    ]
    return Panel(layers, (source,), "", 170, 230)


def _slice_rows(
    axis: KnobAxis, objective: Objective, index: int, lines: Sequence[TrialLine]
) -> list[list[Value]]:
    """Trials in four groups along the knob, or one for each category."""
    pairs = [
        (axis.place(line.values[axis.path]), line.values[axis.path], value)
        for line in lines
        if axis.path in line.values and (value := measured(line, objective, index == 0)) is not None
    ]
    pairs.sort(key=lambda pair: pair[0])
    if axis.categories:
        groups = [[p for p in pairs if written(p[1]) == name] for name in axis.categories]
    else:
        quarter = max(1, -(-len(pairs) // 4))
        groups = [pairs[i : i + quarter] for i in range(0, len(pairs), quarter)]
    pick = max if objective.sign == 1 else min
    return [
        [
            words(objective.metric),
            axis.path,
            axis.value(group[0][1]),
            axis.value(group[-1][1]),
            len(group),
            fmean(p[2] for p in group),
            pick(p[2] for p in group),
        ]
        for group in groups
        if group
    ]


def _contours(
    view: View, label: str, lines: Sequence[TrialLine], axes: list[KnobAxis]
) -> list[Figure]:
    numeric = [axis for axis in axes if not axis.categories][:PAIRED]
    panels, rows = [], []
    for index, objective in enumerate(view.objectives):
        for first, second in combinations(numeric, 2):
            points = [
                (line, value)
                for line in lines
                if first.path in line.values and second.path in line.values
                if (value := measured(line, objective, index == 0)) is not None
            ]
            if len(points) < FEWEST:
                continue
            title = words(objective.metric) if len(view.objectives) > 1 else ""
            panels.append(_contour_panel(first, second, objective, points, title))
            pick = max if objective.sign == 1 else min
            best, value = pick(points, key=lambda point: point[1])
            rows.append(
                [
                    words(objective.metric),
                    first.path,
                    second.path,
                    best.number,
                    first.value(best.values[first.path]),
                    second.value(best.values[second.path]),
                    value,
                ]
            )
    if not panels:
        return []
    goal = words(view.objectives[0].metric) if len(view.objectives) == 1 else "objective"
    heads = ["objective", "first knob", "second knob", "best trial", "first", "second", "value"]
    figure = Figure(
        name=f"contours.{file_part(label)}",
        title=f"Pairs of knobs: {label}",
        caption=f"The {len(numeric)} knobs that mattered most, two at a time. The ground is a mean "
        "of the trials around, by distance; it is left out where there are none near. "
        "Dots are trials.",
        panels=panels,
        table=Table(heads, rows),
        key=Key(ramp=(RAMP, "lowest", "highest", goal), symbols=(("◯", "chosen"),)),
        columns=beside(len(panels)),
        stamp=view.warning,
        group=label,
    )
    return [figure]


def _contour_panel(
    first: KnobAxis,
    second: KnobAxis,
    objective: Objective,
    points: Sequence[tuple[TrialLine, float]],
    title: str,
) -> Panel:
    places = [
        (first.place(line.values[first.path]), second.place(line.values[second.path]), value)
        for line, value in points
    ]
    ground: list[dict[str, Value]] = [
        {
            "x": first.at(i / CELLS),
            "x2": first.at((i + 1) / CELLS),
            "y": second.at(j / CELLS),
            "y2": second.at((j + 1) / CELLS),
            "value": value,
        }
        for i, j, value in surface(places)
    ]
    dots: list[dict[str, Value]] = [
        {
            "x": first.value(line.values[first.path]),
            "y": second.value(line.values[second.path]),
            "value": value,
            "trial": line.number,
            "chosen": line.chosen,
        }
        for line, value in points
    ]
    below, above = Source(ground), Source(dots)
    low, high = min(p[2] for p in places), max(p[2] for p in places)
    scale = ramp_scale(RAMP, low, high)
    x, y = first.x("x"), second.y("y")
    tips = [
        alt.Tooltip("trial:Q"),
        alt.Tooltip("x:Q", title=first.name),
        alt.Tooltip("y:Q", title=second.name),
        alt.Tooltip("value:Q", title=words(objective.metric), format=".4~g"),
    ]
    layers = [
        below.chart()
        .mark_rect(strokeWidth=0.7)
        .encode(
            x=x,
            x2=alt.X2("x2:Q"),
            y=y,
            y2=alt.Y2("y2:Q"),
            fill=alt.Fill("value:Q", scale=scale, legend=None),
            stroke=alt.Stroke("value:Q", scale=scale, legend=None),
        ),
        above.chart()
        .mark_point(size=26, filled=True, stroke="#ffffff", strokeWidth=0.8)
        .encode(x=x, y=y, fill=alt.Fill("value:Q", scale=scale, legend=None), tooltip=tips),
        above.chart()
        .transform_filter("datum.chosen")
        .mark_point(size=170, filled=False, strokeWidth=2.2, shape="circle", color="#e5484d")
        .encode(x=x, y=y, tooltip=tips),
    ]
    return Panel(layers, (below, above), title, 220, 260)

"""Several objectives at once: the trials, the Pareto front, and what was tested of it."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import altair as alt

from clray.objective import Objective, front
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
from clray.report.figures.searching import measured
from clray.report.numbers import words
from clray.report.view import View


def pareto(view: View) -> list[Figure]:
    """Each pair of objectives: trials on what the choice looked at, the tested rows on test."""
    if len(view.objectives) < 2:
        return []
    panels, rows = [], []
    for first, second in combinations(range(len(view.objectives)), 2):
        cells = _trials(view, first, second)
        if not cells:
            continue
        one, two = view.objectives[first], view.objectives[second]
        pair = f"{words(one.metric)}, {words(two.metric)}"
        panels.append(_search_panel(view, cells, one, two))
        rows += [
            ["search", c["method"], c["trial"], pair, c["x"], c["y"]] for c in cells if c["front"]
        ]
        tested = _tested(view, one, two)
        if tested:
            panels.append(_test_panel(view, tested, one, two))
            rows += [["test", c["method"], c["trial"], pair, c["x"], c["y"]] for c in tested]
    if not panels:
        return []
    shown = [label for label in view.labels if any(line.label == label for line in view.trials)]
    goals = " and ".join(
        f"{'high' if objective.sign == 1 else 'low'} {words(objective.metric)}"
        for objective in view.objectives
    )
    figure = Figure(
        name="pareto",
        title="Pareto front",
        caption=f"Wanted: {goals}. Lines join the trials of each method that no other one of its "
        "trials beats in both; under “on test” stand the rows that were tested, with intervals.",
        panels=panels,
        table=Table(["data", "method", "trial", "objectives", "first", "second"], rows),
        key=Key(methods=shown),
        columns=2,
        stamp=view.warning,
    )
    return [figure]


def _trials(view: View, first: int, second: int) -> list[dict[str, Value]]:
    one, two = view.objectives[first], view.objectives[second]
    cells: list[dict[str, Value]] = []
    for label, lines in view.searches().items():
        points = [
            (line, x, y)
            for line in lines
            if line.feasible
            and line.stage == "search"
            and (x := measured(line, one, first == 0)) is not None
            and (y := measured(line, two, False)) is not None
        ]
        best = set(front([(one.sign * x, two.sign * y) for _, x, y in points]))
        cells += [
            {
                "method": label,
                "trial": line.number,
                "x": x,
                "y": y,
                "front": i in best,
                "chosen": line.chosen,
            }
            for i, (line, x, y) in enumerate(points)
        ]
    return cells


def _tested(view: View, one: Objective, two: Objective) -> list[dict[str, Value]]:
    cells: list[dict[str, Value]] = []
    for row in view.rows:
        across, up = row.on_test(one.metric), row.on_test(two.metric)
        if across.mean is None or up.mean is None:
            continue
        wide, high = across.interval or 0.0, up.interval or 0.0
        cells.append(
            {
                "row": row.name,
                "method": row.label,
                "bound": row.bound,
                "trial": row.number,
                "x": across.mean,
                "y": up.mean,
                "left": across.mean - wide,
                "right": across.mean + wide,
                "low": up.mean - high,
                "high": up.mean + high,
            }
        )
    return cells


def _encodings(one: Objective, two: Objective) -> tuple[alt.X, alt.Y]:
    x = alt.X("x:Q", title=words(one.metric), scale=alt.Scale(zero=False), axis=_axis(one))
    y = alt.Y("y:Q", title=words(two.metric), scale=alt.Scale(zero=False), axis=_axis(two))
    return x, y


def _axis(objective: Objective) -> alt.Axis:
    large = objective.metric in (
        "parameters",
        "bytes",
        "steps",
        "examples_seen",
        "examples_processed",
    )
    return alt.Axis(format="~s" if large else "~g", grid=True, tickCount=6)


def _search_panel(
    view: View, cells: list[dict[str, Value]], one: Objective, two: Objective
) -> Panel:
    source = Source(cells)
    x, y = _encodings(one, two)
    shown = list(dict.fromkeys(str(cell["method"]) for cell in cells))
    color = method_color(view.labels, shown)
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("trial:Q"),
        alt.Tooltip("x:Q", title=words(one.metric), format=".4~g"),
        alt.Tooltip("y:Q", title=words(two.metric), format=".4~g"),
    ]
    base = source.chart()
    best = base.transform_filter("datum.front")
    step: Literal["step-before", "step-after"] = "step-before" if one.sign == 1 else "step-after"
    layers = [
        base.mark_circle(size=18, opacity=1).encode(
            x=x, y=y, color=color, fillOpacity=focused_fill(0.3), tooltip=tips
        ),
        best.mark_line(interpolate=step, strokeWidth=1.6).encode(
            x=x, y=y, color=color, opacity=focused(0.8)
        ),
        best.mark_point(size=46).encode(x=x, y=y, color=color, opacity=focused(), tooltip=tips),
    ]
    return Panel(layers, (source,), "trials of the search", 280, 380)


def _test_panel(view: View, cells: list[dict[str, Value]], one: Objective, two: Objective) -> Panel:
    source = Source(cells)
    x, y = _encodings(one, two)
    color = method_color(view.labels, list(dict.fromkeys(str(cell["method"]) for cell in cells)))
    tips = [
        alt.Tooltip("row:N", title="method"),
        alt.Tooltip("x:Q", title=words(one.metric), format=".4~g"),
        alt.Tooltip("y:Q", title=words(two.metric), format=".4~g"),
    ]
    base = source.chart()
    shape = alt.ShapeValue("circle", condition={"test": "datum.bound", "value": "diamond"})
    left = alt.X("left:Q", title=words(one.metric), scale=alt.Scale(zero=False))
    low = alt.Y("low:Q", title=words(two.metric), scale=alt.Scale(zero=False))
    layers = [
        base.mark_rule(strokeWidth=1.6).encode(
            x=left, x2=alt.X2("right:Q"), y=y, color=color, opacity=focused(0.6)
        ),
        base.mark_rule(strokeWidth=1.6).encode(
            x=x, y=low, y2=alt.Y2("high:Q"), color=color, opacity=focused(0.6)
        ),
        base.mark_point(size=90).encode(
            x=x, y=y, color=color, shape=shape, opacity=focused(), tooltip=tips
        ),
    ]
    return Panel(layers, (source,), "on test", 280, 380)

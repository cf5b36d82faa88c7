"""Continual evaluation of all methods: accuracy over the updates of the stream."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    focused,
    focused_fill,
    method_color,
)
from clray.report.figures.traced import (
    Cells,
    accuracy_scale,
    has_bounds,
    left_out,
    lowest,
    mean_line,
    rules,
    shown_from,
    starts_of,
    stream_x,
    thinned,
    traces_by_row,
    who,
)
from clray.report.view import View
from clray.traces import GROUPS, Group, Trace, reference_of

WIDE = 900
"""Pixels of the stream in the picture."""
NAMES: dict[Group, str] = {"old": "old tasks", "new": "the new task", "all": "all tasks so far"}


def stream(view: View) -> list[Figure]:
    """Accuracy on old tasks, the new one and all of them over the whole stream, a line for each
    method; joint training as what it reaches with each task."""
    found = traces_by_row(view)
    if not found:
        return []
    joint = _joint(view, found)
    lines = {name: runs for name, runs in found.items() if name != joint} or found
    starts = starts_of([run for runs in lines.values() for run in runs])
    panels, dips = [], list[Cells]()
    shown = list(dict.fromkeys(view.label_of(name) for name in found))
    for group in GROUPS:
        cells = [c for name, runs in lines.items() for c in _line(view, name, runs, group, starts)]
        marked = [c for name, runs in lines.items() for c in _dips(view, name, runs, starts)]
        dips = marked if group == "old" else dips
        steps = _steps(view, joint, found, group, starts)
        panels.append(_panel(view, group, cells, marked * (group == "old"), steps, starts, shown))
    signs = [("○", "old tasks as a task found them"), ("●", "their lowest while it is learned")]
    signs += [("╌", f"reached by joint training ({view.label_of(joint)})")] if joint else []
    number = max(len(runs) for runs in lines.values())
    several = f"; mean over {number} final runs, from lowest to highest" if number > 1 else ""
    bounds = " Other bounds are dashed." if has_bounds(view, lines) else ""
    ends = "" if joint is None else " Joint training is drawn at what it reached as a task ended."
    figure = Figure(
        name="traces",
        title="All tasks over updates",
        caption=f"Accuracy on the graded examples while tasks are learned{several}. A rule marks "
        f"where a task begins; old tasks are those before it.{left_out(starts)}{ends}{bounds}",
        panels=panels,
        table=Table(
            ["method", "task", "found", "at the start", "lowest", "at update", "at the end"],
            [
                [c["row"], c["task"], c["found"], c["start"], c["mean"], c["own"], c["end"]]
                for c in dips
            ],
        ),
        key=Key(methods=shown, symbols=signs),
        columns=1,
        stamp=view.warning,
    )
    return [figure]


def _joint(view: View, found: dict[str, list[list[Trace]]]) -> str | None:
    """The row that gaps are against."""
    label = view.board.reference if view.board else None
    return next((name for name in found if view.label_of(name) == label), None)


def _line(
    view: View, name: str, runs: Sequence[Sequence[Trace]], group: Group, starts: Sequence[int]
) -> list[Cells]:
    cells: list[Cells] = []
    for t in range(len(runs[0])):
        some = [run[t] for run in runs]
        line = mean_line(some, [trace.of_group(group) for trace in some])
        cells += [
            {
                **who(view, name),
                "task": t + 1,
                "update": starts[t] + one.update,
                "mean": one.mean,
                "low": one.low,
                "high": one.high,
            }
            for one in (thinned(line, len(runs[0])) if line else ())
            if starts[t] + one.update >= shown_from(starts)
        ]
    return cells


def _dips(
    view: View, name: str, runs: Sequence[Sequence[Trace]], starts: Sequence[int]
) -> list[Cells]:
    """Where the mean accuracy on old tasks is lowest, task by task."""
    cells: list[Cells] = []
    for t in range(1, len(runs[0])):
        some = [run[t] for run in runs]
        line = mean_line(some, [trace.of_group("old") for trace in some])
        if not line:
            continue
        deepest = lowest(line)
        before = [value for run in runs if (value := run[t].found()) is not None]
        cells.append(
            {
                **who(view, name),
                "task": t + 1,
                "begin": starts[t],
                "update": starts[t] + deepest.update,
                "own": deepest.update,
                "mean": deepest.mean,
                "found": math.fsum(before) / len(before) if before else None,
                "start": line[0].mean,
                "end": line[-1].mean,
            }
        )
    return cells


def _steps(
    view: View,
    joint: str | None,
    found: dict[str, list[list[Trace]]],
    group: Group,
    starts: Sequence[int],
) -> list[Cells]:
    """What joint training reached with each task."""
    cells: list[Cells] = []
    for t in range(min(len(found[joint][0]), len(starts) - 1) if joint else 0):
        assert joint is not None
        ends = [getattr(reference_of(run[t]), group) for run in found[joint]]
        known = [value for value in ends if value is not None]
        if known:
            mean = math.fsum(known) / len(known)
            ends_at = {"update": max(starts[t], shown_from(starts)), "end": starts[t + 1]}
            cells.append({**who(view, joint), "task": t + 1, **ends_at, "low": mean, "high": mean})
    return cells


def _panel(
    view: View,
    group: Group,
    cells: Sequence[Cells],
    dips: Sequence[Cells],
    steps: Sequence[Cells],
    starts: Sequence[int],
    shown: Sequence[str],
) -> Panel:
    lines, marked, reached = Source(cells), Source(dips), Source(steps)
    x, color = stream_x(starts), method_color(view.labels, shown)
    found = [
        {"low": dip["found"], "high": dip["found"]} for dip in dips if dip["found"] is not None
    ]
    title, scale = (
        f"accuracy on {NAMES[group]}",
        accuracy_scale([*cells, *steps, *found], "low", "high"),
    )
    y = alt.Y("mean:Q", title=title, scale=scale)
    ruled, begin = rules(starts, x)
    apart = [alt.Detail("row:N"), alt.Detail("task:N")]
    base = lines.chart().encode(x=x, color=color, detail=apart)
    dash = alt.StrokeDashValue([1, 0], condition={"test": "datum.bound", "value": [5, 4]})
    layers = [
        *ruled,
        base.mark_area(opacity=1).encode(
            y=alt.Y("low:Q", title=title, scale=scale),
            y2=alt.Y2("high:Q"),
            fillOpacity=focused_fill(0.14, 0.02),
        ),
        base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=dash, opacity=focused()),
    ]
    sources = [begin, lines]
    if steps:
        tips = [
            alt.Tooltip("row:N", title="method"),
            alt.Tooltip("task:Q"),
            alt.Tooltip("low:Q", title="reached", format=".4f"),
        ]
        layers.append(
            reached.chart()
            .mark_rule(strokeDash=[6, 4], strokeWidth=1.8)
            .encode(
                x=x,
                x2=alt.X2("end:Q"),
                y=alt.Y("low:Q", title=title, scale=scale),
                color=color,
                opacity=focused(),
                tooltip=tips,
            )
        )
        sources.append(reached)
    if dips:
        tips = [
            alt.Tooltip("row:N", title="method"),
            alt.Tooltip("task:Q", title="while task"),
            alt.Tooltip("found:Q", title="found", format=".4f"),
            alt.Tooltip("start:Q", title="at the start", format=".4f"),
            alt.Tooltip("mean:Q", title="lowest", format=".4f"),
            alt.Tooltip("own:Q", title="at update"),
            alt.Tooltip("end:Q", title="at the end", format=".4f"),
        ]
        fill = alt.Fill("method:N", scale=alt.Scale(domain=list(view.labels)), legend=None)
        begun = {"x": stream_x(starts, "begin"), "y": alt.Y("found:Q", title=title, scale=scale)}
        layers += [
            marked.chart()
            .mark_point(shape="circle", filled=False, size=34, strokeWidth=1.4)
            .encode(**begun, color=color, opacity=focused(), tooltip=tips),
            marked.chart()
            .mark_point(style="ringed", shape="circle", filled=True, size=46, strokeWidth=1)
            .encode(x=x, y=y, fill=fill, opacity=focused(), tooltip=tips),
        ]
        sources.append(marked)
    return Panel(layers, tuple(sources), NAMES[group], 210, WIDE)

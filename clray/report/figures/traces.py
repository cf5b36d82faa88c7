"""Continual evaluation of all methods: accuracy over the updates of the stream, and of its first
updates."""

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
    Value,
    beside,
    focused,
    focused_fill,
    method_color,
)
from clray.report.figures.traced import (
    Point,
    accuracy_scale,
    lowest,
    mean_line,
    point,
    rules,
    starts_of,
    stream_x,
    thinned,
    traces_by_row,
)
from clray.report.numbers import evenly
from clray.report.view import View
from clray.traces import EARLY, GROUPS, Group, Trace, interpolated, reference_of

WIDE = 900
"""Pixels of the stream in the picture."""
TASKS = 5
"""Tasks whose first updates are shown at most, evenly spread."""
NAMES: dict[Group, str] = {"old": "old tasks", "new": "the new task", "all": "all tasks so far"}

Cells = dict[str, Value]


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
    signs = [("●", "lowest accuracy on old tasks while a task is learned")]
    signs += [("╌", f"reached by joint training ({view.label_of(joint)})")] if joint else []
    number = max(len(runs) for runs in lines.values())
    several = f"; mean over {number} final runs, with 95 % intervals" if number > 1 else ""
    bounds = " Other bounds are dashed." if _others(view, lines) else ""
    ends = "" if joint is None else " Joint training is drawn at what it reached as a task ended."
    figure = Figure(
        name="traces",
        title="All tasks over updates",
        caption=f"Accuracy on the graded examples while tasks are learned{several}. A rule marks "
        f"where a task begins; old tasks are those before it.{ends}{bounds}",
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


def early(view: View) -> list[Figure]:
    """The first updates of each task after the first: accuracy on old tasks less what the task
    found, in the mean over these tasks and in some of them."""
    found = {
        name: [run[1:] for run in runs]
        for name, runs in traces_by_row(view).items()
        if len(runs[0]) > 1
    }
    if not found:
        return []
    later = max(len(run) for runs in found.values() for run in runs)
    places: list[int | None] = [None]
    places += evenly(later, TASKS) if later > 1 else []
    panels, rows = [], list[list[Value]]()
    shown = list(dict.fromkeys(view.label_of(name) for name in found))
    told = {place: _first_updates(view, found, place) for place in places}
    everything = [cell for cells in told.values() for cell in cells]
    if not told[None]:
        return []
    for place, cells in told.items():
        if cells:
            title = "mean over the tasks" if place is None else f"task {place + 2}"
            title = "task 2" if later == 1 else title
            panels.append(_early_panel(view, cells, everything, title, shown))
            rows += [[c["row"], title, c["update"], c["mean"], c["low"], c["high"]] for c in cells]
    number = max(len(runs) for runs in found.values())
    several = f" Mean over {number} final runs, with 95 % intervals." if number > 1 else ""
    dashed = " Bounds are dashed." if _others(view, found) else ""
    figure = Figure(
        name="traces-first",
        title=f"The first {EARLY} updates of a task",
        caption="Accuracy on old tasks less what the task found; update 0 lies after the method "
        f"initialised what is new.{several}{dashed}",
        panels=panels,
        table=Table(["method", "task", "update", "change", "from", "to"], rows),
        key=Key(methods=shown),
        columns=beside(len(panels)),
        stamp=view.warning,
    )
    return [figure]


def _joint(view: View, found: dict[str, list[list[Trace]]]) -> str | None:
    """The row that gaps are against."""
    label = view.board.reference if view.board else None
    return next((name for name in found if view.label_of(name) == label), None)


def _others(view: View, lines: dict[str, list[list[Trace]]]) -> bool:
    return any(row.bound and row.name in lines for row in view.rows)


def _who(view: View, name: str) -> Cells:
    bound = any(row.bound for row in view.rows if row.name == name)
    return {"row": name, "method": view.label_of(name), "bound": bound}


def _line(
    view: View, name: str, runs: Sequence[Sequence[Trace]], group: Group, starts: Sequence[int]
) -> list[Cells]:
    cells: list[Cells] = []
    for t in range(len(runs[0])):
        some = [run[t] for run in runs]
        line = mean_line(some, [trace.of_group(group) for trace in some])
        cells += [
            {
                **_who(view, name),
                "task": t + 1,
                "update": starts[t] + one.update,
                "mean": one.mean,
                "low": max(0.0, one.low),
                "high": min(1.0, one.high),
            }
            for one in (thinned(line, len(runs[0])) if line else ())
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
                **_who(view, name),
                "task": t + 1,
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
            ends_at = {"update": starts[t], "end": starts[t + 1]}
            cells.append({**_who(view, joint), "task": t + 1, **ends_at, "low": mean, "high": mean})
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
    title, scale = f"accuracy on {NAMES[group]}", accuracy_scale([*cells, *steps], "low", "high")
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
        layers.append(
            marked.chart()
            .mark_point(style="ringed", shape="circle", filled=True, size=46, strokeWidth=1)
            .encode(x=x, y=y, fill=fill, opacity=focused(), tooltip=tips)
        )
        sources.append(marked)
    return Panel(layers, tuple(sources), NAMES[group], 210, WIDE)


def _first_updates(
    view: View, found: dict[str, list[list[Trace]]], place: int | None
) -> list[Cells]:
    """The change of old accuracy at each of the first updates, over the runs."""
    cells: list[Cells] = []
    for name, runs in found.items():
        some = [run if place is None else run[place : place + 1] for run in runs]
        changes = [change for run in some if (change := _change(run))]
        length = min(map(len, changes), default=0)
        line: list[Point] = [point(u, [one[u] for one in changes]) for u in range(length)]
        cells += [{**_who(view, name), **vars(one)} for one in line]
    return cells


def _change(run: Sequence[Trace]) -> list[float]:
    """Old accuracy less what was found, update by update, in the mean over these tasks; as far as
    the shortest of them goes."""
    lines = []
    for trace in run:
        old, start = trace.of_group("old"), trace.found()
        if old is None or start is None:
            return []
        lines.append([value - start for value in interpolated(trace.updates, old)[: EARLY + 1]])
    return [math.fsum(some) / len(some) for some in zip(*lines, strict=False)]


def _early_panel(
    view: View,
    cells: Sequence[Cells],
    everything: Sequence[Cells],
    title: str,
    shown: Sequence[str],
) -> Panel:
    source, zero = Source(cells), Source([{"zero": 0}])
    low = min(float(str(cell["mean"])) for cell in everything)
    high = max(0.0, *(float(str(cell["mean"])) for cell in everything))
    room = 0.08 * ((high - low) or 1)
    name = "change of old accuracy"
    scale = alt.Scale(domain=[low - room, high + room], nice=False)
    y = alt.Y("mean:Q", title=name, scale=scale)
    x = alt.X("update:Q", title="update", scale=alt.Scale(domain=[0, EARLY], nice=False))
    tips = [
        alt.Tooltip("row:N", title="method"),
        alt.Tooltip("update:Q"),
        alt.Tooltip("mean:Q", title="change", format="+.4f"),
        alt.Tooltip("low:Q", title="from", format="+.4f"),
        alt.Tooltip("high:Q", title="to", format="+.4f"),
    ]
    base = source.chart().encode(
        x=x, color=method_color(view.labels, shown), detail=alt.Detail("row:N")
    )
    dash = alt.StrokeDashValue([1, 0], condition={"test": "datum.bound", "value": [5, 4]})
    layers = [
        zero.chart().mark_rule(strokeDash=[2, 3]).encode(y=alt.Y("zero:Q", title=name)),
        base.mark_area(opacity=1, clip=True).encode(
            y=alt.Y("low:Q", title=name, scale=scale),
            y2=alt.Y2("high:Q"),
            fillOpacity=focused_fill(0.14, 0.02),
        ),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash, opacity=focused()),
        base.mark_point(size=14).encode(y=y, opacity=focused(), tooltip=tips),
    ]
    return Panel(layers, (zero, source), title, 210, 300)

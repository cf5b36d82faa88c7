"""Continual evaluation in the first updates of a task, where the gap lies."""

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
    Cells,
    Point,
    has_bounds,
    point,
    traces_by_row,
    who,
)
from clray.report.numbers import evenly
from clray.report.view import View
from clray.traces import EARLY, Trace, interpolated

TASKS = 5
"""Tasks whose first updates are shown at most, evenly spread."""


def first_updates(view: View) -> list[Figure]:
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
    drawn = [cell for cells in told.values() for cell in cells]
    # joint training that begins anew falls to nothing, and would press the others together
    everything = [cell for cell in drawn if not cell["bound"]] or drawn
    if not told[None]:
        return []
    for place, cells in told.items():
        if cells:
            title = "mean over the tasks" if place is None else f"task {place + 2}"
            title = "task 2" if later == 1 else title
            panels.append(_early_panel(view, cells, everything, title, shown))
            rows += [[c["row"], title, c["update"], c["mean"], c["low"], c["high"]] for c in cells]
    number = max(len(runs) for runs in found.values())
    several = f" Mean over {number} final runs, from lowest to highest." if number > 1 else ""
    dashed = " Bounds are dashed, and may leave the panel." if has_bounds(view, found) else ""
    figure = Figure(
        name="traces-first",
        title=f"The first {EARLY} updates of a task",
        caption="Accuracy on old tasks less what the task found; update 0 lies after the method "
        f"initialised what is new.{several}{dashed}",
        panels=panels,
        table=Table(["method", "task", "update", "change", "from", "to"], rows),
        key=Key(methods=shown),
        columns=beside(len(panels)),
        wide=len(panels) > 1,
        stamp=view.warning,
    )
    return [figure]


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
        cells += [{**who(view, name), **vars(one)} for one in line]
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
    low = min(0.0, *(float(str(cell["low"])) for cell in everything))
    high = max(0.0, *(float(str(cell["high"])) for cell in everything))
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
        base.mark_line(strokeWidth=2, clip=True).encode(y=y, strokeDash=dash, opacity=focused()),
        base.mark_point(size=14, clip=True).encode(y=y, opacity=focused(), tooltip=tips),
    ]
    return Panel(layers, (zero, source), title, 210, 300)

"""Continual evaluation of one method: every task over the updates of the stream."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    Value,
    file_part,
    ramp_color,
    ramp_scale,
)
from clray.report.figures.look import RAMP
from clray.report.figures.traced import (
    accuracy_scale,
    lowest,
    mean_line,
    rules,
    starts_of,
    stream_x,
    thinned,
    traces_by_row,
)
from clray.report.figures.traces import WIDE
from clray.report.numbers import evenly
from clray.report.view import View
from clray.traces import Trace

LINES = 12
"""Tasks that are drawn at most, evenly spread."""


def tasks(view: View) -> list[Figure]:
    """A figure for each method, shown in turns: a line for each task from when it is learned on."""
    by_label: dict[str, list[tuple[str, list[list[Trace]]]]] = {}
    for name, runs in traces_by_row(view).items():
        by_label.setdefault(view.label_of(name), []).append((name, runs))
    return [_figure(view, label, rows) for label, rows in by_label.items()]


def _figure(view: View, label: str, rows: Sequence[tuple[str, list[list[Trace]]]]) -> Figure:
    panels, told = [], list[list[Value]]()
    total = max(len(runs[0]) for _, runs in rows)
    for name, runs in rows:
        cells, dips = _lines(runs)
        if cells:
            panels.append(_panel(name if len(rows) > 1 else "", cells, dips, starts_of(runs)))
            told += [[name, d["task"], d["mean"], d["while"], d["own"], d["end"]] for d in dips]
    number = max(len(runs) for _, runs in rows)
    several = f" Mean over {number} final runs." if number > 1 else ""
    some = f" {LINES} of {total} tasks, evenly spread." if total > LINES else ""
    return Figure(
        name=f"traces.{file_part(label)}",
        title=f"Each task over updates: {label}",
        caption="A line for each task, from when it is learned on; a rule marks where a task "
        f"begins.{some}{several}",
        panels=panels,
        table=Table(["method", "task", "lowest", "while task", "at update", "at the end"], told),
        key=Key(
            ramp=(RAMP[:-1], "first task", "last task", ""),
            symbols=(("●", "lowest after it was learned"),),
        ),
        columns=1,
        stamp=view.warning,
        group=label,
    )


def _lines(
    runs: Sequence[Sequence[Trace]],
) -> tuple[list[dict[str, Value]], list[dict[str, Value]]]:
    """The points of each task's line, and its lowest one after it was learned."""
    starts, total = starts_of(runs), len(runs[0])
    cells: list[dict[str, Value]] = []
    dips: list[dict[str, Value]] = []
    for i in evenly(total, LINES):
        deepest: dict[str, Value] | None = None
        end = 0.0
        for t in range(i, total):
            some = [run[t] for run in runs]
            line = mean_line(some, [trace.of_task(i) for trace in some])
            for one in thinned(line, total) if line else ():
                at = {"task": i + 1, "while": t + 1, "update": starts[t] + one.update}
                cells.append({**at, "mean": one.mean})
            if line and t > i:
                low, end = lowest(line), line[-1].mean
                if deepest is None or low.mean < float(str(deepest["mean"])):
                    at = {"task": i + 1, "while": t + 1, "update": starts[t] + low.update}
                    deepest = {**at, "own": low.update, "mean": low.mean}
        if deepest is not None:
            dips.append({**deepest, "end": end})
    return cells, dips


def _panel(
    title: str,
    cells: Sequence[dict[str, Value]],
    dips: Sequence[dict[str, Value]],
    starts: Sequence[int],
) -> Panel:
    lines, marked = Source(cells), Source(dips)
    total = len(starts) - 1
    x, color = stream_x(starts), ramp_color("task", "task", RAMP[:-1], 1, total)
    y = alt.Y("mean:Q", title="accuracy", scale=accuracy_scale(cells, "mean"))
    ruled, begin = rules(starts, x)
    tips = [
        alt.Tooltip("task:Q", title="task"),
        alt.Tooltip("mean:Q", title="lowest", format=".4f"),
        alt.Tooltip("while:Q", title="while task"),
        alt.Tooltip("own:Q", title="at update"),
        alt.Tooltip("end:Q", title="at the end", format=".4f"),
    ]
    apart = [alt.Detail("task:Q"), alt.Detail("while:Q")]
    base = lines.chart().encode(x=x, color=color, detail=apart)
    layers = [*ruled, base.mark_line(strokeWidth=1.6).encode(y=y)]
    sources = [begin, lines]
    if dips:
        fill = alt.Fill("task:Q", scale=ramp_scale(RAMP[:-1], 1, total), legend=None)
        layers.append(
            marked.chart()
            .mark_point(style="ringed", shape="circle", filled=True, size=52, strokeWidth=1)
            .encode(x=x, y=y, fill=fill, tooltip=tips)
        )
        sources.append(marked)
    return Panel(layers, tuple(sources), title, 240, WIDE)

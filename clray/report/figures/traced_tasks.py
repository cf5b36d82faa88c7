"""Continual evaluation of one method: every task over the updates of the stream."""

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
    file_part,
    ramp_scale,
)
from clray.report.figures.look import RAMP
from clray.report.figures.traced import (
    Cells,
    accuracy_scale,
    left_out,
    lowest,
    mean_line,
    rules,
    shown_from,
    starts_of,
    stream_x,
    thinned,
    traces_by_row,
)
from clray.report.figures.traces import WIDE
from clray.report.numbers import evenly
from clray.report.view import View
from clray.traces import Trace

NAMED = 8
"""Tasks in the picture's legend at most."""
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
            told += [[name, *dip.values()] for dip in dips]
    number = max(len(runs) for _, runs in rows)
    several = f" Mean over {number} final runs." if number > 1 else ""
    some = f" {LINES} of {total} tasks, evenly spread." if total > LINES else ""
    return Figure(
        name=f"traces.{file_part(label)}",
        title=f"Each task over updates: {label}",
        caption="A line for each task, from when it is learned on; a rule marks where a task "
        f"begins.{left_out(starts_of(rows[0][1]))}{some}{several}",
        panels=panels,
        table=Table(
            ["method", "task", "while task", "found", "lowest", "at update", "at the end"], told
        ),
        key=Key(
            ramp=(RAMP[:-1], "first task", "last task", ""),
            symbols=(("●", "the old task that falls deepest"),),
        ),
        columns=1,
        stamp=view.warning,
        group=label,
    )


def _lines(runs: Sequence[Sequence[Trace]]) -> tuple[list[Cells], list[Cells]]:
    """The points of each task's line, and how it fell while each later task was learned."""
    starts, total = starts_of(runs), len(runs[0])
    cells: list[Cells] = []
    dips: list[Cells] = []
    for i in evenly(total, LINES):
        for t in range(i, total):
            some = [run[t] for run in runs]
            line = mean_line(some, [trace.of_task(i) for trace in some])
            if not line:
                continue
            cells += [
                {"task": i + 1, "while": t + 1, "update": starts[t] + one.update, "mean": one.mean}
                for one in thinned(line, total)
                if starts[t] + one.update >= shown_from(starts)
            ]
            if t > i:
                low = lowest(line)
                found = {"task": i + 1, "while": t + 1, "found": _found(some, i), "mean": low.mean}
                dips.append({**found, "own": low.update, "end": line[-1].mean})
    return cells, dips


def _found(traces: Sequence[Trace], task: int) -> float | None:
    """The mean accuracy on an old task before this one."""
    pairs = [(trace.before[task], trace.examples[task]) for trace in traces]
    known = [right / number for right, number in pairs if right is not None and number]
    return math.fsum(known) / len(known) if known else None


def _deepest(dips: Sequence[Cells], starts: Sequence[int]) -> list[Cells]:
    """Of each task that is learned, the old one that falls furthest."""
    by_task: dict[int, list[Cells]] = {}
    for dip in dips:
        if dip["found"] is not None:
            by_task.setdefault(int(str(dip["while"])), []).append(dip)
    worst = [max(some, key=_fall) for some in by_task.values()]
    return [
        {**dip, "update": starts[int(str(dip["while"])) - 1] + int(str(dip["own"]))}
        for dip in worst
    ]


def _fall(dip: Cells) -> float:
    return float(str(dip["found"])) - float(str(dip["mean"]))


def _panel(
    title: str,
    cells: Sequence[Cells],
    dips: Sequence[Cells],
    starts: Sequence[int],
) -> Panel:
    lines, marked = Source(cells), Source(_deepest(dips, starts))
    total = len(starts) - 1
    scale = ramp_scale(RAMP[:-1], 1, total)
    named = [i + 1 for i in evenly(total, NAMED)]
    legend = alt.Legend(title="task", orient="right", values=named, format="d")
    x, color = stream_x(starts), alt.Color("task:Q", scale=scale, legend=legend)
    y = alt.Y("mean:Q", title="accuracy", scale=accuracy_scale(cells, "mean"))
    ruled, begin = rules(starts, x)
    tips = [
        alt.Tooltip("task:Q", title="task"),
        alt.Tooltip("while:Q", title="while task"),
        alt.Tooltip("found:Q", title="found", format=".4f"),
        alt.Tooltip("mean:Q", title="lowest", format=".4f"),
        alt.Tooltip("own:Q", title="at update"),
        alt.Tooltip("end:Q", title="at the end", format=".4f"),
    ]
    apart = [alt.Detail("task:Q"), alt.Detail("while:Q")]
    base = lines.chart().encode(x=x, color=color, detail=apart)
    layers = [*ruled, base.mark_line(strokeWidth=1.6).encode(y=y)]
    sources = [begin, lines]
    if marked.columns:
        fill = alt.Fill("task:Q", scale=scale, legend=None)
        layers.append(
            marked.chart()
            .mark_point(
                style="ringed", shape="circle", filled=True, size=52, strokeWidth=1, opacity=1
            )
            .encode(x=x, y=y, fill=fill, tooltip=tips)
        )
        sources.append(marked)
    return Panel(layers, tuple(sources), title, 240, WIDE)

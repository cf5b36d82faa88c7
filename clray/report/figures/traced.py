"""Lines over the updates of a stream: what all figures of continual evaluation draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import altair as alt

from clray.report.figures.figure import Source, Value, pixel
from clray.report.numbers import evenly
from clray.report.view import View
from clray.traces import EARLY, Trace

POINTS = 1200
"""Points of a line over the whole stream, about; what lies between is left out."""
NAMED = 12
"""Starts of tasks that are named at most."""
LONGEST = 3
"""A first task that is this many times longer than every later one is not shown whole."""

Cells: TypeAlias = dict[str, Value]


@dataclass(frozen=True)
class Point:
    """The mean over runs at one update, and the lowest and the highest of them."""

    update: int
    mean: float
    low: float
    high: float


def traces_by_row(view: View) -> dict[str, list[list[Trace]]]:
    """The traces of each row's final runs that have any, by the row's name; task by task."""
    found = {}
    for name, runs in view.runs.items():
        traced = [run.traces for run in runs if run.traces]
        if traced:
            length = min(map(len, traced))
            found[name] = [traces[:length] for traces in traced]
    return found


def has_bounds(view: View, lines: Mapping[str, object]) -> bool:
    """Whether any of these rows is a bound."""
    return any(row.bound and row.name in lines for row in view.rows)


def who(view: View, name: str) -> Cells:
    """A row, as every point of its line says it."""
    bound = any(row.bound for row in view.rows if row.name == name)
    return {"row": name, "method": view.label_of(name), "bound": bound}


def mean_line(traces: Sequence[Trace], curves: Sequence[Sequence[float] | None]) -> list[Point]:
    """The mean over the runs of one task, at the updates that all of them share; runs without such
    a curve are passed over."""
    known = [
        dict(zip(trace.updates, curve, strict=True))
        for trace, curve in zip(traces, curves, strict=True)
        if curve is not None
    ]
    shared = set(known[0]).intersection(*known[1:]) if known else set()
    return [point(update, [curve[update] for curve in known]) for update in sorted(shared)]


def point(update: int, values: Sequence[float]) -> Point:
    """The mean of such values."""
    return Point(update, math.fsum(values) / len(values), min(values), max(values))


def lowest(line: Sequence[Point]) -> Point:
    """The first of those that lie lowest."""
    return min(line, key=lambda one: one.mean)


def thinned(line: Sequence[Point], num_tasks: int) -> list[Point]:
    """Fewer points: the first updates and the lowest point stay."""
    early = [one for one in line if one.update <= EARLY]
    late = [one for one in line if one.update > EARLY]
    most = max(20, POINTS // num_tasks - len(early))
    kept = [late[i] for i in evenly(len(late), most)]
    deepest = lowest(line)
    return early + sorted({*kept, *([deepest] if deepest in late else [])}, key=_update)


def _update(one: Point) -> int:
    return one.update


def starts_of(runs: Sequence[Sequence[Trace]]) -> list[int]:
    """Where each task begins in the whole stream, counted in updates, and where the last one ends;
    a task takes as long as the longest of these runs."""
    length = max(map(len, runs))
    longest = [max(run[t].num_updates for run in runs if t < len(run)) for t in range(length)]
    return [0, *accumulate(longest)]


def shown_from(starts: Sequence[int]) -> int:
    """The update at which the picture begins: 0, or, after a long first task, as many before its
    end as the longest later task has."""
    later = max((end - start for start, end in pairwise(starts[1:])), default=0)
    return starts[1] - later if 0 < LONGEST * later < starts[1] else 0


def left_out(starts: Sequence[int]) -> str:
    """A sentence on what the picture does not show of the first task."""
    first = shown_from(starts)
    return f" Of the first task, the last {starts[1] - first} updates." if first else ""


def accuracy_scale(cells: Sequence[Mapping[str, Value]], *columns: str) -> alt.Scale:
    """Round ends around all that is drawn, inside 0 and 1.

    Args:
        cells: that are drawn.
        columns: in which accuracies stand.
    """
    known = [float(str(cell[column])) for cell in cells for column in columns]
    low = max(0.0, math.floor(min(known, default=0.0) * 20) / 20)
    high = min(1.0, math.ceil(max(known, default=1.0) * 20) / 20)
    return alt.Scale(domain=[low, high], nice=False)


def rules(starts: Sequence[int], x: alt.X) -> tuple[list[alt.Chart], Source]:
    """A rule where each task begins, with its number.

    Args:
        starts: as ``starts_of`` gives them.
        x: of the column ``update``.
    """
    number = len(starts) - 1
    step = math.ceil(number / NAMED)
    source = Source(
        [
            {
                "update": max(start, shown_from(starts)),
                "task": f"task {t + 1}" if t % step == 0 else "",
            }
            for t, start in enumerate(starts[:-1])
        ]
    )
    short = number > 6
    text = alt.Text("task:N")
    layers = [
        source.chart().mark_rule(strokeDash=[2, 3], opacity=0.6).encode(x=x),
        source.chart()
        .mark_text(align="left", baseline="bottom", fontSize=9 if short else 10)
        .encode(x=x, y=pixel(-3), text=text),
    ]
    return layers, source


def stream_x(starts: Sequence[int], column: str = "update") -> alt.X:
    """The updates of the stream, from where the picture begins."""
    scale = alt.Scale(domain=[shown_from(starts), max(1, starts[-1])], nice=False)
    axis = alt.Axis(tickCount=12, format="d")
    return alt.X(f"{column}:Q", title="updates, all tasks", scale=scale, axis=axis)

"""Lines over the updates of a stream: what all figures of continual evaluation draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import altair as alt

from clray.metrics import interval
from clray.report.figures.figure import Source, Value, pixel
from clray.report.numbers import evenly
from clray.report.view import View
from clray.traces import EARLY, Trace

POINTS = 1200
"""Points of a line over the whole stream, about; what lies between is left out."""
NAMED = 12
"""Starts of tasks that are named."""


@dataclass(frozen=True)
class Point:
    """The mean over runs at one update, with the ends of its 95 % interval."""

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
    mean, half = interval(values)
    return Point(update, mean, mean - (half or 0.0), mean + (half or 0.0))


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
    named = evenly(number, NAMED)
    source = Source(
        [
            {"update": start, "task": f"task {t + 1}" if t in named else ""}
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


def stream_x(starts: Sequence[int]) -> alt.X:
    """The updates of the whole stream."""
    scale = alt.Scale(domain=[0, max(1, starts[-1])], nice=False)
    return alt.X("update:Q", title="updates, all tasks", scale=scale)

"""How the search went: its history, what was stopped and where, and which knobs mattered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import altair as alt

from clray.objective import Objective
from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    Value,
    beside,
    focused,
    method_color,
    pixel,
)
from clray.report.figures.look import SHAPES
from clray.report.numbers import words
from clray.report.stored import TrialLine
from clray.report.view import View

SYMBOLS = (
    ("●", "completed"),
    ("▼", "stopped early, at its last value"),
    ("✕", "diverged or failed, at the foot"),
    ("◯", "chosen"),
)
"""What marks a trial, and how it ended."""


def measured(line: TrialLine, objective: Objective, first: bool) -> float | None:
    """What a completed trial came to in an objective."""
    if line.state != "completed":
        return None
    value = line.measures.get(objective.metric)
    return line.value if value is None and first else value


def history(view: View) -> list[Figure]:
    """Each trial's value in the order of the proposals, and the best so far."""
    objective = view.objectives[0]
    panels, rows = [], []
    for label, lines in view.searches().items():
        cells = _history(lines, objective)
        if len(cells) > 1:
            panels.append(_history_panel(view, label, cells, objective))
            rows += [
                [label, c["trial"], c["task"], c["state"], c["value"], c["best"], c["chosen"]]
                for c in cells
            ]
    if not panels:
        return []
    figure = Figure(
        name="history",
        title="The search, trial by trial",
        caption=f"{words(objective.metric).capitalize()} on what the choice looked at, in the "
        "order of the proposals; the line is the best so far, anew for each task where "
        "hyperparameters are chosen anew.",
        panels=panels,
        table=Table(["method", "trial", "task", "state", "value", "best so far", "chosen"], rows),
        key=Key(symbols=SYMBOLS),
        columns=beside(len(panels)),
        stamp=view.warning,
    )
    return [figure]


def stopped(view: View) -> list[Figure]:
    """After how many tasks, or at which rung, trials were stopped early or went wrong."""
    counts = Counter(
        (line.label, len(line.trace), line.state)
        for line in view.trials
        if line.state in ("stopped", "diverged", "failed")
    )
    if not counts:
        return []
    cells: list[dict[str, Value]] = [
        {"method": label, "after": after, "state": state, "trials": number}
        for (label, after, state), number in sorted(counts.items())
    ]
    states = [state for state in SHAPES if any(cell["state"] == state for cell in cells)]
    shown = [label for label in view.labels if any(cell["method"] == label for cell in cells)]
    panels = [_stopped_panel(view, state, cells, shown) for state in states]
    by_state = Counter(line.state for line in view.trials)
    told = ", ".join(f"{by_state[state]} {state}" for state in states)
    figure = Figure(
        name="stopped",
        title="Trials that did not complete, and where",
        caption=f"Of {len(view.trials)} trials: {told}. After how many tasks, or rungs, each "
        "ended; 0: before the first was reported.",
        panels=panels,
        table=Table(
            ["method", "ended after", "state", "trials"], [list(cell.values()) for cell in cells]
        ),
        key=Key(methods=shown),
        columns=beside(len(panels)),
    )
    return [figure]


def importances(view: View) -> list[Figure]:
    """Which knobs mattered for which objective, as shares."""
    cells: list[dict[str, Value]] = []
    seen: set[tuple[str, str]] = set()
    for row in view.board.rows if view.board else []:
        for metric, shares in row.importances.items():
            if (row.label, metric) not in seen:  # one search for all points of a front
                seen.add((row.label, metric))
                cells += [
                    {"method": row.label, "objective": metric, "knob": knob, "share": share}
                    for knob, share in shares.items()
                ]
    if not cells:
        return []
    shown = [label for label in view.labels if any(cell["method"] == label for cell in cells)]
    metrics = list(dict.fromkeys(str(cell["objective"]) for cell in cells))
    panels = []
    for label in shown:
        for metric in metrics:
            own = [c for c in cells if c["method"] == label and c["objective"] == metric]
            if own:
                title = label if len(metrics) == 1 else f"{label}: {words(metric)}"
                panels.append(_importance_panel(view, title, own))
    figure = Figure(
        name="importances",
        title="Which knobs mattered",
        caption="Share of the variance of the objective over the search that each knob explains.",
        panels=panels,
        table=Table(
            ["method", "objective", "knob", "share"], [list(cell.values()) for cell in cells]
        ),
        key=Key(methods=shown),
        columns=beside(len(panels)),
        stamp=view.warning,
    )
    return [figure]


def _history(lines: Sequence[TrialLine], objective: Objective) -> list[dict[str, Value]]:
    best: dict[int | None, float] = {}
    cells: list[dict[str, Value]] = []
    for place, line in enumerate(lines, start=1):
        value = measured(line, objective, first=True)
        if value is not None and line.feasible:
            known = best.get(line.task, value)
            pick = max if objective.sign == 1 else min
            best[line.task] = pick(known, value)
        last = line.trace[-1] if line.trace else None
        cells.append(
            {
                "place": place,
                "trial": line.number,
                "task": None if line.task is None else line.task + 1,
                "state": line.state,
                "value": last if value is None and line.state == "stopped" else value,
                "best": best.get(line.task),
                "chosen": line.chosen,
                "feasible": line.feasible,
                "method": line.label,
            }
        )
    return cells


def _history_panel(
    view: View, title: str, cells: list[dict[str, Value]], objective: Objective
) -> Panel:
    source, height = Source(cells), 190
    dynamic = any(cell["task"] is not None for cell in cells)
    x = alt.X(
        "place:Q",
        title="trial",
        axis=alt.Axis(format="d", tickMinStep=1),
        scale=alt.Scale(domain=[1, max(2, len(cells))], nice=False, padding=6),
    )
    y = alt.Y("value:Q", title=words(objective.metric), scale=alt.Scale(zero=False))
    color = method_color(view.labels)
    names = list(SHAPES)
    shape = alt.Shape(
        "state:N",
        scale=alt.Scale(domain=names, range=[SHAPES[name] for name in names]),
        legend=None,
    )
    tips = [
        alt.Tooltip("trial:Q"),
        *([alt.Tooltip("task:Q")] if dynamic else []),
        alt.Tooltip("state:N"),
        alt.Tooltip("value:Q", title=words(objective.metric), format=".4~g"),
        alt.Tooltip("best:Q", title="best so far", format=".4~g"),
    ]
    base = source.chart()
    dim = alt.FillOpacityValue(0.2, condition={"test": "datum.feasible", "value": 0.65})
    known = base.transform_filter("isValid(datum.value)")
    lost = base.transform_filter("!isValid(datum.value)")
    line = base.transform_filter("isValid(datum.best)").mark_line(
        interpolate="step-after", strokeWidth=1.8
    )
    layers = [
        line.encode(
            x=x,
            y=alt.Y("best:Q", title=words(objective.metric)),
            color=color,
            detail=alt.Detail("task:N"),
        ),
        known.mark_point(size=34, filled=True).encode(
            x=x, y=y, color=color, shape=shape, fillOpacity=dim, tooltip=tips
        ),
        lost.mark_text(text="✕", fontSize=9).encode(
            x=x, y=pixel(height - 6), color=color, tooltip=tips
        ),
        known.transform_filter("datum.chosen")
        .mark_point(size=150, filled=False, strokeWidth=2, shape="circle", color="#e5484d")
        .encode(x=x, y=y, tooltip=tips),
    ]
    return Panel(layers, (source,), title, height, 300)


def _stopped_panel(
    view: View, state: str, cells: list[dict[str, Value]], shown: list[str]
) -> Panel:
    own = [cell for cell in cells if cell["state"] == state]
    source = Source(own)
    totals: Counter[int] = Counter()
    for cell in own:
        totals[int(str(cell["after"]))] += int(str(cell["trials"]))
    most = max(totals.values())
    ticks = list(range(0, most + 1, -(-most // 5)))
    bars = (
        source.chart()
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X(
                "after:O",
                title=f"{state} after",
                axis=alt.Axis(labelAngle=0),
                scale=alt.Scale(domain=list(range(max(totals) + 1))),
            ),
            y=alt.Y("trials:Q", title="trials", axis=alt.Axis(values=ticks, format="d")),
            color=method_color(view.labels, shown),
            opacity=focused(),
            tooltip=[
                alt.Tooltip("method:N"),
                alt.Tooltip("after:O", title="after"),
                alt.Tooltip("trials:Q"),
            ],
        )
    )
    return Panel([bars], (source,), state, 170, 300)


def _importance_panel(view: View, title: str, cells: list[dict[str, Value]]) -> Panel:
    source = Source(cells)
    cells = sorted(cells, key=lambda cell: -float(str(cell["share"])))
    names = [str(cell["knob"]) for cell in cells]
    y = alt.Y("knob:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False))
    x = alt.X(
        "share:Q",
        title="share",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", tickCount=4),
    )
    color = method_color(view.labels)
    base = source.chart()
    tips = [alt.Tooltip("knob:N"), alt.Tooltip("share:Q", format=".1%")]
    layers = [
        base.mark_bar(cornerRadiusEnd=3).encode(
            x=x, y=y, color=color, opacity=focused(0.9), tooltip=tips
        ),
        base.mark_text(align="left", dx=4, fontSize=10).encode(
            x=x, y=y, text=alt.Text("share:Q", format=".0%")
        ),
    ]
    return Panel(layers, (source,), title, max(60, 26 * len(cells)), 240)

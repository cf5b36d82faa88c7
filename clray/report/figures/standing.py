"""Who stands where: the leaderboard as dots with intervals, and which differences are real."""

from __future__ import annotations

import altair as alt

from clray.objective import DIRECTIONS
from clray.report.figures.figure import (
    Figure,
    Key,
    Panel,
    Source,
    Table,
    beside,
    focused,
    focused_fill,
    method_color,
    pixel,
    ramp_color,
)
from clray.report.figures.look import DIVERGING
from clray.report.numbers import fraction, words
from clray.report.ranking import bounds, ranked
from clray.report.significance import compare
from clray.report.stored import Board, Row
from clray.report.view import View

PANELS = 4
"""Metrics that the leaderboard shows at most."""


def leaderboard(view: View) -> list[Figure]:
    """A dot with its 95 % interval for each ranked row, in each metric; bounds as lines."""
    if view.board is None or not view.rows:
        return []
    metrics = shown_metrics(view.board)
    panels = [_standing(view, view.board, metric) for metric in metrics]
    rows = [
        [
            row.name,
            "bound" if row.bound else place,
            *(
                part
                for metric in metrics
                for part in (row.on_test(metric).mean, row.on_test(metric).interval)
            ),
        ]
        for place, row in enumerate(view.rows, start=1)
    ]
    heads = [part for metric in metrics for part in (words(metric), "± 95 %")]
    runs = max(len(row.test_keys) for row in view.rows)
    caption = (
        f"On test, mean over {runs} final run{'s' * (runs != 1)}"
        + (" with its 95 % interval; small dots are the runs." if runs > 1 else ".")
        + (" Bounds are dashed lines." if bounds(view.board) else "")
    )
    figure = Figure(
        name="leaderboard",
        title="Leaderboard",
        caption=caption,
        panels=panels,
        table=Table(["method", "rank", *heads], rows),
        key=Key(methods=list(dict.fromkeys(row.label for row in view.rows))),
        columns=beside(len(panels)),
        stamp=view.warning,
    )
    return [figure]


def shown_metrics(board: Board) -> list[str]:
    """The objectives that were measured on test, then what else a reader asks first."""
    wanted = [objective.metric for objective in board.objectives]
    wanted += ["average_accuracy", "forgetting", "learning_accuracy", "worst_case_accuracy"]
    measured = {m for row in board.rows for m, e in row.test.items() if e.mean is not None}
    return [metric for metric in dict.fromkeys(wanted) if metric in measured][:PANELS]


def _standing(view: View, board: Board, metric: str) -> Panel:
    def line(row: Row) -> dict[str, object]:
        found = row.on_test(metric)
        mean, half = found.mean, found.interval
        low = mean - half if mean is not None and half is not None else mean
        high = mean + half if mean is not None and half is not None else mean
        return {"row": row.name, "method": row.label, "mean": mean, "low": low, "high": high}

    places = [line(row) for row in ranked(board)]
    limits = [line(row) for row in bounds(board)]
    drawn, lines = Source(places), Source(limits)
    dots = Source(
        [
            {"row": row.name, "method": row.label, "value": value}
            for row in ranked(board)
            for value in row.on_test(metric).values
            if value is not None
        ]
    )
    color = method_color(view.labels, list(dict.fromkeys(row.label for row in view.rows)))
    names = [row.name for row in ranked(board)]
    y = alt.Y("row:N", sort=names, title=None, axis=alt.Axis(grid=True, ticks=False, domain=False))
    better = "higher is better" if DIRECTIONS.get(metric) == "maximize" else "lower is better"
    title = f"{words(metric)} ({better})"
    tips = [
        alt.Tooltip("row:N", title="method"),
        alt.Tooltip("mean:Q", title=words(metric), format=".4~g"),
        alt.Tooltip("low:Q", title="from", format=".4~g"),
        alt.Tooltip("high:Q", title="to", format=".4~g"),
    ]
    axis = alt.Axis(tickCount=5)
    x = alt.X("mean:Q", title=title, scale=alt.Scale(zero=False), axis=axis)
    layers: list[alt.Chart] = []
    if limits:
        layers.append(
            lines.chart()
            .mark_rule(strokeDash=[5, 4], strokeWidth=1.5)
            .encode(x=x, color=color, opacity=focused(0.9), tooltip=tips)
        )
        layers.append(
            lines.chart()
            .mark_text(align="center", baseline="bottom", dy=-3, fontSize=10)
            .encode(x=x, y=pixel(0), text=alt.Text("row:N"), opacity=focused(0.9))
        )
    layers += [
        dots.chart()
        .mark_circle(size=14, opacity=1)
        .encode(x=alt.X("value:Q"), y=y, color=color, fillOpacity=focused_fill(0.45)),
        drawn.chart()
        .mark_rule(strokeWidth=3, strokeCap="round")
        .encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=color, opacity=focused(0.8)),
        drawn.chart()
        .mark_point(size=110, filled=True)
        .encode(x=x, y=y, color=color, opacity=focused(), tooltip=tips),
    ]
    height = max(90, 30 * len(names))
    return Panel(layers, (drawn, dots, lines), words(metric), height, 360)


def significance(view: View) -> list[Figure]:
    """The differences of all pairs of ranked rows as a matrix; those beyond chance are marked."""
    if view.board is None or len(ranked(view.board)) < 2:
        return []
    metric = shown_metrics(view.board)[0]
    found = [one for one in compare(view.board, metric) if one.difference is not None]
    if not any(one.p is not None for one in found):
        return []
    names = [row.name for row in ranked(view.board)]
    cells = []
    for one in found:
        difference = one.difference or 0.0
        for first, second, sign in ((one.first, one.second, 1), (one.second, one.first, -1)):
            mark = "*" if one.significant else ""
            text = fraction(sign * difference, 2 if len(names) > 3 else 3)
            cells.append(
                {
                    "first": first,
                    "second": second,
                    "difference": sign * difference,
                    "text": ("+" if sign * difference > 0 else "") + text + mark,
                    "p": one.corrected,
                    "pairs": one.pairs,
                    "real": one.significant,
                }
            )
    source = Source(cells)
    reach = max(abs(one.difference or 0.0) for one in found) or 1.0
    x = alt.X(
        "second:N",
        sort=names,
        title="compared with",
        axis=alt.Axis(orient="top", labelAngle=-35, domain=False, ticks=False),
    )
    y = alt.Y("first:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False))
    colors = DIVERGING if view.board.objective.sign == 1 else DIVERGING[::-1]
    tips = [
        alt.Tooltip("first:N", title="method"),
        alt.Tooltip("second:N", title="compared with"),
        alt.Tooltip("difference:Q", format="+.4f"),
        alt.Tooltip("p:Q", title="p, corrected", format=".3~g"),
        alt.Tooltip("pairs:Q", title="pairs of runs"),
    ]
    color = ramp_color("difference", "difference", colors, -reach, reach)
    strong = f"abs(datum.difference) > {0.6 * reach:.6g}"
    marked, chance = source.chart().transform_filter("datum.real"), source.chart()
    layers: list[alt.Chart] = [
        chance.mark_rect(cornerRadius=3, fill="#808890", fillOpacity=0.12).encode(
            x=x, y=y, tooltip=tips
        ),
        marked.mark_rect(cornerRadius=3).encode(x=x, y=y, color=color, tooltip=tips),
    ]
    if len(names) <= 10:
        ink = alt.ColorValue("#1c2330", condition={"test": strong, "value": "#ffffff"})
        plain = chance.transform_filter("!datum.real")
        layers += [
            marked.mark_text(fontWeight="bold").encode(
                x=x, y=y, text=alt.Text("text:N"), color=ink
            ),
            plain.mark_text(opacity=0.75).encode(x=x, y=y, text=alt.Text("text:N")),
        ]
    rows = [
        [o.first, o.second, o.difference, o.interval, o.p, o.corrected, o.pairs, o.significant]
        for o in found
    ]
    heads = ["first", "second", "difference", "± 95 %", "p", "p corrected", "pairs", "significant"]
    real = sum(one.significant for one in found)
    caption = (
        f"Difference in {words(metric)}, row minus column, paired run by run. "
        f"{real} of {len(found)} pairs (marked *, strong colour) differ by more than chance: "
        "paired t test, Holm's correction, 5 %."
    )
    height = max(120, 34 * len(names))
    figure = Figure(
        name="significance",
        title="Which differences are significant",
        caption=caption,
        panels=[Panel(layers, (source,), "", height, max(240, 64 * len(names)))],
        table=Table(heads, rows),
        key=Key(ramp=(colors, f"-{reach:.2g}", f"+{reach:.2g}", "difference")),
        columns=1,
        wide=False,
        stamp=view.warning,
    )
    return [figure]

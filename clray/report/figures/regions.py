"""Class regions: which class a learner answers where in the plane, after each task."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Sequence

import altair as alt
from PIL import Image

from clray.metrics import average_accuracy
from clray.report.figures.figure import Figure, Panel, Source, Table, Value
from clray.report.numbers import evenly, fraction
from clray.report.stored import Regions
from clray.report.view import Run, View

COLORS = (
    "#0072b2",
    "#009e73",
    "#56b4e9",
    "#e6d31c",
    "#d55e00",
    "#cc79a7",
    "#6b7280",
    "#e69f00",
)
"""Of each class, the same on a light and on a dark ground: Okabe and Ito's, the yellow a little
darker and a grey for their black, so dealt out that neighbours of the plane benchmark differ most;
more classes repeat them."""
STRENGTH = 112
"""How opaque regions are, of 255: points in the same colour stand out from them."""
COLUMNS = 6
"""States that are shown beside one another at most, evenly spread over the tasks."""
GAP, HEAD = 0.06, 0.1
"""Between two squares, and above them for the heading, in sides of a square."""
WIDE = 230
"""Pixels of a square in the picture."""


def regions(view: View) -> list[Figure]:
    """A row for each method, with a square for each task: the regions after it was learned."""
    panels, rows = [], list[list[Value]]()
    number = 0
    for name, runs in view.runs.items():
        found = [one for one in runs[0].regions if one is not None]
        if len(found) != len(runs[0].R):
            continue
        panels.append(_panel(name, runs[0], found))
        answers = [[int(symbol, 36) for row in one.grid for symbol in row] for one in found]
        number = max(number, 1 + max(map(max, answers)))
        for t, own in enumerate(answers):
            shares = (own.count(cls) / len(own) for cls in range(max(own) + 1))
            rows.append([name, t + 1, runs[0].names[t], _accuracy(runs[0], t), *shares])
    if not panels:
        return []
    heads = ["method", "after", "task", "average accuracy"]
    figure = Figure(
        name="regions",
        title="Regions of the classes",
        caption="The plane after each task, coloured by the class that the method's first final "
        "run answers there, with training points: large those of the task, small those of tasks "
        "before it. Numbers name classes; above each square, the task and the mean accuracy on "
        "all tasks so far. In the table, the share of the plane that goes to each class.",
        panels=panels,
        table=Table(
            [*heads, *(f"class {cls}" for cls in range(number))],
            [[*row, *[0] * (len(heads) + number - len(row))] for row in rows],
        ),
        columns=1,
        stamp=view.warning,
    )
    return [figure]


def _panel(name: str, run: Run, found: Sequence[Regions]) -> Panel:
    shown = evenly(len(found), COLUMNS)
    squares = list[dict[str, Value]]()
    points = list[dict[str, Value]]()
    names = list[dict[str, Value]]()
    for place, t in enumerate(shown):
        left = place * (1 + GAP)
        squares.append(
            {
                "left": left,
                "right": left + 1,
                "low": 0,
                "high": 1,
                "top": 1 + HEAD / 3,
                "image": _image(found[t].grid),
                "after": f"after task {t + 1}",
                "accuracy": fraction(_accuracy(run, t), 3),
            }
        )
        own = _points(found[: t + 1], left, run.names)
        points += own
        names += _class_names(own)
    width = len(shown) + (len(shown) - 1) * GAP
    sources = (Source(squares), Source(points), Source(names))
    ratio = (1 + HEAD) / width
    pixels = round(width * WIDE)
    layers = _layers(*sources, width)
    return Panel(layers, sources, name, round(pixels * ratio), pixels, ratio)


def _layers(squares: Source, points: Source, names: Source, width: float) -> list[alt.Chart]:
    def x(name: str) -> alt.X:
        return alt.X(f"{name}:Q", title=None, axis=None, scale=alt.Scale(domain=[0, width]))

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title=None, axis=None, scale=alt.Scale(domain=[0, 1 + HEAD]))

    ends = {"x": x("left"), "x2": alt.X2("right"), "y": y("low"), "y2": alt.Y2("high")}
    tips = [alt.Tooltip("class:N"), alt.Tooltip("task:N")]
    size = alt.SizeValue(9, condition={"test": "datum.new", "value": 34})
    rim = alt.StrokeOpacityValue(0, condition={"test": "datum.new", "value": 1})
    at = {"x": x("x"), "y": y("y")}
    return [
        squares.chart()
        .mark_image(aspect=False, smooth=False, aria=False)
        .encode(**ends, url=alt.Url("image:N")),
        points.chart()
        .mark_point(style="ringed", shape="circle", filled=True, opacity=1, strokeWidth=0.8)
        .encode(
            **at,
            fill=alt.Fill("color:N", scale=None, legend=None),
            size=size,
            strokeOpacity=rim,
            tooltip=tips,
        ),
        names.chart()
        .mark_text(fontSize=12, fontWeight="bold", align="right", baseline="middle", dx=-4)
        .encode(**at, text=alt.Text("class:N")),
        squares.chart()
        .mark_text(align="left", baseline="bottom", fontSize=11)
        .encode(x=x("left"), y=y("top"), text=alt.Text("after:N")),
        squares.chart()
        .mark_text(align="right", baseline="bottom", fontSize=11, fontWeight="bold")
        .encode(x=x("right"), y=y("top"), text=alt.Text("accuracy:N")),
    ]


def _accuracy(run: Run, t: int) -> float | None:
    """The mean accuracy on the tasks learned so far."""
    return average_accuracy(run.R[: t + 1])


def _points(found: Sequence[Regions], left: float, tasks: Sequence[str]) -> list[dict[str, Value]]:
    """The training points of all tasks so far that lie in the square, those of the latest task
    last; a method that learns from all tasks so far has told some of them before."""
    told: dict[tuple[float, float, int], int] = {}
    for t, one in enumerate(found):
        for point in one.points:
            told.setdefault(point, t)
    low, high = found[0].square
    return [
        {
            "x": left + (x - low) / (high - low),
            "y": (y - low) / (high - low),
            "class": label,
            "task": tasks[t],
            "new": t == len(found) - 1,
            "color": COLORS[label % len(COLORS)],
        }
        for (x, y, label), t in told.items()
        if low <= x <= high and low <= y <= high
    ]


def _class_names(points: Sequence[dict[str, Value]]) -> list[dict[str, Value]]:
    """The number of each class of a task, and where it stands: to the left of most points."""
    groups: dict[tuple[Value, Value], list[tuple[float, float]]] = {}
    for one in points:
        at = float(one["x"] or 0), float(one["y"] or 0)
        groups.setdefault((one["task"], one["class"]), []).append(at)
    names = list[dict[str, Value]]()
    for (_, cls), own in groups.items():
        xs, ys = zip(*own, strict=True)
        x, y = statistics.fmean(xs), statistics.fmean(ys)
        names.append({"class": cls, "x": x - 2 * statistics.pstdev(xs), "y": y})
    return names


def _image(grid: Sequence[str]) -> str:
    """The regions as the address of a picture, which holds it."""
    answers = bytes(int(symbol, 36) for row in grid for symbol in row)
    picture = Image.frombytes("P", (len(grid[0]), len(grid)), answers)
    colors = [bytes.fromhex(COLORS[cls % len(COLORS)][1:]) for cls in range(36)]
    picture.putpalette(b"".join(colors))
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=bytes([STRENGTH] * 36))
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

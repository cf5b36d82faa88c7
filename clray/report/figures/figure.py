"""What a figure is made of: panels, their data, a key, and a table of its numbers.

A figure is drawn twice, from the same panels: on the page, where each panel is as wide as its
place and the key is HTML, and as one picture, panels beside one another, with Vega-Lite's legends.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import altair as alt

from clray.report.figures.look import config

Value: TypeAlias = str | int | float | bool | None
DIGITS = 5
"""Significant digits of every number in a figure."""


def rounded(value: Any) -> Any:
    """The number, to few digits; what is no finite number becomes None, other values stay."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    return value


class Source:
    """Rows that a panel draws, under a name that is the hash of their content.

    Args:
        rows: with the same columns each.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        names = list(rows[0]) if rows else []
        self.columns = {name: [rounded(row.get(name)) for row in rows] for name in names}
        text = json.dumps(self.columns, separators=(",", ":"), allow_nan=False)
        self.name = "d" + hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def rows(self) -> list[dict[str, Value]]:
        """The rows, rounded."""
        names = list(self.columns)
        return [
            dict(zip(names, row, strict=True)) for row in zip(*self.columns.values(), strict=True)
        ]

    def chart(self) -> alt.Chart:
        """A chart of these rows, not yet marked."""
        return alt.Chart(alt.NamedData(name=self.name))


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        layers: charts of the same place, the first one lowest.
        sources: all that it draws.
        title: above it.
        height: in pixels.
        width: in pixels, in the picture.
        ratio: of the height to the width, which the page keeps however wide the panel's place is;
            None: the height stays.
    """

    layers: Sequence[alt.Chart]
    sources: tuple[Source, ...]
    title: str = ""
    height: int = 240
    width: int = 320
    ratio: float | None = None

    @cached_property
    def drawn(self) -> dict[str, Any]:
        """The specification, without a size and without data."""
        return {"layer": [_spec(layer) for layer in self.layers]}

    def spec(self) -> dict[str, Any]:
        """For the page: as wide as its place, without legends and data."""
        spec = copy.deepcopy(self.drawn)
        _drop_legends(spec)
        if self.ratio is not None:  # the page sets the size
            return {**spec, "autosize": "none", "padding": 0, **_PARAMS}
        size = {"width": "container", "height": self.height}
        return {**spec, **size, "autosize": {"type": "fit-x", "contains": "padding"}, **_PARAMS}

    @property
    def marks(self) -> int:
        """About how many marks it has."""
        return sum(len(next(iter(source.columns.values()), [])) for source in self.sources)


@dataclass(frozen=True)
class Table:
    """The numbers of a figure, to be read."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Value]]


@dataclass(frozen=True)
class Key:
    """What stands for what: methods (by their colours), a ramp of colours, or symbols.

    Attributes:
        methods: labels.
        ramp: (colours, low end, high end, of what), or None.
        symbols: (symbol, meaning).
    """

    methods: Sequence[str] = ()
    ramp: tuple[Sequence[str], str, str, str] | None = None
    symbols: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Figure:
    """A figure with one or several panels.

    Attributes:
        name: of its picture, without ending; unique within a board.
        title: above it.
        caption: below it: what is shown, over how many runs.
        panels: at least one.
        table: its numbers.
        key: what stands for what.
        columns: panels beside one another in the picture.
        wide: whether it takes the page's whole width.
        stamp: a warning about its numbers, if any.
        group: of figures that are shown in turns, such as those of one method's search.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    table: Table
    key: Key = field(default_factory=Key)
    columns: int = 3
    wide: bool = True
    stamp: str | None = None
    group: str = ""

    def picture(self) -> dict[str, Any]:
        """The whole figure as one Vega-Lite specification, light, with its data."""
        charts = [
            {
                **panel.drawn,
                "width": panel.width,
                "height": panel.height,
                **({"title": panel.title} if panel.title else {}),
            }
            for panel in self.panels
        ]
        heading: dict[str, Any] = {"text": self.title, "fontSize": 15, "offset": 14}
        signs = "   ".join(f"{sign} {meaning}" for sign, meaning in self.key.symbols)
        if self.stamp:
            heading |= {"subtitle": self.stamp, "subtitleColor": "#b3261e"}
        elif signs and not self.key.methods:
            heading |= {"subtitle": signs}
        sources = {source.name: source for panel in self.panels for source in panel.sources}
        return {
            "concat": charts,
            "columns": self.columns,
            "config": config(dark=False),
            "datasets": {name: source.rows for name, source in sources.items()},
            **_PARAMS,
            "padding": 16,
            "title": heading,
        }


_PARAMS = {"params": [{"name": "focus", "value": ""}]}
"""The method that the reader points at."""
IN_FOCUS = "focus === '' || focus === datum.method"


def beside(number: int, four: bool = False) -> int:
    """How many of so many panels stand beside one another, so that few places stay empty.

    Args:
        number: of panels.
        four: whether they are small enough for four.
    """
    if number == 4:
        return 4 if four else 2
    return 4 if four and number % 4 == 0 else min(3, number)


def file_part(label: str) -> str:
    """A method's label as it stands in the name of a picture."""
    return label.replace("/", "-").replace(", ", ".").replace(" ", "-")


def focused(shown: float = 1.0, faded: float = 0.1) -> alt.OpacityValue:
    """The opacity of a mark that belongs to a method: faded while another one is pointed at."""
    return alt.OpacityValue(faded, condition={"test": IN_FOCUS, "value": shown})


def focused_fill(shown: float, faded: float = 0.05) -> alt.FillOpacityValue:
    """The same for small marks without an outline, of which there are many: pictures with a
    thousand marks that are transparent as a whole take long to make."""
    return alt.FillOpacityValue(faded, condition={"test": IN_FOCUS, "value": shown})


def method_color(labels: Sequence[str], shown: Sequence[str] = ()) -> alt.Color:
    """Each method's own colour, the same in every figure of the page.

    Args:
        labels: all methods of the page, in order.
        shown: those in the picture's legend; none: there is no legend.
    """
    legend = alt.Legend(title=None, orient="top", values=list(shown)) if shown else None
    return alt.Color("method:N", scale=alt.Scale(domain=list(labels)), legend=legend)


def ramp_color(name: str, title: str, colors: Sequence[str], low: float, high: float) -> alt.Color:
    """A colour for a number.

    Args:
        name: of the column.
        title: of the legend.
        colors: from low to high.
        low: the number of the first colour.
        high: the number of the last.
    """
    scale = ramp_scale(colors, low, high)
    legend = alt.Legend(title=title, gradientLength=120, orient="right")
    return alt.Color(f"{name}:Q", scale=scale, legend=legend)


def ramp_scale(colors: Sequence[str], low: float, high: float) -> alt.Scale:
    """Colours spread evenly from low to high."""
    span = (high - low) or 1.0
    stops = [rounded(low + span * i / (len(colors) - 1)) for i in range(len(colors))]
    return alt.Scale(domain=stops, range=list(colors), interpolate="rgb", clamp=True)


def pixel(place: float) -> alt.YValue:
    """A height, counted from the top of the plot."""
    return alt.YValue(place)  # type: ignore[no-untyped-call]


def _spec(layer: alt.Chart) -> dict[str, Any]:
    # the charts are made here, not given: checking each against the schema is slow, and so is
    # alt.layer, which copies all that it is given several times
    spec: dict[str, Any] = layer.to_dict(validate=False)
    return {k: v for k, v in spec.items() if k not in ("$schema", "config", "datasets")}


def _drop_legends(spec: Any) -> None:
    """Take the legends out, at any depth: on the page the key is HTML."""
    if isinstance(spec, dict):
        for name, value in spec.items():
            channel = name in ("color", "shape", "fill", "stroke", "size")
            if channel and isinstance(value, dict) and "field" in value:
                value["legend"] = None
            _drop_legends(value)
    elif isinstance(spec, list):
        for item in spec:
            _drop_legends(item)

"""The axes of searched knobs: their scale, their ends, and where a value lies on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from clray.report.figures.figure import rounded
from clray.report.numbers import knob as written
from clray.report.stored import TrialLine
from clray.space import Dimension

SPREAD = 50
"""Positive values whose ends lie further apart than this factor are drawn on a logarithmic scale,
where the search space is not known."""

SHORT = (
    "abs(datum.value) >= 1e5 || (datum.value !== 0 && abs(datum.value) < 1e-3)"
    " ? format(datum.value, '.0e') : format(datum.value, '~r')"
)
"""How a tick of a knob's axis is written, in Vega's language."""


@dataclass(frozen=True)
class KnobAxis:
    """One searched knob.

    Attributes:
        path: dotted, such as ``method.strength``.
        low: the lower end; of categories, 0.
        high: the upper end; of categories, the last one's place.
        log: whether the scale is logarithmic.
        categories: its values as text, where they are no numbers; else empty.
    """

    path: str
    low: float
    high: float
    log: bool = False
    categories: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def ends(self) -> tuple[str, str]:
        """What stands at the lower and at the upper end."""
        if self.categories:
            return self.categories[0], self.categories[-1]
        return written(float(self.low)), written(float(self.high))

    def value(self, given: Any) -> Any:
        """A value as it is drawn: a number, or a category's name."""
        return written(given) if self.categories else rounded(float(given))

    def place(self, given: Any) -> float:
        """Where a value lies between the ends, from 0 to 1."""
        if self.categories:
            at = self.categories.index(written(given)) if written(given) in self.categories else 0
            return at / max(1, len(self.categories) - 1)
        value, low, high = float(given), self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5

    def at(self, place: float) -> float:
        """The number at a place from 0 to 1."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return math.exp(low + place * (high - low))
        return self.low + place * (self.high - self.low)

    def scale(self) -> alt.Scale:
        """Its scale."""
        ends = [rounded(float(self.low)), rounded(float(self.high))]
        return alt.Scale(type="log" if self.log else "linear", domain=ends, nice=False, padding=6)

    def x(self, column: str, title: str | None = None) -> alt.X:
        """The knob along a plot."""
        return alt.X(f"{column}:{self.kind}", **self._encoding(title))

    def y(self, column: str, title: str | None = None) -> alt.Y:
        """The knob up a plot."""
        return alt.Y(f"{column}:{self.kind}", **self._encoding(title))

    @property
    def kind(self) -> str:
        """Vega-Lite's letter for categories or numbers."""
        return "N" if self.categories else "Q"

    def _encoding(self, title: str | None) -> dict[str, Any]:
        heading = self.name if title is None else title
        if self.categories:
            axis = alt.Axis(labelAngle=0, grid=False)
            return {"title": heading, "sort": list(self.categories), "axis": axis}
        axis = alt.Axis(labelExpr=SHORT, tickCount=5, labelOverlap=True)
        powers = powers_of_ten(self.low, self.high) if self.log else []
        if len(powers) > 1:
            axis = alt.Axis(labelExpr=SHORT, values=powers, labelOverlap=True)
        return {"title": heading, "scale": self.scale(), "axis": axis}


def knob_axes(lines: Sequence[TrialLine], dimensions: dict[str, Dimension]) -> list[KnobAxis]:
    """The axes of the knobs that vary over these trials, in the space's order."""
    paths = list(dimensions) or []
    paths += [path for line in lines for path in line.values if path not in dimensions]
    axes = []
    for path in dict.fromkeys(paths):
        values = [line.values[path] for line in lines if path in line.values]
        if len({str(value) for value in values}) > 1:
            axes.append(_axis(path, values, dimensions.get(path)))
    return axes


def powers_of_ten(low: float, high: float) -> list[float]:
    """Those from low to high, both above 0."""
    return [10.0**p for p in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _axis(path: str, values: Sequence[Any], dimension: Dimension | None) -> KnobAxis:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    choice = dimension.choice if dimension else None
    if len(numbers) < len(values) or choice is not None:
        known = [written(value) for value in choice or ()]
        found = sorted({written(v) for v in values}, key=_by_size)
        categories = tuple(dict.fromkeys([*known, *found]))
        return KnobAxis(path, 0, len(categories) - 1, categories=categories)
    low, high = float(min(numbers)), float(max(numbers))
    if dimension is not None and dimension.range is not None:
        log = dimension.log
        low, high = min(low, dimension.range[0]), max(high, dimension.range[1])
    else:
        log = low > 0 and high / low > SPREAD
    return KnobAxis(path, low, high, log=log and low > 0)


def _by_size(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text

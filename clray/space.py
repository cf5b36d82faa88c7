"""What is searched: the dimensions of a search space, as a person writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import Field, model_serializer, model_validator

from clray.errors import BadSpec
from clray.spec import Spec

Scalar = bool | int | float | str


class Dimension(Spec):
    """One searched knob: ``{range: [low, high], log: true, step: 1}``, ``{choice: [...]}`` or a
    bare value that is held fixed."""

    range: tuple[float, float] | None = None
    """Lowest and highest value, both included."""
    log: bool = False
    """Whether values are drawn on a logarithmic scale."""
    step: float | None = Field(None, gt=0)
    """Grid width, from the lowest value on."""
    choice: tuple[Scalar | None, ...] | None = None
    """The values to choose from."""
    fixed: Scalar | None = None
    """The one value."""

    @model_validator(mode="before")
    @classmethod
    def _from_value(cls, data: Any) -> Any:
        if isinstance(data, list):
            raise ValueError("a list must be written as choice: [...] or range: [low, high]")
        return data if isinstance(data, Mapping) else {"fixed": data}

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [k for k in ("range", "choice", "fixed") if k in self.model_fields_set]
        if len(given) != 1:
            raise ValueError("exactly one of range, choice, or a bare value is needed")
        if "fixed" not in given and self.range is None and self.choice is None:
            raise ValueError("range: [low, high], or choice: [...]")
        if self.range is None and (self.log or self.step is not None):
            raise ValueError("log and step go with range")
        if self.range is not None:
            low, high = self.range
            if low >= high:
                raise ValueError("range needs low < high")
            if self.log and low <= 0:
                raise ValueError("a logarithmic range needs low > 0")
            if self.log and self.step is not None:
                raise ValueError("log and step exclude each other")
            if self.step is not None and not _divides(self.step, high - low):
                raise ValueError("a step that leads from low to high")
        if self.choice is not None and len(self.choice) == 0:
            raise ValueError("choice needs at least one value")
        if self.choice is not None and len({(type(v), v) for v in self.choice}) < len(self.choice):
            raise ValueError("choice needs values that differ")
        return self

    @model_serializer
    def _plain(self) -> Any:
        if "fixed" in self.model_fields_set:
            return self.fixed
        if self.choice is not None:
            return {"choice": list(self.choice)}
        plain: dict[str, Any] = {"range": list(self.range or ())}
        if self.log:
            plain["log"] = True
        if self.step is not None:
            plain["step"] = self.step
        return plain


def _divides(step: float, length: float) -> bool:
    number = round(length / step)
    return number > 0 and math.isclose(number * step, length, rel_tol=1e-9)


Point = dict[str, dict[str, Scalar | None]]
"""Values in the sections of a trial's spec: ``{method: {strength: 100}}``."""

SPACE_SECTIONS = ("method", "model", "optimizer", "protocol", "benchmark")


class SearchSpace(Spec):
    """What is searched for one method: dimensions in the sections of a trial's spec."""

    method: dict[str, Dimension] = {}
    """Dimensions over the method's knobs."""
    model: dict[str, Dimension] = {}
    """Dimensions over the model's knobs."""
    optimizer: dict[str, Dimension] = {}
    """Dimensions over the optimizer's knobs."""
    protocol: dict[str, Dimension] = {}
    """Dimensions over the protocol's knobs."""
    benchmark: dict[str, Dimension] = {}
    """Dimensions over the benchmark's knobs."""
    start: tuple[Point, ...] = ()
    """Points that are tried first, in the same sections."""

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """All dimensions by dotted path, such as ``method.strength``, in the order written."""
        return {
            f"{section}.{knob}": dimension
            for section in SPACE_SECTIONS
            for knob, dimension in getattr(self, section).items()
        }

    @property
    def searched(self) -> dict[str, Dimension]:
        """The dimensions that are not held fixed."""
        return {k: d for k, d in self.dimensions.items() if "fixed" not in d.model_fields_set}

    @property
    def fixed(self) -> dict[str, Scalar | None]:
        """The values that are held fixed, by dotted path."""
        return {k: d.fixed for k, d in self.dimensions.items() if "fixed" in d.model_fields_set}

    @property
    def starting_points(self) -> list[dict[str, Scalar | None]]:
        """The points to try first, by dotted path."""
        return [by_path(point) for point in self.start]

    def check_inside(self, path: str, value: Scalar | None, where: str) -> None:
        """Refuse a value that may not be proposed for the dimension of that dotted path.

        Raises:
            BadSpec: one outside of what is searched; ``where`` names it.
        """
        dimension = self.dimensions[path]
        if dimension.range is not None:
            low, high = dimension.range
            if isinstance(value, str | None | bool) or not low <= float(value) <= high:
                raise BadSpec(where, value, f"a number in [{low:g}, {high:g}], the searched range")
        elif dimension.choice is not None and value not in dimension.choice:
            raise BadSpec(where, value, f"one of {list(dimension.choice)}, the searched choices")

    def is_inside(self, path: str, value: Scalar | None) -> bool:
        """Whether a value may be proposed for a dimension."""
        try:
            self.check_inside(path, value, "")
        except BadSpec:
            return False
        return True

    def without(self, paths: Iterable[str]) -> SearchSpace:
        """This space with some dimensions, and what the starting points say of them, left out."""
        gone = set(paths)

        def kept(section: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in knobs.items() if f"{section}.{k}" not in gone}

        sections = {name: kept(name, getattr(self, name)) for name in SPACE_SECTIONS}
        start = tuple({name: kept(name, knobs) for name, knobs in p.items()} for p in self.start)
        return self.model_copy(update={**sections, "start": start})


def by_path(point: Point) -> dict[str, Scalar | None]:
    """A point's values by dotted path, such as ``method.strength``."""
    return {f"{section}.{knob}": v for section, knobs in point.items() for knob, v in knobs.items()}

"""What a search is after: measures with directions, constraints, and who wins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from clray.errors import nearest_name
from clray.spec import Spec

Direction = Literal["maximize", "minimize"]
Measures = Mapping[str, float | None]

CONTINUAL: dict[str, Direction] = {
    "continual_minimum_accuracy": "maximize",
    "continual_worst_case_accuracy": "maximize",
    "windowed_forgetting": "minimize",
    "windowed_plasticity": "maximize",
    "learning_curve_area": "maximize",
    "depth": "minimize",
    "depth_after_initialisation": "minimize",
}
"""What continual evaluation measures (``clray.traces``), and which way is better."""
DIRECTIONS: dict[str, Direction] = {
    "average_accuracy": "maximize",
    "average_incremental_accuracy": "maximize",
    "learning_accuracy": "maximize",
    "worst_case_accuracy": "maximize",
    "minimum_accuracy": "maximize",
    "forgetting": "minimize",
    "backward_transfer": "maximize",
    "forward_transfer": "maximize",
    "growth": "minimize",
    "parameters": "minimize",
    "bytes": "minimize",
    "steps": "minimize",
    "examples_seen": "minimize",
    "examples_processed": "minimize",
    **CONTINUAL,
}
"""Every measure of a trial (``clray.metrics``, ``clray.traces``), and which way is better."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONSTRAINT = re.compile(rf"^\s*([a-z_]+)\s*(<=|>=)\s*({_NUMBER})\s*$")


def _metric(name: Any) -> str:
    if not isinstance(name, str) or name not in DIRECTIONS:
        nearest = nearest_name(str(name), DIRECTIONS)
        hint = f". Did you mean {nearest!r}?" if nearest else ""
        raise ValueError(f"a measure: {', '.join(DIRECTIONS)}{hint}")
    return name


class Objective(Spec):
    """One measure that is optimised; written as its name where the usual direction is meant."""

    metric: str
    """Which measure."""
    direction: Direction = "maximize"
    """Which way is better; by default the usual one of the measure."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        plain = dict(data) if isinstance(data, Mapping) else {"metric": data}
        if "metric" in plain:
            plain.setdefault("direction", DIRECTIONS[_metric(plain["metric"])])
        return plain

    @property
    def sign(self) -> int:
        """1 where larger is better, else -1."""
        return 1 if self.direction == "maximize" else -1


class Constraint(Spec):
    """A bound on a measure, written as ``growth <= 0.2``."""

    metric: str
    """Which measure."""
    relation: Literal["<=", ">="]
    """On which side it must stay."""
    bound: float = Field(allow_inf_nan=False)
    """Of what."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if "metric" in data:
                _metric(data["metric"])
            return data
        match = _CONSTRAINT.match(data) if isinstance(data, str) else None
        if match is None:
            raise ValueError("MEASURE <= NUMBER or MEASURE >= NUMBER, such as growth <= 0.2")
        metric, relation, bound = match.groups()
        return {"metric": _metric(metric), "relation": relation, "bound": bound}

    @model_serializer
    def _plain(self) -> str:
        return f"{self.metric} {self.relation} {self.bound:g}"

    def excess(self, measures: Measures) -> float:
        """By how much it is broken; 0 or less: it is kept. A measure that is missing breaks it."""
        value = measures.get(self.metric)
        if value is None:
            return float("inf")
        return value - self.bound if self.relation == "<=" else self.bound - value


def feasible(measures: Measures, constraints: Sequence[Constraint]) -> bool:
    """Whether every constraint is kept."""
    return all(constraint.excess(measures) <= 0 for constraint in constraints)


def scores(measures: Measures, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The objectives' values, turned so that larger is better; None where one is missing."""
    values = [measures.get(objective.metric) for objective in objectives]
    if any(value is None for value in values):
        return None
    return tuple(o.sign * v for o, v in zip(objectives, values, strict=True) if v is not None)


def front(points: Sequence[tuple[float, ...]]) -> list[int]:
    """The indices of the points that no other one dominates; of equal points, the first."""
    kept = []
    for i, point in enumerate(points):
        beaten = any(
            all(a >= b for a, b in zip(other, point, strict=True)) and (other != point or j < i)
            for j, other in enumerate(points)
            if j != i
        )
        if not beaten:
            kept.append(i)
    return kept

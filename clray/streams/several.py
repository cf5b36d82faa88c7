"""Streams whose tasks are different datasets."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, model_validator

from clray.errors import BadSpec
from clray.streams import joined, sources
from clray.streams.layout import Draw, Layout
from clray.streams.scenarios import InMemory, WideScenario


def as_sum(value: Any) -> Any:
    """A list of names as first + second + third; anything else as it is."""
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return joined.PLUS.join(value)
    return value


DatasetNames = Annotated[
    str,
    BeforeValidator(as_sum),
    Field(
        min_length=1,
        description="Sources of the images, one for each task: a list of names, or first + second "
        "+ third.",
    ),
]


class Several(InMemory):
    """Several datasets in a row, each a task that is named after it.

    Output units are numbered in the order in which the datasets are listed, whatever
    ``task_order`` says; those that it leaves out take none. In the domain-incremental scenario
    class c of every dataset has label c.
    """

    scenario: WideScenario = "class-incremental"
    dataset: DatasetNames

    @model_validator(mode="before")
    @classmethod
    def _count_datasets(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "num_tasks" not in data:
            field = cls.model_fields["dataset"]
            names = as_sum(data.get("dataset", None if field.is_required() else field.default))
            if isinstance(names, str):
                return {**data, "num_tasks": len(joined.names_in(names))}
        return data

    def layout(self, draw: Draw) -> Layout:
        """See ``InMemory.layout``."""
        order = self._order(draw.seed)
        counts = sources.class_counts(self._source)
        self._check_counts(counts)
        ranges = [range(*pair) for pair in pairwise(accumulate(counts, initial=0))]
        shared = self.scenario == "domain-incremental"
        units, total = torch.full((draw.num_classes,), -1), 0
        for position in sorted(order):
            first = 0 if shared else total
            units[list(ranges[position])] = torch.arange(first, first + counts[position])
            total = first + counts[position]
        tasks = [
            draw.task(self._names[position], ranges[position], units[ranges[position]].tolist())
            for position in order
        ]
        return Layout(tuple(tasks), total, units)

    def shows(self) -> list[frozenset[str]] | None:
        """See ``BenchmarkConfig.shows``: whole datasets."""
        if self.task_order == "trial-seed":
            return None
        return [frozenset({f"all of {self._names[place]}"}) for place in self._order(0)]

    def _check_tasks(self, num_classes: int | None) -> None:
        names = self._names
        if len(names) != self.num_tasks:
            accepted = f"{len(names)}, one for each dataset (or no num_tasks)"
            raise BadSpec("benchmark.num_tasks", self.num_tasks, accepted)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadSpec("benchmark.dataset", f"{twice} twice", "datasets that differ")
        self._order(0)
        if num_classes is not None:
            self._check_counts(sources.class_counts(self._source))

    def _check_counts(self, counts: list[int]) -> None:
        if self.scenario == "domain-incremental" and len(set(counts)) > 1:
            accepted = "datasets with equally many classes, since they share output units"
            raise BadSpec("benchmark.dataset, domain-incremental: classes", counts, accepted)

    @property
    def _names(self) -> list[str]:
        return joined.names_in(self.dataset)

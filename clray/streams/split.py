"""Streams whose tasks are different classes of one dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator

from clray.errors import BadSpec
from clray.streams import sources
from clray.streams.draws import Order, arrange
from clray.streams.layout import Draw, Layout
from clray.streams.scenarios import InMemory, WideScenario
from clray.streams.superclasses import CIFAR100


def _superclasses(value: Any) -> Any:
    if value is None or value == "cifar100":
        return value
    lists = list(value.values()) if isinstance(value, Mapping) else [None]
    for own in lists:
        whole = isinstance(own, list | tuple) and all(type(cls) is int and cls >= 0 for cls in own)
        if not whole:
            raise ValueError("cifar100, or lists of class indices (from 0 up) by name")
    return value


Superclasses = Annotated[
    dict[str, tuple[int, ...]] | Literal["cifar100"] | None,
    BeforeValidator(_superclasses),  # a union's own message would name types instead of choices
    Field(
        description="Groups of classes by name: lists of class indices that share none; cifar100 "
        "stands for the 20 of that dataset. Their order is that of their names."
    ),
]


@dataclass(frozen=True)
class _Part:
    """A task as defined: its name, its classes, and the label of each (equal labels, one unit)."""

    name: str
    classes: tuple[int, ...]
    labels: tuple[int | str, ...]


class Split(InMemory):
    """The classes of a dataset, cut into tasks.

    Output units are numbered in the order in which tasks are *defined* (``class_order`` cut into
    pieces), whatever ``task_order`` says; tasks that ``task_order`` leaves out take no units. In
    the domain-incremental scenario a label is the position of the class within its task, so that
    all tasks share the units. A task's name is made of its classes' numbers, ascending, or of its
    superclasses' names.
    """

    scenario: WideScenario = "class-incremental"
    class_order: Order = "natural"
    """In which order the classes are cut into tasks: natural, trial-seed, a seed, or a list of
    class indices (some may be left out)."""
    task_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(None, min_length=1)
    """Classes (or superclasses) of each task, if not equally many; num_tasks is then their
    number."""
    superclasses: Superclasses = None
    tasks_of: Literal["classes", "superclasses"] = "classes"
    """Whether tasks are cut from the classes or are made of whole superclasses."""
    label: Literal["class", "superclass"] = "class"
    """What is predicted. Superclasses with tasks of classes is domain-incremental: each task brings
    other classes of every superclass."""

    @model_validator(mode="before")
    @classmethod
    def _count_sizes(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "num_tasks" not in data:
            sizes = data.get("task_sizes")
            if isinstance(sizes, list | tuple) and sizes:
                return {**data, "num_tasks": len(sizes)}
        return data

    def _check_tasks(self, num_classes: int | None) -> None:
        if self.task_sizes is not None and len(self.task_sizes) != self.num_tasks:
            accepted = f"{self.num_tasks} sizes, as many as num_tasks (or no num_tasks)"
            raise BadSpec("benchmark.task_sizes", list(self.task_sizes), accepted)
        if self._grouped and not self.superclasses:
            raise BadSpec("benchmark.superclasses", self.superclasses, "a map of superclasses")
        across = self.label == "superclass" and self.tasks_of == "classes"
        if across and self.scenario != "domain-incremental":
            accepted = "domain-incremental, or tasks_of: superclasses; else tasks share labels"
            raise BadSpec("benchmark.scenario, with label: superclass", self.scenario, accepted)
        if across and self.task_sizes is not None:
            given = list(self.task_sizes)
            raise BadSpec("benchmark.task_sizes, with label: superclass", given, "none")
        self._order(0)
        if num_classes is not None or isinstance(self.class_order, tuple):
            self._parts(num_classes, 0)

    def layout(self, draw: Draw) -> Layout:
        """See ``InMemory.layout``."""
        parts = self._parts(draw.num_classes, draw.seed)
        order = self._order(draw.seed)
        units = torch.full((draw.num_classes,), -1)
        numbers: dict[int | str, int] = {}
        for position in sorted(order):
            for cls, label in zip(parts[position].classes, parts[position].labels, strict=True):
                units[cls] = numbers.setdefault(label, len(numbers))
        tasks = [
            draw.task(part.name, part.classes, sorted(set(units[list(part.classes)].tolist())))
            for part in (parts[position] for position in order)
        ]
        return Layout(tuple(tasks), len(numbers), units)

    def shows(self) -> list[frozenset[str]] | None:
        """See ``BenchmarkConfig.shows``; None too where the dataset's classes are not known before
        it is read."""
        if "trial-seed" in (self.class_order, self.task_order):
            return None
        count = sources.check(self._source)
        if count is None and not isinstance(self.class_order, tuple):
            return None
        parts = self._parts(count, 0)
        return [
            frozenset(f"class {cls} of {self.dataset}" for cls in parts[position].classes)
            for position in self._order(0)
        ]

    @property
    def _grouped(self) -> bool:
        return self.tasks_of == "superclasses" or self.label == "superclass"

    def _parts(self, count: int | None, seed: int) -> list[_Part]:
        """The tasks as defined; ``count`` classes in the dataset, None: not known yet."""
        classes = arrange(self.class_order, count, seed, "benchmark.class_order")
        groups = self._groups(classes, count)
        if self.tasks_of == "superclasses":
            names = list(groups)
            parts = [
                _Part(
                    "+".join(names[i] for i in cut),
                    tuple(cls for i in cut for cls in groups[names[i]]),
                    tuple(
                        names[i] if self.label == "superclass" else cls
                        for i in cut
                        for cls in groups[names[i]]
                    ),
                )
                for cut in self._cuts(len(names), "superclasses")
            ]
        elif self.label == "superclass":
            return self._across(groups)
        else:
            parts = []
            for cut in self._cuts(len(classes), "classes"):
                own = tuple(classes[i] for i in cut)
                parts.append(_Part(_name(own), own, own))
        return self._within(parts) if self.scenario == "domain-incremental" else parts

    def _groups(self, classes: list[int], count: int | None) -> dict[str, list[int]]:
        """The superclasses by name, each with those of ``classes`` that it holds, in order."""
        if not self._grouped:
            return {}
        given = CIFAR100 if self.superclasses == "cifar100" else self.superclasses or {}
        owner: dict[int, str] = {}
        for name in sorted(given):
            for cls in given[name]:
                if cls in owner or (count is not None and cls >= count):
                    accepted = f"each class in one superclass, from 0 to {(count or 0) - 1}"
                    raise BadSpec(f"benchmark.superclasses: {name}", cls, accepted)
                owner[cls] = name
        for cls in classes:
            if cls not in owner:
                raise BadSpec("benchmark.superclasses", f"none for class {cls}", "every class")
        groups = {name: [cls for cls in classes if owner[cls] == name] for name in sorted(given)}
        return {name: own for name, own in groups.items() if own}

    def _cuts(self, count: int, what: str) -> list[range]:
        if self.num_tasks > count:
            raise BadSpec("benchmark.num_tasks", self.num_tasks, f"1 to {count}, as many as {what}")
        sizes = self.task_sizes
        if sizes is None:
            if count % self.num_tasks:
                divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
                accepted = f"a divisor of the {count} {what} ({divisors}), or task_sizes"
                raise BadSpec("benchmark.num_tasks", self.num_tasks, accepted)
            sizes = (count // self.num_tasks,) * self.num_tasks
        elif sum(sizes) != count:
            given = f"{list(sizes)}, {sum(sizes)} in all"
            raise BadSpec("benchmark.task_sizes", given, f"sizes of {count} {what} in all")
        return [range(low, high) for low, high in pairwise(accumulate(sizes, initial=0))]

    def _across(self, groups: dict[str, list[int]]) -> list[_Part]:
        """Each task takes the next classes of every superclass."""
        members: list[list[tuple[int, str]]] = [[] for _ in range(self.num_tasks)]
        for name, classes in groups.items():
            if len(classes) % self.num_tasks:
                accepted = f"a divisor of {len(classes)}, the classes of superclass {name}"
                raise BadSpec("benchmark.num_tasks", self.num_tasks, accepted)
            size = len(classes) // self.num_tasks
            for i, cls in enumerate(classes):
                members[i // size].append((cls, name))
        parts = []
        for pairs in members:
            classes_, labels = zip(*pairs, strict=True)
            parts.append(_Part(_name(classes_), classes_, labels))
        return parts

    def _within(self, parts: list[_Part]) -> list[_Part]:
        """Labels become positions within the task."""
        renumbered = []
        for part in parts:
            order = {label: i for i, label in enumerate(dict.fromkeys(part.labels))}
            labels = tuple(order[label] for label in part.labels)
            renumbered.append(_Part(part.name, part.classes, labels))
        sizes = [len(set(part.labels)) for part in renumbered]
        if len(set(sizes)) > 1 or sizes[0] < 2:
            accepted = "tasks with equally many labels, 2 or more, since they share output units"
            raise BadSpec("benchmark.task_sizes, domain-incremental", sizes, accepted)
        return renumbered


def _name(classes: tuple[int, ...]) -> str:
    """``0-1``, or ``0..9`` for a run of more than 4; the same for the same classes."""
    numbers = sorted(classes)
    if len(numbers) > 4 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}..{numbers[-1]}"
    return "-".join(map(str, numbers))

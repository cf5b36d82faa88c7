"""What a running job or build tells whoever watches it: a terminal, a test, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal["search", "test"]


@dataclass(frozen=True)
class JobStarted:
    """The job's plan: its name, where its results lie, and trials by entry and stage."""

    name: str
    results: str
    num_tasks: int
    planned: dict[tuple[str, Stage], int]


@dataclass(frozen=True)
class SlotsStarting:
    """Ray starts: no trial can run before the first slot is ready."""

    slots: int


@dataclass(frozen=True)
class SlotsReady:
    """The first slot is ready, so many seconds after SlotsStarting."""

    seconds: float


@dataclass(frozen=True)
class TrialStarted:
    """A trial was handed to the slots. ``label`` is the job's entry, ``number`` counts from 0."""

    label: str
    stage: Stage
    number: int
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskEnded:
    """A trial learned one more task (``task`` counts from 0)."""

    label: str
    stage: Stage
    number: int
    task: int
    average_accuracy: float


@dataclass(frozen=True)
class TrialEnded:
    """A trial ended.

    ``state`` is completed, diverged, stopped or failed; ``value`` the objective on validation
    examples (None in the test stage, where nothing is chosen, and unless completed); ``stored``
    whether it was known from before; ``error`` what went wrong.
    """

    label: str
    stage: Stage
    number: int
    state: str
    value: float | None
    stored: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Warned:
    """Something that a person should know, and that stops nothing."""

    text: str


@dataclass(frozen=True)
class Progressed:
    """So much of a step of work on a stored stream is done.

    ``what`` is counted: labels, images or features in rows, shards in files.
    """

    what: str
    done: int
    total: int


Event = (
    JobStarted
    | SlotsStarting
    | SlotsReady
    | TrialStarted
    | TaskEnded
    | TrialEnded
    | Warned
    | Progressed
)
Watch = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watches nothing."""

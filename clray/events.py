"""What a running job or build tells whoever watches it: a terminal, a test, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal["first stage", "search", "parts", "test", "transfer"]
"""The search; the test runs of what it chose, and before them the tasks that these share, where a
method learns tasks apart; two-stage's tuning of training knobs before all; and the trials that tell
how a choice holds on another benchmark."""


@dataclass(frozen=True)
class JobStarted:
    """A job: its name, where its results lie, and the names of its boards ("" for a single one),
    which run one after another. Without a search or a stored result, nothing follows."""

    name: str
    results: str
    boards: tuple[str, ...]


@dataclass(frozen=True)
class BoardStarted:
    """One benchmark under one selection protocol; all trials up to the next one belong to it.

    ``num_tasks`` is the length of its stream, ``planned`` the trials by entry and stage (the most
    there can be), ``metric`` the first objective and ``direction`` which way it is better.
    """

    board: str
    num_tasks: int
    planned: dict[tuple[str, Stage], int]
    metric: str = "average_accuracy"
    direction: str = "maximize"


@dataclass(frozen=True)
class SlotsStarting:
    """Ray starts: no trial can run before the first slot is ready."""

    slots: int


@dataclass(frozen=True)
class SlotsReady:
    """The first slot is ready, so many seconds after SlotsStarting."""

    seconds: float


@dataclass(frozen=True)
class SlotsChanged:
    """On a cluster slots follow the machines: so many are ready, are starting, or wait for
    machines that are not there (yet), of the most that the job asks for."""

    ready: int
    starting: int
    waiting: int
    most: int


@dataclass(frozen=True)
class TrialStarted:
    """A slot has taken a trial.

    ``label`` is the job's entry; ``number`` counts from 0 in its stage, over all tasks where
    hyperparameters are chosen anew for each. A trial has one run for each rung, seed and order.
    ``tasks`` is how many tasks each run learns.
    """

    label: str
    stage: Stage
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    runs: int = 1
    tasks: int | None = None


@dataclass(frozen=True)
class TrialWaits:
    """The slot of a running trial was lost: it waits for another one, to go on where it was."""

    label: str
    stage: Stage
    number: int


@dataclass(frozen=True)
class TrialResumed:
    """Another slot has taken a trial that waited."""

    label: str
    stage: Stage
    number: int


@dataclass(frozen=True)
class TaskEnded:
    """A run of a trial learned one more task (``task`` counts from 0)."""

    label: str
    stage: Stage
    number: int
    task: int
    average_accuracy: float
    run: int = 0


@dataclass(frozen=True)
class TrialEnded:
    """A trial ended.

    ``state`` is completed, diverged, stopped or failed; ``value`` the first objective (None in the
    test stage, where nothing is chosen, and unless completed); ``stored`` whether it was known from
    before; ``error`` what went wrong; ``measures`` the means over its runs.
    """

    label: str
    stage: Stage
    number: int
    state: str
    value: float | None
    stored: bool = False
    error: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class BoardEnded:
    """A board's rows, as ``final.json`` holds them."""

    board: str
    rows: list[dict[str, Any]]


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
    | BoardStarted
    | BoardEnded
    | SlotsStarting
    | SlotsReady
    | SlotsChanged
    | TrialStarted
    | TrialWaits
    | TrialResumed
    | TaskEnded
    | TrialEnded
    | Warned
    | Progressed
)
Watch = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watches nothing."""

"""What a trial tells, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
Report = Callable[[Record], bool]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: ``completed``, ``diverged`` (a loss or a prediction was not a number), ``stopped``
            (``report`` said so) or ``failed`` (see ``error``).
        records: one per task that was learned.
        metrics: of the accuracy matrix so far.
        seconds: spent in training, evaluation and checkpoints, over all of the trial's starts;
            ``tasks``, in training each task; and ``steps``, how many this trial made itself.
        error: what went wrong, for a person.
    """

    state: str
    records: list[Record] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class Interrupted(Exception):
    """The trial was told to leave; what it has stored is where it will go on."""


def go_on(record: Record) -> bool:
    """A report that nobody reads."""
    return True


def never() -> bool:
    """An interruption that does not come."""
    return False

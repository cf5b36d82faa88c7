"""A small job's events, and what loggers are opened with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clray.events import (
    BoardEnded,
    BoardStarted,
    Event,
    JobStarted,
    TaskEnded,
    TrialEnded,
    TrialStarted,
)
from clray.job import JobSpec
from clray.loggers.opening import open_loggers
from clray.store import Folder, job_folder

Log = Callable[[Any, Sequence[Event]], list[Event]]

VALUES = {"method.strength": 100.0, "optimizer.clip_norm": None, "method.mode": "online"}
MEASURES = {"average_accuracy": 0.7, "forgetting": 0.1, "forward_transfer": None}
ROW: dict[str, Any] = {
    "label": "ewc",
    "method": "ewc",
    "values": VALUES,
    "test": {"average_accuracy": {"mean": 0.65, "interval": 0.02, "values": [0.64, 0.66]}},
    "seeds": 2,
    "error": None,
}
BEGIN: list[Event] = [
    JobStarted("a", "results/jobs/a", ("split/first-k",)),
    BoardStarted("split/first-k", 2, {("ewc", "search"): 2, ("ewc", "test"): 2}),
]
TRIALS: list[Event] = [
    TrialStarted("ewc", "search", 0, VALUES),
    TaskEnded("ewc", "search", 0, 0, 0.9),
    TaskEnded("ewc", "search", 0, 1, 0.7),
    TrialEnded("ewc", "search", 0, "completed", 0.7, values=VALUES, measures=MEASURES),
    TrialStarted("ewc", "search", 1, VALUES, runs=2),
    TaskEnded("ewc", "search", 1, 0, 0.8, run=0),
    TaskEnded("ewc", "search", 1, 0, 0.6, run=1),
    TrialEnded("ewc", "search", 1, "failed", None, error="boom", values=VALUES),
]
END: list[Event] = [BoardEnded("split/first-k", [ROW])]
RETRIED: list[Event] = [
    TrialEnded("ewc", "search", 0, "completed", 0.7, True, None, VALUES, MEASURES),
    TrialEnded("ewc", "search", 1, "completed", 0.5, False, None, VALUES, {}),
]


@dataclass(frozen=True)
class Told:
    """What a small job tells: at its begin, of its trials, at its end; of the trials when it is
    started again."""

    begin: tuple[Event, ...]
    trials: tuple[Event, ...]
    end: tuple[Event, ...]
    retried: tuple[Event, ...]

    @property
    def whole(self) -> list[Event]:
        """The first start."""
        return [*self.begin, *self.trials, *self.end]

    @property
    def again(self) -> list[Event]:
        """The second."""
        return [*self.begin, *self.retried, *self.end]


@pytest.fixture
def told() -> Told:
    """A job of two trials, one of which fails and completes at the second start."""
    return Told(tuple(BEGIN), tuple(TRIALS), tuple(END), tuple(RETRIED))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The job's, which does not exist yet."""
    return job_folder(str(tmp_path / "results"), "a")


@pytest.fixture
def make_job() -> Callable[[Any], JobSpec]:
    """A job with the given loggers."""

    def make(loggers: Any) -> JobSpec:
        plain = {"name": "a", "benchmark": "split-digits", "methods": ["ewc"], "loggers": loggers}
        return JobSpec.model_validate(plain)

    return make


@pytest.fixture
def log(folder: Folder, make_job: Callable[[Any], JobSpec]) -> Log:
    """Open the loggers of a job, tell them these events, and give what a person is told."""

    def run(loggers: Any, events: Sequence[Event]) -> list[Event]:
        seen: list[Event] = []
        with open_loggers(make_job(loggers), folder, seen.append) as watch:
            for event in events:
                watch(event)
        return seen

    return run

"""What a running job's events add up to: counts, times and what is running."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from clray.events import (
    Event,
    JobStarted,
    SlotsReady,
    SlotsStarting,
    Stage,
    TaskEnded,
    TrialEnded,
    TrialStarted,
    Warned,
)

TrialName = tuple[str, Stage, int]


@dataclass
class StageState:
    """One entry's search or test runs.

    Attributes:
        planned: trials in all.
        states: how many ended in which state.
        best: the highest value so far.
        seconds: that each trial took which ran here.
    """

    planned: int = 0
    states: Counter[str] = field(default_factory=Counter)
    best: float | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """How many trials ended."""
        return self.states.total()


@dataclass
class RunningTrial:
    """A trial under way: when it started, what it tries, and how far it is."""

    started: float
    values: dict[str, Any]
    tasks: int = 0
    average_accuracy: float | None = None


class JobState:
    """Adds up events; may be told and read from different threads, under ``lock``.

    Args:
        clock: seconds, from anywhere on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.start = clock()
        self.name = self.results = ""
        self.num_tasks = 0
        self.stages: dict[tuple[str, Stage], StageState] = {}
        self.running: dict[TrialName, RunningTrial] = {}
        self.most_at_once = 0
        self.slots_asked = 0
        self.slots_since: float | None = None
        self.slots_took: float | None = None
        self.warnings: list[str] = []

    @property
    def labels(self) -> list[str]:
        """The entries, in the order of the plan."""
        return list(dict.fromkeys(label for label, _ in self.stages))

    @property
    def elapsed(self) -> float:
        """Seconds since the job started."""
        return self.clock() - self.start

    def stage(self, label: str, stage: Stage) -> StageState:
        """One entry's search or test runs."""
        return self.stages.setdefault((label, stage), StageState())

    def watch(self, event: Event) -> float | None:
        """Take notice of an event; the seconds that a trial took which ended here."""
        with self.lock:
            match event:
                case JobStarted(name, results, num_tasks, planned):
                    self.name, self.results, self.num_tasks = name, results, num_tasks
                    for (label, stage), number in planned.items():
                        self.stage(label, stage).planned = number
                case SlotsStarting(slots):
                    self.slots_asked, self.slots_since = slots, self.clock()
                case SlotsReady(seconds):
                    self._slots_ready(seconds)
                case TrialStarted(label, stage, number, values):
                    trial = RunningTrial(self.clock(), dict(values))
                    self.running[label, stage, number] = trial
                    self.most_at_once = max(self.most_at_once, len(self.running))
                case TaskEnded(label, stage, number, task, accuracy):
                    if (label, stage, number) in self.running:
                        trial = self.running[label, stage, number]
                        trial.tasks, trial.average_accuracy = task + 1, accuracy
                case TrialEnded():
                    return self._trial_ended(event)
                case Warned(text):
                    if text not in self.warnings:
                        self.warnings.append(text)
        return None

    def _slots_ready(self, seconds: float) -> None:
        self.slots_since, self.slots_took = None, seconds
        for trial in self.running.values():  # the wait is not theirs
            trial.started = self.clock()

    def _trial_ended(self, event: TrialEnded) -> float | None:
        trial = self.running.pop((event.label, event.stage, event.number), None)
        stage = self.stage(event.label, event.stage)
        stage.states[event.state] += 1
        if event.error is not None:
            text = f"{event.label} {event.stage} #{event.number}: {event.error}"
            self.watch(Warned(text))
        if event.value is not None:
            stage.best = event.value if stage.best is None else max(stage.best, event.value)
        if trial is None or event.stored:
            return None
        seconds = self.clock() - trial.started
        if event.state == "completed":
            stage.seconds.append(seconds)
        return seconds

    def seconds_left(self) -> float | None:
        """An estimate from the medians of finished trials, or None while there is none."""
        everything = [s for stage in self.stages.values() for s in stage.seconds]
        if not everything or not self.most_at_once:
            return None
        work = 0.0
        remaining = 0
        for (label, name), stage in self.stages.items():
            left = stage.planned - stage.ended
            if left <= 0:
                continue
            other: Stage = "test" if name == "search" else "search"
            alike = stage.seconds or self.stage(label, other).seconds or everything
            each = median(alike)
            running = [t for key, t in self.running.items() if key[:2] == (label, name)]
            done = sum(min(each, self.clock() - trial.started) for trial in running)
            work += max(0.0, left * each - done)
            remaining += left
        return work / min(self.most_at_once, remaining) if remaining else 0.0

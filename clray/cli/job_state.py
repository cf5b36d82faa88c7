"""What a running job's events add up to: boards, counts, times and what is running."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from clray.events import (
    BoardEnded,
    BoardStarted,
    Event,
    JobStarted,
    SlotsChanged,
    SlotsReady,
    SlotsStarting,
    Stage,
    TaskEnded,
    TrialEnded,
    TrialResumed,
    TrialStarted,
    TrialWaits,
    Warned,
)
from clray.report.numbers import count, fraction, size

TrialName = tuple[str, Stage, int]
STAGES: tuple[Stage, ...] = ("first stage", "search", "parts", "test", "transfer")


@dataclass
class StageState:
    """One entry's trials of one stage, on the board under way.

    Attributes:
        planned: trials, the most there can be.
        states: how many ended in which state.
        best: the best value so far.
        seconds: that each trial took which ran here.
        tasks: that such a trial learns, over all its runs; None while none was seen.
    """

    planned: int = 0
    states: Counter[str] = field(default_factory=Counter)
    best: float | None = None
    seconds: list[float] = field(default_factory=list)
    tasks: int | None = None

    @property
    def ended(self) -> int:
        """How many trials ended."""
        return self.states.total()


@dataclass
class RunningTrial:
    """A trial under way: when it started, what it tries, how far each run is, and the accuracy
    that was told last."""

    started: float
    values: dict[str, Any]
    runs: int = 1
    tasks: int = 1
    learned: dict[int, int] = field(default_factory=dict)
    average_accuracy: float | None = None
    waits: bool = False

    @property
    def progress(self) -> str:
        """``task 3 of 5``, or over several runs ``7 of 25 tasks``; or that its machine is lost."""
        if self.waits:
            return "waits for a slot"
        done = sum(self.learned.values())
        if self.runs > 1:
            return f"{done} of {self.runs * self.tasks} tasks"
        return f"task {min(done + 1, self.tasks)} of {self.tasks}"


@dataclass(frozen=True)
class EndedBoard:
    """A board that ended: its name, the entry that is best on test and its score, and how long it
    took."""

    name: str
    best: str
    value: float | None
    metric: str
    seconds: float


class JobState:
    """Adds up events; may be told and read from different threads, under ``lock``.

    Args:
        clock: seconds, from anywhere on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.start = self.board_start = clock()
        self.name = self.results = self.board = ""
        self.boards: tuple[str, ...] = ()
        self.ended: list[EndedBoard] = []
        self.num_tasks = 0
        self.metric, self.direction = "average_accuracy", "maximize"
        self.stages: dict[tuple[str, Stage], StageState] = {}
        self.running: dict[TrialName, RunningTrial] = {}
        self.most_at_once = 0
        self.slots_asked = 0
        self.slots_since: float | None = None
        self.slots_took: float | None = None
        self.slots: SlotsChanged | None = None
        self.waiting_since = 0.0
        self.warnings: list[str] = []

    @property
    def labels(self) -> list[str]:
        """The entries, in the order of the plan."""
        return list(dict.fromkeys(label for label, _ in self.stages))

    @property
    def elapsed(self) -> float:
        """Seconds since the job started."""
        return self.clock() - self.start

    @property
    def place(self) -> str:
        """Which board this is: ``2 of 8: split/first-k``; "" where there is but one."""
        if len(self.boards) < 2 or self.board not in self.boards:
            return ""
        return f"{self.boards.index(self.board) + 1} of {len(self.boards)}: {self.board}"

    @property
    def is_last(self) -> bool:
        """Whether no board comes after this one."""
        return not self.boards or self.board == self.boards[-1]

    @property
    def aim(self) -> str:
        """What best means: ``highest average accuracy``."""
        return f"{'highest' if self.direction == 'maximize' else 'lowest'} {self.measured}"

    @property
    def measured(self) -> str:
        """The metric's name, for a person."""
        return self.metric.replace("_", " ")

    def stage(self, label: str, stage: Stage) -> StageState:
        """One entry's trials of a stage."""
        return self.stages.setdefault((label, stage), StageState())

    def best(self, label: str) -> float | None:
        """The best value of an entry's search so far."""
        return self.stage(label, "search").best

    def watch(self, event: Event) -> float | None:
        """Take notice of an event; the seconds that a trial or board took which ended here."""
        with self.lock:
            match event:
                case JobStarted(name, results, boards):
                    self.name, self.results, self.boards = name, results, boards
                case BoardStarted():
                    self._board_started(event)
                case BoardEnded(board, rows):
                    return self._board_ended(board, rows)
                case SlotsStarting(slots):
                    self.slots_asked, self.slots_since = slots, self.clock()
                case SlotsReady(seconds):
                    self._slots_ready(seconds)
                case SlotsChanged():
                    self._slots_changed(event)
                case TrialStarted():
                    self._trial_started(event)
                case TrialWaits(label, stage, number) | TrialResumed(label, stage, number):
                    if (label, stage, number) in self.running:
                        waits = isinstance(event, TrialWaits)
                        self.running[label, stage, number].waits = waits
                case TaskEnded(label, stage, number):
                    if (label, stage, number) in self.running:
                        trial = self.running[label, stage, number]
                        trial.learned[event.run] = min(event.task + 1, trial.tasks)
                        trial.average_accuracy = event.average_accuracy
                case TrialEnded():
                    return self._trial_ended(event)
                case Warned(text):
                    if text not in self.warnings:
                        self.warnings.append(text)
        return None

    def _board_started(self, event: BoardStarted) -> None:
        self.board, self.num_tasks, self.board_start = event.board, event.num_tasks, self.clock()
        self.metric, self.direction = event.metric, event.direction
        self.stages = {}
        self.running = {}
        for (label, stage), number in event.planned.items():
            self.stage(label, stage).planned = number

    def _board_ended(self, board: str, rows: list[dict[str, Any]]) -> float:
        seconds = self.clock() - self.board_start
        best = _best(rows, self.metric, self.direction)
        name, value = (_name(best), _mean(best, self.metric)) if best else ("", None)
        self.ended.append(EndedBoard(board, name, value, self.metric, seconds))
        return seconds

    def _slots_ready(self, seconds: float) -> None:
        self.slots_since, self.slots_took = None, seconds
        for trial in self.running.values():  # the wait is not theirs
            trial.started = self.clock()

    def _slots_changed(self, event: SlotsChanged) -> None:
        if event.waiting and not (self.slots and self.slots.waiting):
            self.waiting_since = self.clock()
        self.slots = event

    @property
    def lacking(self) -> str:
        """Why fewer slots work than could: ``2 of 8 slots; waiting for machines, 35 s``; or ""."""
        slots = self.slots
        if slots is None or not (slots.waiting or slots.starting):
            return ""
        words = [f"{slots.ready} of {slots.most} slot" + "s" * (slots.most != 1)]
        if slots.starting:
            words.append(f"starting {slots.starting}")
        if slots.waiting:
            seconds = int(self.clock() - self.waiting_since)
            words.append(f"waiting for machines, {seconds} s")
        return "; ".join(words)

    def _trial_started(self, event: TrialStarted) -> None:
        tasks = event.tasks or self.num_tasks
        trial = RunningTrial(self.clock(), dict(event.values), event.runs, tasks)
        self.running[event.label, event.stage, event.number] = trial
        self.stage(event.label, event.stage).tasks = event.runs * tasks
        self.most_at_once = max(self.most_at_once, len(self.running))

    def _trial_ended(self, event: TrialEnded) -> float | None:
        trial = self.running.pop((event.label, event.stage, event.number), None)
        stage = self.stage(event.label, event.stage)
        stage.states[event.state] += 1
        if event.error is not None:
            text = f"{event.label} {event.stage} #{event.number}: {event.error}"
            self.watch(Warned(text))
        if event.value is not None:
            better = max if self.direction == "maximize" else min
            stage.best = event.value if stage.best is None else better(stage.best, event.value)
        if trial is None or event.stored:
            return None
        seconds = self.clock() - trial.started
        if event.state != "failed":  # those that stop early too: as many of the rest will
            stage.seconds.append(seconds)
        return seconds

    def seconds_left(self) -> float | None:
        """An estimate for this board from the trials that ended, or None while there is none."""
        known = [stage for stage in self.stages.values() if stage.seconds]
        if not known or not self.most_at_once:
            return None
        work = 0.0
        remaining = 0
        for (label, name), stage in self.stages.items():
            left = stage.planned - stage.ended
            if left <= 0:
                continue
            each = self._each(label, name, known)
            running = [t for key, t in self.running.items() if key[:2] == (label, name)]
            done = sum(min(each, self.clock() - trial.started) for trial in running)
            work += max(0.0, left * each - done)
            remaining += left
        return work / min(self.most_at_once, remaining) if remaining else 0.0

    def _each(self, label: str, name: Stage, known: list[StageState]) -> float:
        """Seconds of one more trial: as those before it, else as long for each task as the same
        entry's other trials, or anybody's."""
        stage = self.stage(label, name)
        if stage.seconds:
            return mean(stage.seconds)
        alike = [other for (whose, _), other in self.stages.items() if whose == label]
        like = [other for other in alike if other.seconds] or known
        spent = sum(sum(other.seconds) for other in like)
        tasks = sum(len(other.seconds) * (other.tasks or self.num_tasks or 1) for other in like)
        return spent / tasks * (stage.tasks or self.num_tasks or 1)


def measure(metric: str, value: float | None) -> str:
    """A measure's value for a person: accuracies as fractions, the rest as counts and sizes."""
    if metric == "bytes":
        return size(value)
    if metric in ("parameters", "steps", "examples_seen", "examples_processed"):
        return count(value)
    return fraction(value)


def _best(rows: list[dict[str, Any]], metric: str, direction: str) -> Mapping[str, Any] | None:
    """The row that is best on test; bounds do not compete."""
    ranked = [row for row in rows if not row.get("bound") and _mean(row, metric) is not None]
    sign = 1 if direction == "maximize" else -1
    return max(ranked, key=lambda row: sign * (_mean(row, metric) or 0.0), default=None)


def _mean(row: Mapping[str, Any], metric: str) -> float | None:
    value = row.get("test", {}).get(metric, {}).get("mean")
    return None if value is None else float(value)


def _name(row: Mapping[str, Any]) -> str:
    number = row.get("number")
    return str(row["label"]) if number is None else f"{row['label']} #{number}"

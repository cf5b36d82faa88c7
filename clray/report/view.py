"""What a page shows of a job: its boards, each with its search trials and its final runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from clray.errors import BadData
from clray.job import JobSpec
from clray.objective import Objective
from clray.report.exports import task_forgetting
from clray.report.ranking import bounds, ranked
from clray.report.reading import Job
from clray.report.stored import Board, Regions, Row, Trial, TrialLine
from clray.space import Dimension, SearchSpace
from clray.traces import Trace

READERS = 8
"""Final runs that are read at once; what counts where they lie in an object store."""


@dataclass(frozen=True)
class Run:
    """A final run that completed.

    Attributes:
        R: its accuracy matrix.
        names: of its tasks, in the order in which it learned them.
        footprints: what it kept after each task.
        seconds: of each task, or empty.
        forgetting: of each task, at the end.
        regions: of the classes after each task, where they were recorded.
        traces: of each task; empty unless all of them were traced.
    """

    R: list[list[float | None]]
    names: list[str]
    footprints: list[dict[str, float]]
    seconds: list[float]
    forgetting: list[float | None]
    regions: list[Regions | None]
    traces: list[Trace]


@dataclass(frozen=True)
class View:
    """One board of a job, finished or not.

    Attributes:
        name: of the board, "" where it is the only one.
        board: None while the job is running.
        objectives: of the search, the first one ranks.
        trials: of the search, in the order in which they are stored.
        labels: all methods of the page, in the order that gives them their colours.
        spec: of the job, if it is known.
        job: whose board it is.
    """

    name: str
    board: Board | None
    objectives: Sequence[Objective]
    trials: Sequence[TrialLine]
    labels: Sequence[str]
    spec: JobSpec | None
    job: Job

    @property
    def slug(self) -> str:
        """The name as it stands in a file's name or an address; "" for the only board."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-")

    @property
    def title(self) -> str:
        """What the board is called."""
        return self.name or (self.board.title if self.board else self.job.name)

    @property
    def warning(self) -> str | None:
        """What makes the board's numbers too good, if anything does."""
        if self.board is None or self.board.stamp is None:
            return None
        leak = self.board.leak
        return (
            f"{self.board.stamp}: {leak}" if leak and leak != self.board.stamp else self.board.stamp
        )

    @property
    def rows(self) -> list[Row]:
        """The ranked rows, best first, then the bounds."""
        return [*ranked(self.board), *bounds(self.board)] if self.board else []

    @cached_property
    def runs(self) -> dict[str, list[Run]]:
        """The completed final runs of each row that has any, by the row's name."""
        keys = {key for row in self.rows for key in row.test_keys if key in self.job.runs}
        with ThreadPoolExecutor(READERS) as readers:
            found = dict(zip(keys, readers.map(self._run, keys), strict=True))
        runs = {row.name: [found.get(key) for key in row.test_keys] for row in self.rows}
        return {name: known for name, some in runs.items() if (known := [r for r in some if r])}

    def _run(self, key: str) -> Run | None:
        try:
            trial = self.job.runs[key]
        except BadData:  # half written, or damaged: the page shows the others
            return None
        return _run(trial) if trial.state == "completed" else None

    def label_of(self, name: str) -> str:
        """The label of the row of that name."""
        return next((row.label for row in self.rows if row.name == name), name)

    def searches(self) -> dict[str, list[TrialLine]]:
        """The trials of each method's own search, by label; the first stage of two-stage under
        its own name."""
        found: dict[str, list[TrialLine]] = {}
        for line in self.trials:
            place = line.label if line.stage == "search" else f"{line.label}, {line.stage} stage"
            found.setdefault(place, []).append(line)
        return found

    def dimensions(self, label: str) -> dict[str, Dimension]:
        """The searched dimensions of a method, by dotted path; empty where they are not known."""
        entry = self.spec.methods.get(label) if self.spec else None
        space = entry.space if entry else None
        return space.searched if isinstance(space, SearchSpace) else {}


def views(job: Job, labels: Sequence[str] | None = None) -> list[View]:
    """A job's boards; of a running one, those that its trials name.

    Args:
        job: finished or not.
        labels: of all methods of the page, if there are more than the job's.
    """
    known = labels if labels is not None else methods(job)
    if job.final is not None:
        several = len(job.final.boards) > 1
        return [
            View(
                board.name,
                board,
                board.objectives,
                [line for line in job.trials if line.board == board.name or not several],
                known,
                job.spec,
                job,
            )
            for board in job.final.boards
        ]
    objectives = job.spec.search.objective if job.spec else ()
    names = list(dict.fromkeys(line.board for line in job.trials)) or [""]
    return [
        View(
            name,
            None,
            objectives or (Objective(metric="average_accuracy"),),
            [line for line in job.trials if line.board == name],
            known,
            job.spec,
            job,
        )
        for name in names
    ]


def methods(job: Job) -> list[str]:
    """The labels of a job's methods, as they stand in its file; those unknown to it follow."""
    labels = list(job.spec.methods) if job.spec else []
    boards = job.final.boards if job.final else []
    labels += [row.label for board in boards for row in board.rows]
    labels += [line.label for line in job.trials]
    return list(dict.fromkeys(labels))


def _run(trial: Trial) -> Run | None:
    records = sorted(trial.records, key=lambda record: record.task)
    if not records:
        return None
    seconds = trial.seconds.get("tasks")
    known = isinstance(seconds, list) and all(isinstance(s, int | float) for s in seconds)
    return Run(
        R=[list(record.accuracy or []) for record in records],
        names=[record.name or str(record.task + 1) for record in records],
        footprints=[record.footprint for record in records],
        seconds=[float(s) for s in seconds] if known and seconds else [],
        forgetting=task_forgetting(records),
        regions=[record.regions for record in records],
        traces=trial.traces(),
    )

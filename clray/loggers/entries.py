"""From a job's events to what loggers are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clray.events import BoardEnded, BoardStarted, Event, TaskEnded, TrialEnded, TrialStarted
from clray.loggers.logger import CURVE, Entry, Point

COUNTS = ("parameters", "examples", "bytes", "seeds", "train_seconds")
"""Numbers of a board's row that are logged beside its test scores."""


@dataclass
class _Running:
    """A trial under way: when it started, its runs, and the accuracy by run and task."""

    start: float
    runs: int = 1
    accuracies: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)


class Entries:
    """Adds up events; each call gives what has ended with it.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.board, self.metric = "", "average_accuracy"
        self.running: dict[tuple[str, str, int], _Running] = {}

    def of(self, event: Event) -> list[Entry]:
        """What ended with this event."""
        match event:
            case BoardStarted(board=board, metric=metric):
                self.board, self.metric = board, metric
            case TrialStarted(label=label, stage=stage, number=number, runs=runs):
                self.running[label, stage, number] = _Running(self.clock(), runs)
            case TaskEnded(label=label, stage=stage, number=number):
                trial = self.running.get((label, stage, number))
                if trial is not None:
                    now = (event.average_accuracy, self.clock())
                    trial.accuracies[event.run, event.task] = now
            case TrialEnded():
                return [self._trial(event)]
            case BoardEnded(board, rows):
                return self._rows(board, rows)
        return []

    def _trial(self, event: TrialEnded) -> Entry:
        now = self.clock()
        running = self.running.pop((event.label, event.stage, event.number), None)
        stage = event.stage.replace(" ", "-")
        measures = {k: v for k, v in event.measures.items() if v is not None}
        if event.value is not None:
            measures.setdefault(self.metric, event.value)
        return Entry(
            name=_path(self.board, event.label, f"{stage}-{event.number:04d}"),
            board=self.board,
            label=event.label,
            stage=stage,
            state=event.state,
            values=event.values,
            scalars={f"final/{name}": float(value) for name, value in measures.items()},
            points=_points(running) if running else (),
            start=running.start if running else now,
            end=now,
        )

    def _rows(self, board: str, rows: list[dict[str, Any]]) -> list[Entry]:
        now = self.clock()
        labels = [row["label"] for row in rows]
        entries = []
        for row in rows:
            several = labels.count(row["label"]) > 1  # a Pareto front
            last = f"chosen-{row['number']:04d}" if several else "chosen"
            entries.append(
                Entry(
                    name=_path(board, row["label"], last),
                    board=board,
                    label=row["label"],
                    stage="chosen",
                    state="failed" if row.get("error") else "completed",
                    values=row.get("values", {}),
                    scalars=_scores(row),
                    start=now,
                    end=now,
                )
            )
        return entries


def _path(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _points(trial: _Running) -> tuple[Point, ...]:
    several = trial.runs > 1
    return tuple(
        Point(f"{CURVE}/run-{run}" if several else CURVE, task + 1, value, when)
        for (run, task), (value, when) in sorted(trial.accuracies.items())
    )


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric, estimate in row.get("test", {}).items():
        if estimate.get("mean") is not None:
            found[f"test/{metric}"] = float(estimate["mean"])
        if estimate.get("interval") is not None:
            found[f"test/{metric}_interval"] = float(estimate["interval"])
    return found | {k: float(row[k]) for k in COUNTS if row.get(k) is not None}

"""The progress of a single trial."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar

from clray.cli.live_line import LiveLine
from clray.events import TaskEnded, TrialStarted
from clray.report.numbers import fraction


class TaskProgress(LiveLine):
    """Shows the tasks of one trial as they are learned.

    Args:
        console: where.
        name: of the trial, for a person.
        num_tasks: length of the stream.
        clock: seconds, from anywhere on.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        num_tasks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, name, clock)
        self.num_tasks = num_tasks
        self.learned = 0
        self.accuracy: float | None = None
        self.doing = ""

    def progress(self, event: object) -> None:
        """Take notice of a task that was learned."""
        match event:
            case TrialStarted():
                self.doing = ""
            case TaskEnded(task=task, average_accuracy=accuracy):
                self.doing = ""
                self.learned, self.accuracy = task + 1, accuracy
                text = f"task {task + 1} of {self.num_tasks}: average accuracy"
                self.print(f"{text} {fraction(accuracy)}")
            case _:
                pass

    def cells(self) -> list[RenderableType]:
        """A bar, the task, and the accuracy so far."""
        bar = ProgressBar(total=self.num_tasks, completed=self.learned, width=20)
        now = min(self.learned + 1, self.num_tasks)
        accuracy = "" if self.accuracy is None else f"average accuracy {fraction(self.accuracy)}"
        return [bar, f"task {now} of {self.num_tasks}", accuracy]

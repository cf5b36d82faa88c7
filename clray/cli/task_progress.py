"""The progress of a single trial: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clray.events import Event, SlotsReady, SlotsStarting, TaskEnded, TrialStarted, Warned
from clray.report.numbers import clock, fraction


class TaskProgress:
    """Shows the tasks of one trial as they are learned.

    Args:
        console: where.
        name: of the trial, for a person.
        num_tasks: length of the stream.
    """

    def __init__(self, console: Console, name: str, num_tasks: int) -> None:
        self.console, self.name, self.num_tasks = console, name, num_tasks
        self.learned = 0
        self.accuracy: float | None = None
        self.doing = ""
        self.start = time.monotonic()
        self.live = Live(
            get_renderable=self._line, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def watch(self, event: Event) -> None:
        """Take notice of an event."""
        match event:
            case SlotsStarting():
                self._say("starting Ray")
            case SlotsReady(seconds):
                self._say(f"Ray started in {seconds:.1f} s")
            case TrialStarted():
                self.doing = ""
            case TaskEnded(task=task, average_accuracy=accuracy):
                self.learned, self.accuracy = task + 1, accuracy
                text = f"task {task + 1} of {self.num_tasks}: average accuracy"
                self._print(f"{text} {fraction(accuracy)}")
            case Warned(text):
                self.console.print(Text(text, style="yellow"))
            case _:
                pass

    def _say(self, text: str) -> None:
        self.doing = text
        self._print(text)

    def _print(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, soft_wrap=True)

    def _line(self) -> Table:
        line = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=self.num_tasks, completed=self.learned, width=20)
        now = min(self.learned + 1, self.num_tasks)
        what = self.doing or f"task {now} of {self.num_tasks}"
        accuracy = "" if self.accuracy is None else f"average accuracy {fraction(self.accuracy)}"
        elapsed = Text(clock(time.monotonic() - self.start), style="dim")
        line.add_row(Text(self.name, style="bold"), bar, what, accuracy, elapsed)
        return line

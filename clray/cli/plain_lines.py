"""A running job where there is no terminal: one line for each trial and board that ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console

from clray.cli.job_state import JobState, measure
from clray.events import (
    BoardEnded,
    BoardStarted,
    Event,
    JobStarted,
    SlotsChanged,
    SlotsReady,
    SlotsStarting,
    TrialEnded,
    TrialResumed,
    TrialWaits,
    Warned,
)
from clray.report.numbers import duration


class PlainLines:
    """Prints lines without control codes.

    Args:
        console: where.
        clock: seconds, from anywhere on.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.state = JobState(clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def watch(self, event: Event) -> None:
        """Take notice of an event, and print what it says."""
        with self.state.lock:
            seconds = self.state.watch(event)
            line = self._line(event, seconds)
            if line:
                self.console.print(line, soft_wrap=True)

    def _line(self, event: Event, seconds: float | None) -> str:
        match event:
            case JobStarted(name, results):
                return f"{name}: results in {results}"
            case BoardStarted():
                place = f"board {self.state.place}, " if self.state.place else ""
                return f"{place}{self.state.num_tasks} tasks, best is {self.state.aim}"
            case BoardEnded(board):
                return self._board_ended(board, seconds)
            case SlotsStarting(slots):
                return f"starting {slots} slot" + "s" * (slots != 1)
            case SlotsReady(taken):
                return f"first slot ready after {duration(taken)}"
            case SlotsChanged(ready, starting, waiting, most):
                line = f"{ready} of {most} slot{'s' * (most != 1)} ready"
                line += f", {starting} starting" if starting else ""
                return line + (f", {waiting} waiting for machines" if waiting else "")
            case TrialWaits(label, stage, number):
                return f"{label} {stage} #{number} waits for another slot: its own was lost"
            case TrialResumed(label, stage, number):
                return f"{label} {stage} #{number} goes on in another slot"
            case TrialEnded():
                return self._trial_ended(event, seconds)
            case Warned(text):
                return f"warning: {text}"
            case _:
                return ""

    def _trial_ended(self, event: TrialEnded, seconds: float | None) -> str:
        stage = self.state.stage(event.label, event.stage)
        line = f"{event.label} {event.stage} {stage.ended}/{stage.planned}: "
        line += f"#{event.number} {event.state}"
        line += "" if event.value is None else f", {measure(self.state.metric, event.value)}"
        line += "" if event.error is None else f", {event.error}"
        took = "stored" if event.stored else duration(seconds) if seconds is not None else ""
        return f"{line} ({took})" if took else line

    def _board_ended(self, board: str, seconds: float | None) -> str:
        ended = self.state.ended[-1]
        line = f"board {board}" if board else "all trials"
        line += f" ended after {duration(seconds)}"
        if not ended.best:
            return f"{line}: no result"
        return f"{line}: best on test {ended.best}, {measure(ended.metric, ended.value)}"

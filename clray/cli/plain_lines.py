"""A running job where there is no terminal: one line for each trial that ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console

from clray.cli.job_state import JobState
from clray.events import Event, JobStarted, SlotsReady, SlotsStarting, TrialEnded, Warned
from clray.report.numbers import duration, fraction


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
            case SlotsStarting(slots):
                return f"starting {slots} slot" + "s" * (slots != 1)
            case SlotsReady(taken):
                return f"first slot ready after {duration(taken)}"
            case TrialEnded(label, stage, number, state, value, stored, error):
                counts = self.state.stage(label, stage)
                line = f"{label} {stage} {counts.ended}/{counts.planned}: #{number} {state}"
                line += "" if value is None else f", {fraction(value)}"
                line += "" if error is None else f", {error}"
                took = "stored" if stored else duration(seconds) if seconds is not None else ""
                return f"{line} ({took})" if took else line
            case Warned(text):
                return f"warning: {text}"
            case _:
                return ""

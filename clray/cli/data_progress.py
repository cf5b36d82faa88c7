"""The progress of work on a stored stream."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar

from clray.cli.live_line import LiveLine
from clray.events import Progressed
from clray.report.numbers import count

EVERY = 10.0
"""Seconds between two plain lines of one step."""


class DataProgress(LiveLine):
    """Shows how far each step is."""

    def __init__(
        self, console: Console, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(console, name, clock)
        self.step: Progressed | None = None
        self.step_start = self.step_last = self.said = self.start

    def progress(self, event: object) -> None:
        """Take notice of how far a step is."""
        if not isinstance(event, Progressed):
            return
        now = self.clock()
        last, self.step, self.step_last, self.doing = self.step, event, now, ""
        if last is None or last.what != event.what:
            self.step_start = self.said = now
        first_end = event.done >= event.total and (last is None or last != event)
        if first_end or now - self.said >= EVERY:
            self.said = now
            self.print(f"{event.what}: {event.done:,} of {event.total:,}{self._rate()}")

    def cells(self) -> list[RenderableType]:
        """A bar, and numbers."""
        step = self.step
        if step is None:
            return []
        bar = ProgressBar(total=max(1, step.total), completed=step.done, width=20)
        return [bar, f"{step.what} {step.done:,} of {step.total:,}{self._rate()}"]

    def _rate(self) -> str:
        """From the first word of a step to the last."""
        step, seconds = self.step, self.step_last - self.step_start
        return f", {count(step.done / seconds)}/s" if step and step.done and seconds >= 1 else ""

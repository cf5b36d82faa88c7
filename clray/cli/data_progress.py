"""The progress of work on a stored stream: one line that moves, or plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clray.events import Progressed, SlotsReady, SlotsStarting, Warned
from clray.report.numbers import clock, count

EVERY = 10.0
"""Seconds between two plain lines of one step."""


class DataProgress:
    """Shows how far each step is.

    Args:
        console: where.
        name: of the work, for a person.
        clock: seconds, from anywhere on.
    """

    def __init__(
        self, console: Console, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console, self.name, self.clock = console, name, clock
        self.step: Progressed | None = None
        self.doing = "starting"
        self.start = self.step_start = self.step_last = self.said = clock()
        self.lock = threading.RLock()
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

    def watch(self, event: object) -> None:
        """Take notice of an event."""
        with self.lock:
            match event:
                case SlotsStarting():
                    self._say("starting Ray")
                case SlotsReady(seconds):
                    self._say(f"Ray started in {seconds:.1f} s")
                case Progressed():
                    self._progressed(event)
                case Warned(text):
                    self.console.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)
                case _:
                    pass

    def _progressed(self, event: Progressed) -> None:
        now = self.clock()
        last, self.step, self.step_last, self.doing = self.step, event, now, ""
        if last is None or last.what != event.what:
            self.step_start = self.said = now
        first_end = event.done >= event.total and (last is None or last != event)
        if first_end or now - self.said >= EVERY:
            self.said = now
            text = f"{event.what}: {event.done:,} of {event.total:,}{self._rate()}"
            self._print(text)

    def _rate(self) -> str:
        """From the first word of a step to the last."""
        step, seconds = self.step, self.step_last - self.step_start
        return f", {count(step.done / seconds)}/s" if step and step.done and seconds >= 1 else ""

    def _say(self, text: str) -> None:
        self.doing = text
        self._print(text)

    def _print(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, soft_wrap=True)

    def _line(self) -> Table:
        with self.lock:
            line = Table.grid(padding=(0, 2, 0, 0))
            for _ in range(4):
                line.add_column(no_wrap=True, overflow="ellipsis")
            step, now = self.step, self.clock()
            elapsed = Text(clock(now - self.start), style="dim")
            if step is None or self.doing:
                line.add_row(Text(self.name, style="bold"), self.doing, "", elapsed)
                return line
            bar = ProgressBar(total=max(1, step.total), completed=step.done, width=20)
            text = f"{step.what} {step.done:,} of {step.total:,}{self._rate()}"
            line.add_row(Text(self.name, style="bold"), bar, text, elapsed)
            return line

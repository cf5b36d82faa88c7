"""One line that moves on a terminal; plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clray.events import SlotsReady, SlotsStarting, Warned
from clray.report.numbers import clock as shown


class LiveLine(ABC):
    """What such lines share: the display, the words while Ray starts, and warnings.

    Args:
        console: where.
        name: of the work, for a person.
        clock: seconds, from anywhere on.
    """

    def __init__(
        self, console: Console, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console, self.name, self.clock = console, name, clock
        self.doing = "starting"
        self.start = clock()
        self.lock = threading.RLock()
        self.live = Live(
            get_renderable=self.line, console=console, refresh_per_second=4, transient=True
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
                    self.say("starting Ray")
                case SlotsReady(seconds):
                    self.say(f"Ray started in {seconds:.1f} s")
                case Warned(text):
                    self.console.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)
                case _:
                    self.progress(event)

    def say(self, text: str) -> None:
        """What is done now, in words: it stands in the line until ``doing`` is taken away."""
        self.doing = text
        self.print(text)

    def print(self, text: str) -> None:
        """A plain line, where there is no terminal."""
        if not self.console.is_terminal:
            self.console.print(text, soft_wrap=True)

    def line(self) -> Table:
        """The line as it stands."""
        with self.lock:
            line = Table.grid(padding=(0, 2, 0, 0))
            cells = [self.doing] if self.doing else self.cells()
            elapsed = Text(shown(self.clock() - self.start), style="dim")
            row = [Text(self.name, style="bold"), *cells, elapsed]
            for _ in row:
                line.add_column(no_wrap=True, overflow="ellipsis")
            line.add_row(*row)
            return line

    @abstractmethod
    def progress(self, event: object) -> None:
        """Take notice of an event that says how far the work is."""

    @abstractmethod
    def cells(self) -> list[RenderableType]:
        """What stands between the name and the time."""

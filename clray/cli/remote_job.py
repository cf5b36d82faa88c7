"""A job that runs on a cluster, shown here as one that runs here would be."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from clray.cli.live_table import LiveTable
from clray.cli.plain_lines import PlainLines
from clray.event_lines import of_line

NOISE = re.compile(
    r"Running entrypoint for job |.*INFO job_manager\.py|"
    r"\S*\(raylet\)\S* WARNING: \d+ PYTHON worker"
)
"""Lines of Ray's own that tell a person nothing."""


class RemoteJob:
    """Shows the lines that a job prints on a cluster: its events as a table that moves, or line by
    line where there is no terminal; any other line as it is.

    Args:
        console: where.
        waiting: what is said until the job tells something.
        as_lines: whether lines are wanted on a terminal too.
    """

    def __init__(self, console: Console, waiting: str = "", as_lines: bool = False) -> None:
        self.console, self.waiting = console, waiting
        self._moves = console.is_terminal and not as_lines
        self._at: float | None = None
        self._table: LiveTable | PlainLines | None = None
        self._status: Status | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self.waiting and self._moves:
            self._status = self._stack.enter_context(self.console.status(self.waiting))
        elif self.waiting:
            self.console.print(self.waiting, soft_wrap=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _clock(self) -> float:
        """Now; while an event is looked at, the time at which it happened over there."""
        return time.time() if self._at is None else self._at

    def show(self, lines: Iterable[str | None]) -> None:
        """Show lines as they come."""
        for line in lines:
            if line is not None:
                self.line(line)

    def line(self, line: str) -> None:
        """Show one line."""
        known = of_line(line)
        if known is None:
            if line.strip() and not NOISE.match(line):
                self.say(line)
            return
        self._at, event = known
        try:
            self._shown().watch(event)
        finally:
            self._at = None

    def say(self, text: str) -> None:
        """Print a line, above the table where there is one."""
        self.console.print(Text(text), soft_wrap=True)

    def _shown(self) -> LiveTable | PlainLines:
        if self._table is None:
            if self._status is not None:
                self._status.stop()
            kind: type[LiveTable | PlainLines] = LiveTable if self._moves else PlainLines
            self._table = kind(self.console, self._clock)
            self._stack.enter_context(self._table)
        return self._table

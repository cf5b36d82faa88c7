"""A running job on a terminal: a table that moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clray.cli.job_state import JobState, StageState
from clray.events import Event
from clray.report.numbers import NONE, clock, fraction, knobs
from clray.report.tables import indented

MOST_ROWS = 12
"""So many running trials are shown at most."""

BAR = 12
"""Width of a progress bar."""


class LiveTable:
    """Entries with their progress, the running trials, the time left and the warnings.

    Args:
        console: a terminal.
        clock: seconds, from anywhere on.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.state = JobState(clock)
        self.live = Live(
            get_renderable=self.__rich__, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()
        for warning in self.state.warnings:
            self.console.print(Text(f"warning: {warning}", style="yellow"))

    def watch(self, event: Event) -> None:
        """Take notice of an event."""
        self.state.watch(event)

    def __rich__(self) -> RenderableType:
        state = self.state
        with state.lock:
            parts: list[RenderableType] = [self._title()]
            if state.stages:
                parts += [Text(), indented(self._entries())]
            if state.running:
                parts += [Text(), indented(self._running())]
            if len(state.running) > MOST_ROWS:
                more = len(state.running) - MOST_ROWS
                parts.append(indented(Text(f"and {more} more", style="dim")))
            if state.warnings:
                parts.append(Text())
                parts += [
                    indented(Text(f"warning: {w}", style="yellow")) for w in state.warnings[-3:]
                ]
            return Group(*parts)

    def _title(self) -> RenderableType:
        state = self.state
        left = state.seconds_left()
        times = f"{clock(state.elapsed)} elapsed"
        if left is not None:
            times += f", about {clock(left)} left" if left else ", finishing"
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        line.add_column(no_wrap=True, ratio=1)
        line.add_column(no_wrap=True, justify="right")
        name = Text(state.name or "planning", style="bold")
        if state.slots_since is not None:
            waited = int(state.clock() - state.slots_since)
            slots = f"{state.slots_asked} slot" + "s" * (state.slots_asked != 1)
            name.append(f"  starting {slots}, {waited} s", style="not bold yellow")
        line.add_row(name, Text(times, style="dim"))
        return line

    def _entries(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
        for justify in ("left", "right", "left", "right", "right"):
            table.add_column(no_wrap=True, justify=justify)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_row("", "search", "", "test", "", "best", "", style="dim")
        for label in self.state.labels:
            search = self.state.stage(label, "search")
            test = self.state.stage(label, "test")
            best = fraction(search.best) if search.best is not None else NONE
            table.add_row(label, *_bar(search), *_bar(test), best, _odd(search, test))
        return table

    def _running(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_row("running", "", "", "now", "", style="dim")
        shown = list(self.state.running.items())[:MOST_ROWS]
        num_tasks = self.state.num_tasks
        for (label, stage, number), trial in shown:
            name = Text(f"#{number}") if stage == "search" else Text(f"test #{number}")
            task = f"task {min(trial.tasks + 1, num_tasks)} of {num_tasks}"
            table.add_row(
                label,
                name,
                Text(task, style="dim"),
                fraction(trial.average_accuracy),
                Text(knobs(trial.values), style="dim"),
            )
        return table


def _bar(stage: StageState) -> tuple[RenderableType, str]:
    if not stage.planned:
        return "", ""
    bar = ProgressBar(total=stage.planned, completed=stage.ended, width=BAR)
    return bar, f"{stage.ended}/{stage.planned}"


def _odd(*stages: StageState) -> Text:
    """What did not complete, in words."""
    counts = {
        state: sum(stage.states[state] for stage in stages)
        for state in ("stopped", "diverged", "failed")
    }
    words = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    return Text(words, style="red" if counts["failed"] else "yellow" if words else "")

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

from clray.cli.job_state import STAGES, EndedBoard, JobState, StageState, measure
from clray.events import Event, Stage
from clray.report.numbers import clock, duration, fraction, knobs
from clray.report.tables import INDENT, indented

MOST_ROWS = 12
"""So many running trials are shown at most."""
FEW_ROWS = 3
"""So many are shown before older boards are."""
LABEL = 20
"""Widest label."""
NARROW_LABEL = 12
"""Where there is little room."""
BAR = 12
"""Widest progress bar."""
NARROW_BAR = 3
"""One that is narrower than this is left out."""
GAP = 2


class LiveTable:
    """Boards, entries with their progress, the running trials, the time left and the warnings.

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
            boards, running = self._room()
            if state.ended and boards:
                parts += [Text(), indented(_ended(state.ended, boards))]
            if state.stages:
                parts += [Text(), indented(self._aim()), indented(self._entries())]
            if state.running and running:
                parts += [Text(), indented(self._running(running))]
            if len(state.running) > running > 0:
                more = len(state.running) - running
                parts.append(indented(Text(f"and {more} more", style="dim")))
            if state.warnings:
                parts.append(Text())
                parts += [_warning(warning) for warning in state.warnings[-3:]]
            return Group(*parts)

    def _room(self) -> tuple[int, int]:
        """How many lines there are for boards that ended and for running trials."""
        state = self.state
        taken = 1 + (3 + len(state.labels)) * bool(state.stages)
        taken += (1 + min(3, len(state.warnings))) * bool(state.warnings)
        taken += bool(state.ended) + 2 * bool(state.running)
        left = max(0, self.console.height - taken)
        wanted = min(len(state.running), MOST_ROWS)
        boards = min(len(state.ended), max(1, left - min(wanted, FEW_ROWS + 1)))
        running = min(wanted, max(1, left - boards))
        if len(state.running) > running > 1 and running == left - boards:
            running -= 1  # a line for how many more there are
        return boards, running

    def _title(self) -> RenderableType:
        state = self.state
        left = state.seconds_left()
        times = f"{clock(state.elapsed)} elapsed"
        if left is not None:
            here = "" if state.is_last else " for this board"
            times += f", about {clock(left)} left{here}" if left else f", finishing{here[4:]}"
        line = Table.grid(padding=(0, GAP, 0, 0), expand=True)
        line.add_column(no_wrap=True, ratio=1)
        line.add_column(no_wrap=True, justify="right")
        name = Text(state.name or "planning", style="bold")
        if state.lacking:
            name.append(f"  {state.lacking}", style="not bold yellow")
        elif state.slots_since is not None:
            waited = int(state.clock() - state.slots_since)
            slots = f"{state.slots_asked} slot" + "s" * (state.slots_asked != 1)
            name.append(f"  starting {slots}, {waited} s", style="not bold yellow")
        line.add_row(name, Text(times, style="dim"))
        return line

    def _aim(self) -> Text:
        """The board under way, and what best means in the table below."""
        line = Text(no_wrap=True, overflow="ellipsis")
        if self.state.place:
            line.append(self.state.place, style="bold")
            line.append("  ")
        return line.append(f"best is {self.state.aim}", style="dim")

    def _entries(self) -> Table:
        state = self.state
        planned = {stage for (_, stage), known in state.stages.items() if known.planned}
        stages = [stage for stage in STAGES if stage in planned]
        rows = [self._entry(label, stages) for label in state.labels]
        bar, label_width, odd_width = self._widths(rows, stages)
        table = Table.grid(padding=(0, GAP, 0, 0))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=label_width)
        for index, stage in enumerate(stages):
            if bar:
                table.add_column(no_wrap=True, width=bar)
            head = "" if bar else stage
            table.add_column(justify="right", width=_widest(head, *(row[1][index] for row in rows)))
        table.add_column(justify="right", width=_widest("best", *(row[2] for row in rows)))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(1, odd_width))
        heads = [cell for stage in stages for cell in ([stage, ""] if bar else [stage])]
        table.add_row("", *heads, "best", "", style="dim")
        for label, counts, best, odd in rows:
            cells: list[RenderableType] = []
            for stage, text in zip(stages, counts, strict=True):
                cells += [_progress(state.stage(label, stage), bar)] * bool(bar)
                cells.append(text)
            table.add_row(label, *cells, best, odd)
        return table

    def _entry(self, label: str, stages: list[Stage]) -> tuple[str, list[str], str, Text]:
        found = [self.state.stage(label, stage) for stage in stages]
        counts = [f"{stage.ended}/{stage.planned}" if stage.planned else "" for stage in found]
        best = measure(self.state.metric, self.state.best(label))
        return label, counts, best, _odd(found)

    def _widths(
        self, rows: list[tuple[str, list[str], str, Text]], stages: list[Stage]
    ) -> tuple[int, int, int]:
        """Of the bars, 0 where there is no room for any; of the labels; of the last column."""
        label = min(LABEL, _widest(*(row[0] for row in rows)))
        odd = max((len(row[3]) for row in rows), default=0)
        counts = [_widest(*(row[1][index] for row in rows)) for index in range(len(stages))]
        room = self.console.width - INDENT - 2 * GAP - _widest("best", *(row[2] for row in rows))
        share = (room - label - odd - sum(counts)) // max(1, len(stages)) - 2 * GAP
        bar = min(BAR, share)
        if stages and bar >= max(NARROW_BAR, *(len(stage) - 4 for stage in stages)):
            return bar, label, odd
        room -= sum(max(pair) + GAP for pair in zip(map(len, stages), counts, strict=True))
        label = max(min(label, NARROW_LABEL), min(label, room - odd))
        return 0, label, max(1, min(odd, room - label))

    def _running(self, most: int) -> Table:
        table = Table.grid(padding=(0, GAP, 0, 0), expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=LABEL)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_row("running", "", "", "now", "", style="dim")
        for (label, stage, number), trial in list(self.state.running.items())[:most]:
            table.add_row(
                label,
                f"#{number}" if stage == "search" else f"{stage} #{number}",
                Text(trial.progress, style="dim"),
                fraction(trial.average_accuracy),
                Text(knobs(trial.values), style="dim"),
            )
        return table


def _ended(boards: list[EndedBoard], most: int) -> Table:
    """One line for each of the last boards, and how many there were before."""
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=LABEL)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right", style="dim")
    shown = boards if len(boards) <= most else boards[len(boards) - max(0, most - 1) :]
    if len(shown) < len(boards):
        table.add_row(Text(f"{len(boards) - len(shown)} boards before", style="dim"))
    for board in shown:
        best = Text(board.best) if board.best else Text("no result", style="red")
        value = measure(board.metric, board.value)
        table.add_row(board.name or "done", best, value, duration(board.seconds))
    return table


def _progress(stage: StageState, width: int) -> RenderableType:
    if not stage.planned:
        return ""
    return ProgressBar(total=stage.planned, completed=stage.ended, width=width)


def _widest(*texts: str) -> int:
    return max(map(len, texts), default=0)


def _odd(stages: list[StageState]) -> Text:
    """What did not complete, in words."""
    counts = {
        state: sum(stage.states[state] for stage in stages)
        for state in ("failed", "diverged", "stopped")
    }
    words = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    return Text(words, style="red" if counts["failed"] else "yellow" if words else "")


def _warning(text: str) -> RenderableType:
    return indented(Text(f"warning: {text}", style="yellow", no_wrap=True, overflow="ellipsis"))

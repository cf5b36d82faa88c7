"""How far a job is that is not finished: a table of trials for each board."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clray.job import JobSpec
from clray.report.board_table import ALARM
from clray.report.naming import looks_at_test, selections_of
from clray.report.numbers import NONE, measure, words
from clray.report.reading import Job
from clray.report.stored import TrialLine
from clray.report.tables import indented, ruled_table


def progress(job: Job) -> RenderableType:
    """The tables, made from the job as it was started and the trials that have ended."""
    parts: list[RenderableType] = [
        Text.assemble((job.name, "bold"), ("  not finished", "yellow")),
        Text(),
    ]
    if job.spec is None:
        return Group(*parts)
    selections = selections_of(job.spec)
    for board in dict.fromkeys([*selections, *(line.board for line in job.trials)]):
        oracle = board in selections and looks_at_test(selections[board])
        stamp = Text("chosen on test" if oracle else "", style=ALARM)
        heading = Text("  ").join(text for text in (Text(board, style="bold"), stamp) if text)
        lines = [line for line in job.trials if line.board == board]
        parts += [indented(heading)] * bool(heading.plain)
        parts += [indented(_table(job.spec, board, lines)), Text()]
    objective = words(job.spec.search.objective[0].metric)
    text = f"best so far: {objective}, as the selection protocol sees it; the same sweep command"
    return Group(*parts, indented(Text(f"{text} goes on", style="dim")))


def _table(spec: JobSpec, board: str, lines: Sequence[TrialLine]) -> Table:
    dynamic = any(line.task is not None for line in lines)
    stopped = any(line.state == "stopped" for line in lines)
    table = ruled_table(
        "method",
        "search trials",
        "completed",
        *(["stopped early"] if stopped else []),
        *(["at task"] if dynamic else []),
        "best so far",
    )
    found: dict[tuple[str, str], list[TrialLine]] = {}
    for line in lines:
        found.setdefault((line.label, line.stage), []).append(line)
    first = [group for group in found if group[1] != "search"]
    arena = board.partition("/")[0]  # no label has a slash
    searched = [(label, "search") for label, e in spec.methods.items() if e.takes_part_in(arena)]
    for group in dict.fromkeys([*first, *searched, *found]):
        label, stage = group
        own = found.get(group, [])
        states = [line.state for line in own]
        last = max((line.task for line in own if line.task is not None), default=None)
        table.add_row(
            label if stage == "search" else f"{label} ({stage})",
            str(len(own)),
            str(states.count("completed")),
            *([str(states.count("stopped"))] if stopped else []),
            *([NONE if last is None else str(last + 1)] if dynamic else []),
            _best(spec, [line for line in own if line.task == last]),
        )
    return table


def _best(spec: JobSpec, lines: Sequence[TrialLine]) -> str:
    objective = spec.search.objective[0]
    values = [line.value for line in lines if line.value is not None and line.feasible]
    best = max(values, key=lambda value: objective.sign * value, default=None)
    return measure(objective.metric, best)
